"""Keys, words, the sealed key file, and the changes that may be made to it."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from p2pe import config
from p2pe.core.certificate import verify_certificate
from p2pe.errors import Conflict, NotFound, StorageError, UsageError, WrongPassphrase
from p2pe.identity import keyring
from p2pe.identity.home import Home
from p2pe.identity.keyfile import is_sealed
from p2pe.identity.keys import DeviceKeys, RootKeys, next_list_version
from p2pe.identity.words import seed_of, words_of
from p2pe.model import Millis

NOW = Millis(1_750_000_000_000)
PASSPHRASE = "correct horse battery"
# BIP 39's published English test vector for 32 bytes of 0x7f.
VECTOR = (
    "legal winner thank year wave sausage worth useful legal winner thank year "
    "wave sausage worth useful legal winner thank year wave sausage worth title"
)


@pytest.fixture(autouse=True)
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real function with 1 MiB: the parameters are data, and the tests aren't about their cost."""
    monkeypatch.setattr(config, "ARGON2_MEMORY", config.MIB)
    monkeypatch.setattr(config, "ARGON2_PASSES", 1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


# --- words ---


def test_words_follow_bip39() -> None:
    assert words_of(b"\x7f" * 32) == VECTOR
    assert seed_of(VECTOR) == b"\x7f" * 32


def test_words_are_read_as_people_write_them() -> None:
    assert seed_of("  " + VECTOR.upper().replace(" ", ",\n ")) == b"\x7f" * 32
    assert seed_of(" ".join(f"{i}. {word}" for i, word in enumerate(VECTOR.split(), 1))) == b"\x7f" * 32
    assert seed_of(" ".join(word[:4] for word in VECTOR.split())) == b"\x7f" * 32


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (VECTOR.replace("sausage", "sausge", 1), r"word 6, 'sausge', .* sausage"),
        (VECTOR.replace("title", "zzzz"), "word 24, 'zzzz'"),
        (VECTOR.removesuffix(" title"), "these are 23"),
        (VECTOR + " legal", "these are 25"),
        (VECTOR.replace("title", "useful"), "checksum"),
        (VECTOR.replace("legal winner", "winner legal", 1), "checksum"),
        ("", "these are 0"),
    ],
)
def test_wrong_words_are_explained(words: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        seed_of(words)


# --- keys ---


def test_all_root_keys_follow_from_the_seed_and_differ() -> None:
    one, again, other = RootKeys.from_seed(bytes(32)), RootKeys.from_seed(bytes(32)), RootKeys.from_seed(b"\1" * 32)
    assert one == again
    every = {getattr(root, name) for root in (one, other) for name in RootKeys.__slots__}
    assert len(every) == 8
    assert one.identity_key.hex() == FROZEN_IDENTITY_KEY
    for secret in (one.signing_seed, one.k_msgid, one.k_ticket):
        assert repr(secret) not in repr(one)


# Of the seed of 32 zero bytes: a change here would orphan everybody's identity.
FROZEN_IDENTITY_KEY = "71975a7a69295493f6d9a1d35313dcac1a5fbe5365114e3872d85ad96a950070"


def test_a_device_key_is_x25519() -> None:
    device = DeviceKeys.generate(os.urandom)
    independent = X25519PrivateKey.from_private_bytes(device.private).public_key()
    assert device.public == independent.public_bytes_raw()


def test_list_versions_grow_even_for_whoever_has_forgotten_them() -> None:
    assert next_list_version(0, NOW) == 1_750_000_000
    assert next_list_version(1_750_000_000, NOW) == 1_750_000_001
    assert next_list_version(1_900_000_000, NOW) == 1_900_000_001  # an earlier clock was ahead


# --- the key file ---


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_what_was_made_is_opened_again(home: Home, passphrase: str | None) -> None:
    made, words = keyring.create_identity(home, passphrase, os.urandom, NOW)
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.keys.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.path.iterdir()] == ["keys"]
    assert is_sealed(home.keys) is (passphrase is not None)
    assert keyring.open_identity(home, passphrase) == replace(made, root_seed=None)
    assert keyring.open_identity(home, passphrase, with_root=True) == made
    assert made.root_seed is not None and words == words_of(made.root_seed)
    certificate = verify_certificate(made.certificate)
    assert (certificate.identity_key, certificate.device_key) == (made.identity_key, made.device_public)
    assert DeviceKeys.from_private(made.device_private).public == made.device_public


