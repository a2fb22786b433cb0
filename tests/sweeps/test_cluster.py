"""The same sweep on Dask gives the same table, and loses nothing with a worker or a client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from misbehaving import alive, pid_in, record_in, run_folder, wait_for

from ghostkit.errors import GhostkitError
from ghostkit.sweeps import cluster, run_sweep
from ghostkit.sweeps.executing import Task, execute
from ghostkit.sweeps.table import CLOCK

pytest.importorskip("distributed", reason="a cluster needs the extra `cluster`")


def told(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what the clock says."""
    return table.drop(columns=list(CLOCK))


def test_processes_of_a_local_cluster_give_the_table_of_threads(here, write_sweep):
    path = write_sweep(list=[{"a": 2}, {"mode": "fail"}, {"a": 3, "rate": 1}], workers=2)
    events: list[str] = []
    there = run_sweep(path, "there", processes=2, on_event=lambda event: events.append(type(event).__name__))
    pd.testing.assert_frame_equal(told(there.table), told(run_sweep(path, "here").table))
    assert events[0] == "SweepBegan"
    assert events.count("RunEnded") == 3
    assert "raise ValueError" in record_in(run_folder(here / "there", 2))["error"]["traceback"]


@pytest.fixture
def workers(here: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler and two workers of it, each a process of its own."""
    note = here.parent / f"{here.name}-scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", note]
    begun = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *map(str, words)], **quiet)]
    address = wait_for(lambda: note.exists() and note.read_text() and json.loads(note.read_text())["address"])
    words = [address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", here.parent]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", *map(str, words)]
    begun += [subprocess.Popen(worker, **quiet) for _ in range(2)]
    yield address, begun[1:]
    for process in begun:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name != "posix", reason="signals and process ids as on POSIX")
def test_workers_started_apart_survive_ctrl_c_and_stand_in_for_one_that_is_killed(
    here: Path,
    write_sweep: Callable[..., Path],
    start: Callable[..., subprocess.Popen[str]],
    workers: tuple[str, list[subprocess.Popen[bytes]]],
):
    address, processes = workers
    go = here / "go"
    path = write_sweep(list=[{"a": 2}, {"mode": "wait", "name": str(go)}, {"a": 4}])
    folder = here / "runs/sweep"

    first = start(path, "--scheduler", address)
    waiting = run_folder(folder, 2)
    wait_for((run_folder(folder, 1) / "record.json").exists)
    kernel = pid_in(waiting)
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130
    wait_for(lambda: not alive(kernel))
    assert record_in(waiting)["status"] == "interrupted"

    (waiting / "pid").unlink()
    second = start(path, "--scheduler", address)
    kernel = pid_in(waiting)
    worker = psutil.Process(kernel).ppid()
    assert worker in [process.pid for process in processes]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not alive(kernel))
    go.touch()
    shown, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "3 of 3 runs are done" in shown
    there = pd.read_parquet(here / "runs/sweep/results.parquet")
    pd.testing.assert_frame_equal(told(there), told(run_sweep(path, "here").table))


def test_nobody_at_the_address_is_said_with_what_to_do(write_sweep, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    with pytest.raises(GhostkitError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1'.*`dask scheduler`"):
        run_sweep(write_sweep(), scheduler="tcp://127.0.0.1:1")


def test_a_worker_that_does_not_see_the_folder_says_so(here):
    task = Task("001", "key", str(here / "a.ipynb"), "sum", str(here / "runs/001"), {})
    record = execute(task)
    assert record.status == "failed"
    assert "every worker has to see the sweep's folder under the same path" in record.told
    assert not (here / "runs").exists()
