"""Scenarios: what a TOML file may say, and how one is found and read. docs/simulation.md has the schema for people.

A scenario is a distribution over worlds; `planning.plan_of` draws one of them by a seed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from p2pe.core.paths import RelayPolicy
from p2pe.errors import UsageError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from p2pe_sim.natlab.nat import NatType
from p2pe_sim.plan import INSTANT, PARAMETERS, Behaviour, FaultKind, Role
from p2pe_sim.toml_lines import line_of

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def seconds_of(value: object) -> object:
    """`90`, `"90 s"`, `"1.5m"`, `"2h"`; anything else is left for the type to refuse."""
    if isinstance(value, str):
        if found := _DURATION.fullmatch(value.strip()):
            return float(found.group(1)) * _UNITS[found.group(2)]
        raise ValueError(f"not a duration: {value!r} (write 90, or '90s', '5m', '2h', '20ms')")
    return value


Seconds = Annotated[float, BeforeValidator(seconds_of), Field(ge=0)]
SignedSeconds = Annotated[float, BeforeValidator(seconds_of)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Strict):
    """Evenly between two bounds. Written `5`, `"5s"` or `[5, "1m"]`."""

    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, Mapping | Range):
            return value
        bounds = value if isinstance(value, list | tuple) else [value, value]
        if len(bounds) != 2:
            raise ValueError(f"a range has two bounds, not {len(bounds)}: write [low, high], or one value")
        low, high = (seconds_of(bound) for bound in bounds)
        return {"low": low, "high": high}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the range begins at {self.low:g} above its end {self.high:g}")
        return self


class Links(_Strict):
    """`[links]`, or `links` of a group: what each node's own line is like; drawn for each node."""

    latency: Range = Range(low=0.01, high=0.06)
    bandwidth: Range = Range(low=1_000_000, high=12_000_000)
    loss: Range = Range(low=0, high=0)
    clock_skew: Range = Range(low=-2, high=2)


class Nodes(_Strict):
    """`[[nodes]]`: a group of like nodes. They are called NAME1, NAME2, ...; a group of one is called NAME."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z-]*$", max_length=20)]
    count: Annotated[int, Field(ge=1, le=5000)] = 1
    role: Role = Role.PERSON
    nat: Mapping[NatType, Annotated[float, Field(ge=0)]] = {NatType.NONE: 1.0}
    relay: RelayPolicy = RelayPolicy.FALLBACK
    behaviour: Behaviour = Behaviour.HONEST
    starts: Range = Range(low=0, high=0)
    links: Links | None = None  # nothing: as the scenario's

    @model_validator(mode="before")
    @classmethod
    def _one_nat(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("nat"), str):
            return {**value, "nat": {value["nat"]: 1.0}}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not any(self.nat.values()):
            raise ValueError("every share in `nat` is 0")
        if self.role is Role.BOOTSTRAP and set(self.nat) != {NatType.NONE}:
            raise ValueError("a bootstrap node needs a public address: leave `nat` out")
        if self.role is Role.PERSON and self.behaviour is not Behaviour.HONEST:
            raise ValueError(f"`behaviour` {self.behaviour.value!r} is for bootstrap nodes; people are honest")
        return self

    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.count == 1 else tuple(f"{self.name}{n}" for n in range(1, self.count + 1))


class Friends(_Strict):
    """`[friends]`: who is a contact of whom. Each person has at least `each` contacts where there are enough people."""

    each: Annotated[int, Field(ge=1, le=50)] = 2
    pairing: Literal["before", "code"] = "before"
    at: Range = Range(low=5, high=60)  # of "code": when they pair


class Churn(_Strict):
    """`[churn]`: people's nodes come and go. `how` weighs the ways in which a node ends."""

    who: tuple[str, ...] = ("people",)
    session: Range
    away: Range
    how: Mapping[Literal["stop", "crash", "crash_no_flush"], Annotated[float, Field(ge=0)]] = {"stop": 1.0}


class Workload(_Strict):
    """`[workload]`: who writes to whom, when. Messages go from each person to a contact drawn each time."""

    per_minute: Annotated[float, Field(gt=0, le=6000)]  # of one person
    size: Range = Range(low=10, high=2000)
    begins: Seconds = 10.0
    ends: Seconds | None = None  # nothing: when `settle` begins
    offline_share: Annotated[float, Field(ge=0, le=1)] = 0.0  # sent while the recipient's node is down


class FaultRule(_Strict):
    """`[[faults]]`: one kind of trouble, `repeat` times, each with a draw of its own."""

    kind: FaultKind
    at: Range
    lasts: Range = Range(low=0, high=0)
    who: tuple[str, ...] = ("people",)
    count: Annotated[int, Field(ge=1)] | None = None  # how many of `who`, drawn; nothing: all of them
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    repeat: Annotated[int, Field(ge=1, le=1000)] = 1
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    params: Mapping[str, Range] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_group(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("who"), str):
            return {**value, "who": (value["who"],)}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        known = PARAMETERS.get(self.kind, {})
        for name in self.params:
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"the fault kind {self.kind.value!r} has no parameter {name!r}; {has}")
        if self.count is not None and self.share is not None:
            raise ValueError("`count` and `share` exclude each other")
        if self.kind not in INSTANT and self.lasts.high <= 0:
            raise ValueError(f"the fault kind {self.kind.value!r} needs `lasts`: how long until it heals")
        return self


