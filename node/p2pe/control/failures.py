"""Errors on their way out: HTTP status, JSON body; and the way back out when a client has gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
import trio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pe.config import API_MAX_BODY
from p2pe.errors import (
    Conflict,
    LinkClosed,
    LocalError,
    NotFound,
    P2peError,
    PairingError,
    RemoteError,
    StorageError,
    TimedOut,
    Unreachable,
)

_log: Final = structlog.get_logger(__name__)
T = TypeVar("T")

# The first class that fits. 507 and 504 aren't quite what RFC 9110 and 4918 had in mind; they tell scripts apart
# what is worth another try.
STATUSES: Final[tuple[tuple[type[P2peError], int], ...]] = (
    (NotFound, 404),
    (Conflict, 409),
    (PairingError, 422),
    (LocalError, 400),
    (TimedOut, 504),
    (Unreachable, 503),
    (StorageError, 507),
    (RemoteError, 502),
    (LinkClosed, 502),
    (P2peError, 500),
)
_GONE: Final = 499  # nobody reads it


def status_of(error: P2peError) -> int:
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def answer(code: str, message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def install(app: FastAPI) -> None:
    """Makes every failure of a route a JSON answer with one shape."""

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, P2peError)
        return answer(error.code, str(error), status_of(error))

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return answer("usage", f"{where or 'the request'}: {first['msg']}", 400)

    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return answer("not_found" if error.status_code == 404 else "usage", str(error.detail), error.status_code)

    async def stopping(_request: Request, _error: Exception) -> JSONResponse:
        return answer("no_daemon", "The node is stopping.", 503)

    async def defect(request: Request, error: Exception) -> JSONResponse:
        route = getattr(request.scope.get("route"), "path", "?")  # the template: never a name or an id
        _log.error("a request failed through a defect of ours", route=route, exc_info=error)
        return answer("error", "The node has a defect here; its log says more.", 500)

    app.add_exception_handler(P2peError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(trio.ClosedResourceError, stopping)
    app.add_exception_handler(Exception, defect)


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns or raises. When the client goes away first, `work` is cancelled and HTTPException raised."""
    failure: P2peError | None = None
    result: list[T] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            result.append(await work())
        except P2peError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise HTTPException(_GONE, "the client went away")
    return result[0]


class BodyLimit:
    """ASGI middleware: refuses bodies beyond API_MAX_BODY, announced or not, before they are in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(announced) > API_MAX_BODY:
            refusal = answer("usage", f"a request has at most {API_MAX_BODY} bytes; split the batch", 413)
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > API_MAX_BODY:  # chunked, without a length: not what our clients do
                raise HTTPException(413, f"a request has at most {API_MAX_BODY} bytes; split the batch")
            return event

        await self._app(scope, counted, send)
