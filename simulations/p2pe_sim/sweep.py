"""Many seeds of several scenarios: what to run, what is done already, repeating some, and when to stop.

An engine runs jobs: a fork server here, or a Dask cluster. Everything else is the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, Protocol

from p2pe.errors import UsageError

from p2pe_sim.planning import plan_of
from p2pe_sim.result import EXIT_OF, Result, SimExit, Verdict
from p2pe_sim.scenario import Scenario
from p2pe_sim.store import Asked, Case, Store, code_version, scenario_digest
from p2pe_sim.workers import Job

REPEAT_EVERY: Final = 50  # every 50th run is made twice, and must give the same digest
MAX_CASES: Final = 50  # kept of one sweep: when everything fails, the first ones say why
WORST: Final = (
    Verdict.BROKEN,
    Verdict.NONDETERMINISTIC,
    Verdict.ERROR,
    Verdict.VACUOUS,
    Verdict.BUDGET,
    Verdict.PASSED,
)
"""Which verdict speaks for many runs: the first of these that any of them has."""


class Engine(Protocol):
    """Runs jobs. `run` draws from `jobs` no faster than it works, and gives results in the order they end."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which seeds. `seeds` None: until the budget is spent."""

    scenarios: tuple[Scenario, ...]
    seeds: int | None
    first: int = 1
    shard: tuple[int, int] = (1, 1)  # which of how many; from 1
    budget: float | None = None  # real seconds
    repeat_every: int = REPEAT_EVERY  # 0: never
    stop_after: int | None = None  # failures

    def runs(self) -> Iterator[tuple[Scenario, int, bool]]:
        """(scenario, seed, whether to repeat it): all scenarios' first seed, then all scenarios' second ..."""
        share, of = self.shard
        for index in count() if self.seeds is None else range(self.seeds):
            if index % of == share - 1:
                repeat = bool(self.repeat_every) and (index // of) % self.repeat_every == 0
                for scenario in self.scenarios:
                    yield scenario, self.first + index, repeat

    def total(self) -> int | None:
        if self.seeds is None:
            return None
        share, of = self.shard
        return len(range(share - 1, self.seeds, of)) * len(self.scenarios)


@dataclass
class Tally:
    """What a progress bar shows."""

    total: int | None
    budget: float | None
    finished: int = 0
    resumed: int = 0  # of `finished`: found in the folder
    failures: int = 0
    repeated: int = 0
    virtual_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Runs a second, without those found in the folder."""
        return (self.finished - self.resumed) / max(self.elapsed, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until the end, as it looks now."""
        by_count = None
        if self.total is not None and self.finished > self.resumed:
            by_count = (self.total - self.finished) / max(self.rate, 1e-9)
        by_budget = max(0.0, self.budget - self.elapsed) if self.budget is not None else None
        known = [each for each in (by_count, by_budget) if each is not None]
        return min(known) if known else None


Watch = Callable[[Tally, Result | None], None]  # called at the start and after each run


def open_sweep(store: Store, wanted: Wanted) -> Wanted:
    """Notes in the folder what is asked for, or goes on with what was asked: then its first seed counts.
    Raises UsageError when the folder is of other scenarios or code."""
    digests = {scenario.name: scenario_digest(scenario) for scenario in wanted.scenarios}
    code = code_version()
    before = store.asked()
    if before is None:
        store.ask(Asked(digests, code, wanted.first))
        return wanted
    if before.code != code:
        raise UsageError(
            f"{store.folder} has results of other code ({before.code}; this is {code}): take another folder"
        )
    for name, digest in digests.items():
        if before.scenarios.get(name, digest) != digest:
            raise UsageError(f"{store.folder} has results of another version of {name!r}: take another folder")
    store.ask(replace(before, scenarios={**before.scenarios, **digests}))
    return replace(wanted, first=before.first)


def sweep(engine: Engine, store: Store, wanted: Wanted, watch: Watch = lambda tally, result: None) -> Tally:
    """Runs what isn't in the store yet, and adds it. Runs that ended in ERROR before are made again."""
    tally = Tally(wanted.total(), wanted.budget)
    watch(tally, None)
    first_answers: dict[tuple[str, int], Result] = {}  # of repeated runs, until the second answer
    for job, result in engine.run(_jobs(store, wanted, tally)):
        key = job.plan.scenario, job.plan.seed
        tally.virtual_seconds += result.virtual_seconds
        if job.key[2]:  # one of two
            other = first_answers.pop(key, None)
            if other is None:
                first_answers[key] = result
                continue
            tally.repeated += 1
            result = compared(other, result)
        _take(store, job, result, tally)
        watch(tally, result)
    _keep_events(engine, store)
    return tally


def _jobs(store: Store, wanted: Wanted, tally: Tally) -> Iterator[Job]:
    for scenario, seed, repeat in wanted.runs():
        done = store.results.get((scenario.name, seed))
        if done is not None and done.verdict is not Verdict.ERROR:
            tally.finished += 1
            tally.resumed += 1
            tally.failures += done.verdict is not Verdict.PASSED
            continue
        if wanted.budget is not None and tally.elapsed >= wanted.budget:
            return
        if wanted.stop_after is not None and tally.failures >= wanted.stop_after:
            return
        plan = plan_of(scenario, seed)
        if repeat:
            yield Job((scenario.name, seed, 1), plan)
            yield Job((scenario.name, seed, 2), plan)
        else:
            yield Job((scenario.name, seed, 0), plan)


def compared(one: Result, other: Result) -> Result:
    """The verdict on a run that was made twice."""
    if one.verdict is Verdict.ERROR or one.digest == other.digest:
        return one
    if other.verdict is Verdict.ERROR:
        return other
    return replace(
        one,
        verdict=Verdict.NONDETERMINISTIC,
        problem=f"the same plan gave the digest {one.digest[:16]}, and then {other.digest[:16]}",
    )


def _take(store: Store, job: Job, result: Result, tally: Tally) -> None:
    tally.finished += 1
    store.add(result)
    if result.verdict is not Verdict.PASSED:
        tally.failures += 1
        if tally.failures <= MAX_CASES:
            store.keep_case(Case(job.plan, "", result))


def _keep_events(engine: Engine, store: Store) -> None:
    """Makes the first few broken runs again with their events, for the report and for `diff`."""
    again = []
    for result in store.ordered():
        path = store.case_path(result.scenario, result.seed)
        if result.verdict is Verdict.BROKEN and path.exists():
            case = Case.read(path)
            if case.result is not None and not case.result.events:
                again.append(Job((result.scenario, result.seed, 0), case.plan, events=True))
    for job, result in engine.run(again[:3]):
        if result.verdict is Verdict.BROKEN:
            store.keep_case(Case(job.plan, "", result))


def verdict_of(results: Sequence[Result], wanted: Wanted | None = None) -> Verdict:
    """What all of it together says. BUDGET when runs that were asked for by number weren't made, and when none was."""
    have = {result.verdict for result in results}
    worst = next((verdict for verdict in WORST if verdict in have), Verdict.BUDGET)
    if worst is Verdict.PASSED and wanted is not None and wanted.seeds is not None:
        made = {(result.scenario, result.seed) for result in results}
        if any((scenario.name, seed) not in made for scenario, seed, _ in wanted.runs()):
            return Verdict.BUDGET
    return worst


def exit_code_of(results: Sequence[Result], wanted: Wanted | None = None) -> SimExit:
    return EXIT_OF[verdict_of(results, wanted)]
