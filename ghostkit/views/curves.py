"""The course of one training: loss, accuracy and MACs per image, with its growth events.

Number and order of the traces stay the same while a run goes on, so that a live view can pour a newer figure into an
older one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.metrics import METRICS, metric_of
from ghostkit.views.columns import check_columns
from ghostkit.views.theme import AGE_SCALE, BLUE, EMPTY, FAINT, GRID, INK, LEGEND_ABOVE, MUTED, OWN_WORDS, Drawn
from ghostkit.views.wording import axis_unit, percent, quantity, sparkline, table_text

__all__ = ["curves_drawn", "training_curves", "training_curves_text"]

METRIC_COLUMNS = ("step", "epoch", "compute", "split", "loss", "params", "macs")
EVENT_COLUMNS = ("event", "epoch", "edits", "params_before", "params_after", "macs_before", "macs_after", "reason")
NOTHING = "Nothing has been measured yet."


def training_curves(
    metrics: pd.DataFrame, events: pd.DataFrame | None = None, steps: pd.DataFrame | None = None
) -> go.Figure:
    """Return loss, accuracy (or mAP50, or mIoU) and MACs per image over the epochs, with growth events marked.

    Args:
        metrics: ``run.metrics``.
        events: ``run.events``; events without edits get a hollow mark and no line.
        steps: columns epoch and loss (nats), step by step, where somebody watched.

    Raises:
        GhostkitError: if a column is missing.
    """
    return curves_drawn(metrics, events, steps).figure(training_curves_text(metrics, events))


def curves_drawn(metrics: pd.DataFrame, events: pd.DataFrame | None = None, steps: pd.DataFrame | None = None) -> Drawn:
    """Return what :func:`training_curves` draws; arguments and errors as there."""
    metric = metric_of(metrics)
    metrics = pd.DataFrame(columns=[*METRIC_COLUMNS, metric]) if metrics.empty else metrics
    check_columns(metrics, (*METRIC_COLUMNS, metric), "metrics")
    divisor, unit = axis_unit(metrics["macs"], "MAC")
    steps = pd.DataFrame({"epoch": [], "loss": []}) if steps is None else steps
    check_columns(steps, ("epoch", "loss"), "steps")
    span = max([0.0, *metrics["epoch"].tail(1), *steps["epoch"].tail(1)]) or 1.0
    traces = [
        _watched(steps),
        *_measured(metrics, metric),
        _size(metrics, events, divisor, unit),
        *_event_marks(events, span),
    ]
    layout = {
        "height": 560,
        "xaxis": {"title": {"text": "epoch"}, "anchor": "y4", "range": [-0.01 * span, 1.015 * span]},
        "yaxis2": {"title": {"text": "loss (nats)"}, "domain": [0.615, 0.965], "rangemode": "tozero"},
        "yaxis3": {"title": {"text": f"{METRICS[metric]} (%)"}, "domain": [0.225, 0.575]},
        "yaxis4": {
            **{"title": {"text": f"{unit}<br>per image"}, "domain": [0, 0.185]},
            **{"rangemode": "tozero", "nticks": 4},
        },
        # One invisible axis spans the three panels, for the lines that growth events draw through all of them.
        "yaxis": {"domain": [0, 0.965], "range": [0, 1], "visible": False, "fixedrange": True},
        "legend": LEGEND_ABOVE | {"y": 1.03},
        "annotations": [EMPTY | {"text": NOTHING}] if metrics.empty and steps.empty else [],
        "margin": {"t": 56},
    }
    return Drawn([{"type": "scatter", **trace} for trace in traces], layout)


def _watched(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the loss step by step, as a faint line behind everything else."""
    return {
        "x": steps["epoch"].to_numpy(np.float32),
        "y": steps["loss"].to_numpy(np.float32),
        "yaxis": "y2",
        "mode": "lines",
        "line": {"color": GRID, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _measured(metrics: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """Return the loss of both splits, then the ``metric`` of both."""
    judged = _judged_on(metrics)
    splits = (_split(metrics, "train"), "train", FAINT, 1.4), (_split(metrics, judged), judged, BLUE, 2.2)
    return [
        {
            "x": rows["epoch"].to_numpy(np.float32),
            "y": rows[column].to_numpy(np.float32) * factor,
            "yaxis": axis,
            "name": name,
            "legendgroup": name,
            "showlegend": column == "loss",
            "mode": "lines+markers" if name == judged and len(rows) <= 60 else "lines",
            "line": {"color": colour, "width": width},
            "marker": {"size": 5},
            "hovertemplate": f"{name} {label}<br>epoch %{{x:.2f}}<extra></extra>",
        }
        for column, axis, factor, label in (("loss", "y2", 1, "loss %{y:.4f}"), (metric, "y3", 100, "%{y:.2f} %"))
        for rows, name, colour, width in splits
    ]


def _judged_on(metrics: pd.DataFrame) -> str:
    """Return the split that the run is judged on: ``"test"``, or ``"validation"`` where images were held out."""
    return "validation" if (metrics["split"] == "validation").any() else "test"


def _split(metrics: pd.DataFrame, name: str, points: int = 1000) -> pd.DataFrame:
    """Return the rows of one split, evenly thinned to ``points``, the last one kept."""
    rows = metrics[metrics["split"] == name]
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(points, len(rows))).astype(int))]


