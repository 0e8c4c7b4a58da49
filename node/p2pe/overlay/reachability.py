"""Finds out under which addresses strangers can dial this node, and announces those that are proved.

Runs beside a node's host: whenever addresses change, and every so often, it asks connected dial-back servers
(AutoNAT v2) about the public addresses of our interfaces, what peers observed, and what port mapping yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import is_public, subnet_of
from p2pe.core.observed import NatKind
from p2pe.core.reachability import Reachable, Verdicts
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerInfo
from p2pe.overlay.autonat import DIAL_REQUEST, AutonatClient
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.connections import Connected, Disconnected, HostEvent, NetworkChanged
from p2pe.overlay.host import OverlayHost

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)

TAG: Final = "verified"
_MAX_SERVERS: Final = 4  # asked in one round
_MAX_TRIED: Final = 6  # connected to for a round where none is connected
_MAX_QUESTIONS: Final = 3  # of one server in one round: half of what it allows in a minute
_SETTLE_SECONDS: Final = 1.0  # after a change, before asking: several changes come together


@dataclass(frozen=True, slots=True)
class ReachabilityStatus:
    """For `p2pe status`."""

    reachable: Reachable
    nat: NatKind
    addresses: tuple[Address, ...]  # proved by a dial-back
    observed: tuple[Address, ...]  # what peers say they see, most votes first


class Reachability:
    """Asks, remembers, announces. `run` is its task."""

    def __init__(
        self,
        host: OverlayHost,
        checkable: Callable[[Address], bool] = is_public,
        on_verdict: Callable[[], None] = lambda: None,
        servers: Callable[[], Sequence[PeerInfo]] = tuple,
    ) -> None:
        """`on_verdict` is called after each round of checks, and when they are forgotten. `servers`: who may be
        connected to and asked where too few are connected anyway, likeliest first."""
        self._host = host
        self._client = AutonatClient(host)
        self._verdicts = Verdicts()
        self._checkable = checkable
        self._on_verdict = on_verdict
        self._others = servers

    def status(self) -> ReachabilityStatus:
        now = trio.current_time()
        observations = self._host.observations
        return ReachabilityStatus(
            self._verdicts.overall(self.candidates()),
            observations.nat_kind(self._host.listen_addresses(), now),
            self._verdicts.reachable(),
            observations.candidates(now),
        )

    def candidates(self) -> tuple[Address, ...]:
        """Addresses worth a dial-back: public listen and mapped ones, then observed ones. Behind a NAT that maps each
        connection otherwise, what one peer observed is of no use to another."""
        listening = [a for a in self._host.addresses_without(TAG) if self._checkable(a)]
        observations, now = self._host.observations, trio.current_time()
        is_useless = observations.nat_kind(self._host.addresses_without(TAG), now) is NatKind.DEPENDENT
        observed = () if is_useless else observations.candidates(now)
        return tuple(dict.fromkeys([*listening, *observed]))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Checks until cancelled."""
        async with self._host.events() as events:
            task_status.started()
            while True:
                before = self.candidates()
                await self.check_once()
                settled = self._verdicts.overall(self.candidates()) is not Reachable.UNKNOWN
                with trio.move_on_after(config.REACHABILITY_INTERVAL if settled else config.REACHABILITY_RETRY):
                    await self._wait_for_news(events, before, settled)

    async def _wait_for_news(
        self, events: trio.MemoryReceiveChannel[HostEvent], before: tuple[Address, ...], settled: bool
    ) -> None:
        """Returns when other addresses are to be checked than `before`, or, unless settled, at a new connection."""
        while self.candidates() == before:
            event = await events.receive()
            if isinstance(event, Disconnected) or (isinstance(event, Connected) and settled):
                continue
            moved = isinstance(event, NetworkChanged)
            if moved:
                self.network_changed()
            await trio.sleep(_SETTLE_SECONDS)
            if self._drain(events) and not moved:
                moved = True
                self.network_changed()
            if moved or (isinstance(event, Connected) and event.connection.is_dialer):
                return

    @staticmethod
    def _drain(events: trio.MemoryReceiveChannel[HostEvent]) -> bool:
        """Takes what has come meanwhile; whether we are on another network."""
        moved = False
        while events.statistics().current_buffer_used:
            moved = isinstance(events.receive_nowait(), NetworkChanged) or moved
        return moved

    async def check_once(self) -> None:
        """One round: each server is asked about the addresses that need it most."""
        servers = await self._servers()
        for connection in servers:
            await self._ask_about(connection, self._wanted())
        if len(servers) < config.REACHABILITY_AGREEMENT:
            await self._ask_others({subnet_of(each.remote_address) for each in servers})
        self._announce()

    def _wanted(self) -> tuple[Address, ...]:
        return self._verdicts.to_check(self.candidates(), trio.current_time(), config.REACHABILITY_INTERVAL)

    async def _ask_about(self, connection: HostConnection, addresses: Sequence[Address]) -> None:
        for address in addresses[:_MAX_QUESTIONS]:
            await self._ask(connection, address)

    async def _ask_others(self, asked: set[bytes | None]) -> None:
        """Connects to servers for it, until nothing is open or enough were asked: whoever is reached well needs no
        relay, and is connected to nobody for hours."""
        for peer in self._others()[:_MAX_TRIED]:
            if len(asked) >= config.REACHABILITY_AGREEMENT or not (wanted := self._wanted()):
                return
            try:
                connection = await self._host.connect(peer)
                identity = await self._host.identify(connection)
            except Unreachable:
                continue
            subnet = subnet_of(connection.remote_address)
            if subnet not in asked and connection.path is not PathKind.RELAYED and DIAL_REQUEST in identity.protocols:
                asked.add(subnet)
                await self._ask_about(connection, wanted)
            connection.close_if_unused()

    async def _ask(self, connection: HostConnection, address: Address) -> None:
        try:
            answer = await self._client.check(connection, [address])
        except Unreachable as error:
            log.debug("no dial-back", reason=str(error))
            return
        subnet = subnet_of(connection.remote_address) or b""
        self._verdicts.record(answer.address, subnet, answer.is_reachable, trio.current_time())

    def network_changed(self) -> None:
        """Nothing that was proved or seen holds any more."""
        self._verdicts.forget()
        self._host.observations.forget()
        self._announce()

    def _announce(self) -> None:
        still = frozenset(self.candidates())
        self._host.announce(TAG, [a for a in self._verdicts.reachable() if a in still])
        self._on_verdict()

    async def _servers(self) -> list[HostConnection]:
        """Connections to peers that serve dial-backs, one a subnet."""
        found: dict[bytes | None, HostConnection] = {}
        for connection in self._host.connections():
            if len(found) >= _MAX_SERVERS:
                break
            subnet = subnet_of(connection.remote_address)
            if connection.path is PathKind.RELAYED or not connection.is_dialer or subnet in found:
                continue
            try:
                identity = await self._host.identify(connection)
            except Unreachable:
                continue
            if DIAL_REQUEST in identity.protocols:
                found[subnet] = connection
        return list(found.values())
