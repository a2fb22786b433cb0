"""A run holds nothing of the events behind it but their lines in the history; 500 of them are `benchmarks/soak.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_after_many_events_no_tensor_is_held_but_those_of_the_network_and_its_training(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    start, *later = soak.soak(events=24, seed=0, every=12, threads=1, folder=tmp_path / "run")
    assert [line["events"] for line in later] == [12, 24]
    assert {line["tensors"] - line["in the network"] for line in later} == {start["tensors"] - start["in the network"]}
