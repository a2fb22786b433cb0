"""How every view looks and words its numbers.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the template is light and neutral, so that the
data is the darkest thing on the page. Numbers carry SI prefixes and units, in pictures and in their text twins alike.
Nothing here knows what a network is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

__all__ = ["TEMPLATE", "axis_unit", "notice", "percent", "quantity", "sparkline", "table_text"]

# Okabe & Ito (2008), "Color Universal Design", without the yellow that vanishes on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT, GRID, BAND, SEEDLING = "#22272E", "#66707C", "#B4BCC6", "#E8EBEF", "#F5F6F8", "#A9B2BD"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# Growth events from early to late. Blue, green and orange get lighter in this order, so the scale survives in grey.
AGE_SCALE = [BLUE, GREEN, ORANGE]
# What is made by cheap operations is hatched; what a choice or an event put there is framed.
HATCHED = {"shape": "/", "fillmode": "replace", "bgcolor": "white", "size": 5, "solidity": 0.45}
FRAMED = {"color": "rgba(0,0,0,0)", "line": {"color": INK, "width": 1.5}}
# Cividis, with paper white for what lies below 1 of 255.
MAP_SCALE = [[0, "white"], [1 / 255, "white"], [1 / 255, "#00224e"], [0.5, "#7c7b78"], [1, "#fee838"]]

# Where a figure says that it has nothing to draw.
EMPTY = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": 14, "color": MUTED}}

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


_AXIS = {
    "showgrid": True,
    "gridcolor": GRID,
    "gridwidth": 1,
    "zeroline": False,
    "showline": True,
    "linecolor": FAINT,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": FAINT,
    "tickfont": {"size": 11, "color": MUTED},
    "title": {"font": {"size": 12, "color": INK}, "standoff": 8},
    "automargin": True,
    "exponentformat": "power",
}


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left", "yref": "container", "y": 0.985},
        "paper_bgcolor": "white",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(CYCLE),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"font": {"size": 11}, "bgcolor": "rgba(0,0,0,0)", "itemsizing": "trace"},
        "hoverlabel": {"bgcolor": "white", "bordercolor": FAINT, "font": {"size": 12, "color": INK}, "align": "left"},
        "hovermode": "closest",
        "bargap": 0.3,
        "margin": {"l": 64, "r": 24, "t": 64, "b": 52},
    }
)


def notice(text: str) -> go.Figure:
    """Return a figure that says in one sentence why there is nothing to draw.

    Args:
        text: the sentence.
    """
    figure = go.Figure()
    figure.update_layout(template=TEMPLATE, height=180, meta={"text": text}, annotations=[EMPTY | {"text": text}])
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def age_colours(events: int) -> list[str]:
    """Return one colour per growth event, grey for the seedling first, then cool (early) to warm (late).

    Args:
        events: number of the last growth event.
    """
    spread = np.linspace(0, 1, events) if events > 1 else [0.0][:events]
    return [SEEDLING, *sample_colorscale(AGE_SCALE, list(spread))]


def age_axis(events: int, height: int) -> dict[str, Any]:
    """Return the colour axis of growth events, its stepped bar at the upper right, 34 pixels below the edge.

    Args:
        events: number of the last growth event.
        height: of the figure, in pixels.
    """
    edges = np.repeat(np.linspace(0, 1, events + 2), 2)[1:-1]
    return {
        "colorscale": [[edge, c] for edge, c in zip(edges, np.repeat(age_colours(events), 2), strict=True)],
        "cmin": -0.5,
        "cmax": events + 0.5,
        "showscale": events > 0,
        "colorbar": {
            **{"x": 1, "xref": "paper", "xanchor": "right", "xpad": 0},
            **{"y": 1 - 34 / height, "yref": "container", "yanchor": "top", "ypad": 0},
            "orientation": "h",
            "len": 0.6,
            "thickness": 10,
            "outlinewidth": 0,
            "ticks": "",
            "tickvals": list(range(0, events + 1, max(1, -(-events // 12)))),
            "tickangle": 0,
            "tickfont": {"size": 11, "color": MUTED},
            "title": {"text": "last grown at event (0: seedling)", "font": {"size": 11}},
        },
    }


def replay_controls(labels: Sequence[str], frames: Sequence[str]) -> dict[str, Any]:
    """Return the slider and the two buttons that move through the frames of an animated figure.

    Args:
        labels: what stands under the slider, one word for each frame.
        frames: the names of the frames, in the same order.
    """
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = {"fromcurrent": True, "frame": {"duration": 700, "redraw": True}, "transition": {"duration": 0}}
    steps = [
        {"label": label, "method": "animate", "args": [[frame], still]}
        for label, frame in zip(labels, frames, strict=True)
    ]
    buttons = [
        {"label": "▶", "method": "animate", "args": [None, play]},
        {"label": "❚❚", "method": "animate", "args": [[None], still]},
    ]
    place = {"y": 0, "yanchor": "top", "xanchor": "left", "font": {"size": 11, "color": MUTED}}
    slider = {**place, "x": 0.16, "len": 0.84, "pad": {"t": 34}, "currentvalue": {"visible": False}, "steps": steps}
    menu = {**place, "x": 0, "pad": {"t": 40}, "type": "buttons", "direction": "left", "showactive": False}
    return {"sliders": [slider], "updatemenus": [{**menu, "buttons": buttons}]}


def axis_unit(values: Sequence[float] | np.ndarray | pd.Series, unit: str) -> tuple[float, str]:
    """Return the divisor and the prefixed unit in which an axis over ``values`` reads best, such as (1e6, "MMAC").

    Args:
        values: what the axis has to span, in ``unit``.
        unit: the unit without a prefix.
    """
    finite = np.abs(np.asarray(values, dtype=float))
    finite = finite[np.isfinite(finite)]
    largest = float(finite.max()) if finite.size else 0.0
    power = min(max(math.floor(math.log10(largest) / 3), 0), len(_PREFIXES) - 1) if largest > 0 else 0
    return 1000.0**power, _PREFIXES[power] + unit


def quantity(value: float | None, unit: str = "") -> str:
    """Return ``value`` with three significant digits, an SI prefix and its unit: ``1.20 MMAC``, ``34.5 k``.

    Args:
        value: the number, in ``unit``; None and NaN become a dash.
        unit: "MAC", "params" or nothing. A prefix is joined to MAC and stands before a space and any other unit.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1000:
        return f"{value:.0f} {unit}".rstrip()
    value = float(f"{value:.3g}")
    magnitude = math.floor(math.log10(abs(value)))
    power = min(max(magnitude // 3, 0), len(_PREFIXES) - 1)
    tail = _PREFIXES[power] + unit if unit == "MAC" else f"{_PREFIXES[power]} {unit}".strip()
    return f"{value / 1000.0**power:.{max(0, 2 - magnitude + 3 * power)}f} {tail}".rstrip()


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as a percentage with two decimals; None and NaN become a dash."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.2f} %"


def sparkline(values: Sequence[float] | np.ndarray | pd.Series, width: int = 32) -> str:
    """Return the course of ``values`` as one line of block characters.

    Args:
        values: the numbers in order; what is not finite is left out.
        width: characters at most.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ""
    kept = numbers[np.unique(np.linspace(0, numbers.size - 1, min(width, numbers.size)).round().astype(int))]
    low, high = float(kept.min()), float(kept.max())
    steps = (kept - low) / (high - low) * 7 if high > low else np.full(kept.size, 3.0)
    return "".join("▁▂▃▄▅▆▇█"[round(step)] for step in steps)


def table_text(frame: pd.DataFrame) -> str:
    """Return ``frame`` as aligned monospace text: words to the left, numbers to the right.

    Args:
        frame: any data frame, its cells already worded; the index is not shown.
    """
    if frame.empty:
        return "(nothing to show)"
    columns = []
    for name in frame.columns:
        cells = [str(name), *map(str, frame[name])]
        width = max(map(len, cells))
        worded = any(text[:1].isalpha() or text[:1] in "█▓░*" for text in cells[1:] if text)
        columns.append([cell.ljust(width) if worded else cell.rjust(width) for cell in cells])
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])