def test_a_sealed_file_shows_nothing_not_even_whose_it_is(home: Home) -> None:
    made, _ = keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    text = home.keys.read_bytes()
    boxes = json.loads(text)
    raw = text + b64decode(boxes["device"]) + b64decode(boxes["root"])
    for value in (made.identity_key, made.device_public, made.device_private, made.database_key, made.root_seed):
        assert value is not None
        assert value not in raw and b64encode(value) not in raw
    assert "identity_key=" in repr(made)
    for secret in (made.device_private, made.database_key, made.root_seed, made.k_ticket, made.k_msgid):
        assert repr(secret) not in repr(made)


@pytest.mark.parametrize("passphrase", ["correct horse batterz", "", None])
def test_a_wrong_or_missing_passphrase_is_refused(home: Home, passphrase: str | None) -> None:
    keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    with pytest.raises(WrongPassphrase, match="passphrase"):
        keyring.open_identity(home, passphrase)


def test_the_words_make_the_same_identity_on_a_new_device(home: Home, tmp_path: Path) -> None:
    made, words = keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    later = Millis(NOW + 60_000)
    restored, same = keyring.create_identity(Home(tmp_path / "new"), None, os.urandom, later, words)
    assert same == words
    for name in ("identity_key", "k_ticket", "k_msgid"):
        assert getattr(restored, name) == getattr(made, name)
    for name in ("device_public", "database_key"):
        assert getattr(restored, name) != getattr(made, name)
    assert verify_certificate(restored.certificate).list_version > verify_certificate(made.certificate).list_version


def test_an_occupied_home_is_left_alone(home: Home, tmp_path: Path) -> None:
    keyring.create_identity(home, None, os.urandom, NOW)
    before = home.keys.read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        keyring.create_identity(home, None, os.urandom, NOW)
    assert home.keys.read_bytes() == before
    orphan = Home(tmp_path / "orphan")
    orphan.create()
    orphan.database.write_bytes(b"messages whose key file was lost")
    with pytest.raises(Conflict, match=r"p2pe\.db exists already"):
        keyring.create_identity(orphan, None, os.urandom, NOW)


def test_unfit_words_or_passphrase_leave_nothing_behind(home: Home) -> None:
    with pytest.raises(UsageError):
        keyring.create_identity(home, None, os.urandom, NOW, "not a phrase")
    with pytest.raises(UsageError, match="at least 8 characters"):
        keyring.create_identity(home, "short", os.urandom, NOW)
    assert not home.path.exists()


def test_no_identity_yet_says_so(home: Home) -> None:
    with pytest.raises(NotFound, match="p2pe init"):
        keyring.open_identity(home, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_file_that_others_may_read_is_refused(home: Home, mode: int) -> None:
    keyring.create_identity(home, None, os.urandom, NOW)
    home.keys.chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:04o}.*chmod 600"):
        keyring.open_identity(home, None)


