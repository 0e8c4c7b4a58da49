"""multistream-select 1.0: two sides agree on a protocol by exchanging lines.

Source: multiformats/multistream-select. A line on the wire is an unsigned varint length, then text and a newline.
py-libp2p's own waits for the greeting before it proposes (one more round trip on every stream), logs
failed proposals as errors and bounds no line; this one proposes at once and reads at most MULTISTREAM_MAX_LINE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final

from p2pe import config
from p2pe.core.varint import decode_varint, encode_varint
from p2pe.errors import RemoteError

GREETING: Final = "/multistream/1.0.0"
_NOT_AVAILABLE: Final = "na"
_READ_BYTES: Final = 64 * config.KIB

Receive = Callable[[int], Awaitable[bytes | bytearray]]
Send = Callable[[bytes], Awaitable[None]]


class NotSupported(RemoteError):
    """The other side speaks none of the protocols proposed."""

    code = "protocol_not_supported"


def line(text: str) -> bytes:
    raw = text.encode() + b"\n"
    return encode_varint(len(raw)) + raw


class LineReader:
    """Reads lines, and keeps what came in behind them: `rest` belongs to the protocol agreed on."""

    __slots__ = ("_receive", "rest")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.rest = bytearray()

    async def next_line(self) -> str:
        """Raises RemoteError when the line is too long, isn't text, or the stream ends before it does."""
        while True:
            found = self._cut()
            if found is not None:
                return found
            piece = await self._receive(_READ_BYTES)
            if not piece:
                raise RemoteError("the other side closed the stream while negotiating a protocol")
            self.rest += piece

    def has_line(self) -> bool:
        """Whether a whole line has come in already. Raises RemoteError as `next_line` does."""
        head = self._head()
        return head is not None and len(self.rest) >= sum(head)

    def _head(self) -> tuple[int, int] | None:
        head = decode_varint(self.rest)
        if head is not None and not 1 <= head[0] <= config.MULTISTREAM_MAX_LINE:
            raise RemoteError(f"a protocol negotiation line of {head[0]} bytes; the limit is 1 to 1,024")
        return head

    def _cut(self) -> str | None:
        head = self._head()
        if head is None or len(self.rest) < sum(head):
            return None
        length, start = head
        raw = bytes(self.rest[start : start + length])
        del self.rest[: start + length]
        if raw[-1:] != b"\n":
            raise RemoteError("a protocol negotiation line doesn't end in a newline")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError:
            raise RemoteError("a protocol negotiation line isn't text") from None


async def propose(reader: LineReader, send: Send, protocols: Sequence[str], *, trailing: bytes = b"") -> str:
    """Proposes each protocol in turn; returns the one accepted. Raises NotSupported, RemoteError, stream errors.

    `trailing` is sent right behind the first proposal, for a protocol whose dialer speaks first: it may be given
    only with a single protocol, since a refusal leaves it unread.
    """
    await send(line(GREETING) + line(protocols[0]) + trailing)
    await _expect_greeting(reader)
    for index, protocol in enumerate(protocols):
        if index:
            await send(line(protocol))
        answer = await reader.next_line()
        if answer == protocol:
            return protocol
        if answer != _NOT_AVAILABLE:
            raise RemoteError("the other side answered a protocol proposal with another protocol")
    raise NotSupported(f"the other side doesn't speak {' or '.join(protocols)}")


async def answer(reader: LineReader, send: Send, supported: Container[str], held: bytearray | None = None) -> str:
    """Answers proposals until one is supported; returns it. Raises NotSupported after too many, RemoteError.

    `held`: where the last answer is put instead of being sent, if what follows it has come in already: to go out
    with the protocol's own first words.
    """
    await _expect_greeting(reader)
    greeting = line(GREETING)
    if not reader.has_line():  # a dialer that waits for our greeting before it proposes
        await send(greeting)
        greeting = b""
    for _ in range(config.MULTISTREAM_MAX_PROPOSALS):
        proposal = await reader.next_line()
        if proposal in supported:
            if held is not None and reader.rest:
                held += greeting + line(proposal)
            else:
                await send(greeting + line(proposal))
            return proposal
        await send(greeting + line(_NOT_AVAILABLE))
        greeting = b""
    raise NotSupported("the other side proposed only protocols that we don't speak")


async def _expect_greeting(reader: LineReader) -> None:
    if await reader.next_line() != GREETING:
        raise RemoteError("the other side doesn't speak multistream-select 1.0")
