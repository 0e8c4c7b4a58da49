"""Addresses and peer ids between text and the binary multiaddrs that libp2p's protocols carry.

Both ways are cached: the library takes 0.1 ms for one, and a node reads and tells the same few again and again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pe.config import ADDRESSES_REMEMBERED
from p2pe.model import Address

_MAX_BYTES = 512  # a circuit address with two peer ids over a long DNS name


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def address_to_bytes(address: Address | str) -> bytes:
    """Raises ValueError for what isn't a multiaddr."""
    try:
        return bytes(multiaddr.Multiaddr(address).to_bytes())
    except (MultiaddrError, ValueError, LookupError) as error:
        raise ValueError(f"not a multiaddr: {address!r} ({error})") from None


def address_from_bytes(raw: bytes) -> Address | None:
    """The text form; None for bytes that aren't a multiaddr we can read."""
    if not raw or len(raw) > _MAX_BYTES:
        return None
    return _text_of(bytes(raw))


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _text_of(raw: bytes) -> Address | None:
    try:
        parsed: Any = multiaddr.Multiaddr(raw)
        return Address(str(parsed))
    except (MultiaddrError, ValueError, LookupError, TypeError, OverflowError):
        return None


def addresses_from_bytes(raws: list[bytes], limit: int) -> tuple[Address, ...]:
    """Those that can be read, in order, without duplicates, at most `limit`."""
    found: dict[Address, None] = {}
    for raw in raws[: 4 * limit]:
        address = address_from_bytes(bytes(raw))
        if address is not None:
            found[address] = None
        if len(found) == limit:
            break
    return tuple(found)
