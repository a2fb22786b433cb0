"""How every view looks.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the template is light and neutral, so that the
data is the darkest thing on the page. Growth events have the same colours in every figure, and so have the marks of
what is made by cheap operations and of what growth chose. Nothing here reads a data frame.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly

__all__ = [
    "TEMPLATE",
    "age_axis",
    "age_colours",
    "finish",
    "legend_room",
    "line_looks",
    "notice",
    "replay_controls",
    "translucent",
]

# Okabe & Ito (2008), "Color Universal Design", without the yellow that vanishes on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT, GRID, BAND, SEEDLING = "#22272E", "#66707C", "#B4BCC6", "#E8EBEF", "#F5F6F8", "#A9B2BD"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# Growth events from early to late. Blue, green and orange get lighter in this order, so the scale survives in grey.
AGE_SCALE = [BLUE, GREEN, ORANGE]
STEPS = 40
# What is made by cheap operations is hatched; what a choice or an event put there is framed.
HATCHED = {"shape": "/", "fillmode": "replace", "bgcolor": "white", "size": 5, "solidity": 0.45}
FRAMED = {"color": "rgba(0,0,0,0)", "line": {"color": INK, "width": 1.5}}
# Cividis, with paper white for what lies below 1 of 255.
MAP_SCALE = [[0, "white"], [1 / 255, "white"], [1 / 255, "#00224e"], [0.5, "#7c7b78"], [1, "#fee838"]]

# Where a figure says that it has nothing to draw.
EMPTY = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": 14, "color": MUTED}}

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
# A trace that brings its own words for each mark shows them, without plotly's box for the name of the trace.
OWN_WORDS = "%{hovertext}<extra></extra>"
# Where a legend stands that takes no width from the data; ``y`` says how far above.
LEGEND_ABOVE = {"orientation": "h", "x": 0, "yanchor": "bottom"}

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


def finish(figure: go.Figure, text: str, **layout: Any) -> go.Figure:
    """Give ``figure`` our template, its text twin and its layout, and return it.

    Args:
        figure: the traces.
        text: what the figure shows, in words and tables.
        layout: as for ``figure.update_layout``.
    """
    return figure.update_layout(template=TEMPLATE, meta={"text": text}, **layout)


@dataclass(frozen=True)
class Drawn:
    """A figure as plain data, which nobody has validated yet: what a live view redraws often, since it costs little.

    Args:
        traces: plotly's traces, each with its type.
        layout: plotly's layout, without our template.
    """

    traces: list[dict[str, Any]]
    layout: dict[str, Any]

    def figure(self, text: str) -> go.Figure:
        """Return it as a figure, with our template and its text twin."""
        return finish(go.Figure(self.traces), text, **self.layout)

    def json(self, text: str) -> dict[str, Any]:
        """Return what ``figure(text)`` would be as JSON."""
        layout = {**self.layout, "template": TEMPLATE.to_plotly_json(), "meta": {"text": text}}
        return json.loads(to_json_plotly({"data": self.traces, "layout": layout}))


def notice(text: str) -> go.Figure:
    """Return a figure that says in one sentence why there is nothing to draw.

    Args:
        text: the sentence.
    """
    hidden, shown = {"visible": False}, EMPTY | {"text": "<br>".join(textwrap.wrap(text, 60))}
    return finish(go.Figure(), text, height=180, annotations=[shown], xaxis=hidden, yaxis=hidden)


def legend_room(labels: Sequence[str]) -> int:
    """Return the pixels that a legend above a figure takes from it, at most; none while it fits into two lines.

    Args:
        labels: what its entries say.
    """
    return 0 if sum(map(len, labels)) + 8 * len(labels) < 170 else 29 * min(len(labels), 9)


def line_looks(count: int) -> list[tuple[str, str]]:
    """Return colour and dash of ``count`` lines, the first eight told apart, grey for those behind them.

    Args:
        count: how many lines there are, the ones that matter most first.
    """
    told = min(count, 8)
    looks = [(CYCLE[n % len(CYCLE)], DASHES[(n + n // len(CYCLE)) % len(DASHES)]) for n in range(told)]
    return looks + [(FAINT, "solid")] * (count - told)


def translucent(colour: str, opacity: float) -> str:
    """Return a colour such as "#0072B2" so that what lies under it shows through."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


@lru_cache(64)
def age_colours(events: int) -> tuple[str, ...]:
    """Return one colour per growth event, grey for the seedling first, then cool (early) to warm (late).

    Args:
        events: number of the last growth event.
    """
    spread = np.linspace(0, 1, events) if events > 1 else np.zeros(events)
    stops = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in AGE_SCALE])
    # By ourselves, since plotly's own sampling validates every stop for every colour.
    channels = [np.interp(spread, np.linspace(0, 1, len(stops)), channel).round() for channel in stops.T]
    return SEEDLING, *(f"rgb({red:.0f}, {green:.0f}, {blue:.0f})" for red, green, blue in zip(*channels, strict=True))


def age_axis(events: int, height: int) -> dict[str, Any]:
    """Return the colour axis of growth events, its stepped bar at the upper right, its title 40 pixels below the edge.

    Args:
        events: number of the last growth event.
        height: of the figure, in pixels.
    """
    steps = min(events, STEPS)  # of colour: more could not be told apart, and each is validated
    edges = np.repeat(np.linspace(0, 1, steps + 2), 2)[1:-1]
    return {
        "colorscale": [[edge, c] for edge, c in zip(edges, np.repeat(age_colours(steps), 2), strict=True)],
        "cmin": -0.5,
        "cmax": events + 0.5,
        "showscale": events > 0,
        "colorbar": {
            **{"x": 1, "xref": "paper", "xanchor": "right", "xpad": 0},
            **{"y": 1 - 54 / height, "yref": "container", "yanchor": "top", "ypad": 0},
            "orientation": "h",
            "len": 0.6,
            "thickness": 10,
            "outlinewidth": 0,
            "ticks": "",
            "tickvals": list(range(0, events + 1, max(1, -(-events // 12)))),
            "tickangle": 0,
            "tickfont": {"size": 11, "color": MUTED},
            "title": {"text": "last grown at event (0: seedling)", "font": {"size": 11}, "side": "top"},
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
    slider = {**place, "x": 0.24, "len": 0.76, "pad": {"t": 34}, "currentvalue": {"visible": False}, "steps": steps}
    menu = {**place, "x": 0, "pad": {"t": 40}, "type": "buttons", "direction": "left", "showactive": False}
    return {"sliders": [slider], "updatemenus": [{**menu, "buttons": buttons}]}
