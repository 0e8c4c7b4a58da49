"""Two people meet by four spoken words or a link; each way of failing says what went wrong and what to do."""

from __future__ import annotations

import json
import re

import pytest
from p2pe_sim.processes import Person, Processes, eventually, pair, settled

pytestmark = pytest.mark.journey


@pytest.fixture
def strangers(story: Processes) -> tuple[Person, Person]:
    """Alice and Bob: running, not paired."""
    people = story.person("alice"), story.person("bob")
    for person in people:
        person.launch()
    for person in people:
        person.ready()
    return people


def invited(person: Person, name: str) -> tuple[int, str, str]:
    """Opens a spoken invite; returns its id, the right code and a wrong one with the same locator."""
    with person.client() as client:
        invite = client.invite("code", name)
    code = invite["code"]
    assert code is not None
    number, word, second, third = code.split("-")
    return (
        invite["id"],
        code,
        "-".join((number, word, third, second) if second != third else (number, word, "zoo", "zero")),
    )


def test_by_code_both_see_one_safety_number(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    with alice.client() as client:
        invite = client.invite("code", "bob")
    assert invite["code"] is not None
    accepted = json.loads(
        bob.command("accept", invite["code"].replace("-", " ").upper(), "--name", "alice", "--json").stdout
    )
    with alice.client() as client:
        theirs = client.show_invite(invite["id"], wait=60.0)["contact"]
    assert theirs is not None
    assert theirs["name"] == "bob"
    assert accepted["name"] == "alice"
    assert theirs["safety_number"] == accepted["safety_number"]
    assert sum(character.isdigit() for character in theirs["safety_number"]) == 60


def test_the_link_shown_beside_a_code_does_the_same(strangers: tuple[Person, Person]) -> None:
    """What `accept` advises to ask for when somebody crowds out the code."""
    alice, bob = strangers
    printed = alice.command("invite", "--name", "bob", "--no-wait").stdout
    [code] = re.findall(r"^ +(\d+-\w+-\w+-\w+)$", printed, re.MULTILINE)
    [link] = re.findall(r"^ +(p2pe:\w+)$", printed, re.MULTILINE)
    [listed] = json.loads(alice.command("invites", "--json").stdout)["invites"]
    assert (listed["code"], listed["link"], listed["shows_address"]) == (code, link, True)
    assert json.loads(bob.command("accept", link, "--name", "alice", "--json").stdout)["name"] == "alice"


def test_by_link_a_newcomer_needs_no_configuration(story: Processes) -> None:
    """Bob's node knows no bootstrap node: the link brings the address."""
    alice = story.person("alice").start()
    known, story.bootstraps = story.bootstraps, []
    bob = story.person("bob").start()
    story.bootstraps = known
    pair(alice, bob, kind="link")
    with bob.client() as client:
        settled(bob, [client.send("alice", "found you")["id"]])
    assert [message["text"] for message in alice.inbox("bob")] == ["found you"]


def test_wrong_code_then_right_code(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    _, right, wrong = invited(alice, "bob")
    failed = bob.command("accept", wrong, "--name", "alice", "--json", check=False)
    assert failed.returncode == 1
    assert json.loads(failed.stderr.strip().splitlines()[-1])["error"]["code"] == "wrong_code"
    bob.command("accept", right, "--name", "alice")


def test_guesses_are_spent_for_good_even_across_restarts(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    number, right, wrong = invited(alice, "bob")
    for guess in range(3):
        assert bob.command("accept", wrong, "--name", "alice", check=False).returncode == 1
        if guess == 1:
            alice.kill()
            alice.start()
            bob.kill()
            bob.start()
    failed = bob.command("accept", right, "--name", "alice", "--json", check=False)
    assert failed.returncode != 0
    with alice.client() as client:
        assert client.show_invite(number)["state"] in ("spent", "open")
        assert client.show_invite(number)["guesses_left"] == 0
        assert client.contacts() == []


def test_own_code_unknown_code_and_nonsense(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    _, right, _ = invited(alice, "bob")
    own = alice.command("accept", right, "--name", "me", "--json", check=False)
    assert own.returncode == 1
    assert json.loads(own.stderr.strip().splitlines()[-1])["error"]["code"] == "own_invite"
    number, word, *rest = right.split("-")
    elsewhere = "-".join([str((int(number) + 1) % 100), word, *rest])
    unknown = bob.command("accept", elsewhere, "--name", "alice", "--json", check=False)
    assert unknown.returncode == 4
    assert json.loads(unknown.stderr.strip().splitlines()[-1])["error"]["code"] == "invite_not_found"
    nonsense = bob.command("accept", "47-hello", "--name", "alice", check=False)
    assert nonsense.returncode in (1, 2)
    assert nonsense.stderr


def test_already_a_contact(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    pair(alice, bob)
    _, right, _ = invited(alice, "bob again")
    again = bob.command("accept", right, "--name", "alice again", "--json", check=False)
    assert again.returncode == 1
    assert json.loads(again.stderr.strip().splitlines()[-1])["error"]["code"] == "already_contact"
    with bob.client() as client:
        settled(bob, [client.send("alice", "still works")["id"]])


def test_a_revoked_invite_is_over(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    number, right, _ = invited(alice, "bob")
    with alice.client() as client:
        client.revoke_invite(number)
    failed = bob.command("accept", right, "--name", "alice", check=False)
    assert failed.returncode in (1, 4)
    assert failed.stderr


def test_pairing_survives_a_kill_right_after_it(strangers: tuple[Person, Person]) -> None:
    alice, bob = strangers
    pair(alice, bob)
    alice.kill()
    bob.kill()
    alice.start()
    bob.start()
    with alice.client() as client:
        settled(alice, [client.send("bob", "we are paired")["id"]])
    eventually("the message", lambda: bob.inbox("alice"))
