"""Frames and contents: the model's types to protobuf bytes, and back with every limit enforced.

Decoding is where strangers' bytes become our values: whatever the bytes are, the result is a valid value or
RemoteError. Encoding trusts its caller (our own rooms) and checks only what a person may have asked for.

A frame's size is one of FRAME_SIZES, so sizes on the wire say little: 256, 512, ... 32,768, or the largest
frame. Unknown fields are skipped, as protobuf does; an unknown kind of frame is an error; padding that isn't
zero is an error, because nothing may travel where nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from p2pe import model
from p2pe.config import (
    MAX_BATCH_MESSAGES,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    MAX_RECEIPTS_PER_FRAME,
    MAX_TEXT_BYTES,
    MAX_TICKET_BYTES,
    MESSAGE_ID_BYTES,
    MIN_FRAME_BYTES,
    STREAM_ID_BYTES,
)
from p2pe.errors import LocalError, RemoteError
from p2pe.model import Frame, MessageId, Millis, StreamId, WireMessage
from p2pe.proto import session_pb2 as pb

PING_NONCE_BYTES: Final = 8
MAC_BYTES: Final = 32
CONTRIBUTION_BYTES: Final = 32
MAX_SEQUENCE: Final = 2**63 - 1  # SQLite's largest integer
MAX_MILLIS: Final = 253_402_300_800_000  # the year 10000: what calendars can show
FRAME_SIZES: Final = (*(1 << power for power in range(8, 16)), MAX_FRAME_BYTES)
_PADDING_KEY: Final = bytes([15 << 3 | 2])  # field 15, length-delimited
_SMALLEST_PADDING: Final = 2  # key and a length of 0
MAX_UNPADDED_BYTES: Final = MAX_FRAME_BYTES - _SMALLEST_PADDING
_BATCH_OVERHEAD: Final = 4 + 2 + STREAM_ID_BYTES  # Frame.batch's key and length, stream_id
_MESSAGE_OVERHEAD: Final = 4 + 2 + MESSAGE_ID_BYTES + 11 + 11 + 11 + 4  # keys, lengths and longest integers


# --- padding ---


def _padding(missing: int) -> bytes:
    """A padding field of exactly `missing` bytes (>= 2), key and length included.

    Two sizes can't be had with a shortest length. 130: 127 zeros make 129 and 128 make 131. 16,387: likewise, around
    16,384 zeros. There the length takes a byte more than it needs, which protobuf allows ("ff 00" reads as 127).
    """
    if missing <= 129:
        return _PADDING_KEY + bytes([missing - 2]) + bytes(missing - 2)
    if missing <= 16_386:
        zeros = missing - 3
        return _PADDING_KEY + bytes([zeros & 0x7F | 0x80, zeros >> 7]) + bytes(zeros)
    zeros = missing - 4
    return _PADDING_KEY + bytes([zeros & 0x7F | 0x80, zeros >> 7 & 0x7F | 0x80, zeros >> 14]) + bytes(zeros)


def pad_frame(raw: bytes) -> bytes:
    """Brings a serialized Frame without padding to the next of FRAME_SIZES.

    One byte can't be filled, so a frame that is one byte short of a size takes the next one. Raises LocalError
    above MAX_UNPADDED_BYTES.
    """
    length = len(raw)
    if length > MAX_UNPADDED_BYTES:
        raise LocalError(f"a frame of {length} bytes is too large; {MAX_UNPADDED_BYTES} fit")
    size = max(MIN_FRAME_BYTES, 1 << (length - 1).bit_length()) if length else MIN_FRAME_BYTES
    if size - length == 1:
        size <<= 1
    size = min(size, MAX_FRAME_BYTES)
    return raw + _padding(size - length) if size > length else raw


_SIZES: Final = frozenset(FRAME_SIZES)


# --- encoding ---


def encode_frame(frame: Frame) -> bytes:
    """A serialized, padded Frame: the plaintext of one Noise message.

    Raises LocalError when it doesn't fit; `batches` cuts messages so that they do.
    """
    return pad_frame(_ENCODERS[type(frame)](frame).SerializeToString())


def _encode_batch(batch: model.Batch) -> pb.Frame:
    frame = pb.Frame()
    target = frame.batch
    target.stream_id = batch.stream_id
    add = target.messages.add
    for each in batch.messages:
        add(
            id=each.id,
            sequence=each.sequence,
            sent_at=each.sent_at,
            body=each.body,
            expire_after=each.expire_after,
        )
    return frame


def _encode_receipts(frame: model.Receipts) -> pb.Frame:
    out = pb.Frame()
    add = out.receipts.receipts.add
    for each in frame.receipts:
        add(id=each.id, status=each.status, mac=each.mac)
    return out


def _encode_retractions(frame: model.Retractions) -> pb.Frame:
    out = pb.Frame()
    add = out.retractions.retractions.add
    for each in frame.retractions:
        add(id=each.id, mac=each.mac)
    return out


def _encode_order_conflict(frame: model.OrderConflict) -> pb.Frame:
    return pb.Frame(order_conflict=pb.OrderConflict(stream_id=frame.stream_id, last_sequence=frame.last_sequence))


def _encode_pair_confirm(frame: model.PairConfirm) -> pb.Frame:
    return pb.Frame(pair_confirm=pb.PairConfirm(mac=frame.mac, ticket=frame.ticket))


def _encode_ping(frame: model.Ping) -> pb.Frame:
    return pb.Frame(ping=pb.Ping(nonce=frame.nonce))


def _encode_pong(frame: model.Pong) -> pb.Frame:
    return pb.Frame(pong=pb.Ping(nonce=frame.nonce))


def _encode_goodbye(frame: model.Goodbye) -> pb.Frame:
    return pb.Frame(goodbye=pb.Goodbye(reason=frame.reason))


def _encode_rotation(frame: model.Rotation) -> pb.Frame:
    step = frame.step
    return pb.Frame(rotation=pb.Rotation(step=step, epoch=frame.epoch, contribution=frame.contribution))  # type: ignore[arg-type]


_ENCODERS: Final[dict[type[Any], Callable[[Any], pb.Frame]]] = {
    model.Batch: _encode_batch,
    model.Receipts: _encode_receipts,
    model.OrderConflict: _encode_order_conflict,
    model.Retractions: _encode_retractions,
    model.PairConfirm: _encode_pair_confirm,
    model.Ping: _encode_ping,
    model.Pong: _encode_pong,
    model.Goodbye: _encode_goodbye,
    model.Rotation: _encode_rotation,
}


def batches(stream_id: StreamId, messages: Sequence[WireMessage]) -> Iterator[model.Batch]:
    """Cuts messages, in order, into batches that each fit in one frame. Every valid message fits alone."""
    start, size = 0, _BATCH_OVERHEAD
    for at, each in enumerate(messages):
        cost = _MESSAGE_OVERHEAD + len(each.body)
        if at > start and (size + cost > MAX_UNPADDED_BYTES or at - start == MAX_BATCH_MESSAGES):
            yield model.Batch(stream_id, tuple(messages[start:at]))
            start, size = at, _BATCH_OVERHEAD
        size += cost
    if start < len(messages):
        yield model.Batch(stream_id, tuple(messages[start:]))


# --- decoding ---


def decode_frame(raw: bytes) -> Frame:
    """Reads the plaintext of one Noise message. Raises RemoteError for anything that isn't a valid frame."""
    if len(raw) not in _SIZES:
        raise RemoteError(f"a frame of {len(raw)} bytes isn't padded to one of the sizes allowed")
    try:
        frame = pb.Frame.FromString(raw)
    except DecodeError:
        raise RemoteError("a frame isn't valid protobuf") from None
    padding = frame.padding
    if padding != bytes(len(padding)):
        raise RemoteError("a frame's padding isn't zero")
    kind = frame.WhichOneof("body")
    if kind is None:
        raise RemoteError("a frame is of no kind known here")
    return _DECODERS[kind](getattr(frame, kind))


