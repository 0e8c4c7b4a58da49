"""A sequence diagram of one message: who did what to it, when, over which connection, and what happened around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from p2pe_sim.plan import Plan
from p2pe_sim.report.svg import Canvas, number
from p2pe_sim.result import Event, Result

MAX_ROWS: Final = 60
_ROW: Final = 26.0
_STATES: Final = frozenset({"queued", "offered", "delivered", "read", "received", "retracted", "expired", "held"})
_ABOUT_NODES: Final = frozenset({"start", "stop", "crash", "link_up", "link_down"})
_GONE: Final = "…"


def failing_message(plan: Plan, result: Result) -> str | None:
    """The message of the first broken invariant; without one, the message that took longest."""
    for broken in result.broken:
        if broken.message is not None:
            return broken.message
    if result.broken:
        return None
    sent = {str(e["message"]): float(e["at"]) for e in result.events if e.get("what") == "queued" and "message" in e}
    took = {
        str(event["message"]): float(event["at"]) - sent[str(event["message"])]
        for event in result.events
        if event.get("what") == "delivered" and event.get("message") in sent
    }
    return max(took, key=lambda name: (took[name], name)) if took else None


def events_of(result: Result, plan: Plan, message: str) -> tuple[list[Event], tuple[str, str]]:
    """The events to draw, and the two people."""
    planned = next((each for each in plan.messages if each.id == message), None)
    if planned is None:
        return [], ("", "")
    both = (planned.sender, planned.recipient)
    of_it = [event for event in result.events if concerns(event, message)]
    if not of_it:
        return [], both
    first, last = float(of_it[0]["at"]), float(of_it[-1]["at"])
    drawn = [
        event
        for event in result.events
        if concerns(event, message) or (first - 1.0 <= float(event["at"]) <= last + 1.0 and _around(event, both))
    ]
    if len(drawn) > MAX_ROWS:
        head, tail = drawn[: MAX_ROWS // 2], drawn[-MAX_ROWS // 2 :]
        left_out = len(drawn) - len(head) - len(tail)
        return [*head, {"at": tail[0]["at"], "what": _GONE, "detail": f"{left_out} events left out"}, *tail], both
    return drawn, both


def concerns(event: Event, message: str) -> bool:
    return event.get("message") == message or message in (event.get("messages") or ())


def _around(event: Event, both: tuple[str, str]) -> bool:
    if event.get("what") == "fault":
        return bool(set(event.get("targets") or ()) & set(both))
    if event.get("what") in ("link_up", "link_down"):
        return {event.get("node"), event.get("peer")} <= set(both)
    return event.get("what") in _ABOUT_NODES and event.get("node") in both


def sequence(events: Sequence[Event], both: tuple[str, str], message: str) -> str:
    """Two lifelines; rows in the order of time, not to scale."""
    canvas = Canvas(width=760, height=_ROW * len(events) + 70, left=0, right=0, top=0, bottom=0)
    places = {both[0]: 220.0, both[1]: 600.0}
    for name, x in places.items():
        canvas.line(x, 38, x, canvas.height - 8, "life")
        canvas.rect(x - 60, 8, 120, 28, "var(--card2)", "", 'rx="6" class="head"')
        canvas.text(x, 27, name, "name", "middle")
    for row, event in enumerate(events):
        y = 62 + row * _ROW
        canvas.text(70, y + 4, f"{float(event['at']):.3f} s", "tick", "end")
        _draw(canvas, event, places, y, concerns(event, message))
    return canvas.render(f"what happened to {message}")


def _draw(canvas: Canvas, event: Event, places: Mapping[str, float], y: float, ours: bool) -> None:
    what = str(event.get("what"))
    node, peer = str(event.get("node", "")), str(event.get("peer", ""))
    style = "label" if ours else "faint"
    if what == "frame" and node in places and peer in places:
        _arrow(canvas, places[node], places[peer], y, _frame_text(event), style)
    elif what in _STATES and node in places:
        _note(canvas, places[node], y, what, f"state {what}", style)
    elif what == "broken":
        canvas.rect(90, y - 11, canvas.width - 110, 22, "var(--badwash)", "", 'rx="4"')
        said = f"{event.get('invariant', '')}: {event.get('detail', '')}"
        canvas.text(canvas.width / 2 + 10, y + 4, said if len(said) < 100 else said[:97] + "...", "bad", "middle")
    elif what in ("link_up", "link_down") and node in places and peer in places:
        left, right = sorted((places[node], places[peer]))
        canvas.line(left, y, right, y, "link")
        path = f" ({event['path']})" if event.get("path") else ""
        said = f"{'connected' if what == 'link_up' else 'connection ended'}{path}, says {node}"
        canvas.text((left + right) / 2, y - 5, said, "faint", "middle")
    elif what == "fault":
        on = "begins" if event.get("on", True) else "ends"
        targets = ", ".join(map(str, event.get("targets") or ()))
        canvas.rect(90, y - 10, canvas.width - 110, 20, "var(--shade)", "", 'rx="4"')
        canvas.text(canvas.width / 2 + 10, y + 4, f"{event.get('kind', 'fault')} of {targets} {on}", "faint", "middle")
    elif node in places:
        _note(canvas, places[node], y, what, "other", style)
    else:
        said = str(event.get("detail") or what)
        canvas.text(canvas.width / 2 + 10, y + 4, said, "faint", "middle")


def _frame_text(event: Event) -> str:
    lost = " (lost)" if event.get("lost") else ""
    size = f", {event['bytes']} bytes" if event.get("bytes") else ""
    return f"{event.get('frame', 'frame')}{size}{lost}"


def _arrow(canvas: Canvas, start: float, end: float, y: float, said: str, style: str) -> None:
    toward = 1 if end > start else -1
    canvas.line(start, y, end - 7 * toward, y, "arrow")
    back = number(end - 9 * toward)
    tip = f"{number(end)},{number(y)} {back},{number(y - 4)} {back},{number(y + 4)}"
    canvas.add(f'<polygon points="{tip}" class="tip"/>')
    canvas.text((start + end) / 2, y - 5, said, style, "middle")


def _note(canvas: Canvas, x: float, y: float, said: str, kind: str, style: str) -> None:
    width = 7.2 * len(said) + 16
    canvas.add(
        f'<rect x="{number(x - width / 2)}" y="{number(y - 10)}" width="{number(width)}" height="20" rx="10" '
        f'class="note {escape(kind)}"/>'
    )
    canvas.text(x, y + 4, said, style, "middle")
