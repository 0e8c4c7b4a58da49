"""Frames and contents: round trips, exact sizes, every limit, and any bytes at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from p2pe.config import (
    MAX_BATCH_MESSAGES,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    MAX_RECEIPTS_PER_FRAME,
    MAX_TEXT_BYTES,
    MAX_TICKET_BYTES,
    MIN_FRAME_BYTES,
)
from p2pe.core.codec import (
    FRAME_SIZES,
    MAX_MILLIS,
    MAX_SEQUENCE,
    MAX_UNPADDED_BYTES,
    batches,
    decode_content,
    decode_frame,
    encode_content,
    encode_frame,
    pad_frame,
)
from p2pe.errors import LocalError, RemoteError
from p2pe.model import (
    Batch,
    Content,
    Frame,
    Goodbye,
    GoodbyeReason,
    MessageId,
    Millis,
    OrderConflict,
    PairConfirm,
    Ping,
    Pong,
    Receipt,
    Receipts,
    ReceiptStatus,
    Retraction,
    Retractions,
    Rotation,
    RotationStep,
    StreamId,
    WireMessage,
)
from p2pe.proto import session_pb2 as pb


def fixed(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


ids = fixed(32).map(MessageId)
sequences = st.integers(1, MAX_SEQUENCE)
millis = st.integers(0, MAX_MILLIS - 1).map(Millis)
messages = st.builds(WireMessage, ids, sequences, millis, st.binary(min_size=1, max_size=300), millis)
ascending = st.lists(messages, min_size=1, max_size=8, unique_by=lambda each: each.sequence).map(
    lambda each: tuple(sorted(each, key=lambda message: message.sequence))
)
receipts = st.builds(Receipt, ids, st.sampled_from(ReceiptStatus), fixed(32))
rotations = st.builds(
    lambda step, epoch, fresh: Rotation(step, epoch, b"" if step is RotationStep.COMMIT else fresh),
    st.sampled_from(RotationStep),
    sequences,
    fixed(32),
)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Batch, fixed(16).map(StreamId), ascending),
    st.builds(Receipts, st.lists(receipts, min_size=1, max_size=20).map(tuple)),
    st.builds(OrderConflict, fixed(16).map(StreamId), st.integers(0, MAX_SEQUENCE)),
    st.builds(Retractions, st.lists(st.builds(Retraction, ids, fixed(32)), min_size=1, max_size=20).map(tuple)),
    st.builds(PairConfirm, fixed(32), st.binary(max_size=MAX_TICKET_BYTES)),
    st.builds(Ping, fixed(8)),
    st.builds(Pong, fixed(8)),
    st.builds(Goodbye, st.sampled_from(GoodbyeReason)),
    rotations,
)


def message(sequence: int = 1, **changes: Any) -> WireMessage:
    values: dict[str, Any] = {"id": MessageId(b"i" * 32), "sent_at": Millis(5), "body": b"b", "expire_after": 0}
    return WireMessage(sequence=sequence, **(values | changes))


@given(frames)
def test_frames_round_trip(frame: Frame) -> None:
    raw = encode_frame(frame)
    assert len(raw) in FRAME_SIZES
    assert decode_frame(raw) == frame


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.builds(Content, texts, st.none() | ids, st.none() | ids))
def test_contents_round_trip(content: Content) -> None:
    assert decode_content(encode_content(content)) == content


# --- sizes ---


def expected_size(length: int) -> int:
    """The smallest size that leaves no gap, or one of at least two bytes."""
    return next(size for size in FRAME_SIZES if size == length or size >= length + 2)


def test_padding_never_changes_what_is_read() -> None:
    near_sizes = (size + near for size in FRAME_SIZES for near in range(-145, 3))
    for length in (*range(700), *near_sizes, 40_000, 49_131, 49_132):
        ping = pb.Ping(nonce=bytes(max(0, length)))
        raw = pb.Frame(ping=ping).SerializeToString()
        if len(raw) > MAX_UNPADDED_BYTES:
            continue
        padded = pad_frame(raw)
        assert len(padded) == expected_size(len(raw)), len(raw)
        parsed = pb.Frame.FromString(padded)
        assert parsed.ping == ping
        assert not any(parsed.padding)


@given(st.integers(0, MAX_UNPADDED_BYTES))
@example(MIN_FRAME_BYTES - 130)  # the one gap that no shortest length fills
@example(MIN_FRAME_BYTES - 1)
@example(MAX_UNPADDED_BYTES)
def test_padding_is_one_field_of_zeros(length: int) -> None:
    padded = pad_frame(bytes(length))
    assert len(padded) == expected_size(length)
    field = padded[length:]
    assert field[:1] in (b"", b"\x7a")
    if field:
        assert not any(pb.Frame.FromString(field).padding)


@pytest.mark.parametrize("length", [MAX_UNPADDED_BYTES + 1, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1])
def test_too_large_to_pad(length: int) -> None:
    with pytest.raises(LocalError, match=str(length)):
        pad_frame(bytes(length))


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert FRAME_SIZES == (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65519)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([1, 50, 256, 5_000, MAX_BODY_BYTES]), max_size=600))
def test_batches_fit_and_keep_everything_in_order(sizes: list[int]) -> None:
    every = [message(number + 1, body=bytes(size), sent_at=Millis(MAX_MILLIS - 1)) for number, size in enumerate(sizes)]
    got = list(batches(StreamId(bytes(16)), every))
    assert [each for batch in got for each in batch.messages] == every
    for batch in got:
        assert 0 < len(batch.messages) <= MAX_BATCH_MESSAGES
        assert decode_frame(encode_frame(batch)) == batch


def test_largest_integers_fit_in_the_estimate() -> None:
    worst = [
        message(MAX_SEQUENCE - 300 + n, sent_at=Millis(MAX_MILLIS - 1), expire_after=MAX_MILLIS - 1) for n in range(256)
    ]
    for size in (150, 160, 170, 175, 180, 250):
        filled = [WireMessage(m.id, m.sequence, m.sent_at, bytes(size), m.expire_after) for m in worst]
        for batch in batches(StreamId(bytes(16)), filled):
            encode_frame(batch)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_batches_fill_a_frame_to_the_brim(count: int) -> None:
    """Around the size where one message fewer must go into the frame."""
    for size in range(MAX_UNPADDED_BYTES // count - 120, MAX_UNPADDED_BYTES // count + 2):
        if size <= MAX_BODY_BYTES:
            every = [message(number + 1, body=bytes(size)) for number in range(count)]
            got = list(batches(StreamId(bytes(16)), every))
            assert all(len(encode_frame(batch)) <= MAX_FRAME_BYTES for batch in got)
            assert len(got) <= 2


# --- limits ---


def raw_frame(**body: Any) -> bytes:
    return pad_frame(pb.Frame(**body).SerializeToString())


def raw_batch(*each: dict[str, Any], stream_id: bytes = bytes(16)) -> bytes:
    good = {"id": b"i" * 32, "sequence": 1, "sent_at": 1, "body": b"b", "expire_after": 0}
    return raw_frame(batch=pb.Batch(stream_id=stream_id, messages=[pb.Message(**(good | one)) for one in each]))


def raw_receipt(**change: Any) -> bytes:
    good: dict[str, Any] = {"id": b"i" * 32, "status": 1, "mac": b"m" * 32}
    return raw_frame(receipts=pb.Receipts(receipts=[pb.Receipt(**(good | change))]))


def raw_retraction(**change: Any) -> bytes:
    good: dict[str, Any] = {"id": b"i" * 32, "mac": b"m" * 32}
    return raw_frame(retractions=pb.Retractions(retractions=[pb.Retraction(**(good | change))]))


def raw_rotation(step: int, epoch: int, size: int) -> bytes:
    return raw_frame(rotation=pb.Rotation(step=step, epoch=epoch, contribution=bytes(size)))


GOOD = {
    "batch": raw_batch({}, {"sequence": 2}),
    "receipt": raw_receipt(),
    "retraction": raw_retraction(),
    "commit": raw_rotation(3, 2, 0),
    "propose": raw_rotation(1, 2, 32),
    "largest body": raw_batch({"body": bytes(MAX_BODY_BYTES)}),
    "full batch": raw_batch(*({"sequence": n + 1} for n in range(MAX_BATCH_MESSAGES))),
}
BAD = {
    "empty batch": raw_batch(),
    "stream id short": raw_batch({}, stream_id=bytes(15)),
    "stream id long": raw_batch({}, stream_id=bytes(17)),
    "message id short": raw_batch({"id": b"i" * 31}),
    "message id long": raw_batch({"id": b"i" * 33}),
    "sequence 0": raw_batch({"sequence": 0}),
    "sequence repeated": raw_batch({"sequence": 5}, {"sequence": 5}),
    "sequence falling": raw_batch({"sequence": 5}, {"sequence": 4}),
    "sequence above SQLite's": raw_batch({"sequence": 2**63}),
    "body empty": raw_batch({"body": b""}),
    "body too long": raw_batch({"body": bytes(MAX_BODY_BYTES + 1)}),
    "sent before 1970": raw_batch({"sent_at": -1}),
    "sent after 9999": raw_batch({"sent_at": MAX_MILLIS}),
    "expires before reading": raw_batch({"expire_after": -1}),
    "expires too late": raw_batch({"expire_after": MAX_MILLIS}),
    "too many messages": raw_batch(*({"sequence": n + 1} for n in range(MAX_BATCH_MESSAGES + 1))),
    "no receipts": raw_frame(receipts=pb.Receipts()),
    "too many receipts": raw_frame(receipts=pb.Receipts(receipts=[pb.Receipt()] * (MAX_RECEIPTS_PER_FRAME + 1))),
    "receipt id": raw_receipt(id=b"i" * 31),
    "receipt mac short": raw_receipt(mac=b"m" * 31),
    "receipt mac long": raw_receipt(mac=b"m" * 33),
    "receipt status 0": raw_receipt(status=0),
    "receipt status 4": raw_receipt(status=4),
    "no retractions": raw_frame(retractions=pb.Retractions()),
    "too many retractions": raw_frame(retractions=pb.Retractions(retractions=[pb.Retraction()] * 1025)),
    "retraction id": raw_retraction(id=b""),
    "retraction mac": raw_retraction(mac=b""),
    "conflict stream id": raw_frame(order_conflict=pb.OrderConflict(stream_id=b"s", last_sequence=1)),
    "conflict sequence": raw_frame(order_conflict=pb.OrderConflict(stream_id=bytes(16), last_sequence=2**63)),
    "confirm mac": raw_frame(pair_confirm=pb.PairConfirm(mac=bytes(31))),
    "confirm ticket": raw_frame(pair_confirm=pb.PairConfirm(mac=bytes(32), ticket=bytes(MAX_TICKET_BYTES + 1))),
    "ping nonce": raw_frame(ping=pb.Ping(nonce=bytes(7))),
    "pong nonce": raw_frame(pong=pb.Ping(nonce=bytes(9))),
    "goodbye reason 0": raw_frame(goodbye=pb.Goodbye(reason=0)),
    "goodbye reason 4": raw_frame(goodbye=pb.Goodbye(reason=4)),
    "rotation step": raw_rotation(4, 1, 32),
    "rotation epoch 0": raw_rotation(1, 0, 32),
    "rotation epoch": raw_rotation(1, 2**63, 32),
    "rotation contribution": raw_rotation(2, 1, 31),
    "commit with contribution": raw_rotation(3, 1, 32),
    "no body": pad_frame(b""),
    "unknown kind": pad_frame(b"\x52\x01x"),  # field 10
    "not protobuf": b"\xff" * 256,
    "padding not zero": GOOD["receipt"][:-1] + b"\x01",
    "not padded": pb.Frame(ping=pb.Ping(nonce=bytes(8))).SerializeToString(),
    "empty": b"",
    "cut": GOOD["batch"][:-1],
    "longer than any": bytes(MAX_FRAME_BYTES + 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_frames_within_the_limits(name: str) -> None:
    decode_frame(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_frames_over_the_limits(name: str) -> None:
    with pytest.raises(RemoteError):
        decode_frame(BAD[name])


def test_unknown_fields_are_skipped() -> None:
    raw = pb.Frame(ping=pb.Ping(nonce=b"12345678")).SerializeToString() + b"\x72\x03abc"  # field 14
    assert decode_frame(pad_frame(raw)) == Ping(b"12345678")


def raw_content(**fields: Any) -> bytes:
    return pb.Content(**fields).SerializeToString()


BAD_CONTENT = {
    "empty": b"",
    "no kind": raw_content(reply_to=b"r" * 32),
    "text too long": raw_content(text="x" * (MAX_TEXT_BYTES + 1)),
    "text too long in bytes": raw_content(text="é" * (MAX_TEXT_BYTES // 2 + 1)),
    "edit too long": raw_content(edit=pb.Edit(target=b"t" * 32, text="x" * (MAX_TEXT_BYTES + 1))),
    "edit target": raw_content(edit=pb.Edit(target=b"t" * 31, text="x")),
    "edit of nothing": raw_content(edit=pb.Edit(text="x")),
    "answered id": raw_content(text="x", reply_to=b"r" * 33),
    "not UTF-8": b"\x0a\x02\xff\xfe",
    "surrogate": b"\x0a\x03\xed\xa0\x80",
    "cut": b"\x0a\x05ab",
    "unknown kind": b"\x1a\x01x",
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_malformed_contents(name: str) -> None:
    with pytest.raises(RemoteError):
        decode_content(BAD_CONTENT[name])


def test_longest_text_fits_in_a_body() -> None:
    content = Content("é" * (MAX_TEXT_BYTES // 2), MessageId(b"r" * 32), MessageId(b"e" * 32))
    raw = encode_content(content)
    assert len(raw) <= MAX_BODY_BYTES
    assert decode_content(raw) == content


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1), "a\ud800"])
def test_texts_that_cannot_be_sent(text: str) -> None:
    with pytest.raises(LocalError):
        encode_content(Content(text))


# --- anything at all ---


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_an_error(noise: bytes) -> None:
    for raw in (noise, noise.ljust(256, b"\x00")[:256], pad_frame(noise)):
        try:
            assert decode_frame(encode_frame(decode_frame(raw))) == decode_frame(raw)
        except RemoteError:
            pass


@settings(max_examples=300)
@given(frames, st.data())
def test_altered_frames_are_a_frame_or_an_error(frame: Frame, data: st.DataObject) -> None:
    raw = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_frame(bytes(raw))
    except RemoteError:
        pass


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_content_or_an_error(noise: bytes) -> None:
    try:
        decode_content(noise)
    except RemoteError:
        pass