def _check_size(value: bytes, size: int, what: str) -> bytes:
    if len(value) != size:
        raise RemoteError(f"{what} has {len(value)} bytes instead of {size}")
    return value


def _decode_batch(batch: pb.Batch) -> model.Batch:
    stream_id = StreamId(_check_size(batch.stream_id, STREAM_ID_BYTES, "a stream id"))
    received = batch.messages
    if not 0 < len(received) <= MAX_BATCH_MESSAGES:
        raise RemoteError(f"a batch of {len(received)} messages; 1 to {MAX_BATCH_MESSAGES} are allowed")
    messages = []
    last = 0
    for each in received:
        identifier, sequence, sent_at = each.id, each.sequence, each.sent_at
        body, expire_after = each.body, each.expire_after
        if len(identifier) != MESSAGE_ID_BYTES:
            raise RemoteError(f"a message id has {len(identifier)} bytes instead of {MESSAGE_ID_BYTES}")
        if not last < sequence <= MAX_SEQUENCE:
            raise RemoteError(f"sequence {sequence} in a batch after {last}; they must be >= 1 and grow")
        if not 0 < len(body) <= MAX_BODY_BYTES:
            raise RemoteError(f"a message body of {len(body)} bytes; 1 to {MAX_BODY_BYTES} are allowed")
        if not (0 <= sent_at < MAX_MILLIS and 0 <= expire_after < MAX_MILLIS):
            raise RemoteError(f"a message with an impossible time ({sent_at}, {expire_after})")
        last = sequence
        messages.append(WireMessage(MessageId(identifier), sequence, Millis(sent_at), body, expire_after))
    return model.Batch(stream_id, tuple(messages))


