"""Writes every IP packet that one interface sends or receives to a file, until it is ended. Run inside a namespace:

    python -m p2pe_sim.natlab.capture INTERFACE FILE        says "ready" when it listens

ARP and IPv6 neighbour discovery are left out: all public hosts of a laboratory share one Ethernet segment, which the
hosts of the real Internet don't.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

ETH_P_ALL = 0x0003
ETH_P_IPV4, ETH_P_IPV6 = 0x0800, 0x86DD
_ICMPV6 = 58
_NEIGHBOUR_DISCOVERY = range(133, 138)


def is_ip(frame: bytes) -> bool:
    """Whether an Ethernet frame carries IP, neighbour discovery excepted."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_P_IPV6 and len(frame) > 54 and frame[20] == _ICMPV6:
        return frame[54] not in _NEIGHBOUR_DISCOVERY
    return kind in (ETH_P_IPV4, ETH_P_IPV6)


def main() -> None:
    interface, path = sys.argv[1:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((interface, 0))
        with Path(path).open("wb", buffering=0) as sink:
            print("ready", flush=True)
            while True:
                frame = tap.recv(65_535)
                if is_ip(frame):
                    sink.write(frame[14:])


if __name__ == "__main__":
    main()
