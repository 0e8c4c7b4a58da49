"""The frame machine against the yamux specification: exact frames, windows, caps, endings."""

from __future__ import annotations

import pytest
from p2pe import config
from p2pe.core.yamux import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE, YamuxError, YamuxMachine
from p2pe.core.yamux_stream import StreamState, YamuxLimits
from p2pe.errors import LocalError

KIB = config.KIB
Header = tuple[int, int, int, int]


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, length) + body


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, len(body), body)


def output(machine: YamuxMachine) -> bytes:
    out = b""
    while machine.has_output:
        parts, _ = machine.take_output(config.YAMUX_BATCH_BYTES)
        out += b"".join(parts)
    return out


def headers(raw: bytes) -> list[Header]:
    """(type, flags, id, length) of each frame."""
    found = []
    while raw:
        _, kind, flags, stream_id, length = HEADER.unpack_from(raw)
        found.append((kind, flags, stream_id, length))
        raw = raw[HEADER.size + (length if kind == DATA else 0) :]
    return found


def incoming(machine: YamuxMachine, stream_id: int = 1) -> StreamState:
    return machine.receive(frame(WINDOW_UPDATE, SYN, stream_id, 0)).incoming[0]


def listener(**limits: int) -> YamuxMachine:
    return YamuxMachine(is_dialer=False, limits=YamuxLimits(**limits))


def test_open_write_finish_are_these_bytes() -> None:
    machine = YamuxMachine(is_dialer=True)
    stream = machine.open()
    machine.write(stream, b"hello")
    machine.finish(stream)
    assert output(machine) == (
        bytes.fromhex("00 01 0001 00000001 00000000")  # window update, SYN
        + bytes.fromhex("00 00 0000 00000001 00000005")  # data
        + b"hello"
        + bytes.fromhex("00 01 0004 00000001 00000000")  # window update, FIN: never on data, js-libp2p drops those
    )
    assert machine.open().id == 3
    assert YamuxMachine(is_dialer=False).open().id == 2


def test_accepting_acknowledges_once() -> None:
    machine = listener()
    stream = incoming(machine)
    assert not machine.has_output  # libp2p: no implicit acknowledgement before the application takes it
    machine.accept(stream)
    machine.accept(stream)
    assert headers(output(machine)) == [(WINDOW_UPDATE, ACK, 1, 0)]


def test_window_is_enforced_at_the_header() -> None:
    machine = listener()
    incoming(machine)
    machine.receive(data(1, bytes(200 * KIB)))
    with pytest.raises(YamuxError):
        machine.receive(frame(DATA, 0, 1, 56 * KIB + 1))
    assert headers(output(machine))[-1] == (GO_AWAY, 0, 0, 1)


def test_window_is_given_back_when_half_is_read() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(data(1, bytes(256 * KIB)))
    assert len(machine.read(stream, 128 * KIB - 1, 0.0, None)) == 128 * KIB - 1
    assert not machine.has_output
    machine.read(stream, 1, 0.0, None)
    assert headers(output(machine)) == [(WINDOW_UPDATE, 0, 1, 128 * KIB)]
    assert stream.credit == 128 * KIB


def test_window_grows_for_a_fast_reader_only_and_within_the_connections_budget() -> None:
    def run(step: float, streams: int) -> list[int]:
        machine = listener()
        states = [incoming(machine, 1 + 2 * n) for n in range(streams)]
        now = 0.0
        for _ in range(20):
            for state in states:
                machine.receive(data(state.id, bytes(state.credit)))
                while state.buffered:
                    machine.read(state, None, now, 0.1)
            now += step
        assert machine.buffered == 0
        return [state.window for state in states]

    assert run(1.0, 1) == [256 * KIB]  # ten round trips for half a window: it isn't the window that is slow
    (alone,) = run(0.05, 1)
    assert 2 * config.MIB <= alone <= config.YAMUX_MAX_WINDOW
    shared = run(0.05, 40)
    assert sum(window - 256 * KIB for window in shared) <= config.YAMUX_CONNECTION_BUFFER // 2


