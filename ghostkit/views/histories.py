"""How several runs grew, laid over each other: their size as stairs, over what they had spent or how far they were.

What a policy does shows here before anything shows in an accuracy: when it grew, in how large steps, where it ended.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.views.columns import check_columns
from ghostkit.views.theme import FAINT, LEGEND_ABOVE, OWN_WORDS, finish, legend_room, line_looks, notice
from ghostkit.views.wording import axis_unit, quantity, table_text

__all__ = ["growth_histories", "growth_histories_text"]

Histories = Mapping[str, Sequence[tuple[pd.DataFrame, pd.DataFrame]]]
NOTHING = "Nothing has been measured yet."
SIZES = {"macs": ("MAC", " per image"), "params": ("", "parameters")}


def growth_histories(
    histories: Histories,
    over: Literal["compute", "progress"] = "compute",
    size: Literal["macs", "params"] = "macs",
) -> go.Figure:
    """Return the size of every run as stairs, one colour a label, with a mark on each growth event.

    Args:
        histories: label -> ``(run.metrics, run.events)`` of each of its runs (seeds, say). Of many labels, the first
            eight are told apart.
        over: what runs to the right: the training compute, or the share of the run that is done.
        size: what runs upwards: MACs per image, or parameters.

    Raises:
        GhostkitError: if a column is missing.
    """
    stairs = _all_stairs(histories, over, size)
    if not stairs:
        return notice(NOTHING)
    height, unit = axis_unit(np.concatenate([y for courses in stairs.values() for _, y, _ in courses]), SIZES[size][0])
    width, spent = 0.01, "share of the run (%)"
    if over == "compute":
        width, spent = axis_unit(np.concatenate([x for courses in stairs.values() for x, _, _ in courses]), "MAC")
        spent = f"compute spent ({spent})"
    figure = go.Figure()
    looks = line_looks(len(stairs))
    for (label, courses), (colour, dash) in zip(stairs.items(), looks, strict=True):
        said = html.escape(label, quote=False)
        for number, (x, y, events) in enumerate(courses):
            line = {"color": colour, "width": 1 if colour == FAINT else 1.8, "dash": dash, "shape": "hv"}
            common = {"legendgroup": label, "opacity": 0.5 if colour == FAINT else 0.85}
            figure.add_scatter(
                x=x / width,
                y=y / height,
                mode="lines",
                name=said if len(courses) == 1 else f"{said} ({len(courses)} runs)",
                showlegend=number == 0 and colour != FAINT,
                line=line,
                hoverinfo="skip",
                **common,
            )
            figure.add_scatter(
                x=events[over].to_numpy(float) / width,
                y=events[f"{size}_after"].to_numpy(float) / height,
                mode="markers",
                showlegend=False,
                marker={"symbol": "triangle-up", "size": 8, "color": colour, "line": {"color": "white", "width": 1}},
                hovertext=[_event_hover(said, event) for event in events.itertuples()],
                hovertemplate=OWN_WORDS,
                **common,
            )
    others = sum(colour == FAINT for colour, _ in looks)
    if others:
        figure.add_scatter(x=[None], y=[None], mode="lines", name=f"{others} others", line={"color": FAINT, "width": 1})
    named = f"{unit}{SIZES[size][1]}" if size == "macs" else f"{SIZES[size][1]} ({unit})" if unit else SIZES[size][1]
    return finish(
        figure,
        growth_histories_text(histories),
        height=420 + legend_room([str(trace.name) for trace in figure.data if trace.showlegend]),
        xaxis={"title": {"text": spent}, "rangemode": "tozero"},
        yaxis={"title": {"text": named}, "rangemode": "tozero"},
        legend=LEGEND_ABOVE | {"y": 1.01},
        margin={"t": 48},
    )


def _all_stairs(histories: Histories, over: str, size: str) -> dict[str, list[tuple[Any, Any, pd.DataFrame]]]:
    """Return the corners of every run's stairs and the events on them; what has not been measured is left out."""
    stairs: dict[str, list[tuple[Any, Any, pd.DataFrame]]] = {}
    for label, runs in histories.items():
        for metrics, events in runs:
            check_columns(metrics, (over, size, "step"), "metrics")
            check_columns(events, (over, "edits", "kinds", f"{size}_before", f"{size}_after"), "events")
            if not metrics.empty:
                grown = _grown(events)
                first = grown[f"{size}_before"].iloc[0] if len(grown) else metrics[size].iloc[0]
                x = np.array([0.0, *grown[over], metrics[over].iloc[-1]], dtype=float)
                y = np.array([first, *grown[f"{size}_after"], metrics[size].iloc[-1]], dtype=float)
                stairs.setdefault(label, []).append((x, y, grown))
    return stairs


def _grown(events: pd.DataFrame) -> pd.DataFrame:
    """Return the events that changed the network."""
    return events if events.empty else events[events["edits"].astype(str).ne("")]


def _event_hover(label: str, event: Any) -> str:
    edits = Counter(filter(None, str(event.kinds).split(", ")))
    what = ", ".join(f"{count} × {kind}" for kind, count in edits.most_common())
    cost = f"{quantity(event.macs_before, 'MAC')} → {quantity(event.macs_after, 'MAC')} per image"
    return f"<b>{label}</b><br>{what}<br>{cost}<br>at {event.progress:.0%} of the run"


def growth_histories_text(histories: Histories) -> str:
    """Return when and how much the runs of each label grew, as a table of means.

    Args:
        histories: label -> ``(run.metrics, run.events)`` of each of its runs.

    Raises:
        GhostkitError: if a column is missing.
    """
    rows = []
    for label, courses in _all_stairs(histories, "progress", "macs").items():
        grown = [events for _, _, events in courses]
        kinds = Counter(kind for events in grown for row in events["kinds"] for kind in filter(None, row.split(", ")))
        moments = [float(moment) for events in grown for moment in events["progress"]]
        rows.append(
            {
                "run": label,
                "runs": len(courses),
                "MACs per image": f"{quantity(_mean(y[0] for _, y, _ in courses), 'MAC')} → "
                f"{quantity(_mean(y[-1] for _, y, _ in courses), 'MAC')}",
                "events": f"{_mean(map(len, grown)):.1f}",
                "at": f"{min(moments):.0%} to {max(moments):.0%}" if moments else "–",
                "edits of a run": ", ".join(f"{n / len(courses):.3g} {kind}" for kind, n in kinds.most_common()) or "–",
            }
        )
    return table_text(pd.DataFrame(rows)) if rows else NOTHING


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
