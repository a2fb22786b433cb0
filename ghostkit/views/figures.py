"""Data frame in, picture out: every figure of ghostkit, each with a twin in plain text.

The functions are pure. They read the frames that a run gives (``run.metrics``, ``run.events``, ``run.candidates``,
``run.architecture(event)``), never a model, and return a plain ``plotly`` figure that carries its text twin in
``figure.layout.meta["text"]``. Number and order of the traces stay the same while a run goes on, so that a live view
can pour a newer figure into an older one. Growth events have the same colour in every figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.views.theme import (
    AGE_SCALE,
    BAND,
    BLUE,
    CYCLE,
    DASHES,
    EMPTY,
    FAINT,
    FRAMED,
    GREEN,
    HATCHED,
    INK,
    MAP_SCALE,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    TEMPLATE,
    VERMILLION,
    age_axis,
    age_colours,
    axis_unit,
    notice,
    percent,
    quantity,
    replay_controls,
    sparkline,
    table_text,
)

__all__ = [
    "architecture",
    "architecture_replay",
    "architecture_replay_text",
    "architecture_text",
    "candidate_scores",
    "candidate_scores_text",
    "closing_table",
    "compute_accuracy",
    "compute_accuracy_text",
    "feature_mosaic",
    "feature_mosaic_text",
    "training_curves",
    "training_curves_text",
]

KIND_COLOURS = {
    "branch": BLUE,
    "intrinsic": ORANGE,
    "block": GREEN,
    "layer": PURPLE,
    "link": VERMILLION,
    "stage": SKY,
}
ARCHITECTURE_COLUMNS = (
    *("block", "stage", "kind", "channels", "hidden", "intrinsic", "branches", "stride"),
    *("params", "macs", "born", "grown"),
)
METRIC_COLUMNS = ("step", "epoch", "compute", "split", "loss", "accuracy", "params", "macs")
EVENT_COLUMNS = ("event", "epoch", "edits", "params_before", "params_after", "macs_before", "macs_after", "reason")
Curves = Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]]


def _check(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing and not frame.empty:
        raise GhostkitError(
            f"the {what} frame lacks the columns {missing}; it has {list(frame.columns)}. "
            f"Give the frame that a run returns (ghostkit.Run(folder).{what})"
        )


def _finish(figure: go.Figure, text: str, **layout: Any) -> go.Figure:
    return figure.update_layout(template=TEMPLATE, meta={"text": text}, **layout)


# ----------------------------------------------------------------------------------------------------------------------
# Training curves


def _split(metrics: pd.DataFrame, name: str, points: int = 1000) -> pd.DataFrame:
    """Return the rows of one split, evenly thinned to ``points``, the last one kept."""
    rows = metrics[metrics["split"] == name]
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(points, len(rows))).astype(int))]


def _wrapped(text: str) -> str:
    return text if len(text) <= 68 else "<br>".join(textwrap.wrap(text, 68))


def _event_hover(event: Any) -> str:
    cost = f"{quantity(event.macs_before, 'MAC')} → {quantity(event.macs_after, 'MAC')} per image"
    size = f"{quantity(event.params_before)} → {quantity(event.params_after, 'params')}"
    return (
        f"<b>growth event {event.event}</b> · epoch {event.epoch:.2f}<br>{_wrapped(event.edits or 'no growth')}"
        f"<br>{cost}<br>{size}<br><i>{_wrapped(event.reason)}</i>"
    )


def _spaced(positions: np.ndarray, labels: Iterable[Any], span: float, room: float = 0.028) -> np.ndarray:
    """Return the labels with those blanked that would touch their left neighbour; ``room`` is a share of ``span``."""
    kept, last = [], -np.inf
    for position, label in zip(positions, labels, strict=True):
        fits = position - last >= room * span
        kept.append(str(label) if fits else "")
        last = position if fits else last
    return np.array(kept, dtype=object)


def training_curves(metrics: pd.DataFrame, events: pd.DataFrame | None = None) -> go.Figure:
    """Return loss, accuracy and MACs per image over the epochs, with growth events marked.

    Args:
        metrics: ``run.metrics``.
        events: ``run.events``; events without edits get a hollow mark and no line.

    Raises:
        GhostkitError: if a column is missing.
    """
    metrics = pd.DataFrame(columns=METRIC_COLUMNS) if metrics.empty else metrics
    _check(metrics, METRIC_COLUMNS, "metrics")
    train, test = _split(metrics, "train"), _split(metrics, "test")
    divisor, unit = axis_unit(metrics["macs"], "MAC")
    figure = go.Figure()
    for column, axis, factor, label in (("loss", "y2", 1, "loss %{y:.4f}"), ("accuracy", "y3", 100, "%{y:.2f} %")):
        for rows, name, colour, width in ((train, "train", FAINT, 1.4), (test, "test", BLUE, 2.2)):
            figure.add_scatter(
                x=rows["epoch"].to_numpy(np.float32),
                y=rows[column].to_numpy(np.float32) * factor,
                yaxis=axis,
                name=name,
                legendgroup=name,
                showlegend=axis == "y2",
                mode="lines+markers" if name == "test" and len(rows) <= 60 else "lines",
                line={"color": colour, "width": width},
                marker={"size": 5},
                hovertemplate=f"{name} {label}<br>epoch %{{x:.2f}}<extra></extra>",
            )
    ordered = metrics.sort_values("step", kind="stable")
    ordered = ordered[ordered["macs"].ne(ordered["macs"].shift()) | (np.arange(len(ordered)) == len(ordered) - 1)]
    figure.add_scatter(
        x=ordered["epoch"],
        y=ordered["macs"] / divisor,
        yaxis="y4",
        name="MACs per image",
        customdata=[quantity(value, "params") for value in ordered["params"]],
        line={"color": INK, "width": 1.8, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(34,39,46,0.07)",
        mode="lines",
        showlegend=False,
        hovertemplate=f"%{{y:.3~g}} {unit} per image<br>%{{customdata}}<br>epoch %{{x:.2f}}<extra></extra>",
    )
    span = 1.0 if metrics.empty else float(metrics["epoch"].max()) or 1.0
    figure.add_traces(_event_marks(events, span))
    return _finish(
        figure,
        training_curves_text(metrics, events),
        height=560,
        xaxis={"title": {"text": "epoch"}, "anchor": "y4", "range": [-0.01 * span, 1.015 * span]},
        yaxis2={"title": {"text": "loss per image"}, "domain": [0.615, 0.965], "rangemode": "tozero"},
        yaxis3={"title": {"text": "accuracy (%)"}, "domain": [0.225, 0.575]},
        yaxis4={"title": {"text": f"{unit}<br>per image"}, "domain": [0, 0.185], "rangemode": "tozero", "nticks": 4},
        # One invisible axis spans the three panels, for the lines that growth events draw through all of them.
        yaxis={"domain": [0, 0.965], "range": [0, 1], "visible": False, "fixedrange": True},
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
        annotations=[EMPTY | {"text": "Nothing has been measured yet."}] if metrics.empty else [],
        margin={"t": 56},
    )


def _event_marks(events: pd.DataFrame | None, span: float) -> list[go.Scatter]:
    """Return three traces: a line through all panels per growth event, its mark, and marks of events without edits."""
    frame = pd.DataFrame(columns=[*EVENT_COLUMNS]) if events is None or events.empty else events
    _check(frame, EVENT_COLUMNS, "events")
    grows = frame["edits"].astype(str).ne("").to_numpy()
    grown, idle = frame[grows], frame[~grows]
    epochs = grown["epoch"].to_numpy(float)
    line = go.Scatter(
        x=np.repeat(epochs, 3),
        y=np.tile([0, 1, np.nan], len(epochs)),
        mode="lines",
        line={"color": FAINT, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    aged = {"color": grown["event"].to_numpy(int), "colorscale": AGE_SCALE, "cmin": 1}
    aged |= {"cmax": max(2, int(frame["event"].max())) if len(frame) else 2, "line": {"color": "white", "width": 1}}
    marks = []
    for rows, name, look in (
        (grown, "growth event", {"symbol": "triangle-down", "size": 10, **aged}),
        (idle, "event without growth", {"symbol": "circle-open", "size": 7, "color": FAINT}),
    ):
        marks.append(
            go.Scatter(
                x=rows["epoch"].to_numpy(float),
                y=np.ones(len(rows)),
                mode="markers+text",
                name=name,
                text=_spaced(epochs, grown["event"], span) if rows is grown else None,
                textposition="top center",
                textfont={"size": 10, "color": MUTED},
                marker=look,
                hovertext=np.array([_event_hover(row) for row in rows.itertuples()], dtype=object),
                hovertemplate="%{hovertext}<extra></extra>",
                cliponaxis=False,
                showlegend=len(rows) > 0,
            )
        )
    return [line, *marks]


def training_curves_text(metrics: pd.DataFrame, events: pd.DataFrame | None = None, limit: int = 40) -> str:
    """Return the course of a training in a few lines, and its growth events as a table.

    Args:
        metrics: ``run.metrics``.
        events: ``run.events``.
        limit: events listed at most, the latest ones.
    """
    if metrics.empty:
        return "Nothing has been measured yet."
    last = metrics.iloc[-1]
    spent, size = quantity(last["compute"], "MAC"), quantity(last["macs"], "MAC")
    lines = [f"{last['epoch']:.2f} epochs, {spent} spent; {size} per image at the end"]
    for name in ("train", "test"):
        rows = metrics[metrics["split"] == name]
        if not rows.empty:
            loss, accuracy = rows["loss"], rows["accuracy"]
            lines.append(f"{name:<5}  loss      {loss.iloc[0]:8.4f} → {loss.iloc[-1]:8.4f}  {sparkline(loss)}")
            lines.append(
                f"{name:<5}  accuracy  {percent(accuracy.iloc[0]):>8} → {percent(accuracy.iloc[-1]):>8}"
                f"  {sparkline(accuracy)}  best {percent(accuracy.max())}"
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


# ----------------------------------------------------------------------------------------------------------------------
# The architecture, drawn to scale


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


def _widths(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return how many intrinsic and how many ghost maps each block's middle has; a stem or head has no ghosts."""
    hidden = frame["hidden"].to_numpy(float)
    intrinsic = np.where(hidden > 0, np.minimum(frame["intrinsic"], hidden), frame["channels"])
    return intrinsic.astype(float), np.where(hidden > 0, hidden - intrinsic, 0.0)


