"""`p2pe-sim` as its user has it: exit codes, files, words. Real runs, of tier 0."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from p2pe.errors import P2peError
from p2pe_sim.main import MODULES, make_app
from p2pe_sim.plan import Checks
from p2pe_sim.planning import plan_of
from p2pe_sim.store import Case
from sim_kit import DIRECTORY, directory
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "directory.toml"
    path.write_text(DIRECTORY)
    return str(path)


def sim(*arguments: str) -> tuple[int, str]:
    """Exit code and standard output. Errors that `main` would print are raised."""
    done = CliRunner().invoke(make_app(arguments[0]), list(arguments))
    if isinstance(done.exception, P2peError):
        raise done.exception
    return done.exit_code, done.stdout


def test_run_prints_a_verdict_and_writes_its_files(small: str, tmp_path: Path) -> None:
    code, said = sim("run", small, "--seed", "2", "--check-determinism", "--out", str(tmp_path / "out"))
    assert code == 0
    assert said.startswith("directory seed 2: passed")
    code, again = sim("run", small, "--seed", "2", "--json")
    assert json.loads(again)["digest"] == json.loads((tmp_path / "out" / "result.json").read_text())["digest"]
    assert "directory, seed 2" in (tmp_path / "out" / "report.html").read_text()
    code, said = sim("replay", str(tmp_path / "out" / "case.json"))
    assert code == 0
    assert "equal digests" in said


@pytest.mark.parametrize(
    ("checks", "code", "verdict"),
    [
        (Checks(), 0, "passed"),
        (Checks(at_least={"share_found": 2}), 1, "broken"),
        (Checks(floors={"lookups": 9999}), 4, "vacuous"),
    ],
)
def test_verdicts_are_exit_codes(checks: Checks, code: int, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(Case(replace(plan_of(directory(), 1), checks=checks)).to_json())
    got, said = sim("replay", str(path))
    assert got == code
    assert verdict in said
    path.write_text(Case(replace(plan_of(directory(), 1), params={})).to_json())
    assert sim("replay", str(tmp_path))[0] == 2


def test_sweep_resumes_reports_and_merges(small: str, tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert sim("sweep", small, "--seeds", "4", "--shard", "1/2", "--out", one)[0] == 0
    assert sim("sweep", small, "--seeds", "4", "--shard", "2/2", "--out", two)[0] == 0
    lines = (tmp_path / "one" / "results.jsonl").read_text()
    assert sim("sweep", small, "--seeds", "4", "--shard", "1/2", "--out", one)[0] == 0
    assert (tmp_path / "one" / "results.jsonl").read_text() == lines
    code, said = sim("merge", one, two, "--out", str(tmp_path / "all"), "--json")
    assert code == 0
    assert json.loads(said)["scenarios"]["directory"]["runs"] == 4
    (tmp_path / "all" / "report.html").unlink()
    assert sim("report", str(tmp_path / "all"))[0] == 0
    assert "4 runs" in (tmp_path / "all" / "report.html").read_text()
    assert sim("sweep", small, "--seeds", "9", "--budget", "0s", "--out", one)[0] == 5


def test_what_cannot_be_done_is_said(small: str, tmp_path: Path) -> None:
    for arguments, said in (
        (("run", "nowhere"), "no scenario 'nowhere'"),
        (("run", small, "--tier", "2"), "can't run at tier 2"),
        (("sweep", small), "how many"),
        (("sweep", small, "--seeds", "1", "--shard", "5/4"), "--shard '5/4'"),
        (("sweep", small, "--budget", "soon"), "--budget 'soon'"),
        (("sweep", small, "--seeds", "1", "--first", "x"), "--first 'x'"),
        (("replay", str(tmp_path / "none.json")), "none.json"),
        (("replay", str(tmp_path)), "no .json files"),
        (("shrink", small), "nothing to shrink"),
        (("report", str(tmp_path)), "case.json"),
    ):
        with pytest.raises(P2peError, match=re.escape(said)):
            sim(*arguments)


def test_every_command_in_the_documents_is_one(tmp_path: Path) -> None:
    """Options in the manual and in the workflows exist; scenarios named there do too."""
    texts = [ROOT / "docs" / "simulation.md", *(ROOT / ".github" / "workflows").glob("*.yml"),
             ROOT / "simulations" / "corpus" / "README.md"]  # fmt: skip
    found = set()
    for path in texts:
        text = path.read_text().replace("\\\n", " ")
        text = re.sub(r"run: >-\n\s+(.*)\n\s+(--.*)", r"run: \1 \2", text)
        for line in re.findall(r"p2pe-sim ((?:[a-z]+) [^`\n|]*)", text):
            words = re.sub(r"\s#.*", "", line).split()
            if words[0] not in MODULES:
                continue
            group = typer.main.get_command(make_app(words[0]))
            sub = group.commands[words[0]]  # type: ignore[attr-defined]
            known = {option for each in sub.params for option in each.opts}
            for word in words[1:]:
                if word.startswith("-"):
                    assert word in known, f"{path.name}: {line}"
            found.add(words[0])
    assert found >= {"run", "sweep", "merge", "replay", "shrink", "diff", "report", "explain"}
