"""The folder of a sweep: what lies where, what is done already, and who may work in it.

    SWEEP/sweep.json         the runs and their parameters, so that names stay when the sweep file changes
    SWEEP/NOTEBOOK.ipynb     the notebook as it is run
    SWEEP/results.parquet    a row a run
    SWEEP/index.html         the same as a page, with links
    SWEEP/runs/NAME/         what :func:`ghostkit.notebooks.run_notebook` leaves, and record.json

One sweep at a time works in a folder. A run that was done stays done: more values in the sweep file are more runs, with
other values the finished ones stay in the results, and a notebook whose code has changed is not run over finished runs
unless that is asked for.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.reading import file_text, parsed_json
from ghostkit.sweeps.plan import Plan, PlannedRun, key_of, told
from ghostkit.sweeps.record import Record, checksum, read_record

__all__ = ["State", "known_names", "locked", "prepare", "state_of"]

PLAN = "sweep.json"
SAFE_NAME = re.compile(r"[0-9]{3,9}(-[a-z0-9.-]{1,100})?")


@dataclass(frozen=True)
class State:
    """What a sweep's folder holds of a plan.

    Args:
        folder: of the sweep, absolute.
        plan: what is to be there.
        records: name -> record of the runs that have ended, of the plan's notebook and parameters.
        outdated: names of runs that were done with other code.
        earlier: finished runs of the plan's code with values that the sweep file had before, and their records.
    """

    folder: Path
    plan: Plan
    records: Mapping[str, Record]
    outdated: tuple[str, ...] = ()
    earlier: tuple[tuple[PlannedRun, Record], ...] = ()

    @property
    def done(self) -> tuple[str, ...]:
        """Names of the runs that need not be run again."""
        return tuple(name for name, record in self.records.items() if record.status == "done")

    @property
    def todo(self) -> tuple[PlannedRun, ...]:
        """The runs that are missing or have failed."""
        done = set(self.done)
        return tuple(run for run in self.plan.runs if run.name not in done)

    @property
    def seconds(self) -> float | None:
        """What finished runs took on average; None where there is none."""
        taken = [self.records[name].seconds for name in self.done]
        return sum(taken) / len(taken) if taken else None

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / name


def known_names(folder: Path) -> dict[str, str]:
    """Return parameters as text -> name, of the runs that a sweep's folder knows.

    Raises:
        GhostkitError: if the folder's plan cannot be read, or holds a name that would lead out of the folder.
    """
    path = folder / PLAN
    try:
        names = {told(run["parameters"]): str(run["name"]) for run in parsed_json(file_text(path))["runs"]}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GhostkitError(f"cannot read {str(path)!r}: {error}; remove it, or give another folder") from None
    for name in names.values():
        if not SAFE_NAME.fullmatch(name):
            raise GhostkitError(f"{str(path)!r} names a run {name!r}, which no sweep does; give another folder")
    return names


def state_of(folder: Path, plan: Plan) -> State:
    """Return what ``folder`` holds of ``plan``; nothing is changed."""
    records, outdated = {}, []
    for run in plan.runs:
        record = read_record(folder / "runs" / run.name)
        if record and record.key == run.key:
            records[run.name] = record
        elif record and record.status == "done":
            outdated.append(run.name)
    return State(folder, plan, records, tuple(outdated), tuple(_earlier(folder, plan)))


def _earlier(folder: Path, plan: Plan) -> Iterator[tuple[PlannedRun, Record]]:
    """Yield the finished runs of the plan's code that the folder knows, but the plan does not ask for."""
    asked = {run.name for run in plan.runs}
    for text, name in known_names(folder).items():
        run = PlannedRun(name, json.loads(text), key_of(plan.code, text))
        record = None if name in asked else read_record(folder / "runs" / name)
        if record and record.status == "done" and record.key == run.key:
            yield run, record


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a sweep's folder and keep all other sweeps out of it.

    Raises:
        GhostkitError: if it cannot be made or written to, or another sweep works in it.
    """
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise GhostkitError(
            f"another sweep works in {str(folder)!r}; wait until it has ended, or give another --folder"
        ) from None
    except OSError as error:
        raise GhostkitError(
            f"cannot use {str(folder)!r} as the sweep's folder: {error.strerror or error}; give another --folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def prepare(state: State, redo: bool = False) -> Path:
    """Write down the plan, copy the notebook, and return the path of the copy.

    Args:
        state: what the folder holds.
        redo: whether finished runs of other code may be run again.

    Raises:
        GhostkitError: if something cannot be written, or if there are such runs and ``redo`` is false.
    """
    if state.outdated and not redo:
        raise GhostkitError(
            f"the code of {str(state.plan.notebook)!r} has changed since {len(state.outdated)} runs in "
            f"{str(state.folder)!r} were done, {state.outdated[0]!r} first; give another --folder, or --redo to run "
            "them again"
        )
    for name in state.outdated:
        shutil.rmtree(state.run_folder(name), ignore_errors=True)
    here = {run.name: run.parameters for run in state.plan.runs}
    earlier = {name: json.loads(text) for text, name in known_names(state.folder).items()}
    runs = [{"name": name, "parameters": values} for name, values in sorted({**earlier, **here}.items())]
    write_atomically(state.folder / PLAN, json.dumps({"runs": runs}, indent=1) + "\n")
    copy = state.folder / state.plan.notebook.name
    if copy.resolve() != state.plan.notebook.resolve() and checksum(copy) != checksum(state.plan.notebook):
        write_atomically(copy, state.plan.notebook.read_bytes())
    return copy
