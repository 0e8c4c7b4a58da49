"""A session with a contact, after the handshake: frames in, frames out. Implements ports.Link.

The limits of docs/protocol.md on time and volume hold for what we send: beyond them `send` raises LinkClosed, and a
new handshake is due. links.py makes it beforehand. That the other machine is still there is the connection's
concern (its ping watcher notices a dead one within 9 s); a session has no idle traffic of its own.
"""

from __future__ import annotations

import trio

from p2pe.config import (
    GOODBYE_SECONDS,
    LINK_PING_TIMEOUT,
    SESSION_BUSY_SECONDS,
    SESSION_MAX_BYTES,
    SESSION_MAX_SECONDS,
    SESSION_RENEW_AT,
)
from p2pe.connectivity.streams import FrameStream
from p2pe.core.codec import PING_NONCE_BYTES, decode_frame, encode_frame
from p2pe.core.handshake import Established
from p2pe.core.patience import patience
from p2pe.errors import LinkClosed, RemoteError
from p2pe.model import (
    ContactId,
    Frame,
    Goodbye,
    GoodbyeReason,
    IdentityKey,
    Millis,
    PathKind,
    PeerId,
    Ping,
    Pong,
)
from p2pe.ports import Connection, World
from p2pe.rendezvous.pulse import Pulse


