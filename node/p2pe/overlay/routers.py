"""Talking to the router of this network: PCP, NAT-PMP and UPnP over real sockets. Codecs: core/natpmp.py, core/upnp.py.

Each class maps one TCP port, and raises Unreachable when its protocol isn't spoken there or the router won't.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import trio

from p2pe import config
from p2pe.core import natpmp, upnp
from p2pe.errors import RemoteError, Unreachable
from p2pe.ports import Entropy

T = TypeVar("T")
_FIRST_WAIT: Final = 0.25  # seconds, doubling (RFC 6886 section 3.1)
_DEAD: Final = (OSError, trio.BrokenResourceError)


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a router granted."""

    method: str  # "PCP", "NAT-PMP" or "UPnP"
    external_ip: str
    external_port: int
    lifetime: float  # seconds


class Router(Protocol):
    """One way to map a port."""

    async def map(self, port: int, wish: int) -> Mapping:
        """Makes or renews the mapping of `port`; `wish` is the outside port wanted. Raises Unreachable."""
        ...

    async def unmap(self, port: int, mapping: Mapping) -> None:
        """Raises Unreachable."""
        ...


async def _ask(gateway: str, port: int, request: bytes, read: Callable[[bytes], T], seconds: float) -> T:
    """One UDP exchange, repeated while nothing comes. Raises Unreachable, and what `read` raises."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        problem = "it doesn't answer"
        try:
            with trio.move_on_after(seconds):
                await sock.connect((gateway, port))  # datagrams of others aren't taken, and a closed port tells
                wait = _FIRST_WAIT
                while True:
                    await sock.send(request)
                    with trio.move_on_after(wait):
                        while True:
                            answer = await sock.recv(natpmp.MAX_ANSWER_BYTES)
                            try:
                                return read(answer)
                            except natpmp.Refused:
                                raise
                            except RemoteError as error:
                                problem = str(error)  # a late answer to something else: wait for ours
                    wait *= 2
        except OSError as error:
            problem = error.strerror or str(error)
        raise Unreachable(problem)


class NatPmp:
    """NAT-PMP (RFC 6886)."""

    def __init__(self, gateway: str, port: int = natpmp.PORT, patience: float = 1.0) -> None:
        self._gateway, self._port, self._patience = gateway, port, patience

    async def map(self, port: int, wish: int) -> Mapping:
        try:
            address = await self._exchange(natpmp.address_request(), natpmp.read_address)
            request = natpmp.map_request(port, wish, config.PORT_MAPPING_SECONDS)
            granted = await self._exchange(request, lambda answer: natpmp.read_mapping(answer, port))
        except RemoteError as error:
            raise Unreachable(f"NAT-PMP: {error}") from None
        return Mapping("NAT-PMP", address, granted.external_port, float(granted.lifetime))

    async def unmap(self, port: int, mapping: Mapping) -> None:
        try:
            await self._exchange(natpmp.map_request(port, 0, 0), lambda answer: natpmp.read_mapping(answer, port))
        except RemoteError as error:
            raise Unreachable(f"NAT-PMP: {error}") from None

    async def _exchange(self, request: bytes, read: Callable[[bytes], T]) -> T:
        return await _ask(self._gateway, self._port, request, read, self._patience)


class Pcp:
    """PCP (RFC 6887). `client` is our own address towards the router."""

    def __init__(
        self, gateway: str, client: str, entropy: Entropy, port: int = natpmp.PORT, patience: float = 1.0
    ) -> None:
        self._gateway, self._client, self._port, self._patience = gateway, client, port, patience
        self._nonce = entropy(natpmp.PCP_NONCE_BYTES)

    async def map(self, port: int, wish: int) -> Mapping:
        granted = await self._exchange(port, wish, config.PORT_MAPPING_SECONDS)
        return Mapping("PCP", granted.address or "0.0.0.0", granted.external_port, float(granted.lifetime))

    async def unmap(self, port: int, mapping: Mapping) -> None:
        await self._exchange(port, mapping.external_port, 0)

    async def _exchange(self, port: int, wish: int, lifetime: int) -> natpmp.Granted:
        request = natpmp.pcp_request(self._client, self._nonce, port, wish, lifetime)

        def read(answer: bytes) -> natpmp.Granted:
            return natpmp.read_pcp(answer, self._nonce, port)

        try:
            return await _ask(self._gateway, self._port, request, read, self._patience)
        except RemoteError as error:
            raise Unreachable(f"PCP: {error}") from None


class Upnp:
    """A UPnP Internet gateway, found by multicast from `client`, our own address on that network."""

    def __init__(self, client: str, gateway: str | None, search: tuple[str, int] = (upnp.GROUP, upnp.PORT)) -> None:
        """Of several the one at `gateway` is taken; with None, any."""
        self._client, self._gateway, self._search = client, gateway, search
        self._control: upnp.Control | None = None

    async def map(self, port: int, wish: int) -> Mapping:
        try:
            with trio.fail_after(2 * config.PORT_MAPPING_TIMEOUT):
                control = self._control or await self._find()
                address = await self._call(control, "GetExternalIPAddress", {}, "NewExternalIPAddress")
                mapping = await self._add(control, port, wish, address)
        except trio.TooSlowError:
            raise Unreachable("UPnP: the router didn't answer in time") from None
        except _DEAD:
            raise Unreachable("UPnP: the router doesn't answer") from None
        except RemoteError as error:
            raise Unreachable(f"UPnP: {error}") from None
        self._control = control
        return mapping

    async def _add(self, control: upnp.Control, port: int, wish: int, address: str) -> Mapping:
        seconds = config.PORT_MAPPING_SECONDS
        for attempt in range(4):
            try:
                await self._call(
                    control, "AddPortMapping", upnp.add_mapping(wish, self._client, port, seconds), "nothing"
                )
            except upnp.SoapFault as fault:
                if fault.number == upnp.ONLY_PERMANENT and seconds:
                    seconds = 0
                elif fault.number == upnp.CONFLICT and attempt < 3:
                    wish = 1024 + (wish * 7 + 4_099) % 64_000  # somebody else's: another one
                else:
                    raise
            else:
                return Mapping("UPnP", address, wish, float(seconds or config.PORT_MAPPING_SECONDS))
        raise RemoteError("the router has given every port away")

    async def unmap(self, port: int, mapping: Mapping) -> None:
        if self._control is None:
            return
        try:
            arguments = upnp.delete_mapping(mapping.external_port)
            await self._call(self._control, "DeletePortMapping", arguments, "nothing")
        except (RemoteError, *_DEAD) as error:
            raise Unreachable(f"UPnP: {error}") from None

    async def _find(self) -> upnp.Control:
        """Searches, and asks what answers how it takes orders. Raises RemoteError, OSError, BrokenResourceError."""
        location = await self._location()
        if location is None:
            raise RemoteError("no router answers a search")
        status, body = upnp.split_answer(await _http(location[:2], upnp.description_request(location)))
        if status != 200:
            raise RemoteError(f"the router doesn't describe itself (HTTP {status})")
        return upnp.control_of(body, location)

    async def _location(self) -> tuple[str, int, str] | None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.bind((self._client, 0))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._client))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
            for datagram in upnp.searches():
                await sock.sendto(datagram, self._search)
            with trio.move_on_after(config.PORT_MAPPING_TIMEOUT):
                for _ in range(config.PORT_MAPPING_ANSWERS):
                    answer, (sender, *_) = await sock.recvfrom(4 * config.KIB)
                    location = upnp.location_of(answer, sender)
                    if location is not None and self._gateway in (None, sender):
                        return location
        return None

    async def _call(self, control: upnp.Control, action: str, arguments: dict[str, str], wanted: str) -> str:
        request = upnp.order(control, action, arguments)
        return upnp.result_of(await _http((control.host, control.port), request), wanted)


async def _http(where: tuple[str, int], request: bytes) -> bytes:
    """One request over one connection; the whole answer. Raises OSError, BrokenResourceError, RemoteError."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        answer = bytearray()
        with trio.move_on_after(config.PORT_MAPPING_TIMEOUT):
            await sock.connect(where)
            stream = trio.SocketStream(sock)
            await stream.send_all(request)
            with suppress(trio.BrokenResourceError):  # after the answer some routers reset
                while len(answer) <= config.ROUTER_ANSWER_BYTES:
                    piece = await stream.receive_some(config.ROUTER_ANSWER_BYTES)
                    if not piece:
                        break
                    answer += piece
        if len(answer) > config.ROUTER_ANSWER_BYTES:
            raise RemoteError("the router's answer is too large")
        return bytes(answer)
