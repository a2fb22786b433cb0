"""The run folder: written while a run goes on, and resumed from.

    config.json      the configuration
    data.json        what the images were, by counts and names
    metrics.jsonl    one row a measurement
    history.jsonl    the recipe, then one line a growth event
    checkpoints/     one folder a checkpoint, named by step
    result.json      the closing numbers

Every file is replaced atomically, or appended to by whole lines, and by one trainer at a time, which holds the folder
meanwhile. What a process that was killed has left half done, the next one clears away. :mod:`ghostkit.runs` reads the
folder as data frames; that needs no lock.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ghostkit.checkpoint import MANIFEST, DamagedError, read
from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.files import append_whole, remove_drafts, write_atomically
from ghostkit.growth.edits import REMOVAL
from ghostkit.growth.history import History
from ghostkit.holding import Hold
from ghostkit.metrics import metric_of
from ghostkit.reading import MOST_TEXT, checked_fields, file_bytes, file_text, parsed_json

__all__ = [
    "INERT",
    "RunFolder",
    "best_of",
    "checkpoints",
    "data_changes",
    "events_at",
    "images_noted",
    "measured",
    "result_noted",
    "step_of",
]

STEP = re.compile(r"step-[0-9]{1,18}")
DATA = "data.json"
INERT = ("data_root", "keep_checkpoints")  # where things lie, and what is kept, changes nothing in what is learned
JUDGED = ("test", "validation")  # what a run is judged on: the one, or the other where images were held out for it


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
            raise GhostkitError(f"cannot make the run folder {str(folder)!r}: {error.strerror or error}") from None
        self.metrics_written = 0
        self._measured: dict[int, float] = {}
        self._name = uuid4().hex  # in the lock's file, of who wrote last
        self._hold: Hold | None = None
        self._before: set[str | None] | None = None  # who may have written last, once this one has looked
        self._torn = False

    # -- holding it --------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, sign: bool = True) -> Iterator[None]:
        """Keep all other trainers out of the folder inside the block, in this process and others.

        Args:
            sign: say who does; not yet where it may turn out that nothing can be done there.

        Raises:
            GhostkitError: if another one is at work there, or has been since this one was.
        """
        if self._torn:
            raise GhostkitError(
                f"training in {str(self.folder)!r} was interrupted in the middle of something; make its Trainer again, "
                "which goes on from the last checkpoint"
            )
        if self._hold is not None:
            yield
            return
        hold = self._hold = Hold(self.folder)
        try:
            if sign:
                self._sign(hold)
            yield
        finally:
            if self._hold is hold:  # and was not let go before
                self.release()

    def _sign(self, hold: Hold) -> None:
        if self._before is not None and hold.signed().get("name") not in self._before:
            raise GhostkitError(
                f"another Trainer has been at work in {str(self.folder)!r} since; make this one again, which goes on "
                "from the last checkpoint"
            )
        hold.sign(self._name)
        self._before = {self._name}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the folder while a run goes on inside the block; after an error there, nothing is written any more.

        What was interrupted may be half done, as a step without its count. The last checkpoint knows nothing of it.
        """
        with self.held():
            try:
                yield
            except GeneratorExit:  # who looks on has seen enough, between two events
                raise
            except BaseException:
                self._torn = True
                raise

    def release(self) -> None:
        """Let the folder go, where it is held; whatever is written next holds it again."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    # -- writing -----------------------------------------------------------------------------------------------------

    def begin(self, config: RunConfig, data: Mapping[str, str] | None = None) -> Path | None:
        """Write the configuration of a new run, or return the checkpoint to resume an old one from.

        That is the last one that is whole; a warning says what is wrong with those after it.

        Args:
            config: of the run.
            data: what its images are, as :func:`ghostkit.data.fingerprint.fingerprint` tells; not compared when None.

        Raises:
            GhostkitError: if another trainer is at work there, if the folder holds a run of another configuration or
                of other images, or one that has no checkpoint or none that is whole. Nothing has changed then.
        """
        self._compare(config, data)  # first, as it says more than who is at work there
        with self.held(sign=False):
            self._compare(config, data)
            checkpoint = self._whole_checkpoint()
            if self._hold is not None:
                self._before = {self._hold.signed().get("name")}
            if checkpoint is None:
                self._refuse_to_lose()
                if self._hold is not None:
                    self._sign(self._hold)
                if data is not None:
                    write_atomically(self.folder / DATA, json.dumps(data, indent=1))
                self.cut_metrics(0)
            path, said = self.folder / "config.json", config.model_dump_json(indent=1)
            if checkpoint is None or file_text(path) != said:  # data may lie elsewhere now
                write_atomically(path, said)
        return checkpoint

    def _refuse_to_lose(self) -> None:
        """Raise where a run has taken steps of which no checkpoint is left; one killed at once has nothing to keep."""
        last = max(measured(_parsed(self._lines())), default=0)
        if last > 0:
            raise GhostkitError(
                f"{str(self.folder)!r} holds a run that was measured up to step {last}, but no checkpoint of it, so it "
                "cannot go on, and another would replace it; put its checkpoints back, or choose another folder"
            )

    def _compare(self, config: RunConfig, data: Mapping[str, str] | None) -> None:
        """Raise where checkpoints of another configuration, or of a run on other images, are in the folder."""
        if not checkpoints(self.folder):
            return
        there = RunConfig.read(self.folder / "config.json", links=False)
        known, asked = (values.model_dump(mode="json") for values in (there, config))
        differing = [
            f"{name}={known[name]!r} there, {asked[name]!r} now"
            for name in known
            if name not in INERT and known[name] != asked[name]
        ]
        if differing:
            raise GhostkitError(
                f"{str(self.folder)!r} holds a run of another configuration ({'; '.join(differing)}); "
                "choose another folder"
            )
        if data is not None and (changed := data_changes(self.folder, config.data, data)):
            raise GhostkitError(f"{changed}. Put them back as they were, or choose another folder")

    def _whole_checkpoint(self) -> Path | None:
        """Return the last checkpoint whose checksums are right; None where there never was one."""
        damage: list[str] = []
        for folder in reversed(checkpoints(self.folder)):
            try:
                read(folder)
            except DamagedError as error:
                damage.append(str(error))
                continue
            if damage:
                warnings.warn(
                    f"{'; '.join(damage)}. The run goes on from step {step_of(folder)}, whose checkpoint is whole; "
                    "what is damaged stays as it is until the run gets there again",
                    stacklevel=5,
                )
            return folder
        unfinished = [folder for folder in _step_folders(self.folder) if step_of(folder) > 0]
        if damage or unfinished:
            found = damage or [f"{str(folder)!r} has no {MANIFEST}" for folder in unfinished]
            raise GhostkitError(
                f"no checkpoint of the run in {str(self.folder)!r} is whole, so it cannot go on: {'; '.join(found)}. "
                "Nothing was changed; put a copy of a checkpoint back, or choose another folder"
            )
        return None

    def add_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to the metrics, all or none of them."""
        rows = list(rows)
        with self.held():
            append_whole(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.metrics_written += len(rows)
        self._measured |= measured(rows)

    def cut_metrics(self, rows: int) -> None:
        """Keep the first ``rows`` of the metrics: what came after the checkpoint will be measured again."""
        path = self.folder / "metrics.jsonl"
        with self.held():
            remove_drafts(self.folder)
            lines = [line for line in self._lines()[:rows] if line.endswith(b"\n")]
            write_atomically(path, b"".join(lines))
        self.metrics_written = len(lines)
        self._measured = measured(_parsed(lines))

    def _lines(self) -> list[bytes]:
        """Return the lines of the metrics, the last one perhaps torn."""
        path = self.folder / "metrics.jsonl"
        try:
            return file_bytes(path, MOST_TEXT).splitlines(keepends=True) if path.exists() else []
        except (OSError, ValueError) as error:
            raise GhostkitError(f"cannot read {str(path)!r}: {error}") from None

    def write_history(self, history: History) -> None:
        """Replace the history by ``history``, of which it is the beginning."""
        with self.held():
            write_atomically(self.folder / "history.jsonl", "\n".join(history.lines()) + "\n")

    def checkpoint_folder(self, step: int) -> Path:
        """Return the folder of the checkpoint at ``step``."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def prune_checkpoints(self, keep: int, history: History, step: int) -> None:
        """Remove all checkpoints up to ``step`` but the last ``keep``, the best, the first and those at growth events.

        Args:
            keep: how many to keep besides the others.
            history: of the network now.
            step: where the run is; later checkpoints are damaged, and replaced when it gets there.
        """
        with self.held():
            steps = [number for number in map(step_of, checkpoints(self.folder)) if number <= step]
            grown_at = {event.step for event in history.events if event.edits}
            kept = {0, *grown_at, *steps[-keep:], best_of(self._measured, history, steps)}
            for folder in _step_folders(self.folder):
                if step_of(folder) <= step and step_of(folder) not in kept:
                    with suppress(OSError):
                        (folder / MANIFEST).unlink(missing_ok=True)  # first: what is half removed is no checkpoint
                        shutil.rmtree(folder)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the closing numbers; what a notebook that ended in this folder has noted beside them stays."""
        with self.held():
            path = self.folder / "result.json"
            there = result_noted(path)
            noted = there if "status" in there else {}
            write_atomically(path, json.dumps({**noted, **result}, indent=1))


def result_noted(path: Path) -> dict[str, Any]:
    """Return what a run's ``result.json`` holds if a trainer wrote its closing numbers there; nothing otherwise."""
    try:
        there = parsed_json(file_text(path))
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) and metric_of(there) in there else {}


