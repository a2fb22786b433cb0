"""One network drawn to scale, two side by side, or its growth as an animation.

Width is channels, height is depth, and colour says what :mod:`ghostkit.views.colouring` knows of: the growth event at
which a block grew last, what was expected of it, or what it is worth. All networks of a figure share their rows and
their scales, so a block can be followed from one to the next. The room is not called
``architecture``: that name of ``ghostkit.views`` is the function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.views.colouring import Colouring, colouring
from ghostkit.views.columns import check_columns
from ghostkit.views.theme import (
    BAND,
    FRAMED,
    HATCHED,
    INK,
    MUTED,
    OWN_WORDS,
    Drawn,
    notice,
    replay_controls,
)
from ghostkit.views.wording import quantity, table_text

__all__ = ["architecture", "architecture_drawn", "architecture_replay", "architecture_replay_text", "architecture_text"]

ARCHITECTURE_COLUMNS = (
    *("block", "stage", "kind", "channels", "hidden", "intrinsic", "branches", "stride"),
    *("params", "macs", "born", "grown"),
)
NATS = ("gain", "importance")  # columns that a frame may have besides
NOTHING = "There is no network to draw."
# One drawn network: its traces, and the annotations that say what they show.
Panel = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def architecture(
    before: pd.DataFrame,
    after: pd.DataFrame | None = None,
    titles: tuple[str, str] = ("before", "after"),
    last_event: int | None = None,
    colour: str = "age",
) -> go.Figure:
    """Return a network as blocks drawn to scale, or two networks side by side on the same scale.

    Width is channels: the intrinsic maps in the middle, the ghost maps hatched on both sides, and under them the
    channels that the block puts out. Height is depth: one row a block, input at the top. A block that growth brought
    has a frame. ``↓2`` marks a stride.

    Args:
        before: ``run.architecture(event)``.
        after: the network to compare with; a block that only one of them has leaves its row free in the other.
        titles: what to call the two.
        last_event: number of the run's last event, to keep one colour scale over several figures.
        colour: what the colour of a block says: ``"age"``, the event at which it grew last; ``"gain"``, what was
            predicted of all that was grown in it; or ``"importance"``, by how much the loss rises without it, which is
            in a frame that was merged with what ``ghostkit.inspecting.importance`` returns.

    Raises:
        GhostkitError: if a column is missing, or there is no such colour.
    """
    frames = [before] if after is None else [before, after]
    if any(frame.empty for frame in frames):
        return notice(NOTHING)
    drawn = architecture_drawn(before, after, titles, last_event, colour)
    return drawn.figure(architecture_text(before, after, titles, colour))


def architecture_drawn(
    before: pd.DataFrame,
    after: pd.DataFrame | None = None,
    titles: tuple[str, str] = ("before", "after"),
    last_event: int | None = None,
    colour: str = "age",
) -> Drawn:
    """Return what :func:`architecture` draws; arguments and errors as there, and no frame may be empty."""
    frames = [before] if after is None else [before, after]
    names = [""] if after is None else titles
    sheet = _sheet(frames, len(frames), last_event or 0, colour)
    panels = [_panel(frame, name, sheet, axis) for frame, name, axis in zip(frames, names, sheet.axes, strict=True)]
    return _drawn(panels, sheet)


def architecture_replay(frames: Mapping[int, pd.DataFrame], colour: str = "age") -> go.Figure:
    """Return the growth of one network as an animation with a slider over its growth events.

    Args:
        frames: event number (0 = seedling) -> ``run.architecture(event)``.
        colour: what the colour of a block says, as for :func:`architecture`.

    Raises:
        GhostkitError: if a column is missing, or there is no such colour.
    """
    shown = {event: frame for event, frame in sorted(frames.items()) if not frame.empty}
    if not shown:
        return notice(NOTHING)
    sheet = _sheet(list(shown.values()), 1, max(shown), colour)
    names = [f"event {event}" if event else "seedling" for event in shown]
    panels = [_panel(frame, name, sheet, "x") for frame, name in zip(shown.values(), names, strict=True)]
    figure = _drawn(panels[:1], sheet, below=60).figure(architecture_replay_text(shown))
    moving = list(range(len(figure.data)))[-len(panels[0][0]) :]
    figure.frames = [
        go.Frame(name=name, data=traces, traces=moving, layout={"annotations": notes})
        for (traces, notes), name in zip(panels, names, strict=True)
    ]
    controls = replay_controls([name.removeprefix("event ") for name in names], names)
    return figure.update_layout(**controls)


# The sheet that all networks of a figure are drawn on


@dataclass(frozen=True)
class _Sheet:
    """What the networks of a figure share: rows, scale and colours."""

    blocks: pd.DataFrame  # of all networks from input to output, a row each: index block; columns stage, stride
    axes: list[str]  # the x axis of each panel
    widest: float  # channels
    edge: float  # where the numbers end on the right, in channels
    step: int  # channels that the scale bar stands for
    colouring: Colouring


def _sheet(frames: Sequence[pd.DataFrame], panels: int, last_event: int, colour: str) -> _Sheet:
    for frame in frames:
        check_columns(frame, ARCHITECTURE_COLUMNS, "architecture")
    known = pd.concat(frames).drop_duplicates("block", keep="last").set_index("block")
    widest = float(max(frame[["hidden", "channels"]].max().max() for frame in frames))
    return _Sheet(
        blocks=known.loc[_row_order(frames), ["stage", "stride"]],
        axes=["x", "x2"][:panels],
        widest=widest,
        edge=widest * (0.95 if panels == 2 else 0.7),
        step=next(step for step in (500, 200, 100, 50, 20, 10, 5, 1) if widest >= 2.5 * step or step == 1),
        colouring=colouring(frames, colour, last_event),
    )


def _row_order(frames: Sequence[pd.DataFrame]) -> list[str]:
    """Return every block of the frames from input to output, a removed one after its former predecessor."""
    order = list(frames[-1]["block"])
    for frame in frames[-2::-1]:
        previous = -1
        for block in frame["block"]:
            if block in order:
                previous = order.index(block)
            else:
                previous += 1
                order.insert(previous, block)
    return order


def _drawn(panels: Sequence[Panel], sheet: _Sheet, below: int = 0) -> Drawn:
    """Return the panels side by side, with ``below`` pixels free under them."""
    count = len(sheet.blocks)
    height = 238 + count * (40 if count <= 6 else 32 if count <= 14 else 25) + below
    traces = [trace for traces, _ in panels for trace in traces]
    strides = [f"  ↓{stride}" if stride > 1 else "" for stride in sheet.blocks["stride"]]
    layout: dict[str, Any] = {
        "barmode": "overlay",
        "height": height,
        "shapes": [*_scale_bars(sheet), *_bands(sheet)],
        "annotations": [note for _, notes in panels for note in notes],
        "coloraxis": sheet.colouring.axis(height),
        "yaxis": {
            "range": [count + 0.5, -0.6],
            "tickvals": list(range(count)),
            "ticktext": [block + stride for block, stride in zip(sheet.blocks.index, strides, strict=True)],
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "fixedrange": True,
        },
        "margin": {"t": 146, "b": 22 + below, "r": 12},
        "legend": {"orientation": "h", "x": 0.01, "xref": "container", "y": 1, "yref": "container", "yanchor": "top"},
    }
    for number, axis in enumerate(sheet.axes):
        domain = [0.51 * number, 1.0 if axis == sheet.axes[-1] else 0.49]
        span = {"domain": domain, "range": [-0.53 * sheet.widest, sheet.edge], "visible": False, "fixedrange": True}
        layout[axis.replace("x", "xaxis")] = span
    return Drawn([*_legend(), *traces], layout)


def _legend() -> list[dict[str, Any]]:
    looks = {"intrinsic maps": {"color": MUTED}, "ghost maps": {"color": MUTED, "pattern": HATCHED}}
    looks |= {"channels out": {"color": INK}, "born by growth": FRAMED}
    # Nothing but the bar of the colour axis; the blocks get their colours as words, since numbers make plotly.js warn.
    scale, nowhere = {"color": [0], "coloraxis": "coloraxis"}, {"x": [None], "y": [None]}
    return [
        *({**nowhere, "type": "bar", "name": name, "marker": look, "orientation": "h"} for name, look in looks.items()),
        {**nowhere, "type": "scatter", "mode": "markers", "marker": scale, "showlegend": False},
    ]


def _scale_bars(sheet: _Sheet) -> list[dict[str, Any]]:
    y = len(sheet.blocks) - 0.25
    bar = {"type": "line", "x0": -sheet.step / 2, "x1": sheet.step / 2, "y0": y, "y1": y, "yref": "y"}
    return [{**bar, "xref": axis, "line": {"color": INK, "width": 2}} for axis in sheet.axes]


def _bands(sheet: _Sheet) -> list[dict[str, Any]]:
    """Return a faint band under every second stage, so that the eye finds its row."""
    stage = sheet.blocks["stage"]
    number = (stage != stage.shift()).cumsum().to_numpy()
    band = {"type": "rect", "x0": 0, "x1": 1, "xref": "paper", "yref": "y", "fillcolor": BAND}
    rows = [np.flatnonzero(number == even) for even in range(2, number.max() + 1, 2)]
    return [{**band, "y0": r[0] - 0.5, "y1": r[-1] + 0.5, "line": {"width": 0}, "layer": "below"} for r in rows]


# One network


def _panel(frame: pd.DataFrame, name: str, sheet: _Sheet, axis: str) -> Panel:
    heading = _totals(frame, f"<b>{name}</b>" if name else "", "<br>")
    return _block_traces(frame, sheet, axis), _notes(heading, sheet, axis)


def _block_traces(frame: pd.DataFrame, sheet: _Sheet, axis: str) -> list[dict[str, Any]]:
    """Return the traces of one network: intrinsic maps, ghost maps, channels out, frames of the born, numbers."""
    rows = sheet.blocks.index.get_indexer(frame["block"]).astype(float)
    intrinsic, ghost = _widths(frame)
    colours = sheet.colouring.of(frame)
    hover = np.array([_block_hover(*parts) for parts in zip(frame.itertuples(), intrinsic, ghost, strict=True)])

    def bars(length: np.ndarray, left: np.ndarray, y: np.ndarray, text: np.ndarray, **look: Any) -> dict[str, Any]:
        where = {"type": "bar", "x": length, "base": left, "y": y, "orientation": "h", "xaxis": axis}
        return {**where, **look, "hovertext": text, "hovertemplate": OWN_WORDS, "showlegend": False}

    middle: dict[str, Any] = {"width": 0.52, "offset": -0.37}
    out, born = frame["hidden"].to_numpy() > 0, frame["born"].to_numpy() > 0
    stream, full = frame["channels"].to_numpy(float)[out], (intrinsic + ghost)[born] + 0.02 * sheet.edge
    hatched = {"color": colours * 2, "pattern": HATCHED}
    # The ghost maps are two wings, left and right of the intrinsic maps that they are made from.
    wings = np.concatenate([-(intrinsic + ghost) / 2, intrinsic / 2])
    return [
        bars(intrinsic, -intrinsic / 2, rows, hover, marker={"color": colours}, **middle),
        bars(np.tile(ghost / 2, 2), wings, np.tile(rows, 2), np.tile(hover, 2), marker=hatched, **middle),
        bars(stream, -stream / 2, rows[out], hover[out], marker={"color": INK}, width=0.11, offset=0.23),
        bars(full, -full / 2, rows[born], hover[born], marker=FRAMED, width=0.83, offset=-0.43),
        {
            "type": "scatter",
            "x": np.full(len(frame), sheet.edge),
            "y": rows,
            "mode": "text",
            "text": [_block_label(*parts) for parts in zip(intrinsic, ghost, frame["channels"], strict=True)],
            "textposition": "middle left",
            "textfont": {"size": 11, "color": MUTED},
            "hoverinfo": "skip",
            "showlegend": False,
            "xaxis": axis,
            "cliponaxis": False,
        },
    ]


def _notes(heading: str, sheet: _Sheet, axis: str) -> list[dict[str, Any]]:
    """Return the annotations of one panel: what it shows, the length of its scale bar, what the numbers are."""
    above = {"xref": f"{axis} domain", "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
    under = {"xref": axis, "yref": "y", "y": len(sheet.blocks) - 0.2, "yanchor": "top", "showarrow": False}
    small = {"font": {"size": 11}}
    return [
        {"text": heading, "x": 0, "xanchor": "left", "align": "left", **above},
        {
            "text": f"{sheet.step:g} channel{'s' if sheet.step > 1 else ''}",
            "x": 0,
            "xanchor": "center",
            **under,
            **small,
        },
        {"text": "intrinsic + ghost → out", "x": sheet.edge, "xanchor": "right", **under, **small, "yshift": -13},
    ]


def _widths(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return how many intrinsic and how many ghost maps each block's middle has; a stem or head has no ghosts."""
    hidden = frame["hidden"].to_numpy(float)
    intrinsic = np.where(hidden > 0, np.minimum(frame["intrinsic"], hidden), frame["channels"])
    return intrinsic.astype(float), np.where(hidden > 0, hidden - intrinsic, 0.0)


