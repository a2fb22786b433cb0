"""Runs and networks side by side: accuracy over the compute that it took, and the closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.metrics import METRICS, metric_of
from ghostkit.views.columns import check_columns
from ghostkit.views.theme import CYCLE, DASHES, LEGEND_ABOVE, finish, notice
from ghostkit.views.wording import axis_unit, percent, quantity, sparkline, table_text

__all__ = ["closing_table", "compute_accuracy", "compute_accuracy_text"]

Curves = Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]]
NOTHING = "Nothing has been measured on the test images yet."


def compute_accuracy(curves: Curves) -> go.Figure:
    """Return test accuracy (or mAP50, or mIoU) over the training compute spent, one colour per label.

    Args:
        curves: label -> ``run.metrics``, or a list of them (seeds, say), which become thin lines and their mean.

    Raises:
        GhostkitError: if a column is missing.
    """
    runs, metric = _tests(curves)
    if not runs:
        return notice(NOTHING)
    divisor, unit = axis_unit(pd.concat([frame["compute"] for frames in runs.values() for frame in frames]), "MAC")
    figure = go.Figure()
    for number, (label, frames) in enumerate(runs.items()):
        colour, dash = CYCLE[number % len(CYCLE)], DASHES[number % len(DASHES)]
        lines = [(frame["compute"].to_numpy(float), frame[metric].to_numpy(float)) for frame in frames]
        mean = [_mean_curve(frames, metric)] if len(frames) > 1 else []
        for place, (compute, reached) in enumerate([*lines, *mean]):
            bold = place == len(lines) or not mean
            figure.add_scatter(
                x=compute / divisor,
                y=100 * reached,
                name=f"{label} (mean of {len(frames)})" if mean else label,
                legendgroup=label,
                showlegend=bold,
                mode="lines+markers" if bold and len(compute) <= 30 else "lines",
                line={"color": colour, "width": 2.4 if bold else 1, "dash": dash if bold else "solid"},
                marker={"size": 5},
                opacity=1 if bold else 0.4,
                hovertemplate=f"{label}<br>%{{y:.2f}} % after %{{x:.4~g}} {unit}<extra></extra>",
            )
    return finish(
        figure,
        compute_accuracy_text(curves),
        height=420,
        xaxis={"title": {"text": f"compute spent ({unit})"}, "rangemode": "tozero"},
        yaxis={"title": {"text": f"test {METRICS[metric]} (%)"}},
        legend=LEGEND_ABOVE | {"y": 1.01},
        margin={"t": 48},
    )


def _tests(curves: Curves) -> tuple[dict[str, list[pd.DataFrame]], str]:
    """Return the test rows of every run, by label, and what they are judged by; what has none is left out."""
    runs: dict[str, list[pd.DataFrame]] = {}
    for label, value in curves.items():
        frames = [value] if isinstance(value, pd.DataFrame) else list(value)
        for frame in frames:
            check_columns(frame, ("split", "compute", metric_of(frame)), "metrics")
        tested = [frame[frame["split"] == "test"] for frame in frames if not frame.empty]
        runs[label] = [frame for frame in tested if not frame.empty]
    runs = {label: frames for label, frames in runs.items() if frames}
    metrics = {metric_of(frame) for frames in runs.values() for frame in frames}
    if len(metrics) > 1:
        raise GhostkitError(
            f"runs of several tasks cannot be compared: they were judged by {', '.join(sorted(metrics))}"
        )
    return runs, next(iter(metrics), metric_of(()))


def _mean_curve(frames: Sequence[pd.DataFrame], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of ``metric`` over the compute that all runs share, by linear interpolation."""
    low = max(float(frame["compute"].min()) for frame in frames)
    high = min(float(frame["compute"].max()) for frame in frames)
    grid = np.unique(np.concatenate([frame["compute"].to_numpy(float) for frame in frames]))
    grid = grid[(grid >= low) & (grid <= high)]
    return grid, np.mean([np.interp(grid, frame["compute"], frame[metric]) for frame in frames], axis=0)


def compute_accuracy_text(curves: Curves) -> str:
    """Return what each run, or group of runs, had reached when its compute was spent.

    Args:
        curves: label -> ``run.metrics``, or a list of them.

    Raises:
        GhostkitError: if a column is missing.
    """
    runs, metric = _tests(curves)
    rows = [
        {
            "run": label,
            "runs": len(frames),
            "compute spent": quantity(float(np.mean([frame["compute"].iloc[-1] for frame in frames])), "MAC"),
            f"test {METRICS[metric]}": _mean_percent([float(frame[metric].iloc[-1]) for frame in frames]),
            "course": sparkline(_mean_curve(frames, metric)[1], 24),
        }
        for label, frames in runs.items()
    ]
    return table_text(pd.DataFrame(rows)) if rows else NOTHING


def _mean_percent(values: float | Sequence[float] | None) -> str:
    """Return an accuracy in percent; of several runs, the mean and the standard deviation."""
    shares = np.atleast_1d(np.asarray(np.nan if values is None else values, dtype=float))
    if len(shares) < 2:
        return percent(float(shares.mean()))
    return f"{100 * shares.mean():.2f} ± {100 * shares.std(ddof=1):.2f} %"


def closing_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return networks side by side, worded with units, one row each.

    Args:
        rows: mappings with ``network`` and any of ``params``, ``macs`` (per image), ``milliseconds`` (per batch as
            measured), ``accuracy``, ``map50`` or ``miou`` (0 to 1, or a list over seeds) and ``compute`` (training
            MACs).
    """
    metric = metric_of(rows[0]) if rows else metric_of(())
    return pd.DataFrame(
        {
            "network": [str(row["network"]) for row in rows],
            "params": [quantity(row.get("params")) for row in rows],
            "MACs per image": [quantity(row.get("macs"), "MAC") for row in rows],
            "latency": [quantity(row.get("milliseconds"), "ms") for row in rows],
            f"test {METRICS[metric]}": [_mean_percent(row.get(metric)) for row in rows],
            "compute spent": [quantity(row.get("compute"), "MAC") for row in rows],
        }
    )
