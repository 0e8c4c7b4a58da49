"""Which autonomous system announces an address, from a file of ranges: for the directory's diversity limits.

The file is a table as iptoasn.com and others publish it: a line for each range, with first address, last address and AS
number, separated by tabs; what follows isn't read. AS 0 means: announced by nobody. IPv4 and IPv6 may be mixed.
"""

from __future__ import annotations

import ipaddress
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

from p2pe.core.addresses import host_port
from p2pe.errors import UsageError
from p2pe.model import Address

_IPV6_SHIFT = 64  # routes are never longer than a /64: the upper half of an address is enough


class AsnRanges:
    """20 bytes a range: half a million take 10 MB."""

    def __init__(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Rows of (IP version, first, last, AS number), addresses as integers."""
        self._starts = {4: array("Q"), 6: array("Q")}
        self._ends = {4: array("Q"), 6: array("Q")}
        self._numbers = {4: array("I"), 6: array("I")}
        for version, first, last, number in sorted(rows):
            self._starts[version].append(first)
            self._ends[version].append(last)
            self._numbers[version].append(number)

    def __len__(self) -> int:
        return sum(map(len, self._starts.values()))

    def __call__(self, address: Address) -> int | None:
        """None for an address without IP, or that nobody announces."""
        parts = host_port(address)
        if parts is None:
            return None
        ip = ipaddress.ip_address(parts[0])
        place = int(ip) >> (_IPV6_SHIFT if ip.version == 6 else 0)
        at = bisect_right(self._starts[ip.version], place) - 1
        if at < 0 or place > self._ends[ip.version][at]:
            return None
        return self._numbers[ip.version][at] or None


def load_asn_map(path: Path) -> AsnRanges:
    """Raises UsageError, naming the line, for what can't be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"the map of autonomous systems {path} can't be read: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rows.append(_row(line.split("\t")))
        except (ValueError, IndexError):
            raise UsageError(f"{path}, line {number}: not first address, last address and AS number, by tabs") from None
    return AsnRanges(rows)


def _row(cells: list[str]) -> tuple[int, int, int, int]:
    first, last, number = ipaddress.ip_address(cells[0]), ipaddress.ip_address(cells[1]), int(cells[2])
    if first.version != last.version or int(first) > int(last) or not 0 <= number < 1 << 32:
        raise ValueError
    shift = _IPV6_SHIFT if first.version == 6 else 0
    return first.version, int(first) >> shift, int(last) >> shift, number
