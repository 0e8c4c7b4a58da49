"""A network namespace of one's own for a thread: a fresh, empty network, gone when the thread ends.

Sockets that the thread opens and programs that it starts live in there; nothing of it reaches the machine's network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from trio._core import _thread_cache

from p2pe_sim.natlab.lab import LabUnavailable

T = TypeVar("T")
_CLONE_NEWNET: Final = 0x40000000


def ip(*commands: str) -> None:
    """Runs `ip` commands in the calling thread's namespace. Raises OSError with what `ip` said."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, capture_output=True)
    if done.returncode != 0:
        raise OSError(f"ip failed: {done.stderr.strip()}")


@contextmanager
def own_worker_threads() -> Iterator[None]:
    """Within the block trio takes worker threads from a pool of their own. A thread stays in the namespace in which it
    began: one that is lent out again afterwards would start programs in a network that is no longer meant."""
    shared = _thread_cache.THREAD_CACHE
    _thread_cache.THREAD_CACHE = _thread_cache.ThreadCache()
    try:
        yield
    finally:
        _thread_cache.THREAD_CACHE = shared


def in_namespace(work: Callable[[], T]) -> T:
    """Runs `work` in a thread with its own network: `lo`, and `lan0` (up, without an address). Raises LabUnavailable
    with the reason where that can't be, and what `work` raises."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise LabUnavailable("needs root, for a network namespace")
    if shutil.which("ip") is None:
        raise LabUnavailable("needs the program `ip` (Debian: apt install iproute2)")
    results: list[T] = []
    problems: list[BaseException] = []

    def main() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET) != 0:
                reason = os.strerror(ctypes.get_errno())
                raise LabUnavailable(f"network namespaces can't be made here: {reason}")
            try:
                ip("link set lo up", "link add lan0 type veth peer name far0", "link set lan0 up", "link set far0 up")
            except OSError as problem:
                raise LabUnavailable(str(problem)) from None
            results.append(work())
        except BaseException as problem:  # noqa: BLE001 - raised again by the caller's thread
            problems.append(problem)

    thread = threading.Thread(target=main)
    with own_worker_threads():  # this thread only waits, so nobody else asks for one meanwhile
        thread.start()
        thread.join()
    if problems:
        raise problems[0]
    return results[0]
