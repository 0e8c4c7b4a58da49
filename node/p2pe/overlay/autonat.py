"""AutoNAT v2: a server dials an address of ours back, and so shows whether strangers can.

Source: libp2p autonat/autonat-v2.md. The server dials from a throw-away host with a fresh key and port:
py-libp2p's reuses the connection that is already there and so reports every closed port as open (libp2p-facts, 6).

    /libp2p/autonat/2/dial-request    client: DialRequest{addresses, nonce};  server: [DialDataRequest], DialResponse
    /libp2p/autonat/2/dial-back       server, on the new connection: DialBack{nonce};  client: DialBackResponse{OK}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from google.protobuf.message import DecodeError

from p2pe import config
from p2pe.core.addresses import host_port, ip_of, is_public, subnet_of
from p2pe.core.kademlia.rates import RateLimiter
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import RemoteError, Unreachable
from p2pe.model import Address, PathKind, PeerId
from p2pe.overlay.connection import STREAM_ERRORS, HostConnection
from p2pe.overlay.host import OverlayHost, open_host
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.wire_addresses import address_from_bytes, address_to_bytes
from p2pe.ports import Stream
from p2pe.proto import autonat_pb2 as pb

log = structlog.get_logger(__name__)

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"
_MAX_MESSAGE: Final = 8 * config.KIB  # 16 addresses of 512 bytes, or one 4 KiB piece of data
_DATA_PIECE: Final = 4_096  # the specification's largest
_MAX_DATA: Final = 100_000  # bytes we are willing to pay for a dial
_MAX_CHECKS: Final = 32  # requests of ours under way


class Messages:
    """Length-delimited protobuf messages over a stream, both ways."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reader = DelimitedReader(_MAX_MESSAGE)

    async def send(self, message: pb.Message | pb.DialBack | pb.DialBackResponse) -> None:
        await self._stream.send_all(delimit(message.SerializeToString()))

    async def raw(self) -> bytes:
        """Raises RemoteError when it is too long or cut short."""
        while (message := self._reader.next_message()) is None:
            piece = await self._stream.receive_some()
            if not piece:
                raise RemoteError("the stream ended within an AutoNAT message")
            self._reader.receive(piece)
        return message

    async def next(self) -> pb.Message:
        try:
            return pb.Message.FromString(await self.raw())
        except DecodeError:
            raise RemoteError("an AutoNAT message can't be decoded") from None


# --- server ---


class AutonatServer:
    """Answers dial requests; bootstrap nodes run it. `willing` says which addresses it may be asked to dial."""

    def __init__(self, host: OverlayHost, willing: Callable[[Address], bool] = is_public) -> None:
        self._host = host
        self._willing = willing
        per_minute = config.AUTONAT_REQUESTS_PER_MINUTE
        self._all = RateLimiter(per_minute / 60, per_minute, 1)
        per_subnet = config.AUTONAT_REQUESTS_PER_SUBNET
        self._subnets = RateLimiter(per_subnet / 60, per_subnet, 4_096)
        self._under_way = 0
        self.requests = 0
        self.rejected = 0
        self.dialled = 0
        host.handle(DIAL_REQUEST, self._answer)

    async def _answer(self, stream: Stream) -> None:
        messages = Messages(stream)
        with trio.move_on_after(config.AUTONAT_TIMEOUT):
            request = (await messages.next()).dial_request
            response = await self._serve(stream, messages, request)
            await messages.send(pb.Message(dial_response=response))

    async def _serve(self, stream: Stream, messages: Messages, request: pb.DialRequest) -> pb.DialResponse:
        self.requests += 1
        remote = stream.connection.remote_address
        if stream.connection.path is PathKind.RELAYED or not request.addrs:
            return pb.DialResponse(status=pb.DialResponse.E_DIAL_REFUSED)
        now = trio.current_time()
        if (
            self._under_way >= config.AUTONAT_CONCURRENT
            or not self._subnets.allow(subnet_of(remote), now)
            or not self._all.allow("all", now)
        ):
            self.rejected += 1
            return pb.DialResponse(status=pb.DialResponse.E_REQUEST_REJECTED)
        chosen = self._choose(request)
        if chosen is None:
            return pb.DialResponse(status=pb.DialResponse.E_DIAL_REFUSED)
        index, address = chosen
        self._under_way += 1
        try:
            if ip_of(address) != ip_of(remote):
                await self._demand_data(messages, index)
            status = await self._dial_back(address, stream.remote_peer, request.nonce)
        finally:
            self._under_way -= 1
        return pb.DialResponse(status=pb.DialResponse.OK, addr_idx=index, dial_status=status)

    def _choose(self, request: pb.DialRequest) -> tuple[int, Address] | None:
        """The first address that we may and can dial: plain TCP over an IP version that we have ourselves."""
        for index, raw in enumerate(request.addrs[: config.AUTONAT_MAX_ADDRESSES]):
            address = address_from_bytes(bytes(raw))
            if address is None or host_port(address) is None or not self._willing(address):
                continue
            if any(own[:4] == address[:4] for own in self._host.listen_addresses()):
                return index, address
        return None

    async def _demand_data(self, messages: Messages, index: int) -> None:
        """The guard against amplification: who has us dial another IP pays more bytes than the dial costs."""
        demand = pb.DialDataRequest(addr_idx=index, num_bytes=config.AUTONAT_DATA_BYTES)
        await messages.send(pb.Message(dial_data_request=demand))
        left = config.AUTONAT_DATA_BYTES
        while left > 0:
            message = await messages.next()
            if not message.dial_data_response.data:
                raise RemoteError("the asker of a dial-back sent something else than the data demanded")
            left -= len(message.dial_data_response.data)

    async def _dial_back(self, address: Address, peer_id: PeerId, nonce: int) -> pb.DialStatus:
        self.dialled += 1
        status: pb.DialStatus = pb.E_DIAL_ERROR
        world = self._host.world
        async with open_host(world, key=HostKey.generate(world.entropy), limits=self._host.limits) as throw_away:
            try:
                connection = await throw_away.dial_address(peer_id, address)
                status = pb.E_DIAL_BACK_ERROR
                stream = await connection.open_stream(DIAL_BACK)
                messages = Messages(stream)
                await messages.send(pb.DialBack(nonce=nonce))
                await messages.raw()
                status = pb.OK
                await stream.aclose()
            except (Unreachable, RemoteError, *STREAM_ERRORS):
                pass  # `status` says how far it got
        return status


