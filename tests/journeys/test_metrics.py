"""`p2pe run --metrics`: numbers for Prometheus, off unless asked for, on this machine alone, and about nobody."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from p2pe_sim.processes import LOOPBACK, Person, Processes, eventually, pair
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.journey


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def numbers(text: str) -> dict[str, float]:
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted_and_what_is_not_told(story: Processes) -> None:
    port = free_port()
    alice = story.person("alice", options=(*LOOPBACK, "--metrics", f"127.0.0.1:{port}")).start()
    bob = story.person("bob").start()
    pair(alice, bob)
    bob.command("send", "alice", "marmalade", "--wait", "delivered")
    bob.stop()
    with alice.client() as client:
        eventually("bob to be gone", lambda: not client.contact("bob")["connected"])
        client.send("bob", "quince jelly")
        status, contact = client.status(), client.contact("bob")
        eventually("time to pass", lambda: numbers(scraped(port))["p2pe_oldest_message_seconds"] > 0)
    text = scraped(port)
    found = numbers(text)
    assert found["p2pe_contacts"] == 1
    assert found["p2pe_contact_links,lan"] + found["p2pe_contact_links,direct"] == 0
    assert found["p2pe_messages,queued"] + found["p2pe_messages,offered"] == 1
    assert found["p2pe_unread_messages"] == 1
    assert found["p2pe_dht_peers"] == 1
    assert sum(found[f"p2pe_reachable,{how}"] for how in ("public", "private", "unknown")) == 1
    for secret in (
        "bob", "alice", "marmalade", "quince", contact["identity_key"], status["identity_key"],
        status["overlay"]["peer_id"], story.bootstraps[0].rsplit("/", 1)[1],
    ):  # fmt: skip
        assert secret not in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status")
    bob.start()
    eventually("bob to be back", lambda: sum(v for k, v in numbers(scraped(port)).items() if "links," in k) == 1)
    assert numbers(scraped(port))["p2pe_oldest_message_seconds"] >= 0


@pytest.mark.parametrize("where", ["0.0.0.0:9465", "192.0.2.1:9465", "example.org:9465", "9465", "127.0.0.1:x"])
def test_other_machines_are_refused(where: str, story: Processes) -> None:
    alice = story.person("alice")
    done = alice.command("run", "--metrics", where, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    (alice.home / "config.toml").write_text(f'metrics = "{where}"\n')
    assert alice.command("run", check=False).returncode == 2


def test_a_port_that_is_taken_is_said(story: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = story.person("alice").command("run", *LOOPBACK, "--metrics", f"127.0.0.1:{port}", check=False)
    assert done.returncode == 1
    assert f"can't serve metrics on 127.0.0.1:{port}" in done.stderr.splitlines()[-1]


def test_off_unless_asked_for(story: Processes) -> None:
    """Nothing listens on TCP but the addresses that `status` names."""
    alice: Person = story.person("alice").start()
    assert alice.node is not None
    with alice.client() as client:
        named = {int(each.rsplit("/", 1)[1]) for each in client.status()["overlay"]["listen"] if "/p2p/" not in each}
    assert listening(alice.node.process.pid) == named


def listening(process: int) -> set[int]:
    """Ports on which a process listens, by /proc."""
    mine = {each.readlink().name for each in Path(f"/proc/{process}/fd").iterdir() if each.is_symlink()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    return {int(row[1].rsplit(":", 1)[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}
