"""What a certificate says about an identity's devices, and device keys as people write them."""

from __future__ import annotations

from dataclasses import dataclass

from p2pe.core.certificate import verify_certificate
from p2pe.errors import UsageError
from p2pe.identity.keys import KEY_BYTES, Identity
from p2pe.model import Millis


@dataclass(frozen=True, slots=True)
class DeviceList:
    """What the newest certificate says."""

    device_key: bytes  # of this device
    list_version: int  # contacts who have seen it refuse certificates with a lower one
    issued_at: Millis
    revoked: tuple[bytes, ...]


def device_list(identity: Identity) -> DeviceList:
    certificate = verify_certificate(identity.certificate)
    return DeviceList(
        certificate.device_key, certificate.list_version, certificate.issued_at, tuple(certificate.revoked)
    )


def parse_device_key(text: str) -> bytes:
    """Raises UsageError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"{text[:80]!r} isn't a device key: 64 hex digits, as `p2pe devices` prints them")
    return key
