"""What a network is judged by: the one number of each task that figures and tables show, and its name in words."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["METRICS", "metric_of"]

# Column of a run's metrics -> its name in words; each is a share, 0 to 1, and more is better.
METRICS = {"accuracy": "accuracy", "map50": "mAP50", "miou": "mIoU"}


def metric_of(names: Iterable[str]) -> str:
    """Return which of ``names`` the network is judged by; ``"accuracy"`` where none is known."""
    known = set(names)
    return next((metric for metric in METRICS if metric in known), "accuracy")