def _block_label(intrinsic: float, ghost: float, channels: int) -> str:
    middle = f"{intrinsic:.0f}+{ghost:.0f}" if ghost else f"{intrinsic:.0f}"
    return f"{middle} → {channels}" if ghost or intrinsic != channels else f"{channels}"


def _block_hover(row: Any, intrinsic: float, ghost: float) -> str:
    more = "".join(f", {_counted(row, name)}" for name in ("layers", "links") if getattr(row, name, 0))
    maps = (
        f"{intrinsic:.0f} intrinsic + {ghost:.0f} ghost maps ({row.branches} branches{more})<br>" if row.hidden else ""
    )
    born = f"born at event {row.born}" if row.born else "seedling"
    grown = f", last grown at event {row.grown}" if row.grown and row.grown != row.born else ""
    cost = f"{quantity(row.params, 'params')} · {quantity(row.macs, 'MAC')}"
    stride = f", stride {row.stride}" if row.stride > 1 else ""
    known = "".join(
        f"<br>{name} {getattr(row, name):.3g} nats" for name in NATS if math.isfinite(getattr(row, name, math.nan))
    )
    told = f"{maps}{row.channels} channels out<br>{cost}<br>{born}{grown}{known}"
    return f"<b>{row.block}</b> · {row.kind}{stride}<br>{told}"


