"""The handshake: every purpose, and every way in which the other side may not be who it should be."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_support import ALICE, BOB, MALLORY, PSK0, make_dialer, make_responder, party, shake
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import MAX_HANDSHAKE_BYTES, PROTOCOL_VERSION
from p2pe.core import derive
from p2pe.core.handshake import Expected, LocalParty
from p2pe.core.handshake_messages import (
    AuthPayload,
    Hello,
    HelloReply,
    decode_auth,
    decode_hello,
    decode_reply,
    encode_auth,
    encode_hello,
    encode_reply,
    make_prologue,
)
from p2pe.core.noise_session import NoiseSession
from p2pe.errors import HandshakeError, RemoteError
from p2pe.model import IdentityKey, PeerId, Purpose
from p2pe.proto import session_pb2 as pb

ANYBODY = Expected()


# --- what works ---


def test_session() -> None:
    ours, theirs = shake(make_dialer(), make_responder())
    assert ours.peer_identity_key == BOB.identity_key
    assert theirs.peer_identity_key == ALICE.identity_key
    assert ours.handshake_hash == theirs.handshake_hash
    assert (ours.is_dialer, theirs.is_dialer) == (True, False)
    assert ours.contribution_local == theirs.contribution_remote
    assert ours.contribution_remote == theirs.contribution_local
    assert ours.contribution_local != theirs.contribution_local
    assert ours.purpose is theirs.purpose is Purpose.SESSION
    assert ours.version == theirs.version == PROTOCOL_VERSION
    for number in range(5):
        text = bytes([number]) * number
        assert theirs.recv_cipher.decrypt(ours.send_cipher.encrypt(text)) == text
        assert ours.recv_cipher.decrypt(theirs.send_cipher.encrypt(text)) == text


def test_pairing_by_code_with_a_pake() -> None:
    dialer = make_dialer(purpose=Purpose.PAIR_CODE, expected=ANYBODY, suggested_name="alice", ticket=b"not sent")
    responder = make_responder()
    hello = responder.receive_hello(dialer.hello())
    assert (hello.purpose, hello.pake) == (Purpose.PAIR_CODE, b"A" * 33)
    psk0 = derive.code_psk0(b"what SPAKE2 gave both")
    reply = dialer.read_reply(responder.reply(psk0, pake=b"B" * 33, suggested_name="bob"))
    assert reply.pake == b"B" * 33  # the dialer's SPAKE2 ends between these two steps
    third = dialer.receive_second(responder.receive_first(dialer.first_message(psk0)))
    theirs, ours = responder.receive_third(third), dialer.established
    assert ours is not None
    assert (ours.suggested_name, theirs.suggested_name) == ("bob", "alice")
    assert theirs.ticket == b""
    secret = ours.pair_secret()
    assert secret == theirs.pair_secret()
    assert ours.is_peer_confirm(secret, theirs.confirm_mac(secret))
    assert theirs.is_peer_confirm(secret, ours.confirm_mac(secret))
    assert not ours.is_peer_confirm(secret, ours.confirm_mac(secret))  # reflected
    assert not ours.is_peer_confirm(bytes(32), theirs.confirm_mac(secret))


def test_pairing_by_link_pins_the_inviter() -> None:
    expected = Expected(commitment=derive.identity_commitment(BOB.identity_key))
    dialer = make_dialer(purpose=Purpose.PAIR_LINK, expected=expected)
    ours, _ = shake(dialer, make_responder(), expected=ANYBODY)
    assert ours.peer_identity_key == BOB.identity_key


def test_recovery_carries_the_ticket_one_way() -> None:
    """The restored node (responder) knows nobody; the contact knows it, and shows the ticket that it once got."""
    dialer = make_dialer(purpose=Purpose.RECOVER, ticket=b"t" * 256, suggested_name="not sent")
    ours, theirs = shake(dialer, make_responder(), expected=ANYBODY)
    assert (ours.ticket, theirs.ticket) == (b"", b"t" * 256)
    assert ours.purpose is theirs.purpose is Purpose.RECOVER
    assert theirs.suggested_name == ""
    assert ours.pair_secret() == theirs.pair_secret()


def test_certificates_of_the_largest_size_fit() -> None:
    revoked = tuple(bytes([n]) * 32 for n in range(64))
    alice, bob = party(1, revoked=revoked, list_version=64), party(2, revoked=revoked, list_version=2**62)
    dialer = make_dialer(alice, bob, purpose=Purpose.PAIR_LINK, expected=ANYBODY, suggested_name="😀" * 64)
    ours, theirs = shake(dialer, make_responder(bob, alice), expected=ANYBODY, suggested_name="😀" * 64)
    assert ours.peer_certificate.revoked == theirs.peer_certificate.revoked == revoked


def test_entropy_decides_everything_but_the_encapsulation() -> None:
    one, other = make_dialer(), make_dialer()
    assert one.hello() == other.hello()
    first, second = make_responder(), make_responder()
    first.receive_hello(make_dialer().hello())
    second.receive_hello(make_dialer().hello())
    expected = Expected(ALICE.identity_key)
    a, b = first.reply(PSK0, expected=expected), second.reply(PSK0, expected=expected)
    assert len(a) == len(b)
    assert pb.HelloReply.FromString(a).nonce == pb.HelloReply.FromString(b).nonce
    assert a != b  # encapsulation draws inside the library; if this fails, it can be seeded: do so


def test_two_handshakes_never_share_a_key() -> None:
    one, other = (shake(make_dialer(), make_responder())[0] for _ in range(2))
    assert one.handshake_hash != other.handshake_hash
    assert one.send_cipher.encrypt(b"same") != other.send_cipher.encrypt(b"same")


# --- the wrong key ---


def test_wrong_psk0_fails_at_the_first_message() -> None:
    dialer, responder = make_dialer(), make_responder()
    responder.receive_hello(dialer.hello())
    reply = responder.reply(PSK0, expected=Expected(ALICE.identity_key))
    first = dialer.receive_reply(reply, b"x" * 32)
    with pytest.raises(HandshakeError):
        responder.receive_first(first)  # the responder has said nothing about itself yet
    with pytest.raises(ValueError, match="after a failure"):
        responder.receive_first(first)


def test_wrong_code_fails_at_the_first_message() -> None:
    dialer = make_dialer(purpose=Purpose.PAIR_CODE, expected=ANYBODY)
    responder = make_responder()
    responder.receive_hello(dialer.hello())
    dialer.read_reply(responder.reply(derive.code_psk0(b"right"), pake=b"B" * 33))
    with pytest.raises(HandshakeError):
        responder.receive_first(dialer.first_message(derive.code_psk0(b"wrong")))


# --- the man in the middle ---


def altered(raw: bytes, kind: Any = pb.Hello, **changes: Any) -> bytes:
    message = kind.FromString(raw)
    for name, value in changes.items():
        if name == "versions":
            message.versions[:] = value
        else:
            setattr(message, name, value)
    return bytes(message.SerializeToString())


def refused_at_first(hello: Any = bytes, reply: Any = bytes) -> None:
    """Runs a session whose two clear messages are changed on the way; message 1 must be refused."""
    dialer, responder = make_dialer(), make_responder()
    responder.receive_hello(hello(dialer.hello()))
    answer = reply(responder.reply(PSK0, expected=Expected(ALICE.identity_key)))
    first = dialer.receive_reply(answer, PSK0)
    with pytest.raises(HandshakeError):
        responder.receive_first(first)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: altered(raw, tag=b"t" * 16),
        lambda raw: altered(raw, versions=[1, 2]),
        lambda raw: altered(raw, mlkem_ek=make_dialer(entropy=bytes(128))._hello.mlkem_ek),
        lambda raw: raw + b"\xf2\x01\x01x",  # a field nobody knows: the raw bytes are bound, not what is understood
    ],
    ids=["tag", "versions", "ML-KEM key", "unknown field"],
)
def test_altered_hello(change: Any) -> None:
    refused_at_first(hello=change)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: altered(raw, pb.HelloReply, nonce=b"m" * 16),
        lambda raw: altered(raw, pb.HelloReply, mlkem_ct=bytes(1088)),
        lambda raw: raw + b"\xf2\x01\x01x",
    ],
    ids=["nonce", "ML-KEM ciphertext", "unknown field"],
)
def test_altered_reply(change: Any) -> None:
    refused_at_first(reply=change)


def test_other_peer_ids() -> None:
    """The handshake is bound to the libp2p connection that it runs over: relaying it elsewhere fails."""
    dialer = make_dialer()
    responder = make_responder(BOB, MALLORY)  # reached through a connection that Mallory opened
    responder.receive_hello(dialer.hello())
    first = dialer.receive_reply(responder.reply(PSK0, expected=Expected(ALICE.identity_key)), PSK0)
    with pytest.raises(HandshakeError):
        responder.receive_first(first)


@pytest.mark.parametrize("at", [0, 31, 32, 40, 79, 80, 100, -1])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_altered_and_cut_noise_messages(number: int, at: int) -> None:
    def harm(message: bytes, this: int) -> bytes:
        if this != number:
            return message
        position = at % len(message)
        return message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]

    for change in (harm, lambda message, this: message[: at % len(message)] if this == number else message):
        dialer, responder = make_dialer(), make_responder()
        with pytest.raises(HandshakeError):
            responder.receive_hello(dialer.hello())
            reply = responder.reply(PSK0, expected=Expected(ALICE.identity_key))
            first = change(dialer.receive_reply(reply, PSK0), 1)
            third = dialer.receive_second(change(responder.receive_first(first), 2))
            responder.receive_third(change(third, 3))


def test_message_one_with_a_payload() -> None:
    dialer, responder = make_dialer(), make_responder()
    hello = dialer.hello()
    responder.receive_hello(hello)
    reply = responder.reply(PSK0, expected=Expected(ALICE.identity_key))
    talkative = NoiseSession(
        initiator=True,
        static=ALICE.device_private,
        ephemeral=b"e" * 32,
        psk0=PSK0,
        psk3=bytes(32),
        prologue=make_prologue(hello, reply, ALICE.peer_id, BOB.peer_id),
    )
    with pytest.raises(HandshakeError, match="payload"):
        responder.receive_first(talkative.write(b"hello there"))


# --- the wrong person ---


def test_somebody_elses_certificate_at_the_responder() -> None:
    """Mallory holds psk0 and presents Bob's true certificate, without Bob's device key."""
    thief = LocalParty(BOB.identity_key, MALLORY.device_private, BOB.certificate, BOB.peer_id)
    with pytest.raises(HandshakeError, match="another device"):
        shake(make_dialer(), make_responder(thief))


def test_somebody_elses_certificate_at_the_dialer() -> None:
    thief = LocalParty(ALICE.identity_key, MALLORY.device_private, ALICE.certificate, ALICE.peer_id)
    with pytest.raises(HandshakeError, match="another device"):
        shake(make_dialer(thief), make_responder())


def test_another_identity_at_the_responder() -> None:
    other = LocalParty(MALLORY.identity_key, MALLORY.device_private, MALLORY.certificate, BOB.peer_id)
    with pytest.raises(HandshakeError, match="isn't the one expected"):
        shake(make_dialer(), make_responder(other))


def test_another_identity_at_the_dialer() -> None:
    other = LocalParty(ALICE.identity_key, MALLORY.device_private, MALLORY.certificate, ALICE.peer_id)
    with pytest.raises(HandshakeError, match="isn't the one expected"):
        shake(make_dialer(other), make_responder())


def test_another_identity_than_the_link_names() -> None:
    expected = Expected(commitment=derive.identity_commitment(MALLORY.identity_key))
    with pytest.raises(HandshakeError, match="link"):
        shake(make_dialer(purpose=Purpose.PAIR_LINK, expected=expected), make_responder(), expected=ANYBODY)


def test_the_other_side_takes_us_for_somebody_else() -> None:
    """Bob reinstalled under a new identity with the old pair secret: Alice's expectation shows it."""
    with pytest.raises(HandshakeError, match="somebody else"):
        shake(
            make_dialer(expected=Expected(BOB.identity_key)), make_responder(), expected=Expected(MALLORY.identity_key)
        )


