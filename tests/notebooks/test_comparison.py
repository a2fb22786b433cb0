"""The comparison of runs that are there already, by one parameter."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from made_runs import make_run

from ghostkit.notebooks import run_notebook

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "07_compare_runs.ipynb"


def test_runs_that_are_there_are_compared_and_none_is_made(tmp_path):
    for where, start in (("random", 0.90), ("gain-per-mac", 0.93)):
        for seed in range(3):
            make_run(
                tmp_path / "sweep" / f"{where}-{seed}",
                start + seed**2 / (100 if where == "random" else 110),
                where=where,
                seed=seed,
            )
    make_run(tmp_path / "late", progress=0.4, where="sprout")
    make_run(tmp_path / "boxes", 0.4, metric="map50", task="detection", data="scenes")
    parameters = {"runs": [str(tmp_path)], "reference": "random"}
    found = run_notebook(NOTEBOOK, tmp_path / "out", parameters, progress=False, timeout=300)
    assert [row["network"] for row in found.result["table"]] == ["gain-per-mac", "random"]
    assert found.result["summary"] == "best of 3 groups on classification of digits: gain-per-mac, 3 seed(s)"
    (told,) = (row for row in found.result["differences"] if row["group"] == "gain-per-mac")
    assert (told["reference"], told["method"], told["n"]) == ("random", "paired t", 3)
    assert len(pd.read_csv(tmp_path / "out" / "comparison" / "comparison.csv")) == 8
    assert not (tmp_path / "out" / "made").exists()
