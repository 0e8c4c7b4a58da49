"""The directory that is a node: its key file, database, control socket and lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from p2pe.errors import Conflict, StorageError, UsageError
from p2pe.identity.files import file_error

MAX_SOCKET_PATH: Final = 107  # bytes: sun_path of unix(7) without its final NUL


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def database(self) -> Path:
        return self.path / "p2pe.db"

    @property
    def socket(self) -> Path:
        return self.path / "api.sock"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def create(self) -> None:
        """Makes the directory with mode 0700, parents too. Refuses one in which others may exchange files, and one
        whose path is too long for the control socket."""
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise UsageError(
                f"{self.path} is too long a path: the socket in it may have {MAX_SOCKET_PATH} bytes in all. Choose a "
                "shorter home with --home"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise file_error("making", self.path, error) from error
        self._check_mode()

    def _check_mode(self) -> None:
        try:
            mode = self.path.stat().st_mode & 0o777
        except OSError as error:
            raise file_error("looking at", self.path, error) from error
        if mode & 0o022:
            raise StorageError(
                f"{self.path} has mode {mode:04o}: others may exchange files in it. `chmod 700 {self.path}`, or "
                "choose another home with --home"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for this process. Raises Conflict naming the process that has it; StorageError, also when
        others may exchange files in it.

        The kernel lets go of the lock when its process ends, however it ends: a stale file doesn't matter, and the
        file is never removed (a second process could then lock another file of the same name).
        """
        descriptor = self._open_lock()
        try:
            self._check_mode()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise Conflict(
                    f"{self.path} is in use by another p2pe, process {holder}: stop that one, or choose another "
                    "home with --home"
                ) from None
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            except OSError as error:
                raise file_error("writing", self.lock_file, error) from error
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """The process that holds the home right now, or None. A hint for messages: it may change at any time."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 20, 0).strip()
            return int(text) if text.isdigit() else None
        finally:
            os.close(descriptor)
        return None

    def _open_lock(self) -> int:
        try:
            return os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise StorageError(f"{self.path} doesn't exist: `p2pe init` makes it") from None
        except OSError as error:
            raise file_error("writing", self.lock_file, error) from error


def default_home(environment: Mapping[str, str]) -> Home:
    """P2PE_HOME, or the platform's directory for application data (XDG on Linux)."""
    named = environment.get("P2PE_HOME")
    return Home(Path(named) if named else Path(platformdirs.user_data_dir("p2pe", appauthor=False)))
