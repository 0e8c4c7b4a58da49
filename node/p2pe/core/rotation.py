"""Rotation of a pair secret in two phases: no crash and no lost frame leaves the two with nothing in common. Pure.

    P -> A  PROPOSE(epoch + 1, 32 bytes)    P has stored its bytes
    A -> P  ACCEPT(epoch + 1, 32 bytes)     A has stored its bytes and the next secret, beside the one in use
    P -> A  COMMIT(epoch + 1)               P has stored the next secret, beside the one in use
                                            A drops the old secret: P is known to have the next one
    a session under the next secret         whoever still has the old one drops it: the other has proven the next

P is the side with the lower identity key, so there is never more than one proposal. State is stored before the frame
that tells of it leaves. Frames may be lost at any place, each side may forget what it hadn't stored, and sessions under
the old secret may follow: P then proposes again with the same bytes, A answers with the same bytes, and the
same next secret results. What holds at every moment (tests/core/test_rotation.py goes through all of them):

- whoever has dropped the old secret has the next one, and so has the other side;
- a secret is dropped only after the other side has proven that it holds the next one.

A next secret from a pairing or a recovery (`contribution` is None then) takes precedence: no rotation begins beside it,
and frames of one that was under way are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from p2pe.config import ROTATE_SECONDS
from p2pe.core.derive import rotated_secret
from p2pe.model import Millis, Rotation, RotationStep


@dataclass(frozen=True, slots=True)
class Pair:
    """What one side has stored about a pair's secrets."""

    secret: bytes = field(repr=False)  # in use
    epoch: int
    next_secret: bytes | None = field(default=None, repr=False)
    next_epoch: int = 1
    contribution: bytes | None = field(default=None, repr=False)  # our 32 bytes to a rotation that isn't over

    @property
    def is_taken(self) -> bool:
        """A pairing or recovery has put its secret there."""
        return self.next_secret is not None and self.contribution is None


def is_due(pair: Pair, rotated_at: Millis, now: Millis) -> bool:
    """Whether P should propose: it is time, or a rotation isn't over."""
    if pair.is_taken:
        return False
    return pair.contribution is not None or now - rotated_at >= 1000 * ROTATE_SECONDS


def propose(pair: Pair, fresh: bytes) -> tuple[Pair, Rotation]:
    """P's first step, or the same again. `fresh`: 32 random bytes, used if there are none yet."""
    if pair.is_taken:
        raise ValueError("a pairing or recovery isn't over: no rotation begins beside it")
    contribution = pair.contribution or fresh
    return replace(pair, contribution=contribution), Rotation(RotationStep.PROPOSE, pair.epoch + 1, contribution)


def accept(pair: Pair, frame: Rotation, fresh: bytes) -> tuple[Pair, Rotation] | None:
    """A's answer to PROPOSE. None: ignored, since it is about another epoch, or a pairing or recovery isn't over."""
    if pair.is_taken or frame.epoch != pair.epoch + 1:
        return None
    ours = pair.contribution or fresh
    following = rotated_secret(pair.secret, frame.contribution, ours, frame.epoch)
    stored = replace(pair, next_secret=following, next_epoch=frame.epoch, contribution=ours)
    return stored, Rotation(RotationStep.ACCEPT, frame.epoch, ours)


def commit(pair: Pair, frame: Rotation) -> tuple[Pair, Rotation] | None:
    """P's answer to ACCEPT. None: ignored, as above."""
    if pair.contribution is None or frame.epoch != pair.epoch + 1:
        return None
    following = rotated_secret(pair.secret, pair.contribution, frame.contribution, frame.epoch)
    stored = replace(pair, next_secret=following, next_epoch=frame.epoch)
    return stored, Rotation(RotationStep.COMMIT, frame.epoch, b"")


def committed(pair: Pair, frame: Rotation) -> Pair | None:
    """A takes COMMIT. None: ignored, as above."""
    if pair.contribution is None or pair.next_secret is None or frame.epoch != pair.next_epoch:
        return None
    return proven(pair)


def proven(pair: Pair) -> Pair:
    """A session under the next secret was made, or COMMIT came: the old one is dropped."""
    if pair.next_secret is None:
        raise ValueError("there is no next secret")
    return Pair(pair.next_secret, pair.next_epoch)