class Check(_Strict):
    """`[check]`: what must hold. Safety always does; floors say how much must have happened for a pass to count."""

    safety: tuple[str, ...] = ()
    liveness: Mapping[Literal["delivered"], Seconds] = Field(default_factory=dict)
    floors: Mapping[str, float] = Field(default_factory=dict)
    at_least: Mapping[str, float] = Field(default_factory=dict)
    at_most: Mapping[str, float] = Field(default_factory=dict)
    effects: bool = True


class Directory(_Strict):
    """`[directory]`: tier 0, the node's Kademlia core alone on an event heap."""

    nodes: Annotated[int, Field(ge=20, le=100_000)]
    hours: Annotated[float, Field(gt=0, le=48)] = 1.0
    churn_per_hour: Annotated[float, Field(ge=0, le=5)] = 0.3
    records: Annotated[int, Field(ge=1, le=100_000)] = 500
    lookups: Annotated[int, Field(ge=1, le=1_000_000)] = 2000


class Scenario(_Strict):
    """The whole file. `name` is the file's."""

    name: str
    about: str
    tier: Literal[0, 1, 2] = 1
    duration: Annotated[Seconds, Field(gt=0, le=7 * 86400)] = 300.0
    settle: Seconds = 60.0  # at the end nothing new happens: what was sent arrives
    nodes: tuple[Nodes, ...] = ()
    links: Links = Links()
    friends: Friends = Friends()
    churn: tuple[Churn, ...] = ()
    workload: Workload | None = None
    faults: tuple[FaultRule, ...] = ()
    check: Check = Check()
    directory: Directory | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_churn(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("churn"), Mapping):
            return {**value, "churn": (value["churn"],)}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.tier == 0:
            if self.directory is None or self.nodes:
                raise ValueError("tier 0 has a [directory] table and no [[nodes]]")
            return self
        if self.directory is not None:
            raise ValueError("[directory] is for tier 0")
        if self.settle >= self.duration:
            raise ValueError(f"`settle` ({self.settle:g} s) leaves nothing of `duration` ({self.duration:g} s)")
        groups = [group.name for group in self.nodes]
        names = [name for group in self.nodes for name in group.names()]
        if len(set(names)) != len(names) or len(set(groups)) != len(groups):
            raise ValueError("two groups in [[nodes]] give the same names")
        if not any(group.role is Role.BOOTSTRAP for group in self.nodes):
            raise ValueError('no bootstrap node: add [[nodes]] with role = "bootstrap"')
        if sum(group.count for group in self.nodes if group.role is Role.PERSON) < 2:
            raise ValueError("fewer than two people: nobody to write to")
        known = {*groups, *names, "people", "bootstraps", "all"}
        for wanted in (*(rule.who for rule in self.faults), *(churn.who for churn in self.churn)):
            for who in wanted:
                if who not in known:
                    raise ValueError(f"who = {who!r} is no group or node; there are {', '.join(sorted(known))}")
        return self

    def members(self, who: tuple[str, ...]) -> tuple[str, ...]:
        """The nodes that `who` means, each once, in the order of the file."""
        found: list[str] = []
        for group in self.nodes:
            wide = {"all", group.name, "people" if group.role is Role.PERSON else "bootstraps"}
            found += [name for name in group.names() if wide & set(who) or name in who]
        return tuple(found)


def read_scenario(text: str, name: str, where: str) -> Scenario:
    """Raises UsageError with a line for each mistake, `where:line: key: what`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise UsageError(f"{where}:{line.group(1) if line else len(text.splitlines())}: {error}") from error
    if "name" in raw:
        raise UsageError(f"{where}:{line_of(text, ('name',))}: name: the scenario is named by its file; leave it out")
    try:
        return Scenario.model_validate({**raw, "name": name})
    except ValidationError as error:
        raise UsageError("\n".join(_said(text, raw, problem, where) for problem in error.errors())) from error


def _said(text: str, raw: Mapping[str, Any], problem: Any, where: str) -> str:
    path = _path_in(raw, problem["loc"])
    line = line_of(text, path) or 1
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such key"
    elif problem["type"] == "missing":
        message = "this key is missing"
    return f"{where}:{line}: {key + ': ' if key else ''}{message}"


def _path_in(raw: Mapping[str, Any], location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The location as the file has it: without what the reading added (bounds of ranges, lists of one)."""
    inner: Any = raw
    path: list[str | int] = []
    for number, step in enumerate(location):
        missing = number == len(location) - 1 and isinstance(inner, dict) and isinstance(step, str)
        there = step in inner if isinstance(inner, dict) else isinstance(inner, list) and step in range(len(inner))
        if there:
            inner = inner[step]
        elif not missing:
            continue
        path.append(step)
    if path and path[-1] in ("low", "high", "[key]"):
        path.pop()
    return tuple(path)


def _folder() -> Path:
    """Beside this package in an installed wheel, beside its parent in a checkout."""
    inside = Path(__file__).parent / "scenarios"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "scenarios"


def shipped() -> tuple[str, ...]:
    """The names of the scenarios that come with p2pe-sim."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_scenario(name_or_file: str) -> Scenario:
    """A shipped scenario by name, or one from a file (anything with a slash or ending in .toml). Raises UsageError."""
    path = Path(name_or_file)
    if path.suffix != ".toml" and "/" not in name_or_file:
        path = _folder() / f"{name_or_file}.toml"
        if not path.is_file():
            raise UsageError(
                f"there is no scenario {name_or_file!r}; there are {', '.join(shipped())}, or name a .toml file"
            )
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {(isinstance(error, OSError) and error.strerror) or error}") from error
    return read_scenario(text, path.stem, str(path))
