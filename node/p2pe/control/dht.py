"""The control API's routes for the directory: how it fares, and lookups by hash for operators."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from p2pe.control.services import Services
from p2pe.control.shapes import DhtAnswer, DhtLookupAnswer
from p2pe.errors import UsageError

_HASH_DIGITS = 64
_MULTIHASH = "1220"


def dht_router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/dht", tags=["directory"])

    @routes.get("", response_model=DhtAnswer)
    async def health() -> Response:
        """The routing table, the store and the work done."""
        return JSONResponse(services.directory.health())

    @routes.get("/lookup/{location_hash}", response_model=DhtLookupAnswer)
    async def lookup(location_hash: str) -> Response:
        """The servers nearest to a hash. Nothing but the hash is sent, and no record is asked for."""
        return JSONResponse(await services.directory.lookup_hash(read_hash(location_hash)))

    return routes


def read_hash(text: str) -> bytes:
    """32 bytes from 64 hex digits, or from a sha2-256 multihash in hex. Raises UsageError."""
    digits = text.lower().removeprefix(_MULTIHASH) if len(text) == _HASH_DIGITS + len(_MULTIHASH) else text
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        found = b""
    if len(found) != _HASH_DIGITS // 2 or len(digits) != _HASH_DIGITS:
        raise UsageError(f"{text!r} isn't a hash: 64 hex digits, or 68 that begin with 1220")
    return found
