"""A stock py-libp2p host as a process of its own: serves echo, ping and identify; with an address, dials and echoes.

Prints one line of JSON for each thing done. Run by test_overlay_interop.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport

ECHO: Any = "/test/echo/1.0.0"


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def echo(stream: Any) -> None:
    data = await stream.read(5)
    await stream.write(data)
    await stream.close()


async def main() -> None:
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler(ECHO, echo)
        tell(address=str(host.get_addrs()[0]))
        if len(sys.argv) > 1:
            peer = info_from_p2p_addr(multiaddr.Multiaddr(sys.argv[1]))
            await host.connect(peer)
            stream = await host.new_stream(peer.peer_id, [ECHO])
            await stream.write(b"hello")
            tell(echo=(await stream.read(5)).decode())
            await stream.close()
            from libp2p.host.ping import PingService

            tell(ping=len(await PingService(host).ping(peer.peer_id, ping_amt=2)))
            from libp2p.identity.identify.identify import ID as IDENTIFY
            from libp2p.identity.identify.pb.identify_pb2 import Identify
            from libp2p.utils import decode_varint_with_size

            stream = await host.new_stream(peer.peer_id, [IDENTIFY])
            raw = bytearray()
            while True:
                try:
                    piece = await stream.read(4096)
                except (StreamError, IOException):
                    break
                if not piece:
                    break
                raw += piece
            length, used = decode_varint_with_size(bytes(raw))
            message = Identify.FromString(bytes(raw[used : used + length]))
            tell(agent=message.agent_version, protocols=sorted(message.protocols))
        await trio.to_thread.run_sync(sys.stdin.read)  # the test closes it when done
        await host.close()


trio.run(main)
