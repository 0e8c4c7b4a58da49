"""Circuit relay messages on streams, and a circuit as a byte stream.

Source: libp2p circuit-v2 and DCUtR specifications. Every message is length-delimited by an unsigned varint. After the
last STATUS the same stream carries the circuit's bytes, so what was read too far belongs to the circuit.
"""

from __future__ import annotations

from typing import Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from p2pe import config
from p2pe.core.varint import DelimitedReader, delimit
from p2pe.errors import RemoteError
from p2pe.model import Address, PeerId
from p2pe.ports import Stream
from p2pe.proto.circuit_pb2 import HopMessage, Status, StopMessage

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"

M = TypeVar("M", bound=Message)


class MessageStream:
    """Length-delimited messages of at most RELAY_MESSAGE_BYTES on a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = DelimitedReader(config.RELAY_MESSAGE_BYTES)

    async def send(self, message: Message) -> None:
        """Raises stream errors."""
        await self.stream.send_all(delimit(message.SerializeToString()))

    async def receive(self, kind: type[M]) -> M:
        """The next message. Raises RemoteError for what isn't one, and stream errors."""
        while (raw := self._reader.next_message()) is None:
            piece = await self.stream.receive_some()
            if not piece:
                raise RemoteError("the stream ended within a relay message")
            self._reader.receive(piece)
        try:
            return kind.FromString(raw)
        except DecodeError:
            raise RemoteError("a relay message can't be decoded") from None

    def rest(self) -> bytes:
        """Bytes read beyond the last message. Call once, when the messages are over."""
        return self._reader.take_rest()


def hop_status(status: Status) -> HopMessage:
    return HopMessage(type=HopMessage.STATUS, status=status)


def stop_status(status: Status) -> StopMessage:
    return StopMessage(type=StopMessage.STATUS, status=status)


def plausible_peer(raw: bytes) -> PeerId:
    """A peer id out of a message. Raises RemoteError when it can't be one."""
    try:
        return PeerId.parse(str(PeerId(raw)))
    except ValueError:
        raise RemoteError("a relay message names no peer id") from None


class CircuitStream:
    """A circuit as ports.ByteStream: what TCP is to a direct connection. `local` and `remote` are circuit addresses."""

    def __init__(self, stream: Stream, unread: bytes, address: Address) -> None:
        self.stream = stream
        self.local = address
        self.remote = address
        self._unread = unread

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    def send_now(self, data: bytes) -> int:
        return self.stream.send_now(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._unread:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._unread)
            piece, self._unread = self._unread[:size], self._unread[size:]
            return piece
        return await self.stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.stream.aclose()
