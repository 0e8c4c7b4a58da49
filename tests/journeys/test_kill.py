"""kill -9 of either side at seeded random instants of a stream of messages: none lost, none doubled, all in order."""

from __future__ import annotations

import random
import threading

import pytest
from p2pe_sim.processes import Person, settled

pytestmark = [pytest.mark.journey, pytest.mark.slow]

KILLS = 50
CHUNK = 10
SEED = 20261124


def test_kill_9_at_fifty_random_instants_on_either_side(couple: tuple[Person, Person]) -> None:
    alice, bob = couple
    dice = random.Random(SEED)
    over = threading.Event()
    ids: list[str] = []
    texts: list[str] = []

    def stream() -> None:
        """Sends without a pause, except that the queue is kept from growing beyond what a kill can interrupt."""
        while not over.is_set():
            chunk = [f"message {len(texts) + number}" for number in range(CHUNK)]
            batch = [{"to": "bob", "text": text, "key": text} for text in chunk]
            ids.extend(alice.persist(lambda client, batch=batch: client.send_many(batch)))  # type: ignore[misc]
            texts.extend(chunk)
            over.wait(0.02)

    sender = threading.Thread(target=stream)
    sender.start()
    try:
        for _ in range(KILLS):
            victim = dice.choice((alice, bob))
            over.wait(dice.random() * 0.5)  # the random instant
            victim.kill()
            victim.start()
    finally:
        over.set()
        sender.join()
    settled(alice, ids)
    arrived = [message["text"] for message in bob.inbox("alice")]
    assert len(set(ids)) == len(texts)
    assert arrived == texts
