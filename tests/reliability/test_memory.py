"""A run holds nothing of the events behind it but their lines in the history; 500 of them are `benchmarks/soak.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_after_many_events_no_tensor_is_held_but_those_of_the_network_and_its_training(tmp_path: Path) -> None:
    table = tmp_path / "soak.csv"
    # In a process of its own: what other tests hold is none of its business.
    subprocess.run([sys.executable, SOAK, "--events", "24", "--every", "12", "--csv", table], check=True)
    lines = pd.read_csv(table)
    assert list(lines["events"]) == [0, 12, 24]
    assert (lines["tensors"] - lines["in the network"]).nunique() == 1
    assert lines["in the network"].nunique() > 1  # it has grown
