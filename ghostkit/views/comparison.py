"""Runs and networks side by side: accuracy over the compute that it took, and the closing table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.metrics import METRICS, metric_of
from ghostkit.views.columns import check_columns
from ghostkit.views.theme import FAINT, LEGEND_ABOVE, finish, legend_room, line_looks, notice, translucent
from ghostkit.views.wording import axis_unit, percent, quantity, sparkline, table_text

__all__ = ["closing_table", "compute_accuracy", "compute_accuracy_text"]

Curves = Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]]
NOTHING = "Nothing has been measured yet."


def compute_accuracy(curves: Curves, spread: bool = False, apart: bool = False) -> go.Figure:
    """Return test accuracy (or mAP50, or mIoU) over the training compute spent, one colour per label.

    Args:
        curves: label -> ``run.metrics``, or a list of them (seeds, say), which become thin lines and their mean. Of
            many labels, the first eight are told apart; give the best ones first.
        spread: draw a band of one standard deviation to each side of the mean instead of the thin lines; means are
            then taken of runs that are equally far, of their compute as well.
        apart: each row of a frame is a run of its own, as :func:`ghostkit.studies.arm_curves` has them: means are taken
            at each ``progress``, over the frames that have it.

    Raises:
        GhostkitError: if a column is missing.
    """
    runs, metric = _tests(curves)
    if not runs:
        return notice(NOTHING)
    divisor, unit = axis_unit(pd.concat([frame["compute"] for frames in runs.values() for frame in frames]), "MAC")
    figure = go.Figure()
    looks = line_looks(len(runs))
    for (label, frames), (colour, dash) in zip(runs.items(), looks, strict=True):
        lines = [(frame["compute"].to_numpy(float), frame[metric].to_numpy(float)) for frame in frames]
        mean = [_mean_curve(frames, metric, apart)] if len(frames) > 1 else []
        said = html.escape(label, quote=False)
        if spread and mean:
            compute, reached, sd = _spread_curve(frames, metric)
            lines, mean = [], [(compute, reached)]
            if colour != FAINT:
                figure.add_traces(_band(compute / divisor, 100 * (reached - sd), 100 * (reached + sd), label, colour))
        for place, (compute, reached) in enumerate([*lines, *mean]):
            bold = (place == len(lines) or not mean) and colour != FAINT
            figure.add_scatter(
                x=compute / divisor,
                y=100 * reached,
                name=f"{said} (mean of {_counted(frames, apart)})" if mean else said,
                legendgroup=label,
                showlegend=bold,
                mode="lines+markers" if bold and len(compute) <= 30 and not spread else "lines",
                line={"color": colour, "width": 2.4 if bold else 1, "dash": dash if bold else "solid"},
                marker={"size": 5},
                opacity=1 if bold else 0.4,
                hovertemplate=f"{said}<br>%{{y:.2f}} % after %{{x:.4~g}} {unit}<extra></extra>",
            )
    others = sum(colour == FAINT for colour, _ in looks)
    if others:
        figure.add_scatter(x=[None], y=[None], mode="lines", name=f"{others} others", line={"color": FAINT, "width": 1})
    return finish(
        figure,
        compute_accuracy_text(curves, apart),
        height=420 + legend_room([str(trace.name) for trace in figure.data if trace.showlegend]),
        xaxis={"title": {"text": f"compute spent ({unit})"}, "rangemode": "tozero"},
        yaxis={"title": {"text": f"{_judged_on(runs)} {METRICS[metric]} (%)"}},
        legend=LEGEND_ABOVE | {"y": 1.01},
        margin={"t": 48},
    )


def _spread_curve(frames: Sequence[pd.DataFrame], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the means of compute and ``metric`` of runs that are equally far, and the metric's standard deviation."""
    for frame in frames:
        check_columns(frame, ("progress",), "metrics")
    low = max(float(frame["progress"].min()) for frame in frames)
    high = min(float(frame["progress"].max()) for frame in frames)
    far = np.unique(np.concatenate([frame["progress"].to_numpy(float) for frame in frames]))
    far = far[(far >= low) & (far <= high)]
    compute = np.mean([np.interp(far, frame["progress"], frame["compute"]) for frame in frames], axis=0)
    reached = np.array([np.interp(far, frame["progress"], frame[metric]) for frame in frames])
    return compute, reached.mean(axis=0), reached.std(axis=0, ddof=1)


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, label: str, colour: str) -> list[go.Scatter]:
    """Return the two edges of a band, filled between."""
    look = {"legendgroup": label, "showlegend": False, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": translucent(colour, 0.16)}
    return [go.Scatter(x=x, y=low, **look), go.Scatter(x=x, y=high, **look, **fill)]


def _judged_on(runs: Mapping[str, Sequence[pd.DataFrame]]) -> str:
    """Return which images the runs were judged on: "test" or "validation", or both."""
    return " or ".join(sorted({str(split) for frames in runs.values() for frame in frames for split in frame["split"]}))


def _tests(curves: Curves) -> tuple[dict[str, list[pd.DataFrame]], str]:
    """Return what every run was judged on, its rows by label, and the metric; what has no rows is left out."""
    runs: dict[str, list[pd.DataFrame]] = {}
    for label, value in curves.items():
        frames = [value] if isinstance(value, pd.DataFrame) else list(value)
        for frame in frames:
            check_columns(frame, ("split", "compute", metric_of(frame)), "metrics")
        tested = [frame[frame["split"] != "train"] for frame in frames if not frame.empty]
        runs[label] = [frame for frame in tested if not frame.empty]
    runs = {label: frames for label, frames in runs.items() if frames}
    metrics = {metric_of(frame) for frames in runs.values() for frame in frames}
    if len(metrics) > 1:
        raise GhostkitError(
            f"runs of several tasks cannot be compared: they were judged by {', '.join(sorted(metrics))}"
        )
    return runs, next(iter(metrics), metric_of(()))


def _mean_curve(frames: Sequence[pd.DataFrame], metric: str, apart: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of ``metric`` over the compute that all runs share, by linear interpolation.

    Runs that share none have one mean, of their last rows; rows that are ``apart`` have one for each ``progress``.
    """
    if apart:
        means = pd.concat(frames).groupby("progress")[["compute", metric]].mean()
        return means["compute"].to_numpy(float), means[metric].to_numpy(float)
    low = max(float(frame["compute"].min()) for frame in frames)
    high = min(float(frame["compute"].max()) for frame in frames)
    grid = np.unique(np.concatenate([frame["compute"].to_numpy(float) for frame in frames]))
    grid = grid[(grid >= low) & (grid <= high)]
    if not len(grid):
        ends = np.mean([frame[["compute", metric]].iloc[-1].to_numpy(float) for frame in frames], axis=0)
        return ends[:1], ends[1:]
    return grid, np.mean([np.interp(grid, frame["compute"], frame[metric]) for frame in frames], axis=0)


def _counted(frames: Sequence[pd.DataFrame], apart: bool) -> str:
    """Return how many runs a mean is of, the fewest and the most where they are ``apart`` and differ."""
    counts = [*pd.concat(frames)["progress"].value_counts()] if apart else [len(frames)]
    fewest, most = min(counts), max(counts)
    return f"{fewest} to {most}" if fewest < most else str(most)


def _farthest(frames: Sequence[pd.DataFrame]) -> list[pd.Series]:
    """Return the last rows of those frames that came as far as any; of frames that do not say how far, of all."""
    last = [frame.iloc[-1] for frame in frames]
    far = np.array([float(row.get("progress", 1.0)) for row in last])
    return [last[number] for number in np.flatnonzero(np.isclose(far, far.max()))]


def compute_accuracy_text(curves: Curves, apart: bool = False) -> str:
    """Return what each run, or group of runs, had reached when its compute was spent.

    Args:
        curves: label -> ``run.metrics``, or a list of them, of which those that came farthest count.
        apart: as for :func:`compute_accuracy`.

    Raises:
        GhostkitError: if a column is missing.
    """
    runs, metric = _tests(curves)
    rows = []
    for label, frames in runs.items():
        last = _farthest(frames)
        rows.append(
            {
                "run": label,
                "runs": str(len(frames)) if len(last) == len(frames) else f"{len(last)} of {len(frames)}",
                "compute spent": quantity(float(np.mean([row["compute"] for row in last])), "MAC"),
                f"{_judged_on(runs)} {METRICS[metric]}": _mean_percent([float(row[metric]) for row in last]),
                "course": sparkline(_mean_curve(frames, metric, apart)[1], 24),
            }
        )
    return table_text(pd.DataFrame(rows)) if rows else NOTHING


def _mean_percent(values: float | Sequence[float] | None) -> str:
    """Return an accuracy in percent; of several runs, the mean and the standard deviation of those that are numbers."""
    shares = np.atleast_1d(np.asarray(np.nan if values is None else values, dtype=float))
    shares = shares[np.isfinite(shares)]
    if len(shares) < 2:
        return percent(float(shares.mean()) if len(shares) else np.nan)
    return f"{100 * shares.mean():.2f} ± {100 * shares.std(ddof=1):.2f} %"


def closing_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return networks side by side, worded with units, one row each.

    Args:
        rows: mappings with ``network`` and any of ``params``, ``macs`` (per image), ``milliseconds`` (per batch as
            measured), ``accuracy``, ``map50`` or ``miou`` (0 to 1, or a list over seeds) and ``compute`` (training
            MACs); ``split``, of the first, says which images were asked, the test images where it does not.
    """
    metric, split = (metric_of(rows[0]), rows[0].get("split", "test")) if rows else (metric_of(()), "test")
    return pd.DataFrame(
        {
            "network": [str(row["network"]) for row in rows],
            "params": [quantity(row.get("params")) for row in rows],
            "MACs per image": [quantity(row.get("macs"), "MAC") for row in rows],
            "latency": [quantity(row.get("milliseconds"), "ms") for row in rows],
            f"{split} {METRICS[metric]}": [_mean_percent(row.get(metric)) for row in rows],
            "compute spent": [quantity(row.get("compute"), "MAC") for row in rows],
        }
    )
