"""The directory of a bootstrap node: its lasting key, its lock, and where it said it listens."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pe.errors import Conflict, NoDaemon, StorageError
from p2pe.overlay.hostkey import SEED_BYTES, HostKey

_KEY, _LOCK, _ADDRESSES, _HEALTH = "host.key", "lock", "addresses", "health.json"
_PERSONS_KEYS = "keys"  # as p2pe.identity.home calls them


class BootstrapHome:
    """Files under `path`: `host.key` (32 bytes, mode 0600: whoever has it can pose as this node), `lock`,
    `addresses` (text, one multiaddr a line) and, while running, `health.json` (of the directory)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and holds its lock. Raises Conflict when another process does or the home is that of
        a person's node (P2PE_HOME means both), StorageError when the directory can't be used."""
        if (self.path / _PERSONS_KEYS).exists():
            raise Conflict(f"{self.path} is the home of a person's node; give this one a home of its own with --home")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{self.path} can't be used as home: {error.strerror}; choose another --home") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                raise Conflict(f"{self.path} is in use by process {owner}; stop it or choose another --home") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def load_or_create_key(self) -> HostKey:
        """The lasting key, made on the first run. Raises StorageError when it can't be read, or is open to others."""
        path = self.path / _KEY
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return self._create_key(path)
        except OSError as error:
            raise StorageError(f"{path} can't be read: {error.strerror}") from None
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path} can be read by others; run: chmod 600 {path}")
        if len(raw) != SEED_BYTES:
            raise StorageError(
                f"{path} is damaged ({len(raw)} bytes instead of {SEED_BYTES}); restore it from a backup"
            )
        return HostKey.from_bytes(raw)

    def _create_key(self, path: Path) -> HostKey:
        key = HostKey.generate(os.urandom)
        temporary = path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, key.to_bytes())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.rename(path)
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error.strerror}") from None
        return key

    def write_addresses(self, addresses: Sequence[str]) -> None:
        try:
            (self.path / _ADDRESSES).write_text("".join(f"{address}\n" for address in addresses))
        except OSError as error:
            raise StorageError(f"{self.path / _ADDRESSES} can't be written: {error.strerror}") from None

    def remove_addresses(self) -> None:
        for name in (_ADDRESSES, _HEALTH):
            (self.path / name).unlink(missing_ok=True)

    def write_health(self, health: Mapping[str, Any]) -> None:
        """Raises OSError."""
        temporary = self.path / f"{_HEALTH}.new"
        temporary.write_text(json.dumps(health))
        temporary.rename(self.path / _HEALTH)

    def read_health(self) -> dict[str, Any] | None:
        """What the running node wrote last; None when there is nothing readable."""
        try:
            found = json.loads((self.path / _HEALTH).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def read_addresses(self) -> tuple[str, ...]:
        """Raises NoDaemon when no node runs in this home."""
        try:
            return tuple((self.path / _ADDRESSES).read_text().split())
        except OSError:
            raise NoDaemon(f"no bootstrap node runs in {self.path}; start one with: p2pe-bootstrap run") from None
