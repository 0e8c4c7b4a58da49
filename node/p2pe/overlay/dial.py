"""Dialling a peer: all its addresses raced with a stagger, the first that proves the peer's identity wins.

Source: RFC 8305 (happy eyeballs), section 5: the next attempt starts when its turn comes or the one before has failed.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from p2pe import config
from p2pe.core.addresses import dns_port, is_circuit, path_of, split_peer, tcp_address
from p2pe.core.patience import Pace, patience
from p2pe.errors import P2peError, RemoteError, Unreachable
from p2pe.model import Address, PathAttempt, PathKind, PeerId
from p2pe.overlay.closing import close_now
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.limits import HostLimits
from p2pe.overlay.net import reset_on_close
from p2pe.overlay.noise import WrongPeer
from p2pe.overlay.upgrade import Upgraded, upgrade_outbound
from p2pe.ports import ByteStream, World

CircuitDialer = Callable[[Address, PeerId], Awaitable[ByteStream]]
"""Opens a raw stream to a peer through the relay named in a circuit address. Raises Unreachable."""

_DNS_ADDRESSES = 4  # of one name: more of them are alike
_PORT_TAKEN = (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EINVAL)
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the network",
    errno.EADDRNOTAVAIL: "no local address to dial from",
    errno.ECONNRESET: "reset by the other side",
    errno.EAFNOSUPPORT: "not an address this node can dial",
}


@dataclass(frozen=True, slots=True)
class Dialled:
    """A finished dial: upgraded, with how it runs and from where to where."""

    upgraded: Upgraded
    path: PathKind
    local: Address
    remote: Address


@dataclass(slots=True)
class _Race:
    peer_id: PeerId
    deadline: float  # for addresses to accept
    attempts: list[PathAttempt] = field(default_factory=list)
    winner: Dialled | None = None


class Dialer:
    """Dials for one host. Knows no connections: each call makes a new one, or raises."""

    def __init__(self, world: World, key: HostKey, limits: HostLimits, pace: Pace) -> None:
        self._world = world
        self._key = key
        self._limits = limits
        self._pace = pace
        self.circuit: CircuitDialer | None = None
        self.local_for: Callable[[Address], Address | None] = lambda _: None  # a port to dial this target from

    async def race(self, peer_id: PeerId, addresses: Sequence[Address]) -> tuple[Dialled, tuple[PathAttempt, ...]]:
        """The first connection to succeed. Raises Unreachable with every address's attempt."""
        candidates = order_candidates(peer_id, addresses)
        if not candidates:
            raise Unreachable(f"no address of {peer_id} is known")
        race = _Race(peer_id, trio.current_time() + self._patience(self._limits.dial_timeout))
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for index, address in enumerate(candidates):
                if trio.current_time() >= race.deadline:
                    break
                failed = trio.Event()
                nursery.start_soon(self._attempt, race, address, failed, nursery.cancel_scope)
                if index < len(candidates) - 1:
                    with trio.move_on_after(self._limits.dial_stagger):
                        await failed.wait()
        if race.winner is None:
            seen = {attempt.target for attempt in race.attempts}
            for address in candidates:
                if address not in seen:
                    self._record(race, address, started, "timed out before its turn")
            raise Unreachable(summary(race.attempts), tuple(race.attempts))
        return race.winner, tuple(race.attempts)

    async def _attempt(self, race: _Race, address: Address, failed: trio.Event, scope: trio.CancelScope) -> None:
        started = trio.current_time()
        outcome = "cancelled"
        try:
            dialled = await self.dial(address, race.peer_id, deadline=race.deadline)
            if race.winner is not None:
                outcome = "another address was faster"
                await close_now(dialled.upgraded.stream)
                return
            race.winner = dialled
            outcome = "ok"
            scope.cancel()
        except P2peError as error:
            outcome = str(error)
        except trio.Cancelled:
            outcome = "timed out" if race.winner is None else "another address was faster"
            raise
        finally:
            self._record(race, address, started, outcome)
            failed.set()

    def _record(self, race: _Race, address: Address, started: float, outcome: str) -> None:
        step = "relay" if is_circuit(address) else "dial"
        took = trio.current_time() - started
        race.attempts.append(PathAttempt(self._world.clock.now(), step, address, outcome, took))

    async def dial(
        self, address: Address, peer_id: PeerId, *, local: Address | None = None, deadline: float | None = None
    ) -> Dialled:
        """One address, upgraded; `local` binds the outgoing port. Whoever has accepted by `deadline` (None: within the
        host's dial time-out) gets the upgrade's time on top: on a slow line one round trip each. A relay says itself
        when it gives up. Raises Unreachable, whose text is for people."""
        started = trio.current_time()
        if is_circuit(address):
            raw = await self._open(address, peer_id, local)
        else:
            try:
                with trio.fail_at(deadline or trio.current_time() + self._patience(self._limits.dial_timeout)):
                    raw = await self._open(address, peer_id, local)
            except trio.TooSlowError:
                raise Unreachable("timed out") from None
        path = path_of(address) if is_circuit(address) else path_of(raw.remote)
        remote = address if is_circuit(address) else raw.remote
        upgraded = await self.upgrade(raw, peer_id, trio.current_time() - started)
        return Dialled(upgraded, path, raw.local, remote)

    def _patience(self, least: float) -> float:
        """For what takes one round trip, on a line like ours."""
        return patience(least, self._pace.round_trip, 1)

    async def upgrade(self, raw: ByteStream, peer_id: PeerId, opened_in: float = 0.0) -> Upgraded:
        """The dialer's upgrade of a stream that is open already; it took `opened_in` seconds, a round trip or more.
        Closes it, and raises Unreachable, on failure.

        What fails, or loses a race, is reset: closing it as usual would keep our listen port from being used towards
        that address for a minute (TIME-WAIT), and hole punching needs just that.
        """
        upgraded: Upgraded | None = None
        reset_on_close(raw, True)
        try:
            with (
                errors_for_people(),
                trio.fail_after(max(self._patience(self._limits.upgrade_timeout), patience(0.0, opened_in, 1))),
            ):
                upgraded = await upgrade_outbound(raw, self._key, self._world.entropy, peer_id)
            reset_on_close(raw, False)
            return upgraded
        finally:
            if upgraded is None:
                await close_now(raw)

    async def _open(self, address: Address, peer_id: PeerId, local: Address | None) -> ByteStream:
        if is_circuit(address):
            if self.circuit is None:
                raise Unreachable("relayed connections are switched off")
            return await self.circuit(address, peer_id)
        last: OSError = OSError(errno.EAFNOSUPPORT, "no address")
        with errors_for_people():
            for target in await self._resolve(address):
                try:
                    return await self._dial_from(target, local)
                except OSError as error:
                    last = error
            raise last

    async def _dial_from(self, target: Address, local: Address | None) -> ByteStream:
        """From `local` or not at all; else from the listen port, or from any when that is taken for this target."""
        chosen = local or self.local_for(target)
        try:
            return await self._world.net.dial(target, local=chosen)
        except OSError as error:
            if local is not None or chosen is None or error.errno not in _PORT_TAKEN:
                raise
            return await self._world.net.dial(target)

    async def _resolve(self, address: Address) -> tuple[Address, ...]:
        named = dns_port(address)
        if named is None:
            return (address,)
        protocol, name, port = named
        found = [tcp_address(ip, port) for ip in await self._world.net.resolve(name)]
        if protocol != "dns":
            found = [a for a in found if a.startswith(f"/ip{protocol[3]}/")]
        return tuple(found[:_DNS_ADDRESSES])


