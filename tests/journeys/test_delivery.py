"""What was accepted by `send` arrives once and in order, whoever was away, and every state shown is true."""

from __future__ import annotations

import json
import signal

import pytest
from p2pe.errors import LocalError
from p2pe_sim.processes import Person, eventually, settled

pytestmark = pytest.mark.journey


def texts(person: Person, contact: str) -> list[str]:
    return [message["text"] for message in person.inbox(contact)]


def test_messages_both_ways(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    done = alice.command("send", "bob", "Hello Bob", "--wait", "delivered", "--json")
    assert json.loads(done.stdout)["state"] == "delivered"
    bob.command("send", "alice", "-", "--wait", "delivered", stdin="Hello Alice\nsecond line")
    assert texts(bob, "alice") == ["Hello Bob"]
    assert texts(alice, "bob") == ["Hello Alice\nsecond line"]


def test_recipient_away_then_back(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    bob.stop()
    with alice.client() as client:
        ids = [client.send("bob", f"while away {number}")["id"] for number in range(20)]
        states = {client.message(each)["state"] for each in ids}
        assert "delivered" not in states
        assert states <= {"queued", "offered"}
        assert all(client.message(each)["reason"] for each in ids)
    bob.start()
    settled(alice, ids)
    assert texts(bob, "alice") == [f"while away {number}" for number in range(20)]


def test_sender_restarted_while_the_recipient_is_away(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    bob.stop()
    with alice.client() as client:
        ids = [client.send("bob", f"one {number}")["id"] for number in range(5)]
    alice.stop()
    alice.start()
    with alice.client() as client:
        assert [client.message(each)["state"] for each in ids] == ["queued"] * 5
        ids += [client.send("bob", f"two {number}")["id"] for number in range(5)]
    bob.start()
    settled(alice, ids)
    assert texts(bob, "alice") == [f"{word} {number}" for word in ("one", "two") for number in range(5)]


def test_both_restarted_with_messages_waiting_on_both_sides(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    bob.stop()
    with alice.client() as client:
        hers = [client.send("bob", f"a{number}")["id"] for number in range(5)]
    alice.stop()
    bob.start()
    with bob.client() as client:
        his = [client.send("alice", f"b{number}")["id"] for number in range(5)]
    bob.stop()
    alice.launch()
    bob.launch()
    alice.ready()
    bob.ready()
    settled(alice, hers)
    settled(bob, his)
    assert texts(bob, "alice") == [f"a{number}" for number in range(5)]
    assert texts(alice, "bob") == [f"b{number}" for number in range(5)]


def test_everything_survives_a_bootstrap_node_that_dies(couple: tuple[Person, Person]) -> None:
    """The two are connected: nobody else is needed any more."""
    alice, bob = couple
    alice.world.running[0].process.kill()
    with alice.client() as client:
        settled(alice, [client.send("bob", "without servers")["id"]])
    assert texts(bob, "alice") == ["without servers"]


def test_a_key_makes_sending_idempotent(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    first = json.loads(alice.command("send", "bob", "once", "--id", "order-66", "--json").stdout)
    again = json.loads(alice.command("send", "bob", "once", "--id", "order-66", "--json").stdout)
    assert first["id"] == again["id"]
    other = alice.command("send", "bob", "something else", "--id", "order-66", check=False)
    assert other.returncode == 1
    assert "order-66" in other.stderr
    settled(alice, [first["id"]])
    assert texts(bob, "alice") == ["once"]


def test_follow_shows_each_message_as_it_arrives(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    follower = bob.world.spawn("follow", bob.command_line("inbox", "--follow", "--json"), stdout=True)
    assert follower.process.stdout is not None
    with alice.client() as client:
        for number in range(3):
            client.send("bob", f"live {number}")
            line = follower.process.stdout.readline()
            assert json.loads(line)["text"] == f"live {number}"


def test_long_and_strange_texts_arrive_as_they_were(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    strange = ["x" * 32 * 1024, "emoji 🐯 and \u202ertl\u202c", "tab\tnewline\n"]
    with alice.client() as client:
        ids = [client.send("bob", text)["id"] for text in strange]
    settled(alice, ids)
    assert texts(bob, "alice") == strange
    too_long = alice.command("send", "bob", "-", stdin="x" * (32 * 1024 + 1), check=False)
    assert too_long.returncode == 2 and "more than the 32768 bytes" in too_long.stderr
    with alice.client() as client, pytest.raises(LocalError, match="the text has 32769 bytes"):
        client.send("bob", "x" * (32 * 1024 + 1))
    for nothing in ("", " ", "\n"):
        empty = alice.command("send", "bob", "-", stdin=nothing, check=False)
        assert empty.returncode in (1, 2) and "empty" in empty.stderr


def test_vanished_peer_is_noticed_and_nothing_is_lost(couple: tuple[Person, Person]) -> None:
    """A recipient whose machine freezes: the sender's states stay true, and the message arrives after the thaw."""
    alice, bob = couple
    assert bob.node is not None
    bob.node.process.send_signal(signal.SIGSTOP)
    with alice.client() as client:
        sent = client.send("bob", "into the void")["id"]
        eventually(
            "the frozen peer to be noticed",
            lambda: not next(c for c in client.contacts() if c["name"] == "bob")["connected"],
        )
        assert client.message(sent)["state"] in ("queued", "offered")
    bob.node.process.send_signal(signal.SIGCONT)
    settled(alice, [sent])
    assert texts(bob, "alice") == ["into the void"]
