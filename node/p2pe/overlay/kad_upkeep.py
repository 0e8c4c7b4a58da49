"""What keeps the routing table alive: joining, dial-backs to servers that asked us something, checks and refreshes.

Everything in proportion to need: a client with enough live peers does next to nothing; a server checks peers it
hasn't heard of for long and looks into buckets that nothing came from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
import trio

from p2pe import config
from p2pe.core.kademlia.keyspace import Node, key_in_bucket, location_of
from p2pe.errors import NoDirectory, RemoteError, Unreachable, UsageError
from p2pe.model import PeerId, PeerInfo
from p2pe.overlay.bootstrap_addresses import check_bootstrap, distinct, resolve_bootstrap
from p2pe.overlay.connection import HostConnection
from p2pe.overlay.host import OverlayHost
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.ports import Connection, World

if TYPE_CHECKING:
    from p2pe.overlay.dht import Dht

log = structlog.get_logger(__name__)

_JOIN_AT_ONCE = 4  # seeds tried side by side
_VERIFIERS = 4


class Upkeep:
    """Runs beside its Dht for as long as that lives."""

    def __init__(
        self, dht: Dht, host: OverlayHost, world: World, bootstrap: Sequence[str], seeds: Sequence[PeerInfo]
    ) -> None:
        self._dht = dht
        self._host = host
        self._world = world
        self._bootstrap = tuple(bootstrap)
        self._seeds = tuple(seeds)
        self._joining = trio.Lock()
        self._to_verify, self._verified = trio.open_memory_channel[HostConnection](config.KAD_VERIFY_QUEUE)
        self._tried: OrderedDict[PeerId, float] = OrderedDict()  # dial-backs under way or done, and when
        self._emptied = trio.Event()
        self._refreshed_at: float | None = None
        self._pause = config.KAD_MAINTENANCE_FIRST
        self.bootstrap_peers: tuple[PeerInfo, ...] = ()  # as addresses resolved when they were last tried
        self._introductions: list[float] = []  # when neighbours are to be asked, so that they dial us back
        self.joined = trio.Event()

    def refreshed_ago(self) -> float | None:
        """Seconds since the table was looked after; None before the first time."""
        return None if self._refreshed_at is None else trio.current_time() - self._refreshed_at

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            for _ in range(_VERIFIERS):
                nursery.start_soon(self._verify_all)
            await self._stay_joined()

    # --- joining ---

    async def join(self) -> None:
        """One attempt to find a first server and, through it, the neighbours. Calls at the same time share it.
        Raises Unreachable."""
        waited = self._joining.locked()
        async with self._joining:
            if waited and self._dht.table.has_healthy:
                return
            if not self._dht.table.has_healthy:
                await self._reach_seeds()
            if not self._dht.table.has_healthy:
                raise NoDirectory(
                    "no server of the overlay is reachable; are the bootstrap addresses right and online?"
                )
            await self._look_around()
            self._refreshed_at = trio.current_time()

    def learn(self, bootstrap: Sequence[str]) -> None:
        """Adds bootstrap addresses, as an invite link brings them; malformed ones and those beyond KAD_MAX_SEEDS are
        left out."""
        for text in bootstrap:
            try:
                check_bootstrap(text)
            except UsageError:
                continue
            if text not in self._bootstrap and len(self._bootstrap) < config.KAD_MAX_SEEDS:
                self._bootstrap += (text,)
        self.peer_failed()

    async def _look_around(self) -> None:
        """Looks oneself up: fills the near buckets, and makes neighbours aware of a new server."""
        if self._dht.mode == "client" and len(self._dht.table) >= config.KAD_CLIENT_ENOUGH:
            return
        try:
            await self._dht.run_lookup(bytes(self._host.peer_id), thorough=self._dht.mode == "server")
            if self._dht.mode == "server":
                await self._fill()
        except Unreachable as error:
            log.debug("looking around failed", reason=str(error))

    async def _reach_seeds(self) -> None:
        """Asks persisted peers and bootstrap nodes that aren't known yet, in random order, until KAD_JOIN_ANSWERS have
        answered, or KAD_JOIN_GRACE has passed since the first one did: a single one that names nobody, or none but
        its like, would be all we know."""
        candidates = [*self._seeds, *(node.info for node in self._dht.table.due_for_check(0.0, float("inf")))]
        resolved: list[PeerInfo] = []
        for text in self._bootstrap:
            try:
                resolved.extend(await resolve_bootstrap(text))
            except (OSError, UsageError) as error:
                log.info("bootstrap address can't be resolved", reason=str(error))
        self.bootstrap_peers = tuple(resolved[: config.KAD_MAX_SEEDS])
        candidates.extend(resolved)
        known = {self._host.peer_id, *(node.peer_id for node in self._dht.table.nodes())}
        order = [p for p in distinct(candidates) if p.peer_id not in known]
        order.sort(key=lambda _: self._world.entropy(8))
        request = KadMessage(Kind.FIND_NODE, bytes(self._host.peer_id))
        waiting = iter(order[: config.KAD_MAX_SEEDS])
        answers = len(known) - 1

        async def try_some() -> None:
            nonlocal answers
            for peer in waiting:
                try:
                    answer = await self._dht.client.request(peer, request)
                except (Unreachable, RemoteError):
                    continue
                self._dht.answered(answer)
                answers += 1
                if answers >= config.KAD_JOIN_ANSWERS:
                    nursery.cancel_scope.cancel()
                grace = trio.current_time() + max(config.KAD_JOIN_GRACE, self._host.pace.round_trip)
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, grace)

        async with trio.open_nursery() as nursery:
            for _ in range(min(_JOIN_AT_ONCE, len(order))):
                nursery.start_soon(try_some)

    async def _stay_joined(self) -> None:
        pause = config.KAD_JOIN_FIRST
        while True:
            if not self._dht.table.has_healthy and (self._bootstrap or self._seeds):
                try:
                    await self.join()
                    pause = config.KAD_JOIN_FIRST
                except Unreachable as error:
                    log.info("not joined", reason=str(error), retry_seconds=pause)
                    await trio.sleep(self._jittered(pause))
                    pause = min(2 * pause, config.KAD_JOIN_MAX)
                    continue
                log.info("joined the overlay", peers=len(self._dht.table))
            self._emptied = trio.Event()
            await self._pause_while_well()
            if self._dht.table.has_healthy:
                await self.maintain()

    async def _pause_while_well(self) -> None:
        """Until the next look, or until the table has become empty."""
        with trio.move_on_after(self._jittered(self._pause)):
            await self._emptied.wait()
        self._pause = min(2 * self._pause, config.KAD_MAINTENANCE)

    def introduce(self) -> None:
        """We have begun to serve, or are elsewhere: neighbours learn it by being asked. Once now, and once when those
        who looked lately, and met a client, look again."""
        now = trio.current_time()
        self._introductions = [now, now + 1.1 * config.KAD_VERIFY_RETRY]
        self._emptied.set()

    def peer_failed(self) -> None:
        """Told after each failure: with the last peer gone, joining starts again at once."""
        if not self._dht.table.has_healthy and (self._bootstrap or self._seeds):
            self._emptied.set()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.75 + int.from_bytes(self._world.entropy(2), "big") / 131_072)

    # --- checks and refreshes ---

    async def maintain(self) -> None:
        """Asks peers not heard of for long whether they live, and looks into buckets that have gone quiet."""
        is_server = self._dht.mode == "server"
        self._refreshed_at = now = trio.current_time()
        if is_server and self._introductions and self._introductions[0] <= now:
            del self._introductions[0]
            await self._look_around()
        if not is_server and len(self._dht.table) >= config.KAD_CLIENT_ENOUGH:
            await self.check_peers(config.KAD_CLIENT_CHECK)
            return
        if len(self._dht.table) < config.KAD_JOIN_ANSWERS:
            await self._reach_seeds()  # those that were down when we joined
            if not is_server:
                await self._look_around()
        await self.check_peers(config.KAD_SERVER_CHECK if is_server else config.KAD_CLIENT_CHECK)
        if is_server:
            if len(self._dht.table) < config.KAD_K:  # others may have joined at the same time, or since
                await self._look_around()
            await self.refresh_buckets(config.KAD_BUCKET_REFRESH)

    async def check_peers(self, unseen_for: float) -> None:
        """Asks those least recently heard of, a few at a time."""
        due = self._dht.table.due_for_check(trio.current_time(), unseen_for, config.KAD_CHECKS_AT_ONCE)
        waiting = iter(due)

        async def check_some() -> None:
            for node in waiting:
                try:
                    await self._dht.ask(node, KadMessage(Kind.FIND_NODE, bytes(self._host.peer_id)))
                except (Unreachable, RemoteError):
                    pass  # the table knows by now

        async with trio.open_nursery() as nursery:
            for _ in range(len(due)):
                nursery.start_soon(check_some)

    async def refresh_buckets(self, untouched_for: float) -> None:
        """Looks into buckets that nothing came from, and those too thin, then for oneself."""
        due = self._dht.table.due_for_refresh(trio.current_time(), untouched_for)
        await self._fill(due)
        if due:
            await self._look_around()

    async def _fill(self, buckets: Sequence[int] = ()) -> None:
        """A narrow lookup, some eight requests, for a random key in each of `buckets` and each bucket that is thin
        when its turn comes: lookups for others, and peers that have met us since, may have filled it."""
        table, bucket = self._dht.table, -1
        while True:
            thin = table.thin_buckets(config.KAD_BUCKET_ENOUGH, trio.current_time(), config.KAD_THIN_RETRY)
            left = [each for each in (*buckets, *thin) if each > bucket]
            if not left:
                return
            bucket = min(left)
            key = key_in_bucket(self._dht.local.location, bucket, self._world.entropy)
            try:
                await self._dht.run_lookup(key, count=2, paths=1)
            except Unreachable:
                return

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._dht.client.sweep() or config.KAD_STREAM_IDLE)
            self._dht.store.expire(self._world.clock.now())

    # --- dial-backs ---

    def heard_from(self, connection: Connection) -> None:
        """A peer asked us something, or answered over a connection that it had opened: perhaps a server that others
        could reach. It is dialled back when its bucket has room. Never waits."""
        if not isinstance(connection, HostConnection) or connection.is_dialer or self._dht.mode != "server":
            return
        peer_id, now = connection.remote_peer, trio.current_time()
        if now - self._tried.get(peer_id, float("-inf")) < config.KAD_VERIFY_RETRY:
            return
        if not self._dht.table.has_room_for(Node(peer_id, location_of(peer_id))):
            return
        try:
            self._to_verify.send_nowait(connection)
        except trio.WouldBlock:
            return  # it will ask again
        self._tried[peer_id] = now
        self._tried.move_to_end(peer_id)
        if len(self._tried) > 4 * config.KAD_VERIFY_QUEUE:
            self._tried.popitem(last=False)

    async def _verify_all(self) -> None:
        async for connection in self._verified:
            peer_id = connection.remote_peer
            if not self._dht.table.has_room_for(Node(peer_id, location_of(peer_id))):
                continue  # it answered us meanwhile, or others were faster
            try:
                with trio.move_on_after(config.KAD_VERIFY_TIMEOUT) as patience:
                    await self._verify(connection)
                if patience.cancelled_caught:
                    self._try_again_soon(peer_id)
            except (Unreachable, RemoteError) as error:
                log.debug("dial-back failed", reason=str(error))

    def _try_again_soon(self, peer_id: PeerId) -> None:
        if peer_id in self._tried:
            self._tried[peer_id] = trio.current_time() + config.KAD_VERIFY_RETRY_SLOW - config.KAD_VERIFY_RETRY

    async def _verify(self, connection: HostConnection) -> None:
        """A peer becomes known to others only after it answered us at an address it listens on."""
        was_asked = connection.identity is not None
        try:
            identity = await self._host.identify(connection)
            if was_asked and config.KAD_PROTOCOL not in identity.protocols:  # it may have begun to serve since
                identity = await self._host.identify(connection, anew=True)
        except Unreachable:
            self._try_again_soon(connection.remote_peer)  # it hung up before its turn came: nothing was dialled yet
            raise
        if config.KAD_PROTOCOL not in identity.protocols or not identity.addresses:
            return
        back = await self._host.dial(PeerInfo(connection.remote_peer, identity.addresses))
        try:
            request = KadMessage(Kind.FIND_NODE, bytes(self._host.peer_id))
            self._dht.answered(await self._dht.client.request_over(back, request))
        finally:
            back.close_soon()
