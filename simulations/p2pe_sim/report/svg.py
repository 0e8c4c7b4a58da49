"""Drawing: numbers to SVG text. Colours are CSS variables of the page, so that dark pages work too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

COLOURS: Final = tuple(f"var(--c{number})" for number in range(1, 9))


def number(value: float) -> str:
    """At most two digits after the point, and no `-0`."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def duration(seconds: float) -> str:
    """`20 ms`, `1.5 s`, `90 s`, `5 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min"


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round values from `low` to `high`."""
    span = max(high - low, 1e-9)
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 10) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(high: float, wanted: int = 8) -> list[float]:
    """Round times: seconds, minutes, hours."""
    for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400):
        if high / step <= wanted:
            return [float(step * place) for place in range(int(high / step) + 1)]
    return ticks(0, high, wanted)


def clock(seconds: float) -> str:
    """`0:40`, `12:05`, `1:00:00`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


@dataclass
class Canvas:
    """An SVG picture with margins; `x` and `y` map data to it."""

    width: float = 720.0
    height: float = 240.0
    left: float = 46.0
    right: float = 14.0
    top: float = 10.0
    bottom: float = 30.0
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    x_log: bool = False
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.x_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.x_range[0]))
        share = (value - low) / (high - low or 1.0)
        return self.left + min(1.0, max(0.0, share)) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = (value - low) / (high - low or 1.0)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def add(self, part: str) -> None:
        self.parts.append(part)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.add(f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{style}"/>')

    def text(self, x: float, y: float, said: str, style: str = "", anchor: str = "start") -> None:
        self.add(f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" class="{style}">{escape(said)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, fill: str, title: str = "", more: str = "") -> None:
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.add(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(0.0, width))}" height="{number(height)}" '
            f'fill="{fill}" {more}>{inside}</rect>'
        )

    def path(self, points: Iterable[tuple[float, float]], style: str, colour: str, *, closed: bool = False) -> None:
        """Points already in picture coordinates."""
        joined = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        if joined:
            paint = f'fill="{colour}"' if closed else f'stroke="{colour}" fill="none"'
            self.add(f'<path d="M{joined}{"Z" if closed else ""}" class="{style}" {paint}/>')

    def time_axis(self) -> None:
        base = self.height - self.bottom
        for tick in time_ticks(self.x_range[1]):
            self.line(self.x(tick), self.top, self.x(tick), base, "grid")
            self.text(self.x(tick), base + 16, clock(tick), "tick", "middle")

    def y_axis(self, label: str = "", *, share: bool = False) -> None:
        for tick in ticks(*self.y_range, wanted=4):
            self.line(self.left, self.y(tick), self.width - self.right, self.y(tick), "grid")
            said = f"{tick:.0%}" if share else f"{tick:g}"
            self.text(self.left - 6, self.y(tick) + 4, said, "tick", "end")
        if label:
            self.text(self.left + 4, self.top + 10, label, "tick")

    def render(self, title: str) -> str:
        return (
            f'<svg viewBox="0 0 {number(self.width)} {number(self.height)}" role="img" aria-label="{escape(title)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def legend(names: Sequence[tuple[str, str]]) -> str:
    """(name, colour) pairs as a line of swatches."""
    return (
        '<div class="legend">'
        + "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in names)
        + "</div>"
    )
