"""Production nodes in a virtual network: those that strangers can dial become directory servers, answer lookups,
and are forgotten once they can't be dialled any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from p2pe import config
from p2pe.core import serving
from p2pe.overlay import dht as dht_module
from p2pe.overlay.dht import Dht
from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import BEGINS_AT, Node, Role
from p2pe_sim.world.clock import VirtualClock, jumping_clock
from p2pe_sim.world.determinism import seeded
from p2pe_sim.world.nat import BEHAVIOURS, NatBox
from p2pe_sim.world.net import Internet
from p2pe_sim.world.person import Person, prepare
from p2pe_sim.world.randomness import Randomness
from p2pe_sim.world.server import Server


class Unwatched:
    """Notes nothing; stands for world/watch.Watch and everything in it."""

    def __getattr__(self, _name: str) -> Unwatched:
        return self

    def __call__(self, *_told: object, **_more: object) -> Unwatched:
        return self

    def died(self, _person: Person, group: BaseExceptionGroup, _was_up: bool) -> None:
        raise group


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Looks each virtual second. Fails after `seconds` of them."""
    for _ in range(int(seconds)):
        if condition():
            return
        await trio.sleep(1.0)
    pytest.fail(f"not within {seconds:g} s")


async def live(opened: dict[str, Dht]) -> None:
    randomness, watch = Randomness(1), Unwatched()
    internet = Internet(randomness)
    servers, people = [], {}
    names: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        for name in ("boot1", "boot2", "boot3"):
            node = Node(name, Role.BOOTSTRAP)
            server = Server(node, internet.add(name), internet, randomness, VirtualClock(BEGINS_AT))
            servers.append(server)
            nursery.start_soon(server.run, watch, servers[0].addresses if len(servers) > 1 else ())
            await server.up.wait()
        bootstrap = tuple(server.addresses[0] for server in servers)
        for name, nat in (("open", NatType.NONE), ("fleeting", NatType.NONE), ("home", NatType.PORT)):
            machine = internet.add(name, nat=nat)
            person = people[name] = Person(
                Node(name, nat=nat), machine, internet, randomness, VirtualClock(BEGINS_AT), bootstrap
            )
            nursery.start_soon(person.run, watch)
            await person.up.wait()
            assert person.services is not None
            names[name] = str(person.services.overlay()["peer_id"])

        def mode(name: str) -> str:
            services = people[name].services
            assert services is not None
            return str(services.overlay()["directory_mode"])

        def known_to(server: Server) -> set[str]:
            assert server.services is not None
            by_id = {peer: name for name, peer in names.items()}
            return {by_id[str(n.peer_id)] for n in server.services.dht.table.nodes() if str(n.peer_id) in by_id}

        await trio.sleep(config.SERVE_AFTER - 60)
        assert {name: mode(name) for name in people} == dict.fromkeys(people, "client")
        await until(lambda: mode("open") == mode("fleeting") == "server", 180)
        await until(lambda: all(known_to(s) == {"open", "fleeting"} for s in servers), 1_200)
        assert mode("home") == "client"

        home = opened[names["home"]]
        found = {str(peer.peer_id) for peer in await home.find_closest(bytes(home.local.peer_id))}
        assert {names["open"], names["fleeting"]} <= found
        assert opened[names["open"]].server.served.find_node > 0

        machine = people["fleeting"].machine  # a firewall goes up: what is connected stays so
        behaviour = BEHAVIOURS[NatType.V6_FIREWALL]
        assert behaviour is not None
        machine.nat = internet._hosts[machine.ip] = NatBox(machine.ip, behaviour, randomness.stream("wall"))
        await until(lambda: mode("fleeting") == "client", 4 * config.REACHABILITY_INTERVAL)
        await until(lambda: all(known_to(s) == {"open"} for s in servers), 2 * config.KAD_SERVER_CHECK)
        assert mode("open") == "server"
        for person in people.values():
            person.crash(power=False)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
def test_public_nodes_serve_answer_and_leave_tables_when_they_are_public_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: dict[str, Dht] = {}
    begin: Any = Dht.__init__

    def noted(self: Dht, *given: Any) -> None:
        begin(self, *given)
        opened[str(self.local.peer_id)] = self

    monkeypatch.setattr(dht_module.Dht, "__init__", noted)
    prepare()
    with seeded(Randomness(1)):
        trio.run(live, opened, clock=jumping_clock())
    assert serving.SERVE_AFTER == config.SERVE_AFTER
