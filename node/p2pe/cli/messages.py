"""send, inbox, outbox, show, retract: the messages. What changes them afterwards is in cli/changes.py."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from p2pe.cli import output
from p2pe.cli.durations import seconds_in
from p2pe.cli.following import Following
from p2pe.cli.options import HomeOption, JsonOption, client
from p2pe.config import API_MAX_BATCH, API_MAX_WAIT, API_PAGE, MAX_TEXT_BYTES
from p2pe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from p2pe.control.client import Client
    from p2pe.control.shapes import InboxAnswer, IncomingDetail, IncomingShape, OutgoingShape

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
        str | None,
        typer.Option("--reply-to", help="The id of the message this answers, or its beginning.", show_default=False),
    ] = None,
    expire: Annotated[
        str | None,
        typer.Option(
            "--expire",
            help="Erase it on both sides after 30s, 10m, 1h, 7d: here from delivery, there from reading.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message; print its id once it is safely on the disk.

    It leaves when the other side can be reached, and stays here until then.

    Examples:  p2pe send bob "on my way";  df -h | p2pe send ops - --wait delivered --timeout 60
    """
    expire_after = None if expire is None else seconds_in(expire)
    if not timeout <= API_MAX_WAIT:  # so that NaN isn't either
        raise UsageError(f"--timeout takes up to {API_MAX_WAIT:.0f} seconds, not {timeout:g}")
    if wait is not None and wait not in WAIT_STATES:
        raise UsageError(f"--wait takes {', '.join(WAIT_STATES)}; not {wait!r}")
    written = written_text(text)
    with client(home) as node:
        answered = None if reply_to is None else full_id(node, reply_to)
        message = node.send(name, written, key=key, reply_to=answered, expire_after=expire_after)
        if not as_json:
            print(message["id"], flush=True)
        if wait is not None:
            message = node.message(message["id"], wait=wait, timeout=timeout)
    if as_json:
        output.emit_json(message)
    elif wait is not None:
        took = ((message["delivered_at"] or message["since"]) - message["queued_at"]) / 1000
        output.note(f"{message['state']} after {output.duration(max(0.0, took))}")


def written_text(words: list[str]) -> str:
    """The text that was typed; for a single - what is on standard input, without its last line end."""
    if words != ["-"]:
        return " ".join(words)
    raw = sys.stdin.buffer.read(MAX_TEXT_BYTES + 3)
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if len(raw) > MAX_TEXT_BYTES:
        raise UsageError(f"standard input has more than the {MAX_TEXT_BYTES} bytes that fit in a message: split it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input isn't UTF-8 text (at byte {error.start})") from None


def full_id(node: Client, beginning: str) -> str:
    """Of one message, to us or of ours, the whole id. Raises NotFound, LocalError."""
    try:
        return node.incoming(beginning)["id"]
    except NotFound:
        return node.message(beginning)["id"]


