"""Making, opening and changing an identity in a home. Blocking (Argon2id, fsync): call through world.threads."""

from __future__ import annotations

from dataclasses import replace

from p2pe import config
from p2pe.core.certificate import make_certificate, verify_certificate
from p2pe.errors import Conflict, UsageError
from p2pe.identity.home import Home
from p2pe.identity.keyfile import DeviceBox, read_keys, write_keys
from p2pe.identity.keys import KEY_BYTES, SEED_BYTES, DeviceKeys, Identity, RootKeys, next_list_version
from p2pe.identity.words import seed_of, words_of
from p2pe.model import Millis
from p2pe.ports import Entropy


def create_identity(
    home: Home, passphrase: str | None, entropy: Entropy, now: Millis, words: str | None = None
) -> tuple[Identity, str]:
    """A new identity, or with `words` the one they stand for on a new device, in a home that has none.

    Returns it (with its root seed) and its 24 words, to be shown once. Raises Conflict (there is one already),
    UsageError (words or passphrase unfit), StorageError.
    """
    seed = entropy(SEED_BYTES) if words is None else seed_of(words)
    refuse_occupied(home)
    identity = enrol(seed, entropy, now)
    store_identity(home, passphrase, identity, entropy)
    return identity, words_of(seed)


def open_identity(home: Home, passphrase: str | None, *, with_root: bool = False) -> Identity:
    """Raises NotFound (`p2pe init` first), WrongPassphrase, StorageError."""
    return read_keys(home.keys, passphrase, with_root=with_root)


def enrol(
    seed: bytes, entropy: Entropy, now: Millis, *, list_version: int = 0, revoked: tuple[bytes, ...] = ()
) -> Identity:
    """A new device of the identity of `seed`, certified; `list_version` is the highest one known so far."""
    root, device = RootKeys.from_seed(seed), DeviceKeys.generate(entropy)
    certificate = make_certificate(root.signing_seed, device.public, next_list_version(list_version, now), now, revoked)
    return Identity(
        identity_key=root.identity_key,
        device_private=device.private,
        device_public=device.public,
        certificate=certificate,
        k_ticket=root.k_ticket,
        k_msgid=root.k_msgid,
        database_key=entropy(KEY_BYTES),
        root_seed=seed,
    )


def revoke_devices(
    home: Home, passphrase: str | None, revoked: tuple[bytes, ...], entropy: Entropy, now: Millis
) -> Identity:
    """A newer certificate for this device that names `revoked` device keys besides those named already.

    Raises UsageError (this very device, or more than config.MAX_REVOKED_DEVICES), WrongPassphrase, StorageError.
    """
    identity = open_identity(home, passphrase, with_root=True)
    assert identity.root_seed is not None
    old = verify_certificate(identity.certificate)
    every = tuple(dict.fromkeys(old.revoked + revoked))
    if identity.device_public in every:
        raise UsageError("this device can't revoke itself: restore the identity on another one, then revoke this one")
    if len(every) > config.MAX_REVOKED_DEVICES:
        raise UsageError(f"a certificate names at most {config.MAX_REVOKED_DEVICES} revoked devices")
    certificate = make_certificate(
        RootKeys.from_seed(identity.root_seed).signing_seed,
        identity.device_public,
        next_list_version(old.list_version, now),
        now,
        every,
    )
    renewed = replace(identity, certificate=certificate)
    store_identity(home, passphrase, renewed, entropy)
    return renewed


def change_passphrase(home: Home, old: str | None, new: str | None, entropy: Entropy) -> None:
    """Seals the same keys anew (or, with None, unseals them). Copies made earlier still open with the old one."""
    store_identity(home, new, open_identity(home, old, with_root=True), entropy)


def store_identity(home: Home, passphrase: str | None, identity: Identity, entropy: Entropy) -> None:
    """Writes the key file of an identity whose root seed is at hand."""
    assert identity.root_seed is not None
    if passphrase is not None and len(passphrase) < config.MIN_PASSPHRASE_CHARS:
        raise UsageError(f"a passphrase has at least {config.MIN_PASSPHRASE_CHARS} characters; a few words are best")
    home.create()
    device = DeviceBox(
        device_private=identity.device_private,
        certificate=identity.certificate,
        database_key=identity.database_key,
        k_ticket=identity.k_ticket,
        k_msgid=identity.k_msgid,
    )
    write_keys(home.keys, passphrase, device, identity.root_seed, entropy)


def refuse_occupied(home: Home) -> None:
    """Raises Conflict when the home holds an identity, or a database whose keys are gone."""
    for path in (home.keys, home.database):
        if path.exists():
            raise Conflict(f"{path} exists already: nothing was changed. Choose another home with --home")
