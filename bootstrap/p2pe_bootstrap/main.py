"""`p2pe-bootstrap`: run a public server of the overlay, or look at one from outside."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import trio
import typer
from p2pe.commandline import run_command
from p2pe.core.addresses import host_and_port, split_peer
from p2pe.errors import ExitCode, P2peError, UsageError
from p2pe.logs import set_up_logging
from p2pe.model import Address

T = TypeVar("T")

app = typer.Typer(
    help="A bootstrap node: a first contact for newcomers and a server of the DHT. It can read nobody's messages.",
    epilog="Exit codes: 0 done or well, 1 failed or not well, 2 wrong usage, 3 no node runs in that home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click does; both at once say it twice
    context_settings={"help_option_names": ["-h", "--help"]},
)

HomeOption = Annotated[Path, typer.Option(help="Directory of the lasting key; made if missing.", envvar="P2PE_HOME")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"p2pe-bootstrap {version('p2pe')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    home: HomeOption,
    listen: Annotated[list[str], typer.Option(help="Address to listen on, e.g. /ip4/0.0.0.0/tcp/4001. Repeatable.")],
    announce: Annotated[
        list[str] | None, typer.Option(help="Address others should dial, if it isn't the one listened on. Repeatable.")
    ] = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option(help="Another bootstrap node: multiaddr with /p2p, or /dnsaddr. Repeatable.")
    ] = None,
    asn_map: Annotated[
        Path | None,
        typer.Option(help="Table of IP ranges and AS numbers (as of iptoasn.com): few servers of one AS in a bucket."),
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="HOST:PORT for Prometheus; keep it private.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    as_json: JsonOption = False,
) -> None:
    """Run a bootstrap node in the foreground.

    When ready it prints its full addresses, one a line, the best one first. SIGTERM and Ctrl-C drain and stop it.

    Example:  p2pe-bootstrap run --home /var/lib/p2pe-bootstrap --listen /ip4/0.0.0.0/tcp/4001
    """
    set_up_logging(log_level)
    from p2pe.overlay.asn_map import load_asn_map

    from p2pe_bootstrap import node  # libp2p takes a second to import: not for --help
    from p2pe_bootstrap.home import BootstrapHome

    def ready(addresses: tuple[str, ...]) -> None:
        print(json.dumps({"ready": True, "addresses": addresses}) if as_json else "\n".join(addresses), flush=True)

    settings = node.Settings(
        home=BootstrapHome(home),
        listen=tuple(Address(text) for text in listen),
        announce=tuple(_without_peer(text) for text in announce or ()),
        bootstrap=tuple(bootstrap or ()),
        metrics=None if metrics is None else host_and_port(metrics),
        asn_of=None if asn_map is None else load_asn_map(asn_map),
    )
    _run(node.run, settings, ready)


@app.command()
def status(
    address: Annotated[list[str] | None, typer.Argument(help="Full multiaddrs to check.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Check the node that runs in this home.", envvar="P2PE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a bootstrap node as a stranger would.

    Dials it, stores a record, reads it back. Ends with 0 when all is well, else with 1.
    """
    set_up_logging("error")
    from p2pe.overlay.world import real_world

    from p2pe_bootstrap.check import check
    from p2pe_bootstrap.home import BootstrapHome

    addresses = tuple(address or ())
    health = None
    if not addresses and home is not None:
        addresses = BootstrapHome(home).read_addresses()
        health = BootstrapHome(home).read_health()
    if not addresses:
        raise UsageError("say which node: an address, or --home of one that runs here")
    for text in addresses:
        try:
            split_peer(text)
        except ValueError:
            raise UsageError(f"{text!r} isn't a full address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...") from None
    world = real_world()
    checks = [_run(check, world, text) for text in addresses]
    if as_json:
        with_health = {} if health is None else {"directory": health}
        print(json.dumps([{**c.as_dict(), **with_health} for c in checks], indent=2))
    else:
        for c in checks:
            verdict = "ok" if c.is_well else f"FAILED: {c.problem}"
            print(f"{c.address}\n  {verdict}; connect {c.connect_ms} ms, knows {c.knows_peers} peers, {c.agent or '-'}")
        if health is not None:
            _print_health(health)
    if not all(c.is_well for c in checks):
        raise SystemExit(ExitCode.FAILED)


def _print_health(health: dict[str, Any]) -> None:
    buckets = ", ".join(f"{each['number']}: {each['live']}/{each['servers']}" for each in health["buckets"])
    refreshed = health["refreshed_ago"]
    print(
        f"directory, {time.time() - health['written_at']:.0f} s ago\n"
        f"  {health['servers_live']} of {health['servers_known']} known servers answer; "
        f"{health['records_stored']} records stored, {health['served']['refused_records']} refused\n"
        f"  looked after {'not yet' if refreshed is None else f'{refreshed:.0f} s before that'}; "
        f"{health['leaving_per_hour']:.0%} of the servers leave in an hour: at first a guess, 30%\n"
        f"  buckets (bits shared: answering/known): {buckets or 'none'}"
    )


def _run(work: Callable[..., Awaitable[T]], *args: object) -> T:
    """trio.run, with an error of ours taken out of the groups that nurseries wrap it in."""
    try:
        return trio.run(work, *args)
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(P2peError)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            raise
        raise error from None


def _without_peer(text: str) -> Address:
    try:
        return split_peer(text)[0]
    except ValueError:
        return Address(text)


def main() -> None:
    """The entry point: runs a command; failures become one line on standard error and an exit code."""
    run_command(lambda: app, "p2pe-bootstrap", sys.argv[1:])