class Session:
    """One session. `is_dialer`: we opened it. `ended` is set once it is closed here."""

    def __init__(
        self,
        world: World,
        frames: FrameStream,
        established: Established,
        contact_id: ContactId,
        receipt_key: bytes,
    ) -> None:
        frames.established()
        self._world = world
        self._frames = frames
        self._send_cipher = established.send_cipher
        self._recv_cipher = established.recv_cipher
        self._contact_id = contact_id
        self._identity = established.peer_identity_key
        self._receipt_key = receipt_key
        self._established_at = world.clock.now()
        self._started = trio.current_time()
        self._send_lock = trio.StrictFIFOLock()
        self._bytes = 0
        self._heard = Pulse()
        self._heard_at = self._sent_at = self._started
        self._pong_owed: bytes | None = None  # the latest Ping's nonce; an older one needs no answer
        self._volume = trio.Event()  # so many bytes passed that a renewal is due
        self.chores = trio.Event()  # something for `do_chores`
        self._activity = Pulse()
        self.is_dialer = established.is_dialer
        self.version = established.version
        self.list_version = established.peer_certificate.list_version
        self.device_key = established.peer_certificate.device_key
        self.revoked = established.peer_certificate.revoked
        self.ended = trio.Event()
        self.goodbye: GoodbyeReason | None = None  # the other side's, if it said one
        self.retiring = False  # replaced by another one; closed when quiet
        self.broke = False  # its handler had to close it: nobody had decided that the link should end

    # --- what ports.Link shows ---

    @property
    def contact_id(self) -> ContactId:
        return self._contact_id

    @property
    def peer_identity(self) -> IdentityKey:
        return self._identity

    @property
    def receipt_key(self) -> bytes:
        return self._receipt_key

    @property
    def path(self) -> PathKind:
        return self.connection.path

    @property
    def established_at(self) -> Millis:
        return self._established_at

    # --- for links.py ---

    @property
    def connection(self) -> Connection:
        return self._frames.stream.connection

    @property
    def peer_id(self) -> PeerId:
        return self._frames.stream.remote_peer

    @property
    def age(self) -> float:
        """Seconds since the handshake."""
        return trio.current_time() - self._started

    @property
    def quiet(self) -> float:
        """Seconds since a frame went either way."""
        return trio.current_time() - max(self._heard_at, self._sent_at)

    @property
    def is_open(self) -> bool:
        """Neither side has ended it, as far as is known here. It may be past its limits."""
        return not self.ended.is_set() and self.connection.is_alive

    @property
    def is_usable(self) -> bool:
        """Whether `send` may still succeed: open, and within its limits."""
        return self.is_open and not self._is_spent()

    def _is_spent(self) -> bool:
        return self.age >= SESSION_MAX_SECONDS or self._bytes >= SESSION_MAX_BYTES

    async def wait_renewal_due(self) -> None:
        """Returns when the next session should be made: near either limit. An idle one waits for the next frame:
        renewing it would cost traffic and protect nothing."""
        with trio.move_on_after(SESSION_RENEW_AT * SESSION_MAX_SECONDS - self.age):
            await self._volume.wait()
            return
        if self.quiet >= SESSION_BUSY_SECONDS:
            await self._activity.beyond(self._activity.count)

    async def wait_quiet(self, seconds: float) -> None:
        """Returns when no frame has gone either way for so long."""
        while True:
            seen = self._activity.count
            with trio.move_on_after(seconds):
                await self._activity.beyond(seen)
                continue
            return

    # --- frames ---

    async def send(self, frames: tuple[Frame, ...]) -> None:
        """See ports.Link."""
        async with self._send_lock:
            if self.ended.is_set() or self._is_spent():
                raise LinkClosed("the session has ended")
            await self._write(*frames)

    async def _write(self, *frames: Frame) -> None:
        encoded = [encode_frame(frame) for frame in frames]  # first: a frame that is refused must not use up a key
        payloads = [self._send_cipher.encrypt(each) for each in encoded]
        await self._frames.write(*payloads)
        self._sent_at = trio.current_time()
        self._count(sum(map(len, payloads)))

    async def receive(self) -> Frame:
        """See ports.Link."""
        while True:
            if self.ended.is_set():
                raise LinkClosed("the session has ended")
            raw = await self._frames.read()
            frame = decode_frame(self._recv_cipher.decrypt(raw))
            self._heard_at = trio.current_time()
            self._heard.fire()
            self._count(len(raw))
            if isinstance(frame, Ping):
                self._pong_owed = frame.nonce
                self.chores.set()
            elif isinstance(frame, Goodbye):
                self.goodbye = frame.reason
                raise LinkClosed("the other side ended the session")
            elif not isinstance(frame, Pong):
                return frame

    def _count(self, size: int) -> None:
        self._bytes += size
        self._activity.fire()
        if self._bytes >= SESSION_RENEW_AT * SESSION_MAX_BYTES:
            self._volume.set()

    async def do_chores(self) -> None:
        """Answers pings until cancelled. Not done by `receive`: two sides that only write would wait for each other."""
        while True:
            await self.chores.wait()
            self.chores = trio.Event()
            nonce, self._pong_owed = self._pong_owed, None
            if nonce is not None:
                try:
                    await self.send((Pong(nonce),))
                except LinkClosed:
                    return

    async def probe(self) -> bool:
        """Whether the other side answers in time, LINK_PING_TIMEOUT at the least; anything heard counts. Asked when the
        network changed. Needs a task in `receive`."""
        seen = self._heard.count
        with trio.move_on_after(patience(LINK_PING_TIMEOUT, self.connection.round_trip, 1)):
            try:
                await self.send((Ping(self._world.entropy(PING_NONCE_BYTES)),))
            except LinkClosed:
                return False
            await self._heard.beyond(seen)
        return self._heard.count > seen

    # --- the end ---

    async def aclose(self) -> None:
        """Its handler can do no more with it: the other side is gone, broke the protocol, or our disk failed."""
        self.broke = not self.ended.is_set()
        await self.end(GoodbyeReason.STOPPING)

    async def end(self, reason: GoodbyeReason) -> None:
        """Says goodbye, if that takes no longer than GOODBYE_SECONDS, and closes the stream. Never raises."""
        if self.ended.is_set():
            return
        self.ended.set()
        if self.goodbye is None and self.connection.is_alive:
            with trio.move_on_after(GOODBYE_SECONDS):
                try:
                    async with self._send_lock:
                        await self._write(Goodbye(reason))
                except (LinkClosed, RemoteError):
                    pass
        await self._frames.stream.aclose()

    def abort(self) -> None:
        """Ends the session at once, without a word: the connection is dead or the other side broke the protocol."""
        self.ended.set()
        self._frames.stream.reset()
