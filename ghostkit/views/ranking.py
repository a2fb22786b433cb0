"""Which group of runs reached more, and whether that can be told from chance: tables, and a forest of differences.

Reads the frames of a :class:`ghostkit.comparing.Comparison`. Wherever an interval or a p value stands, the way it was
got stands beside it.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.metrics import METRICS
from ghostkit.views.theme import BLUE, INK, MUTED, OWN_WORDS, VERMILLION, finish, notice
from ghostkit.views.wording import percent, quantity, table_text

__all__ = ["difference_forest", "difference_forest_text", "difference_table", "ranking_table"]

NOTHING = "There is only one group of runs, or none that is over: nothing to take a difference of."
DIFFERENCE_COLUMNS = ("group", "reference", "method", "n", "difference", "low", "high", "p", "p_holm")
SYMBOLS = {"paired t": "circle", "Welch's t": "diamond", "no test": "circle-open"}
LABEL, ROW, LINE = 34, 34, 15  # characters of a label's line; pixels of a row and of each further line of its label


def ranking_table(groups: pd.DataFrame, metric: str = "accuracy", split: str = "test") -> pd.DataFrame:
    """Return groups of runs, the best first, worded with units, one row each.

    Args:
        groups: ``comparison.groups``.
        metric: ``comparison.metric``.
        split: which images it was measured on: "test" or "validation".
    """
    _check(groups, ("rank", "group", "n", "mean", "sd", "low", "high", "unfinished"), "groups")
    rows = groups.to_dict("records")
    table = {
        "rank": ["–" if pd.isna(row["rank"]) else str(row["rank"]) for row in rows],
        "group": [str(row["group"]) for row in rows],
        "seeds": [str(row["n"]) for row in rows],
        f"{split} {METRICS[metric]}": [_with_sd(row) for row in rows],
        "95 % interval": [_between(row["low"], row["high"], "{:.2f}", " %") for row in rows],
        "params": [quantity(row["params"]) for row in rows],
        "MACs per image": [quantity(row["macs"], "MAC") for row in rows],
        "compute spent": [quantity(row["compute"], "MAC") for row in rows],
        "time": [_seconds(row["seconds"]) for row in rows],
    }
    if groups["unfinished"].any():
        table["not over"] = [str(row["unfinished"]) for row in rows]
    return pd.DataFrame(table)


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return how far each group is from the reference, in points, and how sure that is, worded, one row each.

    Args:
        differences: ``comparison.differences``.
    """
    _check(differences, DIFFERENCE_COLUMNS, "differences")
    rows = differences.to_dict("records")
    return pd.DataFrame(
        {
            "group": [str(row["group"]) for row in rows],
            "points": [_signed(row["difference"]) for row in rows],
            "95 % interval": [_between(row["low"], row["high"], "{:+.2f}") for row in rows],
            "by": [_method(row) for row in rows],
            "p": [_p(row["p"]) for row in rows],
            "p (Holm)": [_p(row["p_holm"]) for row in rows],
            "p (Wilcoxon)": [_p(row["p_wilcoxon"]) for row in rows],
            "won": ["–" if pd.isna(row["won"]) else f"{row['won'] * row['n']:.0f} of {row['n']}" for row in rows],
        }
    )


