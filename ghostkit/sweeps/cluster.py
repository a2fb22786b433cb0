"""The same sweep on a Dask cluster: on workers elsewhere, or on processes of this machine.

A worker gets a task as plain data, runs it as a thread here would, and commits the files itself; what comes back is the
record. So the sweep's folder has to lie on a file system that all workers see under the same path, which each of them
checks by the notebook's checksum. A worker that is lost takes its kernels along; Dask gives its run to another one.
"""

from __future__ import annotations

import logging
import queue
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ghostkit.errors import GhostkitError
from ghostkit.sweeps.events import RunBegan
from ghostkit.sweeps.executing import KERNELS, Task, execute
from ghostkit.sweeps.local import GRACE
from ghostkit.sweeps.record import Record

__all__ = ["connected", "run_on_cluster"]

ANSWER = 10.0  # seconds that a scheduler has to answer
PATIENCE = 30.0  # seconds without a single worker after which a sweep gives up


@contextmanager
def connected(scheduler: str | None, processes: int | None) -> Iterator[Any]:
    """Give a client of a Dask scheduler, or of a cluster of processes that lasts as long as the client.

    Args:
        scheduler: address, such as tcp://host:8786.
        processes: how many to start here in its place.

    Raises:
        GhostkitError: if Dask is not installed, nobody answers at the address, or there is no worker.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise GhostkitError("a cluster needs Dask: pip install 'ghostkit[cluster]'") from None
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                memory_limit=0,  # what takes memory are the kernels, which Dask does not see
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(_ignore_ctrl_c)
            yield client
        return
    try:
        client = Client(scheduler, timeout=ANSWER)
    except (OSError, TimeoutError, ValueError) as error:
        raise GhostkitError(
            f"no Dask scheduler answers at {scheduler!r} ({error}); start one with `dask scheduler`, and workers with "
            "`dask worker ADDRESS` in the Python environment of ghostkit"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise GhostkitError(
                f"the scheduler at {scheduler!r} has no workers; start some with `dask worker {scheduler}`"
            ) from None
        yield client


def workers_of(client: Any) -> dict[str, int]:
    """Return host -> runs that its workers take at a time."""
    counts: Counter[str] = Counter()
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        counts[worker["host"]] += worker["nthreads"]
    return dict(counts)


def run_on_cluster(tasks: Sequence[Task], client: Any, folder: Path) -> Generator[RunBegan | tuple[str, Record]]:
    """Yield when a run begins, and its name and record when it has ended; see :func:`.local.run_on_threads`.

    Args:
        tasks: what is to be run, in order.
        client: of the cluster, as :func:`connected` gives it.
        folder: of the sweep; its runs are below it.

    Raises:
        GhostkitError: if the scheduler, or the last worker, is lost for good.
    """
    told: queue.SimpleQueue[RunBegan | tuple[str, Record]] = queue.SimpleQueue()
    topic = f"ghostkit {folder}"
    most = max(workers_of(client).values(), default=1)
    client.run(_allow, str(folder))
    client.subscribe_topic(topic, lambda event: told.put(RunBegan(event[1]["run"])))
    futures = {}
    ended: set[str] = set()
    seen = time.monotonic()
    try:
        for order, task in enumerate(tasks):
            # Dask knows a task by its key; with its own, every sitting is a new one.
            future = client.submit(
                _on_worker, asdict(task), topic, most, key=f"{task.run}-{client.id}", priority=-order, pure=False
            )
            futures[task.run] = future
            future.add_done_callback(lambda future, task=task: told.put((task.run, _record(task, future))))
        while len(ended) < len(tasks):
            try:
                event = told.get(timeout=1)
            except queue.Empty:
                if client.status == "running" and workers_of(client):
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE:
                    raise GhostkitError(
                        f"the cluster has had no scheduler, or no worker, for {PATIENCE:g} s; what was finished is "
                        "kept, the same command goes on from there"
                    ) from None
                continue
            if isinstance(event, tuple):
                ended.add(event[0])
            elif event.run in ended:
                continue  # news of a beginning takes another way than news of the end
            yield event
    finally:
        client.unsubscribe_topic(topic)
        if len(ended) < len(tasks):
            with suppress(Exception):  # the cluster may be what has failed
                client.cancel(list(futures.values()))
                until = time.monotonic() + GRACE
                hard = False
                while any(client.run(_stop, str(folder), hard).values()) and time.monotonic() < until + GRACE:
                    time.sleep(0.2)
                    hard = time.monotonic() > until


def _on_worker(said: dict[str, Any], topic: str, most: int) -> dict[str, Any]:
    """Execute a task where this is called, and return its record as plain data."""
    from distributed import get_worker

    from ghostkit.parallel import cores

    task = Task(**said)
    worker = get_worker()
    record = execute(replace(task, threads=max(1, cores() // most)), lambda run: worker.log_event(topic, {"run": run}))
    return asdict(record)


def _record(task: Task, future: Any) -> Record:
    """Return what came back for a task, or what kept it from coming back."""
    try:
        return Record(**future.result())
    except BaseException as error:
        status = "interrupted" if future.cancelled() else "failed"
        message = f"{error}; what its worker wrote to its log tells more, and the same command tries again"
        return Record(task.key, status, error={"name": type(error).__name__, "message": message, "traceback": ""})


def _ignore_ctrl_c() -> None:
    """Leave a Ctrl-C to the sweep: a terminal sends it to all processes, and a dead worker stops nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _allow(folder: str) -> None:
    """Let the worker that this is called on run what is below ``folder``."""
    KERNELS.allow(folder)


def _stop(folder: str, hard: bool) -> bool:
    """Stop what runs below ``folder`` on the worker that this is called on; return whether anything does."""
    KERNELS.stop(folder, hard)
    return KERNELS.busy(folder)
