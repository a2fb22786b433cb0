"""Runs, read from their folders as data frames, at any moment; :mod:`ghostkit.run_folder` writes them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from ghostkit.architecture import aged, describe
from ghostkit.checkpoint import load, load_state
from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import RemoveBlock
from ghostkit.growth.grow import rebuild, replay
from ghostkit.growth.history import GrowthEvent, History, json_lines
from ghostkit.growth.undo import still_there
from ghostkit.metrics import METRICS, metric_of
from ghostkit.reading import UNFITTING, checked_fields, file_text, parsed_json
from ghostkit.run_folder import best_of, checkpoints, events_at, measured, step_of
from ghostkit.snapshot import part

__all__ = ["KeptNetwork", "Run", "find_runs", "summary"]

METRIC_COLUMNS = [
    "step",
    "epoch",
    "progress",
    "compute",
    "seconds",
    "split",
    "loss",
    "learning_rate",
    "params",
    "macs",
]
EVENT_COLUMNS = [
    "event",
    "step",
    "epoch",
    "progress",
    "compute",
    "edits",
    "kinds",
    "params_before",
    "params_after",
    "macs_before",
    "macs_after",
    "milliseconds_before",
    "milliseconds_after",
    "loss_before",
    "loss_after",
    "max_logit_change",
    "reason",
    "seconds",
]
CLOSING = (*METRICS, "milliseconds", "compute", "seconds", "growth_events")
DEEPEST = 8  # folders below one that is searched; a sweep's runs lie three or four deep
CANDIDATE_COLUMNS = ["event", "edit", "site", "kind", "init", "gain", "macs", "params", "milliseconds", "chosen"]


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A network from a checkpoint, and how near that checkpoint is to the growth event that it was asked for.

    Args:
        model: the network.
        event: number of the growth event; 0 is the seedling.
        step: at which the checkpoint was saved.
        note: what it is instead, where no checkpoint was kept right after the event; empty where it is exact.
    """

    model: torch.nn.Module
    event: int
    step: int
    note: str = ""


