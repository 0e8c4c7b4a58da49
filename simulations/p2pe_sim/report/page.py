"""The page itself: what to look at first on top, the whole plan at the bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from p2pe_sim.junit import replay_command, what_failed
from p2pe_sim.plan import INSTANT, Plan
from p2pe_sim.report import charts
from p2pe_sim.report.sequence import events_of, failing_message, sequence
from p2pe_sim.report.svg import clock, duration
from p2pe_sim.result import Result, Verdict
from p2pe_sim.store import Case

MAX_LISTED: Final = 200
_STATES: Final = ("queued", "offered", "delivered", "read", "retracted", "expired", "held")


def _page(title: str, body: Sequence[str]) -> str:
    style = files("p2pe_sim.report").joinpath("style.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _card(title: str, inside: str, said: str = "") -> str:
    if not inside:
        return ""
    return f"<section><h2>{escape(title)}</h2>{f'<p>{escape(said)}</p>' if said else ''}{inside}</section>"


def _tiles(values: Sequence[tuple[str, str]]) -> str:
    tiles = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values)
    return f'<div class="tiles">{tiles}</div>'


def _head(title: str, verdict: Verdict, under: str) -> str:
    return (
        f'<header><span class="badge {verdict.value}">{escape(verdict.value)}</span>'
        f"<h1>{escape(title)}</h1><p>{under}</p></header>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in row)}</tr>" for row in rows[:MAX_LISTED])
    more = f"<p>{len(rows) - MAX_LISTED} more aren't listed.</p>" if len(rows) > MAX_LISTED else ""
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def curves_of(result: Result) -> Mapping[str, Sequence[tuple[float, float]]]:
    """The result's curves; those of the messages' states are counted from the events where they are missing."""
    if any(name.startswith("state/") for name in result.series) or not result.events:
        return result.series
    state: dict[str, str] = {}
    counts = dict.fromkeys(_STATES, 0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _STATES}
    for event in result.events:
        what, message = str(event.get("what")), event.get("message")
        if what in counts and message is not None:
            at = float(event["at"])
            if before := state.get(str(message)):
                counts[before] -= 1
                found[before].append((at, float(counts[before])))
            state[str(message)] = what
            counts[what] += 1
            found[what].append((at, float(counts[what])))
    return {**result.series, **{f"state/{name}": points for name, points in found.items() if points}}


def _waiting(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Sequence[tuple[float, float]]]:
    """Without the final states, beside which they can't be seen."""
    return {name: points for name, points in _part(curves, "state/").items() if name in ("queued", "offered", "held")}


def _part(curves: Mapping[str, Sequence[tuple[float, float]]], prefix: str) -> dict[str, Sequence[tuple[float, float]]]:
    return {name.removeprefix(prefix): points for name, points in curves.items() if name.startswith(prefix)}


def run_page(case: Case, replay: str | None = None) -> str:
    """The report of one run. `case.result` must be there; with its events there is a sequence diagram."""
    plan, result = case.plan, case.result
    assert result is not None
    replay = replay or replay_command(result)
    curves = curves_of(result)
    took = [seconds for _, seconds in curves.get("delivery", ())]
    ends = result.virtual_seconds or plan.duration
    ratio = result.virtual_seconds / result.real_seconds if result.real_seconds else 0.0
    body = [
        _head(
            f"{plan.scenario}, seed {plan.seed}",
            result.verdict,
            f"{clock(ends)} of virtual time in {duration(result.real_seconds)} (×{ratio:.0f}), "
            f"digest <code>{escape(result.digest[:16])}</code>",
        ),
        f'<pre class="command">{escape(replay)}</pre>',
        _failures(result),
        _tiles(_figures(plan, result, took)),
        _sequence_card(plan, result),
        _card(
            "The world", charts.timeline(plan, result) if plan.nodes else "", "A lane a node: its faults, what it sent."
        ),
        _card(
            "Delivery" if plan.tier else "Lookups",
            charts.delivery_cdf(took, int(result.counts.get("sent", 0))),
            "From sending until the sender knew." if plan.tier else "From the question to the record.",
        ),
        _card("Messages that wait", charts.stacked(_waiting(curves), ends, charts.STATE_COLOURS, plan)),
        _card("Messages by state", charts.stacked(_part(curves, "state/"), ends, charts.STATE_COLOURS, plan)),
        _card("Paths between contacts", charts.stacked(_part(curves, "path/"), ends, charts.PATH_COLOURS, plan)),
        _card("Connections", charts.curve(curves.get("connections", ()), ends, plan)),
        _faults_card(plan, result),
        _card("Counts", _table(("what", "how many"), [(name, f"{v:g}") for name, v in sorted(result.counts.items())])),
        _plan_card(plan, case.note),
    ]
    return _page(f"{plan.scenario} {plan.seed}: {result.verdict.value}", body)


