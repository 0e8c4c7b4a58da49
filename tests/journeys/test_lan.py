"""Two people on one local network, without the Internet: no bootstrap node, no record, and still they talk."""

from __future__ import annotations

import pytest
from p2pe_sim.namespace import in_namespace, ip
from p2pe_sim.natlab.lab import LabUnavailable
from p2pe_sim.processes import Processes, pair, processes

pytestmark = pytest.mark.journey


def story_of(story: Processes) -> None:
    ip("addr add 192.168.5.1/24 dev lan0")
    bootstrap = story.bootstrap()
    alice, bob = (story.person(name, options=("--listen", "/ip4/127.0.0.1/tcp/0")) for name in ("alice", "bob"))
    alice.start()
    bob.start()
    pair(alice, bob)
    for person in (alice, bob):
        person.stop()
        person.options = ("--listen", "/ip4/0.0.0.0/tcp/0")
    bootstrap.process.kill()
    story.bootstraps.clear()
    alice.start()
    with alice.client() as client:
        sent = client.send("bob", "no network but ours")["id"]
    bob.start()
    alice.wait_delivered(sent)
    with bob.client() as client:
        answer = client.send("alice", "good enough")["id"]
        assert client.contact("alice")["path"] == "lan"
    bob.wait_delivered(answer)


def test_contacts_on_one_network_talk_without_any_bootstrap_node() -> None:
    def work() -> None:
        with processes() as story:
            story_of(story)

    try:
        in_namespace(work)
    except LabUnavailable as reason:
        pytest.skip(str(reason))