@pytest.mark.parametrize("box", ["device", "root"])
def test_every_byte_of_a_box_counts(home: Home, box: str) -> None:
    keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    original = json.loads(home.keys.read_bytes())
    raw = b64decode(original[box])
    for position in range(0, len(raw), max(1, len(raw) // 20)):
        changed = bytearray(raw)
        changed[position] ^= 1
        home.keys.write_text(json.dumps({**original, box: b64encode(changed).decode()}))
        with pytest.raises(WrongPassphrase):
            keyring.open_identity(home, PASSPHRASE, with_root=True)


def test_boxes_cannot_change_places(home: Home) -> None:
    keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    value = json.loads(home.keys.read_bytes())
    home.keys.write_text(json.dumps({**value, "device": value["root"], "root": value["device"]}))
    with pytest.raises(WrongPassphrase):
        keyring.open_identity(home, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 2},
        {"kdf": {"name": "argon2id", "salt": "AAAA", "memory": 65536, "passes": 1}},
        {"kdf": {"name": "argon2id", "salt": "A" * 22 + "==", "memory": 1 << 50, "passes": 1}},
        {"kdf": {"name": "argon2id", "salt": "A" * 22 + "==", "memory": 1 << 20, "passes": 1 << 40}},
        {"kdf": {"name": "scrypt", "salt": "A" * 22 + "==", "memory": 1 << 20, "passes": 1}},
        {"kdf": 5},
        {"device": "not base64!"},
        {"device": None},
        {"device": "AAAA", "kdf": None},
        {"root": "AAAA", "kdf": None},
    ],
    ids=repr,
)
def test_a_damaged_or_forged_key_file_is_a_clear_error(home: Home, change: dict[str, object]) -> None:
    keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    home.keys.write_text(json.dumps({**json.loads(home.keys.read_bytes()), **change}))
    with pytest.raises(StorageError, match=r"keys is damaged|newer p2pe"):
        keyring.open_identity(home, PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 60_000, b" " * 70_000])
def test_anything_else_in_its_place_is_a_clear_error(home: Home, content: bytes) -> None:
    home.create()
    home.keys.write_bytes(content)
    home.keys.chmod(0o600)
    with pytest.raises(StorageError):
        keyring.open_identity(home, PASSPHRASE)


def test_a_plain_file_put_together_from_two_identities_is_refused(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    keyring.create_identity(home, None, os.urandom, NOW)
    keyring.create_identity(other, None, os.urandom, NOW)
    mixed = {**json.loads(home.keys.read_bytes()), "root": json.loads(other.keys.read_bytes())["root"]}
    home.keys.write_text(json.dumps(mixed))
    keyring.open_identity(home, None)
    with pytest.raises(StorageError, match="another identity"):
        keyring.open_identity(home, None, with_root=True)


def test_the_passphrase_can_be_changed_set_and_taken_away(home: Home) -> None:
    made, _ = keyring.create_identity(home, None, os.urandom, NOW)
    for old, new in ((None, PASSPHRASE), (PASSPHRASE, "another one"), ("another one", None)):
        keyring.change_passphrase(home, old, new, os.urandom)
        assert keyring.open_identity(home, new, with_root=True) == made
    keyring.change_passphrase(home, None, PASSPHRASE, os.urandom)
    with pytest.raises(WrongPassphrase):
        keyring.change_passphrase(home, "a wrong one", "a new one", os.urandom)
    assert keyring.open_identity(home, PASSPHRASE, with_root=True) == made


def test_revoking_adds_to_the_list_and_raises_its_version(home: Home) -> None:
    made, _ = keyring.create_identity(home, PASSPHRASE, os.urandom, NOW)
    keyring.revoke_devices(home, PASSPHRASE, (b"a" * 32,), os.urandom, NOW)
    keyring.revoke_devices(home, PASSPHRASE, (b"b" * 32, b"a" * 32), os.urandom, NOW)
    opened = keyring.open_identity(home, PASSPHRASE)
    certificate = verify_certificate(opened.certificate)
    assert certificate.revoked == (b"a" * 32, b"b" * 32)
    assert certificate.list_version == verify_certificate(made.certificate).list_version + 2
    assert opened.device_public == made.device_public and opened.database_key == made.database_key
    with pytest.raises(UsageError, match="can't revoke itself"):
        keyring.revoke_devices(home, PASSPHRASE, (made.device_public,), os.urandom, NOW)
    many = tuple(i.to_bytes(32) for i in range(config.MAX_REVOKED_DEVICES))
    with pytest.raises(UsageError, match="at most"):
        keyring.revoke_devices(home, PASSPHRASE, many, os.urandom, NOW)
    with pytest.raises(WrongPassphrase):
        keyring.revoke_devices(home, None, (b"c" * 32,), os.urandom, NOW)
