"""tests/vectors/identity.json: what must be accepted, and what must be refused for which reason."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from crypto_support import BOB, make_dialer, make_responder, shake
from p2pe.core import derive
from p2pe.core.handshake import Expected, LocalParty
from p2pe.core.tickets import open_ticket
from p2pe.errors import HandshakeError, RemoteError
from p2pe.model import IdentityKey, PeerId, Purpose

FOLDER = Path(__file__).parent.parent / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "identity.json").read_text())
REASONS = {
    "other_device": "another device",
    "older_list": "was seen before",
    "revoked": "revoked by its owner",
    "other_identity": "isn't the one expected",
    "signature": "signature is false",
}


def named(kind: str) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in VECTORS[kind]]


def test_the_file_is_what_its_maker_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_identity", FOLDER / "make_identity.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.vectors() == VECTORS


@pytest.mark.parametrize("vector", named("tickets"))
def test_tickets(vector: dict[str, Any]) -> None:
    raw, presenter = bytes.fromhex(vector["ticket"]), bytes.fromhex(vector["presented_by"])
    try:
        ticket = open_ticket(bytes.fromhex(vector["k_ticket"]), raw)
    except RemoteError:
        found = "not_ours"
    else:
        found = "ok" if ticket.peer_identity_key == presenter else "other_peer"
    assert found == vector["expect"]


@pytest.mark.parametrize("purpose", [Purpose.SESSION, Purpose.RECOVER])
@pytest.mark.parametrize("vector", named("certificates"))
def test_certificates_in_a_handshake(vector: dict[str, Any], purpose: Purpose) -> None:
    """The one who presents the certificate is the responder: a session dialled, or a restored node found."""
    expected_identity = IdentityKey(bytes.fromhex(vector["expected_identity"]))
    expected = Expected(
        expected_identity,
        None,
        vector["list_version_seen"],
        revoked=frozenset(bytes.fromhex(each) for each in vector["revoked_seen"]),
    )
    presenting = LocalParty(
        expected_identity,
        bytes.fromhex(vector["noise_static_private"]),
        bytes.fromhex(vector["certificate"]),
        PeerId(BOB.peer_id),
    )
    dialer = make_dialer(purpose=purpose, expected=expected)
    responder = make_responder(presenting)
    theirs = Expected() if purpose is Purpose.RECOVER else None
    if vector["expect"] == "ok":
        ours, _ = shake(dialer, responder, expected=theirs)
        assert ours.peer_identity_key == expected_identity
        return
    with pytest.raises(HandshakeError, match=REASONS[vector["expect"]]):
        shake(dialer, responder, expected=theirs)


def test_recovery_and_rotation() -> None:
    recovery, rotation = VECTORS["recovery"], VECTORS["rotation"]
    identity = IdentityKey(bytes.fromhex(recovery["identity"]))
    assert derive.recover_lookup_seed(identity, recovery["day"]).hex() == recovery["lookup_seed"]
    assert derive.recover_aead_key(identity, recovery["day"]).hex() == recovery["record_aead_key"]
    assert derive.recover_psk0(identity).hex() == recovery["psk0"]
    secrets = [bytes.fromhex(rotation[f]) for f in ("secret", "contribution_proposer", "contribution_accepter")]
    assert derive.rotated_secret(*secrets, rotation["epoch"]).hex() == rotation["next_secret"]
