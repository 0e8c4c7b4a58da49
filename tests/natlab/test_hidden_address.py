"""relay = only hides a node's address from its contacts.

A contact that keeps every packet, and every plaintext of every layer that it can decrypt, looks for the address in
them, in all forms in which it may be written. The contact is real, public and eager to connect directly.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from p2pe_sim import forensics
from p2pe_sim.natlab.lab import Lab, LabUnavailable, Node, laboratory
from p2pe_sim.processes import Person, Processes, eventually, pair, processes

pytestmark = [pytest.mark.natlab, pytest.mark.slow]

RECORDER = Path(__file__).parent / "recording_node.py"
TEXTS = [f"letter {number} by courier" for number in range(20)]
PORT = 4001


@dataclass
class Recorded(Person):
    """Somebody whose node writes down all that it decrypts."""

    record: Path = field(default_factory=Path)

    def launch(self) -> None:
        bootstrap = [part for address in self.world.bootstraps for part in ("--bootstrap", address)]
        argv = [*self.inside, "env", f"P2PE_RECORD={self.record}", sys.executable, str(RECORDER)]
        argv += ["run", "--home", str(self.home), *bootstrap, *self.options]
        self.node = self.world.spawn(self.name, argv)


def forms_of(node: Node) -> dict[str, bytes]:
    """A host's addresses as text and as bytes: in an IP header, in a binary multiaddr, in a record, in a log."""
    assert node.address6 is not None
    wanted = {}
    for address in (node.address, node.address6):
        ip = ipaddress.ip_address(address)
        wanted |= {f"{address} in bytes": ip.packed, f"{address} as text": str(ip).encode()}
    wanted["the long form"] = ipaddress.ip_address(node.address6).exploded.encode()
    return wanted


def listen_everywhere() -> tuple[str, ...]:
    return ("--listen", f"/ip4/0.0.0.0/tcp/{PORT}", "--listen", f"/ip6/::/tcp/{PORT}")


@dataclass
class Observed:
    """What the contact has at the end."""

    packets: dict[str, int]
    plaintexts: dict[str, int]
    controls: dict[str, int]  # that the recording works at all
    path: str | None


def observe(lab: Lab, story: Processes, *options: str) -> Observed:
    """Alice, with `options`, and Bob, who records, are paired, talk, part and meet again."""
    public, hidden, curious = lab.public("relay"), lab.public("alice"), lab.public("bob")
    lab.start()
    folder = story.folder
    os.chmod(folder, 0o755)
    packets, plain = folder / "packets", folder / "plaintexts"
    tap = subprocess.Popen(
        curious.command([sys.executable, "-m", "p2pe_sim.natlab.capture", "wan0", str(packets)]),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tap.stdout is not None and tap.stdout.readline().strip() == "ready"
        story.bootstrap(
            listen=f"/ip4/{public.address}/tcp/4100",
            inside=public.command([]),
            options=["--listen", f"/ip6/{public.address6}/tcp/4100"],
        )
        alice = story.person("alice", inside=hidden.command([]), options=options).start()
        bob = Recorded("bob", folder / "bob", story, tuple(curious.command([])), (*listen_everywhere(),), record=plain)
        bob.init()
        bob.start()
        pair(alice, bob)
        for text in TEXTS:
            with alice.client() as client:
                client.send("bob", text)
            with bob.client() as client:
                last = client.send("alice", f"answer to {text}")["id"]
        bob.wait_delivered(last)
        for person in (alice, bob):  # each finds the other anew, by its record
            person.stop()
            with (bob if person is alice else alice).client() as client:
                waiting = client.send(person.name, f"welcome back, {person.name}")["id"]
            person.start()
            (bob if person is alice else alice).wait_delivered(waiting)
        with bob.client() as client:
            path = eventually("a path to Alice", lambda: client.contact("alice")["path"])
        alice.stop()
        bob.stop()
    finally:
        tap.kill()
        tap.wait()
        if tap.stdout is not None:
            tap.stdout.close()
    wanted, recorded = forms_of(hidden), plain.read_bytes()
    controls = forensics.in_bytes(
        recorded, {"a letter": TEXTS[-1].encode(), "the relay": ipaddress.ip_address(public.address).packed}
    )
    controls["packets with the relay"] = forensics.in_bytes(
        packets.read_bytes(), {"": ipaddress.ip_address(public.address).packed}
    )[""]
    return Observed(
        forensics.seen(forensics.in_bytes(packets.read_bytes(), wanted)),
        forensics.seen(forensics.in_bytes(recorded, wanted)),
        controls,
        path,
    )


def run(*options: str) -> Observed:
    try:
        with laboratory() as lab, processes() as story:
            return observe(lab, story, *options)
    except LabUnavailable as reason:
        pytest.skip(f"no NAT laboratory here: {reason}")


def test_a_contact_never_sees_the_address_of_who_comes_by_relay_only() -> None:
    observed = run("--relay", "only")
    assert all(observed.controls.values()), observed
    assert observed.path == "relayed"
    assert observed.packets == {} and observed.plaintexts == {}, observed


def test_without_the_setting_the_same_contact_sees_it_in_packets_and_plaintexts() -> None:
    """The proof that the test above can fail."""
    observed = run(*listen_everywhere())
    assert all(observed.controls.values()), observed
    assert observed.path == "direct"
    assert observed.packets and observed.plaintexts, observed
