"""resend, forget, requests: what becomes of messages and contacts when identities change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client, confirm

if TYPE_CHECKING:
    from p2pe.control.shapes import RequestShape

NameArgument = Annotated[str, typer.Argument(help="The contact's name.", metavar="NAME", show_default=False)]


def resend(
    name: Annotated[str, typer.Argument(help="Whose messages are held.", metavar="NAME", show_default=False)],
    new_name: Annotated[
        str | None, typer.Argument(help="The contact that it has become.", metavar="[NEW_NAME]", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the messages that are held for a contact.

    To the same contact, or to the new identity of the same person.

    Messages are held after a backup was restored (they may have been sent or taken back since), and when a contact
    was replaced by a new identity. With NEW_NAME, what still waits for NAME goes to NEW_NAME too, and not to NAME.

    Examples:  p2pe resend bob;  p2pe resend bob-old bob
    """
    with client(home) as node:
        ids = node.resend(name, new_name)
    if as_json:
        output.emit_json({"ids": ids})
        return
    whom = output.safe(new_name or name)
    print(
        f"{output.counted(len(ids), 'message')} waiting for {whom} now."
        if ids
        else f"Nothing was held for {output.safe(name)}."
    )


def forget(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase a contact, its keys and every message from and to it.

    They are erased from the database file too.

    The other side isn't told; to it you look offline. To write again you must pair again. Backups made earlier still
    hold the contact, and a disk that keeps old sectors (an SSD) may hold them too.
    """
    confirm(f"Forget {output.safe(name)} and every message from and to them?", yes=yes, as_json=as_json)
    with client(home) as node:
        node.remove_contact(name)
    if as_json:
        output.emit_json({"removed": name})


# --- contacts of before, after a restore ---

requests_app = typer.Typer(
    help=(
        "Take back contacts of before a restore, as they come by.\n\n"
        "After `p2pe restore` your contacts find you by your identity, for 30 days. Each shows a ticket that you once "
        "gave them; only you can read it, and it says who that was. Nobody is let in before you approve."
    ),
    no_args_is_help=False,
)
IdArgument = Annotated[int, typer.Argument(help="The request's number.", metavar="NUMBER", show_default=False)]


@requests_app.callback(invoke_without_command=True)
def _default(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_requests(home, as_json)


@requests_app.command("list")
def list_requests(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List who came, and what you decided."""
    with client(home) as node:
        found = node.requests()
    if as_json:
        output.emit_json({"requests": found})
        return
    if not found:
        output.note("Nobody waits. After `p2pe restore --words`, contacts of before show up here as they come by.")
        return
    rows = [
        (
            str(each["id"]),
            output.safe(each["name"]),
            each["state"],
            output.when(each["met_at"]),
            output.when(each["last_at"]),
        )
        for each in found
    ]
    output.table(("NUMBER", "WHO, AS YOUR TICKET SAYS", "STATE", "MET", "CAME LAST"), rows)


@requests_app.command("approve")
def approve(
    number: IdArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call them now; else as before.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a former contact back: at once if they are on the line, else when they come next."""
    with client(home) as node:
        _print_request(node.decide(number, approve=True, name=name), as_json)


@requests_app.command("refuse")
def refuse(number: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Don't take somebody back, and don't be asked again. `approve` changes your mind."""
    with client(home) as node:
        _print_request(node.decide(number, approve=False), as_json)


def _print_request(request: RequestShape, as_json: bool) -> None:
    if as_json:
        output.emit_json(request)
        return
    output.fields(
        [
            ("name", output.safe(request["name"])),
            ("state", request["state"]),
            ("met", output.when(request["met_at"])),
            ("safety number", output.grouped(request["safety_number"])),
        ]
    )


COMMANDS: Final = {"resend": resend, "forget": forget, "requests": requests_app}
