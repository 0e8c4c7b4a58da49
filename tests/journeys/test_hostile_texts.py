"""What others write can't steer a terminal, whichever command prints it; and nothing of it gets into a log."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from p2pe_sim.processes import LOOPBACK, Person, Processes, eventually, pair, settled

pytestmark = pytest.mark.journey

HOSTILE = (
    "\x1b[2J\x1b[1;1Hroot# \x1b]0;owned\x07\x9b31m",  # clears the screen, moves the cursor, sets the title, C1
    "invoice_\u202egpj.exe\u202c \u2066\u2067\u2068\u2069",  # directions
    "pay\u200bpal\u200d.\ufeffcom \u00ad\u2060",  # hidden letters
    "alice: I owe you\r\nbob: 1000\u2028\u2029\x0b\x0c\x85 next",  # lines that look like somebody else's
    "z" + "\u0301" * 300,  # runs over the lines above
    "\x00\x08\x08\x08\x7f\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "\U000e0041\U000e0042 tags",
)
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
NAMES = ("Zebulon Quill", "Ottoline Frost")


def refuse_unsafe(output: str, what: object) -> None:
    bad = {char for char in output if char != "\n" and unicodedata.category(char) in UNSAFE}
    assert not bad, f"{what} printed {bad!r}"
    for line in output.split("\n"):
        assert not re.match(r"(alice|bob): ", line), f"{what} printed a line that looks like a message: {line!r}"
    assert not re.search("[\u0300-\u036f]{5}", output), f"{what} lets marks pile up"


def couple_with_debug_logs(story: Processes) -> tuple[Person, Person]:
    """Names that can't be in a log by chance, and logs that hold all there is."""
    people = tuple(story.person(name, options=(*LOOPBACK, "--log-level", "debug")) for name in ("one", "two"))
    for person in people:
        person.launch()
    for person in people:
        person.ready()
    for person, name in zip(people, NAMES, strict=True):
        person.name = name
    pair(*people)
    return people[0], people[1]


def test_hostile_texts_and_silent_logs(story: Processes) -> None:
    one, two = couple_with_debug_logs(story)
    follower = two.world.spawn("follow", two.command_line("inbox", "--follow"), stdout=True)
    with one.client() as client:
        ids = [client.send(two.name, text)["id"] for text in HOSTILE]
        ids.append(client.edit(ids[0], f"edited {HOSTILE[0]}")["id"])
        ids.append(client.send(two.name, f"marmalade {HOSTILE[1]}", reply_to=ids[1], expire_after=1000)["id"])
    settled(one, ids)
    for argv in (
        ["inbox"], ["inbox", one.name], ["inbox", "--ids"], ["inbox", "--newest", "3"], ["inbox", "--unread"],
        ["inbox", "--json"], *(["show", each] for each in ids), *(["history", each] for each in ids[:2]),
        ["show", ids[0], "--json"], ["history", ids[0], "--json"], ["contacts"], ["contacts", "--json"],
        ["contacts", "show", one.name], ["why", one.name], ["why", one.name, "--json"], ["status"], ["invites"],
    ):  # fmt: skip
        done = two.command(*argv)
        refuse_unsafe(done.stdout + done.stderr, argv)
    assert follower.process.stdout is not None
    printed = [follower.process.stdout.readline() for _ in HOSTILE]
    refuse_unsafe("".join(printed), "inbox --follow")
    received = json.loads(two.command("inbox", "--json").stdout)["messages"]
    assert [each["text"] for each in received[: len(HOSTILE)]] == list(HOSTILE)  # JSON has it as it was

    # our own outbox prints it as safely, and so do errors that quote
    for argv in (["outbox"], ["outbox", "--json"], ["show", ids[0]], ["retract", ids[2]], ["edit", ids[1], HOSTILE[0]]):
        done = one.command(*argv)
        refuse_unsafe(done.stdout + done.stderr, argv)
    for argv in (
        ["send", HOSTILE[0], "x"], ["contacts", "show", HOSTILE[1]], ["contacts", "rename", two.name, HOSTILE[3]],
        ["show", HOSTILE[2]], ["accept", HOSTILE[0]],
    ):  # fmt: skip
        done = one.command(*argv, check=False)
        assert done.returncode != 0
        refuse_unsafe(done.stdout + done.stderr, argv)

    rest_of_a_story(one, two)
    logs_are_silent(story, one, two, ids)


def rest_of_a_story(one: Person, two: Person) -> None:
    """Whatever else may write to a log: names changed, blocked, away, a wrong code, an invite that is used."""
    two.command("contacts", "rename", one.name, "Zebulon the Second")
    two.command("block", "Zebulon the Second")
    with one.client() as client:
        client.send(two.name, "Persimmon? Are you there?")
        wrong = client.invite("code", "Hypatia")["code"]
    assert wrong is not None
    two.command("accept", "-".join([*wrong.split("-")[:-1], "zoo"]), check=False)
    two.command("unblock", "Zebulon the Second")
    eventually("what waited to arrive", lambda: not any(each["state"] == "queued" for each in one.outbox()))
    two.command("contacts", "verify", "Zebulon the Second")
    two.command("read", "--all", "Zebulon the Second")
    for person in (one, two):
        person.stop()
        person.start()
    two.command("forget", "Zebulon the Second", "--yes")
    one.stop()
    two.stop()


def logs_are_silent(story: Processes, one: Person, two: Person, ids: list[str]) -> None:
    logs = [each.log_text() for each in story.running if each.name in ("one", "two", *NAMES)]
    assert len(logs) == 4 and all("stopped" in each for each in logs)
    assert any('"level": "debug"' in each for each in logs), "nothing was logged at the level that is to be searched"
    forbidden = [
        "Zebulon",
        "Ottoline",
        "Quill",
        "Frost",
        "Hypatia",
        "Persimmon",
        "root#",
        "invoice_",
        "owe you",
        "marmalade",
    ]
    forbidden += [" ".join(words.split()[at : at + 2]) for words in (one.words, two.words) for at in range(0, 24, 2)]
    for line in (each for text in logs for each in text.splitlines()):
        refuse_unsafe(line, "a log")
        for secret in forbidden:
            assert secret not in line, f"a log has {secret!r}: {line}"
        assert not re.search(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", line), f"a log has a key or an id: {line}"
        assert not re.search(r"\b\d{1,2}(-[a-z]+){3}\b", line), f"a log has a code: {line}"
        assert not re.search(r"\b(\d{5} ){3}", line), f"a log has a safety number: {line}"
        assert not any(each in line for each in ids), f"a log names a message: {line}"
