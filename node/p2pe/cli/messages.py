"""send, inbox, outbox, show, retract: the messages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client
from p2pe.config import API_MAX_BATCH, API_MAX_WAIT, API_PAGE, MAX_TEXT_BYTES
from p2pe.errors import UsageError

if TYPE_CHECKING:
    from p2pe.control.shapes import IncomingShape, OutgoingShape

WAIT_STATES = ("offered", "delivered", "read")
IdArgument = Annotated[str, typer.Argument(help="The id, or as much of its beginning as is unique.", metavar="ID")]


def send(
    name: Annotated[str, typer.Argument(help="The contact's name.", metavar="NAME", show_default=False)],
    text: Annotated[list[str], typer.Argument(help="The text, or - to read it from standard input.", metavar="TEXT|-")],
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="Return when it is offered, delivered or read.", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait at the most; then exit with 5.", min=0)
    ] = API_MAX_WAIT,
    key: Annotated[
        str | None,
        typer.Option("--id", help="A key of your own: the same key again sends nothing twice.", show_default=False),
    ] = None,
    reply_to: Annotated[
        str | None, typer.Option("--reply-to", help="The full id of the message this answers.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message; print its id once it is safely on this machine's disk.

    It leaves when the other side can be reached, and stays here until then.

    Examples:  p2pe send bob "on my way";  df -h | p2pe send ops - --wait delivered --timeout 60
    """
    if wait is not None and wait not in WAIT_STATES:
        raise UsageError(f"--wait takes {', '.join(WAIT_STATES)}; not {wait!r}")
    written = _read_stdin() if text == ["-"] else " ".join(text)
    with client(home) as node:
        message = node.send(name, written, key=key, reply_to=reply_to)
        if not as_json:
            print(message["id"], flush=True)
        if wait is not None:
            message = node.message(message["id"], wait=wait, timeout=timeout)
    if as_json:
        output.emit_json(message)
    elif wait is not None:
        took = ((message["delivered_at"] or message["since"]) - message["queued_at"]) / 1000
        output.note(f"{message['state']} after {output.duration(max(0.0, took))}")


def _read_stdin() -> str:
    raw = sys.stdin.buffer.read(MAX_TEXT_BYTES + 2)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise UsageError("Standard input isn't UTF-8 text.") from None
    return text.removesuffix("\n").removesuffix("\r")


def inbox(
    name: Annotated[
        str | None, typer.Argument(help="Only from this contact.", metavar="NAME", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, and print what arrives.")] = False,
    after: Annotated[int, typer.Option("--after", help="Only rows above this one (`row` in JSON).", min=0)] = 0,
    newest: Annotated[
        int | None, typer.Option("--newest", help="Only the last so many.", min=1, max=API_PAGE, show_default=False)
    ] = None,
    unread: Annotated[bool, typer.Option("--unread", help="Only what isn't marked as read.")] = False,
    mark_read: Annotated[bool, typer.Option("--mark-read", help="Mark what is printed as read.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print messages to you, oldest first.

    Examples:  p2pe inbox bob;  p2pe inbox --follow --json | your-bot;  p2pe inbox --unread --mark-read
    """
    with client(home) as node:
        if follow:
            for message in node.follow(contact=name, after=after):
                if unread and message["read_at"] is not None:
                    continue
                if as_json:
                    output.emit_json(message, line=True)
                else:
                    _print_incoming(message)
                if mark_read:
                    node.mark_read(ids=[message["id"]])
            return
        if newest is not None:
            found = node.newest(newest, contact=name)["messages"]
        else:
            found = list(node.all_inbox(contact=name, after=after, unread=unread))
        if as_json:
            output.emit_json({"messages": found, "next": found[-1]["row"] if found else after})
        elif not found:
            output.note("Nothing here.")
        else:
            for message in found:
                _print_incoming(message)
        if mark_read:
            sys.stdout.flush()
            ids = [each["id"] for each in found if each["read_at"] is None]
            for at in range(0, len(ids), API_MAX_BATCH):
                node.mark_read(ids=ids[at : at + API_MAX_BATCH])


def _print_incoming(message: IncomingShape) -> None:
    text = output.safe(message["text"], lines=True)
    when = output.paint(output.when(message["received_at"]), "dim")
    name = output.paint(output.safe(message["contact"]), "bold")
    mark = "(edited) " if message["edits"] else ""
    first, *rest = text.split("\n")
    print(f"{when}  {name}: {mark}{first}", flush=not rest)
    for line in rest:  # indented: nobody can write a line that looks like somebody else's message
        print(f"    {line}", flush=True)


def outbox(
    name: Annotated[
        str | None, typer.Argument(help="Only to this contact.", metavar="NAME", show_default=False)
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only in this state. Repeat for more.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="The newest so many.", min=1, max=1000)] = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where each message of yours is, and why."""
    with client(home) as node:
        found = node.outbox(contact=name, states=state or (), limit=limit)
    if as_json:
        output.emit_json({"messages": found})
        return
    if not found:
        output.note("Nothing here.")
        return
    rows = [
        (
            each["id"][: output.SHORT_ID],
            output.safe(each["contact"]),
            each["state"],
            output.when(each["since"]),
            _excerpt(each["text"]),
            output.safe(each["reason"]),
        )
        for each in found
    ]
    styles = [output.STATE_COLOURS.get(each["state"]) for each in found]
    output.table(("ID", "TO", "STATE", "SINCE", "TEXT", "WHY"), rows, styles=styles)


def _excerpt(text: str) -> str:
    plain = output.safe(text)
    return plain if len(plain) <= 24 else plain[:23] + "…"


def show(identifier: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one message of yours: its state, why, and since when."""
    with client(home) as node:
        _print_outgoing(node.message(identifier), as_json)


def retract(identifier: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take a message back: erased if it hasn't left, asked back if it has."""
    with client(home) as node:
        _print_outgoing(node.retract(identifier), as_json)


def _print_outgoing(message: OutgoingShape, as_json: bool) -> None:
    if as_json:
        output.emit_json(message)
        return
    pairs = [
        ("id", message["id"]),
        ("to", output.safe(message["contact"])),
        ("state", output.paint(message["state"], output.STATE_COLOURS.get(message["state"], ""))),
        ("why", output.safe(message["reason"])),
        ("since", output.when(message["since"])),
        ("queued", output.when(message["queued_at"])),
        ("offered", output.when(message["offered_at"]) + f"  ({message['attempts']} times)"),
        ("delivered", output.when(message["delivered_at"])),
        ("read", output.when(message["read_at"])),
    ]
    if message["reply_to"]:
        pairs.append(("answers", message["reply_to"]))
    pairs.append(("text", output.safe(message["text"], lines=True)))
    output.fields(pairs)


COMMANDS: Final = {
    "send": send,
    "inbox": inbox,
    "outbox": outbox,
    "show": show,
    "retract": retract,
}