def _block_label(intrinsic: float, ghost: float, channels: int) -> str:
    middle = f"{intrinsic:.0f}+{ghost:.0f}" if ghost else f"{intrinsic:.0f}"
    return f"{middle} → {channels}" if ghost or intrinsic != channels else f"{channels}"


def _block_hover(row: Any, intrinsic: float, ghost: float) -> str:
    maps = f"{intrinsic:.0f} intrinsic + {ghost:.0f} ghost maps ({row.branches} branches)<br>" if row.hidden else ""
    born = f"born at event {row.born}" if row.born else "seedling"
    grown = f", last grown at event {row.grown}" if row.grown and row.grown != row.born else ""
    cost = f"{quantity(row.params, 'params')} · {quantity(row.macs, 'MAC')}"
    stride = f", stride {row.stride}" if row.stride > 1 else ""
    return f"<b>{row.block}</b> · {row.kind}{stride}<br>{maps}{row.channels} channels out<br>{cost}<br>{born}{grown}"


def _block_traces(
    frame: pd.DataFrame, order: list[str], edge: float, colours: list[str], axis: str
) -> list[go.Bar | go.Scatter]:
    """Return the traces of one network: intrinsic maps, ghost maps, channels out, frames of the born, numbers."""
    rows = np.array([order.index(block) for block in frame["block"]], dtype=float)
    intrinsic, ghost = _widths(frame)
    age = [colours[event] for event in frame[["grown", "born"]].max(axis=1)]
    hover = np.array([_block_hover(*parts) for parts in zip(frame.itertuples(), intrinsic, ghost, strict=True)])

    def bars(length: np.ndarray, left: np.ndarray, y: np.ndarray, text: np.ndarray, **look: Any) -> go.Bar:
        return go.Bar(
            x=length, base=left, y=y, hovertext=text, orientation="h", xaxis=axis, showlegend=False, **look
        ).update(hovertemplate="%{hovertext}<extra></extra>")

    middle: dict[str, Any] = {"width": 0.52, "offset": -0.37}
    out, born = frame["hidden"].to_numpy() > 0, frame["born"].to_numpy() > 0
    stream, full = frame["channels"].to_numpy(float)[out], (intrinsic + ghost)[born] + 0.02 * edge
    hatched = {"color": age * 2, "pattern": HATCHED}
    # The ghost maps are two wings, left and right of the intrinsic maps that they are made from.
    wings = np.concatenate([-(intrinsic + ghost) / 2, intrinsic / 2])
    return [
        bars(intrinsic, -intrinsic / 2, rows, hover, marker={"color": age}, **middle),
        bars(np.tile(ghost / 2, 2), wings, np.tile(rows, 2), np.tile(hover, 2), marker=hatched, **middle),
        bars(stream, -stream / 2, rows[out], hover[out], marker={"color": INK}, width=0.11, offset=0.23),
        bars(full, -full / 2, rows[born], hover[born], marker=FRAMED, width=0.83, offset=-0.43),
        go.Scatter(
            x=np.full(len(frame), edge),
            y=rows,
            mode="text",
            text=[_block_label(*parts) for parts in zip(intrinsic, ghost, frame["channels"], strict=True)],
            textposition="middle left",
            textfont={"size": 11, "color": MUTED},
            hoverinfo="skip",
            showlegend=False,
            xaxis=axis,
            cliponaxis=False,
        ),
    ]