def test_growth_is_returned_when_the_stream_ends() -> None:
    machine = listener()
    for stream_id in range(1, 41, 2):
        state = incoming(machine, stream_id)
        for round_number in range(8):
            machine.receive(data(stream_id, bytes(state.credit)))
            machine.read(state, None, round_number * 0.01, 0.1)
            while state.buffered:
                machine.read(state, None, round_number * 0.01, 0.1)
        assert state.window > 256 * KIB
        machine.reset(state)
    assert machine._grown == 0
    assert machine.streams == {}


def test_sender_respects_the_window_and_goes_on_after_an_update() -> None:
    machine = YamuxMachine(is_dialer=True)
    stream = machine.open()
    machine.write(stream, bytes(300 * KIB))
    machine.finish(stream)
    sent = [h for h in headers(output(machine)) if h[0] == DATA]
    assert sum(h[3] for h in sent) == 256 * KIB
    assert all(h[3] <= config.YAMUX_MAX_PAYLOAD for h in sent)
    assert not any(h[1] & FIN for h in sent)
    machine.receive(frame(WINDOW_UPDATE, 0, 1, 44 * KIB))
    assert headers(output(machine)) == [(DATA, 0, 1, 44 * KIB), (WINDOW_UPDATE, FIN, 1, 0)]


def test_a_bulk_stream_takes_turns_with_a_small_one() -> None:
    machine = YamuxMachine(is_dialer=True)
    bulk, small = machine.open(), machine.open()
    output(machine)
    machine.write(bulk, bytes(256 * KIB))
    machine.write(small, b"x")
    order = [h[2] for h in headers(output(machine))]
    assert order[:2] == [bulk.id, small.id]
    assert len(order) == 6


def test_syn_flood_keeps_the_cap_and_refuses_the_rest() -> None:
    machine = listener()
    events = machine.receive(b"".join(frame(WINDOW_UPDATE, SYN, 1 + 2 * n, 0) for n in range(5_000)))
    assert len(events.incoming) == len(machine.streams) == config.MAX_STREAMS_PER_CONNECTION
    refused = headers(output(machine))
    assert len(refused) == 5_000 - config.MAX_STREAMS_PER_CONNECTION
    assert {h[:2] for h in refused} == {(WINDOW_UPDATE, RST)}


def test_unread_data_is_bounded_and_the_fullest_stream_pays() -> None:
    machine = listener(connection_buffer=1024 * KIB)
    small = incoming(machine, 1)
    machine.receive(data(1, b"kept"))
    for n in range(1, 8):
        incoming(machine, 1 + 2 * n)
        machine.receive(data(1 + 2 * n, bytes(256 * KIB)))
        assert machine.buffered <= 1024 * KIB
    assert machine.read(small, None, 0.0, None) == b"kept"
    assert (WINDOW_UPDATE, RST) in {h[:2] for h in headers(output(machine))}


def test_one_byte_frames_are_merged() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(b"".join(data(1, b"x") for _ in range(50_000)))
    assert stream.buffered == 50_000
    assert len(stream.chunks) < 10


def test_own_streams_are_capped_by_number_and_by_missing_acknowledgements() -> None:
    machine = YamuxMachine(is_dialer=True, limits=YamuxLimits(ack_backlog=2, max_outbound_streams=3))
    first, second = machine.open(), machine.open()
    assert not machine.can_open
    with pytest.raises(LocalError):
        machine.open()
    machine.receive(frame(WINDOW_UPDATE, ACK, first.id, 0))
    machine.open()
    machine.receive(frame(WINDOW_UPDATE, ACK, second.id, 0))
    assert not machine.can_open  # three are open
    machine.receive(frame(WINDOW_UPDATE, RST, second.id, 0))
    assert machine.can_open


def test_half_close_both_ways_forgets_the_stream() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(data(1, b"question", FIN))
    assert machine.read(stream, None, 0.0, None) == b"question"
    assert stream.at_eof
    machine.write(stream, b"answer")
    machine.finish(stream)
    output(machine)
    assert machine.streams == {}


def test_reset_drops_what_was_queued_and_what_was_received() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(data(1, b"lost"))
    machine.write(stream, b"never sent")
    machine.reset(stream)
    machine.reset(stream)
    assert headers(output(machine)) == [(WINDOW_UPDATE, RST, 1, 0)]
    assert machine.buffered == 0
    assert machine.streams == {}


