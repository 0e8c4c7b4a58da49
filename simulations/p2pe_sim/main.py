"""`p2pe-sim`: the command. Each subcommand's module is imported only when it is the one that was asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final

import typer
from p2pe.commandline import run_command

from p2pe_sim.result import SimExit

EPILOG: Final = (
    "Exit codes: 0 passed, 1 an invariant was broken, 2 wrong usage or the simulator failed, "
    "3 not deterministic, 4 nothing was tested, 5 the time budget ran out."
)
MODULES: Final[dict[str, str]] = {
    "list": "p2pe_sim.commands.look",
    "explain": "p2pe_sim.commands.look",
    "run": "p2pe_sim.commands.run",
    "sweep": "p2pe_sim.commands.sweep",
    "merge": "p2pe_sim.commands.sweep",
    "replay": "p2pe_sim.commands.run",
    "shrink": "p2pe_sim.commands.shrink",
    "diff": "p2pe_sim.commands.look",
    "report": "p2pe_sim.commands.look",
    "dht": "p2pe_sim.dht.command",
}
"""Subcommand -> module with a dict COMMANDS: name -> function or typer.Typer."""


def make_app(wanted: str | None = None) -> typer.Typer:
    """The command line. With `wanted`, only that command is loaded."""
    app = typer.Typer(
        name="p2pe-sim",
        help=(
            "Simulated worlds of p2pe nodes, from a seed: the real node on a virtual network and clock.\n\n"
            "A first look:  p2pe-sim list;  p2pe-sim run home-users --seed 1;  p2pe-sim sweep home-users --seeds 200."
        ),
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        suggest_commands=False,  # click does; both at once say it twice
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, module in MODULES.items():
        if wanted not in MODULES or name == wanted:
            command = import_module(module).COMMANDS[name]
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            else:
                app.command(name)(command)
    return app


def _root() -> None:
    pass


def main() -> None:
    """The entry point: runs a command; failures become one line on standard error and an exit code."""
    arguments = sys.argv[1:]
    completing = "_P2PE_SIM_COMPLETE" in os.environ
    wanted = arguments[0] if arguments and not completing else None
    run_command(lambda: make_app(wanted), "p2pe-sim", arguments, failed=SimExit.ERROR)


if __name__ == "__main__":
    main()
