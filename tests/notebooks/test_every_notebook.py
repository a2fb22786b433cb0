"""Every notebook, executed headless as a user would, in its smoke form."""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest

from ghostkit import RunConfig
from ghostkit.notebooks import run_notebook
from ghostkit.parameters import declared_parameters

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)

# Parameters that belong to a notebook and not to the runs in it; each has the first two.
EVERYWHERE = {"folder", "smoke"}
OF_NOTEBOOKS = EVERYWHERE | {"seeds", "run", "other", "other_where", "runs", "reference"}
OF_NOTEBOOKS |= {"study", "host", "track", "compute_share", "split", "first_seed"}


@each_notebook
def test_it_runs_from_top_to_bottom_and_leaves_a_result_and_a_report(notebook, tmp_path):
    result = run_notebook(notebook, tmp_path / "run", {"smoke": True}, progress=False, timeout=300)
    assert result.result["table"]
    assert result.report.stat().st_size > 1_000_000, "plotly.js is in it, so it opens offline"


@each_notebook
def test_papermill_sees_the_parameters_that_we_see(notebook):
    inspected = papermill.inspect_notebook(str(notebook))
    assert {name: eval(entry["default"]) for name, entry in inspected.items()} == declared_parameters(notebook)


@each_notebook
def test_a_parameter_means_what_it_means_in_a_configuration(notebook):
    declared = declared_parameters(notebook)
    assert declared.keys() >= EVERYWHERE
    RunConfig.parse({name: value for name, value in declared.items() if name not in OF_NOTEBOOKS})
