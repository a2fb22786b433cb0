"""Which values of the parameters led where: one axis a parameter, one line a group of runs.

Plotly's own parallel coordinates know numbers only, cut long tick labels off and cannot spread lines that share a
value; so the lines here are ordinary ones. Words and few numbers get a place each, and the lines through one place are
spread in it, the better ones above.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ghostkit.metrics import METRICS
from ghostkit.views.columns import check_columns
from ghostkit.views.theme import BLUE, FAINT, INK, MUTED, OWN_WORDS, SKY, finish, notice
from ghostkit.views.wording import axis_unit, percent, quantity, table_text

__all__ = ["parallel_parameters", "parallel_parameters_text"]

NOTHING = "No run is over, or all have the same parameters: there is nothing to tell apart."
PLACES = 8  # more values than this, all numbers, run along the axis instead of having a place each
AXES = 8  # parameters drawn at most
LINES = 16  # of words that fit beside an axis, one below the other
# From the worst to the best; darker is better, so that the order survives in grey.
SCALE = [[0, "#C3CFDA"], [0.4, SKY], [0.75, BLUE], [1, "#00263D"]]


@dataclass(frozen=True)
class _Axis:
    """One axis: where each group crosses it (0 to 1), and what stands beside it."""

    title: str
    heights: np.ndarray
    ticks: list[tuple[float, str]]


def parallel_parameters(
    table: pd.DataFrame, parameters: Sequence[str], metric: str = "accuracy", split: str = "test"
) -> go.Figure:
    """Return one line a group of runs, through its parameters, the MACs it ended with and what it reached.

    Args:
        table: ``comparison.table``; runs that are not over are left out.
        parameters: ``comparison.parameters``; the first eight are drawn.
        metric: ``comparison.metric``; the darker a line, the better. Dots on its axis are single runs.
        split: which images it was measured on: "test" or "validation".

    Raises:
        GhostkitError: if a column is missing.
    """
    over = _over(table, parameters, metric)
    if over.empty or not parameters:
        return notice(NOTHING)
    groups = over.groupby("group", sort=False).agg(
        {**dict.fromkeys(parameters, "first"), "macs": "mean", metric: "mean", "seed": "nunique"}
    )
    groups = groups.sort_values(metric)  # the best line is drawn last, so it lies on top
    shown = list(parameters)[:AXES]
    axes = [_axis(name, groups[name], groups[metric]) for name in shown]
    divisor, unit = axis_unit(groups["macs"], "MAC")
    axes.append(_numbers(f"{unit} per image", groups["macs"].to_numpy(float) / divisor))
    low, high = float(over[metric].min()), float(over[metric].max())
    last = _numbers(f"{split} {METRICS[metric]} (%)", 100 * groups[metric].to_numpy(float), 100 * low, 100 * high)
    axes.append(last)
    colours = sample_colorscale(SCALE, list(_scaled(groups[metric].to_numpy(float), low, high)))
    figure = go.Figure()
    for place in range(len(axes)):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": FAINT, "width": 1}, layer="below")
    thin = len(groups) > 20
    for number, (group, row) in enumerate(groups.iterrows()):
        figure.add_scatter(
            x=np.arange(len(axes)),
            y=[axis.heights[number] for axis in axes],
            mode="lines+markers",
            line={"color": colours[number], "width": 1.2 if thin else 2.2},
            marker={"size": 4 if thin else 6, "color": colours[number]},
            hovertext=[_hover(str(group), row, parameters, metric, split)] * len(axes),
            hovertemplate=OWN_WORDS,
            showlegend=False,
        )
    singles = _scaled(over[metric].to_numpy(float), low, high)
    figure.add_scatter(
        x=np.full(len(singles), len(axes) - 1),
        y=_margin(singles),
        mode="markers",
        marker={"symbol": "line-ew", "size": 11, "line": {"color": MUTED, "width": 1.2}},
        hovertext=[f"{run.run}: {percent(getattr(run, metric))}" for run in over.itertuples()],
        hovertemplate=OWN_WORDS,
        showlegend=False,
    )
    return finish(
        figure,
        parallel_parameters_text(table, parameters, metric),
        height=440,
        xaxis={"visible": False, "range": [-0.06, len(axes) - 1 + 0.42]},
        yaxis={"visible": False, "range": [-0.02, 1.02]},
        annotations=[note for place, axis in enumerate(axes) for note in _notes(place, axis, len(axes))],
        margin={"t": 56, "b": 20, "l": 24, "r": 28},
    )


def _over(table: pd.DataFrame, parameters: Sequence[str], metric: str) -> pd.DataFrame:
    check_columns(table, ("run", "group", "seed", "progress", "macs", metric, *parameters), "metrics")
    return table if table.empty else table[(table["progress"] == 1) & table[metric].notna()]


def _axis(name: str, values: pd.Series, reached: pd.Series) -> _Axis:
    """Return the axis of a parameter: a place for each value, or a scale where there are many numbers."""
    told = [_told(value) for value in values]
    numeric = all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)
    if numeric and not values.isna().any() and len(set(told)) > PLACES:
        return _numbers(name, values.to_numpy(float))
    mean = reached.groupby(told).mean()
    first = dict(zip(told, values, strict=True))
    order = sorted(mean.index, key=lambda word: float(first[word]) if numeric else float(mean[word]))
    heights = np.empty(len(told))
    half = 0.3 / len(order)
    for place, word in enumerate(order):
        members = np.flatnonzero(np.array(told) == word)
        members = members[np.argsort(reached.to_numpy(float)[members], kind="stable")]
        spread = np.linspace(-half, half, len(members)) if len(members) > 1 else np.zeros(1)
        heights[members] = (place + 0.5) / len(order) + spread
    return _Axis(name, heights, [((place + 0.5) / len(order), word) for place, word in enumerate(order)])


def _numbers(title: str, values: np.ndarray, low: float | None = None, high: float | None = None) -> _Axis:
    """Return an axis along which numbers run, from ``low`` to ``high``, by powers where they span many."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    powers = low > 0 and high / low > 30
    if powers:
        ticks, low, high, values = np.geomspace(low, high, 5), np.log(low), np.log(high), np.log(values)
        places = np.log(ticks)
    else:
        ticks = places = _round_ticks(low, high)
    beside = _margin(_scaled(places, low, high))
    return _Axis(
        title, _margin(_scaled(values, low, high)), [(y, f"{t:.3g}") for y, t in zip(beside, ticks, strict=True)]
    )


