"""Accepting connections: the gate first, then the upgrade under its deadline, then a place among the connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from p2pe.errors import RemoteError
from p2pe.model import Address, PathKind
from p2pe.overlay.closing import close_now
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import Admission, Gate, HostLimits, HostMetrics
from p2pe.overlay.upgrade import Upgraded, upgrade_inbound
from p2pe.ports import ByteStream, Listener, World

log = structlog.get_logger(__name__)

Serve = Callable[[Upgraded, PathKind, Address, Address], Awaitable[None]]
"""(upgraded, path, local, remote): runs an accepted connection to its end."""


class Acceptor:
    """Takes raw inbound streams, from listeners or relays, to authenticated connections."""

    def __init__(self, world: World, key: HostKey, limits: HostLimits, metrics: HostMetrics) -> None:
        self._world = world
        self._key = key
        self._limits = limits
        self._metrics = metrics
        self.gate = Gate(limits, metrics)

    async def serve_listener(
        self, listener: Listener, path_of: Callable[[Address], PathKind], serve: Serve, nursery: trio.Nursery
    ) -> None:
        """Accepts until the listener is closed."""
        while True:
            try:
                raw = await listener.accept()
            except trio.ClosedResourceError:
                return
            scope = trio.CancelScope()
            admission = self.gate.admit(raw.remote, scope.cancel)
            if admission is None:
                await close_now(raw)
                continue
            nursery.start_soon(self._serve_one, raw, admission, scope, path_of(raw.remote), serve)

    async def _serve_one(
        self, raw: ByteStream, admission: Admission, scope: trio.CancelScope, path: PathKind, serve: Serve
    ) -> None:
        try:
            upgraded: Upgraded | None = None
            with scope:
                upgraded = await self.upgrade(raw)
            self.gate.upgraded(admission)
            if upgraded is not None:
                await serve(upgraded, path, raw.local, raw.remote)
        finally:
            self.gate.release(admission)
            await close_now(raw)

    async def upgrade(self, raw: ByteStream, seconds: float | None = None) -> Upgraded | None:
        """The listener's upgrade within `seconds` (None: HostLimits.upgrade_timeout); None, counted, when it fails.
        Doesn't close `raw`."""
        try:
            with trio.fail_after(seconds or self._limits.upgrade_timeout):
                return await upgrade_inbound(raw, self._key, self._world.entropy)
        except trio.TooSlowError:
            self._metrics.upgrades_timed_out += 1
        except (RemoteError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._metrics.upgrades_failed += 1
            log.debug("an inbound connection failed its handshake", reason=type(error).__name__)
        return None
