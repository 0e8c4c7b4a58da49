"""Invites: spoken codes and links. Pure; entropy and dates are passed in.

A code is `NUMBER-word-word-word`, e.g. `47-actor-clock-tiger`. NUMBER (0..99) and the first word are the *locator*
(204,800 values): it says where to look. The other two words are the *password* (22 bits): SPAKE2 input, and nothing
else. Nothing that goes into the DHT is derived from the password, or it could be guessed offline.

    lookup seed = Argon2id(locator, salt = SHA-256("p2pe/1 locator" || day as 4 bytes)[:16], 3 passes, 64 MiB)
    handle      = HKDF(locator, "p2pe/1 code handle")[:8]

A link is `p2pe:` and base32 (RFC 4648, lower case, no padding) of InviteLink || SHA-256(InviteLink)[:4]. The four
bytes notice a link that was cut short or mistyped. Upper case reads too: QR codes are smaller with it.

    lookup seed = HKDF(secret, "p2pe/1 link lookup");  handle = HKDF(secret, "p2pe/1 link handle")[:8]
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from nacl.pwhash import argon2id

from p2pe.config import (
    CLOCK_SKEW,
    INVITE_SECONDS,
    LINK_BOOTSTRAP_MAX,
    LOCATOR_ARGON2_BYTES,
    LOCATOR_ARGON2_PASSES,
)
from p2pe.core.derive import day_of, hkdf
from p2pe.core.wordlist import WORD_COUNT, complete, words
from p2pe.errors import UsageError
from p2pe.model import Millis
from p2pe.proto import invites_pb2

LINK_PREFIX = "p2pe:"
SECRET_BYTES = 16
COMMITMENT_BYTES = 16
HANDLE_BYTES = 8
CODE_ENTROPY_BYTES = 16
_NUMBERS = 100
_MAX_LINK_CHARS = 2_048  # four bootstrap addresses take about 700
_MAX_BOOTSTRAP_CHARS = 256


@dataclass(frozen=True, slots=True)
class Code:
    """A spoken code. `str()` is what people say and type."""

    number: int
    words: tuple[str, str, str]

    def __str__(self) -> str:
        return f"{self.locator}-{self.password}"

    def __repr__(self) -> str:
        return f"Code({self.locator}-…)"  # the password stays out of logs and tracebacks

    @property
    def locator(self) -> str:
        """The public half: where to look."""
        return f"{self.number}-{self.words[0]}"

    @property
    def password(self) -> str:
        """The secret half, 22 bits."""
        return f"{self.words[1]}-{self.words[2]}"


@dataclass(frozen=True, slots=True)
class Link:
    """What an invite link carries. `bootstrap`: multiaddrs with /p2p, so that a newcomer needs no configuration."""

    secret: bytes
    identity_commitment: bytes
    bootstrap: tuple[str, ...]
    expires_at: int  # Unix seconds

    def __repr__(self) -> str:
        return "Link(…)"


def make_code(entropy: bytes) -> Code:
    """A code from CODE_ENTROPY_BYTES random bytes; uniform to within 2^-88."""
    if len(entropy) != CODE_ENTROPY_BYTES:
        raise ValueError(f"a code takes {CODE_ENTROPY_BYTES} random bytes, not {len(entropy)}")
    value, number = divmod(int.from_bytes(entropy, "big"), _NUMBERS)
    chosen = []
    for _ in range(3):
        value, index = divmod(value, WORD_COUNT)
        chosen.append(words()[index])
    return Code(number, (chosen[0], chosen[1], chosen[2]))


def parse_code(text: str) -> Code:
    """Reads a code as people type it: any case, spaces, dashes or commas between the parts, words cut to four letters
    or more. Raises UsageError naming the part that is wrong, with near words."""
    parts = re.findall(r"[a-z]+|\d+", text[:256].lower())
    if len(parts) != 4 or not parts[0].isdigit() or any(part.isdigit() for part in parts[1:]):
        raise UsageError("a code is a number and three words, such as 47-actor-clock-tiger; ask for it again")
    number = int(parts[0])
    if number >= _NUMBERS or len(parts[0]) > 2:
        raise UsageError(f"a code begins with a number from 0 to {_NUMBERS - 1}, not {parts[0][:8]}")
    first, second, third = (complete(part) for part in parts[1:])
    return Code(number, (first, second, third))


def code_of(locator: str, password: str) -> Code:
    """The code that was stored as its two halves."""
    return parse_code(f"{locator}-{password}")


def locator_seed(locator: str, day: int) -> bytes:
    """The Ed25519 seed (32 bytes) under which an invite with this locator is published on `day`.

    Takes 0.1–0.3 s and 64 MiB, on purpose: run it in a worker thread.
    """
    salt = hashlib.sha256(b"p2pe/1 locator" + day.to_bytes(4, "big")).digest()[:16]
    return argon2id.kdf(32, locator.encode(), salt, opslimit=LOCATOR_ARGON2_PASSES, memlimit=LOCATOR_ARGON2_BYTES)


def publish_days(created: Millis, expires: Millis) -> tuple[int, ...]:
    """The days under which an open invite is published: two when midnight (UTC) lies within its life."""
    return tuple(range(day_of(created), day_of(expires) + 1))


def search_days(now: Millis) -> tuple[int, ...]:
    """The days under which to look for an invite, likeliest first: today, and the neighbouring day when midnight is so
    near that the inviter's clock, or the invite's age, could have put it there."""
    today = day_of(now)
    before = day_of(Millis(now - (INVITE_SECONDS + CLOCK_SKEW) * 1000))
    after = day_of(Millis(now + CLOCK_SKEW * 1000))
    return tuple(dict.fromkeys((today, before, after)))


def code_handle(locator: str) -> bytes:
    """8 bytes that name the invite in Hello.tag. Derived from the public half of the code alone."""
    return hkdf(locator.encode(), b"p2pe/1 code handle", length=HANDLE_BYTES)


def link_handle(secret: bytes) -> bytes:
    """8 bytes that name the invite in Hello.tag."""
    return hkdf(secret, b"p2pe/1 link handle", length=HANDLE_BYTES)


def link_seed(secret: bytes) -> bytes:
    """The Ed25519 seed (32 bytes) under which an invite with this link is published."""
    return hkdf(secret, b"p2pe/1 link lookup")


def invite_aead_key(seed: bytes) -> bytes:
    """The key that seals the addresses in an invite's record: whoever can find it can read it."""
    return hkdf(seed, b"p2pe/1 invite record")


