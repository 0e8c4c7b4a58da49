"""A stock py-libp2p host obeying the line protocol of lines.mjs: the test streams, and relay v2 in each role.

Its first argument is JSON: {"relay": true} serves as a relay.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from libp2p.tools.anyio_service import background_trio_service
from streams_kit import SINK, SOURCE, pattern

OPTIONS: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
READ = 65_536


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def read_all(stream: Any) -> bytes:
    parts = []
    while piece := await _read(stream):
        parts.append(piece)
    return b"".join(parts)


async def _read(stream: Any) -> bytes:
    from libp2p.io.exceptions import IOException
    from libp2p.network.stream.exceptions import StreamError

    try:
        return bytes(await stream.read(READ))
    except (StreamError, IOException) as error:
        if "EOF" in type(error).__name__:
            return b""
        raise


def found(data: bytes) -> dict[str, object]:
    return {"count": len(data), "sha256": sha256(data).hexdigest()}


async def serve_sink(stream: Any) -> None:
    await stream.write(json.dumps(found(await read_all(stream))).encode())
    await stream.close()


async def serve_source(stream: Any) -> None:
    for piece in pattern(int(await read_all(stream))):
        await stream.write(piece)
    await stream.close()


class Peer:
    def __init__(self, host: Any, transport: CircuitV2Transport, nursery: trio.Nursery) -> None:
        self.host, self.transport, self.nursery = host, transport, nursery

    async def open(self, to: str, protocol: str) -> Any:
        """Over a circuit that is dialled for it, or over a direct connection."""
        if "/p2p-circuit" not in to:
            peer = info_from_p2p_addr(multiaddr.Multiaddr(to))
            await self.host.connect(peer)
            return await self.host.new_stream(peer.peer_id, [protocol])
        await self.host.connect(info_from_p2p_addr(multiaddr.Multiaddr(to.split("/p2p-circuit")[0])))
        connection: Any = await self.transport.dial(multiaddr.Multiaddr(to))
        stream = await connection.new_stream()
        await self.host.multiselect_client.select_one_of([protocol], MultiselectCommunicator(stream))
        stream.set_protocol(protocol)
        return stream

    async def sink(self, to: str, size: int) -> object:
        stream = await self.open(to, SINK)
        for piece in pattern(size):
            await stream.write(piece)
        await stream.close_write()
        return json.loads(await read_all(stream))

    async def source(self, to: str, size: int) -> object:
        stream = await self.open(to, SOURCE)
        await stream.write(str(size).encode())
        await stream.close_write()
        return found(await read_all(stream))

    async def reserve(self, relay: str) -> bool:
        peer = info_from_p2p_addr(multiaddr.Multiaddr(relay))
        await self.host.connect(peer)
        stream = await self.host.new_stream(peer.peer_id, [HOP])
        return await self.transport.reserve(stream, peer.peer_id, self.nursery)


async def obey(peer: Peer, line: dict[str, Any]) -> None:
    number, name = line.pop("id"), line.pop("do")
    try:
        tell(id=number, ok=await getattr(peer, name)(**line))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
        tell(id=number, error=f"{type(error).__name__}: {error}")


async def main() -> None:
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]), trio.open_nursery() as nursery:
        host.set_stream_handler(SINK, serve_sink)  # type: ignore[arg-type]
        host.set_stream_handler(SOURCE, serve_source)  # type: ignore[arg-type]
        limits = RelayLimits(duration=600, data=1 << 30, max_circuit_conns=8, max_reservations=8)
        protocol = CircuitV2Protocol(host, limits, allow_hop=OPTIONS.get("relay", False))
        transport = CircuitV2Transport(host, protocol, RelayConfig(roles=RelayRole.STOP | RelayRole.CLIENT))
        host.get_network().transport_manager.add_transport(transport)  # type: ignore[attr-defined]
        async with background_trio_service(protocol):
            peer = Peer(host, transport, nursery)
            tell(event="ready", peer=str(host.get_id()), addresses=[str(a) for a in host.get_addrs()])
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                nursery.start_soon(obey, peer, json.loads(line))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
