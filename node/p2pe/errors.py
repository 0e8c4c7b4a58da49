"""The error hierarchy. Whose fault it is decides what happens next.

`LocalError`: our caller's mistake; told to the person, with the way out. `RemoteError`: a peer misbehaved; its
connection is dropped, and nobody here is bothered. `StorageError`: the disk or the database; work stops rather
than pretends. `Unreachable`: nobody's fault; the courier tries again later.
"""

from __future__ import annotations

from enum import IntEnum

from p2pe.model import PathAttempt


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    NOT_FOUND = 4
    TIMED_OUT = 5


class P2peError(Exception):
    """Base of all errors of ours. `str()` is a message for people: the thing, the value, the way out."""

    code: str = "error"  # stable machine-readable name; the control API sends it
    exit_code: ExitCode = ExitCode.FAILED


class LocalError(P2peError):
    """The caller asked for something that can't be done as asked."""

    code = "invalid"


class UsageError(LocalError):
    code = "usage"
    exit_code = ExitCode.USAGE


class NotFound(LocalError):
    code = "not_found"
    exit_code = ExitCode.NOT_FOUND


class Conflict(LocalError):
    """The same idempotency key with other content, a name that is taken, a home already in use."""

    code = "conflict"


class TimedOut(P2peError):
    code = "timed_out"
    exit_code = ExitCode.TIMED_OUT


class NoDaemon(P2peError):
    code = "no_daemon"
    exit_code = ExitCode.NO_DAEMON


class StorageError(P2peError):
    """The disk is full, the file is damaged, the home isn't writable. Nothing was half done."""

    code = "storage"


class WrongPassphrase(StorageError):
    code = "wrong_passphrase"


class RemoteError(P2peError):
    """The other side broke the protocol. Drop the connection."""

    code = "remote"


class HandshakeError(RemoteError):
    """Authentication failed, or a handshake message was malformed."""

    code = "handshake"


class LinkClosed(P2peError):
    """The stream to the other side ended, for whatever reason."""

    code = "link_closed"


class Unreachable(P2peError):
    """No path to the contact right now. `str()` names the step that failed; `attempts` what each address answered."""

    code = "unreachable"

    def __init__(self, message: str = "", attempts: tuple[PathAttempt, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class NoDirectory(Unreachable):
    """No directory server answers: whether the contact is there can't be told."""


class PairingError(LocalError):
    """Pairing failed; subclasses say which way."""

    code = "pairing"


class WrongCode(PairingError):
    code = "wrong_code"


class InviteExpired(PairingError):
    code = "invite_expired"


class GuessesSpent(PairingError):
    code = "guesses_spent"


class OwnInvite(PairingError):
    code = "own_invite"


class AlreadyContact(PairingError):
    code = "already_contact"


class InviteNotFound(PairingError):
    """Nobody is publishing under this locator (yet, or any more)."""

    code = "invite_not_found"
    exit_code = ExitCode.NOT_FOUND
