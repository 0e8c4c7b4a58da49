"""The command line as its users meet it: what a command imports, prints and exits with. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from p2pe.cli.main import MODULES
from p2pe_sim.processes import Person, processes

pytestmark = pytest.mark.journey

HEAVY = ("libp2p", "fastapi", "hypercorn", "apsw", "nacl", "cryptography", "pydantic", "trio")


@pytest.fixture(scope="module")
def alice() -> Iterator[Person]:
    """A running node without contacts, and without a network."""
    with processes() as story:
        yield story.person("alice").start()


def run(*argv: str, home: Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "p2pe.cli.main", *argv],
        text=True,
        input=stdin,
        capture_output=True,
        timeout=120,
        env={**os.environ, "P2PE_HOME": str(home), **environment},
    )


def imported_by(argv: list[str], home: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "p2pe.cli.main", *argv],
        text=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "P2PE_HOME": str(home)},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in lines}


@pytest.mark.parametrize(
    "argv",
    [
        ["status"],
        ["contacts"],
        ["send", "nobody", "text"],
        ["inbox"],
        ["outbox"],
        ["show", "abcdef"],
        ["why", "nobody"],
        ["invite", "--json"],
    ],
    ids=lambda argv: argv[0],
)
def test_client_commands_import_nothing_heavy(alice: Person, argv: list[str]) -> None:
    modules = imported_by(argv, alice.home)
    assert "typer" in modules and "p2pe.control.client" in modules  # this test can see imports
    assert not {name for name in modules if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("command", MODULES)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", home=tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert f"p2pe {command}" in done.stdout
    assert not (tmp_path / "none").exists()


def test_the_overview_names_every_command(tmp_path: Path) -> None:
    done = run("--help", home=tmp_path)
    assert all(f"  {command}" in done.stdout for command in MODULES)


def test_exit_codes(alice: Person, tmp_path: Path) -> None:
    assert run("status", home=alice.home).returncode == 0
    assert run("invite", "--no-wait", home=alice.home).returncode == 1  # nobody to publish it at
    assert run("nonsense", home=alice.home).returncode == 2
    assert run("send", home=alice.home).returncode == 2
    assert run("status", home=tmp_path / "none").returncode == 3
    assert run("show", "abcdef", home=alice.home).returncode == 4
    assert run("send", "nobody", "text", home=alice.home).returncode == 4


def test_errors_are_one_line_or_json(alice: Person) -> None:
    plain = run("show", "abcdef", home=alice.home)
    assert plain.stdout == ""
    assert plain.stderr.startswith("p2pe: ") and plain.stderr.count("\n") == 1
    machine = run("show", "abcdef", "--json", home=alice.home)
    assert json.loads(machine.stderr)["error"]["code"] == "not_found"


@pytest.mark.parametrize("command", ["status", "contacts", "inbox", "outbox"])
def test_json_is_json_and_nothing_else(alice: Person, command: str) -> None:
    done = run(command, "--json", home=alice.home)
    json.loads(done.stdout)
    assert done.stderr == ""


def test_no_escape_sequences_when_nobody_looks_at_a_terminal(alice: Person) -> None:
    for command in ("status", "contacts", "outbox"):
        done = run(command, home=alice.home)
        assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_the_usual_shells(shell: str, tmp_path: Path) -> None:
    done = run("--show-completion", shell, home=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0 and "_P2PE_COMPLETE" in done.stdout