def test_an_identity_named_where_none_is_due() -> None:
    """An inviter can't know yet who comes; one that names us has met us elsewhere."""
    dialer = make_dialer(purpose=Purpose.PAIR_LINK, expected=ANYBODY)
    hello = dialer.hello()
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(decode_hello(hello).mlkem_ek).encapsulate()
    reply = encode_reply(HelloReply(1, b"n" * 16, ciphertext))
    knowing = NoiseSession(
        initiator=False,
        static=BOB.device_private,
        ephemeral=b"e" * 32,
        psk0=PSK0,
        psk3=secret,
        prologue=make_prologue(hello, reply, ALICE.peer_id, BOB.peer_id),
    )
    knowing.read(dialer.receive_reply(reply, PSK0), "")
    payload = AuthPayload(BOB.certificate, bytes(32), peer_identity_key=ALICE.identity_key)
    with pytest.raises(HandshakeError, match="none is due"):
        dialer.receive_second(knowing.write(encode_auth(payload)))


@pytest.mark.parametrize("seen", [2, 100])
def test_an_older_device_list(seen: int) -> None:
    """A revoked device presents the certificate from before."""
    with pytest.raises(HandshakeError, match=str(seen)):
        shake(make_dialer(expected=Expected(BOB.identity_key, list_version=seen)), make_responder())
    with pytest.raises(HandshakeError, match=str(seen)):
        shake(make_dialer(), make_responder(), expected=Expected(ALICE.identity_key, list_version=seen))


