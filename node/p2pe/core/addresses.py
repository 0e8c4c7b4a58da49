"""Text multiaddrs, read and judged without the multiaddr library: pure functions on strings.

The forms this project dials are `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`, optionally followed by
`/p2p/PEER`, and circuit addresses `<relay address>/p2p/RELAY/p2p-circuit[/p2p/PEER]`
(libp2p addressing specification). Everything else is answered with None, False or ValueError, never a guess.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from p2pe.config import ADDRESSES_REMEMBERED
from p2pe.errors import UsageError
from p2pe.model import Address, PathKind, PeerId

CIRCUIT = "/p2p-circuit"
_HOST_PROTOCOLS = ("ip4", "ip6", "dns", "dns4", "dns6")
_SHARED_IPV4 = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: behind a carrier's NAT, not reachable


_DOCUMENTATION = tuple(
    ipaddress.ip_network(net)
    for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "198.18.0.0/15")
)
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _parsed(text: str) -> _IP:
    """Raises ValueError. Cached: a node judges the same few addresses again and again, and parsing costs 10 us."""
    return ipaddress.ip_address(text)


class _Hop(NamedTuple):
    """What an address says about its first hop."""

    ip: _IP
    text: str
    is_circuit: bool
    is_private: bool
    is_public: bool
    is_wildcard: bool
    is_loopback: bool
    is_link_local: bool


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _hop(address: str) -> _Hop | None:
    """None when it isn't an IP. Cached: each is asked about a dozen times whenever a node looks at its addresses."""
    pieces = address.split("/")
    if len(pieces) < 3 or pieces[0] or pieces[1] not in ("ip4", "ip6"):
        return None
    ip = _ip(pieces[2])
    if ip is None or ip.version != int(pieces[1][2]):
        return None
    by_relay = is_circuit(address)
    is_example = _is_documentation(ip)
    confined = ip.is_private or ip.is_loopback or ip.is_link_local
    private = not by_relay and ((ip.version == 4 and ip in _SHARED_IPV4) or (confined and not is_example))
    unicast = not (ip.is_multicast or ip.is_unspecified or ip.is_reserved)
    public = not by_relay and not private and (is_example or unicast)
    return _Hop(ip, str(ip), by_relay, private, public, ip.is_unspecified, ip.is_loopback, ip.is_link_local)


def host_port(address: str) -> tuple[str, int] | None:
    """(IP, TCP port) of an `/ip4|ip6/../tcp/..` address; None for DNS names, circuits and anything else."""
    parts = _split(address)
    if parts is None or parts[0] not in ("ip4", "ip6") or is_circuit(address):
        return None
    return parts[1], parts[2]


def dns_port(address: str) -> tuple[str, str, int] | None:
    """(protocol `dns`|`dns4`|`dns6`, name, TCP port) of an address by name; None otherwise."""
    parts = _split(address)
    if parts is None or not parts[0].startswith("dns") or is_circuit(address):
        return None
    return parts


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _split(address: str) -> tuple[str, str, int] | None:
    """Protocol, host and port of the first hop; None when it isn't TCP over IP or DNS."""
    pieces = address.split("/")
    if len(pieces) < 5 or pieces[0] or pieces[1] not in _HOST_PROTOCOLS or pieces[3] != "tcp":
        return None
    protocol, host, port_text = pieces[1], pieces[2], pieces[4]
    if not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5 or int(port_text) > 65_535:
        return None
    if len(pieces) > 5 and pieces[5] != "p2p":
        return None  # /tcp/80/ws and the like: another transport
    if protocol == "ip4" or protocol == "ip6":
        ip = _ip(host)
        if ip is None or ip.version != int(protocol[2]):
            return None
        host = str(ip)
    elif not host or len(host) > 253:
        return None
    return protocol, host, int(port_text)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return _parsed(text)
    except ValueError:
        return None


