"""What a run is besides its network and its optimizer: gathered for a checkpoint, and put back from one.

A run that is resumed goes on as if it had never been interrupted, bit for bit on a CPU. Whatever the loop remembers
between two steps therefore stands here once in each direction.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ghostkit.checkpoint import load_state, save
from ghostkit.costs import LatencyTable
from ghostkit.errors import GhostkitError
from ghostkit.growth.history import history_of
from ghostkit.growth.policy import Budget, PolicyState
from ghostkit.progress import Progress
from ghostkit.reading import UNFITTING, checked_fields
from ghostkit.run_folder import RunFolder
from ghostkit.snapshot import Snapshot, part, prefixed
from ghostkit.steering import STEERED, follow

if TYPE_CHECKING:
    from ghostkit.trainer import Trainer

__all__ = ["resume", "save_run", "seedling_macs"]

LARGEST_BATCH = 1 << 16  # images that latencies may be measured for
# What torch.amp.GradScaler remembers.
SCALE = {
    "scale": "float",
    "growth_factor": "float",
    "backoff_factor": "float",
    "growth_interval": "int",
    "_growth_tracker": "int",
}


def save_run(trainer: Trainer, run: RunFolder) -> Path:
    """Save a checkpoint of ``trainer`` where its run is now, remove those that need not be kept, and return its folder.

    Raises:
        GhostkitError: if it cannot be written; the checkpoints before it are kept.
    """
    state, tensors = gathered(trainer)
    with run.held():
        folder = run.checkpoint_folder(trainer.progress.step)
        save(trainer.model, folder, trainer.optimizer, state, tensors)
        prune(trainer, run)
    return folder


def resume(trainer: Trainer, checkpoint: Path) -> None:
    """Let ``trainer`` go on from ``checkpoint``: what its run did after it is forgotten, and will be done again.

    Raises:
        GhostkitError: if the checkpoint was not saved by a trainer.
    """
    rows = put_back(trainer, checkpoint)
    if trainer.run is not None:
        trainer.run.cut_metrics(rows)
        prune(trainer, trainer.run)  # a run that was killed right after it had saved has not come to that


def seedling_macs(checkpoint: Path) -> int:
    """Return the MACs of an image in the network that the run of a checkpoint started from.

    Raises:
        GhostkitError: if the checkpoint was not saved by a trainer.
    """
    try:
        return int(load_state(checkpoint)[0]["seedling"]["macs"])
    except UNFITTING as error:
        raise GhostkitError(f"{str(checkpoint)!r} was not saved by a trainer: {error!r:.500}") from None


def prune(trainer: Trainer, run: RunFolder) -> None:
    """Remove the checkpoints that need not be kept."""
    run.prune_checkpoints(trainer.config.keep_checkpoints, history_of(trainer.model), trainer.progress.step)


def gathered(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what ``trainer`` remembers between two steps, as plain data and as tensors."""
    engine = trainer.engine
    state = {
        "progress": asdict(trainer.progress),
        "policy": asdict(engine.state),
        "latency": engine.latency.to_json(),
        "budget": asdict(engine.budget),
        "seedling": engine.seedling,
        "changed": trainer.changed,
        "parts": trainer.parts,
        "precision": trainer.fabric.strategy.precision.state_dict(),  # the scale of 16-mixed
        "metrics": 0 if trainer.run is None else trainer.run.metrics_written,
    }
    tensors = {"growth_random": engine.generator.get_state()}
    if trainer.average is not None:
        tensors |= prefixed("average/", trainer.average.state_dict())
    if engine.rates is not None:
        tensors |= prefixed("born/", engine.rates.born)
    if engine.snapshot is not None:
        state["snapshot"] = engine.snapshot.optimizer
        tensors |= prefixed("snapshot/", engine.snapshot.tensors)
    return state, tensors


def put_back(trainer: Trainer, checkpoint: Path) -> int:
    """Let ``trainer`` remember what it did at ``checkpoint``, and return how many rows of metrics there were.

    Raises:
        GhostkitError: if something is missing, or is not what a trainer gathered.
    """
    state, tensors = load_state(checkpoint)
    engine = trainer.engine
    try:
        trainer.progress = counted(made_of(Progress, state["progress"]))
        trainer.changed = validated(trainer, state.get("changed", {}))
        follow(engine, trainer.changed, trainer.done)  # before the state, which is as it was after the change
        engine.state = made_of(PolicyState, state["policy"])
        engine.latency = LatencyTable.from_json(state["latency"])
        engine.budget = made_of(Budget, state["budget"])
        if engine.latency.batch not in range(1, LARGEST_BATCH):
            raise ValueError(f"latencies of {engine.latency.batch} images at a time")
        if state["seedling"] is not None:
            checked_fields(state["seedling"], dict.fromkeys(state["seedling"], "float"), "the seedling")
        engine.seedling = state["seedling"]
        engine.generator.set_state(tensors["growth_random"])
        trainer.parts = trainer.stepper.parts = max(
            trainer.stepper.parts, min(int(state.get("parts", 1)), trainer.config.batch_size)
        )
        scale = checked_fields(state.get("precision", {}), SCALE, "the scale of 16-mixed")
        if scale:
            trainer.fabric.strategy.precision.load_state_dict(scale)
        if trainer.average is not None:
            trainer.average.load_state_dict(part(tensors, "average/"))
        if engine.rates is not None:
            device = trainer.fabric.device
            born = {name: steps.to(device) for name, steps in part(tensors, "born/").items()}
            if {name: steps.shape for name, steps in born.items()} != {
                name: parameter.shape for name, parameter in trainer.model.named_parameters()
            }:
                raise ValueError("the ages of its weights are not those of this network")
            engine.rates.born = born
        if "snapshot" in state:
            if not isinstance(state["snapshot"], dict):
                raise ValueError(f"a snapshot is {state['snapshot']!r:.60}; expected names and values")
            engine.snapshot = Snapshot(state["snapshot"], part(tensors, "snapshot/"))
        return max(0, int(state["metrics"]))
    except UNFITTING as error:
        raise GhostkitError(f"{str(checkpoint)!r} was not saved by a trainer: {error!r:.500}") from None


def made_of(kind: Any, values: Any) -> Any:
    """Return the dataclass ``kind`` of plain ``values``.

    Raises:
        ValueError: if one is of another type than its field.
    """
    return kind(**checked_fields(values, {known.name: known.type for known in fields(kind)}, kind.__name__))


def counted(progress: Progress) -> Progress:
    """Return ``progress`` if its numbers can be those of a run, which would otherwise never end.

    Raises:
        ValueError: if not.
    """
    for name, value in asdict(progress).items():
        if not (math.isfinite(value) and (value >= 0 or name == "losses")):
            raise ValueError(f"{name} = {value}; expected a number from 0 on")
    return progress


def validated(trainer: Trainer, changed: Any) -> dict[str, Any]:
    """Return what was steered by hand, checked as when it was.

    Raises:
        GhostkitError, TypeError or ValueError: if it could not have been.
    """
    if not set(changed) <= set(STEERED):
        raise ValueError(f"{sorted(set(changed) - set(STEERED))} cannot be changed while a run goes on")
    config = trainer.config.changed(**changed)
    return {name: getattr(config, name) for name in changed}
