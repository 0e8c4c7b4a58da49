"""contacts, invite, accept, why: the people one writes to."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client, confirm
from p2pe.errors import InviteExpired, P2peError, TimedOut, UsageError

if TYPE_CHECKING:
    from p2pe.control.client import Client
    from p2pe.control.shapes import ContactShape, InviteShape, WhyAnswer

_INVITE_POLL = 60.0  # seconds one request waits for the other person
NameArgument = Annotated[str, typer.Argument(help="The contact's name.", metavar="NAME", show_default=False)]
contacts_app = typer.Typer(help="List, rename, verify, block and remove contacts.", no_args_is_help=False)


@contacts_app.callback(invoke_without_command=True)
def _default(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_contacts(home, as_json)


@contacts_app.command("list")
def list_contacts(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List contacts."""
    with client(home) as node:
        found = node.contacts()
    if as_json:
        output.emit_json({"contacts": found})
        return
    if not found:
        output.note("No contacts yet. `p2pe invite` makes a code for somebody; `p2pe accept` takes theirs.")
        return
    rows = [
        (
            output.safe(each["name"]),
            _connection(each),
            "blocked" if each["blocked"] else "verified" if each["verified"] else "not verified",
            output.when(each["paired_at"]),
        )
        for each in found
    ]
    output.table(("NAME", "CONNECTION", "SAFETY NUMBER", "SINCE"), rows)
    for each in found:
        _warn_of_likeness(each)


def _warn_of_likeness(contact: ContactShape) -> None:
    """Two names that a person may take for each other: somebody may want just that."""
    if contact["looks_like"]:
        others = " and ".join(f"“{output.safe(each)}”" for each in contact["looks_like"])
        name = output.safe(contact["name"])
        output.note(
            f"Careful: “{name}” looks like {others}, and is somebody else. "
            f"`p2pe contacts rename` gives one of them a clearer name."
        )


def _connection(contact: ContactShape) -> str:
    return f"connected, {contact['path']}" if contact["connected"] else "-"


