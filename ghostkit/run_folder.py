"""The run folder: written while a run goes on, and resumed from.

    config.json      the configuration
    metrics.jsonl    one row a measurement
    history.jsonl    the recipe, then one line a growth event
    checkpoints/     one folder a checkpoint, named by step
    result.json      the closing numbers

Every file is replaced atomically or appended to line by line; a last line that a crash cut short is ignored.
:mod:`ghostkit.runs` reads the folder as data frames.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.growth.history import History

__all__ = ["RunFolder", "checkpoints", "events_at", "last_checkpoint", "step_of"]


class RunFolder:
    """The writing side of a run's folder.

    Args:
        folder: made if it is not there.

    Raises:
        GhostkitError: if it cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GhostkitError(f"cannot make the run folder {str(folder)!r}: {error}") from None
        self.metrics_written = 0

    def begin(self, config: RunConfig) -> Path | None:
        """Write the configuration of a new run, or return the checkpoint to resume an old one from.

        Raises:
            GhostkitError: if the folder holds a run of another configuration.
        """
        path = self.folder / "config.json"
        checkpoint = last_checkpoint(self.folder)
        if checkpoint is None:  # a run that was refused, or killed at once, has left nothing to keep
            write_atomically(path, config.model_dump_json(indent=1))
            self.cut_metrics(0)
            return None
        known, asked = (values.model_dump(mode="json") for values in (RunConfig.read(path), config))
        if known != asked:
            differing = [
                f"{name}={known[name]!r} there, {asked[name]!r} now" for name in known if known[name] != asked[name]
            ]
            raise GhostkitError(
                f"{str(self.folder)!r} holds a run of another configuration ({'; '.join(differing)}); "
                "choose another folder"
            )
        return checkpoint

    def add_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to the metrics."""
        rows = list(rows)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        self.metrics_written += len(rows)

    def cut_metrics(self, rows: int) -> None:
        """Keep the first ``rows`` of the metrics: what came after the checkpoint will be measured again."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)[:rows] if path.exists() else []
        write_atomically(path, "".join(lines))
        self.metrics_written = rows

    def write_history(self, history: History) -> None:
        """Replace the history by ``history``, of which it is the beginning."""
        write_atomically(self.folder / "history.jsonl", "\n".join(history.lines()) + "\n")

    def checkpoint_folder(self, step: int) -> Path:
        """Return the folder of the checkpoint at ``step``."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def prune_checkpoints(self, keep: int, always: set[int]) -> None:
        """Remove all checkpoints but the last ``keep`` and those at the steps in ``always``."""
        for folder in checkpoints(self.folder)[:-keep]:
            if step_of(folder) not in always:
                shutil.rmtree(folder, ignore_errors=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the closing numbers."""
        write_atomically(self.folder / "result.json", json.dumps(result, indent=1))


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, in order of their steps."""
    return sorted(path.parent for path in (folder / "checkpoints").glob("step-*/manifest.json"))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last whole checkpoint of a run, if any."""
    return next(iter(reversed(checkpoints(folder))), None)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def events_at(checkpoint: Path) -> int:
    """Return how many growth events the network in ``checkpoint`` has behind it; many where it cannot be read."""
    try:
        name = json.loads((checkpoint / "manifest.json").read_text())["files"]["history.jsonl"]["file"]
        return len(History.read(checkpoint / name).events)
    except (OSError, ValueError, KeyError, TypeError, GhostkitError):  # a run that goes on has just removed it
        return sys.maxsize
