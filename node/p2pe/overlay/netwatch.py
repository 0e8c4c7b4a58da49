"""What a change of network means for a running host: other addresses, dead connections, everybody to be told.

A connection whose local address is gone can't carry anything any more, though TCP would try for minutes: it is ended at
once. The others are asked for a sign of life, since a new gateway leaves addresses as they are and connections dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import ip_of, is_loopback
from p2pe.model import PathKind
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)


async def watch_network(host: OverlayHost, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Until cancelled: after each change the host's addresses are right, dead connections end, and subscribers of the
    host's events get NetworkChanged."""
    async with host.world.net.changes() as changes, trio.open_nursery() as nursery:
        task_status.started()
        while True:
            await changes.wait()
            await host.refresh_interfaces()
            interfaces = frozenset(ip_of(address) for address in await host.world.net.interfaces())
            ended, asked = 0, 0
            for connection in host.connections():
                local = connection.local_address
                if connection.path is PathKind.RELAYED or is_loopback(local):
                    continue  # they end with the connection that carries them, or can't be concerned
                if ip_of(local) in interfaces:
                    asked += 1
                    nursery.start_soon(_end_unless_alive, connection)
                else:
                    ended += 1
                    connection.close_soon()
            log.info("the network has changed", connections_ended=ended, connections_asked=asked)
            host.network_changed()


async def _end_unless_alive(connection: HostConnection) -> None:
    if not await connection.is_answering(connection.patience(config.NETWORK_PROBE_SECONDS, 1)):
        connection.close_soon()
