"""Before a node runs: its settings, and making its home. Light to import: libp2p and FastAPI stay out.

Settings come from, in this order: options, environment, `config.toml` in the home, defaults.

    listen = ["/ip4/0.0.0.0/tcp/4001"]
    bootstrap = ["/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo..."]
    relay = "fallback"
    directory = "auto"
    lan = true
    metrics = "127.0.0.1:9465"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from p2pe.core.addresses import host_and_port, host_port
from p2pe.core.paths import RelayPolicy
from p2pe.core.serving import ServingChoice
from p2pe.errors import StorageError, UsageError
from p2pe.identity.devices import DeviceList, device_list, parse_device_key
from p2pe.identity.home import Home
from p2pe.identity.keyfile import is_sealed
from p2pe.identity.keyring import create_identity, open_identity, refuse_occupied, revoke_devices
from p2pe.identity.passphrase import existing_passphrase, new_passphrase, terminal
from p2pe.model import Address
from p2pe.overlay.bootstrap_addresses import check_bootstrap
from p2pe.overlay.world import real_world

DEFAULT_LISTEN: Final = (Address("/ip4/0.0.0.0/tcp/0"), Address("/ip6/::/tcp/0"))
CONFIG_NAME: Final = "config.toml"
_NAMES: Final = ("listen", "bootstrap", "relay", "directory", "lan", "metrics")
SEALED: Final = "passphrase"
UNSEALED: Final = "file mode"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person may choose about a running node. `listen` empty: DEFAULT_LISTEN, as far as they can be bound."""

    home: Home
    listen: tuple[Address, ...] = ()
    bootstrap: tuple[str, ...] = ()  # multiaddrs with /p2p
    relay: RelayPolicy = RelayPolicy.FALLBACK
    directory: ServingChoice = ServingChoice.AUTO  # whether others find addresses through this node
    metrics: tuple[str, int] | None = None  # host and port of this machine, for Prometheus
    lan: bool = True  # ask the router for a port, and look for contacts on the local network


@dataclass(frozen=True, slots=True)
class Created:
    words: str
    protection: str  # SEALED or UNSEALED


def create_home(home: Home, *, passphrase_file: Path | None, ask: bool) -> Created:
    """Makes the home with a new identity. Raises Conflict when it has one, UsageError, StorageError."""
    refuse_occupied(home)  # before anything is asked
    passphrase = new_passphrase(passphrase_file, os.environ, ask=terminal() if ask else None)
    world = real_world()
    _, words = create_identity(home, passphrase, world.entropy, world.clock.now())
    return Created(words, UNSEALED if passphrase is None else SEALED)


def passphrase_for(home: Home, file: Path | None) -> str | None:
    """The passphrase of an existing home, asked for if need be; None when there is none.

    Raises NotFound (`p2pe init` first), UsageError, StorageError.
    """
    return existing_passphrase(file, os.environ, sealed=is_sealed(home.keys), ask=terminal())


def devices_of(home: Home, passphrase: str | None) -> DeviceList:
    """What `p2pe devices` shows of a home on which no node runs. Raises NotFound, WrongPassphrase, StorageError."""
    return device_list(open_identity(home, passphrase))


def revoke_in(home: Home, keys: list[str], passphrase: str | None) -> DeviceList:
    """Revokes devices in a home on which no node runs. Raises Conflict when one does, and as `revoke_devices`."""
    world = real_world()
    with home.lock():
        parsed = tuple(parse_device_key(each) for each in keys)
        return device_list(revoke_devices(home, passphrase, parsed, world.entropy, world.clock.now()))


def settings_for(
    home: Home,
    *,
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    relay: str | None,
    directory: str | None = None,
    metrics: str | None = None,
    environment: Mapping[str, str],
) -> Settings:
    """Raises UsageError naming what can't be used, and where it came from. Empty or None: not given."""
    stored = _read_config(home.path / CONFIG_NAME)
    from_environment = tuple(each.strip() for each in environment.get("P2PE_BOOTSTRAP", "").split(",") if each.strip())
    chosen_relay = relay or _text(stored, "relay") or RelayPolicy.FALLBACK.value
    if chosen_relay not in tuple(RelayPolicy):
        raise UsageError(f"relay is {chosen_relay!r}; choose fallback, never or only")
    chosen_directory = directory or _text(stored, "directory") or ServingChoice.AUTO.value
    if chosen_directory not in tuple(ServingChoice):
        raise UsageError(f"directory is {chosen_directory!r}; choose auto, client or server")
    if chosen_directory == ServingChoice.SERVER and chosen_relay == RelayPolicy.ONLY:
        raise UsageError("directory = server shows this machine's address to everybody, and relay = only hides it")
    asked = metrics or _text(stored, "metrics")
    return Settings(
        home=home,
        metrics=None if asked is None else _loopback(asked),
        listen=tuple(_listen_address(each) for each in listen or _texts(stored, "listen")),
        bootstrap=tuple(_bootstrap(each) for each in bootstrap or from_environment or _texts(stored, "bootstrap")),
        relay=RelayPolicy(chosen_relay),
        directory=ServingChoice(chosen_directory),
        lan=_truth(stored, "lan", default=True),
    )


def _loopback(text: str) -> tuple[str, int]:
    """How much is written, and how many contacts there are, is nobody's business beyond this machine."""
    host, port = host_and_port(text)
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise UsageError(f"metrics are for this machine alone: 127.0.0.1:{port}, not {text!r}")
    return host, port


def _listen_address(text: str) -> Address:
    address = Address(text)
    if host_port(address) is None:
        raise UsageError(f"can't listen on {text!r}: write it like /ip4/0.0.0.0/tcp/4001 or /ip6/::/tcp/4001")
    return address


def _bootstrap(text: str) -> str:
    try:
        check_bootstrap(text)
    except UsageError:
        raise UsageError(
            f"{text!r} isn't a bootstrap address: write it as `p2pe-bootstrap run` prints it, like "
            "/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…, or /dnsaddr/NAME for all that a name lists"
        ) from None
    return text


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} isn't TOML: {error}") from None
    unknown = sorted(set(found) - set(_NAMES))
    if unknown:
        raise UsageError(f"{path} has {unknown[0]!r}, which means nothing here; {', '.join(_NAMES)} do")
    return found


def _texts(stored: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = stored.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{name} in {CONFIG_NAME} must be a list of texts")
    return tuple(value)


def _text(stored: Mapping[str, Any], name: str) -> str | None:
    value = stored.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} in {CONFIG_NAME} must be a text")
    return value


def _truth(stored: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = stored.get(name, default)
    if not isinstance(value, bool):
        raise UsageError(f"{name} in {CONFIG_NAME} must be true or false")
    return value
