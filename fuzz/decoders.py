"""Throws altered messages at everything in the core that reads strangers' bytes. Bounded, and replayable by its seed.

    python fuzz/decoders.py --count 200000 --seed 7

A finding is any exception but RemoteError; it ends the run with the input in hex and exit code 1. Mutations start
from valid messages, so that they get past the first checks: bits, bytes, cuts, repeats, splices of two messages,
and lengths that lie.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "core"))

import structlog
from crypto_support import ALICE, PSK0, make_dialer, make_responder
from p2pe.config import LAN_ENTRIES, MAX_HANDSHAKE_BYTES
from p2pe.core.certificate import verify_certificate
from p2pe.core.codec import decode_content, decode_frame, encode_content, encode_frame, pad_frame
from p2pe.core.framing import FrameReader, frame
from p2pe.core.handshake import Expected
from p2pe.core.handshake_messages import AuthPayload, decode_auth, decode_hello, decode_reply, encode_auth
from p2pe.core.kademlia.keyspace import location_key
from p2pe.core.mdns import ENTRY_BYTES, NONCE_BYTES, Announcement, is_query, query
from p2pe.core.mdns import decode as decode_mdns
from p2pe.core.mdns import encode as encode_mdns
from p2pe.core.natpmp import read_mapping, read_pcp
from p2pe.core.records import (
    check_record,
    make_record,
    open_addresses,
    public_key_of,
    record_key,
    seal_addresses,
)
from p2pe.core.tickets import open_ticket, seal_ticket
from p2pe.core.upnp import control_of, result_of
from p2pe.errors import RemoteError
from p2pe.model import Address, Millis, PeerId, PeerInfo
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.overlay.kad_codec import decode as decode_kad
from p2pe.overlay.kad_codec import encode as encode_kad
from test_known_answers import CONTENTS, FRAMES
from test_natpmp import NONCE, PCP_ANSWER
from test_upnp import DESCRIPTION, FAULT, PLACE

NOW = Millis(1_800_000_000_000)
RECORD_KEY = record_key(public_key_of(bytes(32)), 0)
Target = Callable[[bytes], object]


def read_frames(raw: bytes) -> None:
    reader = FrameReader(MAX_HANDSHAKE_BYTES)
    reader.receive(raw)
    while reader.next_frame() is not None:
        pass


def read_padded(raw: bytes) -> None:
    decode_frame(pad_frame(raw))


def respond_to(raw: bytes) -> None:
    """A hello, and if it reads, the answer to it: ML-KEM and Noise set-up included."""
    responder = make_responder()
    responder.receive_hello(raw)
    responder.reply(PSK0, expected=Expected(ALICE.identity_key))


def read_record(raw: bytes) -> None:
    """A record as a storer gets it, and its payload as a reader opens it."""
    record = check_record(RECORD_KEY, raw, NOW)
    open_addresses(record.payload, bytes(32))


def records() -> list[bytes]:
    own = PeerInfo(PeerId(b"\x00\x04abcd"), (Address("/ip4/192.0.2.1/tcp/4001"),))
    payload = seal_addresses(own, bytes(32), bytes(12))
    return [make_record(bytes(32), 0, NOW, Millis(NOW + lives), payload) for lives in (60_000, 3_600_000)]


def kad_messages() -> list[bytes]:
    near = tuple(PeerInfo(PeerId(b"\x00\x04" + bytes([n] * 4)), (Address("/ip4/9.9.9.9/tcp/1"),)) for n in range(4))
    record = records()[0]
    return [
        encode_kad(KadMessage(Kind.FIND_NODE, location_key(RECORD_KEY), closer=near)),
        encode_kad(KadMessage(Kind.PUT_VALUE, RECORD_KEY, record)),
        encode_kad(KadMessage(Kind.GET_VALUE, RECORD_KEY, record, near)),
        encode_kad(KadMessage(Kind.PING)),
    ]


def read_mdns(raw: bytes) -> None:
    is_query(raw)
    decode_mdns(raw)


def targets() -> list[tuple[str, Target, list[bytes]]]:
    """Each decoder with valid messages to start from."""
    hello = make_dialer().hello()
    responder = make_responder()
    said = responder.receive_hello(hello)
    reply = responder.reply(PSK0, expected=Expected(ALICE.identity_key))
    auth = encode_auth(AuthPayload(ALICE.certificate, bytes(32), ALICE.identity_key, "name", b"ticket"))
    padded = [encode_frame(each) for each in FRAMES.values()]
    return [
        ("frame", decode_frame, padded),
        ("unpadded frame", read_padded, [raw[: raw.rindex(b"\x7a")] for raw in padded]),
        ("content", decode_content, [encode_content(each) for each in CONTENTS.values()]),
        ("framing", read_frames, [frame(b"one") + frame(b"two" * 100)]),
        ("hello", respond_to, [hello]),
        ("reply", lambda raw: decode_reply(raw, said), [reply]),
        ("hello alone", decode_hello, [hello]),
        ("auth payload", decode_auth, [auth]),
        ("record", read_record, records()),
        ("kad message", decode_kad, kad_messages()),
        (
            "mdns",
            read_mdns,
            [query(), encode_mdns(Announcement(bytes(NONCE_BYTES), 4001, (bytes(ENTRY_BYTES),) * LAN_ENTRIES))],
        ),
        ("PCP answer", lambda raw: read_pcp(raw, NONCE, 4001), [PCP_ANSWER]),
        ("NAT-PMP answer", lambda raw: read_mapping(raw, 4001), [bytes.fromhex("00820000000000050fa1138800000e10")]),
        ("UPnP description", lambda raw: control_of(raw, PLACE), [DESCRIPTION]),
        ("UPnP answer", lambda raw: result_of(raw, "x"), [b"HTTP/1.1 500 No\r\n\r\n" + FAULT]),
        ("certificate", verify_certificate, [ALICE.certificate]),
        (
            "ticket",
            lambda raw: open_ticket(b"k" * 32, raw),
            [seal_ticket(b"k" * 32, ALICE.identity_key, "n", Millis(0), b"n" * 24)],
        ),
    ]


def mutate(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(7):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del out[at:]
            case 3:
                out[at:at] = rng.randbytes(rng.randint(1, 12))
            case 4:
                out[at:at] = out[at : at + rng.randint(1, 64)]
            case 5:
                out[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                out[at:at] = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"[rng.randrange(9) :]
    return bytes(out[:60_000])


def run(every: list[tuple[str, Target, list[bytes]]], description: str) -> int:
    """Reads --count and --seed, feeds the targets in turn, reports. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this text")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it reports each damaged signature
    rng, every = random.Random(options.seed), [each for each in every if options.only in each[0]]
    accepted = dict.fromkeys((name for name, _, _ in every), 0)
    pool = [raw for _, _, corpus in every for raw in corpus]
    for number in range(options.count):
        name, target, corpus = every[number % len(every)]
        raw = mutate(rng, rng.choice(corpus), rng.choice(pool))
        try:
            target(raw)
            accepted[name] += 1
        except RemoteError:
            pass
        except Exception as problem:  # noqa: BLE001 - finding these is what this is for
            traceback.print_exc()
            sys.stdout.write(f"{name}: {problem!r}\nseed {options.seed}, input {number}: {raw.hex()}\n")
            return 1
    sys.stdout.write(f"{options.count} inputs, none but RemoteError; accepted after mutation: {accepted}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(targets(), "Fuzz the core's decoders."))
