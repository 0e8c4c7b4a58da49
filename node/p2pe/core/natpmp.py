"""NAT-PMP (RFC 6886) and PCP's MAP (RFC 6887): how a router is asked for a port, as bytes. Pure.

Both are answered on the router's UDP port 5351. A router that knows only NAT-PMP answers a PCP request with version 0.
All integers are big-endian.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from p2pe.errors import RemoteError

PORT: Final = 5351
MAX_ANSWER_BYTES: Final = 1_100  # RFC 6887 section 7: no PCP message is longer
PCP_NONCE_BYTES: Final = 12
_NATPMP, _PCP = 0, 2
_OP_ADDRESS, _OP_MAP_TCP, _ANSWER = 0, 2, 128
_PCP_MAP: Final = 1
_TCP: Final = 6
_MAP_REQUEST = struct.Struct(">BBHHHI")  # version, op, reserved, internal port, external port, lifetime
_MAP_ANSWER = struct.Struct(">BBHIHHI")  # version, op, result, epoch, internal port, external port, lifetime
_ADDRESS_ANSWER = struct.Struct(">BBHI4s")  # version, op, result, epoch, address
_PCP_HEADER = struct.Struct(">BBHI16s")  # version, op, reserved, lifetime, client address
_PCP_ANSWER = struct.Struct(">BBBBII12x")  # version, op, reserved, result, lifetime, epoch
_PCP_MAP_BODY = struct.Struct(">12sB3xHH16s")  # nonce, protocol, internal port, external port, external address
_RESULTS: Final = {
    1: "it doesn't know this version",
    2: "it has port mapping switched off",
    3: "it has no address of its own",
    4: "it has no room for a mapping",
    5: "it doesn't know this request",
}


class Refused(RemoteError):
    """The router answered, and won't."""

    code = "port_mapping_refused"


class OtherVersion(Refused):
    """It doesn't speak this protocol."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A mapping. `address` is the router's outside one; None where the protocol tells it in another answer."""

    external_port: int
    lifetime: int  # seconds; 0: it was removed
    address: str | None = None


# --- NAT-PMP ---


def address_request() -> bytes:
    return bytes((_NATPMP, _OP_ADDRESS))


def map_request(internal_port: int, external_port: int, lifetime: int) -> bytes:
    """For TCP. `external_port` is a wish; lifetime 0 (and port 0) removes the mapping."""
    return _MAP_REQUEST.pack(_NATPMP, _OP_MAP_TCP, 0, internal_port, external_port, lifetime)


def read_address(answer: bytes) -> str:
    """The router's outside IPv4 address. Raises Refused, RemoteError."""
    if len(answer) != _ADDRESS_ANSWER.size:
        _check_natpmp(answer, _OP_ADDRESS)
        raise RemoteError("a NAT-PMP answer of a wrong length")
    _check_natpmp(answer, _OP_ADDRESS)
    return str(ipaddress.IPv4Address(_ADDRESS_ANSWER.unpack(answer)[4]))


def read_mapping(answer: bytes, internal_port: int) -> Granted:
    """Raises Refused, RemoteError."""
    _check_natpmp(answer, _OP_MAP_TCP)
    if len(answer) != _MAP_ANSWER.size:
        raise RemoteError("a NAT-PMP answer of a wrong length")
    _, _, _, _, internal, external, lifetime = _MAP_ANSWER.unpack(answer)
    if internal != internal_port or (lifetime and not external):
        raise RemoteError("a NAT-PMP answer to another request")
    return Granted(external, lifetime)


def _check_natpmp(answer: bytes, op: int) -> None:
    if len(answer) < 4 or answer[0] != _NATPMP or answer[1] != _ANSWER + op:
        raise RemoteError("not a NAT-PMP answer")
    _check_result(int.from_bytes(answer[2:4], "big"))


def _check_result(result: int) -> None:
    if result == 1:
        raise OtherVersion(_RESULTS[1])
    if result:
        raise Refused(_RESULTS.get(result, f"it refused (result {result})"))


# --- PCP ---


def pcp_request(client: str, nonce: bytes, internal_port: int, external_port: int, lifetime: int) -> bytes:
    """MAP for TCP; `client` is our own address towards the router. The nonce makes the mapping ours (section 11.2)."""
    header = _PCP_HEADER.pack(_PCP, _PCP_MAP, 0, lifetime, _mapped(client))
    return header + _PCP_MAP_BODY.pack(nonce, _TCP, internal_port, external_port, _mapped("0.0.0.0"))


def read_pcp(answer: bytes, nonce: bytes, internal_port: int) -> Granted:
    """Raises Refused, RemoteError; OtherVersion when only NAT-PMP is spoken there."""
    if len(answer) >= 4 and answer[0] != _PCP and answer[1] & _ANSWER:
        raise OtherVersion(_RESULTS[1])
    if len(answer) < _PCP_ANSWER.size or answer[0] != _PCP or answer[1] != _ANSWER + _PCP_MAP:
        raise RemoteError("not a PCP answer")
    _, _, _, result, lifetime, _ = _PCP_ANSWER.unpack_from(answer)
    _check_result(result)
    if len(answer) < _PCP_ANSWER.size + _PCP_MAP_BODY.size:
        raise RemoteError("a PCP answer that is cut short")
    theirs, protocol, internal, external, address = _PCP_MAP_BODY.unpack_from(answer, _PCP_ANSWER.size)
    if theirs != nonce or protocol != _TCP or internal != internal_port or (lifetime and not external):
        raise RemoteError("a PCP answer to another request")
    parsed = ipaddress.IPv6Address(address)
    return Granted(external, lifetime, str(parsed.ipv4_mapped or parsed))


def _mapped(ipv4: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(ipv4).packed