def _totals(frame: pd.DataFrame, name: str) -> str:
    size = f"{quantity(frame['params'].sum(), 'params')} · {quantity(frame['macs'].sum(), 'MAC')}"
    return f"{name}  {len(frame)} blocks · {size}".lstrip()


def _panel_notes(heading: str, step: float, rows: int, edge: float, axis: str) -> list[dict[str, Any]]:
    """Return the annotations of one panel: what it shows, the length of its scale bar, what the numbers are."""
    small = {"xref": axis, "yref": "y", "y": rows - 0.2, "yanchor": "top", "showarrow": False, "font": {"size": 11}}
    return [
        {"text": heading, "xref": f"{axis} domain", "x": 0, "xanchor": "left", "yref": "paper", "y": 1}
        | {"yanchor": "bottom", "showarrow": False},
        {"text": f"{step:g} channels", "x": 0, "xanchor": "center"} | small,
        {"text": "intrinsic + ghost → out", "x": edge, "xanchor": "right"} | small,
    ]


def _drawing(
    frames: Sequence[pd.DataFrame], names: Sequence[str], last_event: int | None, animated: bool = False
) -> go.Figure:
    """Return networks drawn to one scale, side by side, or one after the other when ``animated``."""
    for frame in frames:
        _check(frame, ARCHITECTURE_COLUMNS, "architecture")
    order = _row_order(frames)
    known = pd.concat(frames).drop_duplicates("block", keep="last").set_index("block").loc[order]
    panels = 1 if animated else len(frames)
    widest = float(max(frame[["hidden", "channels"]].max().max() for frame in frames))
    edge = widest * (0.53 + (0.42 if panels == 2 else 0.17))
    step = next(step for step in (500, 200, 100, 50, 20, 10, 5, 1) if widest >= 2.5 * step or step == 1)
    events = max([last_event or 0, *(int(frame[["grown", "born"]].max().max()) for frame in frames)])
    height = 176 + len(order) * (40 if len(order) <= 6 else 32 if len(order) <= 14 else 25) + 60 * animated
    axes, colours = ["x", "x2"][:panels], age_colours(events)
    parts = [
        (
            _block_traces(frame, order, edge, colours, axis),
            _panel_notes(_totals(frame, f"<b>{name}</b>" if name else ""), step, len(order), edge, axis),
        )
        for frame, name, axis in zip(frames, names, axes * len(frames), strict=False)
    ]
    looks = {"intrinsic maps": {"color": MUTED}, "ghost maps": {"color": MUTED, "pattern": HATCHED}}
    looks |= {"channels out": {"color": INK}, "born by growth": FRAMED}
    legend: list[Any] = [
        go.Bar(x=[None], y=[None], name=name, marker=look, orientation="h") for name, look in looks.items()
    ]
    # Nothing but the bar of the colour axis; the blocks get their colours as words, since numbers make plotly.js warn.
    scale = {"color": [0], "coloraxis": "coloraxis"}
    legend.append(go.Scatter(x=[None], y=[None], mode="markers", marker=scale, showlegend=False))
    shapes: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for number, axis in enumerate(axes):
        bar = {"x0": -step / 2, "x1": step / 2, "y0": len(order) - 0.25, "y1": len(order) - 0.25}
        shapes.append({"type": "line", "xref": axis, "yref": "y", "line": {"color": INK, "width": 2}, **bar})
        domain = [0.51 * number, 1.0 if axis == axes[-1] else 0.49]
        span = {"domain": domain, "range": [-0.53 * widest, edge], "visible": False, "fixedrange": True}
        layout[axis.replace("x", "xaxis")] = span
    # Every second stage lies on a faint band, so that the eye finds its row.
    stages = (known["stage"] != known["stage"].shift()).cumsum()
    for _, members in known.groupby(stages[stages % 2 == 0]):
        top = order.index(members.index[0]) - 0.5
        band = {"x0": 0, "x1": 1, "xref": "paper", "y0": top, "y1": top + len(members), "yref": "y"}
        shapes.append({"type": "rect", "fillcolor": BAND, "line": {"width": 0}, "layer": "below", **band})
    strides = [f"  ↓{stride}" if stride > 1 else "" for stride in known["stride"]]
    layout |= {
        "barmode": "overlay",
        "height": height,
        "shapes": shapes,
        "annotations": [note for _, notes in parts[:panels] for note in notes],
        "coloraxis": age_axis(events, height),
        "yaxis": {
            "range": [len(order) + 0.5, -0.6],
            "tickvals": list(range(len(order))),
            "ticktext": [block + stride for block, stride in zip(order, strides, strict=True)],
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "fixedrange": True,
        },
        "margin": {"t": 96, "b": 70 if animated else 10, "r": 12},
        "legend": {"orientation": "h", "x": 0.01, "xref": "container", "y": 1, "yref": "container", "yanchor": "top"},
    }
    figure = go.Figure([*legend, *(trace for traces, _ in parts[:panels] for trace in traces)], layout)
    if animated:
        drawn = list(range(len(legend), len(figure.data)))
        figure.frames = [
            go.Frame(name=name, data=traces, traces=drawn, layout={"annotations": notes})
            for (traces, notes), name in zip(parts, names, strict=True)
        ]
        figure.update_layout(**replay_controls([name.removeprefix("event ") for name in names], names))
    return figure


