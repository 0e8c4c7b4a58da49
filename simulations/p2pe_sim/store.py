"""A results folder: one line a finished run, so that a sweep that was stopped goes on where it was, and folders merge.

sweep.json      what was asked for: scenarios with their digests, the code's version, the first seed
results.jsonl   one compact result a line, appended as runs end; a torn last line is dropped
failures/       SCENARIO-SEED.json: a case (plan and result, with events) of each run that didn't pass
result.json  junit.xml  report.html     the summary; written at the end, from the above alone
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from p2pe.errors import UsageError

from p2pe_sim.plan import Plan, PlanError
from p2pe_sim.result import Result, Verdict
from p2pe_sim.scenario import Scenario

Key = tuple[str, int]  # scenario, seed
KEPT_SERIES: Final = ("delivery",)  # the only curve that is of use over many runs
CASE_VERSION: Final = 1


def code_version() -> str:
    """The commit in a checkout, with `+` when files differ from it; else the package's version."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return version("p2pe")
    changed = subprocess.run(
        ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def scenario_digest(scenario: Scenario) -> str:
    return hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()[:16]


def compact(result: Result) -> Result:
    """What a line of results.jsonl keeps."""
    return replace(
        result, events=(), series={name: points for name, points in result.series.items() if name in KEPT_SERIES}
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A plan worth keeping: a failure, a shrunk failure, a line of the regression corpus."""

    plan: Plan
    note: str = ""  # for people: what went wrong, and what mended it
    result: Result | None = None  # as it was when the case was written

    def to_json(self) -> str:
        raw = {"version": CASE_VERSION, "note": self.note, "plan": self.plan.as_dict()}
        if self.result is not None:
            raw["result"] = self.result.as_dict()
        return json.dumps(raw, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> Case:
        """A case, or a bare plan. Raises UsageError naming the file."""
        try:
            raw = json.loads(path.read_text())
            if not isinstance(raw, dict) or not raw.keys() & {"plan", "nodes"}:
                raise PlanError("neither a case nor a plan")
            if "plan" not in raw:
                return cls(Plan.of(raw))
            if raw.get("version") != CASE_VERSION:
                raise PlanError(f"a case of version {raw.get('version')!r}; this p2pe-sim reads {CASE_VERSION}")
            result = Result.of(raw["result"]) if raw.get("result") else None
            return cls(Plan.of(raw["plan"]), str(raw.get("note", "")), result)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path} is neither a case nor a plan: {error}") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: {reason_of(error)}") from error


def cases_in(path: Path) -> list[Path]:
    """The files of `path` to replay: itself; of a run's folder its case; of a sweep's its failures; of any other
    folder all its .json files."""
    if not path.is_dir():
        return [path]
    if (path / "case.json").exists():
        return [path / "case.json"]
    if (path / "results.jsonl").exists():
        path = path / "failures"
    return sorted(path.glob("*.json"))


def reason_of(error: Exception) -> str:
    """Without the number and the file's name that Python puts around it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@dataclass(frozen=True, slots=True)
class Asked:
    """What sweep.json says. Two folders merge, and a sweep resumes, when `scenarios` and `code` are the same."""

    scenarios: dict[str, str]  # name -> digest
    code: str
    first: int

    def as_dict(self) -> dict[str, Any]:
        return {"version": 1, "scenarios": self.scenarios, "code": self.code, "first": self.first}


class Store:
    """One results folder, open for adding. Not for two processes at once: shards take a folder each, and merge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[Key, Result] = {}
        self.failures = folder / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "results.jsonl"
        if self._lines.exists():
            self._read()

    def _read(self) -> None:
        text = self._lines.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) != len(text):  # the last line was being written when the process or the machine died
            os.truncate(self._lines, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                result = Result.of(json.loads(line))
            except ValueError as error:
                raise UsageError(f"{self._lines}:{number}: {error}") from error
            self.results[result.scenario, result.seed] = result

    def asked(self) -> Asked | None:
        path = self.folder / "sweep.json"
        if not path.exists():
            return None
        try:
            raw = json.loads(path.read_text())
            return Asked(dict(raw["scenarios"]), str(raw["code"]), int(raw["first"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} isn't a sweep's: {error}") from error

    def ask(self, asked: Asked) -> None:
        (self.folder / "sweep.json").write_text(json.dumps(asked.as_dict(), indent=1) + "\n")

    def add(self, result: Result) -> None:
        self.results[result.scenario, result.seed] = compact(result)
        with self._lines.open("a") as lines:
            lines.write(compact(result).to_json() + "\n")

    def keep_case(self, case: Case) -> Path:
        self.failures.mkdir(exist_ok=True)
        path = self.case_path(case.plan.scenario, case.plan.seed)
        path.write_text(case.to_json())
        return path

    def case_path(self, scenario: str, seed: int) -> Path:
        return self.failures / f"{scenario}-{seed}.json"

    def ordered(self) -> list[Result]:
        return [self.results[key] for key in sorted(self.results)]


def merge(folders: Iterable[Path], into: Path) -> list[Result]:
    """Unites results of one sweep. A run that two folders have with different digests becomes NONDETERMINISTIC;
    one that ended in ERROR in one folder and otherwise in another keeps the other. Raises UsageError."""
    stores = []
    for folder in folders:
        if not (folder / "results.jsonl").exists():
            raise UsageError(f"{folder} has no results.jsonl: not a folder of `p2pe-sim sweep`")
        stores.append(Store(folder))
    asked = [each for store in stores if (each := store.asked()) is not None]
    for each in asked[1:]:
        if each.code != asked[0].code:
            raise UsageError(f"results of different code don't merge: {asked[0].code} and {each.code}")
        for name, digest in each.scenarios.items():
            if asked[0].scenarios.setdefault(name, digest) != digest:
                raise UsageError(f"the scenario {name!r} isn't the same in all folders")
    united: dict[Key, Result] = {}
    for store in stores:
        for key, result in store.results.items():
            united[key] = _one_of(united.get(key), result)
    target = Store(into)
    if target.results:
        raise UsageError(f"{into} has results already; merge into a new folder")
    if asked:
        target.ask(asked[0])
    for key in sorted(united):
        target.add(united[key])
        for store in stores:
            path = store.case_path(*key)
            if path.exists() and united[key].verdict is not Verdict.PASSED:
                target.keep_case(Case.read(path))
    return target.ordered()


def _one_of(one: Result | None, other: Result) -> Result:
    if one is None or one.verdict is Verdict.ERROR:
        return other
    if other.verdict is Verdict.ERROR or one.digest == other.digest:
        return one
    return replace(
        one,
        verdict=Verdict.NONDETERMINISTIC,
        problem=f"two folders have this run with different digests: {one.digest[:16]} and {other.digest[:16]}",
    )
