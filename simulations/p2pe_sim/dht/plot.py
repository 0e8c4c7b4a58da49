"""The picture of a run, as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

_INK, _CALM, _ALARM = "#22303c", "#2a78b5", "#c8553d"


def write_plot(result: dict[str, Any], path: Path) -> bool:
    """False where plotly isn't installed (the extra `sim` brings it)."""
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        return False
    churned = result["churn"]
    titles = ("Seconds until a record is found", "Rounds of a lookup", "Records found among Sybils")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, column_widths=[0.36, 0.24, 0.4])
    seconds = sorted(churned["seconds"])
    shares = [100 * (at + 1) / len(seconds) for at in range(len(seconds))]
    figure.add_trace(go.Scatter(x=seconds, y=shares, line={"color": _CALM}, showlegend=False), row=1, col=1)
    rounds = sorted(Counter(churned["rounds"]).items())
    total = sum(count for _, count in rounds)
    figure.add_trace(
        go.Bar(x=[r for r, _ in rounds], y=[100 * n / total for _, n in rounds], marker_color=_CALM, showlegend=False),
        row=1, col=2,
    )  # fmt: skip
    for name, colour, is_single in (("disjoint paths", _CALM, False), ("one path", _ALARM, True)):
        rows = [row for row in result["sybils"] if (row["paths"] == 1) is is_single]
        figure.add_trace(
            go.Bar(
                x=[row["placement"].replace(", ", ",<br>") for row in rows],
                y=[100 * row["share_found"] for row in rows],
                text=[f"{row['share_found']:.0%}" for row in rows],
                textposition="outside", cliponaxis=False, name=name, marker_color=colour,
            ),
            row=1, col=3,
        )  # fmt: skip
    figure.update_xaxes(title_text="seconds", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="% of lookups", range=[0, 101], row=1, col=1)
    figure.update_xaxes(title_text="rounds", dtick=1, row=1, col=2)
    figure.update_yaxes(title_text="% of lookups", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title_text="% found", range=[0, 110], row=1, col=3)
    figure.update_layout(
        title=f"{churned['nodes']:,} servers, {churned['churn_per_hour']:.0%} of them replaced an hour: "
        f"{churned['share_found']:.2%} of {churned['lookups']:,} lookups found their record",
        template="plotly_white", font={"family": "sans-serif", "color": _INK}, height=520, barmode="group",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.2},
    )  # fmt: skip
    figure.write_html(path, include_plotlyjs=True, full_html=True)
    return True
