"""The primitives, as we call them, against what is known to go wrong with such code.

The first half needs nothing: RFC cases, and one case made here for each class of fault that Wycheproof's groups
stand for. The second half runs the whole of Wycheproof's files (version 1 schema) where they can be had.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crypto_support import ALICE, PSK0, device_public, make_dialer, make_responder, published_vectors
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from noise.backends.default import diffie_hellmans
from noise.backends.default.keypairs import KeyPair25519
from p2pe.core.derive import hkdf, is_retraction
from p2pe.core.handshake import Expected
from p2pe.errors import HandshakeError
from p2pe.model import MessageId
from p2pe.proto import session_pb2 as pb

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's base point (RFC 8032, section 5.1)
FIELD = 2**255 - 19


def agree(private: bytes, public: bytes) -> bytes:
    """X25519 as the Noise library calls it (in a class by the name of ED25519)."""
    own, other = KeyPair25519.from_private_bytes(private), KeyPair25519.from_public_bytes(public)
    return bytes(diffie_hellmans.ED25519().dh(own.private, other.public))


def is_signature(key: bytes, text: bytes, signature: bytes) -> bool:
    """Ed25519 as certificates and records call it."""
    try:
        VerifyKey(key).verify(text, signature)
    except (CryptoError, ValueError):
        return False
    return True


# --- RFC cases ---


def test_x25519_rfc7748() -> None:
    """RFC 7748, section 5.2: the iterated test, a thousand times."""
    scalar = point = b"\x09" + bytes(31)
    for count in range(1, 1001):
        scalar, point = agree(scalar, point), scalar
        if count == 1:
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_chacha20_poly1305_rfc8439() -> None:
    """RFC 8439, section 2.8.2."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you "
        b"only one tip for the future, sunscreen would be it."
    )
    nonce, extra = bytes.fromhex("070000004041424344454647"), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = ChaCha20Poly1305(bytes(range(0x80, 0xA0))).encrypt(nonce, text, extra)
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_hmac_sha256_rfc4231() -> None:
    """RFC 4231, test cases 1 and 2."""
    first = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    second = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac.digest(b"\x0b" * 20, b"Hi There", "sha256").hex() == first
    assert hmac.digest(b"Jefe", b"what do ya want for nothing?", "sha256").hex() == second


def test_ed25519_rfc8032() -> None:
    """RFC 8032, section 7.1, test 1."""
    signer = SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert bytes(signer.verify_key).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign(b"").signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
        "55141438e7a100b"
    )


# --- one case for each class of fault ---

LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((FIELD + near).to_bytes(32, "little") for near in (-1, 0, 1)),
    (FIELD + 2**255).to_bytes(32, "little"),  # the top bit is ignored
]


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_x25519_low_order_points(public: bytes) -> None:
    """The shared secret would be zero whatever our key is."""
    with pytest.raises(ValueError):
        agree(b"p" * 32, public)


