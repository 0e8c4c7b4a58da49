"""The same over a real DHT: two servers on loopback sockets, nodes as clients."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from p2pe.errors import InviteNotFound, Unreachable
from p2pe.overlay.dht import open_dht
from p2pe.overlay.host import open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.net import RealNet
from p2pe.ports import World
from people_kit import LOOPBACK, People, Person, WorkerThreads, until


@pytest.fixture
async def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
async def servers(people: People) -> AsyncIterator[tuple[str, ...]]:
    world = World(clock=people.clock, entropy=os.urandom, net=RealNet(), threads=WorkerThreads())
    async with (
        open_host(world, key=HostKey.generate(os.urandom), listen=(LOOPBACK,)) as first,
        open_dht(first, world, mode="server") as _,
    ):
        address = f"{first.listen_addresses()[0]}/p2p/{first.peer_id}"
        async with (
            open_host(world, key=HostKey.generate(os.urandom), listen=(LOOPBACK,)) as second,
            open_dht(second, world, mode="server", bootstrap=(address,)) as dht,
        ):
            await dht.wait_joined()
            yield (address, f"{second.listen_addresses()[0]}/p2p/{second.peer_id}")


def person(people: People, name: str, servers: tuple[str, ...]) -> Person:
    made = people.person(name)
    made.servers = made.bootstrap = servers
    return made


async def test_strangers_pair_by_code_and_find_each_other_after_restarts(
    people: People, servers: tuple[str, ...]
) -> None:
    alice_person, bob_person = person(people, "alice", servers), person(people, "bob", servers)
    async with alice_person.run() as alice, bob_person.run() as bob:
        invite = await alice.pairing.create_invite()
        assert invite.code
        contact = await bob.pairing.accept(invite.code)
        await until(lambda: bob.is_linked(contact))
    async with bob_person.run() as bob, alice_person.run():
        await until(lambda: bob.is_linked(contact))


async def test_a_newcomer_by_link_needs_no_configuration(people: People, servers: tuple[str, ...]) -> None:
    newcomer = person(people, "bob", ())
    async with person(people, "alice", servers).run() as alice, newcomer.run() as bob:
        invite = await alice.pairing.create_invite("link")
        assert invite.link
        with pytest.raises(Unreachable):  # a spoken code leads nowhere without any server
            await bob.pairing.accept("47-abandon-ability-able")
        contact = await bob.pairing.accept(invite.link)
        await until(lambda: bob.is_linked(contact))
    assert newcomer.learnt == list(servers)


async def test_an_unknown_code_is_not_found_rather_than_unreachable(people: People, servers: tuple[str, ...]) -> None:
    async with person(people, "bob", servers).run() as bob:
        with trio.fail_after(20), pytest.raises(InviteNotFound):
            await bob.pairing.accept("47-abandon-ability-able")
