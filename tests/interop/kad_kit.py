"""What the directory's tests share: our servers and clients with the real clock, and records that nobody may take."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from dht_kit import HOUR, signed
from p2pe.core.records import public_key_of, record_key
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import PeerInfo
from p2pe.overlay.dht import Dht, open_dht
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.overlay.world import real_world
from streams_kit import real_host


def bad_records() -> dict[str, tuple[bytes, bytes]]:
    """(key, record) that every storer must refuse, by what is wrong with them."""
    key, good = signed(40)
    now = int(time.time() * 1000)
    seed = (41).to_bytes(32, "big")
    other = record_key(public_key_of(seed), 0)
    return {
        "a wrong signature": (key, good[:-1] + bytes([good[-1] ^ 1])),
        "somebody else's key": (other, good),
        "another slot's key": (key[:-1] + b"\x01", good),
        "a slot beyond the last": (key[:-1] + b"\x04", signed(40, slot=4)[1]),
        "expired": signed(42, now=now - 2 * HOUR, lives=HOUR),
        "made in the future": signed(43, now=now + HOUR),
        "valid for more than a day": signed(44, lives=25 * HOUR),
        "unknown fields": (key, good + b"\x1a\x01x"),
        "not a record": (key, b"hello"),
        "too long": (key, good + bytes(1024)),
    }


@asynccontextmanager
async def directory(stack: AsyncExitStack, mode: Any, *bootstrap: str) -> AsyncIterator[tuple[OverlayHost, Dht]]:
    host = await real_host(stack)
    async with open_dht(host, real_world(), mode=mode, bootstrap=bootstrap) as dht:
        yield host, dht


async def put_at(dht: Dht, server: PeerInfo, key: bytes, record: bytes) -> bool:
    """A raw PUT_VALUE, past our own check; whether the server says that it stored the record."""
    try:
        answer = await dht.client.request(server, KadMessage(Kind.PUT_VALUE, key, record))
    except (Unreachable, RemoteError):
        return False
    return answer.message.value == record


async def get_at(dht: Dht, server: PeerInfo, key: bytes) -> bytes | None:
    return (await dht.client.request(server, KadMessage(Kind.GET_VALUE, key))).message.value
