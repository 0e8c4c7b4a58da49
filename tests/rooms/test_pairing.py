"""Two people meet by code or link, on real hosts and databases; and every way of failing says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from p2pe.config import CLOCK_SKEW, INVITE_GUESSES
from p2pe.core.derive import safety_number
from p2pe.core.invite import Link, decode_link, encode_link, parse_code
from p2pe.core.tickets import open_ticket
from p2pe.errors import (
    AlreadyContact,
    Conflict,
    GuessesSpent,
    InviteExpired,
    InviteNotFound,
    OwnInvite,
    P2peError,
    PairingError,
    Unreachable,
    UsageError,
    WrongCode,
)
from p2pe.model import Contact, Ping
from p2pe.storage import contacts
from p2pe.storage.contacts import ContactSecrets
from people_kit import Node, People, acquaint, until, until_async


@pytest.fixture
async def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
async def alice(people: People) -> AsyncIterator[Node]:
    async with people.person("alice").run() as node:
        yield node


@pytest.fixture
async def bob(people: People) -> AsyncIterator[Node]:
    async with people.person("bob").run() as node:
        yield node


def wrong(code: str) -> str:
    """The same locator, another password."""
    parsed = parse_code(code)
    return f"{parsed.locator}-{'zoo' if parsed.words[1] != 'zoo' else 'zero'}-{parsed.words[2]}"


async def only_contact(node: Node) -> Contact:
    (contact,) = await node.book.list()
    return contact


async def assert_paired(alice: Node, bob: Node) -> None:
    """Both have the other, agree on all secrets, and are linked by a session made with them."""
    theirs, ours = await only_contact(alice), await only_contact(bob)
    assert theirs.identity_key == bob.identity.identity_key
    assert ours.identity_key == alice.identity.identity_key
    assert safety_number(theirs.identity_key, ours.identity_key) == safety_number(
        ours.identity_key, theirs.identity_key
    )
    await until(lambda: alice.is_linked(theirs) and bob.is_linked(ours))

    async def agree() -> bool:
        return len({each.pair_secret for each in [await at(alice, theirs), await at(bob, ours)]}) == 1

    async def at(node: Node, contact: Contact) -> ContactSecrets:
        return await node.database.read(lambda tx: contacts.secrets(tx, contact.id))

    await until_async(agree)
    at_alice, at_bob = await at(alice, theirs), await at(bob, ours)
    assert at_alice.next_secret is None and at_bob.next_secret is None
    # each holds the ticket that only the other can read
    assert at_alice.ticket is not None and at_bob.ticket is not None
    assert open_ticket(bob.identity.k_ticket, at_alice.ticket).peer_identity_key == alice.identity.identity_key
    assert open_ticket(alice.identity.k_ticket, at_bob.ticket).peer_identity_key == bob.identity.identity_key


async def test_by_code(alice: Node, bob: Node) -> None:
    invite = await alice.pairing.create_invite("code", "bobby")
    assert invite.state == "open" and invite.code and invite.link and invite.guesses_left == INVITE_GUESSES
    contact = await bob.pairing.accept(invite.code.upper().replace("-", " "), "ally")
    assert contact.name == "ally"
    assert (await only_contact(alice)).name == "bobby"
    outcome = await alice.pairing.wait_for(invite.id, 10)
    assert outcome.state == "paired" and outcome.contact_id == (await only_contact(alice)).id
    assert outcome.code is None and outcome.link is None
    await assert_paired(alice, bob)


async def test_by_link_with_suggested_names(alice: Node, bob: Node) -> None:
    invite = await alice.pairing.create_invite("link")
    assert invite.code is None and invite.link
    contact = await bob.pairing.accept(f"  {invite.link.upper()}\n")
    assert contact.name == "alice"
    assert (await only_contact(alice)).name == "bob"
    await assert_paired(alice, bob)


async def test_a_code_comes_with_a_link_and_either_ends_both(alice: Node, bob: Node, people: People) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code and invite.link
    await bob.pairing.accept(invite.link)
    async with people.person("carol").run() as carol:
        for used in (invite.code, invite.link):
            with pytest.raises(InviteExpired, match="used by somebody"):
                await carol.pairing.accept(used)
        assert await carol.book.list() == ()
    await assert_paired(alice, bob)


async def test_a_link_brings_bootstrap_nodes(people: People) -> None:
    inviter, newcomer = people.person("alice"), people.person("bob")
    inviter.bootstrap = ("/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWabc",)
    async with inviter.run() as alice, newcomer.run() as bob:
        invite = await alice.pairing.create_invite("link")
        assert invite.link
        await bob.pairing.accept(invite.link)
    assert newcomer.learnt == list(inviter.bootstrap)


async def test_a_wrong_code_costs_a_guess_and_the_right_one_still_works(alice: Node, bob: Node) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code
    with pytest.raises(WrongCode, match="word by word"):
        await bob.pairing.accept(wrong(invite.code))
    (shown,) = await alice.pairing.invites()
    assert shown.guesses_left == INVITE_GUESSES - 1 and shown.state == "open"
    await bob.pairing.accept(invite.code)
    await assert_paired(alice, bob)


async def test_guesses_end_on_both_sides_and_outlive_restarts(people: People) -> None:
    inviter, guesser = people.person("alice"), people.person("bob")
    async with inviter.run() as alice:
        invite = await alice.pairing.create_invite()
        assert invite.code
        async with guesser.run() as bob:
            with pytest.raises(WrongCode):
                await bob.pairing.accept(wrong(invite.code))
    async with inviter.run() as alice, guesser.run() as bob:
        (shown,) = await alice.pairing.invites()
        assert shown.guesses_left == INVITE_GUESSES - 1 and shown.code == invite.code
        for _ in range(INVITE_GUESSES - 1):
            await retry_until_found(bob, wrong(invite.code), WrongCode)
        with pytest.raises(GuessesSpent, match="ask for a new invite"):  # our own ledger
            await bob.pairing.accept(invite.code)
        assert (await alice.pairing.wait_for(invite.id, 10)).state == "spent"
        async with people.person("carol").run() as carol:
            with pytest.raises(GuessesSpent, match="too many wrong codes"):  # theirs
                await carol.pairing.accept(invite.code)
        assert await alice.book.list() == () and await bob.book.list() == ()


async def retry_until_found(node: Node, code: str, expected: type[P2peError]) -> None:
    """After a restart the invite is published anew in the background."""
    with trio.fail_after(10):
        while True:
            try:
                await node.pairing.accept(code)
            except expected:
                return
            except (Unreachable, InviteNotFound):
                await trio.sleep(0.01)


async def test_an_invite_outlives_a_restart_of_the_inviter(people: People, bob: Node) -> None:
    inviter = people.person("alice")
    async with inviter.run() as alice:
        invite = await alice.pairing.create_invite()
    assert invite.code
    async with inviter.run() as alice:
        with trio.fail_after(10):
            while not await bob.book.list():
                try:
                    await bob.pairing.accept(invite.code)
                except (Unreachable, GuessesSpent):
                    await trio.sleep(0.01)
        await assert_paired(alice, bob)


async def test_an_expired_invite_says_so(alice: Node, bob: Node, people: People) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code and invite.link
    people.clock.offset += 601
    for used in (invite.code, invite.link):
        with pytest.raises(InviteExpired, match="expired"):
            await bob.pairing.accept(used)
    assert (await alice.pairing.wait_for(invite.id, 0)).state == "expired"
    people.clock.offset += CLOCK_SKEW
    with pytest.raises(InviteNotFound, match="older than ten minutes"):
        await bob.pairing.accept(invite.code)


async def test_waiting_ends_when_the_invite_expires(alice: Node, people: People) -> None:
    invite = await alice.pairing.create_invite()
    people.clock.offset += 599.9
    assert (await alice.pairing.wait_for(invite.id, 10)).state == "expired"


async def test_a_revoked_invite_is_over(alice: Node, bob: Node) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code
    await alice.pairing.revoke(invite.id)
    with pytest.raises(InviteExpired, match="used or taken back"):
        await bob.pairing.accept(invite.code)


async def test_own_invites_are_recognised_before_anything_is_sent(alice: Node, people: People) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code and invite.link
    looked_up = people.directory.looked_up
    for own in (invite.code, invite.link):
        with pytest.raises(OwnInvite, match="your own"):
            await alice.pairing.accept(own)
    assert people.directory.looked_up == looked_up
    (shown,) = await alice.pairing.invites()
    assert shown.guesses_left == INVITE_GUESSES


async def test_an_unknown_locator(alice: Node, bob: Node) -> None:
    with pytest.raises(InviteNotFound):
        await bob.pairing.accept("47-abandon-ability-able")


async def test_already_a_contact_renews_the_secret_and_keeps_the_name(alice: Node, bob: Node) -> None:
    await acquaint(alice, "ally", bob, "bobby")
    invite = await alice.pairing.create_invite("code", "bob again")
    assert invite.code
    with pytest.raises(AlreadyContact, match="ally"):
        await bob.pairing.accept(invite.code, "alice again")
    assert (await only_contact(alice)).name == "bobby" and (await only_contact(bob)).name == "ally"
    await assert_paired(alice, bob)


async def test_names_are_checked_before_anybody_is_called(alice: Node, bob: Node) -> None:
    await acquaint(alice, "ally", bob, "bobby")
    for call in (
        alice.pairing.create_invite("code", "Bobby"),
        alice.pairing.accept("47-abandon-ability-able", "BOBBY"),
    ):
        with pytest.raises(Conflict, match="another name"):
            await call
    with pytest.raises(UsageError, match="slash"):
        await alice.pairing.create_invite("code", "a/b")
    with pytest.raises(UsageError, match="three words"):
        await alice.pairing.accept("47-abandon")


async def test_a_taken_suggested_name_gets_a_number(alice: Node, bob: Node, people: People) -> None:
    async with people.person("Bob", seed=b"2" * 32).run() as namesake:
        for node in (bob, namesake):
            invite = await alice.pairing.create_invite("link")
            assert invite.link
            await node.pairing.accept(invite.link)
    assert [each.name for each in await alice.book.list()] == ["bob", "Bob-2"]


async def test_a_hostile_suggested_name_is_made_safe(people: People, bob: Node) -> None:
    hostile = people.person("x")
    hostile.name = "\x1b[2J\u202emallory\n/"
    async with hostile.run() as mallory:
        invite = await mallory.pairing.create_invite("link")
        assert invite.link
        assert (await bob.pairing.accept(invite.link)).name == "[2Jmallory"


async def test_a_link_pins_the_identity(alice: Node, bob: Node) -> None:
    """Somebody who learnt the secret but isn't who the link names, such as whoever forwarded it."""
    invite = await alice.pairing.create_invite("link")
    assert invite.link
    link = decode_link(invite.link)
    forged = encode_link(Link(link.secret, b"?" * 16, link.bootstrap, link.expires_at))
    with pytest.raises(PairingError, match="isn't the one that the link names"):
        await bob.pairing.accept(forged)
    assert await bob.book.list() == ()
    assert await alice.book.list() == ()


