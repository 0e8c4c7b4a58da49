"""Spoken codes under attack, over a real DHT: what an attacker can do with a locator, and what the people see."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from p2pe.config import CLOCK_SKEW, LOCATOR_SLOTS
from p2pe.contacts import pairing
from p2pe.core.derive import day_of
from p2pe.core.invite import invite_aead_key, locator_seed, parse_code
from p2pe.core.records import (
    NONCE_BYTES,
    check_record,
    make_record,
    open_addresses,
    public_key_of,
    record_key,
    seal_addresses,
)
from p2pe.errors import InviteNotFound, PairingError, Unreachable
from p2pe.model import Millis, PeerInfo
from p2pe.overlay.dht import Dht, open_dht
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.net import RealNet
from p2pe.ports import World
from people_kit import LOOPBACK, People, Person, WorkerThreads


@dataclass
class Attacker:
    """A node of the DHT that may write wherever anybody may."""

    hosts: list[OverlayHost]  # one a slot, so that each costs a try
    dht: Dht
    world: World

    async def squat(self, locator: str) -> None:
        """All slots, as new as any server takes it: what it overwrites stays overwritten for CLOCK_SKEW."""
        now = self.world.clock.now()
        seed = locator_seed(locator, day_of(now))
        for slot in range(LOCATOR_SLOTS):
            own = PeerInfo(self.hosts[slot].peer_id, self.hosts[slot].listen_addresses())
            payload = seal_addresses(own, invite_aead_key(seed), os.urandom(NONCE_BYTES))
            made = Millis(now + 1000 * CLOCK_SKEW - 1000)
            record = make_record(seed, slot, made, Millis(made + 3_600_000), payload)
            assert await self.dht.publish(record_key(public_key_of(seed), slot), record) == 1


@pytest.fixture
async def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
async def server(people: People) -> AsyncIterator[Dht]:
    world = World(clock=people.clock, entropy=os.urandom, net=RealNet(), threads=WorkerThreads())
    async with (
        open_host(world, key=HostKey.generate(os.urandom), listen=(LOOPBACK,)) as host,
        open_dht(host, world, mode="server") as dht,
    ):
        yield dht


def address_of(server: Dht) -> str:
    return f"{server.upkeep._host.listen_addresses()[0]}/p2p/{server.local.peer_id}"


@pytest.fixture
async def attacker(people: People, server: Dht) -> AsyncIterator[Attacker]:
    world = World(clock=people.clock, entropy=os.urandom, net=RealNet(), threads=WorkerThreads())
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(open_host(world, key=HostKey.generate(os.urandom), listen=(LOOPBACK,)))
            for _ in range(LOCATOR_SLOTS)
        ]
        dht = await stack.enter_async_context(open_dht(hosts[0], world, mode="client", bootstrap=(address_of(server),)))
        yield Attacker(hosts, dht, world)


def person(people: People, name: str, server: Dht) -> Person:
    made = people.person(name)
    made.servers = made.bootstrap = (address_of(server),)
    return made


async def test_a_squatted_code_says_so_and_the_link_still_works(
    people: People, server: Dht, attacker: Attacker
) -> None:
    async with person(people, "alice", server).run() as alice, person(people, "bob", server).run() as bob:
        invite = await alice.pairing.create_invite()
        assert invite.code and invite.link
        await attacker.squat(parse_code(invite.code).locator)
        with pytest.raises((PairingError, Unreachable), match="somebody is crowding it out; ask for the link"):
            await bob.pairing.accept(invite.code)
        contact = await bob.pairing.accept(invite.link)
        assert contact.id


async def test_squatted_beforehand_another_code_is_chosen_or_a_link_proposed(
    people: People, server: Dht, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one locator that this node can think of is taken by the attacker."""
    taken = parse_code("47-abandon-ability-able")
    await attacker.squat(taken.locator)
    monkeypatch.setattr(pairing, "make_code", lambda _entropy: taken)
    async with person(people, "alice", server).run() as alice:
        with pytest.raises(Unreachable, match="make a link instead"):
            await alice.pairing.create_invite()
        assert (await alice.pairing.create_invite("link")).link


async def test_enumeration_finds_a_transport_address_and_nothing_of_the_password(
    people: People, server: Dht, attacker: Attacker
) -> None:
    """Whoever guesses number and first word reads the record; it is all there is to read."""
    async with person(people, "alice", server).run() as alice:
        invite = await alice.pairing.create_invite()
        assert invite.code
        locator, now = parse_code(invite.code).locator, people.clock.now()
        seed = locator_seed(locator, day_of(now))
        key = record_key(public_key_of(seed), 0)
        (raw,) = await attacker.dht.lookup(key)
        record = check_record(key, raw, now)
        found = open_addresses(record.payload, invite_aead_key(seed))
        assert found.peer_id == alice.host.peer_id
        assert alice.identity.identity_key not in raw
        for word in parse_code(invite.code).words[1:]:
            assert word.encode() not in raw


async def test_an_eclipsed_code_is_not_found_and_the_link_is_proposed(people: People, server: Dht) -> None:
    """All servers near the key are hostile: they take records and know of none."""
    async with person(people, "alice", server).run() as alice, person(people, "bob", server).run() as bob:
        invite = await alice.pairing.create_invite()
        assert invite.code
        server.server._store.get = lambda key, now: None  # type: ignore[method-assign]
        with pytest.raises(InviteNotFound, match="ask for the link"):
            await bob.pairing.accept(invite.code)
