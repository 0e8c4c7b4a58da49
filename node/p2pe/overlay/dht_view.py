"""What operators see of a Dht: table health as plain values, and a lookup by hash."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import trio

from p2pe.core.addresses import with_peer
from p2pe.core.kademlia.keyspace import MULTIHASH_SHA256, location_of, shared_prefix
from p2pe.overlay.dht import Dht


class DhtView:
    """Reads one Dht."""

    def __init__(self, dht: Dht) -> None:
        self._dht = dht

    def health(self) -> dict[str, Any]:
        """Plain values (control/shapes.py DhtAnswer). Durations in seconds."""
        stats = self._dht.stats()
        return {
            "mode": stats.mode,
            "joined": stats.live > 0,
            "servers_known": stats.peers,
            "servers_live": stats.live,
            "buckets": [
                {"number": each.number, "servers": each.entries, "live": each.live, "waiting": each.waiting}
                for each in stats.buckets
            ],
            "records_stored": stats.records,
            "records_refused": stats.records_refused,
            "refreshed_ago": stats.refreshed_ago,
            "leaving_per_hour": round(stats.leaving_per_hour, 3),
            "republish_after": round(stats.republish_after),
            "lookups": stats.lookups,
            "lookups_failed": stats.lookups_failed,
            "lookup_median": _median(stats.lookup_seconds),
            "traffic": asdict(stats.traffic),
            "served": asdict(stats.served),
        }

    async def lookup_hash(self, record_hash: bytes) -> dict[str, Any]:
        """Looks for the servers nearest to a record hash (32 bytes), as a publisher or reader would. Raises
        Unreachable."""
        key = MULTIHASH_SHA256 + record_hash
        target = location_of(key)
        started = trio.current_time()
        lookup = await self._dht.run_lookup(key, thorough=True)
        took = trio.current_time() - started
        storers = {node.peer_id for node in lookup.storers()}
        return {
            "hash": record_hash.hex(),
            "seconds": round(took, 3),
            "requests": lookup.request_count,
            "unanswered": len(lookup.unresponsive()),
            "servers": [
                {
                    "address": with_peer(node.addresses[0], node.peer_id) if node.addresses else str(node.peer_id),
                    "shared_bits": shared_prefix(node.location, target),
                    "round": lookup.depth_of(node.peer_id) or 0,
                    "stores": node.peer_id in storers,
                }
                for node in lookup.closest(2 * len(storers))
            ],
        }


def _median(values: tuple[float, ...]) -> float | None:
    return round(sorted(values)[len(values) // 2], 3) if values else None
