"""`p2pe run` as a process: logging, the lock, unlocking, signals, systemd, and a stop that always ends.

While Argon2id works in a thread, the heavy imports run beside it: together they take most of a start.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2pe.app_home import Settings, passphrase_for
from p2pe.commandline import stop_signals
from p2pe.errors import P2peError, StorageError
from p2pe.identity.keyring import open_identity
from p2pe.identity.keys import Identity
from p2pe.logs import set_up_logging

if TYPE_CHECKING:
    from p2pe.control.services import Services

_log: Final = structlog.get_logger(__name__)
STOP_SECONDS: Final = 10.0  # from the signal to the end, whatever hangs; what was accepted is on the disk anyway


def run_process(
    settings: Settings, passphrase_file: Path | None, *, log_level: str = "info", log_json: bool | None = None
) -> int:
    """Runs the node until SIGTERM or Ctrl-C; returns the exit code.

    Raises what keeps a node from starting: Conflict (the home is in use), NotFound, WrongPassphrase, UsageError,
    StorageError.
    """
    set_up_logging(log_level, json_lines=log_json)
    home = settings.home
    passphrase = passphrase_for(home, passphrase_file)
    with home.lock(), ThreadPoolExecutor(1) as beside:
        unlocking = beside.submit(open_identity, home, passphrase)
        from p2pe.app import run_node  # in the meantime

        identity = unlocking.result()
        try:
            trio.run(_until_signalled, settings, identity, run_node)
        except* P2peError as group:
            raise _first(group) from None
        except* OSError as group:
            raise StorageError(f"the system refused: {_first(group)}") from None
        _log.info("stopped")
    return 0


async def _until_signalled(settings: Settings, identity: Identity, run_node: Callable[..., object]) -> None:
    with trio.open_signal_receiver(*stop_signals()) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            services: Services = await nursery.start(partial(run_node, settings, None, identity))  # type: ignore[arg-type]
            _announce(services)


async def _stop_on_signal(signals: object, scope: trio.CancelScope) -> None:
    """The first signal stops gracefully, and starts a watchdog; the second ends the process at once."""
    async for number in signals:  # type: ignore[attr-defined]
        if scope.cancel_called:
            os._exit(128 + number)
        _log.info("stopping", signal=signal.Signals(number).name)
        _notify("STOPPING=1")
        watchdog = threading.Timer(STOP_SECONDS, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        scope.cancel()


def _announce(services: Services) -> None:
    overlay = services.overlay()
    _log.info("ready", pid=services.pid, home=services.home, listen=overlay["listen"], keys=services.key_protection)
    _notify("READY=1")


def _notify(state: str) -> None:
    """Tells systemd (sd_notify(3)); nothing when nobody listens."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("systemd couldn't be told", state=state, problem=str(error))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit("run it as `p2pe run`")
