"""How every command of ours ends: `p2pe`, `p2pe-bootstrap` and `p2pe-sim`.

A failure is one line on standard error, and with --json one JSON object there, `{"error": {"code", "message"}}`,
wrong usage included. The exit code says which kind of failure it was.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import click
import typer

from p2pe.errors import ExitCode, P2peError, UsageError

INTERRUPTED: Final = 130  # as a shell says of what ended by SIGINT
Show = Callable[[str, str], None]  # code, message


def run_command(
    make_app: Callable[[], typer.Typer],
    program: str,
    arguments: Sequence[str],
    *,
    safe: Callable[[str], str] = str,
    failed: int | None = None,
) -> NoReturn:
    """Runs the command line `arguments` (without the program's name) and exits.

    `safe` makes a message fit for a terminal: it may quote others. `failed` is the one exit code of every failure, for
    programs that have other codes than ExitCode. An exception that nobody expected keeps its traceback: it's a defect.
    """
    _occupy_standard_streams()
    general = ExitCode.FAILED if failed is None else failed
    as_json = "--json" in _before_double_dash(arguments)

    def show(code: str, message: str) -> None:
        if as_json:
            print(json.dumps({"error": {"code": code, "message": message}}), file=sys.stderr)
        else:
            print(f"{program}: {safe(message)}", file=sys.stderr)

    try:
        code = _run(make_app(), program, arguments)
        sys.stdout.flush()
    except click.ClickException as error:
        if as_json and error.format_message():
            show(UsageError.code, error.format_message())
        else:
            error.show()
        code = error.exit_code
    except click.Abort:
        show("aborted", "not confirmed: nothing was changed")
        code = general
    except P2peError as error:
        show(error.code, str(error))
        code = error.exit_code if failed is None else failed
    except OSError as error:
        _tell_refusal(error, show)
        code = general
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:  # noqa: BLE001 - Python's own code is 1, which says of a simulation that an invariant broke
        traceback.print_exc()
        code = general
    sys.exit(code)


def stop_signals() -> tuple[signal.Signals, ...]:
    """What a daemon takes as the wish that it end: SIGTERM, Ctrl-C, and a terminal that was closed, except under
    nohup."""
    told = (signal.SIGTERM, signal.SIGINT)
    return told if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*told, signal.SIGHUP)


def _run(app: typer.Typer, program: str, arguments: Sequence[str]) -> int:
    code = typer.main.get_command(app).main(list(arguments), prog_name=program, standalone_mode=False)
    return code if isinstance(code, int) else ExitCode.DONE


def _tell_refusal(error: OSError, show: Show) -> None:
    """What no room of ours turned into an error of its own: mostly that the output has nowhere to go."""
    if error.filename is None:
        _discard_output()  # else Python would try again at its end, and complain again
    if error.errno == errno.EPIPE:
        return  # `| head`: whoever read has seen enough
    what = "the output can't be written" if error.filename is None else f"{error.filename} can't be used"
    show("system", f"{what}: {error.strerror or error}")


def _discard_output() -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def _occupy_standard_streams() -> None:
    """A standard stream that was closed reads and writes nothing. Its number must not go to the next file that is
    opened, a database perhaps: whatever is printed would land in it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 - open to the end, as the one it stands for
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115


def _before_double_dash(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
