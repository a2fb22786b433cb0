"""How alike the maps are that the branches of one ghost module make: a square of numbers, coloured and written out."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.views.theme import GRID, INK, finish, notice
from ghostkit.views.wording import table_text

__all__ = ["branch_similarity", "branch_similarity_text"]

NOTHING = "There are no maps to compare."
# From paper to cividis' dark blue: it darkens all the way, for every reader and in grey.
SCALE = [[0, "#F7F7F4"], [0.5, "#8FA3BF"], [1, "#00224E"]]
SAYS = "linear CKA: 1 alike, 0 nothing in common"
WRITTEN = 12  # groups of maps up to which the numbers are written into the cells


def branch_similarity(frame: pd.DataFrame, title: str = "Branch similarity") -> go.Figure:
    """Return how alike the intrinsic maps and those of each branch are, as a square with its numbers written in.

    Args:
        frame: what ``ghostkit.inspecting.similarity`` returns: linear CKA, 0 to 1, rows and columns alike.
        title: what was looked at.

    Raises:
        GhostkitError: if the frame is no square of the same rows and columns.
    """
    _check(frame)
    if frame.empty:
        return notice(NOTHING)
    values, names, count = frame.to_numpy(float), [*map(str, frame.index)], len(frame)
    side = min(64, 480 // count)
    written = count <= WRITTEN
    figure = go.Figure(
        go.Heatmap(
            z=values,
            zmin=0,
            zmax=1,
            colorscale=SCALE,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            showscale=not written,
            hovertemplate="%{y}<br>%{x}<br>CKA %{z:.3f}<extra></extra>",
            colorbar={
                **{"title": {"text": "linear CKA", "font": {"size": 11}}, "thickness": 10, "outlinewidth": 0},
                **{"tickvals": [0, 0.5, 1], "x": 1.02, "len": 1, "y": 0.5, "ticks": ""},
            },
        )
    )
    places = range(count)
    named: dict[str, object] = {
        **{"tickvals": [*places], "ticktext": [html.escape(name, quote=False) for name in names]},
        **{"showgrid": False, "showline": False, "ticks": "", "constrain": "domain"},
    }
    notes = [_cell(row, column, values[row, column], side) for row in (places if written else ()) for column in places]
    return finish(
        figure,
        branch_similarity_text(frame),
        height=side * count + 190,
        title={"text": title, "subtitle": {"text": SAYS}},
        annotations=notes,
        xaxis={**named, "tickangle": -40, "constraintoward": "left", "range": [-0.5, count - 0.5]},
        yaxis={**named, "range": [count - 0.5, -0.5], "scaleanchor": "x", "constraintoward": "top"},
        plot_bgcolor=GRID,
        margin={"t": 62, "b": 96, "r": 24 if written else 80},
    )


def _cell(row: int, column: int, value: float, side: int) -> dict[str, object]:
    """Return what is written into a cell: white on dark, dark on pale; a dash where there is no number."""
    text = f"{value:.2f}" if np.isfinite(value) else "–"
    font = {"size": 12 if side >= 48 else 10, "color": "white" if value > 0.45 else INK}
    return {"x": column, "y": row, "text": text, "font": font, "showarrow": False}


def branch_similarity_text(frame: pd.DataFrame) -> str:
    """Return how alike the intrinsic maps and those of each branch are, as a table.

    Args:
        frame: what ``ghostkit.inspecting.similarity`` returns.

    Raises:
        GhostkitError: if the frame is no square of the same rows and columns.
    """
    _check(frame)
    if frame.empty:
        return NOTHING
    worded = frame.map(lambda value: f"{value:.2f}" if np.isfinite(value) else "–")
    worded.insert(0, "linear CKA", [*map(str, frame.index)])
    return table_text(worded)


def _check(frame: pd.DataFrame) -> None:
    if [*frame.index] != [*frame.columns]:
        raise GhostkitError(
            f"a similarity has the same rows and columns; it has {[*frame.index]} and {[*frame.columns]}. "
            "Give the frame that ghostkit.inspecting.similarity returns"
        )
