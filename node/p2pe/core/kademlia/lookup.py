"""The iterative lookup over disjoint paths, as a machine without input or output.

    lookup = Lookup(target, seeds, now=now, timeouts=timeouts, local=own_peer_id)
    loop: send everything in lookup.requests(now); then wait for an answer, a failure or lookup.wake_at()
          lookup.answered(peer, closer nodes, now)   lookup.failed(peer, now)
    until lookup.finished; then lookup.closest(count)

Each path has its own candidates and asks only peers that no other path has asked (S/Kademlia section 4.4), so what a
hostile peer says steers one path alone. A path ends when the `width` nearest candidates it may ask have answered.
A peer that takes longer than `timeouts.patience` frees its place for the next one, and may still answer until
`timeouts.limit`. A `thorough` lookup waits for such a peer when it is among the nearest; others end without it, since
a reader needs one storer, soon.

State of a candidate on its path:

    NEW --requests--> ASKED --patience--> SLOW --limit--> FAILED
                        |                  |
                        +--answered--------+--> ANSWERED        failed --> FAILED

Bounded: KAD_PATH_CANDIDATES a path, KAD_K peers of a reply, KAD_LOOKUP_MAX_REQUESTS and `timeouts.whole` in all; so a
path remembers the ids of some 2,000 peers that were named to it, at the most.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from p2pe.config import (
    KAD_ALPHA,
    KAD_DISJOINT_PATHS,
    KAD_K,
    KAD_LOOKUP_MAX_REQUESTS,
    KAD_PATH_CANDIDATES,
    KAD_STORE_COUNT,
)
from p2pe.core.kademlia.diversity import answer_counter, diverse
from p2pe.core.kademlia.keyspace import LOCATION_BITS, Node
from p2pe.core.kademlia.timeouts import Timeouts
from p2pe.model import PeerId

_FARTHEST = 1 << LOCATION_BITS  # beyond any distance


class Stage(IntEnum):
    NEW = 0
    ASKED = 1
    SLOW = 2
    ANSWERED = 3
    FAILED = 4


# Looking a member of an enumeration up costs more than what is done with it in the loops below.
_NEW, _ASKED, _SLOW, _ANSWERED = Stage.NEW, Stage.ASKED, Stage.SLOW, Stage.ANSWERED


class Candidate:
    """A peer on one path. Sorts by distance to the target."""

    __slots__ = ("asked_at", "depth", "distance", "node", "stage")

    def __init__(self, node: Node, distance: int, depth: int) -> None:
        self.node = node
        self.distance = distance
        self.depth = depth  # in which round it is asked: 1 for a peer we knew, one more for each that named it
        self.stage: Stage = _NEW
        self.asked_at = 0.0

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance


@dataclass(slots=True)
class _Path:
    named: dict[int, tuple[Node, int]]  # by distance: who was named, and in which round to ask
    distances: list[int]  # theirs, ascending
    candidates: dict[int, Candidate]  # by distance: those of them that this path has asked
    heard_of: set[PeerId]  # everybody who was ever named to it: two of three in a reply have been before
    in_flight: int = 0
    pending: Candidate | bool | None = None  # what `_pending` said last; None once that may have changed


class Lookup:
    """One lookup towards the location `target`. `now` is seconds of a steady clock."""

    def __init__(
        self,
        target: int,
        seeds: Sequence[Node],
        *,
        now: float,
        timeouts: Timeouts,
        local: PeerId | None = None,
        paths: int = KAD_DISJOINT_PATHS,
        alpha: int = KAD_ALPHA,
        count: int = KAD_STORE_COUNT,
        thorough: bool = False,
    ) -> None:
        self.target = target
        self._timeouts = timeouts
        self._local = local
        self._deadline = now + timeouts.whole
        self._is_thorough = thorough
        self._over = False
        self._quiet_until = float("-inf")  # no time-out changes anything before
        nearest = sorted(seeds, key=lambda node: node.location ^ target)
        width = max(1, min(paths, len(nearest)))
        self._paths = [_Path({}, [], {}, set()) for _ in range(width)]
        self._alpha = max(1, alpha * paths // width)
        self._width = max(2, -(-count // width))
        self._asked: dict[PeerId, tuple[Candidate, _Path]] = {}
        self._awaited: dict[PeerId, tuple[Candidate, _Path]] = {}  # those of `_asked` that may still answer
        self._networks = answer_counter()  # of those asked
        self._count = count
        self._answers: list[int] = []  # distances of those that answered, nearest first
        for number, path in enumerate(self._paths):
            self._offer(path, nearest[number::width], 1)

    @property
    def request_count(self) -> int:
        return len(self._asked)

    @property
    def finished(self) -> bool:
        """Whether every path has ended. Call `requests` first: it is what notices time-outs."""
        if not self._over:
            for path in self._paths:
                if self._verdict(path) is not False:
                    return False
        return True

    def requests(self, now: float) -> tuple[Node, ...]:
        """Whom to ask now. Each is to be told back by `answered` or `failed`, once."""
        self._expire(now)
        if self._over:
            return ()
        asked: list[Node] = []
        progress = True
        while progress:  # a peer to each path in turn: no path may claim all the nearest
            progress = False
            for path in self._paths:
                candidate = self._verdict(path) if path.in_flight < self._alpha else False
                if isinstance(candidate, bool):
                    continue
                self._ask(candidate, path, now)
                asked.append(candidate.node)
                progress = True
        return tuple(asked)

    def _ask(self, candidate: Candidate, path: _Path, now: float) -> None:
        node = candidate.node
        candidate.stage, candidate.asked_at = _ASKED, now
        path.candidates[candidate.distance] = candidate
        path.in_flight += 1
        self._asked[node.peer_id] = self._awaited[node.peer_id] = candidate, path
        self._networks.add(node.groups)
        path.pending = None
        is_last = len(self._asked) >= KAD_LOOKUP_MAX_REQUESTS
        for other in self._paths:  # what others were about to ask may now be asked, or of a network that is full
            next_up = other.pending
            if isinstance(next_up, Candidate) and (
                is_last or next_up.node.peer_id == node.peer_id or not node.groups_apart(next_up.node)
            ):
                other.pending = None

    def answered(self, peer_id: PeerId, closer: Sequence[Node], now: float) -> None:
        """`peer_id` named `closer`. What wasn't asked, was told already or comes after the end changes nothing."""
        found = self._asked.get(peer_id)
        if found is None or found[0].stage not in (_ASKED, _SLOW):
            return
        candidate, path = found
        self._timeouts.observed(now - candidate.asked_at)
        self._settle(candidate, path, _ANSWERED)
        del self._awaited[peer_id]
        insort(self._answers, candidate.distance)
        is_first, reach = len(self._answers) == 1, self._reach  # until the first one paths wait for slow peers
        for other in self._paths:
            if is_first or (isinstance(other.pending, Candidate) and other.pending.distance >= reach):
                other.pending = None
        self._offer(path, closer[:KAD_K], candidate.depth + 1)

    def failed(self, peer_id: PeerId, now: float) -> None:
        """`peer_id` can't be reached or answered nonsense."""
        found = self._asked.get(peer_id)
        if found is not None and found[0].stage in (_ASKED, _SLOW):
            self._settle(found[0], found[1], Stage.FAILED)
            del self._awaited[peer_id]

    def wake_at(self) -> float | None:
        """When a time-out changes something next, if no answer does before; None when nothing is awaited."""
        if not self._awaited:
            self._quiet_until = float("-inf")
            return None
        patience, earliest = self._timeouts.patience, self._deadline
        for candidate, _ in self._awaited.values():
            is_new = candidate.stage is _ASKED
            earliest = min(earliest, candidate.asked_at + (patience if is_new else self._timeouts.limit))
            if is_new:
                break  # those after it were asked no earlier
        self._quiet_until = earliest
        return earliest

    def closest(self, count: int = KAD_STORE_COUNT) -> tuple[Node, ...]:
        """The nearest peers that answered, nearest first, whichever path found them."""
        found = [c for c, _ in self._asked.values() if c.stage is _ANSWERED]
        return tuple(c.node for c in sorted(found)[:count])

    def storers(self, count: int = KAD_STORE_COUNT) -> tuple[Node, ...]:
        """The peers to store at, or to ask for a record: near ones that answered, nearest first, but from each path
        its equal share first (a path that was led astray can't fill the answer), and not too many of one network."""
        rank: list[tuple[bool, int, Node]] = []
        share = max(1, count // (len(self._paths) + 1))
        for path in self._paths:
            asked = [path.candidates[distance] for distance in path.distances if distance in path.candidates]
            mine = [candidate for candidate in asked if candidate.stage is _ANSWERED]
            rank.extend((place >= share, c.distance, c.node) for place, c in enumerate(mine))
        rank.sort(key=lambda item: item[:2])
        chosen = diverse([node for _, _, node in rank], count)
        return tuple(sorted(chosen, key=lambda node: node.location ^ self.target))

    def everybody(self) -> tuple[Node, ...] | None:
        """All who were named, and known beforehand, if each was asked and has answered; else None."""
        if any(candidate.stage is not _ANSWERED for candidate, _ in self._asked.values()):
            return None
        if any(node.peer_id not in self._asked for path in self._paths for node, _ in path.named.values()):
            return None
        return tuple(candidate.node for candidate, _ in self._asked.values())

    def unresponsive(self) -> tuple[Node, ...]:
        """The peers that were asked and failed, for the routing table."""
        return tuple(c.node for c, _ in self._asked.values() if c.stage is Stage.FAILED)

    def depth_of(self, peer_id: PeerId) -> int | None:
        """In which round `peer_id` was asked (1 = known beforehand); None when it wasn't."""
        found = self._asked.get(peer_id)
        return None if found is None else found[0].depth

    def _offer(self, path: _Path, nodes: Sequence[Node], depth: int) -> None:
        named, distances, heard_of, asked = path.named, path.distances, path.heard_of, self._asked
        target, local = self.target, self._local
        limit = distances[-1] if len(distances) >= KAD_PATH_CANDIDATES else _FARTHEST
        fresh = []
        for node in nodes:
            peer_id = node.peer_id
            if peer_id in heard_of:
                continue  # a candidate already; asked by another path, which holds for good; or too far, and is so now
            heard_of.add(peer_id)
            distance = node.location ^ target
            if distance < limit and peer_id not in asked and peer_id != local:
                named[distance] = node, depth
                fresh.append(distance)
        if fresh:
            distances += fresh
            distances.sort()
            for distance in distances[KAD_PATH_CANDIDATES:]:
                del named[distance]  # if it was asked, `_asked` remembers it
            del distances[KAD_PATH_CANDIDATES:]
            path.pending = None

    def _verdict(self, path: _Path) -> Candidate | bool:
        """`_pending`, worked out anew only after something changed."""
        if path.pending is None:
            path.pending = self._pending(path)
        return path.pending

    def _pending(self, path: _Path) -> Candidate | bool:
        """What keeps a path from its end: the nearest candidate it still has to ask, or True when it only has to
        wait for an answer; False when it has ended. Peers of a network that was asked already come last: an
        attacker's many ids in few networks neither fill a path nor keep it busy."""
        ahead = 0
        waits = slow = False
        crowded: Candidate | bool = False
        width, reach, asked = self._width, self._reach, self._asked
        for distance in path.distances:
            if ahead >= width and distance >= reach:
                return waits
            candidate = path.candidates.get(distance)
            if candidate is None:
                node, depth = path.named[distance]
                if node.peer_id in asked:
                    continue
                if len(asked) >= KAD_LOOKUP_MAX_REQUESTS:
                    return waits
                if self._networks.admits(node.groups):
                    return Candidate(node, distance, depth)
                crowded = crowded or Candidate(node, distance, depth)
            elif candidate.stage is _ANSWERED:
                ahead += 1
            elif candidate.stage is _ASKED:
                waits = True
            elif candidate.stage is _SLOW:
                slow = True  # worth waiting for when nobody is left to ask
                waits = waits or self._is_thorough
        if ahead >= width:
            return waits
        return waits or crowded or (slow and not self._answers)

    @property
    def _reach(self) -> int:
        """The distance within which nobody may be left unasked: that of the last of the `count` nearest that answered,
        whichever path found them."""
        return self._answers[self._count - 1] if len(self._answers) >= self._count else _FARTHEST

    def _settle(self, candidate: Candidate, path: _Path, stage: Stage) -> None:
        if candidate.stage is _ASKED:
            path.in_flight -= 1
        candidate.stage = stage
        path.pending = None

    def _expire(self, now: float) -> None:
        if now < self._quiet_until:
            return
        patience, limit = self._timeouts.patience, self._timeouts.limit
        given_up = []
        for peer_id, (candidate, path) in self._awaited.items():
            if candidate.stage is _ASKED and now >= candidate.asked_at + patience:
                self._settle(candidate, path, _SLOW)
            if now >= candidate.asked_at + limit or now >= self._deadline:
                self._settle(candidate, path, Stage.FAILED)
                given_up.append(peer_id)
        for peer_id in given_up:
            del self._awaited[peer_id]
        self._over = self._over or now >= self._deadline
