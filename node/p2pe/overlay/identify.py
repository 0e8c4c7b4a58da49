"""/ipfs/id/1.0.0: each side may ask the other for its protocols, addresses, and how it sees the asker.

Source: libp2p identify specification. One length-delimited message, then end of stream. What we tell about ourselves
depends on who asks: over a relay no address at all, neither ours nor the observed one (a circuit address there keeps
js-libp2p from ever learning our protocols; libp2p-facts 5); to a public peer no private ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import trio
from google.protobuf.message import DecodeError

from p2pe import config
from p2pe.core.addresses import is_circuit, is_loopback, is_private
from p2pe.core.patience import patience
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import RemoteError
from p2pe.model import Address, PathKind
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes, addresses_from_bytes
from p2pe.ports import Connection, Stream
from p2pe.proto.identify_pb2 import Identify

IDENTIFY_PROTOCOL: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"
_PROTOCOL_VERSION: Final = "ipfs/0.1.0"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a peer says about itself, and about us. Claims, not proofs; only the peer id is proved."""

    agent: str
    protocols: tuple[str, ...]
    addresses: tuple[Address, ...]
    observed: Address | None  # how it sees our end of the connection


@cache
def agent_version() -> str:
    """`p2pe/<version>`, and nothing about the machine, the Python or the libraries."""
    try:
        return f"p2pe/{version('p2pe')}"
    except PackageNotFoundError:
        return "p2pe"


def describe(
    key: HostKey, agent: str, protocols: Iterable[str], listening: Iterable[Address], connection: Connection
) -> bytes:
    """The serialized message for one particular peer."""
    message = Identify(
        protocol_version=_PROTOCOL_VERSION,
        agent_version=agent,
        public_key=key.public_bytes,
        protocols=sorted(protocols),
    )
    remote = connection.remote_address
    if connection.path is not PathKind.RELAYED and not is_circuit(remote):
        message.listen_addrs.extend(address_to_bytes(a) for a in shown_to(remote, listening))
        message.observed_addr = address_to_bytes(remote)
    return message.SerializeToString()


def shown_to(remote: Address, addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Those of our addresses that a peer at `remote` may see: private ones only to private peers, loopback only to
    this very machine."""
    return tuple(
        a
        for a in addresses
        if not (is_private(a) and not is_private(remote)) and not (is_loopback(a) and not is_loopback(remote))
    )[: config.MAX_ADDRESSES]


def read(raw: bytes) -> Identity:
    """Raises RemoteError for what isn't an Identify message. Oversized lists are cut."""
    try:
        message = Identify.FromString(raw)
    except DecodeError:
        raise RemoteError("an identify message can't be decoded") from None
    observed = address_from_bytes(message.observed_addr)
    return Identity(
        agent=message.agent_version[:128],
        protocols=tuple(message.protocols[: config.IDENTIFY_MAX_PROTOCOLS]),
        addresses=addresses_from_bytes(list(message.listen_addrs), config.MAX_ADDRESSES),
        observed=None if observed is None or is_circuit(observed) else observed,
    )


async def send_identity(stream: Stream, described: bytes) -> None:
    await stream.send_all(delimit(described))


async def ask_identity(connection: Connection) -> Identity:
    """Asks the peer. Raises Unreachable, RemoteError, stream errors, trio.TooSlowError after NEGOTIATION_TIMEOUT, or
    what a slow line needs."""
    with trio.fail_after(patience(config.NEGOTIATION_TIMEOUT, connection.round_trip, 2)):
        stream = await connection.open_stream(IDENTIFY_PROTOCOL)
        try:
            return read(await receive_message(stream, config.IDENTIFY_MAX_BYTES))
        finally:
            await stream.aclose()


async def receive_message(stream: Stream, limit: int) -> bytes:
    """One length-delimited message. Raises RemoteError when it is longer than `limit` or cut short."""
    reader = DelimitedReader(limit)
    while (message := reader.next_message()) is None:
        piece = await stream.receive_some()
        if not piece:
            raise RemoteError("the stream ended within a message")
        reader.receive(piece)
    return message
