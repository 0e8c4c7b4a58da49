"""edit, history, read: what is done to a message after it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.messages import IdArgument, print_incoming, print_outgoing, written_text
from p2pe.cli.options import HomeOption, JsonOption, client
from p2pe.config import API_MAX_BATCH
from p2pe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from p2pe.control.shapes import OutgoingShape


def edit(
    identifier: IdArgument,
    text: Annotated[
        list[str],
        typer.Argument(help="The text from now on, or - to read it from standard input.", metavar="TEXT|-"),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the text of a message of yours.

    The earlier text stays in its history, on both sides.
    """
    written = written_text(text)
    with client(home) as node:
        changed = node.edit(identifier, written)
    if as_json:
        output.emit_json(changed)
    else:
        print_outgoing(changed, as_json=False)


def history(identifier: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show all texts that a message has had, oldest first."""
    with client(home) as node:
        try:
            ours = node.history(identifier)
        except NotFound as not_ours:
            try:
                theirs = node.incoming_history(identifier)
            except NotFound:
                raise not_ours from None
            if as_json:
                output.emit_json({"messages": theirs})
                return
            for message in theirs:
                print_incoming(message, ids=True)
            return
    if as_json:
        output.emit_json({"messages": ours})
        return
    for each in ours:
        _print_text(each)


def _print_text(message: OutgoingShape) -> None:
    first, *rest = output.safe(message["text"], lines=True).split("\n")
    when = output.paint(output.when(message["queued_at"]), "dim")
    print(f"{message['id'][: output.SHORT_ID]}  {when}  [{message['state']}] {first}")
    for line in rest:
        print(f"    {line}")


def read(
    identifiers: Annotated[
        list[str] | None, typer.Argument(help="Ids, or their beginnings.", metavar="[ID]...", show_default=False)
    ] = None,
    all_of: Annotated[
        str | None,
        typer.Option("--all", help="Everything from this contact.", metavar="NAME", show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark messages as read. Their sender learns of it only if you have switched that on (contacts receipts).

    Examples:  p2pe read 0d3f6a2b;  p2pe read --all bob
    """
    if (not identifiers) == (all_of is None):
        raise UsageError("say what you have read: ids (`p2pe inbox --ids` shows them), or --all NAME")
    with client(home) as node:
        if all_of is not None:
            marked = node.mark_read(contact=all_of)
        else:
            found = [node.incoming(each) for each in identifiers or ()]
            marked = 0
            for name in dict.fromkeys(each["contact"] for each in found):
                ids = [each["id"] for each in found if each["contact"] == name]
                for at in range(0, len(ids), API_MAX_BATCH):
                    marked += node.mark_read(contact=name, ids=ids[at : at + API_MAX_BATCH])
    if as_json:
        output.emit_json({"marked": marked})
    else:
        output.note(f"{marked} marked as read.")


COMMANDS: Final = {"edit": edit, "history": history, "read": read}