_STATUSES: Final = {int(each): each for each in model.ReceiptStatus}
_STEPS: Final = {int(each): each for each in model.RotationStep}
_REASONS: Final = {int(each): each for each in model.GoodbyeReason}


def _decode_receipts(frame: pb.Receipts) -> model.Receipts:
    received = frame.receipts
    if not 0 < len(received) <= MAX_RECEIPTS_PER_FRAME:
        raise RemoteError(f"{len(received)} receipts in a frame; 1 to {MAX_RECEIPTS_PER_FRAME} are allowed")
    receipts = []
    for each in received:
        identifier, mac, status = each.id, each.mac, _STATUSES.get(each.status)
        if len(identifier) != MESSAGE_ID_BYTES or len(mac) != MAC_BYTES or status is None:
            raise RemoteError(f"a malformed receipt (id {len(identifier)} B, mac {len(mac)} B, status {each.status})")
        receipts.append(model.Receipt(MessageId(identifier), status, mac))
    return model.Receipts(tuple(receipts))


def _decode_retractions(frame: pb.Retractions) -> model.Retractions:
    received = frame.retractions
    if not 0 < len(received) <= MAX_RECEIPTS_PER_FRAME:
        raise RemoteError(f"{len(received)} retractions in a frame; 1 to {MAX_RECEIPTS_PER_FRAME} are allowed")
    retractions = []
    for each in received:
        identifier, mac = each.id, each.mac
        if len(identifier) != MESSAGE_ID_BYTES or len(mac) != MAC_BYTES:
            raise RemoteError(f"a malformed retraction (id {len(identifier)} B, mac {len(mac)} B)")
        retractions.append(model.Retraction(MessageId(identifier), mac))
    return model.Retractions(tuple(retractions))


