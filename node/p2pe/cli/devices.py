"""devices: which machines may speak for this identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pe.cli import output
from p2pe.cli.node import PassphraseFileOption
from p2pe.cli.options import HomeOption, JsonOption, client, home_of
from p2pe.errors import NoDaemon, UsageError

if TYPE_CHECKING:
    from p2pe.control.shapes import DevicesAnswer
    from p2pe.identity.devices import DeviceList

devices_app = typer.Typer(
    help=(
        "List this identity's devices, and revoke those that were lost.\n\n"
        "Each device has a certificate with a list version. A contact that has seen a newer list refuses every older "
        "certificate; a contact that hasn't been in touch since doesn't know yet. Restoring, from a backup or from the "
        "words, already makes a newer list. Revoking stops a stolen device from posing as you. It doesn't take back "
        "what is stored on it, and it can't help when the thief also has your 24 words, or a key file that isn't "
        "sealed: then make a new identity."
    ),
    no_args_is_help=False,
)


@devices_app.callback(invoke_without_command=True)
def _default(
    context: typer.Context,
    home: HomeOption = None,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is None:
        list_devices(home, passphrase_file, as_json)


@devices_app.command("list")
def list_devices(
    home: HomeOption = None, passphrase_file: PassphraseFileOption = None, as_json: JsonOption = False
) -> None:
    """Show this device and the revoked ones."""
    try:
        with client(home) as node:
            found = node.devices()
    except NoDaemon:
        from p2pe.app_home import devices_of, passphrase_for

        chosen = home_of(home)
        found = _shape(devices_of(chosen, passphrase_for(chosen, passphrase_file)))
    _print(found, as_json)


@devices_app.command("revoke")
def revoke(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Device keys, 64 hex digits each.", metavar="KEY", show_default=False)
    ] = None,
    others: Annotated[
        bool, typer.Option("--others", help="Every device but this one, whether its key is known or not.")
    ] = False,
    home: HomeOption = None,
    passphrase_file: PassphraseFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make certificates of other devices invalid. A node that runs tells its contacts at once, the others as they come.

    Example:  p2pe devices revoke --others
    """
    if bool(keys) == others:
        raise UsageError("name the device keys to revoke, or --others for every device but this one")
    from p2pe.app_home import passphrase_for, revoke_in

    chosen = home_of(home)
    passphrase = passphrase_for(chosen, passphrase_file)
    try:
        with client(home) as node:
            found = node.revoke_devices(keys or (), passphrase)
    except NoDaemon:
        found = _shape(revoke_in(chosen, keys or [], passphrase))
    _print(found, as_json)


def _shape(found: DeviceList) -> DevicesAnswer:
    return {
        "device": found.device_key.hex(),
        "list_version": found.list_version,
        "issued_at": found.issued_at,
        "revoked": [each.hex() for each in found.revoked],
    }


def _print(found: DevicesAnswer, as_json: bool) -> None:
    if as_json:
        output.emit_json(found)
        return
    output.fields(
        [
            ("this device", found["device"]),
            ("list version", f"{found['list_version']}, made {output.when(found['issued_at'])}"),
            (
                "revoked",
                "\n".join(found["revoked"]) or "none by name; certificates with a lower version are superseded",
            ),
        ]
    )


COMMANDS: Final = {"devices": devices_app}
