"""Contacts, invites, the guess ledger, meta and peers: plain functions on a real (unencrypted, in-memory) database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from p2pe import config
from p2pe.errors import AlreadyContact, Conflict, GuessesSpent, InviteExpired, LocalError, NotFound
from p2pe.model import Address, ContactId, IdentityKey, Millis, PeerId, PeerInfo
from p2pe.storage import contacts, invites, meta, peers
from p2pe.storage.connection import connect
from p2pe.storage.migrations import Tx, migrate
from storage_kit import NOW, add_contact

PEER = PeerInfo(
    PeerId(bytes([0, 36]) + bytes(36)),
    (Address("/ip4/192.0.2.1/tcp/4001"), Address("/ip6/2001:db8::1/tcp/4001")),
)


@pytest.fixture
def tx() -> Iterator[Tx]:
    connection = connect(":memory:", None, exclusive=True)
    migrate(connection, ":memory:")
    with connection:
        yield connection
    connection.close()


# --- contacts ---


def test_a_contact_is_found_by_name_in_any_case_and_by_identity(tx: Tx) -> None:
    bob = add_contact(tx, "Bob")
    assert contacts.find(tx, "bob").id == bob
    assert contacts.get(tx, bob).name == "Bob"
    found = contacts.by_identity(tx, IdentityKey(b"Bob".ljust(32, b".")))
    assert found is not None and found.id == bob and not found.verified and not found.blocked
    assert contacts.by_identity(tx, IdentityKey(bytes(32))) is None
    with pytest.raises(NotFound, match="'carol'"):
        contacts.find(tx, "carol")


def test_names_and_identities_are_taken_once(tx: Tx) -> None:
    bob, carol = add_contact(tx, "bob"), add_contact(tx, "carol")
    with pytest.raises(AlreadyContact, match="'bob'"):
        add_contact(tx, "bob")
    with pytest.raises(Conflict, match="'BOB'"):
        contacts.add(
            tx, name="BOB", identity_key=IdentityKey(b"n" * 32), pair_secret=b"", paired_at=NOW, list_version=1
        )
    with pytest.raises(Conflict):
        contacts.rename(tx, carol, "Bob")
    contacts.rename(tx, bob, "BOB")  # its own name in other letters
    contacts.rename(tx, carol, "caroline")
    assert [contact.name for contact in contacts.all_contacts(tx)] == ["BOB", "caroline"]
    with pytest.raises(NotFound):
        contacts.rename(tx, ContactId(99), "x")


def test_there_is_an_end_to_contacts(tx: Tx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAX_CONTACTS", 2)
    add_contact(tx, "a")
    add_contact(tx, "b")
    with pytest.raises(LocalError, match="2 contacts"):
        add_contact(tx, "c")


def test_secrets_hold_what_a_session_needs_and_show_none_of_it(tx: Tx) -> None:
    bob = add_contact(tx)
    contacts.set_ticket(tx, bob, b"ticket")
    contacts.set_peer(tx, bob, PEER)
    contacts.set_next_secret(tx, bob, b"n" * 32)
    secrets = contacts.secrets(tx, bob)
    assert (secrets.pair_secret, secrets.next_secret, secrets.ticket, secrets.peer) == (
        b"s" * 32,
        b"n" * 32,
        b"ticket",
        PEER,
    )
    assert "sss" not in repr(secrets) and "nnn" not in repr(secrets) and "ticket=" not in repr(secrets)
    contacts.set_peer(tx, bob, None)
    contacts.replace_secret(tx, bob, b"n" * 32, 2, Millis(NOW + 1))
    (secrets,) = contacts.all_secrets(tx)
    assert (secrets.pair_secret, secrets.pair_epoch, secrets.next_secret, secrets.peer) == (b"n" * 32, 2, None, None)
    assert secrets.rotated_at == NOW + 1


def test_versions_seen_never_go_down(tx: Tx) -> None:
    bob = add_contact(tx)
    contacts.saw(tx, bob, NOW, list_version=5, protocol_version=2)
    contacts.saw(tx, bob, Millis(NOW + 1), list_version=3, protocol_version=1)
    secrets = contacts.secrets(tx, bob)
    assert (secrets.list_version, secrets.protocol_version, secrets.last_seen) == (5, 2, NOW + 1)


def test_flags_and_removal(tx: Tx) -> None:
    bob = add_contact(tx)
    contacts.set_verified(tx, bob, True)
    contacts.set_blocked(tx, bob, True)
    assert contacts.get(tx, bob).verified and contacts.get(tx, bob).blocked
    contacts.remove(tx, bob)
    for action in (contacts.get, contacts.secrets, contacts.remove):
        with pytest.raises(NotFound):
            action(tx, bob)
    assert add_contact(tx) != bob  # an id is never used twice: nothing old can be taken for the new contact's


# --- invites ---


def make_invite(tx: Tx, handle: bytes = b"handle00", now: Millis = NOW) -> invites.Invite:
    return invites.create(
        tx, kind="code", handle=handle, locator="47-crossover", password="clockwork-tiger", secret=b"k" * 16,
        name="bob", now=now,
    )  # fmt: skip


def test_an_invite_is_open_for_ten_minutes(tx: Tx) -> None:
    invite = make_invite(tx)
    assert invite.expires_at == NOW + 600_000 and invite.guesses_left == 3 and invite.state == "open"
    assert invites.open_invites(tx, NOW) == (invite,)
    assert invites.by_handle(tx, b"handle00") == invite
    assert invites.by_handle(tx, b"handle01") is None
    assert "clockwork" not in repr(invite)
    late = Millis(NOW + 600_000)
    assert invites.open_invites(tx, late) == ()
    with pytest.raises(InviteExpired):
        invites.spend_guess(tx, invite.id, late)
    assert invites.expire(tx, Millis(late - 1)) == ()
    assert invites.expire(tx, late) == (invite.id,)
    closed = invites.get(tx, invite.id)
    assert (closed.state, closed.password, closed.secret) == ("expired", "", b"")


def test_guesses_are_spent_one_by_one_and_the_last_one_counts(tx: Tx) -> None:
    invite = make_invite(tx)
    assert [invites.spend_guess(tx, invite.id, NOW) for _ in range(3)] == [2, 1, 0]
    assert invites.get(tx, invite.id).password  # the third guess is being made: it may be right
    with pytest.raises(GuessesSpent):
        invites.spend_guess(tx, invite.id, NOW)
    invites.close(tx, invite.id, "spent")
    with pytest.raises(GuessesSpent):
        invites.spend_guess(tx, invite.id, NOW)


def test_a_paired_invite_stays_paired_and_forgets_its_words(tx: Tx) -> None:
    invite, bob = make_invite(tx), add_contact(tx)
    invites.close(tx, invite.id, "paired", bob)
    invites.close(tx, invite.id, "expired")
    closed = invites.get(tx, invite.id)
    assert (closed.state, closed.contact_id, closed.password, closed.secret) == ("paired", bob, "", b"")
    with pytest.raises(InviteExpired):
        invites.spend_guess(tx, invite.id, NOW)
    contacts.remove(tx, bob)
    assert invites.get(tx, invite.id).contact_id is None


def test_open_and_closed_invites_are_bounded(tx: Tx) -> None:
    for i in range(config.MAX_OPEN_INVITES):
        make_invite(tx, b"open%04d" % i)
    with pytest.raises(LocalError, match="16 invites"):
        make_invite(tx)
    make_invite(tx, now=Millis(NOW + 600_000))  # by then the others have expired
    for i in range(config.MAX_CLOSED_INVITES + 5):
        invites.close(tx, make_invite(tx, b"shut%04d" % i, Millis(NOW + 600_000)).id, "revoked")
    assert len(invites.all_invites(tx)) == config.MAX_CLOSED_INVITES + 1
    assert len(invites.open_invites(tx, Millis(NOW + 600_001))) == 1


def test_our_own_guesses_at_a_code_are_three_a_day(tx: Tx) -> None:
    assert [invites.spend_own_guess(tx, "47-crossover", "2025-06-15", NOW) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(GuessesSpent, match="47-crossover"):
        invites.spend_own_guess(tx, "47-crossover", "2025-06-15", NOW)
    assert invites.spend_own_guess(tx, "47-crossover", "2025-06-16", NOW) == 2
    assert invites.spend_own_guess(tx, "48-crossover", "2025-06-15", NOW) == 2


def test_the_guess_ledger_is_bounded_and_forgets_the_oldest(tx: Tx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAX_GUESS_ROWS", 3)
    for i in range(5):
        invites.spend_own_guess(tx, f"{i}-word", "2025-06-15", Millis(NOW + i))
    kept = tx.execute("SELECT locator FROM guesses ORDER BY locator").fetchall()
    assert kept == [("2-word",), ("3-word",), ("4-word",)]


# --- meta and peers ---


def test_meta_holds_bytes_numbers_and_text(tx: Tx) -> None:
    assert meta.get(tx, "a") is None and meta.get_number(tx, "a") is None and meta.get_text(tx, "a") is None
    meta.put(tx, "a", b"\x00\xff")
    meta.put(tx, "a", b"\x01")
    meta.put_number(tx, "n", -5)
    meta.put_text(tx, "t", "später")
    assert (meta.get(tx, "a"), meta.get_number(tx, "n"), meta.get_text(tx, "t")) == (b"\x01", -5, "später")
    meta.delete(tx, "a")
    assert meta.get(tx, "a") is None


def test_peers_come_back_best_first_and_are_bounded(tx: Tx) -> None:
    many = [PeerInfo(PeerId(bytes([0, 4]) + i.to_bytes(4)), PEER.addresses) for i in range(250)]
    peers.save(tx, many, NOW)
    assert peers.load(tx) == tuple(many[: config.MAX_SAVED_PEERS])
    peers.save(tx, [many[240]], Millis(NOW + 1000))
    assert peers.load(tx)[:2] == (many[240], many[0])
    assert len(peers.load(tx)) == config.MAX_SAVED_PEERS


def test_addresses_kept_are_bounded(tx: Tx) -> None:
    long = Address("/dns4/" + "a" * 600)
    assert peers.decode_addresses(peers.encode_addresses([long] + [Address(f"/{i}") for i in range(20)])) == tuple(
        Address(f"/{i}") for i in range(config.MAX_ADDRESSES)
    )
