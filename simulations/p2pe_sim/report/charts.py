"""The pictures of a report: delivery times, curves over virtual time, the world's timeline, a grid of seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from p2pe_sim.plan import INSTANT, FaultKind, Plan, Role
from p2pe_sim.report.svg import COLOURS, Canvas, clock, duration, legend, number
from p2pe_sim.result import Result, Verdict

Points = Sequence[tuple[float, float]]

STATE_COLOURS: Final = {
    "queued": "var(--c2)",
    "offered": "var(--c1)",
    "delivered": "var(--c5)",
    "read": "var(--c4)",
    "retracted": "var(--c8)",
    "expired": "var(--c8)",
    "held": "var(--c3)",
}
PATH_COLOURS: Final = {
    "lan": "var(--c4)",
    "direct": "var(--c5)",
    "punched": "var(--c1)",
    "relayed": "var(--c2)",
}
FAULT_COLOURS: Final = {
    FaultKind.PARTITION: "var(--c3)",
    FaultKind.RESET: "var(--c3)",
    FaultKind.HALF_OPEN: "var(--c6)",
    FaultKind.LOSS: "var(--c2)",
    FaultKind.LATENCY: "var(--c2)",
    FaultKind.BANDWIDTH: "var(--c2)",
    FaultKind.STOP: "var(--c8)",
    FaultKind.CRASH: "var(--ink2)",
    FaultKind.CRASH_NO_FLUSH: "var(--ink)",
    FaultKind.REINSTALL: "var(--c7)",
    FaultKind.CLOCK_JUMP: "var(--c4)",
    FaultKind.ADDRESS_CHANGE: "var(--c7)",
    FaultKind.DISK_FULL: "var(--c7)",
}
VERDICT_COLOURS: Final = {
    Verdict.PASSED: "var(--good)",
    Verdict.BROKEN: "var(--bad)",
    Verdict.ERROR: "var(--c7)",
    Verdict.NONDETERMINISTIC: "var(--c6)",
    Verdict.VACUOUS: "var(--c2)",
    Verdict.BUDGET: "var(--c8)",
}
_MAX_CELLS: Final = 4000  # seeds drawn in a grid


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def delivery_cdf(seconds: Sequence[float], sent: int | None = None) -> str:
    """How many of the messages had been delivered after how long; `sent` when some never were."""
    ordered = sorted(max(value, 1e-3) for value in seconds)
    if not ordered:
        return ""
    total = max(sent or 0, len(ordered))
    low = 10.0 ** math.floor(math.log10(ordered[0]))
    high = max(10.0 ** math.ceil(math.log10(ordered[-1] * 1.0001)), low * 10)
    canvas = Canvas(x_range=(low, high), y_range=(0.0, 1.0), x_log=True)
    canvas.y_axis(share=True)
    tick = low
    while tick <= high * 1.001:
        canvas.line(canvas.x(tick), canvas.top, canvas.x(tick), canvas.height - canvas.bottom, "grid")
        canvas.text(canvas.x(tick), canvas.height - canvas.bottom + 16, duration(tick), "tick", "middle")
        tick *= 10
    points = [(canvas.x(low), canvas.y(0.0))]
    step = max(1, len(ordered) // 600)
    for index in range(0, len(ordered), step):
        x = canvas.x(ordered[index])
        points += [(x, points[-1][1]), (x, canvas.y((index + 1) / total))]
    points += [
        (canvas.x(ordered[-1]), canvas.y(len(ordered) / total)),
        (canvas.x(high), canvas.y(len(ordered) / total)),
    ]
    base = canvas.y(0.0)
    canvas.path([*points, (points[-1][0], base), (points[0][0], base)], "area", COLOURS[0], closed=True)
    canvas.path(points, "curve", COLOURS[0])
    for share, name in ((0.5, "median"), (0.95, "95 %")):
        value = quantile(ordered, share)
        x, y = canvas.x(value), canvas.y(share * len(ordered) / total)
        canvas.add(f'<circle cx="{number(x)}" cy="{number(y)}" r="4" class="dot"/>')
        right = x > canvas.width * 0.7
        canvas.text(x + (-9 if right else 9), y + 4, f"{name} {duration(value)}", "label", "end" if right else "start")
    return canvas.render("share of messages delivered, by time since they were sent")


def _steps(points: Points, times: Sequence[float]) -> list[float]:
    """The value of a step curve at each of `times` (sorted)."""
    values: list[float] = []
    index, value = 0, 0.0
    for at in times:
        while index < len(points) and points[index][0] <= at:
            value = points[index][1]
            index += 1
        values.append(value)
    return values


def stacked(curves: Mapping[str, Points], ends: float, colours: Mapping[str, str], plan: Plan | None) -> str:
    """Step curves on top of each other over virtual time, faults shaded."""
    named = {name: points for name, points in curves.items() if any(value for _, value in points)}
    if not named:
        return ""
    times = sorted({at for points in named.values() for at, _ in points} | {0.0, ends})
    if len(times) > 1500:
        times = [ends * step / 1500 for step in range(1501)]
    layers = {name: _steps(points, times) for name, points in named.items()}
    top = max(sum(values) for values in zip(*layers.values(), strict=True))
    canvas = Canvas(x_range=(0.0, ends), y_range=(0.0, top * 1.08 or 1.0))
    _shade(canvas, plan)
    canvas.y_axis()
    canvas.time_axis()
    floor = [0.0] * len(times)
    shown = []
    for place, name in enumerate(named):
        colour = colours.get(name, COLOURS[place % len(COLOURS)])
        shown.append((name, colour))
        roof = [low + value for low, value in zip(floor, layers[name], strict=True)]
        upper, lower = _staircase(canvas, times, roof), _staircase(canvas, times, floor)
        canvas.path([*upper, *reversed(lower)], "layer", colour, closed=True)
        floor = roof
    return canvas.render("over virtual time") + legend(shown)


def _staircase(canvas: Canvas, times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for at, value in zip(times, values, strict=True):
        x, y = canvas.x(at), canvas.y(value)
        if points and points[-1][1] != y:
            points.append((x, points[-1][1]))
        points.append((x, y))
    return points


def curve(points: Points, ends: float, plan: Plan | None) -> str:
    """One step curve over virtual time."""
    if not points:
        return ""
    canvas = Canvas(height=170, x_range=(0.0, ends), y_range=(0.0, max(value for _, value in points) * 1.1 or 1.0))
    _shade(canvas, plan)
    canvas.y_axis()
    canvas.time_axis()
    times = [at for at, _ in points] + [ends]
    line = _staircase(canvas, times, [value for _, value in points] + [points[-1][1]])
    base = canvas.y(0.0)
    canvas.path([*line, (line[-1][0], base), (line[0][0], base)], "area", COLOURS[0], closed=True)
    canvas.path(line, "curve", COLOURS[0])
    return canvas.render("over virtual time")


def _shade(canvas: Canvas, plan: Plan | None) -> None:
    for fault in plan.faults if plan is not None else ():
        if fault.kind in INSTANT:
            canvas.line(canvas.x(fault.at), canvas.top, canvas.x(fault.at), canvas.height - canvas.bottom, "instant")
        else:
            left, right = canvas.x(fault.at), canvas.x(fault.until)
            title = f"{fault.kind.value} {', '.join(fault.targets)}"
            canvas.rect(
                left, canvas.top, right - left, canvas.height - canvas.top - canvas.bottom, "var(--shade)", title
            )


def timeline(plan: Plan, result: Result | None) -> str:
    """A lane a node: when it ran, what went wrong with it, what it sent; and the moment something broke."""
    lane = 24.0
    nodes = plan.nodes[:60]
    canvas = Canvas(height=len(nodes) * lane + 40, left=110, x_range=(0.0, plan.duration))
    canvas.time_axis()
    for row, node in enumerate(nodes):
        middle = canvas.top + row * lane + lane / 2
        canvas.text(canvas.left - 10, middle + 4, node.name, "label", "end")
        title = f"{node.name}: {node.role.value}, NAT {node.nat.value}, {duration(node.latency)} away"
        canvas.rect(
            canvas.x(node.starts_at),
            middle - 3,
            canvas.x(plan.duration) - canvas.x(node.starts_at),
            6,
            "var(--lane)" if node.role is Role.PERSON else "var(--lane2)",
            title,
            'rx="3"',
        )
        for fault in plan.faults:
            if node.name in fault.targets:
                left, right = canvas.x(fault.at), canvas.x(min(fault.until, plan.duration))
                said = f"{fault.id}: {fault.kind.value}, {clock(fault.at)} to {clock(fault.until)}"
                colour = FAULT_COLOURS.get(fault.kind, COLOURS[2])
                canvas.rect(left, middle - 7, max(3.0, right - left), 14, colour, said, 'rx="2"')
        for message in plan.messages:
            if message.sender == node.name:
                said = f"{message.id} to {message.recipient}, {message.size} bytes, at {message.at:g} s"
                place = f'cx="{number(canvas.x(message.at))}" cy="{number(middle)}"'
                canvas.add(f'<circle {place} r="2.6" class="sent"><title>{escape(said)}</title></circle>')
    for broken in result.broken if result is not None else ():
        x = canvas.x(broken.at)
        canvas.line(x, canvas.top, x, canvas.height - canvas.bottom, "broke")
    kinds = sorted({fault.kind for fault in plan.faults})
    named = [(kind.value, FAULT_COLOURS.get(kind, COLOURS[2])) for kind in kinds]
    more = f"<p>{len(plan.nodes) - len(nodes)} more nodes aren't drawn.</p>" if len(plan.nodes) > len(nodes) else ""
    return canvas.render("the world's timeline") + legend([*named, ("message sent", "var(--sent)")]) + more


def seed_grid(results: Sequence[Result]) -> str:
    """A cell a run, by scenario and seed, coloured by verdict."""
    parts = []
    for scenario in sorted({result.scenario for result in results}):
        cells = [result for result in results if result.scenario == scenario][:_MAX_CELLS]
        size, across = 11.0, 60
        rows = -(-len(cells) // across)
        canvas = Canvas(width=across * size, height=rows * size, left=0, right=0, top=0, bottom=0)
        for index, result in enumerate(cells):
            said = f"seed {result.seed}: {result.verdict.value}"
            x, y = index % across * size, index // across * size
            canvas.rect(x, y, size - 2, size - 2, VERDICT_COLOURS[result.verdict], said, 'rx="2"')
        parts.append(f"<h3>{escape(scenario)}</h3>{canvas.render(f'the runs of {scenario}')}")
    have = [verdict for verdict in Verdict if any(result.verdict is verdict for result in results)]
    return "".join(parts) + legend([(verdict.value, VERDICT_COLOURS[verdict]) for verdict in have])


def histogram(values: Sequence[float]) -> str:
    """How long runs took, in real seconds."""
    if not values:
        return ""
    ordered = sorted(values)
    high = max(ordered[-1], 0.01)
    bins = 40
    counts = [0] * bins
    for value in ordered:
        counts[min(bins - 1, int(value / high * bins))] += 1
    canvas = Canvas(height=150, x_range=(0.0, high), y_range=(0.0, max(counts) * 1.05))
    canvas.y_axis()
    base = canvas.height - canvas.bottom
    for index, count in enumerate(counts):
        left, right = canvas.x(high * index / bins), canvas.x(high * (index + 1) / bins)
        canvas.rect(left, canvas.y(count), right - left - 1, base - canvas.y(count), COLOURS[0], str(count))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.text(
            canvas.x(high * share), base + 16, duration(high * share), "tick", "end" if share == 1 else "middle"
        )
    return canvas.render("real time a run")
