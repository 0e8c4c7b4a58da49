"""dht: how the directory fares, and lookups in it, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.options import HomeOption, JsonOption, client

if TYPE_CHECKING:
    from p2pe.control.shapes import DhtAnswer, DhtLookupAnswer

dht = typer.Typer(
    help="Look at the directory (DHT).\n\nThe servers this node knows, and which of them are near a hash.",
    no_args_is_help=True,
)


@dht.command("status")
def dht_status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the routing table, what is stored here for others, and what lookups took."""
    with client(home) as node:
        answer = node.dht()
    if as_json:
        output.emit_json(answer)
    else:
        show_health(answer)


@dht.command("lookup")
def dht_lookup(
    record_hash: Annotated[str, typer.Argument(metavar="HASH", help="SHA-256 in 64 hex digits, or 1220 and those.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the servers nearest to a hash, as publishing and finding do; asks for no record.

    Any hash will do to try the network:  p2pe dht lookup $(echo hello | sha256sum | cut -c1-64)
    """
    with client(home) as node:
        answer = node.dht_lookup(record_hash)
    if as_json:
        output.emit_json(answer)
    else:
        _show_lookup(answer)


def show_health(answer: DhtAnswer) -> None:
    joined = output.paint("joined", "green") if answer["joined"] else output.paint("alone", "yellow")
    known = f"{answer['servers_live']} answer, of {answer['servers_known']} known"
    serving = "serves others" if answer["mode"] == "server" else "asks only; others don't see it"
    refreshed = "not yet" if answer["refreshed_ago"] is None else f"{output.duration(answer['refreshed_ago'])} ago"
    median = "-" if answer["lookup_median"] is None else output.duration(answer["lookup_median"])
    traffic, served = answer["traffic"], answer["served"]
    refused = []
    if answer["records_refused"]:
        refused.append(
            ("published", output.paint("refused", "red") + " by all servers: is this machine's clock right?")
        )
    output.fields(
        [
            ("directory", f"{joined}, {serving}"),
            ("servers", known),
            ("refreshed", refreshed),
            (
                "leaving",
                f"{answer['leaving_per_hour']:.0%} of the servers an hour: at first a guess, 30%, then what was seen",
            ),
            ("republish", f"about every {output.duration(answer['republish_after'])}"),
            ("lookups", f"{answer['lookups']}, {answer['lookups_failed']} failed, median {median}"),
            ("asked", f"{traffic['requests']} requests, {traffic['failures']} failed"),
            ("answered", f"{served['find_node']} for servers, {served['get_value']} for records"),
            *refused,
            ("stored", f"{answer['records_stored']} records for others, {served['refused_records']} refused"),
        ]
    )
    if answer["buckets"]:
        print()
        rows = [
            [str(each["number"]), str(each["servers"]), str(each["live"]), str(each["waiting"])]
            for each in answer["buckets"]
        ]
        output.table(["BITS SHARED", "SERVERS", "ANSWER", "WAITING"], rows)


def _show_lookup(answer: DhtLookupAnswer) -> None:
    rows = [
        [str(each["shared_bits"]), str(each["round"]), "yes" if each["stores"] else "", output.safe(each["address"])]
        for each in answer["servers"]
    ]
    output.table(["BITS SHARED", "ROUND", "STORES", "SERVER"], rows)
    unanswered = f", {answer['unanswered']} unanswered" if answer["unanswered"] else ""
    output.note(f"{answer['requests']} requests{unanswered}, {output.duration(answer['seconds'])}")


COMMANDS: Final = {"dht": dht}
