"""What the relay's and hole punching's tests share: a relay, and peers that can only be reached through it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from overlay_kit import host
from p2pe.model import Address, PeerInfo
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.relay.client import RelayClient, open_relay_client
from p2pe.overlay.relay.limits import RelayLimits
from p2pe.overlay.relay.service import RelayService, open_relay


async def relay(stack: AsyncExitStack, **limits: int | bool) -> tuple[OverlayHost, RelayService]:
    made = await host(stack)
    return made, await stack.enter_async_context(open_relay(made, RelayLimits(**limits)))  # type: ignore[arg-type]


async def client(stack: AsyncExitStack, *, limits: HostLimits | None = None) -> tuple[OverlayHost, RelayClient]:
    made = await host(stack, limits=limits)
    return made, await stack.enter_async_context(open_relay_client(made))


def circuits(of: OverlayHost) -> tuple[Address, ...]:
    return tuple(a for a in of.listen_addresses() if "/p2p-circuit" in a)


def through_relay(of: OverlayHost) -> PeerInfo:
    """The peer with its circuit addresses alone: as if it were behind a NAT."""
    return PeerInfo(of.peer_id, circuits(of))
