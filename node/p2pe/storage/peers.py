"""DHT servers that answered once, kept over a restart; and the text form in which addresses are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from p2pe import config
from p2pe.model import Address, Millis, PeerId, PeerInfo
from p2pe.storage.migrations import Tx


def save(tx: Tx, peers: Sequence[PeerInfo], now: Millis) -> None:
    """Adds or refreshes peers, best first, and forgets the oldest beyond config.MAX_SAVED_PEERS."""
    for rank, peer in enumerate(peers[: config.MAX_SAVED_PEERS]):
        tx.execute(
            "INSERT INTO peers VALUES (?, ?, ?) ON CONFLICT (peer_id) "
            "DO UPDATE SET addresses = excluded.addresses, last_seen = excluded.last_seen",
            (bytes(peer.peer_id), encode_addresses(peer.addresses), now - rank),
        )
    tx.execute(
        "DELETE FROM peers WHERE peer_id NOT IN (SELECT peer_id FROM peers ORDER BY last_seen DESC, peer_id LIMIT ?)",
        (config.MAX_SAVED_PEERS,),
    )


def load(tx: Tx) -> tuple[PeerInfo, ...]:
    """Most recently useful first."""
    rows: list[tuple[Any, ...]] = tx.execute(
        "SELECT peer_id, addresses FROM peers ORDER BY last_seen DESC, peer_id"
    ).fetchall()
    return tuple(PeerInfo(PeerId(peer_id), decode_addresses(addresses)) for peer_id, addresses in rows)


def encode_addresses(addresses: Sequence[Address]) -> str:
    """At most config.MAX_ADDRESSES of them, as a JSON list; long ones are left out rather than cut."""
    kept = [address for address in addresses if len(address) <= config.MAX_ADDRESSES_JSON // config.MAX_ADDRESSES]
    return json.dumps(kept[: config.MAX_ADDRESSES], separators=(",", ":"))


def decode_addresses(text: str) -> tuple[Address, ...]:
    return tuple(Address(address) for address in json.loads(text))
