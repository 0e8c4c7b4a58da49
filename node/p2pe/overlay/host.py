"""Our presence in the overlay: listening, dialling, dispatching streams. Implements ports.Host.

A connection manager of our own over byte streams, instead of py-libp2p's Swarm and BasicHost: every path is chosen
explicitly, every wait has a deadline, everything a stranger can grow has a limit (docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe.core.addresses import expand, host_port, ip_of, is_loopback, is_public, is_wildcard, path_of
from p2pe.core.observed import Observations
from p2pe.core.patience import Pace
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathAttempt, PathKind, PeerId, PeerInfo
from p2pe.overlay import identify
from p2pe.overlay.closing import close_now
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection, Shared
from p2pe.overlay.connections import AddressesChanged, Connections, HostEvent, NetworkChanged
from p2pe.overlay.dial import CircuitDialer, Dialer, Dialled
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.identify import Identity
from p2pe.overlay.limits import HostLimits, HostMetrics
from p2pe.overlay.listen import Acceptor
from p2pe.overlay.ping import PING_PROTOCOL, answer_pings
from p2pe.overlay.shared_dials import SharedDials
from p2pe.overlay.upgrade import Upgraded
from p2pe.ports import ByteStream, Listener, Stream, StreamHandler, World

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)

_GOODBYE_SECONDS: Final = 0.5  # for go-aways and flushing when the host closes


class OverlayHost:
    """Made by `open_host`; lives as long as that block."""

    def __init__(self, world: World, key: HostKey, limits: HostLimits, nursery: trio.Nursery) -> None:
        self.world = world
        self.limits = limits
        self.metrics = HostMetrics()
        self.observations = Observations()  # what identify says about our own address
        self.pace = Pace()  # of our line
        self._key = key
        self._nursery = nursery
        self._handlers: dict[str, StreamHandler] = {}
        self._shared = Shared(self._handlers, limits, self.metrics)
        self._connections = Connections(limits, self.metrics)
        self._acceptor = Acceptor(world, key, limits, self.metrics)
        self._dialer = Dialer(world, key, limits, self.pace)
        self._dialer.local_for = self._local_for
        self._dials = SharedDials(self._dial, nursery)
        self._listeners: list[Listener] = []
        self._interfaces: tuple[Address, ...] = ()
        self._announced: dict[str, tuple[Address, ...]] = {}
        self._agent = identify.agent_version()
        self._punched: dict[str, int] = {}  # IPs being dialled by hole punching, and how often; bounded by it
        self._next_number = 1
        self._is_closing = False
        self.handle(PING_PROTOCOL, answer_pings)
        self.handle(identify.IDENTIFY_PROTOCOL, self._answer_identify)

    @property
    def peer_id(self) -> PeerId:
        return self._key.peer_id

    @property
    def key(self) -> HostKey:
        return self._key

    # --- addresses ---

    async def listen(self, address: Address) -> Address:
        """Binds one more address; returns it with its real port. Raises OSError."""
        listener = await self.world.net.listen(address)
        self._listeners.append(listener)
        self._interfaces = await self.world.net.interfaces()
        self._nursery.start_soon(
            self._acceptor.serve_listener, listener, self._path_of, self._run_connection, self._nursery
        )
        self._connections.publish(AddressesChanged())
        return listener.address

    def listen_addresses(self) -> tuple[Address, ...]:
        return self.addresses_without()

    def addresses_without(self, *tags: str) -> tuple[Address, ...]:
        """`listen_addresses` but for what was announced under these tags."""
        own = self.own_addresses()
        announced = [a for tag in sorted(self._announced) if tag not in tags for a in self._announced[tag]]
        return tuple(dict.fromkeys([*own, *announced]))

    def own_addresses(self) -> tuple[Address, ...]:
        """Where our sockets listen, wildcards expanded to the interfaces' addresses; nothing that was announced."""
        return tuple(a for listener in self._listeners for a in expand(listener.address, self._interfaces))

    def bound_addresses(self) -> tuple[Address, ...]:
        """What the sockets are bound to, wildcards as they are: the `local` of a hole-punching dial."""
        return tuple(listener.address for listener in self._listeners)

    def announce(self, tag: str, addresses: Sequence[Address]) -> None:
        """Adds addresses to `listen_addresses`: relay circuits, port mappings, confirmed observations. Replaces what
        was announced under the same tag; an empty sequence withdraws it."""
        before = self.listen_addresses()
        if addresses:
            self._announced[tag] = tuple(addresses)
        else:
            self._announced.pop(tag, None)
        if self.listen_addresses() != before:
            self._connections.publish(AddressesChanged())

    async def refresh_interfaces(self) -> bool:
        """Reads this machine's interfaces again; True when `listen_addresses` changed by it."""
        before = self.listen_addresses()
        self._interfaces = await self.world.net.interfaces()
        if self.listen_addresses() == before:
            return False
        self._connections.publish(AddressesChanged())
        return True

    def network_changed(self) -> None:
        """Tells every subscriber. The addresses are right already (`refresh_interfaces`)."""
        self.pace.forget()
        self._connections.publish(NetworkChanged())

    # --- protocols ---

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """See ports.Host. The stream is closed when the handler returns."""
        self._handlers[protocol] = handler

    def unhandle(self, protocol: str) -> None:
        """Streams under way go on; new ones are refused."""
        self._handlers.pop(protocol, None)

    def protocols(self) -> tuple[str, ...]:
        return tuple(sorted(self._handlers))

    # --- connections ---

    def connections(self, peer_id: PeerId | None = None) -> tuple[HostConnection, ...]:
        """Live ones: to `peer_id`, best path first, or all, oldest first."""
        return self._connections.all(peer_id)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[HostEvent]]:
        """Connected, Disconnected and AddressesChanged from now on, through a channel of bounded length."""
        return self._connections.subscribe()

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Keeps connections to the peer open though they be idle, until `unprotect` with the same tag."""
        self._connections.protect(peer_id, tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> None:
        self._connections.unprotect(peer_id, tag)

    def set_circuit_dialer(self, dialer: CircuitDialer | None) -> None:
        """How `/p2p-circuit` addresses are dialled: the relay client registers itself here."""
        self._dialer.circuit = dialer

    async def connect(self, peer: PeerInfo, *, linger: Callable[[], bool] = lambda: False) -> HostConnection:
        """A live connection, the best path first, or a new one. No address of a peer is raced twice at a time: calls
        for the same peer share the races. Raises Unreachable.

        `linger` is asked when this call is cancelled as the last one that waits: True lets the dial go on to its own
        time-out, so that who asks again on a slow line or a busy machine doesn't begin anew each time.
        """
        live = self._connections.best(peer.peer_id)
        if live is not None:
            return live
        if peer.peer_id == self.peer_id:
            raise Unreachable("that peer is this node itself")
        try:
            return await self._dials.connect(peer, linger)
        except Unreachable:
            live = self._connections.best(peer.peer_id)  # it came to us meanwhile
            if live is not None:
                return live
            raise

    async def dial(self, peer: PeerInfo) -> HostConnection:
        """A new connection by racing all addresses, though there be one already. Raises Unreachable."""
        return (await self._dial(peer))[0]

    async def dial_address(
        self, peer_id: PeerId, address: Address, *, local: Address | None = None, path: PathKind | None = None
    ) -> HostConnection:
        """A new connection over one address, from the port of `local` if given (hole punching). Raises Unreachable,
        after HostLimits.dial_timeout and upgrade_timeout at the latest."""
        dialled = await self._dialer.dial(address, peer_id, local=local)
        if path is not None:
            dialled = Dialled(dialled.upgraded, path, dialled.local, dialled.remote)
        return await self._start_connection(dialled)

    async def upgrade_outbound(
        self, raw: ByteStream, peer_id: PeerId, remote: Address, path: PathKind
    ) -> HostConnection:
        """Makes a connection of a raw stream, in the dialer's role. Raises Unreachable; closes `raw` on failure."""
        upgraded = await self._dialer.upgrade(raw, peer_id)
        return await self._start_connection(Dialled(upgraded, path, raw.local, remote))

    async def upgrade_inbound(
        self, raw: ByteStream, remote: Address, path: PathKind, seconds: float | None = None
    ) -> HostConnection:
        """Makes a connection of a raw stream, in the listener's role; `seconds`: its time, if not the usual. Raises
        Unreachable; closes `raw` on failure."""
        upgraded = None
        try:
            upgraded = await self._acceptor.upgrade(raw, seconds)
        finally:
            if upgraded is None:
                await close_now(raw)
        if upgraded is None:
            raise Unreachable("an inbound connection failed its handshake")
        return await self._start_connection(Dialled(upgraded, path, raw.local, remote))

    async def identify(self, connection: HostConnection, *, anew: bool = False) -> Identity:
        """What the peer says about itself, asked once a connection, or `anew`. Raises Unreachable."""
        async with connection.identifying:
            if connection.identity is None or anew:
                connection.identity = await self._ask_identity(connection)
        return connection.identity

    @contextmanager
    def punching(self, addresses: Sequence[Address]) -> Iterator[None]:
        """Within the block, connections accepted from these addresses' IPs count as punched."""
        ips = [ip for ip in map(ip_of, addresses) if ip is not None]
        for ip in ips:
            self._punched[ip] = self._punched.get(ip, 0) + 1
        try:
            yield
        finally:
            for ip in ips:
                self._punched[ip] -= 1
                if not self._punched[ip]:
                    del self._punched[ip]

    # --- inside ---

    async def _ask_identity(self, connection: HostConnection) -> Identity:
        try:
            found = await identify.ask_identity(connection)
        except (RemoteError, trio.TooSlowError, *STREAM_ERRORS) as error:
            raise Unreachable(f"{connection.remote_peer} didn't identify itself ({type(error).__name__})") from None
        self._note_observation(found.observed, connection)
        return found

    def _path_of(self, remote: Address) -> PathKind:
        path = path_of(remote)
        return PathKind.PUNCHED if path is PathKind.DIRECT and ip_of(remote) in self._punched else path

    async def _dial(self, peer: PeerInfo) -> tuple[HostConnection, tuple[PathAttempt, ...]]:
        try:
            dialled, attempts = await self._dialer.race(peer.peer_id, peer.addresses)
        except Unreachable:
            self.metrics.dials_failed += 1
            raise
        return await self._start_connection(dialled), attempts

    async def _start_connection(self, dialled: Dialled) -> HostConnection:
        """Runs it in the host's nursery. Raises Unreachable when the peer has too many, or the host is closing."""
        if self._is_closing:
            await close_now(dialled.upgraded.stream)
            raise Unreachable("this node is stopping")
        connection = await self._nursery.start(
            self._run_connection, dialled.upgraded, dialled.path, dialled.local, dialled.remote
        )
        if connection is None:
            raise Unreachable("there are already as many connections to this peer as allowed")
        assert isinstance(connection, HostConnection)
        if dialled.path is not PathKind.RELAYED:
            self.pace.observed(dialled.upgraded.round_trip)
        if dialled.upgraded.is_dialer:
            self.metrics.connections_dialled += 1
        return connection

    async def _run_connection(
        self,
        upgraded: Upgraded,
        path: PathKind,
        local: Address,
        remote: Address,
        task_status: TaskStatus[HostConnection | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        connection = HostConnection(self._next_number, upgraded, path, local, remote, self._shared)
        self._next_number += 1
        try:
            if not self._connections.add(connection):
                task_status.started(None)
                return
            async with trio.open_nursery() as nursery:
                await nursery.start(connection.run)
                task_status.started(connection)
                if upgraded.is_dialer and path is not PathKind.RELAYED:
                    nursery.start_soon(self._introduce, connection)
                await connection.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._connections.remove(connection)
            if not upgraded.stream.is_closed:  # it never ran
                await close_now(upgraded.stream)

    async def _introduce(self, connection: HostConnection) -> None:
        """Asks who is there, for the address the peer sees us under, unless its neighbours told lately."""
        remote = connection.remote_address
        if not is_public(remote) or self.observations.has_asked(remote, trio.current_time()):
            return
        try:
            await self.identify(connection)
        except Unreachable as error:
            log.debug("identify failed", reason=type(error).__name__)

    def _note_observation(self, observed: Address | None, connection: HostConnection) -> None:
        here = host_port(connection.local_address)
        listening = [host_port(listener.address) for listener in self._listeners]
        if observed is None or here is None or connection.path is PathKind.RELAYED:
            return
        if any(there is not None and there[1] == here[1] for there in listening):
            self.observations.record(observed, connection.remote_address, trio.current_time())

    def _local_for(self, target: Address) -> Address | None:
        """The listen address to dial a public target from: what is then observed is what others can dial."""
        if not is_public(target):
            return None
        same = [a for a in self.bound_addresses() if a[:4] == target[:4] and not is_loopback(a)]
        return min(same, key=lambda a: not is_wildcard(a), default=None)

    async def _answer_identify(self, stream: Stream) -> None:
        connection = stream.connection
        described = identify.describe(self._key, self._agent, self.protocols(), self.listen_addresses(), connection)
        await identify.send_identity(stream, described)

    async def close_listeners(self) -> None:
        """Frees the ports; connections live on."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.aclose()

    async def close_connections(self) -> None:
        """Ends all connections, flushing what was sent; waits for them."""
        connections = self._connections.all()
        for connection in connections:
            connection.close_soon()
        for connection in connections:
            await connection.ended.wait()

    def begin_close(self) -> None:
        self._is_closing = True


@asynccontextmanager
async def open_host(
    world: World, *, key: HostKey, listen: Sequence[Address] = (), limits: HostLimits | None = None
) -> AsyncIterator[OverlayHost]:
    """A running host. Raises OSError when an address can't be bound; leaving the block closes ports and connections.

    What the block raises leaves it inside an ExceptionGroup, as with any trio nursery.
    """
    async with trio.open_nursery() as nursery:
        host = OverlayHost(world, key, limits or HostLimits(), nursery)
        try:
            for address in listen:
                await host.listen(address)
            yield host
        finally:
            host.begin_close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_SECONDS):
                await host.close_listeners()
                await host.close_connections()
            nursery.cancel_scope.cancel()
