"""Where two runs part: the first event that isn't the same, with what led to it, and the counts that differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pe.errors import UsageError

from p2pe_sim.result import Event, Result
from p2pe_sim.store import Case, reason_of

CONTEXT = 8  # events shown before the first difference


@dataclass(frozen=True, slots=True)
class Difference:
    """`at` None: no event differs (or none was kept)."""

    at: int | None
    before: tuple[Event, ...]
    one: Event | None
    other: Event | None
    counts: dict[str, tuple[float, float]]
    verdicts: tuple[str, str]
    digests: tuple[str, str]

    @property
    def same(self) -> bool:
        return self.at is None and not self.counts and len(set(self.verdicts)) == len(set(self.digests)) == 1


def difference(one: Result, other: Result) -> Difference:
    first = first_difference(one.events, other.events)
    names = sorted({*one.counts, *other.counts})
    counts = {name: (one.counts.get(name, 0.0), other.counts.get(name, 0.0)) for name in names}
    return Difference(
        first,
        tuple(one.events[max(0, first - CONTEXT) : first]) if first is not None else (),
        one.events[first] if first is not None and first < len(one.events) else None,
        other.events[first] if first is not None and first < len(other.events) else None,
        {name: both for name, both in counts.items() if both[0] != both[1]},
        (one.verdict.value, other.verdict.value),
        (one.digest, other.digest),
    )


def first_difference(one: Sequence[Event], other: Sequence[Event]) -> int | None:
    """The index of the first event that one log has otherwise, or hasn't."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def read_result(path: Path) -> Result:
    """From result.json, a case with a result, or a results folder's result.json. Raises UsageError."""
    path = path / "result.json" if path.is_dir() else path
    try:
        raw = json.loads(path.read_text())
        if isinstance(raw, dict) and "plan" in raw:
            result = Case.read(path).result
            if result is None:
                raise UsageError(f"{path} has a plan but no result: run it with `p2pe-sim replay --out FOLDER`")
            return result
        return Result.of(raw)
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} can't be read as a result: {reason_of(error)}") from error


def told(event: Event | None) -> str:
    """One event on one line."""
    if event is None:
        return "(the log ends)"
    rest = "  ".join(f"{key}={value}" for key, value in event.items() if key not in ("at", "what"))
    return f"{event.get('at', 0.0):>10.3f}  {event.get('what', '?')!s:<12} {rest}"


def lines_of(found: Difference) -> list[str]:
    """For people."""
    if found.same:
        return ["no difference"]
    lines = []
    if found.verdicts[0] != found.verdicts[1]:
        lines.append(f"verdict: {found.verdicts[0]} / {found.verdicts[1]}")
    lines += [f"{name}: {one:g} / {other:g}" for name, (one, other) in found.counts.items()]
    if found.at is None:
        lines.append("the digests differ but no kept event does" if found.digests[0] != found.digests[1] else "")
        return [line for line in lines if line]
    lines.append(f"the first event that differs is number {found.at}:")
    lines += [f"    {told(event)}" for event in found.before]
    return [*lines, f"  < {told(found.one)}", f"  > {told(found.other)}"]
