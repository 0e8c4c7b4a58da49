"""A router for tests: speaks NAT-PMP (RFC 6886), PCP (RFC 6887) and UPnP on loopback ports, and keeps its mappings."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field

import trio

DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<deviceList><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>/ctl/IPConn</controlURL></service></serviceList></device></deviceList></device></root>"""


@dataclass
class FakeRouter:
    """`speaks`: any of "pcp", "natpmp", "upnp". `outside` is its outside address."""

    speaks: frozenset[str] = frozenset({"pcp", "natpmp", "upnp"})
    outside: str = "5.6.7.8"
    lifetime: int | None = None  # granted instead of what was asked for
    faults: list[int] = field(default_factory=list)  # UPnP errors given before it obliges
    noise: tuple[bytes, ...] = ()  # sent before every UDP answer
    description: str = DESCRIPTION
    mappings: dict[int, int] = field(default_factory=dict)  # outside port -> inside port
    requests: list[str] = field(default_factory=list)
    udp_port: int = 0
    ssdp_port: int = 0
    http_port: int = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        udp, ssdp = (trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with udp, ssdp:
            await udp.bind(("127.0.0.1", 0))
            await ssdp.bind(("127.0.0.1", 0))
            self.udp_port, self.ssdp_port = udp.getsockname()[1], ssdp.getsockname()[1]
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.http_port = listeners[0].socket.getsockname()[1]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, udp)
                nursery.start_soon(self._serve_ssdp, ssdp)
                nursery.start_soon(trio.serve_listeners, self._serve_http, listeners)
                task_status.started()

    async def _serve_udp(self, udp: trio.socket.SocketType) -> None:
        while True:
            request, sender = await udp.recvfrom(2_000)
            answer = self._pcp(request) if request[:1] == b"\x02" else self._natpmp(request)
            if answer is not None:
                for each in (*self.noise, answer):
                    await udp.sendto(each, sender)

    def _map(self, inside: int, wish: int, lifetime: int) -> tuple[int, int]:
        if not lifetime:
            self.mappings = {out: port for out, port in self.mappings.items() if port != inside}
            return 0, 0
        outside = wish or inside
        while self.mappings.get(outside, inside) != inside:
            outside += 1
        self.mappings[outside] = inside
        return outside, min(lifetime, self.lifetime or lifetime)

    def _natpmp(self, request: bytes) -> bytes | None:
        if "natpmp" not in self.speaks or request[0] != 0:
            return None
        if request == b"\x00\x00":
            return b"\x00\x80" + bytes(2) + (77).to_bytes(4, "big") + ipaddress.ip_address(self.outside).packed
        inside, wish = (int.from_bytes(request[at : at + 2], "big") for at in (4, 6))
        outside, lifetime = self._map(inside, wish, int.from_bytes(request[8:12], "big"))
        self.requests.append("natpmp")
        head = b"\x00\x82" + bytes(2) + (77).to_bytes(4, "big")
        return head + inside.to_bytes(2, "big") + outside.to_bytes(2, "big") + lifetime.to_bytes(4, "big")

    def _pcp(self, request: bytes) -> bytes | None:
        if "pcp" not in self.speaks:
            return b"\x00\x81\x00\x01" + bytes(4) if "natpmp" in self.speaks else None
        assert len(request) == 60 and request[1] == 1
        nonce, inside, wish = request[24:36], request[40:42], request[42:44]
        outside, lifetime = self._map(
            int.from_bytes(inside, "big"), int.from_bytes(wish, "big"), int.from_bytes(request[4:8], "big")
        )
        self.requests.append("pcp")
        head = b"\x02\x81\x00\x00" + lifetime.to_bytes(4, "big") + (77).to_bytes(4, "big") + bytes(12)
        address = bytes(10) + b"\xff\xff" + ipaddress.ip_address(self.outside).packed
        return head + nonce + b"\x06" + bytes(3) + inside + outside.to_bytes(2, "big") + address

    async def _serve_ssdp(self, ssdp: trio.socket.SocketType) -> None:
        while True:
            request, sender = await ssdp.recvfrom(2_000)
            if "upnp" in self.speaks and b"ssdp:discover" in request:
                for host in ("192.0.2.66", "127.0.0.1"):  # the first would lead elsewhere
                    location = f"http://{host}:{self.http_port}/rootDesc.xml"
                    await ssdp.sendto(f"HTTP/1.1 200 OK\r\nLocation: {location}\r\n\r\n".encode(), sender)

    async def _serve_http(self, stream: trio.SocketStream) -> None:
        request = b""
        while (found := re.search(rb"Content-Length: (\d+)", request)) is None or len(
            request.partition(b"\r\n\r\n")[2]
        ) < int(found.group(1)):
            piece = await stream.receive_some()
            request += piece
            if not piece or request.startswith(b"GET"):
                break
        status, body = self._upnp(request.decode())
        head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
        await stream.send_all(head.encode() + body.encode() + b"\r\n0\r\n\r\n")

    def _upnp(self, request: str) -> tuple[str, str]:
        if request.startswith("GET /rootDesc.xml "):
            return "200 OK", self.description
        action = re.search(r"#(\w+)\"", request)
        assert action is not None and request.startswith("POST /ctl/IPConn ")

        def argument(name: str) -> int:
            found = re.search(f"<{name}>(\\d+)</{name}>", request)
            return int(found.group(1)) if found else 0

        self.requests.append(action.group(1))
        if action.group(1) == "AddPortMapping" and self.faults:
            code = self.faults.pop(0)
            return "500 Error", f"<s:Fault xmlns:s='x'><UPnPError><errorCode>{code}</errorCode></UPnPError></s:Fault>"
        if action.group(1) == "AddPortMapping":
            self.mappings[argument("NewExternalPort")] = argument("NewInternalPort")
        elif action.group(1) == "DeletePortMapping":
            self.mappings.pop(argument("NewExternalPort"), None)
        return "200 OK", f"<r><NewExternalIPAddress>{self.outside}</NewExternalIPAddress></r>"
