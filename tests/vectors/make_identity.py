"""Makes tests/vectors/identity.json: known answers and refusals for tickets, certificates, recovery and rotation, for
whoever writes a second implementation. Every value follows from fixed bytes; tests/core/test_identity_vectors.py holds
the file against this program, and this program's sources against the file.

    python tests/vectors/make_identity.py > tests/vectors/identity.json
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nacl.signing import SigningKey
from p2pe.core import derive
from p2pe.core.certificate import make_certificate
from p2pe.core.records import public_key_of, record_key
from p2pe.core.tickets import seal_ticket
from p2pe.identity.keys import DeviceKeys, RootKeys
from p2pe.model import IdentityKey, Millis
from p2pe.proto import session_pb2 as pb

MET = Millis(1_750_000_000_000)


def fixed(label: str) -> bytes:
    """32 bytes that stand for random ones."""
    return hashlib.sha256(b"p2pe test vector " + label.encode()).digest()


GIVER, OTHER_GIVER = RootKeys.from_seed(fixed("giver")), RootKeys.from_seed(fixed("other giver"))
ALICE, MALLORY = RootKeys.from_seed(fixed("alice")), RootKeys.from_seed(fixed("mallory"))
DEVICE, STOLEN = DeviceKeys.from_private(fixed("device")), DeviceKeys.from_private(fixed("stolen device"))


def tickets() -> list[dict[str, Any]]:
    nonce = fixed("ticket nonce")[:24]
    good = seal_ticket(GIVER.k_ticket, ALICE.identity_key, "alice", MET, nonce)
    others = seal_ticket(OTHER_GIVER.k_ticket, ALICE.identity_key, "alice", MET, nonce)
    cases = [
        ("good", good, ALICE, "ok"),
        ("another giver's", others, ALICE, "not_ours"),
        ("a byte of the nonce altered", good[:5] + bytes([good[5] ^ 1]) + good[6:], ALICE, "not_ours"),
        ("a byte of the box altered", good[:200] + bytes([good[200] ^ 1]) + good[201:], ALICE, "not_ours"),
        ("another version", b"\x02" + good[1:], ALICE, "not_ours"),
        ("cut", good[:-1], ALICE, "not_ours"),
        ("empty", b"", ALICE, "not_ours"),
        ("replayed by another identity", good, MALLORY, "other_peer"),
    ]
    return [
        {
            "name": name,
            "giver_seed": fixed("giver").hex(),
            "k_ticket": GIVER.k_ticket.hex(),
            "ticket": ticket.hex(),
            "presented_by": presenter.identity_key.hex(),
            "expect": expect,
        }
        for name, ticket, presenter, expect in cases
    ]


def certificates() -> list[dict[str, Any]]:
    def certificate(root: RootKeys, device: DeviceKeys, version: int, *revoked: bytes) -> bytes:
        return make_certificate(root.signing_seed, device.public, version, MET, revoked)

    good = certificate(ALICE, DEVICE, 7, STOLEN.public)
    outer = pb.DeviceCertificate.FromString(good)
    outer.signature = bytes(SigningKey(MALLORY.signing_seed).sign(b"p2pe/1 device" + outer.body).signature)
    resigned = outer.SerializeToString()
    cases: list[tuple[str, bytes, DeviceKeys, int, tuple[bytes, ...], str]] = [
        ("good, as seen before", good, DEVICE, 7, (), "ok"),
        ("good, newer than seen", good, DEVICE, 6, (STOLEN.public,), "ok"),
        ("for another device key", good, STOLEN, 7, (), "other_device"),
        ("an older list", certificate(ALICE, DEVICE, 6), DEVICE, 7, (), "older_list"),
        ("a revoked device, list as seen", certificate(ALICE, STOLEN, 7), STOLEN, 7, (STOLEN.public,), "revoked"),
        ("a revoked device, newer list", certificate(ALICE, STOLEN, 8), STOLEN, 7, (STOLEN.public,), "revoked"),
        ("another identity's", certificate(MALLORY, DEVICE, 7), DEVICE, 7, (), "other_identity"),
        ("signed by another identity", resigned, DEVICE, 7, (), "signature"),
    ]
    return [
        {
            "name": name,
            "certificate": raw.hex(),
            "noise_static_private": device.private.hex(),
            "expected_identity": ALICE.identity_key.hex(),
            "list_version_seen": seen,
            "revoked_seen": [each.hex() for each in revoked],
            "expect": expect,
        }
        for name, raw, device, seen, revoked, expect in cases
    ]


def recovery() -> dict[str, Any]:
    identity, day = IdentityKey(ALICE.identity_key), derive.day_of(MET)
    seed = derive.recover_lookup_seed(identity, day)
    return {
        "identity": identity.hex(),
        "day": day,
        "lookup_seed": seed.hex(),
        "record_key": record_key(public_key_of(seed), 0).hex(),
        "record_aead_key": derive.recover_aead_key(identity, day).hex(),
        "psk0": derive.recover_psk0(identity).hex(),
    }


def rotation() -> dict[str, Any]:
    secret, ours, theirs, epoch = fixed("secret"), fixed("proposer"), fixed("accepter"), 2
    return {
        "secret": secret.hex(),
        "contribution_proposer": ours.hex(),
        "contribution_accepter": theirs.hex(),
        "epoch": epoch,
        "next_secret": derive.rotated_secret(secret, ours, theirs, epoch).hex(),
    }


def vectors() -> dict[str, Any]:
    return {"tickets": tickets(), "certificates": certificates(), "recovery": recovery(), "rotation": rotation()}


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