def difference_forest(differences: pd.DataFrame, metric: str = "accuracy", split: str = "test") -> go.Figure:
    """Return the difference of every group to the reference, with its 95 % interval, as one row each.

    Blue and vermillion mark intervals that lie wholly above or below zero, grey those that do not.

    Args:
        differences: ``comparison.differences``.
        metric: ``comparison.metric``.
        split: which images it was measured on: "test" or "validation".

    Raises:
        GhostkitError: if a column is missing.
    """
    _check(differences, DIFFERENCE_COLUMNS, "differences")
    known = _known(differences)
    if known.empty:
        return notice(NOTHING)
    rows = known.to_dict("records")
    labels = [_label(row) for row in rows]
    heights = np.array([ROW + LINE * (label.count("<br>") - 1) for label in labels], dtype=float)
    places = -(np.cumsum(heights) - heights / 2)  # in pixels, so that rows of more lines get more room
    figure = go.Figure()
    for tested in (True, False):  # apart, since a row without an interval would get the caps of one
        here = [(row, place) for row, place in zip(rows, places, strict=True) if (row["method"] != "no test") == tested]
        if not here:
            continue
        bars = {
            "array": [100 * (row["high"] - row["difference"]) for row, _ in here],
            "arrayminus": [100 * (row["difference"] - row["low"]) for row, _ in here],
            **{"color": MUTED, "thickness": 1.6, "width": 5},
        }
        figure.add_scatter(
            x=[100 * row["difference"] for row, _ in here],
            y=[place for _, place in here],
            error_x=bars if tested else None,
            mode="markers",
            marker={
                "size": 11,
                "symbol": [SYMBOLS[row["method"]] for row, _ in here],
                "color": [_colour(row) for row, _ in here],
                "line": {"width": 1 if tested else 2, "color": "white" if tested else MUTED},
            },
            hovertext=[_hover(row) for row, _ in here],
            hovertemplate=OWN_WORDS,
            showlegend=False,
        )
    reference = textwrap.shorten(str(rows[0]["reference"]), 60, placeholder=" …")
    total = float(heights.sum())
    return finish(
        figure,
        difference_forest_text(differences),
        height=int(total) + 100,
        xaxis={
            "title": {"text": f"points of {split} {METRICS[metric]} above {reference}"},
            "zeroline": True,
            "zerolinecolor": INK,
        },
        yaxis={"tickvals": places, "ticktext": labels, "range": [-total, 0], "ticks": "", "showgrid": False},
        margin={"t": 24, "b": 64},
    )


def difference_forest_text(differences: pd.DataFrame) -> str:
    """Return the differences to the reference as a table.

    Args:
        differences: ``comparison.differences``.

    Raises:
        GhostkitError: if a column is missing.
    """
    _check(differences, DIFFERENCE_COLUMNS, "differences")
    known = _known(differences)
    if known.empty:
        return NOTHING
    return f"points above {known['reference'].iloc[0]}\n{table_text(difference_table(known))}"


def _check(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing and not frame.empty:
        raise GhostkitError(
            f"the {what} frame lacks the columns {missing}; it has {list(frame.columns)}. "
            f"Give the frame of a comparison (ghostkit.comparing.compare(runs).{what})"
        )


def _known(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences without those of groups of which no run is over."""
    return differences if differences.empty else differences[differences["difference"].notna()]


def _with_sd(row: dict[str, Any]) -> str:
    if pd.isna(row["sd"]):
        return percent(row["mean"])
    return f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f} %"


def _between(low: float, high: float, form: str, unit: str = "") -> str:
    return "–" if pd.isna(low) else f"{form.format(100 * low)} to {form.format(100 * high)}{unit}"


def _signed(difference: float) -> str:
    return "–" if pd.isna(difference) else f"{100 * difference:+.2f}"


def _seconds(seconds: float) -> str:
    if pd.isna(seconds):
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _p(p: float) -> str:
    return "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _method(row: dict[str, Any]) -> str:
    what = {"paired t": "pairs", "Welch's t": "runs and more"}.get(row["method"], "run" if row["n"] == 1 else "runs")
    return f"{row['method']}, {row['n']} {what}"


def _label(row: dict[str, Any]) -> str:
    """Return a group's name on lines that leave room for the data, and how its interval was got below it."""
    lines = textwrap.wrap(str(row["group"]), LABEL) or [""]
    if len(lines) > 3:
        lines = [*lines[:2], f"{lines[2][: LABEL - 2]} …"]
    p = "" if pd.isna(row["p"]) else f", p {_p(row['p'])}" if row["p"] < 0.001 else f", p = {_p(row['p'])}"
    below = f"<span style='color:{MUTED};font-size:10px'>{_method(row)}{p}</span>"
    return "<br>".join([*(f"<span style='color:{INK}'>{line}</span>" for line in lines), below])


def _colour(row: dict[str, Any]) -> str:
    if pd.isna(row["low"]) or row["low"] <= 0 <= row["high"]:
        return MUTED
    return BLUE if row["low"] > 0 else VERMILLION


def _hover(row: dict[str, Any]) -> str:
    interval = _between(row["low"], row["high"], "{:+.2f}")
    return (
        f"<b>{row['group']}</b> minus {row['reference']}<br>{_signed(row['difference'])} points, 95 %: {interval}"
        f"<br>{_method(row)}, p {_p(row['p'])}, by Holm {_p(row['p_holm'])}"
    )
