"""The guard against escapes: inside a simulation nothing may ask the real world for the time, for entropy, a socket,
a thread or a process, or write a file. What does raises EscapeError, naming what was called, and where.

Calls of Python functions are caught by putting a raising one in their place, everywhere that node code or a library
it uses has imported it to; what C code does (sockets, threads, files) by an audit hook. Trio and the simulator itself
are let through. What can't be caught is entropy that a library draws in C by itself; the one place is ML-KEM's
encapsulation, for which a run has a stand-in (encapsulation.py).
"""

from __future__ import annotations

import _thread
import os
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

import nacl.bindings
import nacl.utils
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_CLOCKS: Final = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep",
                  "clock_gettime", "clock_gettime_ns", "gmtime", "localtime")  # fmt: skip
_RANDOM: Final = ("random", "randint", "randrange", "randbytes", "getrandbits", "choice", "choices", "shuffle",
                  "sample", "uniform", "gauss", "expovariate", "seed")  # fmt: skip
_SECRETS: Final = ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice")
_TRUSTED: Final = ("trio", "p2pe_sim")
_PLUMBING: Final = ("socket", "random", "uuid", "secrets", "logging", "contextlib", "subprocess", "threading")
_OURS: Final = ("p2pe", "p2pe_bootstrap", "libp2p", "multiaddr", "noise", "spake2", "structlog", "nacl")
_MAY_OPEN: Final = ("trio._core._wakeup_socketpair", "p2pe_sim")  # trio itself wakes up by a pair of sockets
_AUDITED: Final = {
    "open": "a real file",
    "socket.__new__": "a real socket",
    "socket.getaddrinfo": "a real name look-up",
    "socket.gethostbyname": "a real name look-up",
    "subprocess.Popen": "a process",
    "os.fork": "a process",
    "os.posix_spawn": "a process",
}


class EscapeError(BaseException):
    """Code under simulation reached for the real world. Not an Exception: no handler of the node's may swallow it."""


class _Guard:
    """One a process: audit hooks can't be removed, so that this one is switched."""

    def __init__(self) -> None:
        self.is_on = False
        self.is_hooked = False
        self.thread = 0
        self.escapes: list[str] = []

    def escape(self, what: str, frame: FrameType | None) -> EscapeError:
        text = f"{what} was asked for inside a simulation, at {_where(frame)}; use what `World` offers"
        self.escapes.append(text)
        return EscapeError(text)


_guard: Final = _Guard()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """A plain function, and what is audited most thrown out first: Python calls it for each `id()`, and looks an
    attribute up at the hook before each call, which is slow on a bound method."""
    if event not in _AUDITED or not _guard.is_on or threading.get_ident() != _guard.thread:
        return
    frame = sys._getframe(1)
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = any(each in (mode or "") for each in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes and _is_ours(frame):
            raise _guard.escape(f"a real file for writing ({arguments[0]})", frame)
        return
    if not _is_trusted(frame, allowed=_MAY_OPEN):
        raise _guard.escape(_AUDITED[event], frame)


@contextmanager
def guarded() -> Iterator[list[str]]:
    """Escapes raise inside the block, and are noted in the list that it gives."""
    if not _guard.is_hooked:
        _guard.is_hooked = True
        sys.addaudithook(_audit)
    undo = _replace_all()
    _guard.escapes = []
    _guard.thread = threading.get_ident()
    _guard.is_on = True
    try:
        yield _guard.escapes
    finally:
        _guard.is_on = False
        for namespace, name, original in reversed(undo):
            setattr(namespace, name, original)


def _replace_all() -> list[tuple[Any, str, Any]]:
    """Puts raising functions in place. Returns how to undo it."""
    replaced: dict[int, tuple[Any, Callable[..., Any]]] = {}
    undo: list[tuple[Any, str, Any]] = []
    for module, names, what in (
        (time, _CLOCKS, "the real clock"),
        (random, _RANDOM, "module-level randomness"),
        (secrets, _SECRETS, "unseeded entropy"),
        (os, ("urandom", "getrandom"), "unseeded entropy"),
        (uuid, ("uuid1", "uuid4"), "unseeded entropy"),
        (_thread, ("start_new_thread",), "a thread"),
        (trio.to_thread, ("run_sync",), "a thread"),
        (nacl.utils, ("random",), "unseeded entropy"),
        (nacl.bindings, ("randombytes",), "unseeded entropy"),
    ):
        for name in names:
            original = getattr(module, name, None)
            if original is not None:
                guard = _raising(original, f"{what} ({module.__name__}.{name})")
                replaced[id(original)] = (original, guard)
                undo.append((module, name, original))
                setattr(module, name, guard)
    for kind in (X25519PrivateKey, Ed25519PrivateKey):
        undo.append((kind, "generate", kind.__dict__["generate"]))
        kind.generate = _raising(kind.generate, f"unseeded entropy ({kind.__name__}.generate)")  # type: ignore[method-assign]
    threading_module: Any = threading
    undo.append((threading, "_start_new_thread", threading_module._start_new_thread))
    threading_module._start_new_thread = _thread.start_new_thread
    for module in _our_modules():
        for name, value in list(vars(module).items()):
            known = replaced.get(id(value))
            if known is not None and known[0] is value:
                undo.append((module, name, value))
                setattr(module, name, known[1])
    return undo


def _our_modules() -> list[ModuleType]:
    return [
        module for name, module in list(sys.modules.items()) if name.partition(".")[0] in _OURS and module is not None
    ]


def _raising(original: Callable[..., Any], what: str) -> Callable[..., Any]:
    def guard(*arguments: Any, **options: Any) -> Any:
        frame = sys._getframe(1)
        if not _guard.is_on or threading.get_ident() != _guard.thread or _is_trusted(frame):
            return original(*arguments, **options)
        raise _guard.escape(what, frame)

    return guard


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OURS


def _is_trusted(frame: FrameType | None, allowed: tuple[str, ...] = _TRUSTED) -> bool:
    """Whether the nearest code that isn't the standard library's plumbing is one that may."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _PLUMBING:
            return name.startswith(allowed)
        frame = frame.f_back
    return False


def _where(frame: FrameType | None) -> str:
    """The innermost place in our own code; else the innermost outside the standard library."""
    outside = None
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        place = f"{name}:{frame.f_lineno} ({frame.f_code.co_name})"
        if _is_ours(frame) and not name.startswith(("structlog", "nacl")):
            return place
        if outside is None and name.partition(".")[0] not in (*sys.stdlib_module_names, "trio", "outcome"):
            outside = place
        frame = frame.f_back
    return outside or "?"
