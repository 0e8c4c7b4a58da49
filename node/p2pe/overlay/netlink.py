"""Notices that this machine's network has changed: addresses of its interfaces, or its default gateways.

On Linux the kernel says so (rtnetlink(7) multicast groups); elsewhere, and where the socket is refused, we look every
NETWORK_POLL_SECONDS. The kernel's word is only a hint to look: what counts is that addresses or gateways differ.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from p2pe import config
from p2pe.core.addresses import is_link_local
from p2pe.core.gateways import ipv4_gateways, ipv6_gateways
from p2pe.model import Address

Interfaces = Callable[[], Awaitable[tuple[Address, ...]]]
Snapshot = tuple[frozenset[Address], tuple[str, ...]]

_PROC_NET: Final = Path("/proc/thread-self/net")  # of this thread's network namespace
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_ LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_NETLINK_ROUTE: Final = 0
_DATAGRAM_BYTES: Final = 64 * config.KIB
_NO_LINK: Final = (errno.ENOBUFS, errno.EAGAIN)  # messages were lost: the same as a message


def gateways() -> tuple[str, ...]:
    """Default gateways of this machine, best IPv4 first; empty where the system doesn't tell."""
    found: list[str] = []
    for name, read in (("route", ipv4_gateways), ("ipv6_route", ipv6_gateways)):
        try:
            found += read((_PROC_NET / name).read_text())
        except (OSError, UnicodeDecodeError):
            continue
    return tuple(found)


class Changes:
    """Implements ports.NetworkChanges. Made by `open_changes`."""

    def __init__(self, interfaces: Interfaces, netlink: trio.socket.SocketType | None, before: Snapshot) -> None:
        self._interfaces = interfaces
        self._netlink = netlink
        self._before = before

    async def wait(self) -> None:
        """Returns when addresses or gateways are others than at the last return."""
        while True:
            await self._hint()
            now = await _snapshot(self._interfaces)
            if now != self._before:
                self._before = now
                return

    async def _hint(self) -> None:
        """Until it may be worth to look, and the burst of messages about one change is over."""
        if self._netlink is None:
            await trio.sleep(config.NETWORK_POLL_SECONDS)
            return
        await _receive(self._netlink)
        with trio.move_on_after(config.NETWORK_SETTLE_MAX):
            while True:
                with trio.move_on_after(config.NETWORK_SETTLE_SECONDS) as quiet:
                    await _receive(self._netlink)
                if quiet.cancelled_caught:
                    return


async def _receive(netlink: trio.socket.SocketType) -> None:
    try:
        await netlink.recv(_DATAGRAM_BYTES)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise


async def _snapshot(interfaces: Interfaces) -> Snapshot:
    """Without link-local addresses: containers and virtual machines come and go with them, and nobody dials them."""
    found = await interfaces()
    return frozenset(address for address in found if not is_link_local(address)), gateways()


@asynccontextmanager
async def open_changes(interfaces: Interfaces, *, poll: bool = False) -> AsyncIterator[Changes]:
    """Watches from now on; `poll` does without the kernel's word."""
    netlink = None if poll else _netlink_socket()
    try:
        yield Changes(interfaces, netlink, await _snapshot(interfaces))
    finally:
        if netlink is not None:
            netlink.close()


def _netlink_socket() -> trio.socket.SocketType | None:
    """None where there is none, or a sandbox forbids it."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_RAW, _NETLINK_ROUTE)
        sock.bind((0, _GROUPS))
        return trio.socket.from_stdlib_socket(sock)
    except OSError:
        if sock is not None:
            sock.close()
        return None