@contacts_app.command("show")
def show_contact(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show a contact with the safety number."""
    with client(home) as node:
        _print_contact(node.contact(name), as_json)


@contacts_app.command("rename")
def rename(
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(help="The name from now on.", metavar="NEW_NAME", show_default=False)],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a contact another name. Only you see it."""
    with client(home) as node:
        _print_contact(node.change_contact(name, new_name=new_name), as_json)


@contacts_app.command("verify")
def verify(
    name: NameArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark a contact as verified, after you have compared the safety number by voice or in person."""
    with client(home) as node:
        _print_contact(node.change_contact(name, verified=not undo), as_json)


@contacts_app.command("block")
def block(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Neither send to a contact nor be reachable for it. To the other side it looks like being offline.

    Until your node starts the next time, somebody who was connected can still see that a node runs at your address.
    """
    with client(home) as node:
        _print_contact(node.change_contact(name, blocked=True), as_json)


@contacts_app.command("unblock")
def unblock(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End a block."""
    with client(home) as node:
        _print_contact(node.change_contact(name, blocked=False), as_json)


@contacts_app.command("remove")
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a contact, with all messages from and to it. To write again, you must pair again."""
    confirm(f"Remove {output.safe(name)} and every message from and to them?", yes=yes, as_json=as_json)
    with client(home) as node:
        node.remove_contact(name)
    if as_json:
        output.emit_json({"removed": name})


@contacts_app.command("replace")
def replace(
    name: NameArgument,
    invitation: Annotated[
        list[str] | None,
        typer.Argument(help="A code or a link of the new identity.", metavar="[CODE|LINK]", show_default=False),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="The contact that is the new identity, if you have paired already.",
                                 show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Give a contact's name to a new identity of the same person, who lost the old one.

    The old contact is kept as NAME-old, and what waited for it is held: nothing goes to the new identity before
    `p2pe resend NAME-old NAME`. The new one isn't verified: anybody could claim to be somebody who lost everything.

    Examples:  p2pe contacts replace bob 47-actor-clock-tiger;  p2pe contacts replace bob --by bob-2
    """
    text = " ".join(invitation or ()).strip() or None
    if (text is None) == (by is None):
        raise UsageError("say who it is now: a code or a link of theirs, or --by and the contact's name")
    with client(home) as node:
        done = node.replace_contact(name, invitation=text, by=by)
    if as_json:
        output.emit_json(done)
        return
    new, old = output.safe(done["new"]["name"]), output.safe(done["old"]["name"])
    print(f"{output.paint(new, 'bold')} is another identity now; the one before is called {old}.")
    print("Anybody could claim to be somebody who lost everything. Your safety number with the new one:\n")
    for line in output.grouped(done["new"]["safety_number"]).split("\n"):
        print(f"    {line}")
    print(f"\nCompare it by voice or in person, then:  p2pe contacts verify {new}")
    if done["held"]:
        held = output.counted(done["held"], "message")
        print(f"{held} held. To send them to the new identity:  p2pe resend {old} {new}")


@contacts_app.command("receipts")
def receipts(
    name: NameArgument,
    switch: Annotated[
        str | None, typer.Argument(help="on or off; leave it out to see.", metavar="[on|off]", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose whether a contact learns when you have read a message. Off unless you say so."""
    if switch not in ("on", "off", None):
        raise UsageError(f"say on or off, not {switch!r}: p2pe contacts receipts {output.safe(name)} on")
    with client(home) as node:
        found = node.contact(name) if switch is None else node.change_contact(name, receipts=switch == "on")
        _print_contact(found, as_json)


def _print_contact(contact: ContactShape, as_json: bool) -> None:
    if as_json:
        output.emit_json(contact)
        return
    _warn_of_likeness(contact)
    verified = "you have compared the safety number" if contact["verified"] else "not verified"
    output.fields(
        [
            ("name", output.safe(contact["name"])),
            ("state", "blocked" if contact["blocked"] else verified),
            ("connection", _connection(contact)),
            ("since", output.when(contact["paired_at"])),
            ("read receipts", "they learn when you have read a message" if contact["receipts"] else "off"),
            ("safety number", output.grouped(contact["safety_number"])),
        ]
    )


# --- pairing ---


def invite(
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the person who comes.", show_default=False)
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="A link instead of a spoken code.")] = False,
    qr: Annotated[bool, typer.Option("--qr", help="A link, shown as a QR code too.")] = False,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Wait until somebody came (default, except with --json).",
                     show_default=False),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Invite one person by a spoken code, a link or a QR code. Good for ten minutes.

    A code may be read out over a telephone. Whoever has a link can use it: send it where only the right person reads.
    """
    waits = not as_json if wait is None else wait
    with client(home) as node:
        made = node.invite("link" if link or qr else "code", name)
        if as_json:
            output.emit_json(made, line=waits)
        else:
            _print_invite(made, qr, waits)
        if not waits:
            return
        outcome = _await_guest(node, made)
        if as_json:
            output.emit_json(outcome, line=True)
        elif outcome["contact"] is not None:
            _print_pairing(outcome["contact"])
            _warn_of_namesake(node, outcome["contact"])


def _print_invite(made: InviteShape, qr: bool, waits: bool) -> None:
    if made["code"]:
        print("Read this code to the person:\n")
        print(f"    {output.paint(made['code'], 'bold')}\n")
        print(f"They type:  p2pe accept {made['code']}\n")
        if made["link"]:
            print("Should it not be found, this link does the same; send it where only they read:\n")
            print(f"    {made['link']}\n")
    elif made["link"]:
        if qr:
            import segno

            segno.make(made["link"].upper(), error="l").terminal(compact=True, border=2)
        print("They type:\n")
        print(f"    p2pe accept {made['link']}\n")
    note = f"Good until {output.when(made['expires_at'])}, for one person, {output.tries(made['guesses_left'])}."
    output.note(note + (" Waiting for them; Ctrl-C stops the waiting, not the invite." if waits else ""))


def _await_guest(node: Client, made: InviteShape) -> InviteShape:
    """Until the invite is closed. Raises the error that says how, unless somebody was paired."""
    now = made
    while now["state"] == "open":
        left = made["expires_at"] / 1000 - time.time()
        now = node.show_invite(made["id"], wait=max(1.0, min(_INVITE_POLL, left)))
    match now["state"]:
        case "paired":
            return now
        case "expired":
            raise InviteExpired("Nobody came within ten minutes. `p2pe invite` makes a new code.")
        case "spent":
            from p2pe.errors import GuessesSpent

            raise GuessesSpent(
                "Three wrong tries: the code is void. Perhaps it was misheard, perhaps somebody guessed. "
                "`p2pe invite` makes a new one."
            )
        case "revoked":
            raise P2peError("The invite was revoked.")
        case other:
            raise TimedOut(f"The invite is {other}.")


def accept(
    invitation: Annotated[
        list[str],
        typer.Argument(help="The code or the link. Blanks in a code do.", show_default=False, metavar="CODE|LINK"),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the person. Only you see it.", show_default=False)
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Accept somebody's invite.

    Examples:  p2pe accept 47-actor-clock-tiger --name bob;  p2pe accept p2pe:… --name bob
    """
    text = " ".join(invitation).strip()
    if not text:
        raise UsageError("There is no code. Type what the other person reads to you: p2pe accept 47-actor-clock-tiger")
    with client(home) as node:
        if not as_json:
            output.note("Looking for the invite…")
        contact = node.accept(text, name)
        if as_json:
            output.emit_json(contact)
            return
        _print_pairing(contact)
        _warn_of_namesake(node, contact)


def _print_pairing(contact: ContactShape) -> None:
    name = output.safe(contact["name"])
    print(f"You and {output.paint(name, 'bold')} are contacts now. Your common safety number:\n")
    for line in output.grouped(contact["safety_number"]).split("\n"):
        print(f"    {line}")
    print(f"\nCompare it by voice or in person when it matters, then:  p2pe contacts verify {name}")
    print(f"Write:  p2pe send {name} hello")
    _warn_of_likeness(contact)


def _warn_of_namesake(node: Client, contact: ContactShape) -> None:
    """Who calls themselves as somebody does already got a number: perhaps the same person, perhaps not."""
    numbered = re.fullmatch(r"(.+)-\d+", contact["name"])
    if numbered is None:
        return
    for other in node.contacts():
        if other["name"].lower() == numbered[1].lower():
            old, new = output.safe(other["name"]), output.safe(contact["name"])
            output.note(
                f"\nYou have a contact called {old} already, and this is another identity. If {old} lost the old one "
                f"and you are sure that it's them:  p2pe contacts replace {old} --by {new}"
            )


# --- reachability ---


def why(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say how a contact is reached, or which step fails."""
    with client(home) as node:
        answer = node.why(name)
    if as_json:
        output.emit_json(answer)
        return
    _print_why(answer)


def _print_why(answer: WhyAnswer) -> None:
    print(output.safe(answer["summary"]))
    if answer["waiting"]:
        print(f"{output.counted(answer['waiting'], 'message')} waiting.")
    for sentence in answer["advice"]:
        print(sentence)
    if not answer["attempts"]:
        return
    print()
    rows = [
        (
            output.when(each["at"]),
            each["step"],
            output.duration(each["took"]),
            output.safe(_target(each["target"])) or "-",
            output.safe(each["outcome"]),
        )
        for each in answer["attempts"]
    ]
    styles = ["green" if each["outcome"].startswith("ok") else None for each in answer["attempts"]]
    output.table(("WHEN", "STEP", "TOOK", "TARGET", "OUTCOME"), rows, styles=styles)


def _target(target: str) -> str:
    """Circuit addresses are long: the relay's address, and the end of its id."""
    address, mark, relay = target.removesuffix("/p2p-circuit").partition("/p2p/")
    return f"{address} (relay …{relay[-6:]})" if mark and target.endswith("/p2p-circuit") else target


COMMANDS: Final = {
    "contacts": contacts_app,
    "invite": invite,
    "accept": accept,
    "why": why,
    "block": block,  # as `p2pe contacts block`, where people look for it
    "unblock": unblock,
}