def images_noted(folder: Path) -> dict[str, str]:
    """Return what the images of a run were when it began; empty where an older version noted nothing.

    Raises:
        GhostkitError: if what is noted cannot be read.
    """
    path = folder / DATA
    try:
        said = parsed_json(file_text(path))
        return checked_fields(said, dict.fromkeys(("classes", "train", *JUDGED), "str"), "what the images were")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise GhostkitError(f"cannot read {str(path)!r}: {error}") from None


def data_changes(folder: Path, name: str, now: Mapping[str, str]) -> str:
    """Return in words how the images that a run began with differ from those ``now``; empty where nothing is known to.

    Args:
        folder: of the run; one that was begun by an older version says nothing of its images.
        name: of the data set.
        now: as :func:`ghostkit.data.fingerprint.fingerprint` tells.

    Raises:
        GhostkitError: if what is known of them cannot be read.
    """
    if not (there := images_noted(folder)):
        return ""
    differing = [
        f"{part}={there.get(part)!r:.500} there, {now.get(part)!r:.500} now"
        for part in dict.fromkeys([*there, *now])
        if there.get(part) != now.get(part)
    ]
    if not differing:
        return ""
    return (
        f"the images of {name!r} have changed since the run in {str(folder)!r} began ({'; '.join(differing)}); it may "
        "have learned from what it is tested on now"
    )


