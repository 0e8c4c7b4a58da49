"""Makes a session with a contact: a connection over whatever path answers first, then the handshake on a stream."""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2pe.config import CACHED_HEADSTART, MAX_REMEMBERED_ADDRESSES, RELAY_FAILURES_DOUBTED, SESSION_PROTOCOL
from p2pe.connectivity.history import History
from p2pe.connectivity.session import Session
from p2pe.connectivity.streams import FrameStream
from p2pe.core.addresses import is_circuit
from p2pe.core.derive import PairKeys, day_of, session_tag
from p2pe.core.handshake import DIALER_ENTROPY_BYTES, DialerHandshake, Established, Expected, LocalParty
from p2pe.core.handshake_messages import NONCE_BYTES
from p2pe.core.paths import RelayPolicy, dial_order
from p2pe.core.patience import handshake_patience
from p2pe.errors import HandshakeError, LinkClosed, NoDirectory, RemoteError, Unreachable
from p2pe.identity.keys import Identity
from p2pe.model import Address, PathAttempt, PathKind, PeerId, PeerInfo, Purpose
from p2pe.ports import Connection, Host, Relays, World
from p2pe.rendezvous.finder import Finder
from p2pe.rendezvous.roster import Known


def local_party(identity: Identity, host: Host) -> LocalParty:
    """Who we are on a connection of `host`."""
    return LocalParty(identity.identity_key, identity.device_private, identity.certificate, host.peer_id)


