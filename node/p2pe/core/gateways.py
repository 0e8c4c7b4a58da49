"""Default gateways as the Linux kernel lists them, read from the text of its tables. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

_UP_GATEWAY: Final = 0x0003  # RTF_UP | RTF_GATEWAY (route(8))
_MAX_LINES: Final = 4_096  # a full routing table of a router isn't read to its end


def ipv4_gateways(table: str) -> tuple[str, ...]:
    """Addresses of the default gateways in the text of /proc/net/route, lowest metric first."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:_MAX_LINES]:
        fields = line.split()
        try:
            destination, gateway, flags = (int(fields[column], 16) for column in (1, 2, 3))
            metric, mask = int(fields[6]), int(fields[7], 16)
        except (IndexError, ValueError):
            continue
        if destination == mask == 0 and gateway and flags & _UP_GATEWAY == _UP_GATEWAY:
            # The kernel prints the big-endian address as a native word; Linux of today is little-endian.
            found.append((metric, str(ipaddress.IPv4Address(gateway.to_bytes(4, "little")))))
    return tuple(dict.fromkeys(address for _, address in sorted(found)))


def ipv6_gateways(table: str) -> tuple[str, ...]:
    """The same of /proc/net/ipv6_route, as `address%interface`: they are link-local as a rule."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[:_MAX_LINES]:
        fields = line.split()
        try:
            prefix, metric, flags = int(fields[1], 16), int(fields[5], 16), int(fields[8], 16)
            destination, gateway = bytes.fromhex(fields[0]), bytes.fromhex(fields[4])
            interface = fields[9]
        except (IndexError, ValueError):
            continue
        if prefix or any(destination) or len(gateway) != 16 or not any(gateway):
            continue
        if flags & _UP_GATEWAY == _UP_GATEWAY:
            found.append((metric, f"{ipaddress.IPv6Address(gateway)}%{interface}"))
    return tuple(dict.fromkeys(address for _, address in sorted(found)))
