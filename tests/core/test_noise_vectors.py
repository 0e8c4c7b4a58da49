"""Our Noise sessions against published vectors, against a second implementation, and against frozen bytes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from crypto_support import own_vectors, published_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection
from noise_reference import NAME, Reference, public, rekey, seal
from p2pe.core.cipher import SessionCipher
from p2pe.core.noise_session import SUITE, NoiseSession
from p2pe.errors import HandshakeError, RemoteError

KEY = st.binary(min_size=32, max_size=32)


def published() -> dict[str, Any]:
    """The one vector of exactly our suite in the set of the Rust implementation `snow` (tests/vectors/snow.txt)."""
    (vector,) = (v for v in published_vectors("snow.txt")["vectors"] if v["protocol_name"] == SUITE.decode())
    return dict(vector)


def sessions(initiator: dict[str, bytes], responder: dict[str, bytes]) -> tuple[NoiseSession, NoiseSession]:
    return NoiseSession(initiator=True, **initiator), NoiseSession(initiator=False, **responder)


def vector_sessions(vector: dict[str, Any]) -> tuple[NoiseSession, NoiseSession]:
    def side(name: str) -> dict[str, bytes]:
        psk0, psk3 = (bytes.fromhex(each) for each in vector[f"{name}_psks"])
        keys = {part: bytes.fromhex(vector[f"{name}_{part}"]) for part in ("static", "ephemeral", "prologue")}
        return {**keys, "psk0": psk0, "psk3": psk3}

    return sessions(side("init"), side("resp"))


def check_handshake(vector: dict[str, Any]) -> tuple[NoiseSession, NoiseSession]:
    """Runs the three handshake messages of a vector through our own code."""
    initiator, responder = vector_sessions(vector)
    for number, message in enumerate(vector["messages"][:3]):
        writer, reader = (initiator, responder) if number % 2 == 0 else (responder, initiator)
        payload, expected = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        assert writer.write(payload) == expected
        assert reader.read(expected, "") == payload
    return initiator, responder


def test_published_vector_through_our_code() -> None:
    vector = published()
    initiator, responder = check_handshake(vector)
    # The vector doesn't rekey, so its transport messages hold for the first message of each direction alone.
    (send, _), (answer, _) = initiator.ciphers(), responder.ciphers()
    fourth, fifth = vector["messages"][3:5]
    assert answer.encrypt(bytes.fromhex(fourth["payload"])).hex() == fourth["ciphertext"]
    assert send.encrypt(bytes.fromhex(fifth["payload"])).hex() == fifth["ciphertext"]


def test_published_vector_through_the_library() -> None:
    vector = published()
    sides = []
    for name in ("init", "resp"):
        connection = NoiseConnection.from_name(SUITE)
        connection.set_psks(psks=[bytes.fromhex(each) for each in vector[f"{name}_psks"]])
        connection.set_prologue(bytes.fromhex(vector[f"{name}_prologue"]))
        connection.set_keypair_from_private_bytes(Keypair.STATIC, bytes.fromhex(vector[f"{name}_static"]))
        connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, bytes.fromhex(vector[f"{name}_ephemeral"]))
        (connection.set_as_initiator if name == "init" else connection.set_as_responder)()
        with warnings.catch_warnings(action="ignore"):  # it warns of ephemerals set from outside
            connection.start_handshake()
        sides.append(connection)
    for number, message in enumerate(vector["messages"]):
        writer, reader = sides[number % 2], sides[1 - number % 2]
        payload = bytes.fromhex(message["payload"])
        sent = bytes(writer.write_message(payload) if number < 3 else writer.encrypt(payload))
        assert sent.hex() == message["ciphertext"]
        assert bytes(reader.read_message(sent) if number < 3 else reader.decrypt(sent)) == payload


def test_published_vector_through_the_reference() -> None:
    """The second implementation below earns its place as a judge."""
    vector = published()
    initiator, responder = (
        Reference(
            initiator=name == "init",
            s=bytes.fromhex(vector[f"{name}_static"]),
            e=bytes.fromhex(vector[f"{name}_ephemeral"]),
            psks=[bytes.fromhex(each) for each in vector[f"{name}_psks"]],
            prologue=bytes.fromhex(vector[f"{name}_prologue"]),
        )
        for name in ("init", "resp")
    )
    for number, message in enumerate(vector["messages"][:3]):
        writer, reader = (initiator, responder) if number % 2 == 0 else (responder, initiator)
        sent = writer.write(bytes.fromhex(message["payload"]))
        assert sent.hex() == message["ciphertext"]
        assert reader.read(sent).hex() == message["payload"]
    assert (
        seal(responder.split()[1], 0, b"", bytes.fromhex(vector["messages"][3]["payload"])).hex()
        == (vector["messages"][3]["ciphertext"])
    )


def test_frozen_transcript() -> None:
    """Bytes of our own that must never change within protocol version 1, REKEY after each message included."""
    vector = own_vectors("noise_session.json")
    initiator, responder = check_handshake(vector)
    assert initiator.handshake_hash.hex() == responder.handshake_hash.hex() == vector["handshake_hash"]
    (send, receive), (answer, hear) = initiator.ciphers(), responder.ciphers()
    for plain, forth, back in vector["transport"]:
        text = bytes.fromhex(plain)
        assert send.encrypt(text).hex() == forth
        assert hear.decrypt(bytes.fromhex(forth)) == text
        assert answer.encrypt(text).hex() == back
        assert receive.decrypt(bytes.fromhex(back)) == text


@settings(max_examples=30, deadline=None)
@given(KEY, KEY, KEY, KEY, KEY, KEY, st.binary(max_size=300), st.binary(max_size=300))
def test_equal_to_a_second_implementation(
    s1: bytes, e1: bytes, s2: bytes, e2: bytes, psk0: bytes, psk3: bytes, prologue: bytes, payload: bytes
) -> None:
    """Each side in turn is ours, the other one the reference; every byte and key agrees."""
    for ours_starts in (True, False):
        if ours_starts:
            ours = NoiseSession(initiator=True, static=s1, ephemeral=e1, psk0=psk0, psk3=psk3, prologue=prologue)
            other = Reference(initiator=False, s=s2, e=e2, psks=[psk0, psk3], prologue=prologue)
        else:
            ours = NoiseSession(initiator=False, static=s2, ephemeral=e2, psk0=psk0, psk3=psk3, prologue=prologue)
            other = Reference(initiator=True, s=s1, e=e1, psks=[psk0, psk3], prologue=prologue)
        for number in range(3):
            if (number % 2 == 0) == ours_starts:
                assert other.read(ours.write(payload)) == payload
            else:
                assert ours.read(other.write(payload), "") == payload
        assert ours.handshake_hash == other.h
        assert ours.remote_static == public(other.s)
        forth, back = other.split()
        send, receive = ours.ciphers()
        send_key, receive_key = (forth, back) if ours_starts else (back, forth)
        for number in range(3):
            assert send.encrypt(payload) == seal(send_key, number, b"", payload)
            assert receive.decrypt(seal(receive_key, number, b"", payload)) == payload
            send_key, receive_key = rekey(send_key), rekey(receive_key)


def test_suite_is_the_one_specified() -> None:
    assert SUITE == NAME == b"Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256"


SIDE = {"psk0": b"0" * 32, "psk3": b"3" * 32, "prologue": b"p"}


def handshake_until_failure(first: dict[str, bytes], second: dict[str, bytes]) -> int:
    """Number of the message that doesn't decrypt; 0 when all do."""
    a, b = sessions(
        {**first, "static": b"a" * 32, "ephemeral": b"b" * 32}, second | {"static": b"c" * 32, "ephemeral": b"d" * 32}
    )
    for number in (1, 2, 3):
        writer, reader = (a, b) if number % 2 else (b, a)
        try:
            reader.read(writer.write(b""), "refused")
        except HandshakeError:
            return number
    return 0