def _counted(row: Any, name: str) -> str:
    """Return how many layers over its ghost maps, or links into it, a block has: ``1 more layer``, ``2 links``."""
    count = getattr(row, name)
    word = name if count > 1 else name[:-1]
    return f"{count} more {word}" if name == "layers" else f"{count} {word}"


def _totals(frame: pd.DataFrame, name: str, gap: str = " · ") -> str:
    size = f"{quantity(frame['params'].sum(), 'params')}{gap}{quantity(frame['macs'].sum(), 'MAC')}"
    return f"{name}  {len(frame)} blocks{gap}{size}".lstrip()


# In words


def architecture_text(
    before: pd.DataFrame,
    after: pd.DataFrame | None = None,
    titles: tuple[str, str] = ("before", "after"),
    colour: str = "age",
) -> str:
    """Return one line per block with a bar to scale: ``█`` intrinsic maps, ``░`` ghost maps.

    Args:
        before: ``run.architecture(event)``.
        after: the network to compare with, on the same scale.
        titles: what to call the two.
        colour: what else is told of each block, as for :func:`architecture`; its age is told in any case.
    """
    named = [(before, "")] if after is None else [(before, titles[0]), (after, titles[1])]
    if any(frame.empty for frame, _ in named):
        return NOTHING
    scale = 40 / max(float(frame[["hidden", "channels"]].max().max()) for frame, _ in named)
    return "\n\n".join(f"{_totals(frame, name)}\n{_block_table(frame, scale, colour)}" for frame, name in named)