def is_link(text: str) -> bool:
    """Whether `text` is meant as a link rather than a code."""
    return text.strip().lower().startswith(LINK_PREFIX)


def encode_link(link: Link) -> str:
    """The text of a link: `p2pe:` and lower-case base32. With four bootstrap addresses about 700 characters."""
    if len(link.secret) != SECRET_BYTES or len(link.identity_commitment) != COMMITMENT_BYTES:
        raise ValueError("a link's secret and commitment are 16 bytes each")
    body = invites_pb2.InviteLink(
        secret=link.secret,
        identity_commitment=link.identity_commitment,
        bootstrap=link.bootstrap[:LINK_BOOTSTRAP_MAX],
        expires_at=link.expires_at,
    ).SerializeToString(deterministic=True)
    return LINK_PREFIX + base64.b32encode(body + _checksum(body)).decode().rstrip("=").lower()


def decode_link(text: str) -> Link:
    """Reads a link; blanks and line breaks inside it don't matter. Raises UsageError when it is damaged."""
    compact = "".join(text.split())
    if not is_link(compact) or len(compact) > _MAX_LINK_CHARS:
        raise UsageError(f"an invite link begins with {LINK_PREFIX} and has at most {_MAX_LINK_CHARS} characters")
    encoded = compact[len(LINK_PREFIX) :].upper()
    message = invites_pb2.InviteLink()
    try:
        raw = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        body, check = raw[:-4], raw[-4:]
        if check != _checksum(body):
            raise ValueError("checksum")
        message.ParseFromString(body)
    except (binascii.Error, ValueError, DecodeError) as error:
        raise UsageError("this invite link is damaged or cut short; copy the whole of it again") from error
    link = Link(message.secret, message.identity_commitment, tuple(message.bootstrap), message.expires_at)
    if (
        len(link.secret) != SECRET_BYTES
        or len(link.identity_commitment) != COMMITMENT_BYTES
        or len(link.bootstrap) > LINK_BOOTSTRAP_MAX
        or any(len(address) > _MAX_BOOTSTRAP_CHARS for address in link.bootstrap)
    ):
        raise UsageError("this invite link was made by a newer or a faulty p2pe; ask for a spoken code instead")
    return link


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:4]