def test_a_newer_device_list_is_taken() -> None:
    bob = party(2, list_version=7)
    ours, _ = shake(make_dialer(ALICE, bob, expected=Expected(bob.identity_key, list_version=3)), make_responder(bob))
    assert ours.peer_certificate.list_version == 7


def test_a_version_below_the_highest_seen() -> None:
    later = Expected(BOB.identity_key, version=PROTOCOL_VERSION + 1)
    with pytest.raises(HandshakeError, match="version"):
        shake(make_dialer(expected=later), make_responder())
    with pytest.raises(HandshakeError, match="version"):
        shake(make_dialer(), make_responder(), expected=Expected(ALICE.identity_key, version=PROTOCOL_VERSION + 1))


def test_no_version_in_common() -> None:
    responder = make_responder()
    responder.receive_hello(altered(make_dialer().hello(), versions=[99]))
    with pytest.raises(HandshakeError, match="99"):
        responder.reply(PSK0, expected=Expected(ALICE.identity_key))


def test_replayed_hello_and_first_message() -> None:
    """A recording of Alice's side gets nowhere: the responder's fresh nonce and ciphertext are in the prologue."""
    dialer, responder = make_dialer(), make_responder()
    hello = dialer.hello()
    responder.receive_hello(hello)
    first = dialer.receive_reply(responder.reply(PSK0, expected=Expected(ALICE.identity_key)), PSK0)
    responder.receive_first(first)
    again = make_responder()
    again.receive_hello(hello)
    again.reply(PSK0, expected=Expected(ALICE.identity_key))
    with pytest.raises(HandshakeError):
        again.receive_first(first)