def architecture(
    before: pd.DataFrame,
    after: pd.DataFrame | None = None,
    titles: tuple[str, str] = ("before", "after"),
    last_event: int | None = None,
) -> go.Figure:
    """Return a network as blocks drawn to scale, or two networks side by side on the same scale.

    Width is channels: the intrinsic maps in the middle, the ghost maps hatched on both sides, and under them the
    channels that the block puts out. Height is depth: one row a block, input at the top. Colour is the event at which
    the block grew last; a block that growth brought has a frame. ``↓2`` marks a stride.

    Args:
        before: ``run.architecture(event)``.
        after: the network to compare with; a block that only one of them has leaves its row free in the other.
        titles: what to call the two.
        last_event: number of the run's last event, to keep one colour scale over several figures.

    Raises:
        GhostkitError: if a column is missing.
    """
    frames = [before] if after is None else [before, after]
    if any(frame.empty for frame in frames):
        return notice("There is no network to draw.")
    figure = _drawing(frames, [""] if after is None else titles, last_event)
    return _finish(figure, architecture_text(before, after, titles))


def architecture_replay(frames: Mapping[int, pd.DataFrame]) -> go.Figure:
    """Return the growth of one network as an animation with a slider over its growth events.

    Args:
        frames: event number (0 = seedling) -> ``run.architecture(event)``.

    Raises:
        GhostkitError: if a column is missing.
    """
    shown = {event: frame for event, frame in sorted(frames.items()) if not frame.empty}
    if not shown:
        return notice("There is no network to draw.")
    names = [f"event {event}" if event else "seedling" for event in shown]
    figure = _drawing(list(shown.values()), names, max(shown), animated=True)
    return _finish(figure, architecture_replay_text(shown))


