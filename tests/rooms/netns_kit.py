"""A network namespace of a test's own: a fresh, empty network for one thread, gone when that ends.

Sockets that the thread opens and programs that it starts live in there. Nothing of it reaches this machine's network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio

_CLONE_NEWNET = 0x40000000


def _unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def ip(*commands: str) -> None:
    """Runs `ip` commands in the calling thread's namespace."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def why_not() -> str | None:
    """Why a namespace can't be made here; None when it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, for a network namespace"
    if shutil.which("ip") is None:
        return "needs the program `ip` (Debian: apt install iproute2)"
    problems: list[str] = []

    def probe() -> None:
        try:
            _unshare()
        except OSError as error:
            problems.append(f"network namespaces can't be made here: {error.strerror}")

    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()
    return problems[0] if problems else None


def run_in_namespace(work: Callable[[], Awaitable[None]]) -> None:
    """`trio.run(work)` in a thread with its own network: `lo`, and `lan0` (up, without address). Skips the test where
    that can't be."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    problems: list[BaseException] = []

    def main() -> None:
        try:
            _unshare()
            ip("link set lo up", "link add lan0 type veth peer name far0", "link set lan0 up", "link set far0 up")
            trio.run(work)
        except BaseException as problem:  # noqa: BLE001 - raised again by the test's own thread
            problems.append(problem)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