class SessionDialer:
    """Dials for one node. Every attempt is noted in `history`."""

    def __init__(
        self,
        world: World,
        host: Host,
        identity: Identity,
        finder: Finder,
        history: History,
        policy: Callable[[], RelayPolicy],
        relays: Relays | None,
    ) -> None:
        self._world = world
        self._host = host
        self._identity = identity
        self._finder = finder
        self._history = history
        self._policy = policy
        self._relays = relays

    async def dial(self, known: Known) -> Session:
        """A new session, over a live connection if there is one. Raises Unreachable, whose text names the step that
        failed last."""
        connection = self._live(known)
        if connection is not None:
            try:
                return await self.open_session(known, connection)
            except Unreachable:
                if connection.is_alive:
                    raise
        return await self.open_session(known, await self._connect(known))

    def _live(self, known: Known) -> Connection | None:
        """The best live connection to where the contact was reached last."""
        return None if known.peer is None else self.best_connection(known.peer.peer_id)

    def best_connection(self, peer_id: PeerId) -> Connection | None:
        """The best live connection to the peer that the policy lets us use."""
        only_relayed = self._policy() is RelayPolicy.ONLY
        live = [each for each in self._host.connections(peer_id) if each.is_alive]
        return next((each for each in live if each.path is PathKind.RELAYED or not only_relayed), None)

    # --- finding a connection ---

    async def _connect(self, known: Known) -> Connection:
        """Tries the addresses that worked last; after CACHED_HEADSTART, or when they failed, asks the DHT as well."""
        winner: list[Connection] = []
        problems: list[Unreachable] = []
        cached_failed = trio.Event()
        own = self._host.listen_addresses()

        async def by_cache(peer: PeerInfo) -> None:
            fair = [each for each in peer.addresses if self._failures(each) < RELAY_FAILURES_DOUBTED]
            order = dial_order(fair, (), self._policy(), own)
            await attempt(PeerInfo(peer.peer_id, order))
            cached_failed.set()

        async def by_lookup() -> None:
            if known.peer is not None:
                with trio.move_on_after(CACHED_HEADSTART):
                    await cached_failed.wait()
            peer = await self._look_up(known, problems)
            if peer is None:
                return
            cached = known.peer.addresses if known.peer and known.peer.peer_id == peer.peer_id else ()
            usable = set(peer.addresses)
            order = dial_order([a for a in cached if a in usable], peer.addresses, self._policy(), own)
            order = tuple(sorted(order, key=self._failures))
            if not order:
                problem = Unreachable(f"none of their {len(peer.addresses)} addresses can be dialled from here")
                self._note(known, "dial", ", ".join(peer.addresses), str(problem), 0.0)
                problems.append(problem)
            await attempt(PeerInfo(peer.peer_id, order))

        async def attempt(peer: PeerInfo) -> None:
            if not peer.addresses:
                return
            try:
                winner.append(await self._host.connect(peer))
            except Unreachable as problem:
                self._history.add(known.contact_id, problem.attempts)
                problems.append(problem)
            else:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if known.peer is not None:
                nursery.start_soon(by_cache, known.peer)
            nursery.start_soon(by_lookup)
        if winner:
            self._note(known, "dial", winner[0].remote_address, "ok", 0.0)
            return winner[0]
        if not problems:
            raise Unreachable("no address is known")
        raise next((each for each in problems if isinstance(each, NoDirectory)), problems[-1])

    def _failures(self, address: Address) -> int:
        return 0 if self._relays is None else self._relays.failures(address)

    async def _look_up(self, known: Known, problems: list[Unreachable]) -> PeerInfo | None:
        started = trio.current_time()
        try:
            peer = await self._finder.find(known)
        except Unreachable as problem:
            self._history.note(known.contact_id, "lookup", "", str(problem), started)
            problems.append(problem)
            return None
        self._history.note(known.contact_id, "lookup", "", "ok", started)
        return peer

    def _note(self, known: Known, step: str, target: str, outcome: str, took: float) -> None:
        self._history.add(known.contact_id, (PathAttempt(self._world.clock.now(), step, target, outcome, took),))

    # --- the handshake ---

    async def open_session(self, known: Known, connection: Connection) -> Session:
        """The handshake on a new stream of this very connection. Raises Unreachable."""
        started = trio.current_time()
        problem: Unreachable | None = None
        for keys in known.dial_keys:
            try:
                session = await self._handshake(known, connection, keys)
            except (HandshakeError, RemoteError, LinkClosed) as error:
                problem = Unreachable(f"the handshake failed: {error}")
            except Unreachable as error:
                problem = error
            except trio.TooSlowError:
                problem = Unreachable("the handshake timed out")
            else:
                self._history.note(known.contact_id, "handshake", connection.remote_address, "ok", started)
                return session
            self._history.note(known.contact_id, "handshake", connection.remote_address, str(problem), started)
        if self._relays is not None and not connection.is_alive:
            self._relays.broke(connection.remote_address)
        assert problem is not None  # a contact has at least one pair secret
        raise problem

    async def _handshake(self, known: Known, connection: Connection, keys: PairKeys) -> Session:
        """With one pair secret. Raises HandshakeError, LinkClosed, Unreachable, trio.TooSlowError."""
        nonce = self._world.entropy(NONCE_BYTES)
        day = day_of(self._world.clock.now())
        tag = session_tag(keys.tag, day, known.we_are_lower, self._host.peer_id, connection.remote_peer, nonce)
        handshake = DialerHandshake(
            local_party(self._identity, self._host),
            connection.remote_peer,
            Purpose.SESSION,
            tag=tag,
            nonce=nonce,
            entropy=self._world.entropy(DIALER_ENTROPY_BYTES),
            expected=Expected(known.identity_key, None, known.list_version, known.protocol_version, known.revoked),
        )
        with trio.fail_after(handshake_patience(connection.round_trip)):
            frames = FrameStream(await connection.open_stream(SESSION_PROTOCOL))
            established = await run_dialer(frames, handshake, keys.psk0)
        return Session(self._world, frames, established, known.contact_id, keys.receipt)


async def run_dialer(frames: FrameStream, handshake: DialerHandshake, psk0: bytes) -> Established:
    """The dialer's five messages where psk0 is known beforehand. On any failure the stream is reset.
    Raises HandshakeError, LinkClosed."""
    done = False
    try:
        await frames.write(handshake.hello())
        await frames.write(handshake.receive_reply(await frames.read(), psk0))
        await frames.write(handshake.receive_second(await frames.read()))
        done = True
    finally:
        if not done:
            frames.stream.reset()
    assert handshake.established is not None
    return handshake.established


def dialled_peer(session: Session, before: PeerInfo | None) -> PeerInfo | None:
    """Where a session that we opened can be reached again, and the relays through which that peer was reached
    `before`: a punched path can't be dialled again. None for a session that the other side opened, whose port on the
    connection may not be one it listens on."""
    if not session.is_dialer:
        return None
    earlier = before.addresses if before is not None and before.peer_id == session.peer_id else ()
    circuits = [address for address in earlier if is_circuit(address)]
    addresses = dict.fromkeys([session.connection.remote_address, *circuits])
    return PeerInfo(PeerId(session.peer_id), tuple(addresses)[:MAX_REMEMBERED_ADDRESSES])
