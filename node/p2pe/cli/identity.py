"""resend, forget: what becomes of messages and contacts when identities change."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client

NameArgument = Annotated[str, typer.Argument(help="The contact's name.", metavar="NAME", show_default=False)]


def resend(
    name: Annotated[str, typer.Argument(help="Whose messages are held.", metavar="NAME", show_default=False)],
    new_name: Annotated[
        str | None, typer.Argument(help="The contact that it has become.", metavar="[NEW_NAME]", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send messages that are held: to the same contact, or to the new identity of the same person.

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
    print(f"{len(ids)} messages wait for {whom} now." if ids else f"Nothing was held for {output.safe(name)}.")


def forget(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a contact with its keys and every message from and to it, and erase them from the database file.

    The other side isn't told; to it you look offline. To write again you must pair again. Backups made earlier still
    hold the contact, and a disk that keeps old sectors (an SSD) may hold them too.
    """
    if not yes and not typer.confirm(f"Forget {output.safe(name)} and every message from and to them?", err=True):
        raise typer.Abort
    with client(home) as node:
        node.remove_contact(name)
    if as_json:
        output.emit_json({"removed": name})


COMMANDS: Final = {"resend": resend, "forget": forget}
