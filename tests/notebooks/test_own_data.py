"""A new user's own boxes or masks go into a notebook by one parameter."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_data import coco_of, masks_of

from ghostkit.notebooks import run_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize(
    ("notebook", "make", "metric"),
    [("03_detection.ipynb", coco_of, "map50"), ("04_segmentation.ipynb", masks_of, "miou")],
    ids=["boxes", "masks"],
)
def test_data_of_ones_own_is_one_parameter(notebook, make, metric, tmp_path):
    parameters = {"data": make(tmp_path / "own"), "smoke": True}
    found = run_notebook(NOTEBOOKS / notebook, tmp_path / "run", parameters, progress=False, timeout=300)
    grown = found.result["table"][-1]
    assert grown["network"] == "grown"
    assert 0 <= grown[metric][0] <= 1
