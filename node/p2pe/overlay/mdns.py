"""Multicast on the local network: sends announcements, hands over those of others (core/mdns.py has their form).

Nothing here knows contacts: what the entries mean is for connectivity/nearby.py.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import structlog
import trio

from p2pe import config
from p2pe.core.addresses import host_port, ip_of, is_loopback, is_private
from p2pe.core.kademlia.rates import RateLimiter
from p2pe.core.mdns import GROUP, MAX_MESSAGE, PORT, Announcement, decode, encode, is_query, query
from p2pe.errors import RemoteError
from p2pe.model import Address
from p2pe.overlay.connections import AddressesChanged, NetworkChanged
from p2pe.overlay.host import OverlayHost

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the installed trio-stubs know it under this name alone

log = structlog.get_logger(__name__)

Compose = Callable[[int], Announcement | None]
"""What to announce for a port; None: nothing."""
Heard = Callable[[Address, Announcement], Awaitable[None]]
"""Somebody announces themselves; the address is where to dial them."""


def lan_listeners(host: OverlayHost) -> tuple[tuple[str, int], ...]:
    """Our private IPv4 addresses and the ports we listen on there, one port an address."""
    found: dict[str, int] = {}
    for address in host.own_addresses():
        parts = host_port(address)
        if parts is not None and address.startswith("/ip4/") and is_private(address) and not is_loopback(address):
            found.setdefault(*parts)
    return tuple(found.items())


class LanBeacon:
    """`run` is its task. `announce_soon` says that there is something new to tell."""

    def __init__(self, host: OverlayHost, compose: Compose, heard: Heard) -> None:
        self._host = host
        self._compose = compose
        self._heard = heard
        self._wake = trio.Event()
        self._asked = False  # whether to ask who is here with the next announcement
        self._rates = RateLimiter(config.LAN_MESSAGES_PER_SECOND, 4 * config.LAN_MESSAGES_PER_SECOND, 1)
        self._own: frozenset[bytes] = frozenset()  # nonces of our own last announcements: we hear them too

    def announce_soon(self, *, ask: bool = False) -> None:
        self._asked = self._asked or ask
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, or for good when the port can't be had: then nobody is found this way."""
        async with self._host.events() as events:
            task_status.started()
            while True:
                listeners = lan_listeners(self._host)
                async with trio.open_nursery() as nursery:
                    if listeners:
                        nursery.start_soon(self._on_network, listeners)
                    while lan_listeners(self._host) == listeners:
                        event = await events.receive()
                        if isinstance(event, NetworkChanged):
                            break
                        if isinstance(event, AddressesChanged):
                            continue
                    nursery.cancel_scope.cancel()

    async def _on_network(self, listeners: Sequence[tuple[str, int]]) -> None:
        """One set of addresses, until cancelled."""
        try:
            sock = await _group_socket([ip for ip, _ in listeners])
        except OSError as error:
            log.info("contacts on the local network can't be looked for", problem=error.strerror or str(error))
            return
        with sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, sock)
                self.announce_soon(ask=True)
                while True:
                    with trio.move_on_after(config.LAN_ANNOUNCE_SECONDS):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    await self._announce(sock, listeners)
                    await trio.sleep(config.LAN_ANSWER_PAUSE)

    async def _announce(self, sock: trio.socket.SocketType, listeners: Sequence[tuple[str, int]]) -> None:
        asked, self._asked = self._asked, False
        nonces = set()
        for ip, port in listeners:
            announcement = self._compose(port)
            if announcement is None:
                continue
            nonces.add(announcement.nonce)
            messages = [encode(announcement), *([query()] if asked else [])]
            self._own = self._own | nonces
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ip))
                for message in messages:
                    await sock.sendto(message, (GROUP, PORT))
            except OSError as error:
                log.debug("an announcement wasn't sent", problem=error.strerror)
        self._own = frozenset(nonces)

    async def _listen(self, sock: trio.socket.SocketType) -> None:
        while True:
            try:
                message, (ip, port, *_) = await sock.recvfrom(MAX_MESSAGE + 1)
            except OSError as error:
                log.debug("multicast failed", problem=error.strerror)
                await trio.sleep(config.LAN_ANSWER_PAUSE)
                continue
            source = Address(f"/ip4/{ip}")
            # RFC 6762 section 11: who isn't on this network has no say.
            if port != PORT or not is_private(source) or not self._rates.allow("all", trio.current_time()):
                continue
            if is_query(message):
                self.announce_soon()
                continue
            try:
                announcement = decode(message)
            except RemoteError:
                continue
            if announcement is not None and announcement.nonce not in self._own and ip_of(source) is not None:
                await self._heard(Address(f"{source}/tcp/{announcement.port}"), announcement)


async def _group_socket(interfaces: Sequence[str]) -> trio.socket.SocketType:
    """A member of the group on every interface, beside other responders of this machine. Raises OSError."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        await sock.bind(("", PORT))
        for ip in interfaces:
            group = socket.inet_aton(GROUP) + socket.inet_aton(ip)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock
