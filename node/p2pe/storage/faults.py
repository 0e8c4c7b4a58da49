"""What SQLite reports, as sentences for people: which file, what is wrong with it, what to do."""

from __future__ import annotations

from pathlib import Path

import apsw

from p2pe.errors import StorageError

# Faults of the disk or the file. Anything else that SQLite raises (a violated constraint, wrong SQL) is a
# mistake of ours or of the caller and passes through unchanged.
_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (apsw.FullError, "the disk holding {path} is full; nothing was changed. Free some space and try again"),
    (
        apsw.ReadOnlyError,
        "{path} can't be written; nothing was changed. Make the file and its directory writable for this user, "
        "or choose another home with --home",
    ),
    (
        apsw.CantOpenError,
        "{path} can't be opened. Check that its directory exists and that this user may read and write it",
    ),
    (
        apsw.NotADBError,
        "{path} can't be read with this home's key: it is damaged, or it belongs to another key file. Keep a copy "
        "of both files; `p2pe restore FILE` into an empty home brings a backup back",
    ),
    (
        apsw.CorruptError,
        "{path} is damaged ({detail}). Keep a copy of it; `p2pe restore FILE` into an empty home brings a backup back",
    ),
    (apsw.BusyError, "{path} is in use by another process. Stop that one, then try again"),
    (apsw.LockedError, "{path} is in use by another process. Stop that one, then try again"),
    (
        apsw.IOError,
        "reading or writing {path} failed ({detail}); nothing was changed. Check the disk, its quota and the "
        "system's log",
    ),
    (apsw.PermissionsError, "access to {path} was refused. Check its owner and mode"),
    (apsw.AuthError, "access to {path} was refused. Check its owner and mode"),
    (apsw.NoMemError, "there wasn't enough memory to use {path}; nothing was changed"),
    (apsw.ProtocolError, "locking {path} failed ({detail}). A home must be on a local disk, not a network share"),
)


def storage_error(error: BaseException, path: Path | str) -> StorageError | None:
    """The StorageError that stands for `error`, or None when it isn't a fault of the disk or the file."""
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return StorageError(advice.format(path=path, detail=error))
    return None
