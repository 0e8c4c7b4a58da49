"""A second Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256, written from the specification (revision 34) for tests alone.

Plain and short on purpose: it shares no code with the library that the product uses, so that both being wrong
in the same way is unlikely. It writes and reads; it checks nothing beyond tags.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PATTERN = (("psk", "e"), ("e", "ee", "s", "es"), ("s", "se", "psk"))  # XX with psk0 and psk3
NAME = b"Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256"


def hkdf(key: bytes, material: bytes, count: int) -> list[bytes]:
    temp = hmac.digest(key, material, "sha256")
    outputs, last = [], b""
    for number in range(1, count + 1):
        last = hmac.digest(temp, last + bytes([number]), "sha256")
        outputs.append(last)
    return outputs


def seal(key: bytes, number: int, extra: bytes, text: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(4) + number.to_bytes(8, "little"), text, extra)


def unseal(key: bytes, number: int, extra: bytes, text: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(4) + number.to_bytes(8, "little"), text, extra)


def rekey(key: bytes) -> bytes:
    return seal(key, 2**64 - 1, b"", bytes(32))[:32]


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private: bytes, other: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))


class Reference:
    def __init__(self, *, initiator: bool, s: bytes, e: bytes, psks: list[bytes], prologue: bytes) -> None:
        self.initiator, self.s, self.e, self.psks = initiator, s, e, list(psks)
        self.rs = self.re = b""
        self.h = self.ck = hashlib.sha256(NAME).digest()  # the name is longer than 32 bytes
        self.k, self.n, self.at = b"", 0, 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        self.ck, self.k = hkdf(self.ck, material, 2)
        self.n = 0

    def mix_psk(self) -> None:
        self.ck, mixed, self.k = hkdf(self.ck, self.psks.pop(0), 3)
        self.mix_hash(mixed)
        self.n = 0

    def encrypt(self, text: bytes) -> bytes:
        out = seal(self.k, self.n, self.h, text)
        self.n += 1
        self.mix_hash(out)
        return out

    def decrypt(self, text: bytes) -> bytes:
        out = unseal(self.k, self.n, self.h, text)
        self.n += 1
        self.mix_hash(text)
        return out

    def agree(self, token: str) -> None:
        ours_first = (token[0] == "e") == self.initiator or token == "ee"
        mine = self.e if token == "ee" or ours_first else self.s
        theirs = self.re if token == "ee" or not ours_first else self.rs
        self.mix_key(dh(mine, theirs))

    def write(self, payload: bytes) -> bytes:
        out = b""
        for token in PATTERN[self.at]:
            if token == "psk":
                self.mix_psk()
            elif token == "e":
                out += public(self.e)
                self.mix_hash(public(self.e))
                self.mix_key(public(self.e))  # section 9.2: e is mixed into the key when PSKs are in use
            elif token == "s":
                out += self.encrypt(public(self.s))
            else:
                self.agree(token)
        self.at += 1
        return out + self.encrypt(payload)

    def read(self, message: bytes) -> bytes:
        for token in PATTERN[self.at]:
            if token == "psk":
                self.mix_psk()
            elif token == "e":
                self.re, message = message[:32], message[32:]
                self.mix_hash(self.re)
                self.mix_key(self.re)
            elif token == "s":
                self.rs, message = self.decrypt(message[:48]), message[48:]
            else:
                self.agree(token)
        self.at += 1
        return self.decrypt(message)

    def split(self) -> tuple[bytes, bytes]:
        """Keys initiator to responder, and back."""
        first, second = hkdf(self.ck, b"", 2)
        return first, second
