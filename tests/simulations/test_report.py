"""Reports: whole pages that need nothing from elsewhere, with the failure on them; and diffs."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from p2pe.errors import UsageError
from p2pe_sim.differ import difference, first_difference, lines_of, read_result
from p2pe_sim.outputs import write_run
from p2pe_sim.planning import plan_of
from p2pe_sim.report.page import run_page, sweep_page
from p2pe_sim.report.sequence import MAX_ROWS, events_of, failing_message
from p2pe_sim.report.svg import clock, duration, ticks
from p2pe_sim.result import Broken, Event, Result, Verdict
from p2pe_sim.store import Case
from sim_kit import passed, people

PLAN = plan_of(people(), 1)
MESSAGE = PLAN.messages[2]
ONE, OTHER = MESSAGE.sender, MESSAGE.recipient
EVENTS: tuple[Event, ...] = (
    {"at": 20.0, "what": "queued", "node": ONE, "peer": OTHER, "message": MESSAGE.id},
    {"at": 20.5, "what": "link_up", "node": ONE, "peer": OTHER, "path": "relayed"},
    {"at": 21.0, "what": "frame", "node": ONE, "peer": OTHER, "frame": "Batch", "messages": [MESSAGE.id], "bytes": 400},
    {"at": 21.2, "what": "received", "node": OTHER, "peer": ONE, "message": MESSAGE.id},
    {"at": 22.0, "what": "crash", "node": ONE},
    {"at": 29.0, "what": "received", "node": OTHER, "peer": ONE, "message": MESSAGE.id},
    {"at": 29.0, "what": "broken", "invariant": "once", "message": MESSAGE.id, "detail": '<twice> & "again"'},
    {"at": 99.0, "what": "queued", "node": ONE, "peer": OTHER, "message": "other"},
)
BROKEN = Result(
    PLAN.scenario,
    1,
    Verdict.BROKEN,
    "abc123",
    (Broken("once", 29.0, '<twice> & "again"', (OTHER,), MESSAGE.id),),
    virtual_seconds=120.0,
    real_seconds=1.5,
    counts={"sent": 9, "delivered": 8},
    effects={PLAN.faults[0].id: 3.0},
    series={
        "delivery": ((1.0, 0.2), (2.0, 3.5), (3.0, 0.02)),
        "connections": ((0.0, 0.0), (3.0, 4.0)),
        "path/direct": ((1.0, 2.0), (60.0, 0.0)),
        "path/relayed": ((5.0, 1.0),),
    },
    events=EVENTS,
)
_VOID = {"meta", "br", "line", "rect", "circle", "path", "polygon"}


class Balanced(HTMLParser):
    """Fails on tags that don't match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sound(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.links == []
    assert "http" not in page.replace("http-equiv", ""), "a report must not need the network"
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan", "", page)


def test_the_page_of_a_broken_run_shows_what_broke() -> None:
    page = run_page(Case(PLAN, "Mended by hand.", BROKEN))
    sound(page)
    for said in (
        "&lt;twice&gt; &amp; &quot;again&quot;", f"Message {MESSAGE.id}, {ONE} to {OTHER}", "Batch, 400 bytes",
        "connected (relayed)", "p2pe-sim run people --seed 1", "Messages by state", "Paths between contacts",
        "median 200 ms", "Mended by hand.", "The world", "&quot;seed&quot;: 1",
    ):  # fmt: skip
        assert said in page, said
    assert "<twice>" not in page


@pytest.mark.parametrize("verdict", list(Verdict))
def test_pages_of_little_are_whole(verdict: Verdict) -> None:
    """No events, no curves, no messages: what a crash of the simulator leaves."""
    empty = Result("people", 1, verdict, problem="boom <here>" if verdict is not Verdict.PASSED else "")
    sound(run_page(Case(PLAN, "", empty)))
    sound(sweep_page([empty], verdict))


def test_the_page_of_a_sweep_lists_what_failed() -> None:
    results = [replace(BROKEN if seed % 50 == 7 else passed(PLAN), seed=seed, events=()) for seed in range(200)]
    page = sweep_page(results, Verdict.BROKEN, [Case(PLAN, "", BROKEN)])
    sound(page)
    assert "people 57" in page
    assert page.count('fill="var(--bad)"') >= 4
    assert f"Message {MESSAGE.id}" in page


def test_the_diagram_has_the_message_and_what_was_around_it() -> None:
    assert failing_message(PLAN, BROKEN) == MESSAGE.id
    events, both = events_of(BROKEN, PLAN, MESSAGE.id)
    assert both == (ONE, OTHER)
    assert list(events) == list(EVENTS[:-1])
    many = tuple({**EVENTS[2], "at": 21.0 + n} for n in range(500))
    long, _ = events_of(replace(BROKEN, events=many), PLAN, MESSAGE.id)
    assert len(long) == MAX_ROWS + 1
    assert "440 events left out" in str(long[MAX_ROWS // 2]["detail"])


def test_without_a_failure_the_slowest_message_is_shown() -> None:
    events = tuple(
        {"at": at, "what": what, "node": ONE, "message": message}
        for at, what, message in ((1.0, "queued", "m1"), (2.0, "queued", "m2"), (3.0, "delivered", "m1"),
                                  (9.0, "delivered", "m2"))
    )  # fmt: skip
    assert failing_message(PLAN, Result("people", 1, Verdict.PASSED, events=events)) == "m2"
    assert failing_message(PLAN, passed(PLAN)) is None


def test_a_run_leaves_its_files_and_they_are_read_again(tmp_path: Path) -> None:
    write_run(tmp_path, Case(PLAN, "", BROKEN), "p2pe-sim run people --seed 1")
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json", "events.jsonl", "case.json", "junit.xml", "report.html",
    }  # fmt: skip
    assert read_result(tmp_path) == BROKEN
    assert read_result(tmp_path / "case.json") == BROKEN
    assert Case.read(tmp_path / "case.json").plan == PLAN
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == len(EVENTS)
    with pytest.raises(UsageError, match="nowhere"):
        read_result(tmp_path / "nowhere")


def test_a_diff_names_the_first_event_that_differs() -> None:
    other = replace(BROKEN, events=(*EVENTS[:3], {**EVENTS[3], "at": 21.3}, *EVENTS[4:]), digest="other")
    found = difference(BROKEN, other)
    assert found.at == 3
    said = "\n".join(lines_of(found))
    assert "number 3" in said
    assert "21.200" in said and "21.300" in said
    assert lines_of(difference(BROKEN, BROKEN)) == ["no difference"]
    assert first_difference(EVENTS, EVENTS[:4]) == 4
    assert "sent: 9 / 8" in lines_of(difference(BROKEN, replace(BROKEN, counts={"sent": 8, "delivered": 8})))


def test_numbers_for_people() -> None:
    assert [duration(value) for value in (0.02, 1.5, 90.0, 300.0)] == ["20 ms", "1.5 s", "90 s", "5 min"]
    assert [clock(value) for value in (0.0, 65.0, 3661.0)] == ["0:00", "1:05", "1:01:01"]
    assert ticks(0, 43, 4) == [0, 20, 40]
