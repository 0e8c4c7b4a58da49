"""init, run, status: making a node, running it, looking at it."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client, home_of

if TYPE_CHECKING:
    from p2pe.control.shapes import LinkShape, ReachabilityShape, StatusAnswer

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="Read the passphrase from this file. Else P2PE_PASSPHRASE_FILE, the systemd credential "
        "p2pe-passphrase, or a prompt.",
        show_default=False,
    ),
]


def init(
    home: HomeOption = None,
    passphrase_file: PassphraseFileOption = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Don't ask: leave the key file unsealed, readable by you alone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new identity, and show its 24 words once.

    For scripts:  p2pe init --no-passphrase --json
    """
    from p2pe.app_home import create_home

    chosen = home_of(home)
    made = create_home(chosen, passphrase_file=passphrase_file, ask=not no_passphrase)
    if as_json:
        output.emit_json({"home": str(chosen.path), "words": made.words, "key_protection": made.protection})
        return
    words = made.words.split()
    print("These 24 words are your identity. Write them on paper, in order; they aren't shown again.\n")
    rows = len(words) // 4
    for row in range(rows):
        cells = [f"{at + 1:2d} {words[at]:<10}" for at in range(row, len(words), rows)]
        print("   " + "  ".join(cells).rstrip())
    print()
    output.fields(
        [
            ("Home", str(chosen.path)),
            ("Key file", _protection_in_words(made.protection)),
            ("Next", f"p2pe run{_option(home)}"),
        ]
    )


def _option(home: Path | None) -> str:
    return f" --home {home}" if home is not None else ""


def _protection_in_words(protection: str) -> str:
    if protection == "passphrase":
        return (
            "sealed with your passphrase (Argon2id). It protects against whoever gets the disk or a copy of it,\n"
            "as far as the passphrase can't be guessed. It doesn't protect against programs that run as you while\n"
            "the node runs. Forgotten passphrase: the 24 words restore the identity, not the messages."
        )
    return (
        "NOT sealed: readable by your user alone (mode 0600). It protects against other users of this machine,\n"
        "and not against whoever gets the disk, a backup or a copy of it. To seal it, begin anew with\n"
        "--passphrase-file, or on an encrypted disk leave it as it is."
    )


def run(
    home: HomeOption = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", help="Listen here, e.g. /ip4/0.0.0.0/tcp/4001. Repeat for more.", show_default=False),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(
            "--bootstrap",
            help="Enter the network here: /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…  Repeat for more. "
            "Else P2PE_BOOTSTRAP (commas between), else config.toml in the home.",
            show_default=False,
        ),
    ] = None,
    relay: Annotated[
        str | None,
        typer.Option(
            "--relay",
            help="fallback: when nothing else works (default). never. only: hides your address from contacts.",
            show_default=False,
        ),
    ] = None,
    directory: Annotated[
        str | None,
        typer.Option(
            "--directory",
            help="auto: help others find each other while this machine can be reached from outside (default). "
            "client: never. server: always.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Serve numbers for Prometheus at this port of this machine, e.g. 127.0.0.1:9465. Other users of the "
            "machine can read them; there are no names. Off unless given.",
            metavar="HOST:PORT",
            show_default=False,
        ),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines even on a terminal.")] = False,
) -> None:
    """Run the node in the foreground until Ctrl-C or SIGTERM.

    Example:  p2pe run --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…
    """
    from p2pe.app_home import settings_for
    from p2pe.app_process import run_process

    settings = settings_for(
        home_of(home),
        listen=tuple(listen or ()),
        bootstrap=tuple(bootstrap or ()),
        relay=relay,
        directory=directory,
        metrics=metrics,
        environment=os.environ,
    )
    sys.exit(run_process(settings, passphrase_file, log_level=log_level, log_json=log_json or None))


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show whether the node runs, whom it can reach and what waits."""
    with client(home) as node:
        answer = node.status()
    if as_json:
        output.emit_json(answer)
        return
    _show_status(answer)


_DIRECTORY: Final = {"server": "served to others", "client": "asked, not served"}


def _show_status(answer: StatusAnswer) -> None:
    overlay, counts = answer["overlay"], answer["counts"]
    running = datetime.now().timestamp() - answer["started_at"] / 1000
    if overlay["directory_peers"]:
        reach = (
            output.paint("connected", "green")
            + f", {output.counted(overlay['directory_peers'], 'directory server')} known"
        )
    else:
        reach = output.paint("alone", "yellow") + ": no directory server answers; see --bootstrap in `p2pe run --help`"
    waiting = f"{counts['queued']} queued, {counts['offered']} offered"
    if counts["held"]:
        waiting += f", {counts['held']} held for a changed identity"
    connected = f"{counts['contacts']}, {counts['connected']} connected"
    clock = []
    if overlay["records_refused"]:
        utc = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        wrong = output.paint("wrong?", "red")
        clock.append(("clock", f"{wrong} It is {utc} here, and directory servers refuse this node's records"))
    output.fields(
        [
            ("node", f"p2pe {answer['version']}, process {answer['pid']}, up {output.duration(running)}"),
            ("home", answer["home"]),
            ("keys", "sealed" if answer["key_protection"] == "passphrase" else "not sealed (mode 0600)"),
            ("network", reach),
            *clock,
            ("directory", _DIRECTORY[overlay["directory_mode"]]),
            ("reached", _reached(overlay["reachability"])),
            ("router", _router(overlay["reachability"])),
            ("port", _mapped_port(overlay["reachability"])),
            ("relays", _relays(overlay["reachability"])),
            ("listens", "\n".join(overlay["listen"]) or "nowhere"),
            ("contacts", "\n".join([connected, *map(_link, answer["links"])])),
            ("outbox", waiting),
            ("inbox", f"{counts['unread']} unread"),
        ]
    )


def _reached(reach: ReachabilityShape) -> str:
    if reach["relay_policy"] == "only":
        return "through relays only, as you chose: contacts don't learn this machine's address"
    match reach["reachable"]:
        case "public":
            return output.paint("directly", "green") + " at " + ", ".join(reach["verified"])
        case "private":
            return "not directly from outside: by hole punching, else through relays"
        case _:
            return "not known yet whether directly from outside"


def _router(reach: ReachabilityShape) -> str:
    port = {True: ", port number kept", False: ", port number changed", None: ""}[reach["port_kept"]]
    match reach["nat"]:
        case "none":
            return "none in between"
        case "endpoint-independent":
            return f"one port for all destinations (can be punched){port}"
        case "endpoint-dependent":
            return output.paint("another port for each destination", "yellow") + " (symmetric: mostly relayed)"
        case _:
            return f"not known: needs two servers that say how they see us{port}"


def _mapped_port(reach: ReachabilityShape) -> str:
    if reach["port_mapping"] == "off":
        return "no router is asked for one, as you chose"
    return "mapped by the router: " + reach["port_mapping"]


def _relays(reach: ReachabilityShape) -> str:
    if reach["relay_policy"] == "never":
        return "none, as you chose"
    held = [f"{each['peer_id'][:8]}…{each['peer_id'][-6:]} at {each['address']}" for each in reach["relays"]]
    return "\n".join(held) or ("none needed" if reach["reachable"] == "public" else "none")


def _link(link: LinkShape) -> str:
    trip = f", {output.duration(link['round_trip'])} round trip" if link["round_trip"] is not None else ""
    return f"{output.safe(link['contact'])}: {link['path']}{trip}"


COMMANDS: Final = {
    "init": init,
    "run": run,
    "status": status,
}
