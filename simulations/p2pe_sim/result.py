"""What became of one plan. JSON both ways; nothing in it but `real_seconds` differs between two runs of a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final

RESULT_VERSION: Final = 1


class Verdict(StrEnum):
    PASSED = "passed"
    BROKEN = "broken"  # an invariant didn't hold
    ERROR = "error"  # the simulator failed: nothing is said about the node
    NONDETERMINISTIC = "nondeterministic"  # the same plan gave two digests
    VACUOUS = "vacuous"  # a workload below its floor, or a fault without effect: nothing was tested
    BUDGET = "budget"  # the time was up before the end


class SimExit(IntEnum):
    """Exit codes of every p2pe-sim command. Wrong usage shares ERROR: nothing was run."""

    PASSED = 0
    BROKEN = 1
    ERROR = 2
    NONDETERMINISTIC = 3
    VACUOUS = 4
    BUDGET = 5


BOUNDS: Final = "bounds"  # what `at_least` and `at_most` are called among the invariants
EXIT_OF: Final[Mapping[Verdict, SimExit]] = {
    Verdict.PASSED: SimExit.PASSED,
    Verdict.BROKEN: SimExit.BROKEN,
    Verdict.ERROR: SimExit.ERROR,
    Verdict.NONDETERMINISTIC: SimExit.NONDETERMINISTIC,
    Verdict.VACUOUS: SimExit.VACUOUS,
    Verdict.BUDGET: SimExit.BUDGET,
}


@dataclass(frozen=True, slots=True)
class Broken:
    """One invariant that didn't hold."""

    invariant: str
    at: float  # virtual seconds
    detail: str  # a sentence: which message, which node, what was expected, what was seen
    nodes: tuple[str, ...] = ()
    message: str | None = None  # the plan's message id, if one is concerned


Event = Mapping[str, Any]
"""One line of the event log. Always `at` (virtual seconds) and `what`; the report understands:

    {"at": 1.5, "what": "queued" | "offered" | "delivered" | "read" | "received" | "retracted" | "expired" | "held",
     "node": "ada", "peer": "ben", "message": "m3"}
    {"at": ..., "what": "link_up" | "link_down", "node": ..., "peer": ..., "path": "direct" | "punched" | "relayed" ...}
    {"at": ..., "what": "start" | "stop" | "crash", "node": ...}
    {"at": ..., "what": "fault", "fault": "f1", "kind": "partition", "on": true, "targets": [...]}
    {"at": ..., "what": "frame", "node": sender, "peer": receiver, "frame": "Batch", "messages": ["m3"], "bytes": 400}
    {"at": ..., "what": "broken", "invariant": ..., "message": ..., "detail": ...}

Others may be there; they are shown as they are."""

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Curves over virtual time, points (second, value). Names that the report draws:

    "connections"                     connections between nodes
    "path/direct", "path/relayed" ... links between contacts by path
    "state/queued", "state/offered", "state/delivered" ...  messages by state
    "delivery"                        not over time alone: (when sent, seconds until delivered) a message"""


@dataclass(frozen=True, slots=True)
class Result:
    scenario: str
    seed: int
    verdict: Verdict
    digest: str = ""  # hex, over everything that happened; equal for equal plans
    broken: tuple[Broken, ...] = ()
    problem: str = ""  # of ERROR, VACUOUS, NONDETERMINISTIC, BUDGET: a sentence, or a traceback
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)  # "sent", "delivered", "links", "relayed_links" ...
    effects: Mapping[str, float] = field(default_factory=dict)  # fault id -> what it did (segments lost, nodes cut ...)
    series: Series = field(default_factory=dict)
    events: tuple[Event, ...] = ()  # empty unless they were asked for

    def as_dict(self) -> dict[str, Any]:
        return {"version": RESULT_VERSION, **asdict(self)}

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.as_dict(), indent=indent, sort_keys=True)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Result:
        """From what `as_dict` gave. Raises ValueError for another version or shape."""
        fields = dict(raw)
        version = fields.pop("version", None)
        if version != RESULT_VERSION:
            raise ValueError(f"a result of version {version!r}; this p2pe-sim reads version {RESULT_VERSION}")
        try:
            fields["verdict"] = Verdict(fields["verdict"])
            fields["broken"] = tuple(
                Broken(**{**each, "nodes": tuple(each.get("nodes", ()))}) for each in fields.get("broken", ())
            )
            fields["events"] = tuple(fields.get("events", ()))
            fields["series"] = {
                name: tuple((float(at), float(value)) for at, value in points)
                for name, points in fields.get("series", {}).items()
            }
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a result: {error}") from error

    @property
    def exit_code(self) -> SimExit:
        return EXIT_OF[self.verdict]
