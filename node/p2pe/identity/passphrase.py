"""Where the passphrase comes from. First that exists: --passphrase-file, P2PE_PASSPHRASE_FILE, a systemd credential
named p2pe-passphrase, a prompt on a terminal. Else there is none.

Text is normalized (Unicode NFKC), since keyboards differ in how they compose letters; one line end is cut off a file.
"""

from __future__ import annotations

import getpass
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from p2pe import config
from p2pe.errors import UsageError
from p2pe.identity.files import file_error

CREDENTIAL = "p2pe-passphrase"  # systemd: LoadCredential=p2pe-passphrase:/etc/p2pe/passphrase
Ask = Callable[[str], str]


def terminal() -> Ask | None:
    """A prompt without echo, when somebody is there to answer it."""
    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def given_passphrase(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The passphrase that a file holds, if any is named. Raises UsageError (empty, not text), StorageError."""
    if file is not None:
        return _from_file(file)
    if named := environment.get("P2PE_PASSPHRASE_FILE"):
        return _from_file(Path(named))
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if credential.exists():
            return _from_file(credential)
    return None


def existing_passphrase(
    file: Path | None, environment: Mapping[str, str], *, sealed: bool, ask: Ask | None
) -> str | None:
    """For opening a key file: asks only when it is sealed and no file is named."""
    given = given_passphrase(file, environment)
    if given is not None or not sealed or ask is None:
        return given
    return _normal(ask("Passphrase: "))


def new_passphrase(file: Path | None, environment: Mapping[str, str], *, ask: Ask | None) -> str | None:
    """For sealing a new key file: asked for twice; empty means none. Raises UsageError when the two differ."""
    given = given_passphrase(file, environment)
    if given is not None or ask is None:
        return given
    first = _normal(ask("New passphrase (empty for none): "))
    if not first:
        return None
    if _normal(ask("The same again: ")) != first:
        raise UsageError("the two passphrases differ: nothing was changed, try again")
    return first


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(config.MAX_PASSPHRASE_BYTES + 2)
    except OSError as error:
        raise file_error("reading the passphrase file", path, error) from error
    try:
        text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(f"{path} isn't UTF-8 text: a passphrase file holds one line") from None
    if not text or "\n" in text or len(raw) > config.MAX_PASSPHRASE_BYTES:
        raise UsageError(f"{path} must hold one line, not empty, of at most {config.MAX_PASSPHRASE_BYTES} bytes")
    return _normal(text)