@pytest.mark.parametrize(
    ("change", "message"), [({}, 0), ({"psk0": b"x" * 32}, 1), ({"prologue": b"q"}, 1), ({"psk3": b"x" * 32}, 3)]
)
def test_each_secret_counts(change: dict[str, bytes], message: int) -> None:
    """A Noise that ignores one of its pre-shared keys would pass here."""
    assert handshake_until_failure(SIDE, SIDE | change) == message


def test_low_order_ephemeral_is_refused() -> None:
    """RFC 7748, section 6.1: an all-zero shared secret ends the handshake."""
    responder = NoiseSession(initiator=False, static=b"s" * 32, ephemeral=b"e" * 32, **SIDE)
    reference = Reference(initiator=True, s=b"a" * 32, e=b"b" * 32, psks=[SIDE["psk0"]], prologue=b"p")
    reference.mix_psk()
    zero = bytes(32)
    reference.mix_hash(zero)
    reference.mix_key(zero)
    assert responder.read(zero + reference.encrypt(b""), "") == b""
    with pytest.raises(HandshakeError):
        responder.write(b"")


def test_cipher_equals_the_librarys_rekey() -> None:
    ours, library = SessionCipher(b"k" * 32), NoiseConnection.from_name(SUITE).noise_protocol
    from noise.state import CipherState

    theirs = CipherState(library)
    theirs.initialize_key(b"k" * 32)
    for size in (0, 1, 1024, 65_519):
        assert ours.encrypt(bytes(size)) == theirs.encrypt_with_ad(b"", bytes(size))
        theirs.rekey()
    assert ours.count == 4


def pair() -> tuple[SessionCipher, SessionCipher]:
    return SessionCipher(b"k" * 32), SessionCipher(b"k" * 32)


def test_replayed_reordered_altered_and_cut_messages_end_the_session() -> None:
    for harm in (
        lambda sent: [sent[0], sent[0]],  # replayed
        lambda sent: [sent[1]],  # one left out, or two swapped
        lambda sent: [sent[0][:-1]],  # cut
        lambda sent: [sent[0][:10]],  # cut below the tag
        lambda sent: [b""],
        lambda sent: [bytes([sent[0][0] ^ 1]) + sent[0][1:]],  # altered
        lambda sent: [sent[0] + bytes(70_000)],
    ):
        sender, receiver = pair()
        sent = [sender.encrypt(b"one"), sender.encrypt(b"two")]
        with pytest.raises(RemoteError):
            for message in harm(sent):
                receiver.decrypt(message)
        with pytest.raises(RemoteError):  # and the right message doesn't revive it
            receiver.decrypt(sent[0])


def test_a_message_that_is_too_long_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="65519"):
        SessionCipher(bytes(32)).encrypt(bytes(65_520))


def test_directions_have_different_keys() -> None:
    a, b = sessions(
        SIDE | {"static": b"a" * 32, "ephemeral": b"b" * 32}, SIDE | {"static": b"c" * 32, "ephemeral": b"d" * 32}
    )
    b.read(a.write(b""), "")
    a.read(b.write(b""), "")
    b.read(a.write(b""), "")
    send, receive = a.ciphers()
    with pytest.raises(RemoteError):
        receive.decrypt(send.encrypt(b"reflected"))
