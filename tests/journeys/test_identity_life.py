"""Reinstalling, restoring, replacing: what people do to their nodes, and what their contacts see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from p2pe_sim.processes import Person, Processes, eventually, settled

pytestmark = pytest.mark.journey


def texts(person: Person, contact: str) -> list[str]:
    return [message["text"] for message in person.inbox(contact)]


def delivered(person: Person, to: str, text: str) -> str:
    """Sends and waits; returns the id."""
    with person.client() as client:
        sent = client.send(to, text)["id"]
    person.wait_delivered(sent)
    return sent


def test_an_old_backup_doubles_and_resurrects_nothing(couple: tuple[Person, Person], tmp_path: Path) -> None:
    alice, bob = couple
    bob.stop()
    with alice.client() as client:
        one, two = client.send("bob", "one")["id"], client.send("bob", "two")["id"]
    made = json.loads(alice.command("backup", str(tmp_path / "old"), "--json").stdout)
    assert (made["contacts"], made["waiting"]) == (1, 2)
    with alice.client() as client:
        assert client.retract(two)["state"] == "retracted"
    bob.start()
    settled(alice, [one])
    delivered(alice, "bob", "three")
    alice.stop()

    again = alice.reinstall(tmp_path / "old").start()
    with again.client() as client:
        held = client.outbox(states=["held_identity"])
        assert [message["text"] for message in held] == ["one", "two"]
        assert "backup" in held[0]["reason"]
    delivered(again, "bob", "four")
    assert texts(bob, "alice") == ["one", "three", "four"], "nothing that waited in the backup may be sent by itself"
    with again.client() as client:
        assert client.retract(two)["state"] == "retracted"
        assert client.resend("bob") == [one]
    again.wait_delivered(one)
    delivered(bob, "alice", "welcome back")
    assert texts(bob, "alice") == ["one", "three", "four"]
    assert texts(again, "bob") == ["welcome back"]


def test_restore_says_what_is_wrong_and_changes_nothing(story: Processes, tmp_path: Path) -> None:
    alice = story.person("alice")
    for arguments, expected, status in (
        (["restore"], "--words", 2),
        (["restore", "--words"], "another home", 1),
        (["restore", "--words-file", "-", "--home", str(tmp_path / "new")], "a phrase has 24 words; these are 2", 2),
        (["restore", str(tmp_path / "none"), "--words-file", "-", "--home", str(tmp_path / "new")], "doesn't exist", 4),
        (["restore", "--words", "--home", str(tmp_path / "new")], "no terminal", 2),
        (["backup", str(tmp_path / "no" / "file")], "the directory doesn't exist", 1),
    ):
        failed = alice.command(*arguments, stdin="abandon abandon", check=False)
        assert (failed.returncode, expected in failed.stderr) == (status, True), failed.stderr
        assert "Traceback" not in failed.stderr
    assert not (tmp_path / "new").exists()


def test_a_node_restored_from_its_words_gets_its_contacts_and_their_messages_back(
    couple: tuple[Person, Person],
) -> None:
    alice, bob = couple
    delivered(alice, "bob", "before")
    bob.stop()
    with alice.client() as client:
        waiting = client.send("bob", "while you were away")["id"]
        before = client.contact("bob")
    again = bob.reinstall().start()
    with again.client() as client:
        assert client.contacts() == []
        [request] = eventually("alice to come with her ticket", client.requests)
        assert (request["name"], request["state"]) == ("alice", "waiting")
        assert request["safety_number"] == before["safety_number"]
        assert client.inbox()["messages"] == [], "nothing may arrive before the approval"
        client.decide(request["id"], approve=True)
    settled(alice, [waiting])
    assert texts(again, "alice") == ["while you were away"]
    delivered(again, "alice", "here again")
    assert texts(alice, "bob") == ["here again"]
    with again.client() as client:
        assert client.requests() == []
        assert not client.contact("alice")["verified"]
    with alice.client() as client:
        assert client.contact("bob")["identity_key"] == before["identity_key"]
        assert any(each["step"] == "recover" and each["outcome"] == "ok" for each in client.why("bob")["attempts"])