def test_frames_replayed_after_the_handshake() -> None:
    ours, theirs = shake(make_dialer(), make_responder())
    sent = ours.send_cipher.encrypt(b"once")
    assert theirs.recv_cipher.decrypt(sent) == b"once"
    with pytest.raises(RemoteError):
        theirs.recv_cipher.decrypt(sent)


# --- malformed messages ---

GOOD_HELLO = Hello((1,), Purpose.SESSION, b"t" * 16, b"n" * 16, make_dialer()._hello.mlkem_ek)
GOOD_REPLY = HelloReply(1, b"n" * 16, bytes(1088))


@pytest.mark.parametrize(
    "change",
    [
        {"versions": ()},
        {"versions": (0,)},
        {"versions": (1,) * 9},
        {"versions": (70_000,)},
        {"purpose": 0},
        {"purpose": 5},
        {"tag": b"t" * 15},
        {"tag": b""},
        {"purpose": Purpose.RECOVER},
        {"purpose": Purpose.PAIR_LINK},
        {"purpose": Purpose.PAIR_CODE, "tag": b"t" * 8},
        {"purpose": Purpose.PAIR_CODE, "tag": b"t" * 8, "pake": bytes(65)},
        {"pake": b"p"},
        {"nonce": b"n" * 15},
        {"mlkem_ek": bytes(1183)},
        {"mlkem_ek": bytes(1185)},
    ],
)
def test_malformed_hellos(change: dict[str, Any]) -> None:
    fields = {name: getattr(GOOD_HELLO, name) for name in Hello.__slots__}
    assert decode_hello(encode_hello(GOOD_HELLO)) == GOOD_HELLO
    with pytest.raises(HandshakeError):
        decode_hello(encode_hello(Hello(**(fields | change))))


