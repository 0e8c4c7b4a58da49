"""Taking back, editing, reading, expiring: as two people type it, seen from both sides."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from p2pe_sim.processes import Person, eventually, settled

pytestmark = pytest.mark.journey


def say(sender: Person, name: str, *words: str) -> str:
    return sender.command("send", name, *words, "--wait", "delivered").stdout.split()[0]


def shown(person: Person, identifier: str) -> dict[str, Any]:
    return dict(json.loads(person.command("show", identifier, "--json").stdout))


def until_it_is(person: Person, identifier: str, state: str) -> None:
    eventually(f"{identifier} to be {state}", lambda: shown(person, identifier)["state"] == state)


def test_taken_back_edited_read_and_expired(couple: tuple[Person, Person]) -> None:
    alice, bob = couple

    # what `inbox --ids` prints is enough to answer
    asked = say(alice, "bob", "tea or coffee?")
    [listed] = [line.split()[0] for line in bob.command("inbox", "--ids").stdout.splitlines() if "tea or" in line]
    answer = say(bob, "alice", "tea", "--reply-to", listed)
    assert shown(bob, answer)["reply_to"] == shown(alice, answer)["reply_to"] == asked
    unknown = bob.command("send", "alice", "tea", "--reply-to", "abcdef", check=False)
    assert unknown.returncode == 4 and "abcdef" in unknown.stderr
    bob.command("read", "--all", "alice")

    # an edit keeps the history, on both sides
    sent = say(alice, "bob", "see you at six")
    edit = json.loads(alice.command("edit", sent[:12], "see you at", "seven", "--json").stdout)
    settled(alice, [edit["id"]])
    for person in couple:
        history = json.loads(person.command("history", sent, "--json").stdout)["messages"]
        assert [each["text"] for each in history] == ["see you at six", "see you at seven"]
        assert "see you at seven" in person.command("history", sent).stdout
    printed = bob.command("inbox").stdout
    assert "see you at six" in printed and "[its text was changed later]" in printed
    assert f"[replaces the text of {sent[:16]}]" in printed

    # reading is told only where it was switched on
    assert "1 marked" in bob.command("read", sent).stderr
    explained = bob.command("show", sent).stdout
    assert "alice isn't told" in explained
    assert json.loads(bob.command("contacts", "receipts", "alice", "on", "--json").stdout)["receipts"] is True
    second = say(alice, "bob", "did you read this?")
    assert json.loads(bob.command("read", "--all", "alice", "--json").stdout)["marked"] == 2
    until_it_is(alice, second, "read")
    assert shown(alice, second)["reason"] == "bob has read it"
    assert shown(alice, sent)["state"] == "delivered"
    assert "read receipts" in bob.command("contacts", "receipts", "alice", "off").stdout

    # taken back: gone on both sides, and both are told so
    assert "erased" in alice.command("retract", sent).stdout
    eventually("the retraction to be confirmed", lambda: "erased here and on" in shown(alice, sent)["reason"])
    printed = bob.command("inbox").stdout
    assert "see you at" not in printed and printed.count("[taken back, ") == 2
    there = shown(bob, sent)
    assert (there["state"], there["text"]) == ("retracted", "")
    assert there["reason"] == "alice took it back; its text is erased here"
    refused = alice.command("edit", sent, "too late", check=False)
    assert refused.returncode == 1 and "taken back" in refused.stderr

    # expiring: a second after it was printed
    third = json.loads(
        alice.command("send", "bob", "burn this", "--expire", "1s", "--wait", "delivered", "--json").stdout
    )
    assert third["expire_after"] == 1.0
    assert "burn this" in bob.command("inbox", "--newest", "1").stdout
    until_it_is(alice, third["id"], "expired")
    until_it_is(bob, third["id"], "expired")
    assert "[expired, " in bob.command("inbox", "--newest", "1").stdout
    assert json.loads(bob.command("inbox", "--unread", "--json").stdout)["messages"] == []

    # what never left leaves nothing
    bob.stop()
    waiting = json.loads(alice.command("send", "bob", "never mind", "--json").stdout)["id"]
    eventually("bob's absence to be noticed", lambda: "come online" in shown(alice, waiting)["reason"])
    if shown(alice, waiting)["state"] == "queued":
        assert "before it had left" in alice.command("retract", waiting).stdout
    else:
        alice.command("retract", waiting)
    bob.start()
    last = say(alice, "bob", "the end")
    inbox = json.loads(bob.command("inbox", "--json").stdout)["messages"]
    assert waiting not in {each["id"] for each in inbox}
    assert inbox[-1]["id"] == last


def test_wrong_uses_invites_and_blocking(couple: tuple[Person, Person]) -> None:
    wrong_uses_are_explained(couple[0])
    invites_are_listed_and_revoked(*couple)
    block_and_unblock_are_where_people_look_for_them(*couple)


def wrong_uses_are_explained(alice: Person) -> None:
    for argv, said in (
        (["send", "bob", "x", "--expire", "soon"], "isn't a length of time"),
        (["send", "bob", "x", "--expire", "2000d"], "366d"),
        (["read"], "--all NAME"),
        (["read", "abcd"], "abcd"),
        (["show", "abcdef"], "abcdef"),
        (["history", "zz"], "isn't a message id"),
        (["edit", "abcdef", "x"], "abcdef"),
        (["contacts", "receipts", "bob", "maybe"], "on or off"),
        (["contacts", "receipts", "nobody", "on"], "nobody"),
        (["invites", "revoke"], "--all"),
        (["invites", "revoke", "99"], "99"),
    ):
        failed = alice.command(*argv, check=False)
        assert failed.returncode in (1, 2, 4), argv
        assert said in failed.stderr, failed.stderr
        assert "Traceback" not in failed.stderr


def invites_are_listed_and_revoked(alice: Person, bob: Person) -> None:
    made = json.loads(alice.command("invite", "--json", "--name", "carol").stdout)
    assert made["code"] in alice.command("invites").stdout
    alice.command("invites", "revoke", str(made["id"]))
    listed = json.loads(alice.command("invites", "--json").stdout)["invites"]
    assert {each["id"]: each["state"] for each in listed}[made["id"]] == "revoked"
    assert made["code"] not in alice.command("invites", "list").stdout
    assert bob.command("accept", made["code"], check=False).returncode in (1, 4)


def block_and_unblock_are_where_people_look_for_them(alice: Person, bob: Person) -> None:
    assert "blocked" in bob.command("block", "alice").stdout
    with alice.client() as client:
        eventually("the link to go", lambda: not client.contact("bob")["connected"])
        sent = client.send("bob", "hello?")["id"]
    assert "waiting for bob to come online" in shown(alice, sent)["reason"]
    bob.command("unblock", "alice")
    settled(alice, [sent])


def following(person: Person, *options: str, errors: bool = False) -> subprocess.Popen[str]:
    argv = person.command_line("inbox", "--follow", *options)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE if errors else None, text=True)


def next_line(follower: subprocess.Popen[str]) -> str:
    assert follower.stdout is not None
    return follower.stdout.readline().rstrip("\n")


def test_a_follower_goes_on_when_the_node_comes_back(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    with following(bob, "--mark-read", errors=True) as reader:
        try:
            say(alice, "bob", "one")
            assert next_line(reader).endswith("alice: one")
            bob.kill()
            assert reader.stderr is not None
            assert reader.stderr.readline().startswith("The node went away")
            bob.start()
            second = say(alice, "bob", "two")
            assert next_line(reader).endswith("alice: two")  # and not the first one again
            assert reader.stderr.readline() == "The node is back.\n"
            until_it_is(bob, second, "read")
        finally:
            reader.kill()
        assert reader.stdout is not None and reader.stdout.read() == ""
    bob.stop()
    nobody = bob.command("inbox", "--follow", check=False)
    assert nobody.returncode == 3 and "No node is running" in nobody.stderr


def test_whoever_follows_hears_of_second_thoughts(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    with following(bob, "--ids") as reader, following(bob, "--json", "--ended-after", "0") as bot:
        try:
            sent = say(alice, "bob", "oops")
            assert next_line(reader).endswith("alice: oops")
            line = json.loads(next_line(bot))
            assert line["id"] == sent
            alice.command("retract", sent)
            assert re.fullmatch(
                rf"{sent[:16]}  [\d:]+  alice: \[taken back: the message of [\d:]+\]", next_line(reader)
            )
            told = json.loads(next_line(bot))
        finally:
            reader.kill()
            bot.kill()
    assert [(each["id"], each["state"], each["text"]) for each in told["ended"]] == [(sent, "retracted", "")]

    # a bot that comes back with its cursors misses nothing, and hears nothing twice
    again = say(alice, "bob", "oops again")
    with following(bob, "--json", "--after", str(line["row"]), "--ended-after", str(told["next_ended"])) as bot:
        try:
            assert json.loads(next_line(bot))["id"] == again
            alice.command("retract", again)
            assert [each["id"] for each in json.loads(next_line(bot))["ended"]] == [again]
        finally:
            bot.kill()
    assert bob.command("inbox", "--ended-after", "1", check=False).returncode == 2
