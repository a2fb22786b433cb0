"""What a sweep costs and brings: failures of many tiny notebooks, speed-up by workers, overhead over a script.

    python benchmarks/sweep.py [--notebooks 48] [--repeats 10] [--workers 2] [--seconds 10] [--csv FILE]

``failures``: tiny notebooks swept again and again; each run that is not done counts. ``speed-up``: notebooks of one
thread's pure work, swept by one worker and by several; 1 of ideal is as many times as fast as there are workers.
``overhead``: seconds that a notebook takes in a sweep by one worker, less those that the same code takes as a script, a
Python of its own each; kernel, executed notebook and report included, the start of the command not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import nbformat
import pandas as pd
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from ghostkit.sweeps import RunBegan, RunEnded, SweepEvent, run_sweep

WORK = "number = seed\nfor step in range(steps):\n    number = (number * 1103515245 + step) % 2147483648"
PUBLISH = "from ghostkit.notebooks import publish\npublish({'number': number})"


def swept(folder: Path, runs: int, steps: int, workers: int) -> tuple[float, int]:
    """Return seconds from the first run's beginning to the last one's end, and how many runs were not done."""
    cells = [new_code_cell("steps = 1\nseed = 0", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(WORK), new_code_cell(PUBLISH)]
    nbformat.write(new_notebook(cells=cells), folder / "work.ipynb")
    said = {"notebook": "work.ipynb", "parameters": {"steps": steps}, "seeds": runs, "workers": workers}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(said))
    times: list[float] = []

    def watch(event: SweepEvent) -> None:
        if isinstance(event, RunBegan | RunEnded):
            times.append(time.perf_counter())

    table = run_sweep(folder / "sweep.yaml", folder / "swept", on_event=watch).table
    return times[-1] - times[0], int((table["status"] != "done").sum())


def scripted(steps: int, seed: int = 0) -> float:
    """Return seconds that the same code takes as a script."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", f"steps = {steps}\nseed = {seed}\n{WORK}\nprint(number)"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def in_own_folder(runs: int, steps: int, workers: int) -> tuple[float, int]:
    """Sweep in a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        return swept(Path(folder), runs, steps, workers)


def rows(notebooks: int, repeats: int, workers: int, seconds: float) -> Iterator[dict[str, object]]:
    """Yield one line for each question."""
    in_own_folder(1, 1, 1)  # imports
    tiny = [in_own_folder(notebooks, 1, workers) for _ in range(repeats)]
    yield {
        "what": f"failures, {repeats} x {notebooks} tiny notebooks, {workers} workers",
        "value": sum(failed for _, failed in tiny),
        "remark": f"{mean(taken for taken, _ in tiny) / notebooks:.2f} s a notebook",
    }
    steps = int(1_000_000 * seconds / scripted(1_000_000))
    steps = int(steps * seconds / scripted(steps))
    scripts = [scripted(steps, seed) for seed in range(2 * workers)]
    one, _ = in_own_folder(2 * workers, steps, 1)
    several, _ = in_own_folder(2 * workers, steps, workers)
    yield {
        "what": f"speed-up, {2 * workers} notebooks of {mean(scripts):.1f} s, {workers} workers over 1",
        "value": round(one / several, 3),
        "remark": f"{one / several / workers:.3f} of ideal; {one:.1f} s and {several:.1f} s",
    }
    yield {
        "what": f"overhead, notebooks of {mean(scripts):.1f} s, 1 worker",
        "value": round((one - sum(scripts)) / len(scripts), 2),
        "remark": "seconds a notebook over the script",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", type=int, default=48, help="tiny ones in a sweep")
    parser.add_argument("--repeats", type=int, default=10, help="sweeps of them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="that a notebook works, for speed-up and overhead")
    parser.add_argument("--csv", type=Path, help="file to write the table into")
    arguments = parser.parse_args()
    lines = list(rows(arguments.notebooks, arguments.repeats, arguments.workers, arguments.seconds))
    frame = pd.DataFrame(lines)
    print(frame.to_string(index=False))
    print(f"load while it ran: {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    if arguments.csv is not None:
        frame.to_csv(arguments.csv, index=False)
