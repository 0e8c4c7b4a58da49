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
    for person in (again, bob):  # the secret lies in a backup file: it goes out of use at once
        node = person.node
        assert node is not None
        eventually(f"{person.name} to rotate", lambda node=node: "a pair secret was rotated" in node.log_text())
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


def test_a_new_identity_is_another_contact_until_somebody_says_otherwise(
    couple: tuple[Person, Person],
) -> None:
    alice, bob = couple
    bob.stop()
    alice.command("contacts", "verify", "bob")
    with alice.client() as client:
        before = client.contact("bob")
        waiting = [client.send("bob", text)["id"] for text in ("first", "second")]
    stranger = alice.world.person("bob-anew").start()
    with stranger.client() as client:
        code = client.invite("code", "alice")["code"]
    assert code is not None
    taken = alice.command("accept", code, "--name", "bob", check=False)
    assert taken.returncode == 1 and "p2pe contacts replace bob CODE" in taken.stderr
    done = json.loads(alice.command("contacts", "replace", "bob", code, "--json").stdout)
    assert (done["old"]["name"], done["new"]["name"], done["held"]) == ("bob-old", "bob", 2)
    assert done["new"]["safety_number"] != before["safety_number"] == done["old"]["safety_number"]
    assert done["old"]["verified"] and not done["new"]["verified"], "the mark must not be inherited"
    delivered(alice, "bob", "to the new one")
    with stranger.client() as client:
        assert [each["text"] for each in client.inbox()["messages"]] == ["to the new one"]
    with alice.client() as client:
        for each in waiting:
            assert client.message(each)["state"] == "held_identity"
        ids = client.resend("bob-old", "bob")
        assert len(ids) == 2 and not set(ids) & set(waiting)
    settled(alice, ids)
    assert texts(stranger, "alice") == ["to the new one", "first", "second"]
    with alice.client() as client:
        assert client.message(waiting[0])["state"] == "retracted"
        assert "another contact" in client.message(waiting[0])["reason"]
        assert client.resend("bob-old", "bob") == []
    alice.command("forget", "bob-old", "--yes")
    assert [each["name"] for each in json.loads(alice.command("contacts", "--json").stdout)["contacts"]] == ["bob"]


def test_devices_are_revoked_while_the_node_runs(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    before = json.loads(alice.command("devices", "--json").stdout)
    stolen = "ab" * 32
    with bob.client() as client:
        since = client.why("alice")["since"]
    after = json.loads(alice.command("devices", "revoke", stolen, "--json").stdout)
    assert after["device"] == before["device"] and after["revoked"] == [stolen]
    assert after["list_version"] > before["list_version"]

    def renewed() -> bool:
        with bob.client() as client:
            return client.why("alice")["since"] != since

    eventually("a session with the new certificate", renewed)
    delivered(alice, "bob", "still me")
    wrong = alice.command("devices", "revoke", before["device"], check=False)
    assert wrong.returncode == 2 and "can't revoke itself" in wrong.stderr
    wrong = alice.command("devices", "revoke", "xyz", check=False)
    assert wrong.returncode == 2 and "isn't a device key" in wrong.stderr
    alice.stop()
    offline = json.loads(alice.command("devices", "revoke", "--others", "--json").stdout)
    assert offline["list_version"] > after["list_version"] and offline["revoked"] == [stolen]
    assert json.loads(alice.command("devices", "--json").stdout) == offline
    alice.start()
    delivered(bob, "alice", "still you")


def test_a_text_that_was_taken_back_since_the_backup_is_erased_again(
    couple: tuple[Person, Person], tmp_path: Path
) -> None:
    alice, bob = couple
    regretted = delivered(alice, "bob", "regretted")
    bob.command("backup", str(tmp_path / "old"))
    with alice.client() as client:
        client.retract(regretted)

    def erased(person: Person) -> bool:
        return texts(person, "alice") == []

    eventually("the text to be erased at Bob's", lambda: erased(bob))
    bob.stop()
    again = bob.reinstall(tmp_path / "old").start()
    eventually("the text from the backup to be erased again", lambda: erased(again))
    delivered(alice, "bob", "kept")
    assert texts(again, "alice") == ["kept"]