def test_an_encapsulation_key_that_is_no_key() -> None:
    """FIPS 203, section 7.2: coefficients of q or more."""
    responder = make_responder()
    responder.receive_hello(altered(make_dialer().hello(), mlkem_ek=b"\xff" * 1184))
    with pytest.raises(HandshakeError, match="ML-KEM"):
        responder.reply(PSK0, expected=Expected(ALICE.identity_key))


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"version": 0}, {"nonce": b""}, {"mlkem_ct": bytes(1087)}, {"mlkem_ct": b""}, {"pake": b"p"}],
)
def test_malformed_replies(change: dict[str, Any]) -> None:
    fields = {name: getattr(GOOD_REPLY, name) for name in HelloReply.__slots__}
    assert decode_reply(encode_reply(GOOD_REPLY), GOOD_HELLO) == GOOD_REPLY
    with pytest.raises(HandshakeError):
        decode_reply(encode_reply(HelloReply(**(fields | change))), GOOD_HELLO)


def test_malformed_auth_payloads() -> None:
    good = AuthPayload(BOB.certificate, bytes(32), IdentityKey(b"i" * 32), "name", b"ticket")
    assert decode_auth(encode_auth(good)) == good
    assert decode_auth(encode_auth(AuthPayload(BOB.certificate, bytes(32)))).peer_identity_key is None
    for bad in (
        AuthPayload(BOB.certificate, bytes(31)),
        AuthPayload(BOB.certificate, bytes(32), IdentityKey(b"i" * 31)),
        AuthPayload(BOB.certificate, bytes(32), suggested_name="x" * 65),
        AuthPayload(BOB.certificate, bytes(32), ticket=bytes(513)),
    ):
        with pytest.raises(HandshakeError):
            decode_auth(encode_auth(bad))
    for raw in (b"", b"\xff", pb.AuthPayload(contribution=bytes(32)).SerializeToString()):
        with pytest.raises(HandshakeError):
            decode_auth(raw)


@settings(max_examples=200)
@given(st.binary(max_size=1500))
def test_any_bytes(noise: bytes) -> None:
    for read in (make_responder().receive_hello, lambda raw: decode_reply(raw, GOOD_HELLO), decode_auth):
        try:
            read(noise)
        except HandshakeError:
            pass


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(1, 3))
def test_any_bytes_as_noise_messages(noise: bytes, number: int) -> None:
    dialer, responder = make_dialer(), make_responder()
    responder.receive_hello(dialer.hello())
    first = dialer.receive_reply(responder.reply(PSK0, expected=Expected(ALICE.identity_key)), PSK0)
    with pytest.raises(HandshakeError):
        if number == 1:
            responder.receive_first(noise)
        second = responder.receive_first(first)
        if number == 2:
            dialer.receive_second(noise)
        dialer.receive_second(second)
        responder.receive_third(noise)


def test_messages_above_the_limit() -> None:
    long = bytes(MAX_HANDSHAKE_BYTES + 1)
    for read in (decode_hello, lambda raw: decode_reply(raw, GOOD_HELLO)):
        with pytest.raises(HandshakeError, match="4097"):
            read(long)
    dialer, responder = make_dialer(), make_responder()
    responder.receive_hello(dialer.hello())
    responder.reply(PSK0, expected=Expected(ALICE.identity_key))
    with pytest.raises(HandshakeError, match="4097"):
        responder.receive_first(long)


# --- our own callers' mistakes ---


def test_steps_out_of_order() -> None:
    dialer = make_dialer()
    with pytest.raises(ValueError, match="in order"):
        dialer.read_reply(b"")
    dialer.hello()
    with pytest.raises(ValueError, match="in order"):
        dialer.hello()
    with pytest.raises(ValueError, match="in order"):
        make_responder().receive_third(b"")


@pytest.mark.parametrize(
    "options",
    [
        {"entropy": bytes(127)},
        {"expected": ANYBODY},
        {"purpose": Purpose.RECOVER, "expected": ANYBODY},
    ],
)
def test_what_a_dialer_needs(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"entropy|identity"):
        make_dialer(**options)


def test_what_a_responder_needs() -> None:
    responder = make_responder()
    responder.receive_hello(make_dialer().hello())
    with pytest.raises(ValueError, match="identity"):
        responder.reply(PSK0)
    responder = make_responder()
    responder.receive_hello(make_dialer().hello())
    with pytest.raises(ValueError, match="32"):
        responder.reply(b"short", expected=Expected(ALICE.identity_key))


def test_prologue_reads_one_way_only() -> None:
    one, other = PeerId(b"\x00\x24" + b"d" * 36), PeerId(b"\x00\x24" + b"r" * 36)
    assert make_prologue(b"ab", b"c", one, other) != make_prologue(b"a", b"bc", one, other)
    assert make_prologue(b"ab", b"c", one, other)[:8] == b"\x00\x06p2pe/1"
