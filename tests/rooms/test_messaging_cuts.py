"""Links that a relay cuts after a few bytes: what was receipted stays done, and every link gets further."""

from __future__ import annotations

from pathlib import Path

import pytest
from messaging_kit import both, texts, until
from p2pe.messaging.outbox import SendRequest
from p2pe.model import MessageState

CIRCUIT = 128 * 1024
LONGEST = 32 * 1024


@pytest.mark.parametrize(
    ("count", "size"), [(200, 2_000), (40, 12_000), (4, LONGEST)], ids=["many short", "longer", "the longest"]
)
async def test_a_queue_larger_than_any_link_can_carry(
    tmp_path: Path, count: int, size: int, autojump_clock: object
) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        pair.budget = CIRCUIT
        said = {name: [f"{name} {n} ".ljust(size, "x") for n in range(count)] for name in ("alice", "bob")}
        sent = await alice.outbox.send_many([SendRequest("bob", text) for text in said["alice"]])
        back = await bob.outbox.send_many([SendRequest("alice", text) for text in said["bob"]])
        for node, messages in ((alice, sent), (bob, back)):
            for message in messages:
                shown = await node.outbox.wait(message.id, MessageState.DELIVERED, timeout=3_600)
                assert shown.state is MessageState.DELIVERED
        assert await texts(bob) == said["alice"]
        assert await texts(alice) == said["bob"]
        assert len(pair.wires) >= 2 * count * size // CIRCUIT


async def test_a_circuit_too_small_for_both_is_taken_in_turns(tmp_path: Path, autojump_clock: object) -> None:
    """70,000 bytes carry one of the longest messages and its receipt, never two."""
    async with both(tmp_path) as (pair, alice, bob):
        pair.budget = 70_000
        for node, name in ((alice, "bob"), (bob, "alice")):
            await node.outbox.send_many([SendRequest(name, "x" * LONGEST)] * 3)

        async def all_delivered() -> bool:
            return len(await texts(alice)) == len(await texts(bob)) == 3 and not (
                await alice.outbox.waiting(1) or await bob.outbox.waiting(1)  # type: ignore[arg-type]
            )

        await until(all_delivered, seconds=3_600)