# --- client ---


@dataclass(slots=True)
class _Check:
    arrived: trio.Event
    over: Address | None = None  # the remote end of the dial-back


@dataclass(frozen=True, slots=True)
class Answer:
    """One server's verdict about one of the addresses asked about."""

    address: Address
    is_reachable: bool


class AutonatClient:
    """Asks servers, and takes their dial-backs."""

    def __init__(self, host: OverlayHost) -> None:
        self._host = host
        self._checks: dict[int, _Check] = {}
        host.handle(DIAL_BACK, self._take)

    async def check(self, connection: HostConnection, addresses: Sequence[Address]) -> Answer:
        """Asks one server, most wanted address first; it picks one. Raises Unreachable when it won't or can't."""
        if len(self._checks) >= _MAX_CHECKS:
            raise Unreachable("too many reachability checks are under way")
        nonce = int.from_bytes(self._host.world.entropy(8), "big")
        check = self._checks[nonce] = _Check(trio.Event())
        try:
            with trio.fail_after(config.AUTONAT_TIMEOUT):
                return await self._ask(connection, addresses[: config.AUTONAT_MAX_ADDRESSES], nonce, check)
        except trio.TooSlowError:
            raise Unreachable("the dial-back server didn't answer in time") from None
        except (RemoteError, *STREAM_ERRORS) as error:
            raise Unreachable(f"the dial-back server failed: {type(error).__name__}") from None
        finally:
            del self._checks[nonce]

    async def _ask(self, connection: HostConnection, addresses: Sequence[Address], nonce: int, check: _Check) -> Answer:
        stream = await connection.open_stream(DIAL_REQUEST)
        try:
            messages = Messages(stream)
            request = pb.DialRequest(addrs=[address_to_bytes(a) for a in addresses], nonce=nonce)
            await messages.send(pb.Message(dial_request=request))
            while True:
                message = await messages.next()
                if message.HasField("dial_data_request"):
                    await self._pay(messages, message.dial_data_request)
                elif message.HasField("dial_response"):
                    return self._judge(message.dial_response, addresses, check)
                else:
                    raise RemoteError("an unexpected AutoNAT message")
        finally:
            stream.reset()

    async def _pay(self, messages: Messages, demand: pb.DialDataRequest) -> None:
        if demand.num_bytes > _MAX_DATA:
            raise RemoteError(f"a dial-back server demands {demand.num_bytes} bytes; the limit is {_MAX_DATA}")
        piece = pb.Message(dial_data_response=pb.DialDataResponse(data=bytes(_DATA_PIECE)))
        for _ in range(-(-demand.num_bytes // _DATA_PIECE)):
            await messages.send(piece)

    def _judge(self, response: pb.DialResponse, addresses: Sequence[Address], check: _Check) -> Answer:
        if response.status != pb.DialResponse.OK:
            raise Unreachable(f"the dial-back server refused (status {response.status})")
        if response.addr_idx >= len(addresses):
            raise RemoteError("a dial-back server names an address that it wasn't given")
        address = addresses[response.addr_idx]
        if response.dial_status != pb.OK:
            return Answer(address, is_reachable=False)
        if not check.arrived.is_set():
            raise RemoteError("a dial-back server claims a dial-back that never came")
        return Answer(address, is_reachable=True)

    async def _take(self, stream: Stream) -> None:
        """A dial-back: whose nonce isn't ours is closed without an answer."""
        messages = Messages(stream)
        with trio.move_on_after(config.NEGOTIATION_TIMEOUT):
            try:
                nonce = pb.DialBack.FromString(await messages.raw()).nonce
            except DecodeError:
                raise RemoteError("a dial-back can't be decoded") from None
            check = self._checks.get(nonce)
            if check is None:
                stream.reset()
                return
            check.over = stream.connection.remote_address
            check.arrived.set()
            await messages.send(pb.DialBackResponse(status=pb.DialBackResponse.OK))
