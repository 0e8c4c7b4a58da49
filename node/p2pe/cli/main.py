"""`p2pe`: the command, its groups, and how errors leave it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from p2pe.commandline import run_command
from p2pe.core.names import safe_text

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no node is running, 4 not found, 5 timed out."

MODULES = {
    "dht": "dht",
    "init": "node",
    "run": "node",
    "status": "node",
    "contacts": "contacts",
    "invite": "contacts",
    "accept": "contacts",
    "why": "contacts",
    "send": "messages",
    "inbox": "messages",
    "outbox": "messages",
    "show": "messages",
    "retract": "messages",
    "edit": "changes",
    "history": "changes",
    "read": "changes",
    "invites": "invites",
    "block": "contacts",
    "unblock": "contacts",
    "backup": "backup",
    "restore": "backup",
    "resend": "identity",
    "forget": "identity",
    "requests": "identity",
    "devices": "devices",
}


def make_app(wanted: str | None = None) -> typer.Typer:
    """The command line. With `wanted`, only that command is loaded: describing all of them to typer takes 40 ms."""
    app = _root_app()
    for name, module in MODULES.items():
        if wanted not in MODULES or name == wanted:
            commands = import_module(f"p2pe.cli.{module}").COMMANDS
            command = commands[name]
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            else:
                app.command(name)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"p2pe {version('p2pe')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def _root_app() -> typer.Typer:
    app = typer.Typer(
        name="p2pe",
        help=(
            "Messages from your machine to theirs, resting nowhere else.\n\n"
            "A first day:  p2pe init;  p2pe run;  then elsewhere  p2pe invite,  p2pe send bob hello,  p2pe inbox."
        ),
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        suggest_commands=False,  # click does; both at once say it twice
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return app


def main() -> None:
    """The entry point: runs a command; failures become one line on standard error and an exit code."""
    arguments = sys.argv[1:]
    completing = "_P2PE_COMPLETE" in os.environ
    wanted = arguments[0] if arguments and not completing else None
    run_command(lambda: make_app(wanted), "p2pe", arguments, safe=safe_text)


if __name__ == "__main__":
    main()
