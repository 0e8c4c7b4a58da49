"""One TCP connection of the virtual network: two pipes, one a direction, and the two ends that nodes hold.

TCP hides loss, so loss is delay here (a retransmission, RFC 6298). What TCP can't hide is there too: resets, bytes
that stall while a path is cut and come long after it has healed, and connections that are dead without either end
being told.

A pipe gives each chunk the time of its arrival when it is written; a reader that waits is woken then, and at no other
time. No task runs for it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from p2pe.config import KIB
from p2pe.model import Address

from p2pe_sim.world.clock import call_at

if TYPE_CHECKING:
    from random import Random

    from p2pe_sim.world.machine import Machine
    from p2pe_sim.world.net import Internet

SEGMENT_BYTES: Final = 1_400
BUFFER_BYTES: Final = 512 * KIB  # written and not yet read, in flight or in the receiver's kernel; then a writer waits
RETRANSMIT_SECONDS: Final = 0.2  # Linux' smallest retransmission time-out
RETRANSMIT_MAX: Final = 60.0  # between two tries, however long a path was cut (RFC 6298: at least 60)
GIVE_UP_SECONDS: Final = 924.0  # Linux gives a connection up after so long without an acknowledgement
_CHUNK: Final = 64 * KIB
_PIECE: Final = 2 * KIB  # on a line of limited bandwidth: bytes come in as they are carried, not when all have been
_NEVER: Final = math.inf


class Pipe:
    """One direction. `number` is the connection's, doubled, plus 1 for the acceptor's direction."""

    __slots__ = (
        "alarm_at", "broken_at", "chunks", "end_at", "internet", "is_dead", "last_at", "number", "outstanding",
        "reader", "reader_gone", "rng", "sent", "source", "stalled", "stalled_since", "tail", "target", "wake_writer",
    )  # fmt: skip

    def __init__(self, internet: Internet, number: int, source: Machine, target: Machine, rng: Random) -> None:
        self.internet = internet
        self.number = number
        self.source = source
        self.target = target
        self.rng = rng
        self.chunks: deque[tuple[float, bytes]] = deque()  # (time of arrival, data), ascending
        self.stalled: list[bytes | None] = []  # written while the path is cut; None: the half-close
        self.stalled_since = 0.0
        self.last_at = 0.0
        self.end_at = _NEVER  # when the half-close arrives
        self.outstanding = 0
        self.sent = 0  # bytes, in all
        self.is_dead = False  # bytes vanish, nobody is told
        self.reader_gone = False
        self.tail = b""  # last bytes written: what the wire's scanners carry from chunk to chunk
        self.broken_at = _NEVER  # when the reading end learns that the connection was reset
        self.reader: trio.lowlevel.Task | None = None  # that waits for something to arrive
        self.alarm_at = _NEVER  # when it is looked after next
        self.wake_writer = trio.lowlevel.ParkingLot()

    def write(self, data: bytes) -> None:
        """Sends at once; the caller has seen to it that there is room."""
        self.sent += len(data)
        self.internet.saw_bytes(self, data)
        if self.is_dead:
            self.outstanding += len(data)
            self.internet.effects.bytes_vanished += len(data)
        elif self.stalled or not self.internet.is_open(self.source, self.target):
            self._stall(data)
            self.outstanding += len(data)
        else:
            is_narrow = self.source.shape.bandwidth or self.target.shape.bandwidth
            step = _PIECE if is_narrow else _CHUNK
            for start in range(0, len(data), step):
                self._put(data[start : start + step])

    def write_end(self) -> None:
        if self.is_dead:
            return
        if self.stalled or not self.internet.is_open(self.source, self.target):
            self._stall(None)
            return
        self.end_at = self._arrival(0)
        self._look_after_reader()

    def _put(self, data: bytes) -> None:
        self.chunks.append((self._arrival(len(data)), data))
        self.outstanding += len(data)
        self._look_after_reader()

    def _stall(self, data: bytes | None) -> None:
        if not self.stalled:
            self.stalled_since = trio.current_time()
        self.stalled.append(data)
        self.internet.note_blocked(self.source, self.target, len(data or b""))

    def _arrival(self, size: int) -> float:
        now = trio.current_time()
        source, target = self.source.shape, self.target.shape
        self.source.tally.bytes += size
        self.target.tally.bytes += size
        at = now
        if size and source.bandwidth:
            at = self.source.up_free = max(now, self.source.up_free) + size / source.bandwidth
            self.source.tally.waited += at - now
        at += source.latency + target.latency
        if size and target.bandwidth:
            earliest = at
            at = self.target.down.receive(at, size / target.bandwidth, now)
            self.target.tally.waited += at - earliest
        jitter = source.jitter + target.jitter
        if jitter:
            at += self.rng.random() * jitter
        if loss := source.loss + target.loss:
            at += self._retransmissions(loss, size)
        self.last_at = max(at, self.last_at)
        return self.last_at

    def _retransmissions(self, loss: float, size: int) -> float:
        """Seconds until all segments have come through. Lost ones are repeated together, each time later."""
        lost = 1.0 - (1.0 - min(loss, 0.95)) ** max(1, math.ceil(size / SEGMENT_BYTES))
        round_trip = 2 * (self.source.shape.latency + self.target.shape.latency)
        wait, pause = 0.0, max(RETRANSMIT_SECONDS, 2 * round_trip)
        while wait < RETRANSMIT_MAX and self.rng.random() < lost:
            wait += pause
            pause *= 2
            lost = min(loss, 0.95)
            self.internet.effects.retransmissions += 1
            self.source.tally.retransmissions += 1
            self.target.tally.retransmissions += 1
        return wait

    # --- the reader ---

    @property
    def news_at(self) -> float:
        """When there is something for the reader: bytes, the end or an error."""
        first = self.chunks[0][0] if self.chunks else self.end_at
        return min(first, self.broken_at)

    async def wait_for_news(self) -> None:
        """One task at a time; wakes too early when the end was closed here."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self.reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.reader = trio.lowlevel.current_task()
        self._look_after_reader()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def break_at(self, time: float) -> None:
        self.broken_at = time
        self._look_after_reader()

    def wake_reader(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    def _look_after_reader(self) -> None:
        if self.reader is not None:
            at = self.news_at
            if at < self.alarm_at:
                self.alarm_at = at
                call_at(at, self._alarm)

    def _alarm(self) -> None:
        now = trio.current_time()
        if self.alarm_at <= now:  # else this call was overtaken by an earlier one
            self.alarm_at = _NEVER
            if self.news_at <= now:
                self.wake_reader()
            else:
                self._look_after_reader()  # what was to arrive has stalled

    # --- what happens to the path ---

    def path_cut(self) -> None:
        """What hasn't arrived by now doesn't until the path is whole again."""
        if self.is_dead:
            return
        now = trio.current_time()
        under_way = [data for at, data in self.chunks if at > now]
        if under_way:
            self.chunks = deque(each for each in self.chunks if each[0] <= now)
            for data in under_way:
                self._stall(data)
        if now < self.end_at < _NEVER:
            self.end_at = _NEVER
            self._stall(None)

    def path_healed(self) -> None:
        """The sender's retransmission timer, backed off while nothing came through, decides when bytes flow again."""
        if self.is_dead or not self.stalled:
            return
        now = trio.current_time()
        held, self.stalled = self.stalled, []
        if now - self.stalled_since > GIVE_UP_SECONDS:
            self.is_dead = True
            return
        wait = self.rng.random() * min(RETRANSMIT_MAX, now - self.stalled_since)
        self.last_at = max(self.last_at, now + wait)
        for data in held:
            if data is None:
                self.end_at = self._arrival(0)
            else:
                self.chunks.append((self._arrival(len(data)), data))
        self._look_after_reader()

    def kill(self) -> None:
        """From now on bytes vanish, those under way too."""
        now = trio.current_time()
        lost = sum(len(data) for at, data in self.chunks if at > now) + sum(len(each or b"") for each in self.stalled)
        self.internet.effects.bytes_vanished += lost
        self.chunks = deque(each for each in self.chunks if each[0] <= now)
        self.stalled = []
        if self.end_at > now:
            self.end_at = _NEVER
        self.is_dead = True


class VirtualStream:
    """ports.ByteStream: one end of a connection, with trio.SocketStream's manners."""

    __slots__ = (
        "_in", "_is_closed", "_is_receiving", "_is_sending", "_out", "_sent_end", "internet", "local",
        "machine", "owner", "peer", "remote",
    )  # fmt: skip

    def __init__(
        self, internet: Internet, machine: Machine, local: Address, remote: Address, incoming: Pipe, outgoing: Pipe
    ) -> None:
        self.internet = internet
        self.machine = machine
        self.owner: object = None  # the process that holds it
        self.local = local
        self.remote = remote
        self.peer: VirtualStream
        self._in = incoming
        self._out = outgoing
        self._is_closed = False
        self._sent_end = False
        self._is_sending = False
        self._is_receiving = False

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        """(ours to read, ours to write)"""
        return self._in, self._out

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._is_sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check()
            if self._sent_end:
                raise trio.ClosedResourceError("send_eof was called already")
            while self._out.outstanding >= BUFFER_BYTES:
                with trio.move_on_at(self._in.broken_at):
                    await self._out.wake_writer.park()
                self._check()
            if len(data):
                self._write(bytes(data))
        finally:
            self._is_sending = False

    def send_now(self, data: bytes) -> int:
        is_wrong = self._is_sending or self._is_closed or self._sent_end
        if is_wrong or self._in.broken_at <= trio.current_time() or self._out.outstanding >= BUFFER_BYTES:
            return 0
        self._write(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        out = self._out
        out.write(data)
        if out.reader_gone and not out.is_dead and not out.stalled:
            self.internet.effects.resets += 1
            self.break_at(out.last_at + out.source.shape.latency + out.target.shape.latency)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        while self._out.outstanding >= BUFFER_BYTES:
            with trio.move_on_at(self._in.broken_at):
                await self._out.wake_writer.park()
            self._check()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._is_receiving = True
        pipe = self._in
        try:
            self._check()
            if pipe.news_at <= trio.current_time():
                await trio.lowlevel.checkpoint()
            while True:
                self._check()
                now = trio.current_time()
                chunks = pipe.chunks
                if chunks and chunks[0][0] <= now:
                    return self._take(max_bytes or 2 * _CHUNK, now)
                if not chunks and pipe.end_at <= now:
                    return b""
                await pipe.wait_for_news()
        finally:
            self._is_receiving = False

    def _take(self, most: int, now: float) -> bytes:
        chunks, parts, size = self._in.chunks, [], 0
        while chunks and chunks[0][0] <= now and size < most:
            at, data = chunks.popleft()
            if size + len(data) > most:
                chunks.appendleft((at, data[most - size :]))
                data = data[: most - size]
            parts.append(data)
            size += len(data)
        self._in.outstanding -= size
        self._in.wake_writer.unpark_all()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        if not self._sent_end:
            self._sent_end = True
            self._out.write_end()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """What the operating system does with a descriptor that is closed: the other end learns, if it can be
        reached."""
        if self._is_closed:
            return
        self._is_closed = True
        self._in.reader_gone = True
        if not self._sent_end:
            self._sent_end = True
            self._out.write_end()
        self._in.wake_reader()
        self._out.wake_writer.unpark_all()
        self.internet.closed(self)

    def break_at(self, time: float) -> None:
        """From `time` on every use of this end raises BrokenResourceError."""
        if time < self._in.broken_at:
            self._in.break_at(time)
            self._out.wake_writer.unpark_all()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._in.broken_at <= trio.current_time():
            raise trio.BrokenResourceError("connection reset by the other side")
