"""Training without a notebook: a configuration from a file and a command line, and a run told line by line.

What is trained and written is what a notebook would train and write; only who looks on is another. Under `torchrun`,
all processes train one run, and the first one writes and tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ghostkit.config import RunConfig
from ghostkit.events import Evaluated, Finished, Grown, StepDone
from ghostkit.holding import LOCK
from ghostkit.parameters import parse_parameters
from ghostkit.processes import is_first
from ghostkit.runs import Run
from ghostkit.tracking import close_loggers, log_event
from ghostkit.trainer import Trainer

__all__ = ["configured", "folder_for", "train_and_tell", "words_of"]

OF_A_RUN = ("history.jsonl", "checkpoints", LOCK)  # what lies beside a run's own config.json from its first moment on


def configured(path: str | Path, pairs: Iterable[tuple[str, str]] = ()) -> RunConfig:
    """Return the configuration in a file, with what the command line says otherwise.

    Args:
        path: YAML or JSON, such as a run's config.json.
        pairs: names and texts, read as in `ghostkit run`.

    Raises:
        GhostkitError: if the file cannot be read, a name is unknown, or a value does not fit.
    """
    config, pairs = RunConfig.read(path), list(pairs)
    for name, _ in pairs:
        if name not in RunConfig.model_fields:
            RunConfig.parse({name: None})  # which says what it may have been meant to be
    return config.changed(**parse_parameters(declared(), pairs))


def declared() -> dict[str, Any]:
    """Return the parameters of a run as a notebook would declare them: None where they may be None."""
    defaults = RunConfig().model_dump(mode="json")
    optional = {name for name, field in RunConfig.model_fields.items() if type(None) in get_args(field.annotation)}
    return {name: None if name in optional else value for name, value in defaults.items()}


def words_of(config: RunConfig) -> list[str]:
    """Return the words of a command line that give all the values of ``config``: -p NAME VALUE and so on."""
    defaults, words = declared(), []
    for name, value in config.model_dump(mode="json").items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if parse_parameters(defaults, [(name, text)])[name] != value:
            text = json.dumps(value, ensure_ascii=False)  # a text that would be read as a number, say
        words += ["-p", name, text]
    return words


def folder_for(path: str | Path, config: RunConfig) -> Path:
    """Return the folder of a run of the configuration file ``path``, the same whenever it is asked.

    A run's own config.json means that run; any other file, also one of that name that no run lies beside, means
    `runs/NAME-SEED`.
    """
    path = Path(path)
    if path.name == "config.json" and any((path.parent / name).exists() for name in OF_A_RUN):
        return path.parent
    return Path("runs", f"{path.stem}-{config.seed}")


def train_and_tell(
    config: RunConfig,
    folder: str | Path,
    *,
    quiet: bool = False,
    loggers: Sequence[Any] = (),
    console: Console | None = None,
) -> Run:
    """Train a configuration to its end, or a run that was cut short from where it was, and tell what happens.

    A terminal gets a bar, and a line for each evaluation and each growth event; anything else gets nothing.

    Args:
        config: every knob of the run.
        folder: the run folder.
        quiet: tell nothing.
        loggers: see :func:`ghostkit.tracking.log_event`.
        console: where to; standard error when None.

    Raises:
        GhostkitError: if the run cannot be trained.
    """
    console = console or Console(stderr=True)
    tells = is_first()
    shown = console.is_terminal and not quiet and tells
    bar = Progress(
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        disable=not shown,
    )
    try:
        trainer = Trainer(config, folder)
        with bar:
            task = bar.add_task("", total=1.0)
            bar.update(task, completed=trainer.done)
            if shown and trainer.progress.step:
                console.print(f"goes on after {trainer.done:.0%}", highlight=False)
            for event in trainer:
                if tells:
                    log_event(event, loggers)
                if isinstance(event, StepDone):
                    bar.update(task, completed=event.progress, description=f"step {event.step}")
                elif shown and isinstance(event, Evaluated | Grown | Finished):
                    console.print(str(event), markup=False, highlight=False)
    finally:
        close_loggers(loggers)
    return Run(folder)