def architecture_text(
    before: pd.DataFrame, after: pd.DataFrame | None = None, titles: tuple[str, str] = ("before", "after")
) -> str:
    """Return one line per block with a bar to scale: ``█`` intrinsic maps, ``░`` ghost maps.

    Args:
        before: ``run.architecture(event)``.
        after: the network to compare with, on the same scale.
        titles: what to call the two.
    """
    if before.empty:
        return "There is no network to draw."
    named = [(before, "")] if after is None else [(before, titles[0]), (after, titles[1])]
    scale = 40 / max(float(frame[["hidden", "channels"]].max().max()) for frame, _ in named)
    parts = []
    for frame, name in named:
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
                }
            )
        parts.append(f"{_totals(frame, name)}\n{table_text(pd.DataFrame(rows))}")
    return "\n\n".join(parts)


def architecture_replay_text(frames: Mapping[int, pd.DataFrame]) -> str:
    """Return one line per growth event: how large the network was after it.

    Args:
        frames: event number (0 = seedling) -> ``run.architecture(event)``.
    """
    rows = [
        {
            "after event": event or "seedling",
            "blocks": len(frame),
            "channels": int(_widths(frame)[0].sum() + _widths(frame)[1].sum()),
            "params": quantity(frame["params"].sum()),
            "MACs": quantity(frame["macs"].sum()),
        }
        for event, frame in sorted(frames.items())
        if not frame.empty
    ]
    return table_text(pd.DataFrame(rows)) if rows else "There is no network to draw."


# ----------------------------------------------------------------------------------------------------------------------
# Candidates


def _candidate_rows(candidates: pd.DataFrame, event: int | None, limit: int) -> tuple[pd.DataFrame, int | None, int]:
    """Return the best and the chosen candidates of one event, best first, the event, and how many were left out."""
    _check(candidates, ["event", "edit", "site", "kind", "gain", "macs", "params", "chosen"], "candidates")
    if candidates.empty:
        return candidates, event, 0
    event = int(candidates["event"].max()) if event is None else event
    rows = candidates[candidates["event"] == event].sort_values("gain", ascending=False, kind="stable")
    best = (np.arange(len(rows)) < limit) | rows["chosen"].to_numpy(bool)
    kept = rows[best].copy()
    kept["per_mac"] = kept["gain"] / kept["macs"].where(kept["macs"] > 0) * 1e6
    return kept, event, len(rows) - len(kept)


