"""A relay is a pipe that sees ciphertext: all its memory and all its files are searched, while two people talk through
it and afterwards. It learns neither a word, nor a name, nor who they are, and keeps no message."""

from __future__ import annotations

import signal

import pytest
from p2pe.core.addresses import split_peer
from p2pe_sim import forensics
from p2pe_sim.processes import Person, Running, eventually, pair, processes

pytestmark = pytest.mark.journey

RELAYED_ONLY = ("--relay", "only")
TEXTS = [f"the heron at the weir {number:02} knows where the boat is moored" for number in range(30)]
NAMES = ("Wilhelmina Quastenflosser", "Ottokar Sumpfdotterblume")


def search(relay: Running, wanted: dict[str, bytes]) -> dict[str, int]:
    try:
        return forensics.in_memory(relay.process.pid, wanted)
    except PermissionError as problem:
        pytest.skip(f"a process's memory can't be read here: {problem}")


def path(person: Person, contact: str) -> str | None:
    with person.client() as client:
        return client.contact(contact)["path"]


def test_a_relay_sees_and_keeps_nothing() -> None:
    with processes() as story:
        relay = story.bootstrap()
        home = story.folder / "bootstrap"
        alice = story.person(NAMES[0], options=RELAYED_ONLY).start()
        bob = story.person(NAMES[1], options=RELAYED_ONLY).start()
        pair(alice, bob)
        with alice.client() as client:
            identities = [bytes.fromhex(client.status()["identity_key"])]
        with bob.client() as client:
            identities.append(bytes.fromhex(client.status()["identity_key"]))
        secrets = forensics.needles(
            text=TEXTS[0][:21], alice=NAMES[0], bob=NAMES[1], alice_key=identities[0], bob_key=identities[1]
        )
        relay_id = split_peer(story.bootstraps[0])[1]
        known = {"its own peer id": bytes(relay_id)}

        # While they talk, and while a message waits for somebody who is away.
        with alice.client() as client:
            sent = [client.send(NAMES[1], text)["id"] for text in TEXTS]
            assert forensics.seen(search(relay, secrets)) == {}
        alice.wait_delivered(sent[-1])
        assert path(alice, NAMES[1]) == path(bob, NAMES[0]) == "relayed"
        assert [message["text"] for message in bob.inbox(NAMES[0])] == TEXTS
        bob.stop()
        with alice.client() as client:
            client.send(NAMES[1], "the heron at the weir waits too")
        eventually("Bob to be gone", lambda: path(alice, NAMES[1]) is None)
        assert forensics.seen(search(relay, secrets)) == {}
        assert forensics.seen(forensics.in_files(home, secrets)) == {}

        # The searches find what is there: the relay's own id in its memory, Alice's text in hers, and names in files.
        assert search(relay, known)["its own peer id"] > 0
        assert alice.node is not None
        assert forensics.in_memory(alice.node.process.pid, secrets)["text"] > 0
        planted = home / "planted"
        planted.write_text("x" * 5_000 + TEXTS[0])
        assert forensics.in_files(home, secrets)["text"] == 1
        planted.unlink()

        # Killed, with no chance to tidy up: no message rests with it.
        relay.process.send_signal(signal.SIGKILL)
        relay.process.wait()
        assert forensics.seen(forensics.in_files(home, secrets)) == {}
        assert sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) < 4_096  # its key, its addresses
        assert forensics.in_bytes(relay.log_text().encode(), secrets) == dict.fromkeys(secrets, 0)
