"""What a bootstrap node offers: the DHT, a relay for those behind NATs, and dial-backs that tell who is behind one.

Each service is one line in `open_services`: opened in order, closed in reverse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from p2pe.core.kademlia.diversity import AsnMap
from p2pe.overlay.autonat import AutonatServer
from p2pe.overlay.dht import Dht, open_dht
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.relay.service import RelayService, open_relay
from p2pe.ports import World


@dataclass(frozen=True, slots=True)
class Services:
    """The running services, for metrics and for draining."""

    host: OverlayHost
    dht: Dht
    relay: RelayService

    async def drain(self, seconds: float) -> None:
        """Takes no new connections, requests, reservations or circuits; what is under way may finish within
        `seconds`."""
        await self.host.close_listeners()
        self.dht.set_mode("client")
        self.dht.server.drain()
        with trio.move_on_after(seconds + 1.0):
            await self.relay.drain(seconds)
            while any(c.stream_count for c in self.host.connections()):  # noqa: ASYNC110 - streams of any service
                await trio.sleep(0.02)


@asynccontextmanager
async def open_services(
    host: OverlayHost, world: World, bootstrap: tuple[str, ...], asn_of: AsnMap | None = None
) -> AsyncIterator[Services]:
    """Runs all services on `host` until the block is left."""
    AutonatServer(host)
    async with (
        open_relay(host) as relay,
        open_dht(host, world, mode="server", bootstrap=bootstrap, asn_of=asn_of) as dht,
    ):
        yield Services(host, dht, relay)