class Run:
    """A run, read from its folder.

    Args:
        folder: what a :class:`~ghostkit.Trainer` wrote, or is still writing.

    Raises:
        GhostkitError: if there is no run.

    >>> Run("runs/first").metrics.query("split == 'test'")[["epoch", "accuracy"]]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.json").exists():
            raise GhostkitError(f"{str(folder)!r} holds no run: it has no config.json")

    def __str__(self) -> str:
        result = self.result
        if not result:
            return f"{self.folder.name}: not over yet"
        metric = metric_of(result)
        return (
            f"{self.folder.name}: {result.get('split', 'test')} {METRICS[metric]} {result[metric]:.2%} "
            f"after {result['steps']:,} steps, {result['params']:,} parameters, {result['macs']:,} MACs"
        )

    @cached_property
    def config(self) -> RunConfig:
        """The configuration."""
        return RunConfig.read(self.folder / "config.json", links=False)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a measurement: step, epoch, progress (0 to 1), compute (training MACs), split, loss, accuracy, ...

        In the place of the accuracy, a detector has ``map50``, ``map`` and ``map75``, a segmenter ``miou`` and
        ``pixel_accuracy``.
        """
        path = self.folder / "metrics.jsonl"
        text = self._text("metrics.jsonl")
        rows = json_lines([] if text is None else text.splitlines(keepends=True), str(path))
        try:
            return metrics_frame([checked_row(row) for row in rows])
        except ValueError as error:
            raise GhostkitError(f"cannot read {str(path)!r}: {error}") from None

    @property
    def history(self) -> History:
        """The recipe and the growth events."""
        return History.read(self.folder / "history.jsonl")

    @property
    def events(self) -> pd.DataFrame:
        """One row a growth event, numbered from 1; one without edits says in ``reason`` why nothing grew."""
        return events_frame(event_row(*numbered) for numbered in enumerate(self.history.events, start=1))

    @property
    def candidates(self) -> pd.DataFrame:
        """One row a candidate and event, with its gain (nats), its cost, and whether it was chosen."""
        rows = [
            {"event": number, **row}
            for number, event in enumerate(self.history.events, start=1)
            for row in event.candidates
        ]
        return pd.DataFrame(rows, columns=CANDIDATE_COLUMNS)

    @property
    def result(self) -> dict[str, Any]:
        """The closing numbers, in a notebook's own folder beside its record; empty while the run goes on."""
        text = self._text("result.json")
        try:
            return {} if text is None else checked_result(parsed_json(text))
        except ValueError as error:
            raise GhostkitError(f"cannot read {str(self.folder / 'result.json')!r}: {error}") from None

    def _text(self, name: str) -> str | None:
        """Return the text of a file of the run; None if it is not there."""
        try:
            return file_text(self.folder / name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise GhostkitError(f"cannot read {str(self.folder / name)!r}: {error}") from None

    def architecture(self, event: int = -1) -> pd.DataFrame:
        """Return the network after growth event number ``event``, one row a block.

        Its column ``gain`` is what the engine expected of all that was grown in a block so far: the sum of the
        predicted gains (nats) of the candidates that were chosen there, without those that were removed since.

        Args:
            event: 0 for the seedling, -1 for the last event.

        Raises:
            GhostkitError: if there is no such event.
        """
        history = self.history
        last = self._numbered(history, event)
        frame = architecture(history, last)
        return frame.assign(gain=gained(history, last, frame["block"]))

    def _numbered(self, history: History, event: int) -> int:
        """Return the number of a growth event, of which -1 is the last."""
        count = len(history.events)
        last = count if event == -1 else event
        if not 0 <= last <= count:
            raise GhostkitError(f"no growth event {event} in {str(self.folder)!r}; it has 0 (the seedling) to {count}")
        return last

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint: by the main metric on the images that the run is judged on; of equals the later.

        The best one is always kept. None where none was measured yet.
        """
        steps = [step_of(folder) for folder in checkpoints(self.folder)]
        return best_of(measured(self.metrics.to_dict("records")), self.history, steps)

    def model(self, step: int | Literal["best"] | None = None) -> torch.nn.Module:
        """Return the network as saved at ``step``, or best (see :attr:`best_step`); as saved last when None.

        Its weights are those that the run measured: where it keeps a moving average (``ema``), the average.

        Raises:
            GhostkitError: if no checkpoint was kept at that step.
        """
        if step == "best":
            step = self.best_step
            if step is None:
                raise GhostkitError(f"no checkpoint in {str(self.folder)!r} was measured yet, so none is the best")
        known = checkpoints(self.folder)
        for folder in known if step is not None else known[-1:]:
            if step is None or step_of(folder) == step:
                return self._measured(folder)
        listed = ", ".join(str(step_of(folder)) for folder in known) or "none"
        raise GhostkitError(f"no checkpoint at step {step} in {str(self.folder)!r}; kept are {listed}")

    def model_at(self, event: int = -1) -> KeptNetwork:
        """Return the network as it was right after growth event number ``event``, or what was kept nearest before.

        Checkpoints at events that grew something, at the start and at the end are always kept, and are exact.

        Args:
            event: 0 for the seedling at the start, -1 for the network as saved last.

        Raises:
            GhostkitError: if there is no such event, or no checkpoint from before or at it was kept.
        """
        history = self.history
        number = self._numbered(history, event)
        moment = history.events[number - 1].step if number else 0
        kept = [(folder, events_at(folder)) for folder in checkpoints(self.folder)]
        known = [(folder, count) for folder, count in kept if count <= number]
        if event == -1 and kept:
            folder, count = kept[-1]
            moment = step_of(folder)
        elif known:
            before = [(folder, count) for folder, count in known if step_of(folder) <= moment]
            folder, count = before[-1] if before else known[0]
        else:
            raise GhostkitError(f"no checkpoint from before growth event {number} was kept in {str(self.folder)!r}")
        step, model = step_of(folder), self._measured(folder)
        missing = [str(edit) for past in history.events[count:number] for edit in past.edits]
        if missing:
            note = f"the nearest that was kept, of step {step:,}, lacks {', '.join(missing)}"
        elif step != moment:
            note = f"the nearest that was kept is of step {step:,}; the event was at step {moment:,}"
        else:
            note = ""
        return KeptNetwork(model, number, step, note)

    def _measured(self, checkpoint: Path) -> torch.nn.Module:
        """Return the network of a checkpoint with the weights that the run measures: its moving average, if any."""
        network = load(checkpoint)
        if self.config.ema is not None:
            try:
                network.load_state_dict(part(load_state(checkpoint)[1], "average/module."))
            except UNFITTING as error:
                message = f"the moving average in {str(checkpoint)!r} does not fit its network: {error}"
                raise GhostkitError(message) from None
        return network


def find_runs(paths: str | Path | Iterable[str | Path]) -> list[Run]:
    """Return the runs in some folders and below them: of a sweep, of a notebook, or single ones.

    Links to folders below those given are not followed, and a run that lies in several of them comes once.

    Args:
        paths: a folder, or several; the order of the runs is that of the folders, and by name within each.

    Raises:
        GhostkitError: if a folder is not there, or no run is in any of them.

    >>> [str(run) for run in find_runs("runs")]
    """
    places = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    for place in places:
        if not place.is_dir():
            raise GhostkitError(f"{str(place)!r} is no folder; expected a run, or a folder that holds runs")
    found = {folder.resolve(): folder for place in places for folder in _run_folders(place)}
    if not found:
        looked = ", ".join(repr(str(place)) for place in places) or "no folder at all"
        raise GhostkitError(
            f"no run found in {looked}, up to {DEEPEST} folders deep; a run is a folder with config.json and "
            "history.jsonl, as `ghostkit train` and the notebooks write it"
        )
    return [Run(folder) for folder in found.values()]


def _run_folders(place: Path) -> Iterator[Path]:
    """Yield the run folders in ``place`` and below, by name."""
    for name, inner, files in os.walk(place):
        folder = Path(name)
        if {"config.json", "history.jsonl"} <= set(files):
            yield folder
            inner.clear()
        deepest = len(folder.relative_to(place).parts) == DEEPEST
        inner[:] = [] if deepest else sorted(set(inner) - {"checkpoints"})


def metrics_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of the metrics file as :attr:`Run.metrics` does."""
    rows = list(rows)
    measured = list(dict.fromkeys(name for row in rows for name in row if name not in METRIC_COLUMNS))
    place = METRIC_COLUMNS.index("loss") + 1
    columns = [*METRIC_COLUMNS[:place], *(measured or ["accuracy"]), *METRIC_COLUMNS[place:]]
    return pd.DataFrame(rows, columns=columns)


def checked_row(row: Any) -> dict[str, Any]:
    """Return a row of the metrics file, if it is one.

    Raises:
        ValueError: if not.
    """
    scores = {} if not isinstance(row, dict) else dict.fromkeys(row, "float | None")
    return checked_fields(row, {**scores, "step": "int", "split": "str"}, "a row")


def checked_result(result: Any) -> dict[str, Any]:
    """Return the closing numbers of a run, if they are.

    Raises:
        ValueError: if not.
    """
    if result == {} or (isinstance(result, dict) and "status" in result and metric_of(result) not in result):
        return {}  # the second is the record of a notebook that has not trained its run to the end
    numbers = dict.fromkeys(("params", "macs", "steps"), "int") | dict.fromkeys(CLOSING, "float")
    there = {name: value for name, value in result.items() if name in numbers} if isinstance(result, dict) else {}
    if metric_of(there) not in there or not numbers.keys() - CLOSING <= there.keys():
        raise ValueError("it lacks a score, or the numbers of steps, parameters or MACs")
    checked_fields(there, numbers, "the result")
    return dict(result)


def event_row(number: int, event: GrowthEvent) -> dict[str, Any]:
    """Return a growth event as a row of :attr:`Run.events`."""
    values = {name: getattr(event, name) for name in EVENT_COLUMNS if name in event.__dataclass_fields__}
    told = {"edits": ", ".join(map(str, event.edits)), "kinds": ", ".join(edit.kind for edit in event.edits)}
    return {**values, **event.clock, **told, "event": number}


def events_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of :func:`event_row` as :attr:`Run.events` does."""
    return pd.DataFrame(list(rows), columns=EVENT_COLUMNS)


def summary(network: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return finished runs of one kind as one row of a closing table.

    Args:
        network: what to call them.
        runs: the same run over several seeds; accuracies (of detectors mAP50, of segmenters mIoU) are listed,
            everything else is averaged.

    Raises:
        GhostkitError: if there is no run, or one is not finished; the message names it.
    """
    if not runs:
        raise GhostkitError(f"there is no run to sum up as {network!r}; expected one at least, finished")
    results = [run.result for run in runs]
    for run, result in zip(runs, results, strict=True):
        if not result:
            raise GhostkitError(f"{run}; expected finished runs to sum up as {network!r}: train it to its end first")

    def mean(name: str) -> float:
        return sum(result[name] for result in results) / len(results)

    metrics = dict.fromkeys(map(metric_of, results))
    if len(metrics) > 1:
        judged = ", ".join(METRICS[metric] for metric in metrics)
        raise GhostkitError(f"runs judged by {judged} cannot be summed up as one {network!r}; give those of one task")
    averages = {name: mean(name) for name in ("params", "macs", "milliseconds", "compute")}
    metric = metric_of(results[0])
    return {"network": network, metric: [result[metric] for result in results], **averages}


def architecture(history: History, last: int) -> pd.DataFrame:
    """Return the network after event ``last`` of ``history``, with the events at which each block came and changed."""
    *_, frame = architectures(replace(history, events=history.events[:last]))
    return frame


def architectures(history: History) -> Iterator[pd.DataFrame]:
    """Yield the network of ``history`` at each moment, the seedling first, then after every event, as asked for."""
    example = None if history.image is None else torch.zeros(1, *history.image, device="meta")
    frame: pd.DataFrame | None = None
    for event, model in enumerate(replay(history)):
        try:  # shapes alone are asked for, and may be those of a stranger
            frame = aged(frame, describe(copy.deepcopy(model).to("meta"), example), event)
        except UNFITTING as error:
            raise GhostkitError(f"the network after event {event} cannot be described: {error!r:.500}") from None
        yield frame


def gained(history: History, last: int, blocks: Iterable[str]) -> list[float]:
    """Return the predicted gains (nats) of what was grown up to event ``last`` and is there, in sum for each block."""
    history = replace(history, events=history.events[:last])
    gains = dict.fromkeys(blocks, 0.0)
    paths: list[str] = []  # of the seedling's layers, once they are needed
    for event, edit, inverse in still_there(history):
        predicted = {row["edit"]: row["gain"] for row in event.candidates if row["chosen"]}
        # Only what takes a new block back knows its name.
        site = f"{inverse.site}.{inverse.block}" if isinstance(inverse, RemoveBlock) else edit.site
        block = _block_of(site, gains)
        if block is None:
            paths = paths or [path for path, _ in rebuild(replace(history, events=[])).named_modules()]
            block = _end_of(site, gains, paths)
        if block in gains:
            gains[block] += float(predicted.get(str(edit), 0.0))
    return list(gains.values())


def _block_of(site: str, blocks: Iterable[str]) -> str | None:
    """Return the block that a site lies in, if any."""
    return max((block for block in blocks if f"{site}.".startswith(f"{block}.")), key=len, default=None)


def _end_of(site: str, blocks: Iterable[str], paths: list[str]) -> str | None:
    """Return ``stem`` or ``head``, as a site lies before all blocks or behind; None of one that is gone.

    Args:
        site: in none of the blocks.
        blocks: of the network now.
        paths: the seedling's layers.
    """
    if site not in paths:
        return None
    first = next((number for number, path in enumerate(paths) if path in set(blocks)), len(paths))
    return "stem" if paths.index(site) < first else "head"
