"""A sweep from its file to its table: planned, run where it was asked for, and written down while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from ghostkit.errors import GhostkitError
from ghostkit.parallel import cores, usual_workers
from ghostkit.sweeps.definition import SweepFile, read_sweep
from ghostkit.sweeps.events import RunBegan, RunEnded, SweepBegan, SweepEvent, duration
from ghostkit.sweeps.executing import Task
from ghostkit.sweeps.folder import State, known_names, locked, prepare, state_of
from ghostkit.sweeps.kernels import end_leftovers
from ghostkit.sweeps.local import run_on_threads
from ghostkit.sweeps.page import write_index
from ghostkit.sweeps.plan import make_plan, slug
from ghostkit.sweeps.record import Record, checksum
from ghostkit.sweeps.table import results_table, write_results

__all__ = ["SweepResult", "estimate", "plan_sweep", "plan_table", "run_sweep"]

REFRESH = 30.0  # seconds between two forms of the table and the index while a sweep goes on


@dataclass(frozen=True)
class SweepResult:
    """Where a sweep left what.

    Args:
        folder: of the sweep.
        table: a row a run, as in its results.parquet.
        unwritten: why the table or the index could not be written; empty if they were.
    """

    folder: Path
    table: pd.DataFrame
    unwritten: str = ""

    @property
    def complete(self) -> bool:
        """Whether all runs are done and written down."""
        return not self.unwritten and bool((self.table["status"] == "done").all())


def plan_sweep(path: str | Path, folder: str | Path | None = None) -> tuple[SweepFile, State]:
    """Return what a sweep file asks for, and what its folder holds of it; nothing is run or written.

    Args:
        path: the sweep file.
        folder: the sweep's folder; by default `runs/` and the file's name.

    Raises:
        GhostkitError: if the file, its notebook or a value cannot be used.
    """
    sweep = read_sweep(path)
    place = Path(folder) if folder is not None else Path("runs", slug(Path(path).stem) or "sweep")
    place = place.expanduser().resolve()
    return sweep, state_of(place, make_plan(sweep, Path(path).parent, known_names(place)))


def plan_table(state: State) -> pd.DataFrame:
    """Return the plan, a row a run: its name, what is special about it, and its state."""
    states = {name: record.status for name, record in state.records.items()}
    rows = [
        {
            "run": run.name,
            **{name: run.parameters[name] for name in state.plan.varied},
            "state": "outdated" if run.name in state.outdated else states.get(run.name, "to do"),
        }
        for run in state.plan.runs
    ]
    return pd.DataFrame(rows).astype(str)


def estimate(state: State, workers: int | None = None) -> str:
    """Return in words how much there is to do, and how long it may take.

    Args:
        state: what the folder holds of the plan.
        workers: runs at a time; when None, one a core, or one with a GPU to share.
    """
    count = workers or usual_workers()
    todo = len(state.todo)
    rounds = -(-todo // count)
    time_needed = duration(None if state.seconds is None else rounds * state.seconds) if todo else "none"
    return (
        f"{len(state.plan.runs)} runs of {state.plan.notebook.name}, {len(state.done)} done, {todo} to do; "
        f"{count} at a time\ntime needed: {time_needed}\nfolder: {state.folder}"
    )


def run_sweep(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    processes: int | None = None,
    redo: bool = False,
    on_event: Callable[[SweepEvent], object] | None = None,
) -> SweepResult:
    """Run all of a sweep that is missing or has failed, and return its table.

    Args:
        path: the sweep file.
        folder: the sweep's folder; by default `runs/` and the file's name.
        workers: runs at a time on this machine; by default what the file says, else one a core, or one with a GPU.
        scheduler: address of a Dask scheduler whose workers are to run them.
        processes: run them on a Dask cluster of so many processes here.
        redo: run finished runs again where the notebook's code has changed since.
        on_event: called with each event, such as `print`.

    Raises:
        GhostkitError: before anything runs, if the file, its notebook, a value, the folder or the cluster cannot be
            used. What goes wrong in a run is told in the table.
    """
    tell = on_event or (lambda event: None)
    for name, count in (("workers", workers), ("processes", processes)):
        if count is not None and count < 1:
            raise GhostkitError(f"{name} = {count}: expected one at least")
    if sum(given is not None for given in (workers, scheduler, processes)) > 1:
        raise GhostkitError("workers, a scheduler and local Dask processes exclude each other; give one")
    sweep, state = plan_sweep(path, folder)
    with locked(state.folder):
        sweep, state = plan_sweep(path, folder)  # another sweep may have ended meanwhile
        notebook = prepare(state, redo)
        for run in state.plan.runs:
            if run.name in state.records or state.run_folder(run.name).exists():
                _free(state.run_folder(run.name))
        tasks = [
            Task(
                run=run.name,
                key=run.key,
                notebook=str(notebook),
                notebook_sum=checksum(notebook),
                folder=str(state.run_folder(run.name)),
                parameters=run.parameters,
                timeout=sweep.timeout,
                retries=sweep.retries,
                place=str(Path.cwd()),
            )
            for run in state.todo
        ]
        records: dict[str, Record] = {name: state.records[name] for name in state.done}
        if not tasks:
            tell(SweepBegan(len(state.plan.runs), len(records), workers or 1, state.seconds))
            return _written(state, records)
        if scheduler is not None or processes is not None:
            from ghostkit.sweeps.cluster import connected, run_on_cluster, workers_of

            with connected(scheduler, processes) as client:
                count = sum(workers_of(client).values())
                tell(SweepBegan(len(state.plan.runs), len(records), count, state.seconds))
                return _followed(state, records, run_on_cluster(tasks, client, state.folder), tell)
        count, tasks = _shared(tasks, workers or sweep.workers)
        tell(SweepBegan(len(state.plan.runs), len(records), count, state.seconds))
        return _followed(state, records, run_on_threads(tasks, count, state.folder), tell)


def _shared(tasks: list[Task], workers: int | None) -> tuple[int, list[Task]]:
    """Return how many runs go on at a time, and the tasks, each with its share of the cores."""
    workers = workers or usual_workers()
    # Not by how many are left: numbers may depend on the threads, and a run resumed alone must not differ.
    return workers, [replace(task, threads=max(1, cores() // workers)) for task in tasks]


def _free(folder: Path) -> None:
    """End a kernel that a killed sweep has left in a run's folder, unless a worker is still there with it."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            end_leftovers(folder)
    except (OSError, Timeout):
        pass  # the run itself will say what is wrong


def _followed(
    state: State,
    records: dict[str, Record],
    events: Generator[RunBegan | tuple[str, Record]],
    tell: Callable[[SweepEvent], object],
) -> SweepResult:
    """Tell events as they come, keep the table up to date, and return it when all is over."""
    written = time.monotonic()
    try:
        with closing(events):
            for event in events:
                if isinstance(event, RunBegan):
                    tell(event)
                    continue
                name, record = event
                records[name] = record
                tell(RunEnded(name, record.status, record.seconds, record.told))
                if time.monotonic() - written > REFRESH:
                    _written(state, records)
                    written = time.monotonic()
    finally:
        # What was interrupted is known from its folder alone, what found a full disk from here alone.
        result = _written(state, {**state_of(state.folder, state.plan).records, **records})
    return result


def _written(state: State, records: Mapping[str, Record]) -> SweepResult:
    """Write the table and the index, and return the result."""
    state = replace(state, records=records, outdated=())
    try:
        table = write_results(state)
        write_index(state, table)
    except GhostkitError as error:
        return SweepResult(state.folder, results_table(state), f"{error}; mend that and give the same command again")
    return SweepResult(state.folder, table)
