"""invites: what is open, and ending it early."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client

invites_app = typer.Typer(help="List and revoke invites.", no_args_is_help=False)


@invites_app.callback(invoke_without_command=True)
def _default(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_invites(home, as_json)


@invites_app.command("list")
def list_invites(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List invites: the open ones, and what became of the last ones."""
    with client(home) as node:
        found = node.invites()
    if as_json:
        output.emit_json({"invites": found})
        return
    if not found:
        output.note("No invites. `p2pe invite` makes one.")
        return
    rows = [
        (
            str(each["id"]),
            each["kind"],
            each["state"],
            output.safe(each["contact"]["name"] if each["contact"] else each["name"] or "-"),
            output.when(each["created_at"]),
            f"{output.when(each['expires_at'])}, {output.tries(each['guesses_left'])}"
            if each["state"] == "open"
            else "-",
            (each["code"] or each["link"] or "-"),
        )
        for each in found
    ]
    output.table(("ID", "KIND", "STATE", "FOR", "MADE", "GOOD UNTIL", "CODE OR LINK"), rows)


@invites_app.command("revoke")
def revoke(
    invite_id: Annotated[
        int | None, typer.Argument(help="Its number in `p2pe invites`.", metavar="ID", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All open ones.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End an open invite: whoever has the code or the link can't use it any more."""
    if (invite_id is None) != everything:
        raise typer.BadParameter("say which one (`p2pe invites` lists them), or --all")
    with client(home) as node:
        ids = [each["id"] for each in node.invites() if each["state"] == "open"] if invite_id is None else [invite_id]
        for each in ids:
            node.revoke_invite(each)
    if as_json:
        output.emit_json({"revoked": ids})
    else:
        output.note(f"{len(ids)} revoked.")


COMMANDS: Final = {"invites": invites_app}
