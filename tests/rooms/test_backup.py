"""Backups and restores on real files: what comes back, what doesn't, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest
from p2pe.app_backup import back_up, restore_file, restore_words
from p2pe.core.certificate import verify_certificate
from p2pe.core.derive import body_hash
from p2pe.errors import Conflict, NotFound, StorageError, UsageError, WrongPassphrase
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity, open_identity
from p2pe.identity.keys import Identity
from p2pe.model import ContactId, MessageId, MessageState, Millis, StreamId
from p2pe.storage import contacts, held, invites, meta, outgoing
from p2pe.storage.connection import connect
from p2pe.storage.migrations import migrate
from storage_kit import add_contact

NOW = Millis(1_800_000_000_000)
LATER = Millis(NOW + 86_400_000)
OLD_STREAM = StreamId(b"o" * 16)


def make_home(folder: Path, words: str | None = None) -> tuple[Home, Identity, str]:
    home = Home(folder)
    identity, words = create_identity(home, None, os.urandom, NOW, words)
    return home, identity, words


def draft(number: int) -> outgoing.Draft:
    body = b"\x0a\x02m%d" % number
    return outgoing.Draft(MessageId(bytes([number]) * 32), body, body_hash(body))


def fill(home: Home, identity: Identity) -> ContactId:
    """A contact, an open invite, and three messages: one queued, one offered, one delivered."""
    connection = connect(home.database, identity.database_key)
    migrate(connection, home.database)
    contact_id = add_contact(connection)
    outgoing.current_stream(connection, OLD_STREAM)
    outgoing.insert(connection, contact_id, OLD_STREAM, 1, [draft(1), draft(2), draft(3)], NOW)
    offered = outgoing.offer(connection, contact_id, 0, 2, 10_000, NOW)
    assert offered is not None
    outgoing.deliver_range(connection, contact_id, offered.rows[0], offered.rows[0], NOW)
    invites.create(connection, kind="code", handle=b"h" * 8, locator="1-a", password="b-c", secret=b"s" * 16,
                   name=None, now=NOW)  # fmt: skip
    connection.close()
    return contact_id


def rows(home: Home, identity: Identity) -> list[tuple[int, str, str]]:
    connection = connect(home.database, identity.database_key, reader=True)
    found = connection.execute("SELECT substr(id, 1, 1), state, reason FROM outgoing ORDER BY row").fetchall()
    connection.close()
    return [(first[0], state, reason) for first, state, reason in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("passphrase", [None, "four words are best"])
def test_everything_comes_back_on_a_new_device(folder: Path, passphrase: str | None) -> None:
    home, identity, words = make_home(folder / "a")
    fill(home, identity)
    made = back_up(home, folder / "b", home_passphrase=None, passphrase=passphrase, now=NOW)
    assert (made.counts.contacts, made.counts.sent, made.counts.waiting) == (1, 3, 2)
    assert (folder / "b").stat().st_mode & 0o777 == 0o600
    opened = {"words": words, "passphrase": None} if passphrase is None else {"words": None, "passphrase": passphrase}
    again = Home(folder / "c")
    done = restore_file(again, folder / "b", home_passphrase=None, now=LATER, **opened)
    assert done.held == 2 and done.made_at == NOW
    returned = open_identity(again, None, with_root=True)
    assert returned.identity_key == identity.identity_key
    assert returned.device_public != identity.device_public
    assert returned.database_key != identity.database_key
    old, new = verify_certificate(identity.certificate), verify_certificate(returned.certificate)
    assert new.list_version > old.list_version and identity.device_public in new.revoked
    connection = connect(again.database, returned.database_key)
    assert contacts.find(connection, "bob").name == "bob"
    assert meta.get(connection, meta.STREAM_ID) not in (None, OLD_STREAM)
    assert (meta.get_number(connection, meta.RECOVER_UNTIL) or 0) > LATER
    assert invites.open_invites(connection, NOW) == ()
    connection.close()
    state = MessageState.HELD_IDENTITY.value
    assert rows(again, returned) == [(1, "delivered", ""), (2, state, "restored"), (3, state, "restored")]
    assert not list(again.path.glob(".p2pe-*")) and not list(folder.glob(".p2pe-*")), "a copy was left behind"


def test_a_backup_is_taken_while_the_database_is_written(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    fill(home, identity)
    writer = connect(home.database, identity.database_key)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO meta VALUES ('unfinished', x'00')")
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    writer.execute("COMMIT")
    writer.close()
    again = Home(folder / "c")
    done = restore_file(again, folder / "b", words=words, passphrase=None, home_passphrase=None)
    connection = connect(again.database, done.identity.database_key, reader=True)
    assert meta.get(connection, "unfinished") is None
    connection.close()


def test_what_waited_may_be_sent_on_in_a_new_order(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    contact_id = fill(home, identity)
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    done = restore_file(Home(folder / "c"), folder / "b", words=words, passphrase=None, home_passphrase=None,
                        send_waiting=True)  # fmt: skip
    assert done.held == 0
    connection = connect(Home(folder / "c").database, done.identity.database_key)
    offer = outgoing.offer(connection, contact_id, 0, 10, 10_000, LATER)
    assert offer is not None and [each[0] for each in offer.ids] == [2, 3]
    [(stream_id, messages)] = offer.runs
    assert stream_id != OLD_STREAM and [each.sequence for each in messages] == [1, 2]
    connection.close()


def test_held_messages_released_go_behind_later_ones(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    contact_id = fill(home, identity)
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    done = restore_file(Home(folder / "c"), folder / "b", words=words, passphrase=None, home_passphrase=None)
    connection = connect(Home(folder / "c").database, done.identity.database_key)
    fresh = StreamId(b"f" * 16)
    stream = outgoing.current_stream(connection, fresh)
    outgoing.insert(connection, contact_id, stream, outgoing.next_sequence(connection, contact_id, stream), [draft(9)],
                    LATER)  # fmt: skip
    released = held.release(connection, contact_id, fresh, LATER)
    assert [each[0] for each in released] == [2, 3]
    offer = outgoing.offer(connection, contact_id, 0, 10, 10_000, LATER)
    assert offer is not None and [each[0] for each in offer.ids] == [9, 2, 3]
    assert [each.sequence for each in offer.runs[0][1]] == [1, 2, 3], "a batch's sequences must ascend"
    outgoing.insert(connection, contact_id, stream, 4, [draft(10)], LATER)
    assert connection.execute("SELECT substr(id, 1, 1) FROM outgoing ORDER BY row DESC LIMIT 1").get == bytes([10])
    connection.close()


def test_a_held_message_taken_back_after_a_restore_is_taken_back_there_too(folder: Path) -> None:
    """It may have left since the backup was made: only a tombstone at the recipient makes sure."""
    home, identity, words = make_home(folder / "a")
    contact_id = fill(home, identity)
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    done = restore_file(Home(folder / "c"), folder / "b", words=words, passphrase=None, home_passphrase=None)
    connection = connect(Home(folder / "c").database, done.identity.database_key)
    outgoing.retract(connection, [MessageId(b"\x03" * 32)], LATER)
    assert outgoing.retractions_owed(connection, contact_id) == [MessageId(b"\x03" * 32)]
    connection.close()


def test_a_restore_that_was_killed_can_be_begun_again(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    fill(home, identity)
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    again = Home(folder / "c")
    restore_file(again, folder / "b", words=words, passphrase=None, home_passphrase=None)
    again.keys.unlink()  # as if it had been killed just before
    with pytest.raises(Conflict):
        restore_file(again, folder / "b", words=words, passphrase=None, home_passphrase=None)
    (again.path / "restoring").touch()
    done = restore_file(again, folder / "b", words=words, passphrase=None, home_passphrase=None)
    assert done.counts.contacts == 1 and rows(again, done.identity)
    assert not (again.path / "restoring").exists()


def test_a_home_that_never_ran_can_be_backed_up(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    done = restore_file(Home(folder / "c"), folder / "b", words=words, passphrase=None, home_passphrase=None)
    assert done.identity.identity_key == identity.identity_key and done.counts.contacts == 0


def test_the_words_alone_give_a_new_device_that_can_be_found(folder: Path) -> None:
    _home, identity, words = make_home(folder / "a")
    done = restore_words(Home(folder / "c"), f"  {words.upper()} ", home_passphrase=None, now=LATER)
    assert done.identity.identity_key == identity.identity_key
    assert verify_certificate(done.identity.certificate).list_version == LATER // 1000
    connection = connect(Home(folder / "c").database, done.identity.database_key, reader=True)
    assert meta.get_number(connection, meta.RECOVER_UNTIL) == LATER + 30 * 86_400_000
    connection.close()


def test_every_changed_byte_of_a_backup_is_noticed(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    fill(home, identity)
    file = folder / "b"
    back_up(home, file, home_passphrase=None, passphrase=None)
    whole = file.read_bytes()
    start = whole.index(b"}") + 1
    places = [0, 8, 15, 30, start - 40, start, start + 30, start + 4096, len(whole) // 2, len(whole) - 1]
    for at in places:
        changed = bytearray(whole)
        changed[at] ^= 1
        file.write_bytes(changed)
        with pytest.raises((StorageError, UsageError)):
            restore_file(Home(folder / "c"), file, words=words, passphrase=None, home_passphrase=None)
    for other in (whole[:-1], whole[: len(whole) // 2], whole[:10], b"", whole + b"x"):
        file.write_bytes(other)
        with pytest.raises(StorageError):
            restore_file(Home(folder / "c"), file, words=words, passphrase=None, home_passphrase=None)
    assert not (folder / "c" / "keys").exists() and not (folder / "c" / "p2pe.db").exists()
    file.write_bytes(whole)
    restore_file(Home(folder / "c"), file, words=words, passphrase=None, home_passphrase=None)


def test_wrong_secrets_and_occupied_homes_are_refused_and_change_nothing(folder: Path) -> None:
    home, _identity, words = make_home(folder / "a")
    _, _, others = make_home(folder / "x")
    file = folder / "b"
    back_up(home, file, home_passphrase=None, passphrase="four words are best")
    with pytest.raises(WrongPassphrase, match="another identity"):
        restore_file(Home(folder / "c"), file, words=others, passphrase=None, home_passphrase=None)
    with pytest.raises(WrongPassphrase, match="isn't the passphrase"):
        restore_file(Home(folder / "c"), file, words=None, passphrase="five words are best", home_passphrase=None)
    with pytest.raises(UsageError):
        restore_file(Home(folder / "c"), file, words=words + " zoo", passphrase=None, home_passphrase=None)
    with pytest.raises(NotFound):
        restore_file(Home(folder / "c"), folder / "none", words=words, passphrase=None, home_passphrase=None)
    keys = home.keys.read_bytes()
    for attempt in (
        lambda: restore_file(home, file, words=words, passphrase=None, home_passphrase=None),
        lambda: restore_words(home, words, home_passphrase=None),
        lambda: back_up(home, file, home_passphrase=None, passphrase=None),
    ):
        with pytest.raises(Conflict):
            attempt()
    assert home.keys.read_bytes() == keys
    with pytest.raises(NotFound):
        back_up(Home(folder / "none"), folder / "d", home_passphrase=None, passphrase=None)
    with pytest.raises(UsageError):
        back_up(home, folder / "d", home_passphrase=None, passphrase="short")
    assert not list(folder.glob("d*"))


def test_nothing_in_a_backup_file_names_anybody(folder: Path) -> None:
    home, identity, _ = make_home(folder / "a")
    fill(home, identity)
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    raw = (folder / "b").read_bytes()
    for secret in (b"bob".ljust(32, b"."), identity.identity_key, identity.certificate, b"s" * 32, b"CREATE TABLE"):
        assert secret not in raw


def test_a_backup_by_a_newer_program_is_refused(folder: Path) -> None:
    home, identity, words = make_home(folder / "a")
    fill(home, identity)
    connection = connect(home.database, identity.database_key)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    with pytest.raises(StorageError, match="newer p2pe"):
        restore_file(Home(folder / "c"), folder / "b", words=words, passphrase=None, home_passphrase=None)
    assert not (folder / "c" / "p2pe.db").exists()


def test_apsw_errors_are_explained(folder: Path) -> None:
    """A database that another key encrypts is said to be so, not raised as SQLite's error."""
    home, _identity, _ = make_home(folder / "a")
    other = apsw.Connection(str(home.database))
    other.execute("CREATE TABLE t(x)")
    other.close()
    with pytest.raises(StorageError):
        back_up(home, folder / "b", home_passphrase=None, passphrase=None)
    assert not list(folder.glob("b*"))
