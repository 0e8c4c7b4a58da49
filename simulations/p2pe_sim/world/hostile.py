"""Bootstrap nodes that misbehave: relays that drop, alter or replay, DHT servers that are silent, forget or lie.

Each is the production service with one method replaced. What they did is counted: a hostile node that nobody used
tested nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from p2pe.config import KAD_PROTOCOL
from p2pe.model import Address, PeerId, PeerInfo
from p2pe.overlay.kad_codec import KadMessage, Kind
from p2pe.ports import Stream
from p2pe_bootstrap.services import Services

from p2pe_sim.plan import Behaviour

_PATIENCE: Final = (4_000, 40_000)  # bytes of a circuit that a dropping relay forwards before it stops
_OFTEN: Final = 0.05  # share of the pieces that are altered or repeated
_INVENTED: Final = 5  # peers in a lie


class _Tampered:
    """The far stream of a circuit, as a hostile relay writes to it."""

    def __init__(self, stream: Any, behaviour: Behaviour, rng: Random, count: Callable[[], None]) -> None:
        self._stream = stream
        self._behaviour = behaviour
        self._rng = rng
        self._count = count
        self._left = rng.randint(*_PATIENCE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send_all(self, data: bytes) -> None:
        match self._behaviour:
            case Behaviour.RELAY_DROPS:
                self._left -= len(data)
                if self._left < 0:
                    self._count()
                    return
            case Behaviour.RELAY_CORRUPTS:
                if data and self._rng.random() < _OFTEN:
                    self._count()
                    at = self._rng.randrange(len(data))
                    data = data[:at] + bytes([data[at] ^ 1 << self._rng.randrange(8)]) + data[at + 1 :]
            case _:
                if self._rng.random() < _OFTEN:
                    self._count()
                    data = data + data
        await self._stream.send_all(data)


def misbehave(services: Services, behaviour: Behaviour, rng: Random, count: Callable[[], None]) -> None:
    """Makes the running services behave so. `count` is called at each misdeed."""
    relay: Any = services.relay
    server: Any = services.dht.server
    match behaviour:
        case Behaviour.HONEST:
            pass
        case Behaviour.RELAY_DROPS | Behaviour.RELAY_CORRUPTS | Behaviour.RELAY_REPLAYS:
            carry = relay._carry

            async def tampered(source: Any, target: Any, circuit: Any) -> None:
                await carry(source, _Tampered(target, behaviour, rng, count), circuit)

            relay._carry = tampered
        case Behaviour.DHT_SILENT:

            async def silent(stream: Stream) -> None:
                while await stream.receive_some():
                    count()

            services.host.handle(KAD_PROTOCOL, silent)
        case Behaviour.DHT_FORGETS:
            _answering(server, lambda request, answer: _forgets(request, answer, count))
        case Behaviour.DHT_LIES:
            _answering(server, lambda request, answer: _lies(request, answer(), rng, count))


def _answering(server: Any, change: Callable[[KadMessage, Callable[[], KadMessage]], KadMessage]) -> None:
    honest = server.answer

    def answer(request: KadMessage, connection: Any) -> KadMessage:
        return change(request, lambda: honest(request, connection))

    server.answer = answer


def _forgets(request: KadMessage, answer: Callable[[], KadMessage], count: Callable[[], None]) -> KadMessage:
    if request.kind is not Kind.PUT_VALUE:
        return answer()
    count()
    return KadMessage(Kind.PUT_VALUE, request.key, request.value)


def _lies(request: KadMessage, honest: KadMessage, rng: Random, count: Callable[[], None]) -> KadMessage:
    if request.kind not in (Kind.FIND_NODE, Kind.GET_VALUE):
        return honest
    count()
    invented = tuple(
        PeerInfo(
            PeerId(b"\x00\x24\x08\x01\x12\x20" + rng.randbytes(32)),
            (Address(f"/ip4/{rng.randint(20, 89)}.{rng.randrange(256)}.{rng.randrange(256)}.9/tcp/4001"),),
        )
        for _ in range(_INVENTED)
    )
    value = honest.value
    if value:
        at = rng.randrange(len(value))
        value = value[:at] + bytes([value[at] ^ 0x40]) + value[at + 1 :]
    return KadMessage(honest.kind, honest.key, value, invented)
