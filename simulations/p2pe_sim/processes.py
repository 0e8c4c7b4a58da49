"""Real nodes as real processes, for the demo, the journeys, the benchmarks and the NAT laboratory.

Everything is done as a user would: the installed commands, their output, the control socket. `Person.client` talks to
a running node; what isn't running raises NoDaemon, as it would for anybody.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from p2pe.control.client import Client
from p2pe.control.shapes import ContactShape, IncomingShape, OutgoingShape
from p2pe.errors import NoDaemon

T = TypeVar("T")
PATIENCE = 90.0  # seconds for anything at all to happen: shared machines stall, and a test must not fail for that
_LOOK_EVERY = 0.02  # seconds between looks at a condition
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0")
_BIN = Path(sys.executable).parent


class ProcessFailed(Exception):
    """A command or node ended otherwise than expected. `str()` has its output."""


def eventually(what: str, look: Callable[[], T | None], *, patience: float = PATIENCE) -> T:
    """Looks again and again until `look` gives something true. Raises ProcessFailed naming `what`."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise ProcessFailed(f"waited {patience:.0f} s in vain for: {what}")
        time.sleep(_LOOK_EVERY)


@dataclass
class Running:
    """One process, its log going to a file."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def end(self, how: signal.Signals) -> int:
        """Signals the process and returns its exit status (negative: the signal that killed it)."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Person:
    """Somebody with a home folder and, at times, a running node."""

    name: str
    home: Path
    world: Processes
    inside: tuple[str, ...] = ()  # a command prefix, e.g. one that enters a network namespace
    options: tuple[str, ...] = ()  # further options of `p2pe run`
    node: Running | None = None
    words: str = ""  # the 24 that `p2pe init` showed

    def command_line(self, *argv: str) -> list[str]:
        """What to run for `p2pe ARGV...` on this home."""
        return [*self.inside, "env", f"P2PE_HOME={self.home}", "NO_COLOR=1", "COLUMNS=200", str(_BIN / "p2pe"), *argv]

    def command(self, *argv: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `p2pe ARGV...` on this home. With `check`, raises ProcessFailed on a non-zero exit."""
        done = subprocess.run(
            self.command_line(*argv),
            text=True,
            input=stdin if stdin is not None else "",
            capture_output=True,
            timeout=PATIENCE * 2,
        )
        if check and done.returncode != 0:
            raise ProcessFailed(f"p2pe {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def init(self) -> None:
        self.words = json.loads(self.command("init", "--json").stdout)["words"]

    def reinstall(self, backup: Path | None = None, *options: str) -> Person:
        """The same person on an empty machine, restored from a backup file or from the words alone; not started."""
        assert self.node is None, f"{self.name}'s node still runs"
        home = self.home.with_name(f"{self.home.name}-again")
        again = Person(self.name, home, self.world, self.inside, self.options, words=self.words)
        file = [] if backup is None else [str(backup)]
        again.command("restore", *file, "--words-file", "-", "--json", *options, stdin=self.words)
        return again

    def launch(self) -> None:
        """Starts the node without waiting for it."""
        assert self.node is None, f"{self.name}'s node runs already"
        bootstrap = [part for address in self.world.bootstraps for part in ("--bootstrap", address)]
        argv = [*self.inside, str(_BIN / "p2pe"), "run", "--home", str(self.home), *bootstrap, *self.options]
        self.node = self.world.spawn(self.name, argv)

    def start(self) -> Person:
        """Starts the node and returns when it answers."""
        self.launch()
        self.ready()
        return self

    def ready(self) -> None:
        node = self.node
        assert node is not None

        def look() -> bool:
            if node.process.poll() is not None:
                raise ProcessFailed(f"{self.name}'s node ended with {node.process.returncode}:\n{node.log_text()}")
            try:
                with self.client() as client:
                    return client.status()["pid"] > 0
            except NoDaemon:
                return False

        eventually(f"{self.name}'s node to answer", look)

    def stop(self) -> int:
        """SIGTERM, as systemd would; returns the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL: no chance to tidy up."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        assert self.node is not None
        node, self.node = self.node, None
        return node.end(how)

    def client(self) -> Client:
        return Client(self.home / "api.sock")

    def persist(self, what: Callable[[Client], T]) -> T:
        """Repeats `what` until a running node has answered: for requests that are idempotent."""

        def look() -> tuple[T] | None:
            try:
                with self.client() as client:
                    return (what(client),)
            except NoDaemon:
                return None

        return eventually(f"{self.name}'s node to answer", look)[0]

    def outbox(self) -> list[OutgoingShape]:
        with self.client() as client:
            return client.outbox()

    def inbox(self, contact: str) -> list[IncomingShape]:
        with self.client() as client:
            return list(client.all_inbox(contact=contact))

    def wait_delivered(self, message_id: str) -> OutgoingShape:
        with self.client() as client:
            return client.message(message_id, wait="delivered", timeout=PATIENCE)


@dataclass
class Processes:
    """All processes of one story; ends them all, whatever happens."""

    folder: Path
    bootstraps: list[str] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    _count: int = 0

    def spawn(self, name: str, argv: Sequence[str], *, stdout: bool = False) -> Running:
        self._count += 1
        log = self.folder / f"{self._count:03}-{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                argv,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else sink,
                stderr=sink,
                env={**os.environ, "NO_COLOR": "1"},
            )
        started = Running(name, process, log)
        self.running.append(started)
        return started

    def bootstrap(
        self,
        name: str = "bootstrap",
        *,
        listen: str = "/ip4/127.0.0.1/tcp/0",
        inside: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> Running:
        """Starts a bootstrap node and adds its address to `bootstraps` once it has printed it."""
        home = self.folder / name
        argv = [*inside, str(_BIN / "p2pe-bootstrap"), "run", "--home", str(home), "--listen", listen, *options]
        started = self.spawn(name, argv, stdout=True)
        assert started.process.stdout is not None
        for line in started.process.stdout:
            if found := re.search(r"(/ip[46]/\S+/tcp/\d+/p2p/\w+)", line):
                self.bootstraps.append(found.group(1))
                return started
        raise ProcessFailed(f"the bootstrap node ended with {started.process.wait()}:\n{started.log_text()}")

    def person(self, name: str, *, inside: Sequence[str] = (), options: Sequence[str] = LOOPBACK) -> Person:
        """A person with a fresh identity, node not started."""
        someone = Person(name, self.folder / name, self, tuple(inside), tuple(options))
        someone.init()
        return someone

    def end_all(self) -> None:
        for each in self.running:
            if each.process.poll() is None:
                each.process.kill()
        for each in self.running:
            each.process.wait()
            if each.process.stdout is not None:
                each.process.stdout.close()


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """By default it would leave nodes running, and a laboratory's namespaces behind. Who handles it, goes on to."""
    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def processes() -> Iterator[Processes]:
    """A story's processes in a temporary folder; everything is ended and removed afterwards.

    When the story fails, the logs are printed first: they are all that is left of it. SIGTERM ends it as Ctrl-C does.
    """
    with _unwound_by_sigterm(), tempfile.TemporaryDirectory(prefix="p2pe-") as folder:
        story = Processes(Path(folder))
        try:
            yield story
        except BaseException:
            for each in story.running:
                text = each.log_text()
                print(f"--- log of {each.name} ({each.log.name}), last lines ---\n{text[-3000:]}", file=sys.stderr)
            raise
        finally:
            story.end_all()


def pair(one: Person, other: Person, *, kind: str = "code") -> tuple[ContactShape, ContactShape]:
    """Pairs two running nodes; each calls the other by name. Returns each one's view of the other."""
    with one.client() as inviting, other.client() as accepting:
        invite = inviting.invite(kind, other.name)
        spoken = invite["code"] if kind == "code" else invite["link"]
        assert spoken is not None
        theirs = accepting.accept(spoken, one.name)
        ours = inviting.show_invite(invite["id"], wait=PATIENCE)["contact"]
    if ours is None:
        raise ProcessFailed(f"{one.name}'s invite ended without a contact")
    return ours, theirs


def settled(person: Person, ids: Sequence[str], state: str = "delivered") -> list[OutgoingShape]:
    """Waits until all of `ids` are in `state`; returns them. Raises ProcessFailed with what lags behind."""

    def look() -> list[OutgoingShape] | None:
        with person.client() as client:
            if any(message["id"] in wanted for message in client.outbox(states=["queued", "offered"])):
                return None
            return [client.message(each) for each in ids]

    wanted = set(ids)
    found = eventually(f"{len(ids)} messages of {person.name} to be {state}", look)
    wrong = [message for message in found if message["state"] != state]
    if wrong:
        raise ProcessFailed(f"{len(wrong)} messages aren't {state}; the first: {wrong[0]}")
    return found
