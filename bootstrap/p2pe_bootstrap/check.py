"""A look at a bootstrap node from outside, as a stranger sees it: does it answer, store and serve?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import trio
from p2pe import config
from p2pe.core.addresses import split_peer
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.core.records import make_record, public_key_of, record_key
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Millis, PeerInfo
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.overlay.kad_rpc import KadClient
from p2pe.ports import World

_TEST_RECORD_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `p2pe-bootstrap status`."""

    address: str
    reachable: bool
    agent: str = ""
    connect_ms: float = 0.0
    serves_dht: bool = False
    knows_peers: int = 0
    stores_records: bool = False
    problem: str = ""

    @property
    def is_well(self) -> bool:
        return self.reachable and self.serves_dht and self.stores_records

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "is_well": self.is_well}


async def check(world: World, text: str) -> Check:
    """Dials one full multiaddr with a fresh key, stores a random record for a minute and reads it back.
    Raises ValueError for a malformed address."""
    address, peer_id = split_peer(text)
    async with open_host(world, key=HostKey.generate(world.entropy)) as host:
        started = trio.current_time()
        try:
            connection = await host.connect(PeerInfo(peer_id, (address,)))
        except Unreachable as error:
            return Check(text, False, problem=str(error))
        took = round((trio.current_time() - started) * 1000, 1)
        try:
            identity = await host.identify(connection)
            if config.KAD_PROTOCOL not in identity.protocols:
                return Check(text, True, identity.agent, took, problem="it doesn't serve the DHT")
            client = KadClient(host, Timeouts(host.pace))
            near = await client.request_over(connection, KadMessage(Kind.FIND_NODE, bytes(host.peer_id)))
            seed, now = world.entropy(32), world.clock.now()
            key = record_key(public_key_of(seed), 0)
            sealed = world.entropy(config.RECORD_PAYLOAD_BYTES)
            record = make_record(seed, 0, now, Millis(now + _TEST_RECORD_SECONDS * 1000), sealed)
            await client.request_over(connection, KadMessage(Kind.PUT_VALUE, key, record))
            got = await client.request_over(connection, KadMessage(Kind.GET_VALUE, key))
        except (Unreachable, RemoteError) as error:
            return Check(text, True, connect_ms=took, problem=str(error))
        stores = got.message.value == record
        problem = "" if stores else "it didn't keep a valid record; is its clock right?"
        return Check(text, True, identity.agent, took, True, len(near.message.closer), stores, problem)
