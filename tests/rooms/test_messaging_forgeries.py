"""Receipts and retractions that aren't the other side's to give: each ends the link, and changes nothing.

Every forgery is made from what somebody could really have: another pair's key, a genuine MAC for something else, our
own frames sent back to us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from messaging_kit import RECEIPT_KEY, PipeLink, both, texts, until
from p2pe.core.derive import receipt_mac, retraction_mac
from p2pe.model import Frame, MessageId, MessageState, Receipt, Receipts, ReceiptStatus, Retraction, Retractions
from p2pe.storage.incoming import EMPTY_HASH

OTHER_KEY = b"the key of another pair, 32 bytes"[:32]
DELIVERED, READ, RETRACTED = ReceiptStatus.DELIVERED, ReceiptStatus.READ, ReceiptStatus.RETRACTED
Forge = Callable[[MessageId, bytes, MessageId, bytes], Frame]
"""(the message in question, SHA-256 of its body, another message, SHA-256 of its body) -> a frame"""


def receipt(identifier: MessageId, status: ReceiptStatus, mac: bytes) -> Frame:
    return Receipts((Receipt(identifier, status, mac),))


def retraction(identifier: MessageId, mac: bytes) -> Frame:
    return Retractions((Retraction(identifier, mac),))


RECEIPTS: dict[str, Forge] = {
    "of another pair": lambda m, h, o, g: receipt(m, DELIVERED, receipt_mac(OTHER_KEY, m, h, DELIVERED)),
    "of a body that wasn't sent": lambda m, h, o, g: receipt(
        m, DELIVERED, receipt_mac(RECEIPT_KEY, m, hashlib.sha256(b"another body").digest(), DELIVERED)
    ),
    "of another message's body": lambda m, h, o, g: receipt(m, DELIVERED, receipt_mac(RECEIPT_KEY, m, g, DELIVERED)),
    "for another id": lambda m, h, o, g: receipt(m, DELIVERED, receipt_mac(RECEIPT_KEY, o, h, DELIVERED)),
    "DELIVERED passed off as READ": lambda m, h, o, g: receipt(m, READ, receipt_mac(RECEIPT_KEY, m, h, DELIVERED)),
    "DELIVERED passed off as RETRACTED": lambda m, h, o, g: receipt(
        m, RETRACTED, receipt_mac(RECEIPT_KEY, m, h, DELIVERED)
    ),
    "RETRACTED bound to a body": lambda m, h, o, g: receipt(m, RETRACTED, receipt_mac(RECEIPT_KEY, m, h, RETRACTED)),
    "RETRACTED of another pair": lambda m, h, o, g: receipt(
        m, RETRACTED, receipt_mac(OTHER_KEY, m, EMPTY_HASH, RETRACTED)
    ),
    "a retraction's MAC": lambda m, h, o, g: receipt(m, DELIVERED, retraction_mac(RECEIPT_KEY, m)),
    "zeros": lambda m, h, o, g: receipt(m, DELIVERED, bytes(32)),
    "one bit off": lambda m, h, o, g: receipt(
        m,
        DELIVERED,
        bytes([receipt_mac(RECEIPT_KEY, m, h, DELIVERED)[0] ^ 1]) + receipt_mac(RECEIPT_KEY, m, h, DELIVERED)[1:],
    ),
}
RETRACTIONS: dict[str, Forge] = {
    "of another pair": lambda m, h, o, g: retraction(m, retraction_mac(OTHER_KEY, m)),
    "of another id": lambda m, h, o, g: retraction(m, retraction_mac(RECEIPT_KEY, o)),
    "a receipt's MAC": lambda m, h, o, g: retraction(m, receipt_mac(RECEIPT_KEY, m, EMPTY_HASH, RETRACTED)),
    "zeros": lambda m, h, o, g: retraction(m, bytes(32)),
}  # fmt: skip


def end_of(links: tuple[PipeLink, PipeLink], index: int) -> PipeLink:
    """The end of a wire that node `index` holds."""
    return next(each for each in links if each.peer_identity == bytes([1 - index]) * 32)


@pytest.mark.parametrize("forgery", RECEIPTS)
async def test_a_forged_receipt(tmp_path: Path, forgery: str) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        pair.holding = True
        sent = [await alice.outbox.send("bob", text) for text in ("in question", "another")]
        await until(lambda: _is_under_way(pair))
        wire = pair.wires[-1]
        wire.let_through(0, None)  # towards Alice alone, if she dialled
        pair.holding = False  # of the links that follow
        [(one, h), (other, g)] = await alice.query("SELECT id, body_hash FROM outgoing ORDER BY row")
        await end_of(wire.ends, 1).send((RECEIPTS[forgery](MessageId(one), h, MessageId(other), g),))
        await until(lambda: _is_dead(wire))
        for each in sent:
            found = await alice.outbox.wait(each.id, timeout=10)  # it goes on, on another link, as if nothing were
            assert (found.state, found.attempts) == (MessageState.DELIVERED, 2)
        assert await texts(bob) == ["in question", "another"]


@pytest.mark.parametrize("forgery", RETRACTIONS)
async def test_a_forged_retraction(tmp_path: Path, forgery: str) -> None:
    async with both(tmp_path) as (pair, alice, bob):
        sent = [await alice.outbox.send("bob", text) for text in ("in question", "another")]
        for each in sent:
            await alice.outbox.wait(each.id, timeout=10)
        [(one, h), (other, g)] = await alice.query("SELECT id, body_hash FROM outgoing ORDER BY row")
        wire = pair.wires[-1]
        await end_of(wire.ends, 0).send((RETRACTIONS[forgery](MessageId(one), h, MessageId(other), g),))
        await until(lambda: _is_dead(wire))
        assert await texts(bob) == ["in question", "another"]
        assert [each.ended_at for each in await bob.inbox.list(ended=True)] == [None, None]


async def test_our_own_receipts_sent_back_mean_nothing(tmp_path: Path) -> None:
    """A reflection has a right MAC, and names a message that we never sent."""
    async with both(tmp_path) as (pair, alice, bob):
        sent = await alice.outbox.send("bob", "x")
        await alice.outbox.wait(sent.id, timeout=10)
        wire = pair.wires[-1]
        [(body_hash,)] = await alice.query("SELECT body_hash FROM outgoing")
        for status, bound in ((DELIVERED, body_hash), (READ, body_hash), (RETRACTED, EMPTY_HASH)):
            mac = receipt_mac(RECEIPT_KEY, sent.id, bound, status)
            await end_of(wire.ends, 0).send((receipt(sent.id, status, mac),))
        answer = await alice.outbox.send("bob", "y")
        await alice.outbox.wait(answer.id, timeout=10)
        assert not wire.dead and await texts(bob) == ["x", "y"]
        assert await bob.outbox.list() == []


async def test_read_before_delivered_and_delivered_after_read(tmp_path: Path) -> None:
    """Receipts in whatever order move a state forward alone."""
    async with both(tmp_path) as (pair, alice, _):
        sent = await alice.outbox.send("bob", "x")
        await alice.outbox.wait(sent.id, timeout=10)
        wire = pair.wires[-1]
        [(body_hash,)] = await alice.query("SELECT body_hash FROM outgoing")
        for status in (READ, DELIVERED, READ):
            mac = receipt_mac(RECEIPT_KEY, sent.id, body_hash, status)
            await end_of(wire.ends, 1).send((receipt(sent.id, status, mac),))
        await alice.outbox.wait(sent.id, MessageState.READ, timeout=10)
        assert (await alice.outbox.show(sent.id)).state is MessageState.READ


async def _is_under_way(pair: object) -> bool:
    wires = pair.wires  # type: ignore[attr-defined]
    return bool(wires) and any(each.under_way for each in wires[-1].towards)


async def _is_dead(wire: object) -> bool:
    return bool(wire.dead)  # type: ignore[attr-defined]
