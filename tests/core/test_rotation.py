"""Rotation: whatever is lost and whoever crashes, the two keep a secret in common, and end with a new one alone.

The model: a session is made under a secret that both hold (the dialer tries its own in order). In it, frames travel
until any of them is lost, which ends the session; either side may crash at any of its writes, losing what wasn't
stored. All histories of six sessions are gone through, then long random ones.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.config import ROTATE_SECONDS
from p2pe.core import rotation
from p2pe.core.rotation import Pair
from p2pe.model import Millis, Rotation, RotationStep

S0 = b"0" * 32


@dataclass
class World:
    """Both sides' disks, and fresh bytes that never repeat."""

    proposer: Pair = field(default_factory=lambda: Pair(S0, 1))
    accepter: Pair = field(default_factory=lambda: Pair(S0, 1))
    count: int = 0
    fixed: bool = False  # the same bytes each time, so that equal histories end in equal disks

    def fresh(self) -> bytes:
        self.count += not self.fixed
        return self.count.to_bytes(32, "big")

    def keys(self, pair: Pair) -> tuple[bytes, ...]:
        return (pair.secret,) if pair.next_secret is None else (pair.secret, pair.next_secret)

    def session(self, *, by_proposer: bool, proposer_notes: bool = True, accepter_notes: bool = True) -> bool:
        """One session: returns whether it was made under the old secret (a rotation may go on in it). Each side
        notes that a next secret was proven, unless it crashes first."""
        ours, theirs = (self.proposer, self.accepter) if by_proposer else (self.accepter, self.proposer)
        order = self.keys(ours)
        if by_proposer and ours.contribution is not None:
            order = order[::-1]
        common = [key for key in order if key in self.keys(theirs)]
        assert common, "the two have no secret in common"
        used = common[0]
        if proposer_notes and used == self.proposer.next_secret:
            self.proposer = rotation.proven(self.proposer)
        if accepter_notes and used == self.accepter.next_secret:
            self.accepter = rotation.proven(self.accepter)
        return used in (self.proposer.secret, self.accepter.secret) and used not in (
            self.proposer.next_secret,
            self.accepter.next_secret,
        )

    def rotate(self, steps: int) -> None:
        """The first `steps` of a rotation's six: store, send; store, send; store, send. What comes then is lost."""
        if steps < 1:
            return
        self.proposer, proposal = rotation.propose(self.proposer, self.fresh())
        if steps < 3:
            return
        answer = rotation.accept(self.accepter, proposal, self.fresh())
        if answer is None:
            return
        self.accepter, acceptance = answer
        if steps < 5:
            return
        last = rotation.commit(self.proposer, acceptance)
        if last is None:
            return
        self.proposer, commitment = last
        if steps < 6:
            return
        dropped = rotation.committed(self.accepter, commitment)
        assert dropped is not None
        self.accepter = dropped

    def check(self) -> None:
        common = set(self.keys(self.proposer)) & set(self.keys(self.accepter))
        assert common, "the two have no secret in common"
        for one, other in ((self.proposer, self.accepter), (self.accepter, self.proposer)):
            if one.epoch > other.epoch:
                assert one.secret == other.next_secret, "one has dropped the old secret, and the other lacks the next"


def test_every_history_of_six_sessions() -> None:
    """Per session: who dials, which side notes the proof before it crashes, after which step everything is lost: 56
    possibilities. Histories that lead to the same two disks are gone on from once."""
    possible = list(itertools.product((True, False), (True, False), (True, False), range(7)))
    reached = {(Pair(S0, 1), Pair(S0, 1))}
    frontier = set(reached)
    for _ in range(6):
        found = set()
        for (proposer, accepter), (by_proposer, notes, others_note, steps) in itertools.product(frontier, possible):
            world = World(proposer, accepter, fixed=True)
            if world.session(by_proposer=by_proposer, proposer_notes=notes, accepter_notes=others_note):
                world.rotate(steps)
            world.check()
            found.add((world.proposer, world.accepter))
        frontier = found - reached
        reached |= found
    for proposer, accepter in reached:
        finish(World(proposer, accepter, fixed=True))
    assert max(proposer.epoch for proposer, _ in reached) >= 6 and len(reached) > 30


def finish(world: World) -> None:
    """Undisturbed sessions end what was begun: both hold one secret, the same, and nothing else."""
    for _ in range(3):
        if world.session(by_proposer=True) and world.proposer.contribution is not None:
            world.rotate(6)
        world.check()
    assert world.proposer == world.accepter
    assert world.proposer.next_secret is None and world.proposer.contribution is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_long_random_histories(seed: int) -> None:
    random, world = Random(seed), World()
    secrets = {S0}
    for _ in range(60):
        under_old = world.session(
            by_proposer=random.random() < 0.5,
            proposer_notes=random.random() < 0.7,
            accepter_notes=random.random() < 0.7,
        )
        if under_old:
            world.rotate(random.randrange(7))
        world.check()
        secrets.add(world.proposer.secret)
    finish(world)
    assert len(secrets) > 1, "nothing was ever rotated: the test shows nothing"


def frame(step: RotationStep, epoch: int) -> Rotation:
    return Rotation(step, epoch, b"" if step is RotationStep.COMMIT else b"x" * 32)


def test_frames_about_another_epoch_are_ignored() -> None:
    idle = Pair(S0, 4)
    for epoch in (1, 4, 6, 2**40):
        assert rotation.accept(idle, frame(RotationStep.PROPOSE, epoch), b"f" * 32) is None
        assert rotation.commit(replace(idle, contribution=b"c" * 32), frame(RotationStep.ACCEPT, epoch)) is None
        assert rotation.committed(idle, frame(RotationStep.COMMIT, epoch)) is None
    assert rotation.commit(idle, frame(RotationStep.ACCEPT, 5)) is None, "nothing was proposed"
    assert rotation.committed(idle, frame(RotationStep.COMMIT, 5)) is None, "nothing was accepted"


def test_a_pairing_or_recovery_takes_precedence() -> None:
    paired = Pair(S0, 4, next_secret=b"n" * 32, next_epoch=1)
    assert paired.is_taken
    assert not rotation.is_due(paired, Millis(0), Millis(10**15))
    assert rotation.accept(paired, frame(RotationStep.PROPOSE, 5), b"f" * 32) is None
    assert rotation.commit(paired, frame(RotationStep.ACCEPT, 5)) is None
    assert rotation.committed(paired, frame(RotationStep.COMMIT, 1)) is None
    with pytest.raises(ValueError, match="pairing"):
        rotation.propose(paired, b"f" * 32)
    assert rotation.proven(paired) == Pair(b"n" * 32, 1)


def test_thirty_days() -> None:
    pair, at = Pair(S0, 1), Millis(1_000_000)
    assert not rotation.is_due(pair, at, Millis(at + 1000 * ROTATE_SECONDS - 1))
    assert rotation.is_due(pair, at, Millis(at + 1000 * ROTATE_SECONDS))
    assert rotation.is_due(replace(pair, contribution=b"c" * 32), at, at), "one that isn't over goes on at once"
