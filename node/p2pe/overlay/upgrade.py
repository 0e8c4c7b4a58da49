"""From a raw byte stream to an authenticated, multiplexed connection: multistream-select, Noise, Yamux.

The same code runs over TCP, over a relayed circuit and in the simulator. Noise alone is offered: never plaintext.
A dialer sends its protocol proposal and its first Noise message in one write; with the muxer agreed on inside the
handshake an upgrade takes one round trip. The deadline for all of it is the caller's (HostLimits.upgrade_timeout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from p2pe.model import PeerId
from p2pe.overlay import multistream
from p2pe.overlay.hostkey import HostKey
from p2pe.overlay.noise import NOISE_PROTOCOL, NoiseHandshake, SecureStream, answer_noise, dial_noise, prefixed
from p2pe.ports import ByteStream, Entropy

YAMUX_PROTOCOL: Final = "/yamux/1.0.0"
_MUXERS: Final = (YAMUX_PROTOCOL,)


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A secured stream, the muxer agreed on, and who is at the other end."""

    stream: SecureStream
    remote_peer: PeerId
    is_dialer: bool
    round_trip: float  # seconds, as the handshake showed it


async def upgrade_outbound(raw: ByteStream, key: HostKey, entropy: Entropy, expected: PeerId) -> Upgraded:
    """The dialer's side. Raises WrongPeer, HandshakeError, RemoteError and stream errors; doesn't close `raw`.

    `is_dialer` of the result is False when the other side dialled at the same moment and the roles were drawn so.
    """
    handshake = NoiseHandshake(key, entropy, is_dialer=True, muxers=_MUXERS)
    reader = multistream.LineReader(raw.receive_some)
    started = trio.current_time()
    await multistream.propose(reader, raw.send_all, [NOISE_PROTOCOL], trailing=prefixed(handshake.first()))
    finished, stream = await dial_noise(
        handshake, raw, reader.rest, expected, lambda: NoiseHandshake(key, entropy, is_dialer=False, muxers=_MUXERS)
    )
    round_trip = trio.current_time() - started
    if finished.muxer is None:
        inner = multistream.LineReader(stream.receive_some)
        if finished.is_dialer:
            await multistream.propose(inner, stream.send_all, _MUXERS)
        else:
            await multistream.answer(inner, stream.send_all, _MUXERS)
        stream.unread(inner.rest)
    return Upgraded(stream, expected, finished.is_dialer, round_trip)


async def upgrade_inbound(raw: ByteStream, key: HostKey, entropy: Entropy) -> Upgraded:
    """The listener's side. Raises HandshakeError, RemoteError and stream errors; doesn't close `raw`."""
    reader = multistream.LineReader(raw.receive_some)
    held = bytearray()
    await multistream.answer(reader, raw.send_all, (NOISE_PROTOCOL,), held)
    handshake = NoiseHandshake(key, entropy, is_dialer=False, muxers=_MUXERS)
    stream, peer_id, round_trip = await answer_noise(handshake, raw, reader.rest, key.peer_id, bytes(held))
    if handshake.muxer is None:
        inner = multistream.LineReader(stream.receive_some)
        await multistream.answer(inner, stream.send_all, _MUXERS)
        stream.unread(inner.rest)
    return Upgraded(stream, peer_id, False, round_trip)
