"""A running bootstrap node: from settings to the line on standard output, to the drain at SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
import trio
from p2pe import config
from p2pe.commandline import stop_signals
from p2pe.core.addresses import host_port, with_peer
from p2pe.core.kademlia.diversity import AsnMap
from p2pe.errors import LocalError, UsageError
from p2pe.model import Address
from p2pe.overlay.bootstrap_addresses import check_bootstrap
from p2pe.overlay.dht_view import DhtView
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.scrape import bind_metrics, serve_metrics
from p2pe.overlay.world import real_world

from p2pe_bootstrap.home import BootstrapHome
from p2pe_bootstrap.metrics import NodeMetrics
from p2pe_bootstrap.services import open_services

log = structlog.get_logger(__name__)

HEALTH_SECONDS = 20.0  # between two looks at the directory that `status` shows
DRAIN_SECONDS = 5.0  # for requests under way, once no new connections are taken


@dataclass(frozen=True, slots=True)
class Settings:
    """What `p2pe-bootstrap run` was asked for."""

    home: BootstrapHome
    listen: tuple[Address, ...]
    announce: tuple[Address, ...] = ()  # without /p2p; what others should dial instead
    bootstrap: tuple[str, ...] = ()  # other bootstrap nodes
    metrics: tuple[str, int] | None = None
    asn_of: AsnMap | None = None  # for the directory's diversity limits

    def check(self) -> None:
        """Raises UsageError."""
        for address in (*self.listen, *self.announce):
            if host_port(address) is None:
                raise UsageError(f"{address!r} isn't an address like /ip4/0.0.0.0/tcp/4001")
        for text in self.bootstrap:
            check_bootstrap(text)


async def run(settings: Settings, ready: Callable[[tuple[str, ...]], None]) -> None:
    """Runs until one of `stop_signals`. `ready` gets the full multiaddrs, best first, once all is up.
    Raises UsageError, Conflict, StorageError, LocalError (an address can't be bound)."""
    settings.check()
    with settings.home.locked(), trio.open_signal_receiver(*stop_signals()) as signals:
        key = settings.home.load_or_create_key()
        world = real_world()
        limits = HostLimits(max_connections=config.MAX_CONNECTIONS_BOOTSTRAP)
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(open_host(world, key=key, limits=limits))
            for address in settings.listen:
                try:
                    await host.listen(address)
                except OSError as error:
                    raise LocalError(f"can't listen on {address}: {error.strerror or error}") from None
            host.announce("operator", settings.announce)
            services = await stack.enter_async_context(open_services(host, world, settings.bootstrap, settings.asn_of))
            nursery = await stack.enter_async_context(trio.open_nursery())
            if settings.metrics is not None:
                listeners = await bind_metrics(*settings.metrics)
                nursery.start_soon(serve_metrics, listeners, NodeMetrics(host, services, time.time()).render)
            nursery.start_soon(_keep_health, settings.home, DhtView(services.dht))
            addresses = _own_addresses(host, settings.announce)
            settings.home.write_addresses(addresses)
            try:
                ready(addresses)
                log.info("ready", addresses=len(addresses))
                async for number in signals:
                    log.info("stopping", signal=signal.Signals(number).name)
                    break
                await services.drain(DRAIN_SECONDS)
                log.info("drained", connections=len(host.connections()))
            finally:
                settings.home.remove_addresses()
                nursery.cancel_scope.cancel()


async def _keep_health(home: BootstrapHome, view: DhtView) -> None:
    """For `p2pe-bootstrap status --home`: how the directory fares, every HEALTH_SECONDS."""
    while True:
        try:
            home.write_health({**view.health(), "written_at": time.time()})
        except OSError as error:
            log.warning("health can't be written", reason=error.strerror)
        await trio.sleep(HEALTH_SECONDS)


def _own_addresses(host: OverlayHost, announced: tuple[Address, ...]) -> tuple[str, ...]:
    """Full multiaddrs: announced ones first, they are what others should use."""
    ordered = dict.fromkeys([*announced, *host.listen_addresses()])
    return tuple(with_peer(address, host.peer_id) for address in ordered)
