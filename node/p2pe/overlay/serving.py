"""Makes a node a directory server while strangers can dial it, and a client again when they can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2pe.config import SERVE_ROUND_TRIP_MAX
from p2pe.core.serving import Serving
from p2pe.overlay.connections import AddressesChanged, NetworkChanged
from p2pe.overlay.dht import Dht
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.reach import Reach

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)


async def serve_while_reachable(
    host: OverlayHost, dht: Dht, reach: Reach, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Until cancelled. Addresses that change while it serves are told to the neighbours."""
    serving = Serving()
    async with host.events() as events:
        task_status.started()
        while True:
            seen = reach.public_changed
            is_quick = host.pace.round_trip <= SERVE_ROUND_TRIP_MAX
            serves = serving.look(reach.is_public and is_quick, trio.current_time())
            if serves is not (dht.mode == "server"):
                dht.set_mode("server" if serves else "client")
                log.info("the directory is served" if serves else "the directory is served no more")
            with trio.move_on_at(serving.wake_at()):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_moved, events, dht)
                    await seen.wait()
                    nursery.cancel_scope.cancel()


async def _until_moved(events: trio.MemoryReceiveChannel[object], dht: Dht) -> None:
    async for event in events:
        if isinstance(event, AddressesChanged | NetworkChanged) and dht.mode == "server":
            dht.upkeep.introduce()