def _size(metrics: pd.DataFrame, events: pd.DataFrame | None, divisor: float, unit: str) -> dict[str, Any]:
    """Return the MACs per image as stairs: where they changed, at an event or between two measurements, and the end."""
    rows = metrics[["step", "epoch", "macs", "params"]]
    if events is not None and not events.empty and {"step", "macs_after", "params_after"} <= {*events}:
        grown = events.rename(columns={"macs_after": "macs", "params_after": "params"})
        rows = pd.concat([rows, grown[list(rows.columns)]])
    rows = rows.sort_values(["step", "epoch"], kind="stable")
    rows = rows[rows["macs"].ne(rows["macs"].shift()) | (np.arange(len(rows)) == len(rows) - 1)]
    return {
        "x": rows["epoch"],
        "y": rows["macs"] / divisor,
        "yaxis": "y4",
        "name": "MACs per image",
        "customdata": [quantity(value, "params") for value in rows["params"]],
        "line": {"color": INK, "width": 1.8, "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": "rgba(34,39,46,0.07)",
        "mode": "lines",
        "showlegend": False,
        "hovertemplate": f"%{{y:.3~g}} {unit} per image<br>%{{customdata}}<br>epoch %{{x:.2f}}<extra></extra>",
    }


def _event_marks(events: pd.DataFrame | None, span: float) -> list[dict[str, Any]]:
    """Return three traces: a line through all panels per growth event, its mark, and marks of events without edits."""
    events = pd.DataFrame(columns=EVENT_COLUMNS) if events is None or events.empty else events
    check_columns(events, EVENT_COLUMNS, "events")
    grows = events["edits"].astype(str).ne("").to_numpy()
    grown, idle = events[grows], events[~grows]
    epochs = grown["epoch"].to_numpy(float)
    line = {
        "x": np.repeat(epochs, 3),
        "y": np.tile([0, 1, np.nan], len(epochs)),
        "mode": "lines",
        "line": {"color": FAINT, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    aged = {
        **{"symbol": "triangle-down", "size": 10, "line": {"color": "white", "width": 1}},
        **{"color": grown["event"].to_numpy(int), "colorscale": AGE_SCALE},
        **{"cmin": 1, "cmax": int(max([2, *events["event"]]))},
    }
    hollow = {"symbol": "circle-open", "size": 7, "color": FAINT}
    numbers = _spaced(epochs, grown["event"], span)
    return [line, _marks(grown, "growth event", aged, numbers), _marks(idle, "event without growth", hollow)]


def _marks(events: pd.DataFrame, name: str, look: dict[str, Any], numbers: np.ndarray | None = None) -> dict[str, Any]:
    return {
        "x": events["epoch"].to_numpy(float),
        "y": np.ones(len(events)),
        "mode": "markers+text",
        "name": name,
        "text": numbers,
        "textposition": "top center",
        "textfont": {"size": 10, "color": MUTED},
        "marker": look,
        "hovertext": np.array([_hover_of(event) for event in events.itertuples()], dtype=object),
        "hovertemplate": OWN_WORDS,
        "cliponaxis": False,
        "showlegend": len(events) > 0,
    }


def _spaced(positions: np.ndarray, labels: Iterable[Any], span: float, room: float = 0.028) -> np.ndarray:
    """Return the labels with those blanked that would touch their left neighbour; ``room`` is a share of ``span``."""
    kept, last = [], -np.inf
    for position, label in zip(positions, labels, strict=True):
        fits = position - last >= room * span
        kept.append(str(label) if fits else "")
        last = position if fits else last
    return np.array(kept, dtype=object)


def _hover_of(event: Any) -> str:
    sizes = event.macs_before, event.macs_after, event.params_before, event.params_after
    return _event_hover(event.event, event.epoch, event.edits, event.reason, *sizes)


@lru_cache(4096)  # a live view asks for the same thousand events again and again
def _event_hover(
    number: int, epoch: float, edits: str, reason: str, macs: float, macs_after: float, params: float, after: float
) -> str:
    cost = f"{quantity(macs, 'MAC')} → {quantity(macs_after, 'MAC')} per image"
    size = f"{quantity(params)} → {quantity(after, 'params')}"
    return (
        f"<b>growth event {number}</b> · epoch {epoch:.2f}<br>{_wrapped(edits or 'no growth')}"
        f"<br>{cost}<br>{size}<br><i>{_wrapped(reason)}</i>"
    )


def _wrapped(text: str) -> str:
    return text if len(text) <= 68 else "<br>".join(textwrap.wrap(text, 68))


def training_curves_text(metrics: pd.DataFrame, events: pd.DataFrame | None = None, limit: int = 40) -> str:
    """Return the course of a training in a few lines, and its growth events as a table.

    Args:
        metrics: ``run.metrics``.
        events: ``run.events``.
        limit: events listed at most, the latest ones.
    """
    if metrics.empty:
        return NOTHING
    last, metric = metrics.iloc[-1], metric_of(metrics)
    spent, size = quantity(last["compute"], "MAC"), quantity(last["macs"], "MAC")
    lines = [f"{last['epoch']:.2f} epochs, {spent} spent; {size} per image at the end"]
    judged = _judged_on(metrics)
    width = max(len(judged), len("train"))
    for name in ("train", judged):
        rows = metrics[metrics["split"] == name]
        if not rows.empty:
            loss, reached = rows["loss"], rows[metric]
            lines.append(f"{name:<{width}}  loss      {loss.iloc[0]:8.4f} → {loss.iloc[-1]:8.4f}  {sparkline(loss)}")
            lines.append(
                f"{name:<{width}}  {METRICS[metric]:<8}  {percent(reached.iloc[0]):>8} → {percent(reached.iloc[-1]):>8}"
                f"  {sparkline(reached)}  best {percent(reached.max())}"
            )
    if events is None or events.empty:
        return "\n".join([*lines, "no growth events"])
    earlier, events = len(events) - limit, events.tail(limit)
    table = pd.DataFrame(
        {
            "event": events["event"],
            "epoch": events["epoch"].map("{:.2f}".format),
            "MACs": [f"{quantity(row.macs_before)} → {quantity(row.macs_after)}" for row in events.itertuples()],
            "edits": [textwrap.shorten(row.edits, 80) or "no growth" for row in events.itertuples()],
        }
    )
    more = [f"… and {earlier} events before these"] if earlier > 0 else []
    return "\n".join([*lines, "", table_text(table), *more])
