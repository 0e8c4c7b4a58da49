"""The key file: everything secret that must survive a restart, besides the database that one of its keys opens.

A JSON object: `format` "p2pe keys", `version` 1, `kdf` (Argon2id parameters, or null when there is no passphrase),
and two boxes, base64. `device` holds what a running node needs: device key, certificate, database key, K_ticket,
K_msgid. `root` holds the seed, from which IK's signing key follows. A daemon opens `device` alone, so that reading
its memory gives nobody the power to certify another device; the seed is opened only to show the words, to make a
backup, or to revoke a device, each of which asks for the passphrase again.

With `kdf` null the boxes are plain and the file's mode, 0600, is all that protects them: it keeps out other users
of the machine, not whoever gets the disk, a copy of it, or root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pe import config
from p2pe.core.certificate import verify_certificate
from p2pe.errors import HandshakeError, NotFound, StorageError, WrongPassphrase
from p2pe.identity.files import read_private, write_private
from p2pe.identity.keys import KEY_BYTES, SEED_BYTES, DeviceKeys, Identity, RootKeys
from p2pe.identity.sealing import SALT_BYTES, KdfParameters, decode, encode, master_key, seal, unseal
from p2pe.ports import Entropy

FORMAT = "p2pe keys"
VERSION = 1
_DEVICE, _ROOT = b"key file 1 device", b"key file 1 root"


@dataclass(frozen=True, slots=True)
class DeviceBox:
    """The plaintext of the `device` box."""

    device_private: bytes = field(repr=False)
    certificate: bytes
    database_key: bytes = field(repr=False)
    k_ticket: bytes = field(repr=False)
    k_msgid: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        return json.dumps({name: encode(getattr(self, name)) for name in self.__slots__}).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> DeviceBox:
        """Raises ValueError."""
        value = json.loads(raw)
        if not isinstance(value, dict) or set(value) != set(cls.__slots__):
            raise ValueError("the device box has the wrong fields")
        box = cls(**{name: decode(text) for name, text in value.items()})
        if any(len(key) != KEY_BYTES for key in (box.device_private, box.database_key, box.k_ticket, box.k_msgid)):
            raise ValueError("a key of the wrong size")
        return box


def is_sealed(path: Path) -> bool:
    """Whether opening it takes a passphrase. Raises NotFound, StorageError."""
    return _load(path)["kdf"] is not None


def write_keys(path: Path, passphrase: str | None, device: DeviceBox, root_seed: bytes, entropy: Entropy) -> None:
    """Writes the whole file, durably, in place of what was there. Raises StorageError."""
    value: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kdf": None}
    if passphrase is None:
        value |= {"device": encode(device.to_bytes()), "root": encode(root_seed)}
    else:
        parameters = KdfParameters(entropy(SALT_BYTES), config.ARGON2_MEMORY, config.ARGON2_PASSES)
        master = master_key(passphrase, parameters)
        value |= {
            "kdf": parameters.to_json(),
            "device": encode(seal(master, _DEVICE, device.to_bytes(), entropy)),
            "root": encode(seal(master, _ROOT, root_seed, entropy)),
        }
    write_private(path, json.dumps(value, indent=1).encode() + b"\n")


def read_keys(path: Path, passphrase: str | None, *, with_root: bool = False) -> Identity:
    """Opens the device box, and the root box when asked.

    Raises NotFound (no key file), WrongPassphrase (wrong, missing, or the file was altered), StorageError (readable
    by others, damaged, of a newer version).
    """
    value = _load(path)
    master = None
    if value["kdf"] is not None:
        if passphrase is None:
            raise WrongPassphrase(
                f"{path} is sealed with a passphrase: type it at the prompt, or name a file that holds it with "
                "--passphrase-file or P2PE_PASSPHRASE_FILE"
            )
        master = master_key(passphrase, value["kdf"])
    try:
        device = DeviceBox.from_bytes(_open(value["device"], _DEVICE, master, path))
        certificate = verify_certificate(device.certificate)
        seed = _open(value["root"], _ROOT, master, path) if with_root else None
        if seed is not None and RootKeys.from_seed(seed).identity_key != certificate.identity_key:
            raise ValueError("the root seed belongs to another identity")
    except (ValueError, HandshakeError) as error:
        raise _damaged(path, str(error)) from error
    public = DeviceKeys.from_private(device.device_private).public
    if certificate.device_key != public:
        raise _damaged(path, "its certificate is for another device")
    return Identity(
        identity_key=certificate.identity_key,
        device_private=device.device_private,
        device_public=public,
        certificate=device.certificate,
        k_ticket=device.k_ticket,
        k_msgid=device.k_msgid,
        database_key=device.database_key,
        root_seed=seed,
    )


def _open(box: bytes, name: bytes, master: bytes | None, path: Path) -> bytes:
    if master is None:
        return box
    plaintext = unseal(master, name, box)
    if plaintext is None:
        raise WrongPassphrase(
            f"this isn't the passphrase of {path} (or the file was altered). If it is lost, the 24 words restore the "
            "identity into an empty home"
        )
    return plaintext


def _load(path: Path) -> dict[str, Any]:
    """The outer object, with `kdf` as KdfParameters or None and the boxes as bytes."""
    try:
        raw = read_private(path, config.MAX_KEY_FILE_BYTES)
    except NotFound:
        raise NotFound(f"there is no identity in {path.parent}: `p2pe init` makes one") from None
    try:
        value = json.loads(raw)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError("it isn't a p2pe key file")
        if isinstance(value.get("version"), int) and value["version"] > VERSION:
            raise StorageError(f"{path} was written by a newer p2pe (version {value['version']}): upgrade this one")
        kdf = None if value["kdf"] is None else KdfParameters.from_json(value["kdf"])
        device, root = decode(value["device"]), decode(value["root"])
    except (ValueError, KeyError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if kdf is None and len(root) != SEED_BYTES:
        raise _damaged(path, "a root seed of the wrong size")
    return {"kdf": kdf, "device": device, "root": root}


def _damaged(path: Path, detail: str) -> StorageError:
    return StorageError(
        f"{path} is damaged ({detail}). Restore a copy of it, or restore a backup or the 24 words into an empty home"
    )