def candidate_scores(candidates: pd.DataFrame, event: int | None = None, limit: int = 25) -> go.Figure:
    """Return the predicted gain of each candidate of a growth event, and that gain per added MMAC.

    Args:
        candidates: ``run.candidates``.
        event: number of the growth event; the last one when None.
        limit: candidates shown at most, besides the chosen ones.

    Raises:
        GhostkitError: if a column is missing.
    """
    rows, event, left_out = _candidate_rows(candidates, event, limit)
    if rows.empty:
        return notice("No candidates have been scored." if event is None else f"Event {event} has no candidates.")
    figure = go.Figure()
    places, chosen = np.arange(len(rows)), rows["chosen"].to_numpy(bool)
    hover = np.array(
        [
            f"<b>{row.edit}</b>{' · chosen' if row.chosen else ''}<br>gain {row.gain:.3g}, per MMAC {row.per_mac:.3g}"
            f"<br>+{quantity(row.macs, 'MAC')}, +{quantity(row.params, 'params')}"
            for row in rows.itertuples()
        ]
    )
    kinds = {kind: (rows["kind"] == kind).to_numpy() for kind in KIND_COLOURS}
    looks: dict[str, tuple[np.ndarray, dict[str, Any]]]
    looks = {kind: (mine, {"color": KIND_COLOURS[kind]}) for kind, mine in kinds.items()}
    looks |= {"other": (~np.any(list(kinds.values()), axis=0), {"color": FAINT}), "chosen": (chosen, FRAMED)}
    for name, (members, look) in looks.items():
        for axis, column in (("x", "gain"), ("x2", "per_mac")):
            figure.add_bar(
                x=rows[column][members],
                y=places[members],
                xaxis=axis,
                orientation="h",
                name=name,
                legendgroup=name,
                showlegend=axis == "x" and bool(members.any()),
                marker=look,
                width=0.68,
                hovertext=hover[members],
                hovertemplate="%{hovertext}<extra></extra>",
            )
    shown = f"  <span style='color:{MUTED}'>the best {len(rows)} of {len(rows) + left_out}</span>" if left_out else ""
    panel = {"rangemode": "tozero", "nticks": 6}
    return _finish(
        figure,
        candidate_scores_text(candidates, event, limit),
        height=int(140 + 22 * len(rows)),
        title={"text": f"Candidates at growth event {event}{shown}"},
        barmode="overlay",
        xaxis={"domain": [0, 0.475], "title": {"text": "predicted gain"}, **panel},
        xaxis2={"domain": [0.525, 1], "title": {"text": "predicted gain per added MMAC"}, **panel},
        yaxis={
            "range": [len(rows) - 0.4, -0.6],
            "tickvals": places,
            "ticktext": [f"<b>{row.edit}</b>" if row.chosen else row.edit for row in rows.itertuples()],
            "showgrid": False,
            "ticks": "",
        },
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        margin={"t": 72},
    )


def candidate_scores_text(candidates: pd.DataFrame, event: int | None = None, limit: int = 25) -> str:
    """Return the candidates of one growth event as a table, best first; ``*`` marks the chosen ones.

    Args:
        candidates: ``run.candidates``.
        event: number of the growth event; the last one when None.
        limit: candidates listed at most, besides the chosen ones.
    """
    rows, event, left_out = _candidate_rows(candidates, event, limit)
    if rows.empty:
        return "No candidates have been scored." if event is None else f"Event {event} has no candidates."
    table = pd.DataFrame(
        {
            "": np.where(rows["chosen"], "*", ""),
            "edit": rows["edit"],
            "kind": rows["kind"],
            "gain": rows["gain"].map("{:.3g}".format),
            "per MMAC": rows["per_mac"].map("{:.3g}".format),
            "MACs": ["+" + quantity(value) for value in rows["macs"]],
            "params": ["+" + quantity(value) for value in rows["params"]],
        }
    )
    more = f"\n{left_out} candidates with a smaller gain are not shown" if left_out else ""
    return f"candidates at growth event {event}\n{table_text(table)}{more}"


# ----------------------------------------------------------------------------------------------------------------------
# Comparing runs


def _tests(curves: Curves) -> dict[str, list[pd.DataFrame]]:
    """Return the test rows of every run, by label."""
    runs: dict[str, list[pd.DataFrame]] = {}
    for label, value in curves.items():
        frames = [value] if isinstance(value, pd.DataFrame) else list(value)
        for frame in frames:
            _check(frame, ["split", "compute", "accuracy"], "metrics")
        tested = [frame[frame["split"] == "test"] for frame in frames if not frame.empty]
        runs[label] = [frame for frame in tested if not frame.empty]
    return {label: frames for label, frames in runs.items() if frames}


