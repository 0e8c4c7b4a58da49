"""Backing up and restoring a home: what `p2pe backup` and `p2pe restore` do. Blocking; a node may be running meanwhile
on the home that is backed up. Formats and arguments: docs/protocol/identity.md."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final

from p2pe import config
from p2pe.core.certificate import verify_certificate
from p2pe.errors import Conflict, NotFound, StorageError
from p2pe.identity import backupfile
from p2pe.identity.backupfile import Contents
from p2pe.identity.files import file_error, sync_directory
from p2pe.identity.home import Home
from p2pe.identity.keyring import create_identity, enrol, open_identity, refuse_occupied, store_identity
from p2pe.identity.keys import KEY_BYTES, Identity
from p2pe.identity.words import seed_of
from p2pe.model import Millis, StreamId
from p2pe.overlay.world import real_world
from p2pe.ports import Entropy
from p2pe.storage.migrations import Tx
from p2pe.storage.restored import begin_anew, mark_restored
from p2pe.storage.snapshot import change_copy, copy_database, look_into

_CHUNK: Final = 1024 * 1024
_UNFINISHED: Final = "restoring"  # in the home, from before the database is there until the key file is


@dataclass(frozen=True, slots=True)
class Counts:
    """What a backup holds."""

    contacts: int
    sent: int
    received: int
    waiting: int  # of `sent`, those that had not been delivered


@dataclass(frozen=True, slots=True)
class BackedUp:
    file: Path
    size: int  # bytes
    counts: Counts
    has_passphrase: bool  # besides the 24 words


@dataclass(frozen=True, slots=True)
class Restored:
    identity: Identity
    made_at: Millis | None  # when the backup was made; None for the words alone
    counts: Counts
    held: int  # messages that waited in the backup, and wait for a decision now


NOTHING: Final = Counts(0, 0, 0, 0)


def back_up(
    home: Home,
    file: Path,
    *,
    home_passphrase: str | None,
    passphrase: str | None,
    replace: bool = False,
    entropy: Entropy | None = None,
    now: Millis | None = None,
) -> BackedUp:
    """Writes a backup of `home` to `file`, reads it back, and only then gives it its name.

    Raises NotFound (no identity), WrongPassphrase, Conflict (`file` exists and `replace` isn't set), StorageError.
    """
    world = real_world()
    entropy = entropy or world.entropy
    now = world.clock.now() if now is None else now
    if file.exists() and not replace:
        raise Conflict(f"{file} exists already: nothing was changed. Choose another name, or replace it with --replace")
    identity = open_identity(home, home_passphrase, with_root=True)
    seed = identity.root_seed
    assert seed is not None
    temporary = file.with_name(file.name + ".new")
    done = False
    try:
        with _beside(file) as folder, _private(temporary) as out:
            copy, key = folder / "copy.db", entropy(KEY_BYTES)
            if home.database.exists():
                copy_database(home.database, identity.database_key, copy, key)
            else:
                copy.touch()
            with copy.open("rb") as database:
                contents = Contents(seed, identity.certificate, key, *_measure(database), now)
                database.seek(0)
                backupfile.write_backup(out, contents, passphrase, database, entropy)
            out.flush()
            os.fsync(out.fileno())
        counts = _verify(temporary, seed, contents)
        os.replace(temporary, file)
        sync_directory(file.parent)
        done = True
        return BackedUp(file, file.stat().st_size, counts, passphrase is not None)
    except OSError as error:
        raise file_error("writing", file, error) from error
    finally:
        if not done:
            temporary.unlink(missing_ok=True)


def restore_words(
    home: Home, words: str, *, home_passphrase: str | None, entropy: Entropy | None = None, now: Millis | None = None
) -> Restored:
    """The identity of 24 words on a new device, without contacts or history. Raises Conflict (the home is in use),
    UsageError (words), StorageError."""
    world = real_world()
    entropy = entropy or world.entropy
    now = world.clock.now() if now is None else now
    at = now
    seed_of(words)  # a mistake is told before anything is made
    refuse_occupied(home)
    home.create()
    with home.lock():
        identity, _ = create_identity(home, home_passphrase, entropy, now, words)
        change_copy(home.database, identity.database_key, lambda tx: begin_anew(tx, at))
    return Restored(identity, None, NOTHING, 0)


def restore_file(
    home: Home,
    file: Path,
    *,
    words: str | None,
    passphrase: str | None,
    home_passphrase: str | None,
    send_waiting: bool = False,
    entropy: Entropy | None = None,
    now: Millis | None = None,
) -> Restored:
    """Everything in the backup `file`, on a new device: a new device key, a certificate that supersedes the old one,
    a new sending order. Needs the `words` or the backup's `passphrase`.

    `send_waiting`: what waited in the backup is sent by itself; else it is held until the person decides. Raises
    Conflict (the home is in use), WrongPassphrase, UsageError, NotFound (no such file), StorageError.
    """
    world = real_world()
    entropy = entropy or world.entropy
    now = world.clock.now() if now is None else now
    _tidy(home)
    refuse_occupied(home)
    with _opened(file) as source:
        header = backupfile.read_header(source, file)
        if words is not None:
            contents = backupfile.open_by_words(header, seed_of(words), file)
        else:
            contents = backupfile.open_by_passphrase(header, passphrase or "", file)
        home.create()
        with home.lock():
            return _restore(home, source, file, contents, home_passphrase, not send_waiting, entropy, now)


def asks_for_passphrase(file: Path) -> bool:
    """Whether a backup can be opened by a passphrase as well. Raises NotFound, StorageError."""
    with _opened(file) as source:
        return backupfile.read_header(source, file).has_passphrase


def _restore(
    home: Home,
    source: BinaryIO,
    file: Path,
    contents: Contents,
    home_passphrase: str | None,
    hold: bool,
    entropy: Entropy,
    now: Millis,
) -> Restored:
    """With the home's lock held. The key file comes last: without it a home has no identity, whatever else is there."""
    old = verify_certificate(contents.certificate)
    # The old device is superseded by the list version; naming it as well costs nothing while there is room.
    revoked = (*old.revoked, old.device_key)[-config.MAX_REVOKED_DEVICES :]
    identity = enrol(contents.seed, entropy, now, list_version=old.list_version, revoked=revoked)
    with _beside(home.database) as folder:
        copy = folder / "copy.db"
        with _private(copy) as out:
            backupfile.copy_database(source, contents, out, file)
        counts, held = NOTHING, 0
        placed = False
        try:
            (home.path / _UNFINISHED).touch(mode=0o600)
            if contents.database_size:
                counts = look_into(copy, contents.database_key, _count)
                copy_database(copy, contents.database_key, home.database, identity.database_key)
                fresh = StreamId(entropy(config.STREAM_ID_BYTES))
                held = change_copy(
                    home.database, identity.database_key, lambda tx: mark_restored(tx, fresh, now, hold=hold)
                )
            else:
                change_copy(home.database, identity.database_key, lambda tx: begin_anew(tx, now))
            store_identity(home, home_passphrase, identity, entropy)
            placed = True
        finally:
            if not placed:
                _remove_database(home)
            (home.path / _UNFINISHED).unlink(missing_ok=True)
    return Restored(identity, contents.made_at, counts, held if hold else 0)


def _tidy(home: Home) -> None:
    """What a restore left that was killed before the key file was there: a database that nobody can open."""
    if (home.path / _UNFINISHED).exists() and not home.keys.exists() and home.holder() is None:
        _remove_database(home)
        (home.path / _UNFINISHED).unlink(missing_ok=True)


def _remove_database(home: Home) -> None:
    for left in (home.database, *home.path.glob(home.database.name + "-*")):
        left.unlink(missing_ok=True)


def _verify(path: Path, seed: bytes, expected: Contents) -> Counts:
    """Reads a backup as a restore would. Raises StorageError when it isn't what was meant to be written."""
    with _opened(path) as file, _beside(path) as folder:
        header = backupfile.read_header(file, path)
        contents = backupfile.open_by_words(header, seed, path)
        if contents != expected:
            raise StorageError(f"{path} reads back other than it was written: the disk may be failing; use another one")
        copy = folder / "copy.db"
        with _private(copy) as out:
            backupfile.copy_database(file, contents, out, path)
        return look_into(copy, contents.database_key, _count) if contents.database_size else NOTHING


def _count(tx: Tx) -> Counts:
    def one(query: str) -> int:
        return int(tx.execute(f"SELECT count(*) FROM {query}").get)

    waiting = "outgoing WHERE state IN ('queued', 'offered', 'held_identity')"
    return Counts(one("contacts"), one("outgoing"), one("incoming WHERE length(body) > 0"), one(waiting))


def _measure(file: BinaryIO) -> tuple[int, bytes]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.digest()


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A private folder on the same disk as `file`, removed afterwards. What lies in it is encrypted anyway."""
    try:
        with TemporaryDirectory(prefix=".p2pe-", dir=file.parent) as folder:
            yield Path(folder)
    except FileNotFoundError as error:
        if not file.parent.is_dir():
            raise file_error("writing", file, error) from error
        raise


@contextmanager
def _private(path: Path) -> Iterator[Any]:
    """A new file of mode 0600, for writing. Raises OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"{path} doesn't exist") from None
    except OSError as error:
        raise file_error("reading", path, error) from error
    with file:
        yield file
