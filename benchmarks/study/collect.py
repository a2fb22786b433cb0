"""Adds what sweeps of the growth study came to, to the table that is committed.

    python -m benchmarks.study.collect runs/screening [runs/screening-plain ...] [--to docs/study.parquet]

In the repository's folder. A run that is in the table already is replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from ghostkit.studies import KEYS, OWN, read_study

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps, or tables")
    parser.add_argument("--to", type=Path, default=OWN)
    arguments = parser.parse_args()
    known = [read_study(arguments.to)] if arguments.to.exists() else []
    table = pd.concat([*known, *map(read_study, arguments.sweeps)], ignore_index=True)
    table = table.drop_duplicates(list(KEYS), keep="last").sort_values(list(KEYS), ignore_index=True)
    table.to_parquet(arguments.to, index=False)
    print(f"{arguments.to}: {len(table)} runs of {table['arm'].nunique()} arms")
