"""`make bench`: two daemons on loopback, measured beside what the machine can do at best, in one run.

Prints a table and writes build/bench.json. The goals and what they were taken from are in docs/benchmarks.md. Absolute
figures depend on the machine and on what else runs on it; the ratios to the floors of the same run depend less.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import trio
from p2pe.identity.home import Home
from p2pe.identity.keyring import open_identity
from p2pe.model import IdentityKey, Millis
from p2pe.overlay.world import real_world
from p2pe.storage import contacts
from p2pe.storage.database import open_database
from p2pe_sim.processes import Person, Processes, eventually, pair, processes, settled
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.floors import floors

SIZE = 256  # bytes a message
WINDOW = 1024  # messages in flight
BATCH = 256  # messages a request
THROUGHPUT_SECONDS = 8.0
ONE_BY_ONE = 200  # messages sent one at a time
STARTS = 3
COMMANDS = 10
IDLE_SECONDS = 60.0
IDLE_CONTACTS = 100
SETTLE_SECONDS = 20.0  # after a start: records are published, contacts greeted
OUT = Path("build/bench.json")


@dataclass
class Figure:
    name: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        met = self.value >= self.goal if self.more_is_better else self.value <= self.goal
        return "met" if met else "NOT met"


def throughput(alice: Person) -> float:
    """Messages a second, durable at both ends and receipted, WINDOW in flight, from Alice to Bob."""
    batch = [{"to": "bob", "text": "x" * SIZE}] * BATCH
    in_flight: deque[str] = deque()  # the last id of each batch: with its receipt all before it are delivered too
    sent = 0
    with alice.client() as client:
        began = time.perf_counter()
        while time.perf_counter() - began < THROUGHPUT_SECONDS:
            if len(in_flight) * BATCH >= WINDOW:
                client.message(in_flight.popleft(), wait="delivered", timeout=60.0)
            in_flight.append(client.send_many(batch)[-1])
            sent += BATCH
        while in_flight:
            client.message(in_flight.popleft(), wait="delivered", timeout=60.0)
        took = time.perf_counter() - began
        counts = client.status()["counts"]
    assert counts["queued"] + counts["offered"] == 0
    return sent / took


def latencies(alice: Person) -> list[float]:
    """Milliseconds from the call of `send` to DELIVERED, one message at a time, both HTTP requests included."""
    took = []
    with alice.client() as client:
        for number in range(ONE_BY_ONE):
            began = time.perf_counter()
            sent = client.send("bob", f"{number} " + "x" * SIZE)
            client.message(sent["id"], wait="delivered", timeout=30.0)
            took.append((time.perf_counter() - began) * 1000)
    return took


def starts(person: Person) -> tuple[float, float]:
    """Seconds from exec to an answering node, and to its first connection into the overlay: medians."""
    ready, connected = [], []
    for _ in range(STARTS):
        person.stop()
        began = time.perf_counter()
        person.start()
        ready.append(time.perf_counter() - began)
        with person.client() as client:
            eventually("a connection", lambda client=client: client.status()["overlay"]["directory_peers"] > 0)  # type: ignore[misc]
        connected.append(time.perf_counter() - began)
    return statistics.median(ready), statistics.median(connected)


def first_waiting(alice: Person, bob: Person) -> float:
    """Seconds from Bob's node being ready to the receipt of what had waited for him."""
    bob.stop()
    with alice.client() as client:
        waiting = client.send("bob", "first")["id"]
    bob.start()
    began = time.perf_counter()
    alice.wait_delivered(waiting)
    return time.perf_counter() - began


def vanished(alice: Person, bob: Person) -> float:
    """Seconds until a frozen peer (as after a power cut) is no longer shown as connected."""
    assert bob.node is not None
    with alice.client() as client:
        settled(alice, [client.send("bob", "still there?")["id"]])
        bob.node.process.send_signal(signal.SIGSTOP)
        began = time.perf_counter()
        eventually("notice", lambda: not client.contact("bob")["connected"])
        took = time.perf_counter() - began
    bob.node.process.send_signal(signal.SIGCONT)
    return took


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def session_setups(alice: Person, bob: Person) -> float:
    """Milliseconds of the handshake on an open connection, as the dialing node noted it: median over restarts."""
    took = []
    for _ in range(STARTS):
        bob.stop()
        bob.start()
        with bob.client() as client:
            eventually("a session", lambda client=client: client.contact("alice")["connected"])  # type: ignore[misc]
        for person, name in ((alice, "bob"), (bob, "alice")):
            with person.client() as client:
                attempts = client.why(name)["attempts"]
            took += [each["took"] for each in attempts if each["step"] == "handshake" and each["outcome"] == "ok"]
    return statistics.median(took) * 1000