def inbox(
    name: Annotated[
        str | None, typer.Argument(help="Only from this contact.", metavar="NAME", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, over restarts of the node too, and print what arrives.")
    ] = False,
    after: Annotated[int, typer.Option("--after", help="Only rows above this one (`row` in JSON).", min=0)] = 0,
    newest: Annotated[
        int | None, typer.Option("--newest", help="Only the last so many.", min=1, max=API_PAGE, show_default=False)
    ] = None,
    unread: Annotated[bool, typer.Option("--unread", help="Only what isn't marked as read.")] = False,
    mark_read: Annotated[bool, typer.Option("--mark-read", help="Mark what is printed as read.")] = False,
    ended_after: Annotated[
        int | None,
        typer.Option(
            "--ended-after",
            help="With --follow --json: a line {ended, next_ended} too for what was taken back or has expired since "
            "that next_ended; 0 to begin with.",
            min=0,
            show_default=False,
        ),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="With each one's id, for show, read and --reply-to.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print messages to you, oldest first. Of what was taken back or has expired, only that is said.

    Printing doesn't mark anything as read, with one exception: an expiring message begins to count down. With
    --follow it is also said when a message is taken back or expires later.

    Examples:  p2pe inbox bob;  p2pe inbox --follow --json | your-bot;  p2pe inbox --unread --mark-read
    """
    if ended_after is not None and not (follow and as_json):
        raise UsageError("--ended-after goes with --follow --json")
    with client(home) as node:
        if follow:
            _follow(node, name, after, ended_after, unread, mark_read, ids, as_json)
        if newest is not None:
            found = node.newest(newest, contact=name, ended=True)["messages"]
        else:
            found = list(node.all_inbox(contact=name, after=after, unread=unread, ended=True))
        if as_json:
            output.emit_json({"messages": found, "next": found[-1]["row"] if found else after})
        elif not found:
            output.note("Nothing here.")
        else:
            for message in found:
                print_incoming(message, ids)
        sys.stdout.flush()
        marked = [each["id"] for each in found if each["state"] == "new" and (mark_read or each["expire_after"])]
        for at in range(0, len(marked), API_MAX_BATCH):
            node.mark_read(contact=name, ids=marked[at : at + API_MAX_BATCH])


def _follow(
    node: Client,
    name: str | None,
    after: int,
    ended_after: int | None,
    unread: bool,
    mark_read: bool,
    ids: bool,
    as_json: bool,
) -> NoReturn:
    def show_one(message: IncomingShape) -> bool:
        if unread and message["read_at"] is not None:
            return False
        if as_json:
            output.emit_json(message, line=True)
        else:
            print_incoming(message, ids)
        return mark_read or bool(message["expire_after"])

    def show_ended(page: InboxAnswer) -> None:
        if not as_json:
            for message in page["ended"]:
                print_ending(message, ids)
        elif ended_after is not None and page["ended"]:
            output.emit_json({"ended": page["ended"], "next_ended": page["next_ended"]}, line=True)

    Following(node, name, after, ended_after, show_one, show_ended, tells=not as_json).run()


def print_incoming(message: IncomingShape, ids: bool = False) -> None:
    """One message to us; what we say about it stands in square brackets behind it, or instead of its text."""
    text = output.safe(message["text"], lines=True)
    when = output.paint(output.when(message["received_at"]), "dim")
    name = output.paint(output.safe(message["contact"]), "bold")
    mark = f"{message['id'][: output.SHORT_ID]}  " if ids else ""
    first, *rest = text.split("\n")
    if message["state"] in ("retracted", "expired"):
        said = "taken back" if message["state"] == "retracted" else "expired"
        first = output.paint(f"[{said}, {output.when(message['since'])}]", "dim")
    print(f"{mark}{when}  {name}: {first}", flush=not rest)
    for line in rest:  # indented: nobody can write a line that looks like somebody else's message
        print(f"    {line}", flush=True)
    for note in _notes(message):
        print(f"    {output.paint(f'[{note}]', 'dim')}", flush=True)


def print_ending(message: IncomingShape, ids: bool) -> None:
    """What became of a message that was printed before."""
    mark = f"{message['id'][: output.SHORT_ID]}  " if ids else ""
    name = output.paint(output.safe(message["contact"]), "bold")
    said = "taken back" if message["state"] == "retracted" else "expired"
    note = output.paint(f"[{said}: the message of {output.when(message['received_at'])}]", "dim")
    print(f"{mark}{output.paint(output.when(message['since']), 'dim')}  {name}: {note}", flush=True)


def _notes(message: IncomingShape) -> list[str]:
    if message["state"] in ("retracted", "expired"):
        return []
    notes = []
    if message["edits"]:
        notes.append(f"replaces the text of {message['edits'][: output.SHORT_ID]}")
    if message["edited"]:
        notes.append("its text was changed later")
    if message["expires_at"]:
        notes.append(f"expires {output.when(message['expires_at'])}")
    elif message["expire_after"]:
        notes.append(f"expires {output.duration(message['expire_after'])} after you have read it")
    return notes


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
    """Show one message, of yours or to you: its state, and why."""
    with client(home) as node:
        try:
            message = node.message(identifier)
        except NotFound as not_ours:
            try:
                _print_detail(node.incoming(identifier), as_json)
            except NotFound:
                raise not_ours from None
            return
        print_outgoing(message, as_json)


def retract(identifier: IdArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take a message back: erased here, and there if it has left."""
    with client(home) as node:
        print_outgoing(node.retract(identifier), as_json)


def print_outgoing(message: OutgoingShape, as_json: bool) -> None:
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
    pairs += _extras(message)
    pairs.append(("text", output.safe(message["text"], lines=True)))
    output.fields(pairs)


def _extras(message: OutgoingShape | IncomingShape) -> list[tuple[str, str]]:
    pairs = []
    if message["reply_to"]:
        pairs.append(("answers", message["reply_to"]))
    if message["edits"]:
        pairs.append(("replaces", message["edits"]))
    if message["expires_at"]:
        pairs.append(("expires", output.when(message["expires_at"])))
    elif message["expire_after"] and message["state"] not in ("retracted", "expired"):
        pairs.append(("expires", f"{output.duration(message['expire_after'])} after it was delivered or read"))
    return pairs


def _print_detail(message: IncomingDetail, as_json: bool) -> None:
    if as_json:
        output.emit_json(message)
        return
    output.fields(
        [
            ("id", message["id"]),
            ("from", output.safe(message["contact"])),
            ("state", message["state"]),
            ("why", output.safe(message["reason"])),
            ("since", output.when(message["since"])),
            ("sent", output.when(message["sent_at"]) + "  (by their clock)"),
            ("received", output.when(message["received_at"])),
            ("read", output.when(message["read_at"])),
            *_extras(message),
            ("text", output.safe(message["text"], lines=True)),
        ]
    )


COMMANDS: Final = {
    "send": send,
    "inbox": inbox,
    "outbox": outbox,
    "show": show,
    "retract": retract,
}
