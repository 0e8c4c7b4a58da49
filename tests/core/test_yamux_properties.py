"""Two frame machines joined back to back, however the bytes are cut; and one fed garbage."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from p2pe.core.yamux import HEADER, YamuxError, YamuxMachine
from p2pe.core.yamux_stream import StreamState, YamuxLimits

SMALL = YamuxLimits(
    initial_window=1000,
    max_window=16_000,
    connection_buffer=20_000,
    max_inbound_streams=4,
    max_outbound_streams=4,
    max_payload=300,
)


def check(machine: YamuxMachine) -> None:
    """What must hold between any two calls."""
    live = machine.streams.values()
    assert machine.buffered == sum(s.buffered for s in live)
    assert machine.buffered <= machine.limits.connection_buffer
    for stream in live:
        assert stream.buffered == sum(map(len, stream.chunks)) - stream.head_offset
        body = machine._body_left if machine._body_stream is stream else 0
        if not stream.reset:
            assert stream.credit + stream.buffered + stream.consumed + body == stream.window
        assert stream.pending_bytes == sum(map(len, stream.pending))
        assert 0 <= stream.send_window <= 2**32
    assert machine._grown == sum(s.window - machine.limits.initial_window for s in live)
    assert machine._inbound == sum(s.is_inbound for s in live)
    assert machine._outbound == sum(not s.is_inbound for s in live)
    assert machine._unacked == sum(not (s.is_inbound or s.acked) for s in live)


frames = st.builds(
    lambda version, kind, flags, stream_id, length, body: HEADER.pack(version, kind, flags, stream_id, length) + body,
    st.just(0) | st.integers(0, 255),
    st.integers(0, 4),
    st.integers(0, 15) | st.integers(0, 2**16 - 1),
    st.integers(0, 6) | st.integers(0, 2**32 - 1),
    st.integers(0, 400) | st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
)


@given(st.lists(frames | st.binary(max_size=30), max_size=30), st.booleans(), st.integers(1, 50))
@settings(max_examples=400, deadline=None)
def test_garbage_is_refused_or_survived_with_bounded_state(chunks: list[bytes], is_dialer: bool, cut: int) -> None:
    machine = YamuxMachine(is_dialer=is_dialer, limits=SMALL)
    machine.open()
    raw = b"".join(chunks)
    try:
        for start in range(0, len(raw), cut):
            events = machine.receive(raw[start : start + cut])
            for stream in events.incoming:
                machine.accept(stream)
            for stream in events.touched:
                if stream.buffered:
                    machine.read(stream, None, 0.0, 0.1)
            check(machine)
            machine.take_output(1000)
            check(machine)
    except YamuxError:
        assert machine.local_go_away
    assert len(machine.streams) <= 8


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "read", "finish", "close", "move"]), st.integers(0, 7), st.integers(1, 900)
    ),
    max_size=60,
)


class Side:
    """A machine, what was written to and read from each of its streams, by id."""

    def __init__(self, is_dialer: bool) -> None:
        self.machine = YamuxMachine(is_dialer=is_dialer, limits=SMALL)
        self.streams: list[StreamState] = []
        self.written: dict[int, bytes] = {}
        self.got: dict[int, bytes] = {}
        self.closed: set[int] = set()

    def act(self, what: str, which: int, size: int, now: float) -> None:
        machine = self.machine
        if what == "open" and machine.can_open:
            self.add(machine.open())
        if not self.streams or what in ("open", "move"):
            return
        stream = self.streams[which % len(self.streams)]
        if what == "write" and stream.is_writable:
            piece = bytes((len(self.written[stream.id]) + n) % 251 for n in range(size))
            self.written[stream.id] += piece
            machine.write(stream, piece)
        elif what == "finish":
            machine.finish(stream)
        elif what == "close":
            self.closed.add(stream.id)
            machine.close(stream, now)
        elif what == "read" and stream.id not in self.closed:
            self.got[stream.id] += machine.read(stream, size, now, 0.1)

    def add(self, stream: StreamState) -> None:
        self.streams.append(stream)
        self.written[stream.id] = self.got[stream.id] = b""

    def send_to(self, other: Side, cut: int) -> None:
        parts, _ = self.machine.take_output(700)
        raw = b"".join(parts)
        for start in range(0, len(raw), cut):
            for stream in other.machine.receive(raw[start : start + cut]).incoming:
                other.machine.accept(stream)
                other.add(stream)
            check(other.machine)


@given(steps, steps, st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_what_is_read(left_steps: list[Step], right_steps: list[Step], cut: int) -> None:
    left, right = Side(True), Side(False)
    now = 0.0
    for mine, theirs in zip(left_steps, right_steps, strict=False):
        left.act(*mine, now)
        right.act(*theirs, now)
        left.send_to(right, cut)
        right.send_to(left, cut)
        now += 0.01
        check(left.machine)
        check(right.machine)
    while left.machine.has_output or right.machine.has_output:
        for side, other in ((left, right), (right, left)):
            side.send_to(other, cut)
            for stream in side.streams:
                if stream.id not in side.closed:
                    side.got[stream.id] += side.machine.read(stream, None, now, 0.1)
    for side, other in ((left, right), (right, left)):
        for stream in side.streams:
            sent = other.written.get(stream.id, b"")
            assert sent.startswith(side.got[stream.id])
            if stream.at_eof and not stream.reset and stream.id not in side.closed:
                assert side.got[stream.id] == sent


def test_every_cut_of_a_conversation_reads_the_same() -> None:
    source = YamuxMachine(is_dialer=True)
    stream = source.open()
    source.write(stream, b"abcdefghij")
    source.ping(5)
    source.finish(stream)
    raw = b"".join(source.take_output(10_000)[0])
    for cut in range(len(raw) + 1):
        sink = YamuxMachine(is_dialer=False)
        incoming = sink.receive(raw[:cut]).incoming + sink.receive(raw[cut:]).incoming
        got = b""
        while incoming[0].buffered:
            got += sink.read(incoming[0], None, 0.0, None)
        assert (got, incoming[0].at_eof) == (b"abcdefghij", True)