def add_strangers(person: Person) -> None:
    """Gives a person, whose node is stopped, IDLE_CONTACTS contacts that nobody ever hears of."""
    home = Home(person.home)
    identity = open_identity(home, None)

    async def fill() -> None:
        async with open_database(home.database, identity.database_key, real_world()) as database:
            for number in range(IDLE_CONTACTS):
                key, secret = IdentityKey(secrets.token_bytes(32)), secrets.token_bytes(32)
                now = Millis(int(time.time() * 1000))
                await database.write(
                    lambda tx, number=number, key=key, secret=secret, now=now: contacts.add(  # type: ignore[misc]
                        tx, name=f"c{number}", identity_key=key, pair_secret=secret, paired_at=now, list_version=1
                    )
                )

    trio.run(fill)


def _tcp_bytes(pid: int) -> dict[str, int]:
    """Bytes that each TCP connection of a process has carried, both ways, by its two ends; empty without `ss`."""
    if shutil.which("ss") is None:
        return {}
    lines = subprocess.run(["ss", "-tinpO"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {}
    for line in lines:
        if f"pid={pid}," in line:
            ends = " ".join(line.split()[3:5])
            found[ends] = sum(int(n) for n in re.findall(r"bytes_(?:sent|received):(\d+)", line))
    return found


@dataclass
class Idle:
    resident: float  # MiB
    cpu: float  # percent of one core
    traffic: float | None  # bytes a second over TCP connections that live at the end; None without `ss`


def idle(person: Person) -> Idle:
    """Of a node with IDLE_CONTACTS contacts, all away, and nothing to do, over IDLE_SECONDS."""
    assert person.node is not None
    pid = person.node.process.pid
    time.sleep(SETTLE_SECONDS)
    before, carried = _cpu_seconds(pid), _tcp_bytes(pid)
    time.sleep(IDLE_SECONDS)
    cpu = (_cpu_seconds(pid) - before) / IDLE_SECONDS * 100
    after = _tcp_bytes(pid)
    traffic = sum(count - carried.get(ends, 0) for ends, count in after.items()) / IDLE_SECONDS if after else None
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return Idle(resident / 1024, cpu, traffic)


def command_time(person: Person) -> float:
    """Milliseconds of a whole `p2pe status` process: median."""
    took = []
    for _ in range(COMMANDS):
        began = time.perf_counter()
        subprocess.run(person.command_line("status"), capture_output=True, check=True)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def measure(story: Processes, step: Callable[[str], None]) -> list[Figure]:
    """All figures, in the order in which they are printed."""
    step("floors")
    floor = floors()
    step("two nodes")
    story.bootstrap()
    alice, bob = story.person("alice").start(), story.person("bob").start()
    pair(alice, bob)
    step("latency")
    took = sorted(latencies(alice))
    step("throughput")
    rate = throughput(alice)
    step("first waiting message")
    first = statistics.median(first_waiting(alice, bob) for _ in range(STARTS))
    step("session set-up")
    setup = session_setups(alice, bob)
    step("starts")
    ready, connected = starts(bob)
    step("commands")
    command = command_time(alice)
    step("vanished peer")
    gone = vanished(alice, bob)
    step("idle")
    carol = story.person("carol")
    add_strangers(carol)
    rest = idle(carol.start())
    batch_floor = floor["sqlite_full_rows_per_s_by_100"]
    commit_ms = 1000 / floor["sqlite_full_commits_per_s"]
    return [
        Figure("256 B messages, durable and receipted, 1,024 in flight", rate, "/s", 20_000, True),
        Figure("... of the same run's SQLite FULL batch floor", rate / batch_floor * 100, "%", 15, True),
        Figure("send to DELIVERED, median", statistics.median(took), "ms", 3),
        Figure("... in single commits of the same run's floor", statistics.median(took) / commit_ms, ""),
        Figure("send to DELIVERED, p95", took[int(len(took) * 0.95)], "ms", 8),
        Figure("both online to first waiting message delivered", first, "s", 0.5),
        Figure("start to ready", ready, "s", 1.5),
        Figure("start to connected to the overlay", connected, "s", 2.0),
        Figure("a vanished peer noticed", gone, "s", 10),
        Figure("session set-up on an open connection", setup, "ms", 10),
        Figure("idle, 100 contacts: resident memory", rest.resident, "MiB", 100),
        Figure("idle, 100 contacts: CPU", rest.cpu, "%", 0.1),
        *([Figure("idle, 100 contacts: traffic", rest.traffic, "B/s", 200)] if rest.traffic is not None else []),
        Figure("a command against a running node", command, "ms", 150),
        *(Figure(f"floor: {name}", value, "") for name, value in floor.items()),
    ]


def main() -> int:
    """Always exit status 0 once measured: a benchmark tells, it doesn't judge."""
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress, processes() as story:
        task = progress.add_task("measuring", total=10)

        def step(what: str) -> None:
            progress.update(task, advance=1, description=what)
            if not console.is_terminal:
                print(f"measuring: {what}", flush=True)

        figures = measure(story, step)
    table = Table()
    for column in ("measure", "figure", "goal", ""):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.more_is_better else '≤'} {figure.goal:,g} {figure.unit}"
        table.add_row(figure.name, f"{figure.value:,.4g} {figure.unit}", goal, figure.verdict)
    console.print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([{**asdict(figure), "verdict": figure.verdict} for figure in figures], indent=1) + "\n")
    print(f"written to {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