def test_x25519_non_canonical_points_and_unclamped_keys() -> None:
    point = (FIELD + 9).to_bytes(32, "little")  # the base point, not reduced
    assert agree(b"p" * 32, point) == agree(b"p" * 32, b"\x09" + bytes(31)) == device_public(b"p" * 32)
    assert agree(b"\xff" * 32, point) == agree(b"\xf8" + b"\xff" * 30 + b"\x7f", point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_x25519_sizes(size: int) -> None:
    with pytest.raises(ValueError):
        X25519PublicKey.from_public_bytes(bytes(size))
    with pytest.raises(ValueError):
        X25519PrivateKey.from_private_bytes(bytes(size))


@pytest.mark.parametrize("bit", range(128))
def test_chacha20_poly1305_every_tag_bit(bit: int) -> None:
    aead = ChaCha20Poly1305(b"k" * 32)
    sealed = bytearray(aead.encrypt(b"n" * 12, b"text", None))
    sealed[-16 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        aead.decrypt(b"n" * 12, bytes(sealed), None)


@pytest.mark.parametrize("size", [0, 8, 11, 13, 24])
def test_chacha20_poly1305_nonce_sizes(size: int) -> None:
    with pytest.raises(ValueError):
        ChaCha20Poly1305(b"k" * 32).encrypt(bytes(size), b"text", None)


def test_ed25519_malleability_garbage_and_truncation() -> None:
    signer = SigningKey(b"s" * 32)
    key, good = bytes(signer.verify_key), signer.sign(b"text").signature
    scalar = int.from_bytes(good[32:], "little")
    assert is_signature(key, b"text", good)
    assert not is_signature(key, b"text", good[:32] + (scalar + GROUP_ORDER).to_bytes(32, "little"))
    assert not is_signature(key, b"text", good[:32] + bytes(32))
    assert not is_signature(key, b"text", bytes(32) + good[32:])
    assert not is_signature(key, b"text", bytes(64))
    assert not is_signature(key, b"text", good[:63])
    assert not is_signature(key, b"text", good + b"\x00")
    assert not is_signature(key, b"texT", good)
    assert not is_signature(key[:31], b"text", good)


@pytest.mark.parametrize("key", [1, FIELD - 1, FIELD, FIELD + 1, 0])
def test_ed25519_keys_of_small_order_or_not_reduced(key: int) -> None:
    neutral = (1).to_bytes(32, "little") + bytes(32)
    assert not is_signature(key.to_bytes(32, "little"), b"text", neutral)


def test_mac_truncated_or_modified() -> None:
    mac = hmac.digest(b"k" * 32, b"retract" + bytes(32), "sha256")
    assert is_retraction(b"k" * 32, MessageId(bytes(32)), mac)
    for bad in (mac[:31], mac + b"\x00", b"", bytes([mac[0] ^ 0x80]) + mac[1:], mac[:31] + bytes([mac[31] ^ 1])):
        assert not is_retraction(b"k" * 32, MessageId(bytes(32)), bad)


def test_hkdf_outputs_are_prefixes_of_each_other() -> None:
    longest = hkdf(b"secret", b"info", length=8160)
    assert all(hkdf(b"secret", b"info", length=size) == longest[:size] for size in (1, 31, 32, 33, 64, 8159))


def test_mlkem_sizes_modulus_and_implicit_rejection() -> None:
    """FIPS 203, sections 7.2 and 7.3."""
    private = MLKEM768PrivateKey.from_seed_bytes(bytes(range(64)))
    public = private.public_key().public_bytes_raw()
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    assert private.decapsulate(ciphertext) == secret
    altered = private.decapsulate(bytes([ciphertext[0] ^ 1]) + ciphertext[1:])
    assert len(altered) == 32
    assert altered != secret  # no error: the handshake fails at psk3, later, and says nothing about the key
    for bad in (public[:-1], public + b"\x00", b""):
        with pytest.raises(ValueError):
            MLKEM768PublicKey.from_public_bytes(bad)
    for bad in (ciphertext[:-1], ciphertext + b"\x00", b""):
        with pytest.raises(ValueError):
            private.decapsulate(bad)
    with pytest.raises(ValueError):
        MLKEM768PrivateKey.from_seed_bytes(bytes(63))


@pytest.mark.parametrize("coefficient", [3329, 4095])
def test_mlkem_coefficients_above_the_modulus_end_our_handshake(coefficient: int) -> None:
    hello = pb.Hello.FromString(make_dialer().hello())
    for at in (0, 1149):  # of 1152 bytes that hold 768 coefficients of 12 bits
        key = bytearray(hello.mlkem_ek)
        key[at : at + 2] = bytes([coefficient & 0xFF, key[at + 1] & 0xF0 | coefficient >> 8])
        responder = make_responder()
        altered = pb.Hello.FromString(hello.SerializeToString())
        altered.mlkem_ek = bytes(key)
        responder.receive_hello(altered.SerializeToString())
        with pytest.raises(HandshakeError):
            responder.reply(PSK0, expected=Expected(ALICE.identity_key))


# --- Wycheproof's own files ---


def cases(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, test) of a file in the folder wycheproof of the published vectors; at least 20, or it is a mistake."""
    data = published_vectors(f"wycheproof/{name}.json")
    found = [(group, test) for group in data["testGroups"] for test in group["tests"]]
    assert len(found) >= 20
    yield from found


def check(name: str, run: Callable[[dict[str, Any], dict[str, Any]], bool]) -> None:
    """`run` says whether a case was accepted and gave the right result."""
    wrong = Counter[str]()
    for group, test in cases(name):
        if test["result"] != "acceptable" and run(group, test) != (test["result"] == "valid"):
            wrong[f"{test['tcId']} {test.get('flags')} {test.get('comment')}"] += 1
    assert not wrong


def data(test: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(test[name])


def test_published_x25519() -> None:
    def run(_: dict[str, Any], test: dict[str, Any]) -> bool:
        try:
            return agree(data(test, "private"), data(test, "public")) == data(test, "shared")
        except ValueError:
            return False

    check("x25519_test", run)
    zero = [t for _, t in cases("x25519_test") if "ZeroSharedSecret" in t["flags"]]
    assert zero
    assert not any(run({}, test) for test in zero)  # "acceptable" to them; never to Noise as we use it


def test_published_ed25519() -> None:
    def run(group: dict[str, Any], test: dict[str, Any]) -> bool:
        return is_signature(bytes.fromhex(group["publicKey"]["pk"]), data(test, "msg"), data(test, "sig"))

    check("ed25519_test", run)


def test_published_chacha20_poly1305() -> None:
    def run(_: dict[str, Any], test: dict[str, Any]) -> bool:
        aead = ChaCha20Poly1305(data(test, "key"))
        try:
            text = aead.decrypt(data(test, "iv"), data(test, "ct") + data(test, "tag"), data(test, "aad"))
        except (InvalidTag, ValueError):
            return False
        again = aead.encrypt(data(test, "iv"), text, data(test, "aad"))
        return text == data(test, "msg") and again == data(test, "ct") + data(test, "tag")

    check("chacha20_poly1305_test", run)


def test_published_hmac_sha256() -> None:
    def run(group: dict[str, Any], test: dict[str, Any]) -> bool:
        mac = hmac.digest(data(test, "key"), data(test, "msg"), "sha256")[: group["tagSize"] // 8]
        return hmac.compare_digest(mac, data(test, "tag"))

    check("hmac_sha256_test", run)


def test_published_hkdf_sha256() -> None:
    def run(_: dict[str, Any], test: dict[str, Any]) -> bool:
        try:
            out = hkdf(data(test, "ikm"), data(test, "info"), salt=data(test, "salt"), length=test["size"])
        except ValueError:
            return False
        return out == data(test, "okm")

    check("hkdf_sha256_test", run)


def test_published_mlkem_768_decapsulation() -> None:
    def run(_: dict[str, Any], test: dict[str, Any]) -> bool:
        try:
            private = MLKEM768PrivateKey.from_seed_bytes(data(test, "seed"))
            if "ek" in test and private.public_key().public_bytes_raw() != data(test, "ek"):
                return False
            return private.decapsulate(data(test, "c")) == data(test, "K")
        except ValueError:
            return False

    check("mlkem_768_test", run)


def test_published_mlkem_768_encapsulation_keys() -> None:
    """Encapsulation can't be given its randomness, so what is tested is which keys are refused."""

    def run(_: dict[str, Any], test: dict[str, Any]) -> bool:
        try:
            return len(MLKEM768PublicKey.from_public_bytes(data(test, "ek")).encapsulate()[1]) == 1088
        except ValueError:
            return False

    check("mlkem_768_encaps_test", run)


def test_hash_is_sha256() -> None:
    """FIPS 180-4's "abc"."""
    assert hashlib.sha256(b"abc").hexdigest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
