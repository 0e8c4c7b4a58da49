"""Small private files: written whole or not at all, readable by their owner alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from p2pe.errors import NotFound, StorageError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and try again",
    errno.EDQUOT: "this user's disk quota is used up: free some space and try again",
    errno.EROFS: "the disk is mounted read-only: choose another home with --home, or remount it",
    errno.EACCES: "this user may not: check the owner and mode of the directory, or choose another home with --home",
    errno.EPERM: "this user may not: check the owner and mode of the directory, or choose another home with --home",
    errno.ENOENT: "the directory doesn't exist",
    errno.EEXIST: "a file of that name is in the way: choose another home with --home",
    errno.ENOTDIR: "a part of that path is a file, not a directory",
    errno.EFBIG: "a limit on file sizes was reached",
}


def file_error(doing: str, path: Path, error: OSError) -> StorageError:
    """A sentence for people: what was being done to which file, why it failed, and the way out."""
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{doing} {path} failed: {advice}")


def write_private(path: Path, data: bytes) -> None:
    """Puts `data` at `path` with mode 0600, replacing what was there only once all of it is on the disk.

    Both the file and its directory entry are fsynced. Raises StorageError; `path` is then as it was before.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)  # left by a crash; whoever writes here holds the home's lock
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise file_error("writing", path, error) from error


def sync_directory(path: Path) -> None:
    """Makes names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, limit: int) -> bytes:
    """Reads a file that nobody but its owner may read or write.

    Raises NotFound; StorageError when others have access to it, or when it is longer than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise StorageError(
                    f"{path} has mode {mode:04o}: others on this machine may read or change it. If nobody has, "
                    f"`chmod 600 {path}`; otherwise make a new identity"
                )
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"{path} doesn't exist") from None
    except OSError as error:
        raise file_error("reading", path, error) from error
    if len(data) > limit:
        raise StorageError(f"{path} is longer than {limit} bytes: it isn't what p2pe wrote there")
    return data