def order_candidates(peer_id: PeerId, addresses: Sequence[Address]) -> tuple[Address, ...]:
    """What is worth dialling: the peer's own `/p2p` suffix cut off, no duplicates, the caller's order but circuits
    last, at most MAX_DIAL_ADDRESSES."""
    plain: dict[Address, None] = {}
    circuits: dict[Address, None] = {}
    for address in addresses:
        bare = _without(peer_id, address)
        (circuits if is_circuit(bare) else plain)[bare] = None
    return (*plain, *circuits)[: config.MAX_DIAL_ADDRESSES]


def _without(peer_id: PeerId, address: Address) -> Address:
    try:
        bare, named = split_peer(address)
    except ValueError:
        return address
    return bare if named == peer_id else address


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turns what a dial can run into into Unreachable, worded for `p2pe why`."""
    try:
        yield
    except WrongPeer:
        raise Unreachable("somebody else answers there (another peer id)") from None
    except RemoteError as error:
        raise Unreachable(str(error)) from error
    except trio.TooSlowError:
        raise Unreachable("accepted, then silent: the secure handshake timed out") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise Unreachable("closed by the other side during the secure handshake") from None
    except socket.gaierror as error:
        raise Unreachable(f"DNS: {error.strerror}") from None
    except OSError as error:
        number = error.errno or 0
        reason = _REASONS.get(number) or (os.strerror(number) if number else str(error))
        raise Unreachable(reason) from None


def summary(attempts: Sequence[PathAttempt]) -> str:
    """One line for people out of many attempts."""
    shown = "; ".join(f"{a.target or a.step}: {a.outcome}" for a in attempts[:4])
    more = f"; and {len(attempts) - 4} more" if len(attempts) > 4 else ""
    return f"no address answered ({shown}{more})"
