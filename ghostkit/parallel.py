"""Several runs at once, each in a process of its own: a small network keeps one core busy, and no more.

What comes out is what would come out one after the other, bit for bit.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.runs import Run
from ghostkit.trainer import train

__all__ = ["train_all"]


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
        workers = 1 if torch.cuda.is_available() else cores()
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
    with ProcessPoolExecutor(min(workers, len(runs)), mp_context=context) as pool:
        futures: dict[Future[Run], Path] = {
            pool.submit(train, config, folder): folder for folder, config in runs.items()
        }
        try:
            for future in as_completed(futures):
                report(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [Run(folder) for folder in runs]


def cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