def ip_of(address: str) -> str | None:
    """The IP of the first hop, port or not (`/ip4/192.0.2.1`, as Net.interfaces gives); None when it has none."""
    hop = _hop(address)
    return None if hop is None else hop.text


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def tcp_address(ip: str, port: int) -> Address:
    """The address of an IP and a TCP port. An IPv4-mapped IPv6 address becomes plain IPv4, a zone is cut off.
    Raises ValueError when `ip` isn't one."""
    parsed = _parsed(ip.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return Address(f"/ip{parsed.version}/{parsed}/tcp/{port}")


def is_circuit(address: str) -> bool:
    """Whether it leads through a relay."""
    return CIRCUIT in address


def is_wildcard(address: str) -> bool:
    """Whether it is 0.0.0.0 or ::, that is, every interface."""
    hop = _hop(address)
    return hop is not None and hop.is_wildcard


def is_loopback(address: str) -> bool:
    hop = _hop(address)
    return hop is not None and hop.is_loopback


def is_link_local(address: str) -> bool:
    hop = _hop(address)
    return hop is not None and hop.is_link_local


def is_private(address: str) -> bool:
    """Usable on a local network or this machine only: RFC 1918, RFC 4193, link-local, loopback.

    A carrier's shared space (RFC 6598) counts as private too: nobody outside reaches it.
    """
    hop = _hop(address)
    return hop is not None and hop.is_private


def is_documentation(ip: str) -> bool:
    """RFC 5737, 3849 and 2544 ranges. They stand for public addresses in laboratories and examples, and no real
    network uses them, so they are judged like public ones."""
    return _is_documentation(_parsed(ip))


def _is_documentation(ip: _IP) -> bool:
    return any(ip.version == net.version and ip in net for net in _DOCUMENTATION)


def is_public(address: str) -> bool:
    """A unicast address that anybody could dial: neither private nor a circuit, wildcard, multicast or name."""
    hop = _hop(address)
    return hop is not None and hop.is_public


def subnet_of(address: str) -> bytes | None:
    """The network one holder is assumed to control: /24 of IPv4 (3 bytes), /56 of IPv6 (7 bytes). None without IP.

    Limits are counted per subnet: one more address in the same one costs an attacker nothing.
    """
    hop = _hop(address)
    if hop is None:
        return None
    packed = hop.ip.packed
    return packed[:3] if len(packed) == 4 else packed[:7]


def path_of(remote: str) -> PathKind:
    """What kind of path a plain dial to, or from, this address is."""
    if is_circuit(remote):
        return PathKind.RELAYED
    return PathKind.LAN if is_private(remote) else PathKind.DIRECT


def with_peer(address: str, peer_id: PeerId) -> str:
    """`address/p2p/PEER`; unchanged when it ends so already."""
    suffix = f"/p2p/{peer_id}"
    return address if address.endswith(suffix) else address + suffix


def split_peer(text: str) -> tuple[Address, PeerId]:
    """`<address>/p2p/PEER` into its two parts. Raises ValueError when the last part isn't a peer id or is missing."""
    address, mark, peer = text.strip().rpartition("/p2p/")
    if not mark or "/" in peer or not address.startswith("/"):
        raise ValueError(f"{text!r} doesn't end in /p2p/<peer id>")
    return Address(address), _peer(peer)


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _peer(text: str) -> PeerId:
    """Raises ValueError. Cached: base58 is slow to read, and the peers whose addresses pass by are few."""
    return PeerId.parse(text)


def relay_of(circuit: str) -> tuple[Address, PeerId] | None:
    """The relay's address and id of a circuit address; None when it is none or is malformed."""
    if not is_circuit(circuit):
        return None
    try:
        return split_peer(circuit.partition(CIRCUIT)[0])
    except ValueError:
        return None


def expand(address: Address, interfaces: Iterable[Address]) -> tuple[Address, ...]:
    """The real addresses of a listener: a wildcard becomes one address for each interface of its IP version.

    Link-local ones are left out (they need a zone to dial). Loopback is left out unless there is nothing else.
    """
    parts = host_port(address)
    if parts is None or not is_wildcard(address):
        return (address,)
    version = address[1:4]
    usable = [i for i in interfaces if i.startswith(f"/{version}/") and not is_link_local(i)]
    outside = [i for i in usable if not is_loopback(i)]
    return tuple(dict.fromkeys(Address(f"{i}/tcp/{parts[1]}") for i in outside or usable))


def host_and_port(text: str) -> tuple[str, int]:
    """Raises UsageError for anything but HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{text!r} isn't HOST:PORT, e.g. 127.0.0.1:9464")
    return host.strip("[]"), int(port)
