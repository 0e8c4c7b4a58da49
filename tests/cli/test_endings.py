"""How commands end when something is wrong: one line or one JSON object on standard error, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from p2pe.commandline import run_command
from p2pe.errors import NotFound

pytestmark = pytest.mark.journey

_BIN = Path(sys.executable).parent
PROGRAMS = ("p2pe", "p2pe-bootstrap", "p2pe-sim")


def run(program: str, *argv: str, home: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(_BIN / program), *argv],
        input=stdin,
        capture_output=True,
        env={**os.environ, "P2PE_HOME": str(home), "COLUMNS": "80"},
    )


def failure(done: subprocess.CompletedProcess[bytes]) -> str:
    """The code of the one JSON object that a failed command with --json has said."""
    assert done.stdout == b""
    said = json.loads(done.stderr)
    assert set(said) == {"error"} and set(said["error"]) == {"code", "message"} and said["error"]["message"]
    return str(said["error"]["code"])


# --- wrong usage ---


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        ("p2pe", ["send", "bob"]),  # an argument is missing
        ("p2pe", ["send", "bob", "text", "--nonsense"]),
        ("p2pe", ["inbox", "--newest", "many"]),
        ("p2pe", ["nonsense"]),
        ("p2pe", ["send", "bob", "text", "--timeout", "nan"]),
        ("p2pe", ["send", "bob", "text", "--timeout", "1e9"]),
        ("p2pe", ["forget", "bob"]),  # nobody is there to be asked
        ("p2pe", ["contacts", "remove", "bob"]),
        ("p2pe-bootstrap", ["run"]),
        ("p2pe-bootstrap", ["run", "--listen", "/ip4/127.0.0.1/tcp/0", "--log-level", "loud"]),
        ("p2pe-sim", ["run"]),
        ("p2pe-sim", ["sweep", "no-such-scenario", "--seeds", "1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_usage_is_json_too(program: str, argv: list[str], tmp_path: Path) -> None:
    done = run(program, *argv, "--json", home=tmp_path / "none")
    assert done.returncode == 2
    assert failure(done) == "usage"


def test_a_log_level_that_doesnt_exist_is_wrong_usage(tmp_path: Path) -> None:
    done = run("p2pe", "run", "--log-level", "loud", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr == b"p2pe: --log-level is 'loud'; choose one of debug, info, warning, error\n"


def test_no_answer_is_no(tmp_path: Path) -> None:
    done = run("p2pe", "forget", "bob", home=tmp_path)
    assert done.returncode == 1 and done.stderr.endswith(b"p2pe: not confirmed: nothing was changed\n")


def test_json_as_a_text_is_a_text(tmp_path: Path) -> None:
    done = run("p2pe", "send", "bob", "--", "--json", home=tmp_path)
    assert done.returncode == 3 and done.stderr.startswith(b"p2pe: ")


def test_a_home_without_an_identity_says_how_to_begin(tmp_path: Path) -> None:
    done = run("p2pe", "status", home=tmp_path / "none")
    assert done.returncode == 3 and b"p2pe init" in done.stderr


def test_one_suggestion_for_a_command_that_doesnt_exist(tmp_path: Path) -> None:
    assert run("p2pe", "statsu", home=tmp_path).stderr.count(b"Did you mean") == 1


# --- help ---


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_summary_is_cut_short(program: str, tmp_path: Path) -> None:
    lines = run(program, "-h", home=tmp_path).stdout.decode().splitlines()
    assert len(lines) > 8
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_arguments_are_explained(program: str, tmp_path: Path) -> None:
    command, said = {
        "p2pe": ("send", "The contact's name."),
        "p2pe-bootstrap": ("status", "Full multiaddrs to check."),
        "p2pe-sim": ("run", "A shipped scenario"),
    }[program]
    assert said in run(program, command, "--help", home=tmp_path).stdout.decode()


# --- the output has nowhere to go ---


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"]], ids=" ".join)
def test_a_full_disk_under_the_output(program: str, argv: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [str(_BIN / program), *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "P2PE_HOME": str(tmp_path)},
        )
    assert done.returncode == (2 if program == "p2pe-sim" else 1)
    assert done.stderr == f"{program}: the output can't be written: No space left on device\n".encode()


def test_whoever_reads_the_output_may_leave(tmp_path: Path) -> None:
    shell = f"{_BIN / 'p2pe'} --help | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, env={**os.environ, "P2PE_HOME": str(tmp_path)})
    assert done.stdout.startswith(b"Usage:") and done.stderr == b""


def test_closed_standard_streams_are_no_defect(tmp_path: Path) -> None:
    env = {**os.environ, "P2PE_HOME": str(tmp_path)}
    for shell in ("show abcd 0<&- 1>&-", "send bob - 0<&-", "show abcd 1>&- --json"):
        done = subprocess.run(f"{_BIN / 'p2pe'} {shell}", shell=True, capture_output=True, env=env)
        assert b"Traceback" not in done.stderr and done.returncode in (1, 3), done.stderr


# --- what is read ---


def test_too_much_on_standard_input(tmp_path: Path) -> None:
    done = run("p2pe", "send", "bob", "-", "--json", home=tmp_path, stdin="é".encode() * 20_000 + b"x")
    assert failure(done) == "usage" and b"more than the 32768 bytes" in done.stderr
    done = run("p2pe", "send", "bob", "-", "--json", home=tmp_path, stdin=b"x" + "é".encode() * 20_000)
    assert failure(done) == "usage" and b"more than the 32768 bytes" in done.stderr


def test_as_much_as_fits_and_a_line_end(tmp_path: Path) -> None:
    done = run("p2pe", "send", "bob", "-", "--json", home=tmp_path, stdin=b"x" * 32_768 + b"\r\n")
    assert failure(done) == "no_daemon"


def test_standard_input_that_isnt_text(tmp_path: Path) -> None:
    done = run("p2pe", "edit", "abcd", "-", "--json", home=tmp_path, stdin=b"abc\xff")
    assert failure(done) == "usage" and b"at byte 3" in done.stderr


# --- the function itself ---


def app_that(raises: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def only() -> None:
        raise raises

    return app


@pytest.mark.parametrize(
    ("raised", "usual", "of_simulations"),
    [
        (NotFound("no such thing"), 4, 2),
        (ZeroDivisionError("a defect"), 1, 2),  # 1 would say of a simulation that an invariant was broken
        (OSError(28, "No space left on device"), 1, 2),
        (typer.Abort(), 1, 2),
        (KeyboardInterrupt(), 130, 130),
        (typer.Exit(3), 3, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes_of_failures(
    raised: BaseException, usual: int, of_simulations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pe.commandline._discard_output", lambda: None)
    for failed, code in ((None, usual), (2, of_simulations)):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: app_that(raised), "program", [], failed=failed)
        assert ended.value.code == code
