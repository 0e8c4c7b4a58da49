"""What makes a node reachable, opened together: reservations at relays, dial-backs that tell whether they are needed.

The policy decides (core/paths.py): NEVER opens no relay client. ONLY holds reservations whatever the dial-backs would
say, and asks for none: nothing of ours is to be dialled directly, so there is nothing to check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from p2pe.core.addresses import is_loopback
from p2pe.core.observed import NatKind
from p2pe.core.paths import RelayPolicy
from p2pe.core.reachability import Reachable
from p2pe.model import Address, PeerId, PeerInfo
from p2pe.overlay.bootstrap_addresses import distinct
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.punch import Puncher, open_puncher
from p2pe.overlay.reachability import TAG as VERIFIED
from p2pe.overlay.reachability import Reachability
from p2pe.overlay.relay.client import TAG as RELAYED
from p2pe.overlay.relay.client import RelayClient, open_relay_client


@dataclass(frozen=True, slots=True)
class ReachStatus:
    """How strangers may reach this node: for `p2pe status`."""

    policy: RelayPolicy
    reachable: Reachable
    nat: NatKind
    port_kept: bool | None  # whether the router keeps our port number; None: not seen
    verified: tuple[Address, ...]  # proved by a dial-back
    observed: tuple[Address, ...]  # what servers say they see, most votes first
    relays: tuple[tuple[PeerId, Address], ...]  # reservations held, each with an address of the relay


@dataclass(frozen=True, slots=True)
class RelaysKnown:
    """Peers that may relay and dial back: bootstrap nodes, and whoever else serves the directory."""

    likely: Sequence[PeerInfo]
    others: Sequence[PeerInfo] = ()


class Reach:
    """Made by `open_reach`."""

    def __init__(
        self,
        host: OverlayHost,
        policy: RelayPolicy,
        relays: Callable[[], RelaysKnown],
        relay: RelayClient | None,
        puncher: Puncher | None,
    ) -> None:
        self._host = host
        self._policy = policy
        self._relays = relays
        self.relay = relay
        self.puncher = puncher
        self.is_public = False  # strangers can dial an IPv4 address that stays open
        self.public_changed = trio.Event()  # set, and replaced, at each change of that
        self.reachability = (
            None if policy is RelayPolicy.ONLY else Reachability(host, on_verdict=self._decide, servers=self.candidates)
        )
        self.settled = relay.settled if relay is not None else trio.Event()  # records may go out: see RelayClient
        if relay is None:
            self.settled.set()
        self._decide()

    def candidates(self) -> tuple[PeerInfo, ...]:
        """Relays in the order in which to ask: bootstrap nodes before other servers, which may be people's; those we
        are connected to, then by a distance from our own peer id, so that nodes spread over the relays there are."""
        own = bytes(self._host.peer_id)

        def order(peer: PeerInfo) -> tuple[bool, bool, bytes]:
            far = bytes(a ^ b for a, b in zip(reversed(own), reversed(peer.peer_id), strict=False))
            return peer.peer_id not in likely, not self._host.connections(peer.peer_id), far

        found = self._relays()
        likely = {peer.peer_id for peer in found.likely}
        return tuple(sorted(distinct([*found.likely, *found.others]), key=order))

    def _decide(self) -> None:
        """Whether strangers can dial us, and so whether reservations are to be held. A port that only the router's
        memory of our packets keeps open doesn't count: the proved address must be an interface's own, or one that a
        router was asked for."""
        own = self._host.addresses_without(VERIFIED, RELAYED)
        proved = self.reachability.status().addresses if self.reachability is not None else ()
        is_public = any(a.startswith("/ip4/") for a in proved if a in own)
        if is_public is not self.is_public:
            self.is_public = is_public
            self.public_changed.set()
            self.public_changed = trio.Event()
        if self.relay is None:
            return
        found = self._relays()
        relays = [a for peer in [*found.likely, *found.others] for a in peer.addresses]
        is_one_machine = bool(own and relays) and all(map(is_loopback, [*own, *relays]))
        self.relay.want(self._policy is RelayPolicy.ONLY or not (is_public or is_one_machine))

    def status(self) -> ReachStatus:
        now = trio.current_time()
        observations = self._host.observations
        own = self._host.listen_addresses()
        status = self.reachability.status() if self.reachability is not None else None
        held = self.relay.held if self.relay is not None else ()
        return ReachStatus(
            policy=self._policy,
            reachable=status.reachable if status is not None else Reachable.PRIVATE,
            nat=observations.nat_kind(own, now),
            port_kept=observations.port_kept(own, now),
            verified=status.addresses if status is not None else (),
            observed=observations.candidates(now),
            relays=tuple((each.relay, each.connection.remote_address) for each in held),
        )


@asynccontextmanager
async def open_reach(host: OverlayHost, policy: RelayPolicy, relays: Callable[[], RelaysKnown]) -> AsyncIterator[Reach]:
    """Keeps the node reachable while the block runs. `relays`: peers that may relay, as far as they are known now."""
    if policy is RelayPolicy.NEVER:
        reach = Reach(host, policy, relays, None, None)
        assert reach.reachability is not None
        async with trio.open_nursery() as nursery:
            await nursery.start(reach.reachability.run)
            yield reach
            nursery.cancel_scope.cancel()
        return
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(open_relay_client(host))
        # Over a relay ONLY tells nobody our addresses: there is nothing to punch with.
        may_punch = policy is not RelayPolicy.ONLY
        puncher = await stack.enter_async_context(open_puncher(host)) if may_punch else None
        nursery = await stack.enter_async_context(trio.open_nursery())
        reach = Reach(host, policy, relays, relay, puncher)
        nursery.start_soon(relay.keep, reach.candidates)
        if reach.reachability is not None:
            await nursery.start(reach.reachability.run)
        yield reach
        nursery.cancel_scope.cancel()
