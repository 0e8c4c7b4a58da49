"""The connection to a relay, and where it leaves from: our listen port, so that the address under which the relay sees
us is the one a hole-punching peer can reach (libp2p-facts 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from p2pe.core.addresses import host_port, is_circuit, is_public
from p2pe.core.patience import patience
from p2pe.errors import Unreachable
from p2pe.model import Address, PathKind, PeerId, PeerInfo
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost

_LOCAL_DIAL_SECONDS: Final = 3.0  # an attempt from the listen port beside a connection that is there


async def connect_relay(host: OverlayHost, relay: PeerInfo) -> HostConnection:
    """A direct connection to the relay, from our listen port where that is possible. Raises Unreachable."""
    found = _connected(host, relay.peer_id)
    addresses = [a for a in relay.addresses if not is_circuit(a)]
    if found is None:  # shared with whoever else dials it: two at once would take the port from each other
        found = await host.connect(PeerInfo(relay.peer_id, tuple(addresses)))
        if found.path is PathKind.RELAYED:
            raise Unreachable("the relay itself can't be reached directly")
    if is_well_placed(host, found):
        return found
    for address in addresses:
        local = local_for(address, host.bound_addresses())
        if local is not None:
            try:
                with trio.fail_after(patience(_LOCAL_DIAL_SECONDS, host.pace.round_trip, 2)):
                    return await host.dial_address(relay.peer_id, address, local=local)
            except (Unreachable, trio.TooSlowError):
                continue  # that pair of ports is in use, or the address is dead
    return found


def is_well_placed(host: OverlayHost, connection: HostConnection) -> bool:
    """Whether the relay sees us under the address that others can dial, or couldn't anyway."""
    bound = host.bound_addresses()
    if not is_public(connection.remote_address) or local_for(connection.remote_address, bound) is None:
        return True
    own = host_port(connection.local_address)
    return own is not None and own[1] in {there[1] for a in bound if (there := host_port(a))}


def local_for(address: Address, bound: Sequence[Address]) -> Address | None:
    """The listening address whose port a dial to `address` should leave from: of its IP version; None without one."""
    family = "ip6" if address.startswith(("/ip6/", "/dns6/")) else "ip4"
    return next((a for a in bound if a.startswith(f"/{family}/") and host_port(a) is not None), None)


def _connected(host: OverlayHost, relay: PeerId) -> HostConnection | None:
    direct = [c for c in host.connections(relay) if c.path is not PathKind.RELAYED]
    return next((c for c in direct if is_well_placed(host, c)), direct[0] if direct else None)