def test_reset_after_fin_leaves_the_data_readable() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(data(1, b"whole", FIN) + frame(WINDOW_UPDATE, RST, 1, 0))
    assert stream.reset
    assert machine.read(stream, None, 0.0, None) == b"whole"
    assert stream.at_eof
    assert machine.streams == {}


def test_data_for_a_stream_closed_here_is_answered_by_reset_after_our_own_data() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.write(stream, b"early answer")
    machine.close(stream, 0.0)
    machine.receive(data(1, b"still uploading"))
    assert headers(output(machine)) == [(DATA, 0, 1, 12), (WINDOW_UPDATE, FIN, 1, 0), (WINDOW_UPDATE, RST, 1, 0)]
    assert machine.streams == {}
    assert machine.buffered == 0


def test_a_stream_closed_here_is_reset_when_the_other_side_never_closes() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.close(stream, 100.0)
    output(machine)
    machine.expire(100.0 + config.YAMUX_CLOSE_SECONDS - 1)
    assert stream.id in machine.streams
    machine.expire(100.0 + config.YAMUX_CLOSE_SECONDS)
    assert machine.streams == {}
    assert headers(output(machine)) == [(WINDOW_UPDATE, RST, 1, 0)]


def test_ping_is_echoed_and_answers_are_reported() -> None:
    machine = listener()
    machine.receive(frame(PING, SYN, 0, 0xDEADBEEF))
    assert headers(output(machine)) == [(PING, ACK, 0, 0xDEADBEEF)]
    assert machine.receive(frame(PING, ACK, 0, 7)).pongs == [7]


def test_go_away_ends_opening_not_the_open_streams() -> None:
    machine = YamuxMachine(is_dialer=True)
    stream = machine.open()
    assert machine.receive(frame(GO_AWAY, 0, 0, 0)).go_away
    assert not machine.can_open
    machine.receive(data(stream.id, b"last words"))
    assert machine.read(stream, None, 0.0, None) == b"last words"


def test_frames_for_streams_that_are_gone_are_swallowed() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.reset(stream)
    output(machine)
    machine.receive(data(1, bytes(1000)) + frame(WINDOW_UPDATE, 0, 1, 5) + frame(WINDOW_UPDATE, FIN, 1, 0))
    assert not machine.has_output
    assert machine.receive(frame(WINDOW_UPDATE, SYN, 3, 0)).incoming[0].id == 3


@pytest.mark.parametrize(
    "raw",
    [
        HEADER.pack(1, DATA, 0, 1, 0),  # version
        HEADER.pack(0, 4, 0, 1, 0),  # type
        frame(WINDOW_UPDATE, SYN, 2, 0),  # our parity
        frame(WINDOW_UPDATE, SYN, 1, 0),  # open already
        frame(WINDOW_UPDATE, SYN, 0, 0),  # the connection
        data(0, b"x"),
        frame(PING, SYN, 1, 0),
        frame(GO_AWAY, 0, 1, 0),
        data(2, b"x"),  # a stream of ours that never was
        data(1, b"x", FIN) + data(1, b"y"),  # data after FIN
        frame(WINDOW_UPDATE, 0, 1, 2**32 - 1),  # window beyond 2^32
    ],
)
def test_protocol_errors_end_the_connection(raw: bytes) -> None:
    machine = listener()
    incoming(machine)
    with pytest.raises(YamuxError):
        machine.receive(raw)
    assert headers(output(machine))[-1] == (GO_AWAY, 0, 0, 1)


def test_closing_a_stream_full_both_ways_resets_it_at_once() -> None:
    machine = listener()
    stream = incoming(machine)
    machine.receive(data(1, bytes(256 * KIB)))
    machine.write(stream, bytes(300 * KIB))
    output(machine)
    machine.close(stream, 0.0)  # the peer can't take our rest before we took its, and we never shall
    assert headers(output(machine)) == [(WINDOW_UPDATE, RST, 1, 0)]
    assert machine.streams == {}
