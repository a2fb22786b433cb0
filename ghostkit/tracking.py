"""Runs told to trackers: TensorBoard, MLflow, a CSV file, or whatever takes numbers with a step. Off unless asked for.

A tracker is anything with ``log_metrics(numbers, step)``: lightning-fabric's loggers, the module ``mlflow`` itself, or
six lines of one's own. The run folder has everything that a tracker is told, and more.

>>> for event in Trainer(config, "runs/first"):
...     log_event(event, [TensorBoardLogger("runs/first")])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ghostkit.errors import GhostkitError
from ghostkit.events import Evaluated, Event, Finished, Grown, StepDone

__all__ = ["TRACKERS", "Tracker", "close_loggers", "log_event", "make_logger"]

TRACKERS = ("tensorboard", "csv", "mlflow")
# What an evaluation says of the run, not of the test images.
OF_RUNS = {"epoch", "progress", "compute", "seconds", "learning_rate", "params", "macs"}


class Tracker(Protocol):
    """What takes numbers, such as one of lightning-fabric's loggers."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> Any:
        """Take some numbers, by name, that were measured after ``step`` optimizer steps."""


def log_event(event: Event, loggers: Sequence[Tracker], every: int = 10) -> None:
    """Tell trackers what an event of a :class:`~ghostkit.Trainer` measured; other events are passed over.

    Args:
        event: its kind decides what is told: the training loss of a step, all of an evaluation, the size before and
            after growth, the closing numbers.
        loggers: the trackers; none is fine.
        every: of the losses of single steps, each so-and-so-many-th is told.
    """
    if not loggers or (isinstance(event, StepDone) and event.step % every):
        return
    numbers, step = _told(event)
    for logger in loggers if numbers else ():
        logger.log_metrics(numbers, step=step)


def _told(event: Event) -> tuple[dict[str, float], int]:
    """Return what an event measured, by name, and after how many steps."""
    match event:
        case StepDone(step=step, loss=loss):
            return {"train/loss": float(loss)}, step
        case Evaluated(row=row):
            measured = {name: value for name, value in row.items() if name not in {"step", "split"}}
            return _numbers(
                {name if name in OF_RUNS else f"{row['split']}/{name}": measured[name] for name in measured}
            ), row["step"]
        case Grown(event=grown):
            sizes = {"params": grown.params_after, "macs": grown.macs_after, "edits": len(grown.edits)}
            return _numbers({f"growth/{name}": size for name, size in sizes.items()}), grown.step
        case Finished(result=result):
            return _numbers({f"result/{name}": value for name, value in result.items()}), result["steps"]
    return {}, 0


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number of ``values``."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def make_logger(name: str, folder: str | Path) -> Any:
    """Return a tracker by its name, which writes below a run's folder; MLflow goes where it is configured to.

    Args:
        name: "tensorboard", "csv" or "mlflow".
        folder: the run folder. Each sitting of a run that was cut short is a version of its own there.

    Raises:
        GhostkitError: if the name is unknown, or the tracker is not installed.
    """
    if name not in TRACKERS:
        raise GhostkitError(f"unknown tracker {name!r}; known are {', '.join(TRACKERS)}")
    try:
        if name == "mlflow":
            import mlflow  # type: ignore[import-not-found]

            return mlflow
        from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

        kind = TensorBoardLogger if name == "tensorboard" else CSVLogger
        return kind(str(folder), name=name)
    except ModuleNotFoundError:
        raise GhostkitError(
            f"tracker {name!r} needs the package {name}, which is not here: pip install {name}"
        ) from None


def close_loggers(loggers: Sequence[Tracker]) -> None:
    """Have trackers write what they still hold, those that hold anything."""
    for logger in loggers:
        if hasattr(logger, "finalize"):
            logger.finalize("success")
