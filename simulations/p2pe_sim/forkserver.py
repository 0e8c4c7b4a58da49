"""`python -m p2pe_sim.forkserver JOBS`: runs plans, each in a forked child of a process that has imported everything.

Lines of JSON on standard input: {"id": 1, "plan": {...}, "events": false, "limit": 300.0}. Lines on standard output:
{"id": 1, "result": {...}}, in whatever order they end. A child that dies or outlives `limit` (real seconds) gives a
result of verdict ERROR. The server ends, with its children, when its standard input does.

Every run starts from the same memory, so no run depends on the one before; an endless loop or a crash takes nothing
else along; and the second it takes to import libp2p is paid once. The server has one thread, as forking wants.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from p2pe_sim.execute import execute, prepare
from p2pe_sim.plan import Plan
from p2pe_sim.result import Result, Verdict

_READ = 1 << 16
_TICK = 0.5  # seconds between looks at the children's time
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL: a run of tier 2 takes its laboratory down


@dataclass
class _Child:
    job: dict[str, Any]
    pid: int
    pipe: int
    ends_at: float
    heard: bytearray = field(default_factory=bytearray)
    problem: str = ""  # why it was told to end


class _Server:
    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._waiting: deque[dict[str, Any]] = deque()
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._prepared: set[int] = set()
        self._unsaid = bytearray()  # what standard output hasn't taken yet: a blocked server would hear nothing

    def serve(self) -> None:
        stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
        os.set_blocking(stdout, False)
        self._selector.register(stdin, selectors.EVENT_READ)
        unread = bytearray()
        try:
            while True:
                for key, _ in self._selector.select(_TICK if self._children else None):
                    if key.fd == stdout:
                        self._say()
                    elif key.fd == stdin:
                        data = os.read(stdin, _READ)
                        if not data:
                            return
                        unread += data
                        *lines, rest = unread.split(b"\n")
                        unread = bytearray(rest)
                        self._waiting.extend(json.loads(line) for line in lines if line.strip())
                    else:
                        self._hear(self._children[key.fd])
                self._end_the_late()
                while self._waiting and len(self._children) < self._jobs:
                    self._start(self._waiting.popleft())
        finally:
            self._end_all()

    def _start(self, job: dict[str, Any]) -> None:
        tier = job["plan"].get("tier", 1)
        if tier not in self._prepared:
            self._prepared.add(tier)
            with suppress(Exception):  # each child meets it again, and its result says so
                prepare(tier)
            gc.collect()
            gc.freeze()  # children share these pages: collecting in them must not touch what the parent has
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _in_child(job, writer)
        os.close(writer)
        self._children[reader] = _Child(job, pid, reader, time.monotonic() + float(job.get("limit", 600.0)))
        self._selector.register(reader, selectors.EVENT_READ)

    def _hear(self, child: _Child) -> None:
        data = os.read(child.pipe, _READ)
        if data:
            child.heard += data
            return
        self._finish(child, child.problem)

    def _end_the_late(self) -> None:
        now = time.monotonic()
        for child in [each for each in self._children.values() if now > each.ends_at]:
            if child.problem:
                os.kill(child.pid, signal.SIGKILL)
                self._finish(child, child.problem)
                continue
            child.problem = f"still running after {child.job.get('limit', 600.0):g} real seconds (--seed-limit)"
            child.ends_at = now + _GRACE
            os.kill(child.pid, signal.SIGTERM)

    def _end_all(self) -> None:
        left = {child.pid for child in self._children.values()}
        for pid in left:
            os.kill(pid, signal.SIGTERM)
        ends = time.monotonic() + _GRACE
        while left and time.monotonic() < ends:
            left = {pid for pid in left if os.waitpid(pid, os.WNOHANG) == (0, 0)}
            time.sleep(0.02)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _finish(self, child: _Child, problem: str) -> None:
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        del self._children[child.pipe]
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        plan = child.job["plan"]
        if problem or code != 0:
            problem = problem or f"the process of this run ended with {code} (negative: the signal that killed it)"
            result = Result(plan["scenario"], plan["seed"], Verdict.ERROR, problem=problem).to_json().encode()
        else:
            result = bytes(child.heard)
        line = b'{"id": %s, "result": %s}\n' % (json.dumps(child.job["id"]).encode(), result)
        if not self._unsaid:
            self._selector.register(sys.stdout.fileno(), selectors.EVENT_WRITE)
        self._unsaid += line

    def _say(self) -> None:
        done = os.write(sys.stdout.fileno(), self._unsaid[:_READ])
        del self._unsaid[:done]
        if not self._unsaid:
            self._selector.unregister(sys.stdout.fileno())


def _in_child(job: dict[str, Any], writer: int) -> None:
    """Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds: what the run made is taken down
        limit = int(job.get("limit", 600.0)) + 60
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))  # should the server be killed before it can end us
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)  # nothing that is printed in a world may end up between the server's lines
        result = execute(Plan.of(job["plan"]), keep_events=bool(job.get("events")))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(result.to_json().encode())
        code = 0
    except (SystemExit, BrokenPipeError):  # told to end; the server has ended
        pass
    except BaseException:  # noqa: BLE001  (the last thing this process does)
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's; it closes our input
    _Server(int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
