"""Options that many commands share, and what they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from p2pe.control.client import Client
from p2pe.errors import UsageError
from p2pe.identity.home import Home, default_home

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The node's directory. Else P2PE_HOME, else your data directory.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]


def home_of(given: Path | None) -> Home:
    """The home to use: the option, P2PE_HOME, or the platform's data directory."""
    return default_home(os.environ) if given is None else Home(given.expanduser())


def client(home: Path | None) -> Client:
    return Client(home_of(home).socket)


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Goes on when the person says yes or `yes` does. Raises typer.Abort otherwise; UsageError with --json, where
    nobody is there to be asked."""
    if yes:
        return
    if as_json:
        raise UsageError("--json asks nothing: add --yes when you are sure")
    if not typer.confirm(question, err=True):
        raise typer.Abort
