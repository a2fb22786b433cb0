"""What a training run reports while it goes on: one small record for everything that happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostkit.growth.history import GrowthEvent
from ghostkit.metrics import METRICS, metric_of
from ghostkit.tasks import Scores

__all__ = ["CheckpointSaved", "Evaluated", "Event", "Finished", "Grown", "StepDone"]

NAMED_EDITS = 2  # as many as fit into a line; the history has them all


@dataclass(frozen=True)
class StepDone:
    """One optimizer step was taken.

    Args:
        step: steps taken so far.
        progress: share of the run done, 0 to 1.
        loss: loss of the step's batch, in nats.
    """

    step: int
    progress: float
    loss: float


@dataclass(frozen=True)
class Evaluated:
    """The test images were gone through, or those held out for validation.

    Args:
        row: what the metrics file got of them.
        scores: the whole of it.
        train: what the metrics file got of the training split; None before the first step.
    """

    row: dict[str, Any]
    scores: Scores
    train: dict[str, Any] | None = None

    def __str__(self) -> str:
        row = self.row
        metric = metric_of(row)
        return (
            f"{row['progress']:4.0%}  epoch {row['epoch']:6.2f}  {row['split']} {METRICS[metric]} {row[metric]:7.2%}  "
            f"{row['split']} loss {row['loss']:.3f}  {row['params']:,} parameters  {row['macs']:,} MACs"
        )


@dataclass(frozen=True)
class Grown:
    """A growth event happened, or was due and brought nothing (then it has no edits and says why)."""

    event: GrowthEvent

    def __str__(self) -> str:
        event = self.event
        if not event.edits:
            return f"{event.progress:4.0%}  {event.reason}"
        more = len(event.edits) - NAMED_EDITS
        named = ", ".join(map(str, event.edits[:NAMED_EDITS])) + (f" and {more} more" if more > 0 else "")
        return f"{event.progress:4.0%}  grew: {named}"


@dataclass(frozen=True)
class CheckpointSaved:
    """The run can be resumed from ``folder``."""

    folder: Path

    def __str__(self) -> str:
        return f"saved {self.folder}"


@dataclass(frozen=True)
class Finished:
    """The run is over; ``result`` is what its folder's result.json holds."""

    result: dict[str, Any]

    def __str__(self) -> str:
        result = self.result
        metric, split = metric_of(result), result.get("split", "test")
        return (
            f"done  {split} {METRICS[metric]} {result[metric]:.2%} after {result['steps']:,} steps and "
            f"{result['growth_events']} growth events in {result['seconds']:.0f} s"
        )


Event = StepDone | Evaluated | Grown | CheckpointSaved | Finished
