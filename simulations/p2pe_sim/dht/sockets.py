"""A directory of many servers in one process on real loopback sockets: joining, resting, looking up, losing a third.

What is right or wrong is for tests; how long it takes is for `make bench-dht`:

    python -m p2pe_sim.dht.sockets --nodes 100
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import trio
from p2pe.config import IDLE_CONNECTION_SECONDS, KAD_CHECKS_AT_ONCE, KAD_K, KAD_STORE_COUNT, KAD_STREAM_IDLE
from p2pe.core.addresses import with_peer
from p2pe.core.kademlia.keyspace import MULTIHASH_SHA256, location_of
from p2pe.errors import Unreachable, UsageError
from p2pe.logs import set_up_logging
from p2pe.model import Address
from p2pe.overlay.dht import Dht, open_dht
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.world import real_world

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

LOOPBACK = Address("/ip4/127.0.0.1/tcp/0")
_JOINING_AT_ONCE = 4  # all servers share one core here: more at once would measure its queue
_LOOKUPS_AT_ONCE = 2


@dataclass(slots=True)
class Measured:
    """Seconds are of a wall clock; shares are of 1."""

    nodes: int
    join_seconds: float = 0.0
    join_cpu_seconds: float = 0.0
    most_connections_at_rest: int = 0
    mean_connections_at_rest: float = 0.0
    lookups_right: float = 0.0
    lookup_median_seconds: float = 0.0
    killed: int = 0
    longest_lookup_after_kill: float = 0.0
    dead_in_answers_before_refresh: float = 0.0
    dead_in_answers_after_refresh: float = 0.0
    lookups_right_after_refresh: float = 0.0
    failed_lookups: int = 0
    problems: list[str] = field(default_factory=list)


def allow_descriptors(wanted: int) -> None:
    """Both ends of every connection are in this process. Raises UsageError when the system grants too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UsageError(f"this needs {wanted} file descriptors; the system grants {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server:
    """One server, that can be killed alone."""

    def __init__(self, host: OverlayHost, dht: Dht, scope: trio.CancelScope) -> None:
        self.host, self.dht, self._scope = host, dht, scope
        self.location = location_of(bytes(host.peer_id))

    @property
    def address(self) -> str:
        return with_peer(self.host.listen_addresses()[0], self.host.peer_id)

    def kill(self) -> None:
        self._scope.cancel()


async def _serve(bootstrap: tuple[str, ...], task_status: TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
    world = real_world()
    with trio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            key = HostKey.generate(os.urandom)
            host = await stack.enter_async_context(open_host(world, key=key, listen=(LOOPBACK,)))
            dht = await stack.enter_async_context(open_dht(host, world, mode="server", bootstrap=bootstrap))
            task_status.started(Server(host, dht, scope))
            await trio.sleep_forever()


def silent(_: str) -> None:
    """Says nothing of the progress."""


async def measure(
    nodes: int, *, kill: float = 0.3, lookups: int = 100, seed: int = 1, tell: Callable[[str], None] = silent
) -> Measured:
    """Runs the whole course once."""
    allow_descriptors(100 * nodes)
    chosen = random.Random(seed)
    result = Measured(nodes)
    async with trio.open_nursery() as nursery:
        began, cpu = time.monotonic(), time.process_time()
        servers = await _join_all(nursery, nodes)
        result.join_seconds = round(time.monotonic() - began, 1)
        result.join_cpu_seconds = round(time.process_time() - cpu, 1)
        tell(f"{nodes} servers joined in {result.join_seconds} s")
        counts = await _rest(servers)
        tell(f"at rest: at most {max(counts)} connections a server")
        result.most_connections_at_rest = max(counts)
        result.mean_connections_at_rest = round(sum(counts) / len(counts), 1)
        right, seconds = await _look_up(servers, lookups, chosen, result)
        result.lookups_right, result.lookup_median_seconds = right, round(median(seconds), 3)
        dying = chosen.sample(servers[1:], int(kill * nodes))
        for server in dying:
            server.kill()
        result.killed = len(dying)
        tell(f"{len(dying)} killed")
        living = [server for server in servers if server not in dying]
        result.dead_in_answers_before_refresh = _dead_in_answers(living, chosen)
        _, seconds = await _look_up(living, lookups // 4, chosen, result)
        result.longest_lookup_after_kill = round(max(seconds), 2)
        await _refresh(living)
        tell("refreshed")
        result.dead_in_answers_after_refresh = _dead_in_answers(living, chosen)
        result.lookups_right_after_refresh, seconds = await _look_up(living, lookups, chosen, result)
        result.longest_lookup_after_kill = max(result.longest_lookup_after_kill, round(max(seconds), 2))
        nursery.cancel_scope.cancel()
    return result


async def _join_all(nursery: trio.Nursery, nodes: int) -> list[Server]:
    first: Server = await nursery.start(_serve, ())
    servers = [first]
    limit = trio.CapacityLimiter(_JOINING_AT_ONCE)

    async def join() -> None:
        async with limit:
            server: Server = await nursery.start(_serve, (first.address,))
            servers.append(server)
            await server.dht.wait_joined()
            await server.dht.upkeep.join()  # until it has looked around

    async with trio.open_nursery() as joining:
        for _ in range(nodes - 1):
            joining.start_soon(join)
    return servers


async def _rest(servers: list[Server]) -> list[int]:
    """Connections of each, once those made for joining have been idle for long enough to end."""
    await trio.sleep(IDLE_CONNECTION_SECONDS + KAD_STREAM_IDLE + 10.0)
    return [len(server.host.connections()) for server in servers]


async def _look_up(
    servers: list[Server], count: int, chosen: random.Random, result: Measured
) -> tuple[float, list[float]]:
    """The share of lookups that name exactly the nearest living servers but the asker, and what each took."""
    right, seconds = 0, list[float]()
    keys = iter([(chosen.choice(servers), MULTIHASH_SHA256 + chosen.randbytes(32)) for _ in range(count)])

    async def look() -> None:
        nonlocal right
        for asker, key in keys:
            target = location_of(key)
            true = sorted((s for s in servers if s is not asker), key=lambda s: s.location ^ target)[:KAD_STORE_COUNT]
            began = time.monotonic()
            try:
                found = await asker.dht.find_closest(key)
            except Unreachable as error:
                result.failed_lookups += 1
                if str(error) not in result.problems:
                    result.problems.append(str(error))
                found = ()
            seconds.append(time.monotonic() - began)
            right += [peer.peer_id for peer in found] == [s.host.peer_id for s in true]

    async with trio.open_nursery() as nursery:
        for _ in range(_LOOKUPS_AT_ONCE):
            nursery.start_soon(look)
    return right / count, seconds


def _dead_in_answers(living: list[Server], chosen: random.Random) -> float:
    """Among the peers that living servers would name now."""
    alive = {server.host.peer_id for server in living}
    named = dead = 0
    for server in living:
        for node in server.dht.table.closest(chosen.getrandbits(256), KAD_K):
            named += 1
            dead += node.peer_id not in alive
    return round(dead / max(1, named), 4)


async def _refresh(living: list[Server]) -> None:
    """One refresh of every bucket at every server, as upkeep does it by and by."""
    limit = trio.CapacityLimiter(_JOINING_AT_ONCE)

    async def refresh(server: Server) -> None:
        async with limit:
            began = trio.current_time()
            for _ in range(-(-2 * len(server.dht.table) // KAD_CHECKS_AT_ONCE)):  # everybody once, the failed twice
                unasked_for = trio.current_time() - began
                if not server.dht.table.due_for_check(trio.current_time(), unasked_for):
                    break
                await server.dht.upkeep.check_peers(unasked_for)
            await server.dht.upkeep.refresh_buckets(0.0)

    async with trio.open_nursery() as nursery:
        for server in living:
            nursery.start_soon(refresh, server)


def main() -> int:
    """Prints what was measured as JSON, beside the goals; 1 when one is missed."""
    parser = argparse.ArgumentParser(description="Directory servers on real sockets in one process.")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    set_up_logging("error")
    found = trio.run(lambda: measure(options.nodes, seed=options.seed, tell=partial(print, file=sys.stderr)))
    goals = {
        "join_seconds": found.join_seconds <= 60,
        "most_connections_at_rest": found.most_connections_at_rest <= 24,
        "lookups_right": found.lookups_right == 1.0,
        "dead_in_answers_after_refresh": found.dead_in_answers_after_refresh <= 0.01,
        "longest_lookup_after_kill": found.longest_lookup_after_kill <= 5.0 + 0.5,  # the deadline, and a busy machine
    }
    sys.stdout.write(json.dumps({**asdict(found), "goals": goals}, indent=1) + "\n")
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
