"""Every edit at every site keeps the function, wakes up, and lets the old entries learn as they would have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, Edit, grow
from ghostkit.growth.edits import edit_from_json, edit_to_json

HOSTS = ["seedling", "plain seedling", "cut-off ghosts", "odd", "ghostnet_050", "ghostnetv2_100"]
KINDS = [
    "branch 3x3 random",
    "branch 5x5 random",
    "branch 7x7 random",
    "branch 3x3 found",
    "branch 5x5 found",
    "branch 7x7 found",
    "branch 3x3 split",
    "intrinsic random",
    "intrinsic found",
    "intrinsic split",
    "block first",
    "block last",
    "block narrow",
]
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def change(model: nn.Module, edits: Sequence[Edit], images: Tensor, training: bool) -> float:
    """Relative change of the outputs of copies of ``model`` by ``edits``."""
    before, after = copy.deepcopy(model).train(training), copy.deepcopy(model).train(training)
    grow(after, edits)
    with torch.no_grad():
        old, new = before(images), after(images)
    return float((new - old).abs().max() / old.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTS)
def test_every_edit_at_every_site_keeps_the_function_in_eval_and_in_train_mode(
    host: Callable, edits_of: Callable, name: str, kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    model, images, _ = host(name, dtype)
    edits = edits_of(model, kind)
    if kind.endswith("split") and name == "plain seedling" and kind.startswith("branch"):
        assert not edits  # there is no branch to split
        return
    assert edits
    for training in (False, True):
        if change(model, edits, images, training) > tolerance:  # then say at which site
            apart = {str(edit): change(model, [edit], images, training) for edit in edits}
            pytest.fail(f"training={training}: outputs change by {apart}, together too much for {tolerance}")
