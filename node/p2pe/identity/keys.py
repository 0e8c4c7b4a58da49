"""Root keys from the seed, device keys, and what a running node has of them. Formats: docs/protocol.md "Keys"."""

from __future__ import annotations

from dataclasses import dataclass, field

from nacl.bindings import crypto_scalarmult_base
from nacl.signing import SigningKey

from p2pe.core.derive import hkdf
from p2pe.model import IdentityKey, Millis
from p2pe.ports import Entropy

SEED_BYTES = 32
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class RootKeys:
    """All that follows from the 24 words. `signing_seed` signs device certificates and nothing else."""

    signing_seed: bytes = field(repr=False)  # Ed25519 seed of IK (RFC 8032)
    identity_key: IdentityKey
    k_ticket: bytes = field(repr=False)
    k_msgid: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> RootKeys:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a root seed has {SEED_BYTES} bytes, not {len(seed)}")
        signing_seed = hkdf(seed, b"p2pe/1 ik")
        return cls(
            signing_seed=signing_seed,
            identity_key=IdentityKey(bytes(SigningKey(signing_seed).verify_key)),
            k_ticket=hkdf(seed, b"p2pe/1 ticket"),
            k_msgid=hkdf(seed, b"p2pe/1 msgid"),
        )


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """One installation's X25519 pair (RFC 7748): the Noise static key."""

    private: bytes = field(repr=False)
    public: bytes

    @classmethod
    def from_private(cls, private: bytes) -> DeviceKeys:
        return cls(private, crypto_scalarmult_base(private))

    @classmethod
    def generate(cls, entropy: Entropy) -> DeviceKeys:
        return cls.from_private(entropy(KEY_BYTES))


@dataclass(slots=True)
class Identity:
    """What a running node holds. `root_seed` is None unless it was asked for: a daemon never needs it.

    Of a running node, `certificate` alone changes, when a device is revoked: every handshake reads it anew.
    """

    identity_key: IdentityKey
    device_private: bytes = field(repr=False)
    device_public: bytes
    certificate: bytes = field(repr=False)  # a serialized DeviceCertificate
    k_ticket: bytes = field(repr=False)
    k_msgid: bytes = field(repr=False)
    database_key: bytes = field(repr=False)
    root_seed: bytes | None = field(default=None, repr=False)


def next_list_version(previous: int, now: Millis) -> int:
    """The list version of a new certificate: Unix seconds, or one more than the previous one if that is later.

    Somebody who restores from the 24 words alone doesn't know the number that contacts have seen, and they refuse
    lower ones; the time is always higher, unless an earlier clock was ahead.
    """
    return max(previous + 1, now // 1000)