def _decode_order_conflict(frame: pb.OrderConflict) -> model.OrderConflict:
    stream_id = StreamId(_check_size(frame.stream_id, STREAM_ID_BYTES, "a stream id"))
    if frame.last_sequence > MAX_SEQUENCE:
        raise RemoteError(f"an order conflict at sequence {frame.last_sequence}, above {MAX_SEQUENCE}")
    return model.OrderConflict(stream_id, frame.last_sequence)


def _decode_pair_confirm(frame: pb.PairConfirm) -> model.PairConfirm:
    if len(frame.ticket) > MAX_TICKET_BYTES:
        raise RemoteError(f"a contact ticket of {len(frame.ticket)} bytes; at most {MAX_TICKET_BYTES} are allowed")
    return model.PairConfirm(_check_size(frame.mac, MAC_BYTES, "a confirmation"), frame.ticket)


def _decode_ping(frame: pb.Ping) -> model.Ping:
    return model.Ping(_check_size(frame.nonce, PING_NONCE_BYTES, "a ping"))


def _decode_pong(frame: pb.Ping) -> model.Pong:
    return model.Pong(_check_size(frame.nonce, PING_NONCE_BYTES, "a pong"))


def _decode_goodbye(frame: pb.Goodbye) -> model.Goodbye:
    reason = _REASONS.get(frame.reason)
    if reason is None:
        raise RemoteError(f"a goodbye for the unknown reason {frame.reason}")
    return model.Goodbye(reason)


def _decode_rotation(frame: pb.Rotation) -> model.Rotation:
    step = _STEPS.get(frame.step)
    if step is None or not 0 < frame.epoch <= MAX_SEQUENCE:
        raise RemoteError(f"a malformed rotation (step {frame.step}, epoch {frame.epoch})")
    size = 0 if step is model.RotationStep.COMMIT else CONTRIBUTION_BYTES
    return model.Rotation(step, frame.epoch, _check_size(frame.contribution, size, "a rotation's contribution"))


_DECODERS: Final[dict[str, Callable[[Any], Frame]]] = {
    "batch": _decode_batch,
    "receipts": _decode_receipts,
    "order_conflict": _decode_order_conflict,
    "retractions": _decode_retractions,
    "pair_confirm": _decode_pair_confirm,
    "ping": _decode_ping,
    "pong": _decode_pong,
    "goodbye": _decode_goodbye,
    "rotation": _decode_rotation,
}


# --- contents ---


def encode_content(content: model.Content) -> bytes:
    """A serialized Content: the body of a message. Raises LocalError for text that is too long or not Unicode."""
    try:
        size = len(content.text.encode())
    except UnicodeEncodeError as problem:
        raise LocalError(f"the text isn't valid Unicode (at character {problem.start}); send it without that") from None
    if size > MAX_TEXT_BYTES:
        raise LocalError(f"the text has {size} bytes; at most {MAX_TEXT_BYTES} fit in a message. Send it in parts")
    out = pb.Content()
    if content.edits is None:
        out.text = content.text
    else:
        out.edit.target = content.edits
        out.edit.text = content.text
    if content.reply_to is not None:
        out.reply_to = content.reply_to
    return out.SerializeToString()


def decode_content(raw: bytes) -> model.Content:
    """Reads a message body. Raises RemoteError for anything that isn't a valid Content."""
    try:
        content = pb.Content.FromString(raw)
    except DecodeError:
        raise RemoteError("a message body isn't valid protobuf") from None
    kind = content.WhichOneof("kind")
    if kind == "text":
        text, edits = content.text, None
    elif kind == "edit":
        text = content.edit.text
        edits = MessageId(_check_size(content.edit.target, MESSAGE_ID_BYTES, "the id of an edited message"))
    else:
        raise RemoteError("a message body is of no kind known here")
    if len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
        raise RemoteError(f"a text above {MAX_TEXT_BYTES} bytes")
    reply_to = None
    if content.reply_to:
        reply_to = MessageId(_check_size(content.reply_to, MESSAGE_ID_BYTES, "the id of an answered message"))
    return model.Content(text, reply_to, edits)
