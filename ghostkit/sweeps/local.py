"""A sweep on this machine: threads, each of which waits for a kernel of its own.

The work is the kernels', which are processes; a thread only passes messages. Kernels are reached over files, since
those that start together draw the same ports, and share the cores: each is told how many threads it may use.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from ghostkit.sweeps.events import RunBegan
from ghostkit.sweeps.executing import KERNELS, Task, execute
from ghostkit.sweeps.record import Record

__all__ = ["run_on_threads"]

GRACE = 5.0  # seconds that an interrupted kernel has to end by itself


def run_on_threads(tasks: Sequence[Task], workers: int, folder: Path) -> Generator[RunBegan | tuple[str, Record]]:
    """Yield when a run begins, and its name and record when it has ended.

    Whoever stops asking, by Ctrl-C or otherwise, ends the kernels; every run that was under way is recorded as such.

    Args:
        tasks: what is to be run, in order.
        workers: runs at a time.
        folder: of the sweep; its runs are below it.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    told: queue.SimpleQueue[RunBegan | tuple[str, Record]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def work() -> None:
        while not KERNELS.stopped(folder):
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            told.put((task.run, execute(task, lambda run: told.put(RunBegan(run)))))

    KERNELS.allow(folder)
    threads = [threading.Thread(target=work, name=f"sweep {n}", daemon=True) for n in range(min(workers, len(tasks)))]
    ended = 0
    try:
        for thread in threads:
            thread.start()
        while ended < len(tasks):
            event = told.get()
            ended += isinstance(event, tuple)
            yield event
    finally:
        if ended < len(tasks):
            KERNELS.stop(folder)
            if not _joined(threads, GRACE):
                KERNELS.stop(folder, hard=True)
                _joined(threads, GRACE)


def _joined(threads: Sequence[threading.Thread], seconds: float) -> bool:
    """Wait until all threads have ended, and return whether they have."""
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
