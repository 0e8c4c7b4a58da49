"""Serves the control API over HTTP on a Unix socket: Hypercorn's trio worker, on a socket of our own making.

Who may connect is who may open the socket: it has mode 0600 in a directory of mode 0700.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app

from p2pe.config import API_MAX_BODY
from p2pe.control.api import make_api
from p2pe.control.services import Services
from p2pe.errors import StorageError, UsageError
from p2pe.identity.home import MAX_SOCKET_PATH

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

_BACKLOG: Final = 64
_KEEP_ALIVE: Final = 75  # seconds an idle connection stays: a bot that sends now and then keeps its own
_KEEP_ALIVE_REQUESTS: Final = 1_000_000
_GRACEFUL_SECONDS: Final = 1  # for requests under way when the node stops; waiting ones are cut


def bind_socket(path: Path) -> socket.socket:
    """A listening Unix socket of mode 0600. A stale file of that name is replaced: the caller holds the home's lock.

    Raises UsageError (path too long), StorageError.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise UsageError(
            f"{path} is too long for a socket: the system takes at most {MAX_SOCKET_PATH} bytes. "
            "Choose a shorter home with --home"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(mask)
        if path.stat().st_mode & 0o777 != 0o600:  # a file system that doesn't know modes
            raise StorageError(f"{path.parent} can't hold a socket of mode 0600; choose another home with --home")
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise StorageError(f"can't make the control socket {path}: {error.strerror or error}") from error
    return sock


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    sock = bind_socket(path)
    try:
        yield sock
    finally:
        path.unlink(missing_ok=True)
        sock.close()


async def serve(services: Services, path: Path, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves until cancelled, then removes the socket. Raises what `bind_socket` does."""
    config = Config()
    config.accesslog = config.errorlog = None  # failures are logged by control/failures.py, without names or ids
    config.keep_alive_timeout = _KEEP_ALIVE
    config.keep_alive_max_requests = _KEEP_ALIVE_REQUESTS
    config.graceful_timeout = _GRACEFUL_SECONDS
    config.include_server_header = False
    api = wrap_app(cast("Any", make_api(services)), API_MAX_BODY, "asgi")
    with _bound(path) as sock:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(worker_serve, api, config, sockets=Sockets([], [sock], [])))
            task_status.started()
