"""TCP as `ports.Net`: the real network. The simulator has a virtual one with the same manners.

Listening sockets and bound outgoing ones share ports (SO_REUSEADDR and SO_REUSEPORT): hole punching dials from the
listen port, or the mapping a NAT made for it would be another one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import AbstractAsyncContextManager
from typing import Final

import ifaddr
import trio

from p2pe import config
from p2pe.core.addresses import host_port, tcp_address
from p2pe.model import Address
from p2pe.overlay.netlink import open_changes
from p2pe.ports import ByteStream, Listener, NetworkChanges

_BACKLOG: Final = 512
_RECEIVE_BYTES: Final = 128 * config.KIB  # a read: two Noise frames; larger ones were no faster
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpStream:
    """One TCP connection. The trio.SocketStream's behaviour and errors, plus the two addresses."""

    __slots__ = ("_stream", "local", "remote")

    def __init__(self, sock: trio.socket.SocketType) -> None:
        """Raises OSError when the socket is no longer connected."""
        self.local = _address_of(sock.getsockname())
        self.remote = _address_of(sock.getpeername())
        self._stream = trio.SocketStream(sock)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(memoryview(data))

    def send_now(self, data: bytes) -> int:
        try:
            return os.write(self._stream.socket.fileno(), data)  # trio's sockets don't block
        except OSError:
            return 0

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes or _RECEIVE_BYTES)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def reset_on_close(self, wanted: bool) -> None:
        try:
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(wanted), 0))
        except OSError:
            pass  # it is closed already

    async def aclose(self) -> None:
        await self._stream.aclose()


def reset_on_close(stream: ByteStream, wanted: bool) -> None:
    """Whether closing a real TCP stream drops what is unsent and forgets the pair of ports at once (SO_LINGER 0)."""
    if isinstance(stream, TcpStream):
        stream.reset_on_close(wanted)


class TcpListener:
    """A bound, listening port. `accept` waits out a shortage of descriptors instead of failing."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self.address = _address_of(sock.getsockname())

    async def accept(self) -> ByteStream:
        """The next connection. Raises trio.ClosedResourceError after `aclose`."""
        while True:
            try:
                sock, _ = await self._socket.accept()
            except trio.ClosedResourceError:
                raise
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise trio.ClosedResourceError("the listener was closed") from None
                if error.errno in _OUT_OF_DESCRIPTORS:
                    await trio.sleep(config.ACCEPT_RETRY_SECONDS)
                continue  # otherwise: that one connection died before it was accepted
            try:
                return TcpStream(sock)
            except OSError:
                sock.close()  # it went away between accept and getpeername

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


class RealNet:
    """The operating system's TCP."""

    async def listen(self, address: Address) -> Listener:
        family, where = _sockaddr(address)
        if where[1]:
            # With SO_REUSEPORT a second process would silently take half of the connections of the first.
            _require_free(family, where, address)
        sock = _reusable_socket(family)
        try:
            await sock.bind(where)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return TcpListener(sock)

    async def dial(self, address: Address, *, local: Address | None = None) -> ByteStream:
        family, where = _sockaddr(address)
        sock = trio.socket.socket(family, socket.SOCK_STREAM) if local is None else _reusable_socket(family)
        try:
            if local is not None:
                local_family, local_where = _sockaddr(local)
                if local_family == family:
                    await sock.bind(local_where)
            await sock.connect(where)
            return TcpStream(sock)
        except BaseException:
            sock.close()
            raise

    async def interfaces(self) -> tuple[Address, ...]:
        return tuple(
            Address(f"/ip4/{entry.ip}" if isinstance(entry.ip, str) else f"/ip6/{entry.ip[0]}")
            for adapter in ifaddr.get_adapters()
            for entry in adapter.ips
        )

    def changes(self) -> AbstractAsyncContextManager[NetworkChanges]:
        return open_changes(self.interfaces)

    async def resolve(self, name: str) -> tuple[str, ...]:
        found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _address_of(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    return tcp_address(sockaddr[0], sockaddr[1])


def _sockaddr(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    parts = host_port(address)
    if parts is None:
        raise OSError(errno.EAFNOSUPPORT, f"not an IP and TCP address: {address}")
    return (socket.AF_INET6 if address.startswith("/ip6/") else socket.AF_INET), parts


def _reusable_socket(family: socket.AddressFamily) -> trio.socket.SocketType:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _require_free(family: socket.AddressFamily, where: tuple[str, int], address: Address) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(errno.EADDRINUSE, "another program uses it") from None
            raise
