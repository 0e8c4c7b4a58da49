"""`p2pe-sim` as its user has it: exit codes, files, words. Real runs, of tier 0."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from p2pe.errors import P2peError
from p2pe_sim.main import MODULES, make_app
from p2pe_sim.plan import Checks
from p2pe_sim.planning import plan_of
from p2pe_sim.processes import eventually
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
        (("sweep", small, "--budget", "-5"), "--budget '-5'"),
        (("sweep", small, "--budget", "nan"), "--budget 'nan'"),
        (("replay", str(tmp_path)), "nothing to replay"),
        (("replay", str(tmp_path / "none.json")), "none.json: No such file or directory"),
        (("replay", small), "neither a case nor a plan"),
        (("run", str(tmp_path / "none.toml")), "none.toml can't be read: No such file or directory"),
        (("diff", small, small), "can't be read as a result"),
        (("dht", "--hours", "nan"), "numbers that end"),
        (("shrink", small), "nothing to shrink"),
        (("report", str(tmp_path)), "case.json"),
    ):
        with pytest.raises(P2peError, match=re.escape(said)):
            sim(*arguments)


def test_results_of_other_seeds_are_not_taken_for_new_ones(small: str, tmp_path: Path) -> None:
    """A folder left over from the build before would pass for this one, without a run."""
    out = str(tmp_path / "fresh")
    assert sim("sweep", small, "--seeds", "2", "--first", "100", "--out", out)[0] == 0
    with pytest.raises(P2peError, match=r"results from seed 100 on, not 200"):
        sim("sweep", small, "--seeds", "2", "--first", "200", "--out", out)
    assert sim("sweep", small, "--seeds", "2", "--first", "random", "--out", out)[0] == 0
    assert len((tmp_path / "fresh" / "results.jsonl").read_text().splitlines()) == 2


def test_folders_of_runs_and_sweeps_can_be_replayed(small: str, tmp_path: Path) -> None:
    (tmp_path / "harder.toml").write_text(DIRECTORY + "at_least = { share_found = 2 }")
    harder, swept = str(tmp_path / "harder.toml"), tmp_path / "swept"
    assert sim("run", small, "--out", str(tmp_path / "one"))[0] == 0
    assert "equal digests" in sim("replay", str(tmp_path / "one"))[1]
    assert sim("sweep", harder, "--seeds", "2", "--out", str(swept))[0] == 1
    code, said = sim("replay", str(swept))
    assert code == 1 and said.count("equal digests") == 2
    junit = (swept / "junit.xml").read_text()
    assert f"shrink: p2pe-sim shrink {swept}/failures/harder-1.json" in junit
    with pytest.raises(P2peError, match="any smaller world does less still"):
        sim("shrink", harder, "--seed", "1", "--out", str(tmp_path / "small.json"))


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_reports_what_it_has(how: signal.Signals, small: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("p2pe-sim")), "sweep", small, "--seeds", "5000", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = out / "results.jsonl"
        eventually("a first result", lambda: lines.exists() and b"\n" in lines.read_bytes())
        process.send_signal(how)
        said, told = process.communicate()
    assert process.returncode == 130, told
    done = len(lines.read_text().splitlines())
    assert said == "" and f"stopped with {done} runs in {out}; the same command goes on" in told
    assert "Traceback" not in told
    assert json.loads((out / "result.json").read_text())["verdict"] == "budget"
    assert f'tests="{done}"' in (out / "junit.xml").read_text()
    assert (out / "report.html").exists()


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
