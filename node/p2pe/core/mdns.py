"""Announcements on the local network: multicast DNS messages (RFC 6762, RFC 6763), and what ours mean. Pure.

An announcement is an ordinary DNS-SD answer (PTR, SRV, TXT) for `_p2pe._tcp.local`, so that other responders on the
network understand it. Its instance is named after a nonce, its SRV record has the port, and its TXT record has
LAN_ENTRIES entries of ENTRY_BYTES each: an entry that a contact recognises by its tag, or random bytes that look alike.

    entry = tag₈ ‖ (transport public key₃₂ XOR pad₃₂),   tag ‖ pad = lan_entry(...) of core/derive.py
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from p2pe.config import LAN_ENTRIES
from p2pe.core.derive import LAN_KEY_BYTES, LAN_TAG_BYTES
from p2pe.errors import RemoteError

GROUP: Final = "224.0.0.251"
PORT: Final = 5353
NONCE_BYTES: Final = 8
ENTRY_BYTES: Final = LAN_TAG_BYTES + LAN_KEY_BYTES
MAX_MESSAGE: Final = 1_472  # what fits one Ethernet frame; RFC 6762 section 17 allows more, but we never send it
_SERVICE: Final = ("_p2pe", "_tcp", "local")
_TTL: Final = 120  # seconds (RFC 6762 section 10, for records that name a host)
_PTR, _TXT, _SRV, _IN = 12, 16, 33, 1
_ANSWER: Final = 0x8400  # an authoritative answer
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")  # type, class, TTL, length
_MAX_RECORDS: Final = 32
_MAX_LABELS: Final = 16
_TXT_STRING: Final = 240  # six entries: below a string's 255 bytes


@dataclass(frozen=True, slots=True)
class Announcement:
    nonce: bytes
    port: int
    entries: tuple[bytes, ...]


def query() -> bytes:
    """Asks who is here."""
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + _name(_SERVICE) + struct.pack(">HH", _PTR, _IN)


def is_query(message: bytes) -> bool:
    """Whether it asks for our service: alone, as ours do, or beside others."""
    if len(message) < _HEADER.size or message[2] & 0x80:
        return False
    at, questions = _HEADER.size, _HEADER.unpack_from(message)[2]
    try:
        for _ in range(min(questions, _MAX_RECORDS)):
            labels, at = _read_name(message, at)
            kind, _class = struct.unpack_from(">HH", message, at)
            at += 4
            if kind == _PTR and labels == _SERVICE:
                return True
    except (RemoteError, struct.error):
        return False
    return False


def encode(announcement: Announcement) -> bytes:
    """One message, of one length whatever the entries are."""
    instance = (announcement.nonce.hex(), *_SERVICE)
    host = (announcement.nonce.hex(), "local")
    joined = b"".join(announcement.entries)
    strings = [joined[at : at + _TXT_STRING] for at in range(0, len(joined), _TXT_STRING)]
    text = b"".join(bytes((len(each),)) + each for each in strings)
    return b"".join(
        (
            _HEADER.pack(0, _ANSWER, 0, 3, 0, 0),
            _record(_SERVICE, _PTR, _name(instance)),
            _record(instance, _SRV, struct.pack(">HHH", 0, 0, announcement.port) + _name(host)),
            _record(instance, _TXT, text),
        )
    )


def decode(message: bytes) -> Announcement | None:
    """Another's announcement; None when the message is about something else. Raises RemoteError when malformed."""
    if not _HEADER.size <= len(message) <= MAX_MESSAGE:
        raise RemoteError("an mDNS message of an impossible length")
    _, flags, questions, *counts = _HEADER.unpack_from(message)
    if not flags & 0x8000 or questions:
        return None
    at, port, text, nonce = _HEADER.size, 0, b"", b""
    try:
        for _ in range(min(sum(counts), _MAX_RECORDS)):
            labels, at = _read_name(message, at)
            kind, _class, _, length = _RECORD.unpack_from(message, at)
            at += _RECORD.size
            data, at = message[at : at + length], at + length
            if at > len(message):
                raise RemoteError("an mDNS record that is cut short")
            if labels[1:] == _SERVICE and kind == _SRV and len(data) >= 6:
                port = int.from_bytes(data[4:6], "big")
            elif labels[1:] == _SERVICE and kind == _TXT:
                text, nonce = data, _nonce_of(labels[0])
    except struct.error:
        raise RemoteError("an mDNS message that is cut short") from None
    entries = _entries_of(text)
    if not port or not nonce or entries is None:
        return None
    return Announcement(nonce, port, entries)


def _nonce_of(label: str) -> bytes:
    try:
        nonce = bytes.fromhex(label)
    except ValueError:
        return b""
    return nonce if len(nonce) == NONCE_BYTES else b""


def _entries_of(text: bytes) -> tuple[bytes, ...] | None:
    joined, at = bytearray(), 0
    while at < len(text):
        size = text[at]
        joined += text[at + 1 : at + 1 + size]
        at += 1 + size
    if len(joined) != LAN_ENTRIES * ENTRY_BYTES:
        return None
    return tuple(bytes(joined[at : at + ENTRY_BYTES]) for at in range(0, len(joined), ENTRY_BYTES))


def _name(labels: tuple[str, ...]) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"


def _record(labels: tuple[str, ...], kind: int, data: bytes) -> bytes:
    return _name(labels) + _RECORD.pack(kind, _IN, _TTL, len(data)) + data


def _read_name(message: bytes, at: int) -> tuple[tuple[str, ...], int]:
    """Labels of a name, and where it ends. Pointers (RFC 1035 section 4.1.4) lead strictly backwards, so that they end.
    Raises RemoteError."""
    labels: list[str] = []
    end: int | None = None
    limit = at + 1
    while len(labels) < _MAX_LABELS:
        if at >= len(message):
            raise RemoteError("an mDNS name that is cut short")
        size = message[at]
        if size == 0:
            return tuple(labels), end if end is not None else at + 1
        if size >= 0xC0:
            if at + 1 >= len(message):
                raise RemoteError("an mDNS name that is cut short")
            target = (size & 0x3F) << 8 | message[at + 1]
            end = end if end is not None else at + 2
            if target >= limit - 1:
                raise RemoteError("an mDNS name that leads nowhere")
            at, limit = target, target + 1
            continue
        if size > 63:
            raise RemoteError("an mDNS label of an unknown kind")
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    raise RemoteError("an mDNS name with too many labels")