def _step_folders(folder: Path) -> list[Path]:
    """Return the folders of checkpoints in a run's folder, whole or not, in order of their steps."""
    place = folder / "checkpoints"
    found = [path for path in place.glob("step-*") if STEP.fullmatch(path.name)]
    for path in (place, *found):
        if path.is_symlink():
            raise GhostkitError(f"{str(path)!r} is a link, which may lead elsewhere; put the folder itself there")
    return sorted(found, key=step_of)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run that were written to their end, in order of their steps."""
    return [path for path in _step_folders(folder) if (path / MANIFEST).exists()]


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def measured(rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return the task's main metric at each step, on the images that the run is judged on."""
    found = {}
    for row in rows:
        value = row.get(metric_of(row))
        step = row.get("step")
        if row.get("split") in JUDGED and type(step) is int and isinstance(value, int | float) and math.isfinite(value):
            found[step] = float(value)
    return found


def best_of(values: Mapping[int, float], history: History, steps: Iterable[int]) -> int | None:
    """Return the best of some checkpoints, the later one of equals; None where none was measured.

    Growth keeps the function, so a network that was measured and then grown, and saved, is as good as it was. What
    takes growth back does not: such a checkpoint is not what was measured.

    Args:
        values: as :func:`measured` returns them.
        history: of the run.
        steps: of the checkpoints.
    """
    changed = {
        event.step
        for event in history.events
        if event.undoes is not None or any(isinstance(edit, REMOVAL) for edit in event.edits)
    }
    known = [(values[step], step) for step in steps if step in values and step not in changed]
    return max(known)[1] if known else None


def _parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the rows of metrics that can be read."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            row = parsed_json(line)
            if isinstance(row, dict):
                yield row


def events_at(checkpoint: Path) -> int:
    """Return how many growth events the network in ``checkpoint`` has behind it; many where it cannot be read."""
    try:
        name = parsed_json(file_text(checkpoint / MANIFEST))["files"]["history.jsonl"]["file"]
        return len(History.read(checkpoint / Path(name).name).events)
    except (OSError, ValueError, KeyError, TypeError, GhostkitError):  # a run that goes on has just removed it
        return sys.maxsize
