"""Looks at variants of an arm before the study asks them: a list of lines, two seeds each, means of accuracy and loss.

    python -m benchmarks.study.explore lines.yaml [--rows runs/explored.jsonl] [--workers 2]

In the repository's folder. Each line of the file has a ``label`` and what :func:`run_arm` takes (``arm``, ``track``,
``share``, ``learning_rate``, ``changes``), and ``seeds``, a list. Runs whose row is there are not made again: the
same command goes on where it was cut off, and makes what was added.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.study.study import run_arm

OF_RUN = ("label", "host", "arm", "track", "share", "learning_rate", "seed", "changes")
DEFAULTS: dict[str, Any] = {"host": "seedling", "arm": "ghostkit", "track": "10k", "share": 1.0, "learning_rate": 0.1}


def runs_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one run for every line and seed."""
    return [
        {**DEFAULTS, "changes": {}, **{name: value for name, value in line.items() if name != "seeds"}, "seed": seed}
        for line in lines
        for seed in line.get("seeds", [0, 1])
    ]


def row_of(run: dict[str, Any]) -> dict[str, Any]:
    """Train one run in a folder of its own and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        row = run_arm(run["arm"], Path(folder) / "run", **{k: v for k, v in run.items() if k not in ("arm", "label")})
    return {**row, "label": run["label"], "changes": run["changes"]}


def key_of(run: dict[str, Any]) -> str:
    """Return what tells a run, or its row, from all others."""
    return json.dumps([run.get(name) for name in OF_RUN])


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the means over the seeds, the lowest loss first."""
    means = pd.DataFrame(rows).groupby(["track", "share", "label", "learning_rate"], sort=False)
    columns = ["validation", "loss", "macs", "params", "steps"]
    table = means[columns].mean().join(means.size().rename("seeds")).reset_index()
    return table.sort_values(["track", "share", "loss"], ignore_index=True)


def main() -> None:
    """Make the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--rows", type=Path, default=Path("runs/explored.jsonl"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    made = set(map(key_of, rows))
    missing = [run for run in runs_of(yaml.safe_load(arguments.lines.read_text())) if key_of(run) not in made]
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        for number, future in enumerate(as_completed([pool.submit(row_of, run) for run in missing]), 1):
            row = future.result()
            rows.append(row)
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"{number} of {len(missing)}: {row['label']}, seed {row['seed']}: {row['validation']:.4f}", flush=True
            )
    print(table_of(rows).to_string(index=False, float_format=lambda value: f"{value:.6g}"))


if __name__ == "__main__":
    main()
