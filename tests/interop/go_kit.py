"""A go-libp2p node as a process (go/main.go), built once from the Go module proxy into build/interop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest
from js_kit import BUILD, HERE, JsPeer, line_peer

_OFFLINE = ("dial tcp", "no such host", "i/o timeout", "connection refused")


def program() -> Path:
    """Skips the calling test where it can't be had, or wasn't asked for."""
    built = _built()
    if isinstance(built, str):
        pytest.skip(built)
    return built


@cache
def _built() -> Path | str:
    """The program, or why there is none."""
    if os.environ.get("P2PE_INTEROP_GO") != "1":
        return "set P2PE_INTEROP_GO=1 to build go-libp2p, which takes minutes"
    go = shutil.which("go")
    if go is None:
        return "go isn't installed: no go-libp2p to talk to"
    made = BUILD / "go-peer"
    BUILD.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([go, "build", "-o", str(made), "."], cwd=HERE / "go", capture_output=True, text=True)
    if done.returncode != 0 and any(word in done.stderr for word in _OFFLINE):
        return "the Go module proxy can't be reached"
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@asynccontextmanager
async def go_peer(**options: object) -> AsyncIterator[JsPeer]:
    async with line_peer([str(program()), json.dumps(options)]) as peer:
        yield peer
