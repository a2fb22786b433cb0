"""One run of a sweep, from the locked folder to its record; the same on a thread here and on a worker elsewhere.

The run's folder is locked while a process works in it, so a worker that outlived its sweep and the sweep's next sitting
never write side by side. Whatever goes wrong becomes the run's record: one run never ends the sweep.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.notebooks import NotebookError, run_notebook
from ghostkit.sweeps.kernels import Kernels, end_leftovers
from ghostkit.sweeps.record import RESULT, Record, checksum, numbers_in, read_record, write_record

__all__ = ["KERNELS", "Task", "execute"]

KERNELS = Kernels()  # of this process
LOCK, BEGUN = ".lock", ".begun"  # in a run's folder: who works there, and the key of what was begun there
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ADVICE = {
    errno.ENOSPC: "make room on the disk, then give the same command again",
    errno.EDQUOT: "make room in the quota, then give the same command again",
    errno.EACCES: "let this user write there, then give the same command again",
    errno.EPERM: "let this user write there, then give the same command again",
    errno.ENOTDIR: "remove the file that stands where the run's folder should be, then give the same command again",
    errno.EEXIST: "remove the file that stands where the run's folder should be, then give the same command again",
    errno.EROFS: "choose a folder that can be written to",
}


@dataclass(frozen=True)
class Task:
    """What is to be run, as plain data.

    Args:
        run: name of the run.
        key: what its record will be known by.
        notebook: path of the sweep's copy of the notebook.
        notebook_sum: checksum of that file.
        folder: the run's folder, on a file system that whoever executes the task shares.
        parameters: what the notebook is given.
        timeout: seconds after which it is given up.
        retries: how often it is tried again after a failure.
        threads: what the notebook's numerical libraries may use.
        place: the folder that the notebook works in; where it is missing, that of the process.
    """

    run: str
    key: str
    notebook: str
    notebook_sum: str
    folder: str
    parameters: dict[str, Any]
    timeout: float | None = None
    retries: int = 0
    threads: int = 1
    place: str | None = None


def execute(task: Task, began: Callable[[str], object] | None = None) -> Record:
    """Run a notebook in its folder, unless it has been run, and return how it ended.

    Args:
        task: what to run.
        began: called with the run's name when it is begun.
    """
    folder = Path(task.folder)
    failed = Record(task.key, "failed", attempts=0)
    try:
        if checksum(Path(task.notebook)) != task.notebook_sum:
            raise GhostkitError(
                f"{platform.node()} finds no {task.notebook!r}, or another one; every worker has to see the sweep's "
                "folder under the same path, on a shared file system"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):
            before = read_record(folder)
            if before and before.key == task.key and before.status == "done":
                return before
            end_leftovers(folder)
            _begin(folder, task.key, before)
            if began:
                began(task.run)
            for attempt in range(1, task.retries + 2):
                record = replace(_attempted(task, folder), attempts=attempt)
                if record.status != "failed":
                    break
            write_record(folder, record)
            return record
    except Exception as error:
        return replace(failed, error=_described(error))


def _begin(folder: Path, key: str, before: Record | None) -> None:
    """Note in a run's folder what it is of, and clear away what was begun there with other code or parameters.

    What a trainer has left there of the same notebook goes on; of another, it would not be what the notebook says.
    """
    begun = folder / BEGUN
    known = begun.read_text() if begun.exists() else None if before is None else before.key
    if known not in (None, key):
        for path in folder.iterdir():
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    write_atomically(begun, key)


def _attempted(task: Task, folder: Path) -> Record:
    """Run the notebook once."""
    if KERNELS.stopped(folder):
        return Record(task.key, "interrupted", error={"name": "Interrupted", "message": "not begun"})
    (folder / RESULT).unlink(missing_ok=True)  # of a run that was cut short between its result and its record
    environment = {name: str(min(task.threads, _allowed(name))) for name in THREADS}
    started = time.perf_counter()
    try:
        done = run_notebook(
            task.notebook,
            folder,
            task.parameters,
            timeout=task.timeout,
            progress=False,
            environment=environment,
            on_kernel=lambda pid: KERNELS.add(folder, pid),
            place=task.place,
        )
    except Exception as failure:
        facts = failure.facts if isinstance(failure, NotebookError) else {}
        status = "interrupted" if KERNELS.stopped(folder) else "failed"
        seconds, result = facts.get("seconds", time.perf_counter() - started), facts.get("result", {})
        error = _described(failure)
        peak = facts.get("peak_memory")
    else:
        status, seconds, result, error, peak = "done", done.seconds, done.result, {}, done.peak_memory
    finally:
        KERNELS.remove(folder)
    return Record(
        key=task.key,
        status=status,
        seconds=round(seconds, 3),
        peak_memory=peak,
        metrics=numbers_in(result),
        history=_grown(folder),
        error=error,
        result=checksum(folder / RESULT),
    )


def _allowed(variable: str) -> int:
    """Return the threads that the environment already limits a library to."""
    said = os.environ.get(variable, "")
    return int(said) if said.isdigit() and int(said) else 1_000_000


def _described(failure: Exception) -> dict[str, str]:
    """Return name, message with advice, cell and traceback of what went wrong."""
    if isinstance(failure, NotebookError):
        error = {"traceback": "", **failure.facts["error"]}
    else:
        trace = "".join(traceback.format_exception(failure))
        error = {"name": type(failure).__name__, "message": str(failure), "traceback": trace}
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in ADVICE:
            return {**error, "name": type(cause).__name__, "message": f"{cause}; {ADVICE[cause.errno]}"}
        cause = cause.__cause__ or cause.__context__
    if f"[Errno {errno.ENOSPC}]" in error["message"]:
        error["message"] += f"; {ADVICE[errno.ENOSPC]}"
    return error


def _grown(folder: Path) -> dict[str, float]:
    """Return what grew in the run that grew most, of those that the notebook left in its folder."""
    if not any(folder.rglob("history.jsonl")):
        return {}
    from ghostkit.runs import find_runs

    summaries: list[dict[str, float]] = []
    try:
        for run in find_runs(folder):
            counts = [len(event.edits) for event in run.history.events]
            result = run.result
            summaries.append(
                {
                    "growth_events": sum(count > 0 for count in counts),
                    "edits": sum(counts),
                    **{name: int(result[name]) for name in ("params", "macs") if name in result},
                }
            )
    except (GhostkitError, OSError, ValueError, TypeError):
        pass  # a history that was cut short says nothing about the notebook
    return max(summaries, key=lambda summary: summary["growth_events"], default={})