def _round_ticks(low: float, high: float) -> np.ndarray:
    """Return some four round numbers from ``low`` to ``high``."""
    if not high > low:
        return np.array([low])
    power = 10.0 ** np.floor(np.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= (high - low) / 4)
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _margin(heights: np.ndarray) -> np.ndarray:
    """Return heights with some room left at both ends of the axis."""
    return 0.04 + 0.92 * heights


def _told(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(place: int, axis: _Axis, axes: int) -> list[dict[str, Any]]:
    """Return the title above an axis and the words beside it."""
    size = 12 if axes <= 6 else 10
    wide = 18 if axes <= 5 else 12
    last = place == axes - 1  # beyond it, there is room for its ticks only
    title = {
        **{"x": place, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "yshift": 6},
        "xanchor": "left",
        "text": f"<b>{_wrapped(axis.title, 9 if last else wide, 3)}</b>",
        **{"font": {"size": size, "color": INK}, "align": "left"},
    }
    lines = min(4, max(1, LINES // max(len(axis.ticks), 1)))
    ticks = [
        {
            **{"x": place, "y": height, "xanchor": "left", "yanchor": "middle", "xshift": 9, "showarrow": False},
            "text": _wrapped(word, wide, lines),
            **{"font": {"size": 11, "color": INK}, "align": "left"},
            **{"bgcolor": "rgba(255,255,255,0.82)", "borderpad": 1},
        }
        for height, word in axis.ticks
    ]
    return [title, *ticks]


def _wrapped(text: str, width: int, lines: int) -> str:
    """Return ``text`` on lines of about ``width``, broken behind spaces and the signs that join names."""
    wrapped = [""]
    for part in re.findall(r"[^ +_/,]*[ +_/,]?", text):
        for piece in textwrap.wrap(part, width + 6, drop_whitespace=False):
            if wrapped[-1] and len((wrapped[-1] + piece).rstrip()) > width:
                wrapped.append("")
            wrapped[-1] += piece
    return "<br>".join(wrapped if len(wrapped) <= lines else [*wrapped[: lines - 1], f"{wrapped[lines - 1]} …"])


def _hover(group: str, row: Any, parameters: Sequence[str], metric: str, split: str) -> str:
    told = "<br>".join(f"{name}: {_told(row[name])}" for name in parameters)
    return (
        f"<b>{group}</b><br>{told}<br>{quantity(row['macs'], 'MAC')} per image<br>"
        f"{split} {METRICS[metric]} {percent(row[metric])}, {row['seed']:.0f} seed(s)"
    )


def parallel_parameters_text(table: pd.DataFrame, parameters: Sequence[str], metric: str = "accuracy") -> str:
    """Return, for every value of every parameter, how many runs had it and what they reached on average.

    Args:
        table: ``comparison.table``; runs that are not over are left out.
        parameters: ``comparison.parameters``.
        metric: ``comparison.metric``.

    Raises:
        GhostkitError: if a column is missing.
    """
    over = _over(table, parameters, metric)
    if over.empty or not parameters:
        return NOTHING
    rows = []
    for name in parameters:
        found = over.groupby(over[name].map(_told), sort=False)
        for value, runs in sorted(found, key=lambda pair: -pair[1][metric].mean()):
            mean, best = percent(runs[metric].mean()), percent(runs[metric].max())
            rows.append({"parameter": name, "value": value, "runs": len(runs), "mean": mean, "best": best})
    table = pd.DataFrame(rows).rename(columns={"mean": f"mean {METRICS[metric]}", "best": f"best {METRICS[metric]}"})
    return table_text(table)
