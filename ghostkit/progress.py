"""How far a run is: its counters, which a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass
class Progress:
    """The counters of a run, all of them plain numbers.

    Args:
        step: optimizer steps taken.
        epoch: passes over the training images begun.
        batch: batches of the current epoch taken.
        after: how much of what is due after the last step is done: an evaluation, growth, a checkpoint.
        compute: training MACs spent, scoring included.
        seconds: time spent in the loop, over all sittings.
        next_evaluation: share of the run at which the next evaluation is due.
        losses: sum of the batch losses since the last evaluation, each times its images.
        images: images since then.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    after: int = 0
    compute: float = 0.0
    seconds: float = 0.0
    next_evaluation: float = 0.0
    losses: float = 0.0
    images: int = 0
