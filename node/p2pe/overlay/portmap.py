"""Asks the router of this network to map our listen port, keeps the mapping, and announces it when it is of use.

PCP first, then NAT-PMP, then UPnP: the first that is granted. A mapped address is announced only if the router's own
outside address is public: behind a carrier's NAT a mapping reaches nobody, and is given back. Whether strangers can
really dial it is for reachability to find out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe import config
from p2pe.core import natpmp
from p2pe.core.addresses import host_port, is_link_local, is_loopback, is_public, tcp_address
from p2pe.errors import Unreachable
from p2pe.model import Address
from p2pe.overlay.connections import HostEvent
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.netlink import gateways
from p2pe.overlay.routers import Mapping, NatPmp, Pcp, Router, Upnp

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)

TAG: Final = "mapped"
_RENEW_AT: Final = 0.5  # of a mapping's life (RFC 6886 section 3.3)
_SETTLE_SECONDS: Final = 0.5  # after a change of addresses

RoutersOf = Callable[[str], Sequence[Router]]
"""The ways to ask a router, given our own address on its network."""


class PortMapper:
    """`run` is its task. `mapping` and `problem` are for `p2pe status`."""

    def __init__(self, host: OverlayHost, routers: RoutersOf | None = None) -> None:
        self._host = host
        self._routers = routers or self._real_routers
        self._local_towards = local_address if routers is None else lambda: None
        self.mapping: Mapping | None = None
        self.problem = "not tried yet"

    def describe(self) -> str:
        """For people: what is mapped, or why nothing is."""
        if self.mapping is not None:
            return f"{self.mapping.method}, at {_outside(self.mapping)}"
        return f"none ({self.problem})" if self.problem else "none"

    def _real_routers(self, client: str) -> Sequence[Router]:
        gateway = next((each for each in gateways() if ":" not in each), None)
        upnp = Upnp(client, gateway)
        if gateway is None:
            return (upnp,)
        return (Pcp(gateway, client, self._host.world.entropy), NatPmp(gateway), upnp)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then the mapping is removed, if the router answers at once."""
        async with self._host.events() as events:
            task_status.started()
            while True:
                wanted = self._wanted()
                if wanted is None:
                    self.problem = "not needed: no port is listened on behind a private address"
                    await self._await_change(events, None, None)
                    continue
                await self._hold(events, *wanted)

    def _wanted(self) -> tuple[str, int] | None:
        """Our private IPv4 address and the port that a router could map; None when we have a public one or no port."""
        usable: list[tuple[str, int]] = []
        for address in self._host.own_addresses():
            parts = host_port(address)
            if parts is None or not address.startswith("/ip4/") or is_loopback(address) or is_link_local(address):
                continue
            if is_public(address):
                return None
            usable.append(parts)
        towards = self._local_towards()
        return min(usable, key=lambda parts: parts[0] != towards, default=None)

    async def _hold(self, events: trio.MemoryReceiveChannel[HostEvent], client: str, port: int) -> None:
        """One mapping, from asking for it to the next change of address."""
        routers = self._routers(client)
        router: Router | None = None
        try:
            while True:
                router, wait = await self._refresh(routers if router is None else (router,), port)
                if await self._await_change(events, (client, port), wait):
                    return
        finally:
            mapping, self.mapping = self.mapping, None
            self._host.announce(TAG, ())
            if router is not None and mapping is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(config.PORT_MAPPING_GOODBYE):
                    await _unmap(router, port, mapping)

    async def _refresh(self, routers: Sequence[Router], port: int) -> tuple[Router | None, float]:
        """Makes or renews the mapping; returns who holds it, and seconds until the next time."""
        problems = []
        wish = self.mapping.external_port if self.mapping else port
        for router in routers:
            try:
                mapping = await router.map(port, wish)
            except Unreachable as problem:
                problems.append(str(problem))
                continue
            address = _outside(mapping)
            if address is None:
                problems.append(f"{mapping.method}: the router itself is behind another NAT ({mapping.external_ip})")
                await _unmap(router, port, mapping)
                break
            if self.mapping != mapping:
                log.info("the router maps a port to us", method=mapping.method, port=mapping.external_port)
            self.mapping, self.problem = mapping, ""
            self._host.announce(TAG, (address,))
            return router, max(config.PORT_MAPPING_MIN_SECONDS, mapping.lifetime * _RENEW_AT)
        self.mapping, self.problem = None, "; ".join(problems)
        self._host.announce(TAG, ())
        log.debug("no port mapping", problem=self.problem)
        return None, config.PORT_MAPPING_RETRY

    async def _await_change(
        self, events: trio.MemoryReceiveChannel[HostEvent], holding: tuple[str, int] | None, seconds: float | None
    ) -> bool:
        """True when another mapping is wanted than `holding`; False after `seconds`."""
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            while self._wanted() == holding:
                await events.receive()
            await trio.sleep(_SETTLE_SECONDS)
            return True
        return False


def local_address() -> str | None:
    """Our own address on the network of the default gateway; None without one."""
    gateway = next((each for each in gateways() if ":" not in each), None)
    if gateway is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((gateway, natpmp.PORT))  # sends nothing: it only asks the routing table
        except OSError:
            return None
        return str(sock.getsockname()[0])


def _outside(mapping: Mapping) -> Address | None:
    """The mapped address; None when nobody could dial it."""
    try:
        address = tcp_address(mapping.external_ip, mapping.external_port)
    except ValueError:
        return None
    return address if is_public(address) and mapping.external_port else None


async def _unmap(router: Router, port: int, mapping: Mapping) -> None:
    try:
        await router.unmap(port, mapping)
    except Unreachable as problem:
        log.debug("a port mapping wasn't removed", problem=str(problem))