def _mean_curve(frames: Sequence[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean accuracy over the compute that all runs share, by linear interpolation."""
    low = max(float(frame["compute"].min()) for frame in frames)
    high = min(float(frame["compute"].max()) for frame in frames)
    grid = np.unique(np.concatenate([frame["compute"].to_numpy(float) for frame in frames]))
    grid = grid[(grid >= low) & (grid <= high)]
    return grid, np.mean([np.interp(grid, frame["compute"], frame["accuracy"]) for frame in frames], axis=0)


def compute_accuracy(curves: Curves) -> go.Figure:
    """Return test accuracy over the training compute spent, one colour per label.

    Args:
        curves: label -> ``run.metrics``, or a list of them (seeds, say), which become thin lines and their mean.

    Raises:
        GhostkitError: if a column is missing.
    """
    runs = _tests(curves)
    if not runs:
        return notice("No test accuracy has been measured yet.")
    divisor, unit = axis_unit(pd.concat([frame["compute"] for frames in runs.values() for frame in frames]), "MAC")
    figure = go.Figure()
    for number, (label, frames) in enumerate(runs.items()):
        colour, dash = CYCLE[number % len(CYCLE)], DASHES[number % len(DASHES)]
        lines = [(frame["compute"].to_numpy(float), frame["accuracy"].to_numpy(float)) for frame in frames]
        mean = [_mean_curve(frames)] if len(frames) > 1 else []
        for place, (compute, accuracy) in enumerate([*lines, *mean]):
            bold = place == len(lines) or not mean
            figure.add_scatter(
                x=compute / divisor,
                y=100 * accuracy,
                name=f"{label} (mean of {len(frames)})" if mean else label,
                legendgroup=label,
                showlegend=bold,
                mode="lines+markers" if bold and len(compute) <= 30 else "lines",
                line={"color": colour, "width": 2.4 if bold else 1, "dash": dash if bold else "solid"},
                marker={"size": 5},
                opacity=1 if bold else 0.4,
                hovertemplate=f"{label}<br>%{{y:.2f}} % after %{{x:.4~g}} {unit}<extra></extra>",
            )
    return _finish(
        figure,
        compute_accuracy_text(curves),
        height=420,
        xaxis={"title": {"text": f"compute spent ({unit})"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "test accuracy (%)"}},
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        margin={"t": 48},
    )


def compute_accuracy_text(curves: Curves) -> str:
    """Return what each run, or group of runs, had reached when its compute was spent.

    Args:
        curves: label -> ``run.metrics``, or a list of them.
    """
    rows = []
    for label, frames in _tests(curves).items():
        final = [float(frame["accuracy"].iloc[-1]) for frame in frames]
        rows.append(
            {
                "run": label,
                "runs": len(frames),
                "compute spent": quantity(float(np.mean([frame["compute"].iloc[-1] for frame in frames])), "MAC"),
                "test accuracy": _share(final),
                "course": sparkline(_mean_curve(frames)[1], 24),
            }
        )
    return table_text(pd.DataFrame(rows)) if rows else "No test accuracy has been measured yet."


def _share(values: float | Sequence[float] | None) -> str:
    """Return an accuracy in percent; of several runs, the mean and the standard deviation."""
    shares = np.atleast_1d(np.asarray(np.nan if values is None else values, dtype=float))
    if len(shares) < 2:
        return percent(float(shares.mean()))
    return f"{100 * shares.mean():.2f} ± {100 * shares.std(ddof=1):.2f} %"


def closing_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return networks side by side, worded with units, one row each.

    Args:
        rows: mappings with ``network`` and any of ``params``, ``macs`` (per image), ``milliseconds`` (per batch as
            measured), ``accuracy`` (0 to 1, or a list over seeds) and ``compute`` (training MACs).
    """
    return pd.DataFrame(
        {
            "network": [str(row["network"]) for row in rows],
            "params": [quantity(row.get("params")) for row in rows],
            "MACs per image": [quantity(row.get("macs"), "MAC") for row in rows],
            "latency": [quantity(row.get("milliseconds"), "ms") for row in rows],
            "test accuracy": [_share(row.get("accuracy")) for row in rows],
            "compute spent": [quantity(row.get("compute"), "MAC") for row in rows],
        }
    )


# ----------------------------------------------------------------------------------------------------------------------
# Feature maps


def feature_mosaic(maps: np.ndarray, intrinsic: int, title: str = "Feature maps") -> go.Figure:
    """Return all feature maps of one layer as one image: intrinsic maps in one frame, ghost maps in another.

    Args:
        maps: shape (C, H, W), the output of one ghost module for one image. Each map has its own grey range.
        intrinsic: how many of the first maps are intrinsic.
        title: what was looked at.

    Raises:
        GhostkitError: if ``maps`` has another shape, or ``intrinsic`` is not between 0 and C.
    """
    maps = _checked_maps(maps, intrinsic)
    count, height, width = maps.shape
    if not count:
        return notice("There are no feature maps to show.")
    # One byte a pixel and at most a quarter of a million pixels keep a notebook small.
    stride = max(1, round((count * height * width / 250_000) ** 0.5))
    small = maps[:, ::stride, ::stride]
    pitch_y, pitch_x = small.shape[1] + 1, small.shape[2] + 1
    columns = min(count, max(4, round((2.4 * count * pitch_y / pitch_x) ** 0.5)))
    pixel = min(960 / (columns * pitch_x), 84 / pitch_x)  # on the screen, for one pixel of a map
    gap = int(np.ceil(34 / pixel))
    parts = [part for part in (("intrinsic", 0, intrinsic), ("ghost", intrinsic, count)) if part[2] > part[1]]
    bottoms = np.cumsum([gap + -(-(stop - start) // columns) * pitch_y for _, start, stop in parts])
    # 0 is the paper between the maps; 1 to 255 is each map's own range.
    image = np.zeros((bottoms[-1], columns * pitch_x), dtype=np.uint8)
    small = np.nan_to_num(small, posinf=0, neginf=0)
    low, high = small.min(axis=(1, 2), keepdims=True), small.max(axis=(1, 2), keepdims=True)
    levels = 1 + np.round(254 * (small - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
    centres, shapes, notes = [], [], []
    for (name, start, stop), bottom in zip(parts, bottoms, strict=True):
        top = bottom - -(-(stop - start) // columns) * pitch_y
        for place, channel in enumerate(range(start, stop)):
            y, x = top + place // columns * pitch_y, place % columns * pitch_x
            image[y : y + pitch_y - 1, x : x + pitch_x - 1] = levels[channel]
            centres.append((x + pitch_x / 2 - 1, y + pitch_y / 2 - 1))
        around = {"x0": -1.5, "x1": min(stop - start, columns) * pitch_x - 0.5, "y0": top - 1.5, "y1": bottom - 0.5}
        shapes.append(
            {"type": "rect", "line": {"color": ORANGE if name == "intrinsic" else BLUE, "width": 2}, **around}
        )
        text = f"<b>{stop - start} {name} maps</b>  {start}–{stop - 1}"
        place_of_note = {"x": -1.5, "y": top - 1.5, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        notes.append({"text": text, **place_of_note})
    figure = go.Figure(go.Heatmap(z=image, zmin=0, zmax=255, colorscale=MAP_SCALE, showscale=False, hoverinfo="skip"))
    figure.add_scatter(
        x=[x for x, _ in centres],
        y=[y for _, y in centres],
        mode="markers",
        marker={"size": 18, "opacity": 0},
        hovertext=[
            f"<b>{'intrinsic' if number < intrinsic else 'ghost'} map {number}</b><br>"
            f"mean {values.mean():.3g}, std {values.std():.3g}<br>from {values.min():.3g} to {values.max():.3g}"
            for number, values in enumerate(maps)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
    )
    return _finish(
        figure,
        feature_mosaic_text(maps, intrinsic),
        height=int(pixel * bottoms[-1]) + 66,
        title={"text": title, "subtitle": {"text": "each map from its lowest value (dark) to its highest (bright)"}},
        shapes=shapes,
        annotations=notes,
        xaxis={"visible": False, "constrain": "domain", "constraintoward": "left", "range": [-2, columns * pitch_x]},
        yaxis={
            "visible": False,
            "constrain": "domain",
            "constraintoward": "top",
            "range": [bottoms[-1] + 1, 0],
            "scaleanchor": "x",
        },
        margin={"t": 52, "l": 20, "b": 12},
    )


def _checked_maps(maps: np.ndarray, intrinsic: int) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3:
        raise GhostkitError(f"feature maps of shape {maps.shape} were given; expected (C, H, W), the maps of one image")
    if not 0 <= intrinsic <= len(maps):
        raise GhostkitError(f"intrinsic={intrinsic} was given for {len(maps)} maps; expected 0 to {len(maps)}")
    return maps


def feature_mosaic_text(maps: np.ndarray, intrinsic: int, limit: int = 24) -> str:
    """Return the shape of a layer's feature maps and, map by map, mean and standard deviation.

    Args:
        maps: shape (C, H, W).
        intrinsic: how many of the first maps are intrinsic.
        limit: maps listed at most.

    Raises:
        GhostkitError: if ``maps`` has another shape, or ``intrinsic`` is not between 0 and C.
    """
    maps = _checked_maps(maps, intrinsic)
    count, height, width = maps.shape
    table = pd.DataFrame(
        {
            "map": range(min(count, limit)),
            "kind": ["intrinsic" if c < intrinsic else "ghost" for c in range(min(count, limit))],
            "mean": [f"{values.mean():.3f}" for values in maps[:limit]],
            "std": [f"{values.std():.3f}" for values in maps[:limit]],
        }
    )
    more = f"\n… and {count - limit} more" if count > limit else ""
    head = f"{count} maps of {height} x {width}: {intrinsic} intrinsic, {count - intrinsic} ghost"
    return f"{head}\n{table_text(table)}{more}"
