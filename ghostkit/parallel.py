"""Several runs at once, each in a process of its own: a small network keeps one core busy, and no more.

What comes out is what would come out one after the other, bit for bit. A worker whose parent has been killed ends
between two steps: nobody would ask it for its run any more, and the next one to resume it should find it free.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.runs import Run
from ghostkit.trainer import Trainer, train

__all__ = ["train_all"]

ORPHANED = threading.Event()  # the parent of this worker is gone
AT_REST = threading.Event()  # this worker trains nothing at the moment


def train_all(
    runs: Mapping[Path, RunConfig], workers: int | None = None, done: Callable[[Run], object] | None = None
) -> list[Run]:
    """Run several configurations to their ends, and return the runs in the order given.

    In a script (not in a notebook), call it under ``if __name__ == "__main__":``, as new processes need.

    Args:
        runs: run folder -> configuration. A run that is over is not trained again, one that was cut short goes on.
        workers: runs at a time; when None, one for each CPU core, or one where there is a GPU to share.
        done: called with each run as it ends, such as ``print``.

    Raises:
        GhostkitError: if there is nothing to run, or ``workers`` is below one; and what a run raises.
    """
    if workers is None:
        workers = usual_workers()
    if workers < 1 or not runs:
        raise GhostkitError(f"train_all of {len(runs)} runs with workers={workers}: expected at least one of both")
    report = done or (lambda run: None)
    if min(workers, len(runs)) == 1:
        ended = []
        for folder, config in runs.items():
            ended.append(train(config, folder))
            report(ended[-1])
        return ended
    # Fresh processes, not forks: the threads of PyTorch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(runs)), mp_context=context, initializer=watch_parent) as pool:
        futures: dict[Future[Run], Path] = {
            pool.submit(train_watched, config, folder): folder for folder, config in runs.items()
        }
        try:
            for future in as_completed(futures):
                report(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [Run(folder) for folder in runs]


def watch_parent() -> None:
    """Let this worker end once its parent has: after the step in hand, or at once where it trains nothing."""
    AT_REST.set()
    threading.Thread(target=_end_after_parent, name="ghostkit parent", daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        ORPHANED.set()
        AT_REST.wait()
        os._exit(1)  # the pool's queues, which another way out would wait for, lead nowhere now


def train_watched(config: RunConfig, folder: Path) -> Run:
    """Do what :func:`ghostkit.train` does, as long as this worker's parent lives."""
    AT_REST.clear()
    try:
        for _ in Trainer(config, folder):
            if ORPHANED.is_set():
                break
    finally:
        AT_REST.set()
    return Run(folder)


def usual_workers() -> int:
    """Return how many runs go on at a time where nobody says: one for each CPU core, or one where there is a GPU."""
    return 1 if torch.cuda.is_available() else cores()


def cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
