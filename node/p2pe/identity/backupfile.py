"""The outside of a backup file: a header, sealed boxes with the keys, then the database, encrypted page by page.

    "p2pe backup 1\\n" ‖ length of the header (4 bytes, big-endian) ‖ header ‖ database

The header is JSON: `kdf` (Argon2id parameters, or null), `words` and `passphrase` (boxes, base64; the second one null
without a passphrase). Both boxes hold the same Contents. `words` is sealed under HKDF(seed, "p2pe/1 backup"), so the
24 words always open a backup; `passphrase` under Argon2id(passphrase). The database is a SQLite file encrypted under
a key of its own, which is in the boxes together with the file's size and SHA-256: whoever can open a box notices any
change to what follows. Nothing in the clear names the identity.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from p2pe import config
from p2pe.core.derive import hkdf
from p2pe.errors import StorageError, UsageError, WrongPassphrase
from p2pe.identity.keys import KEY_BYTES, SEED_BYTES
from p2pe.identity.sealing import SALT_BYTES, KdfParameters, decode, encode, master_key, seal, unseal
from p2pe.model import Millis
from p2pe.ports import Entropy

MAGIC: Final = b"p2pe backup 1\n"
_MAGIC_ANY: Final = b"p2pe backup "
_WORDS, _PASSPHRASE = b"backup 1 words", b"backup 1 passphrase"
_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Contents:
    """What the boxes hold. `database_size` 0: the node had never run, and there is no database."""

    seed: bytes = field(repr=False)
    certificate: bytes  # of the device that made the backup: its list version and revoked devices go on from there
    database_key: bytes = field(repr=False)  # of the copy in this file, and of nothing else
    database_size: int
    database_sha256: bytes
    made_at: Millis

    def to_bytes(self) -> bytes:
        value = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({k: encode(v) if isinstance(v, bytes) else v for k, v in value.items()}).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Contents:
        """Raises ValueError."""
        value = json.loads(raw)
        if not isinstance(value, dict) or set(value) != set(cls.__slots__):
            raise ValueError("its box has the wrong fields")
        size, made_at = value["database_size"], value["made_at"]
        if not isinstance(size, int) or not isinstance(made_at, int) or size < 0:
            raise ValueError("a number in its box is none")
        seed, key, digest = (decode(value[name]) for name in ("seed", "database_key", "database_sha256"))
        if len(seed) != SEED_BYTES or len(key) != KEY_BYTES or len(digest) != 32:
            raise ValueError("a key of the wrong size")
        return cls(seed, decode(value["certificate"]), key, size, digest, Millis(made_at))


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in the clear."""

    kdf: KdfParameters | None
    words: bytes
    passphrase: bytes | None

    @property
    def has_passphrase(self) -> bool:
        return self.passphrase is not None


def write_backup(
    out: BinaryIO, contents: Contents, passphrase: str | None, database: BinaryIO, entropy: Entropy
) -> None:
    """Writes a whole backup. `database` is read to its end. Blocking (Argon2id). Raises OSError, UsageError."""
    if passphrase is not None and len(passphrase) < config.MIN_PASSPHRASE_CHARS:
        raise UsageError(f"a passphrase has at least {config.MIN_PASSPHRASE_CHARS} characters; a few words are best")
    plain = contents.to_bytes()
    header: dict[str, Any] = {
        "kdf": None,
        "words": encode(seal(words_master(contents.seed), _WORDS, plain, entropy)),
        "passphrase": None,
    }
    if passphrase is not None:
        parameters = KdfParameters(entropy(SALT_BYTES), config.ARGON2_MEMORY, config.ARGON2_PASSES)
        sealed = seal(master_key(passphrase, parameters), _PASSPHRASE, plain, entropy)
        header |= {"kdf": parameters.to_json(), "passphrase": encode(sealed)}
    raw = json.dumps(header).encode()
    out.write(MAGIC + len(raw).to_bytes(4, "big") + raw)
    while chunk := database.read(_CHUNK):
        out.write(chunk)


def words_master(seed: bytes) -> bytes:
    """What the box for the 24 words is sealed under."""
    return hkdf(seed, b"p2pe/1 backup")


def read_header(file: BinaryIO, name: object) -> Header:
    """Reads up to the database. `name` is for messages. Raises StorageError for anything that is no backup of ours."""
    start = file.read(len(MAGIC))
    if start != MAGIC:
        if start.startswith(_MAGIC_ANY):
            raise StorageError(f"{name} is a backup in a form that this p2pe doesn't know: upgrade this one")
        raise StorageError(f"{name} isn't a backup made by `p2pe backup`")
    try:
        size = int.from_bytes(file.read(4), "big")
        if not 0 < size <= config.MAX_KEY_FILE_BYTES:
            raise ValueError("its header is of an impossible size")
        value = json.loads(file.read(size))
        if not isinstance(value, dict):
            raise ValueError("its header isn't an object")
        kdf = None if value["kdf"] is None else KdfParameters.from_json(value["kdf"])
        passphrase = None if kdf is None else decode(value["passphrase"])
        return Header(kdf, decode(value["words"]), passphrase)
    except (ValueError, KeyError, RecursionError) as error:
        raise _damaged(name, str(error)) from error


def open_by_words(header: Header, seed: bytes, name: object) -> Contents:
    """Raises WrongPassphrase when these aren't the words of the identity in the backup; StorageError."""
    plain = unseal(words_master(seed), _WORDS, header.words)
    if plain is None:
        raise WrongPassphrase(f"{name} is a backup of another identity than these 24 words stand for (or was altered)")
    return _contents(plain, name)


def open_by_passphrase(header: Header, passphrase: str, name: object) -> Contents:
    """Blocking (Argon2id). Raises WrongPassphrase, UsageError (it has none), StorageError."""
    if header.kdf is None or header.passphrase is None:
        raise UsageError(f"{name} was made without a passphrase: the 24 words open it (--words-file, or a prompt)")
    plain = unseal(master_key(passphrase, header.kdf), _PASSPHRASE, header.passphrase)
    if plain is None:
        raise WrongPassphrase(
            f"this isn't the passphrase of {name} (or the file was altered); the 24 words open it too"
        )
    return _contents(plain, name)


def copy_database(file: BinaryIO, contents: Contents, out: BinaryIO | None, name: object) -> None:
    """Copies what follows the header to `out` (None: nowhere) and checks it. Raises StorageError, OSError."""
    digest, left = hashlib.sha256(), contents.database_size
    while left and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
        if out is not None:
            out.write(chunk)
    if left:
        raise _damaged(name, f"its last {left} bytes are missing")
    if file.read(1):
        raise _damaged(name, "something was added to it")
    if digest.digest() != contents.database_sha256:
        raise _damaged(name, "its database was changed")


def _contents(plain: bytes, name: object) -> Contents:
    try:
        return Contents.from_bytes(plain)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, str(error)) from error


def _damaged(name: object, finding: str) -> StorageError:
    return StorageError(
        f"{name} is damaged ({finding}). Use another backup, or the 24 words alone: they bring back the identity, and "
        "the contacts as they come by"
    )