async def test_nobody_to_publish_with(alice: Node, people: People) -> None:
    people.directory.is_down = True
    with pytest.raises(Unreachable):
        await alice.pairing.create_invite()
    with pytest.raises(Unreachable):
        await alice.pairing.create_invite("link")
    assert all(each.state == "revoked" for each in await alice.pairing.invites())


async def test_the_inviter_is_gone(people: People, bob: Node) -> None:
    async with people.person("alice").run() as alice:
        invite = await alice.pairing.create_invite("link")
    assert invite.link
    with pytest.raises(Unreachable, match="found, but"):
        await bob.pairing.accept(invite.link)


async def test_a_cut_before_the_confirmation_heals_when_accepted_again(
    alice: Node, bob: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inviter has stored the invitee and the stream dies before its confirmation arrives."""
    from p2pe.contacts import exchange

    invite = await alice.pairing.create_invite()
    assert invite.code
    whole = exchange.PairChannel.confirm

    async def cut(channel: exchange.PairChannel, petname: str) -> None:
        if channel._identity is alice.identity:
            channel._frames.stream.reset()
        else:
            await whole(channel, petname)

    with monkeypatch.context() as patch:
        patch.setattr(exchange.PairChannel, "confirm", cut)
        with pytest.raises(Unreachable, match="accept the same invite again"):
            await bob.pairing.accept(invite.code)
    assert await bob.book.list() == ()
    assert len(await alice.book.list()) == 1
    await bob.pairing.accept(invite.code)
    await assert_paired(alice, bob)
    outcome = await alice.pairing.wait_for(invite.id, 0)
    assert outcome.state == "paired"


async def test_after_a_crash_of_the_invitee_a_new_invite_heals(
    people: People, bob: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inviter has restarted meanwhile, too: nothing of the first try is in memory."""
    from p2pe.contacts import exchange

    inviter = people.person("alice")
    whole = exchange.PairChannel.confirm

    async def cut(channel: exchange.PairChannel, petname: str) -> None:
        if channel._identity is inviter.identity:
            channel._frames.stream.reset()
        else:
            await whole(channel, petname)

    async with inviter.run() as alice:
        invite = await alice.pairing.create_invite("link")
        assert invite.link
        with monkeypatch.context() as patch:
            patch.setattr(exchange.PairChannel, "confirm", cut)
            with pytest.raises(Unreachable):
                await bob.pairing.accept(invite.link)
    async with inviter.run() as alice:
        with pytest.raises((PairingError, Unreachable)):
            await bob.pairing.accept(invite.link)
        again = await alice.pairing.create_invite("link")
        assert again.link
        await bob.pairing.accept(again.link)
        await assert_paired(alice, bob)


async def test_pairing_while_another_squats_on_the_locator(alice: Node, bob: Node, people: People) -> None:
    """Somebody else publishes under the same locator: the right one is found among them, within our guesses."""
    invite = await alice.pairing.create_invite()
    assert invite.code
    locator = parse_code(invite.code).locator
    async with people.person("carol").run() as carol:
        other = f"{locator}-zoo-zoo"
        await squat(carol, other)
        await bob.pairing.accept(invite.code)
    await assert_paired(alice, bob)


async def squat(node: Node, code: str) -> None:
    """Publishes an invite with a chosen code."""
    from p2pe.core.invite import code_handle
    from p2pe.storage import invites

    parsed = parse_code(code)
    now = node.clock.now()
    invite = await node.database.write(
        lambda tx: invites.create(
            tx,
            kind="code",
            handle=code_handle(parsed.locator),
            locator=parsed.locator,
            password=parsed.password,
            secret=b"q" * 16,
            name=None,
            now=now,
        )
    )
    await node.pairing._publish(invite)


async def test_pair_then_talk(alice: Node, bob: Node) -> None:
    invite = await alice.pairing.create_invite()
    assert invite.code
    contact = await bob.pairing.accept(invite.code)
    link = await bob.connectivity.links.get(contact.id)
    await link.send((Ping(b"12345678"),))
    await assert_paired(alice, bob)
