"""What a run is besides its network and its optimizer: gathered for a checkpoint, and put back from one.

A run that is resumed goes on as if it had never been interrupted, bit for bit on a CPU. Whatever the loop remembers
between two steps therefore stands here once in each direction.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ghostkit.checkpoint import load_state, save
from ghostkit.costs import LatencyTable
from ghostkit.errors import GhostkitError
from ghostkit.growth.history import history_of
from ghostkit.growth.policy import Budget, PolicyState
from ghostkit.progress import Progress
from ghostkit.run_folder import RunFolder
from ghostkit.snapshot import Snapshot, part, prefixed
from ghostkit.steering import follow

if TYPE_CHECKING:
    from ghostkit.trainer import Trainer

__all__ = ["resume", "save_run"]


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
        trainer.progress = Progress(**state["progress"])
        trainer.changed = dict(state.get("changed", {}))
        follow(engine, trainer.changed, trainer.done)  # before the state, which is as it was after the change
        engine.state = PolicyState(**state["policy"])
        engine.latency = LatencyTable.from_json(state["latency"])
        engine.budget = Budget(**state["budget"])
        engine.seedling = state["seedling"]
        engine.generator.set_state(tensors["growth_random"])
        trainer.parts = trainer.stepper.parts = max(trainer.stepper.parts, int(state.get("parts", 1)))
        if trainer.average is not None:
            trainer.average.load_state_dict(part(tensors, "average/"))
        if engine.rates is not None:
            device = trainer.fabric.device
            engine.rates.born = {name: born.to(device) for name, born in part(tensors, "born/").items()}
        if "snapshot" in state:
            engine.snapshot = Snapshot(state["snapshot"], part(tensors, "snapshot/"))
        return int(state["metrics"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise GhostkitError(f"{str(checkpoint)!r} was not saved by a trainer: {error!r}") from None