def _failures(result: Result) -> str:
    if result.verdict is Verdict.PASSED:
        return ""
    if not result.broken:
        return f'<section class="failure"><pre>{escape(what_failed(result))}</pre></section>'
    parts = []
    for broken in result.broken[:20]:
        where = ", ".join((*broken.nodes, *((broken.message,) if broken.message else ())))
        parts.append(
            f"<h2>{escape(broken.invariant)}</h2><p>{escape(broken.detail)}</p>"
            f'<p class="faint">at {broken.at:.3f} s{" · " + escape(where) if where else ""}</p>'
        )
    return f'<section class="failure">{"".join(parts)}</section>'


def _figures(plan: Plan, result: Result, took: Sequence[float]) -> list[tuple[str, str]]:
    ordered = sorted(took)
    tiles = []
    for name in ("sent", "delivered", "lookups", "share_found"):
        if name in result.counts:
            tiles.append((name.replace("_", " "), f"{result.counts[name]:g}"))
    if ordered:
        tiles.append(("median", duration(charts.quantile(ordered, 0.5))))
        tiles.append(("95 % within", duration(charts.quantile(ordered, 0.95))))
    if plan.nodes:
        tiles.append(("people", str(len(plan.people()))))
        tiles.append(("faults", str(len(plan.faults))))
    return tiles


def _sequence_card(plan: Plan, result: Result) -> str:
    message = failing_message(plan, result)
    if message is None:
        return ""
    events, both = events_of(result, plan, message)
    if not events:
        return ""
    why = "the failing message" if result.broken else "the message that took longest"
    return _card(f"Message {message}, {both[0]} to {both[1]}", sequence(events, both, message), f"This is {why}.")


def _faults_card(plan: Plan, result: Result) -> str:
    rows = [
        (
            fault.id,
            fault.kind.value,
            f"{fault.at:g} s" if fault.kind in INSTANT else f"{fault.at:g} to {fault.until:g} s",
            ", ".join(fault.targets),
            ", ".join(f"{name} {value:g}" for name, value in fault.params.items()),
            f"{result.effects[fault.id]:g}" if fault.id in result.effects else "",
        )
        for fault in plan.faults
    ]
    return _card("Faults", _table(("", "kind", "when", "whom", "how", "effect"), rows))


def _plan_card(plan: Plan, note: str) -> str:
    text = escape(plan.to_json(indent=1))
    said = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>The plan</h2>{said}<details><summary>as JSON</summary><pre>{text}</pre></details></section>"


def sweep_page(results: Sequence[Result], verdict: Verdict, cases: Sequence[Case] = ()) -> str:
    """The report of many runs; `cases` are failures with their plans, of which the first with events is drawn."""
    bad = [result for result in results if result.verdict is not Verdict.PASSED]
    real = sum(result.real_seconds for result in results)
    virtual = sum(result.virtual_seconds for result in results)
    names = sorted({result.scenario for result in results})
    took = [seconds for result in results for _, seconds in result.series.get("delivery", ())]
    sent = int(sum(result.counts.get("sent", 0) for result in results)) or len(took)
    body = [
        _head(", ".join(names), verdict, f"{len(results)} runs, {len(bad)} of them didn't pass"),
        _tiles(
            [
                ("runs", str(len(results))),
                ("failures", str(len(bad))),
                ("virtual time", duration(virtual) if virtual < 7200 else f"{virtual / 3600:.1f} h"),
                ("real time", duration(real)),
                ("messages sent", f"{sent:,}"),
                ("a run takes", duration(real / max(1, len(results)))),
            ]
        ),
        _card("Runs", charts.seed_grid(results)),
        _card("Runs that didn't pass", _table(("run", "verdict", "what"), [_row(result) for result in bad])),
        _card("Delivery", charts.delivery_cdf(took, sent), "Over all runs."),
        _card("Real time a run", charts.histogram([result.real_seconds for result in results])),
    ]
    for case in [each for each in cases if each.result is not None and each.result.broken][:3]:
        assert case.result is not None
        body.append(_card(f"{case.plan.scenario}, seed {case.plan.seed}", _failures(case.result)))
        body.append(_sequence_card(case.plan, case.result))
        body.append(_card("Its world", charts.timeline(case.plan, case.result) if case.plan.nodes else ""))
    return _page(f"{', '.join(names)}: {verdict.value}", body)


def _row(result: Result) -> tuple[str, str, str]:
    return f"{result.scenario} {result.seed}", result.verdict.value, what_failed(result).splitlines()[-1][:200]