def _block_table(frame: pd.DataFrame, scale: float, colour: str) -> str:
    rows = []
    for row, intrinsic, ghost in zip(frame.itertuples(), *_widths(frame), strict=True):
        solid = max(1, round(intrinsic * scale))
        rows.append(
            {
                "block": row.block,
                "width": "█" * solid + "░" * (max(1, round((intrinsic + ghost) * scale)) - solid),
                "channels": _block_label(intrinsic, ghost, row.channels),
                "params": quantity(row.params),
                "MACs": quantity(row.macs),
                "born": f"event {row.born}" if row.born else "seedling",
                "grown": f"event {row.grown}" if row.grown else "",
                "also": ", ".join(_counted(row, name) for name in ("layers", "links") if getattr(row, name, 0)),
            }
        )
    table = pd.DataFrame(rows)
    if colour in NATS:
        table[f"{colour} (nats)"] = [f"{value:.3g}" if math.isfinite(value) else "–" for value in frame[colour]]
    return table_text(table if table["also"].any() else table.drop(columns="also"))


def architecture_replay_text(frames: Mapping[int, pd.DataFrame]) -> str:
    """Return one line per growth event: how large the network was after it.

    Args:
        frames: event number (0 = seedling) -> ``run.architecture(event)``.
    """
    rows = [
        {
            "after event": event or "seedling",
            "blocks": len(frame),
            "channels": int(sum(part.sum() for part in _widths(frame))),
            "params": quantity(frame["params"].sum()),
            "MACs": quantity(frame["macs"].sum()),
        }
        for event, frame in sorted(frames.items())
        if not frame.empty
    ]
    return table_text(pd.DataFrame(rows)) if rows else NOTHING
