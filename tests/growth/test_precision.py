"""Under autocast, candidates are scored on the network as it is trained, and what is reckoned of it is exact."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostkit
from ghostkit.data import load
from ghostkit.growth.edits import AddBranch


def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A seedling after some steps on digits, and a probe batch."""
    torch.manual_seed(0)
    split = load("digits").train
    images, targets = split.images(torch.arange(256)), split.labels[:256]
    model = ghostkit.build("seedling", 10, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        loss(model, images, targets).backward()
        optimizer.step()
    return model, images, targets


def test_candidates_under_autocast_are_those_of_full_precision_with_nearly_their_gains(trained):
    full = ghostkit.candidates(*trained, loss)
    seen: list[torch.dtype] = []

    def watched(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        logits = model(images)
        seen.append(logits.dtype)
        return F.cross_entropy(logits, targets)

    with torch.autocast("cpu", torch.bfloat16):
        half = ghostkit.candidates(*trained, watched)
        assert torch.is_autocast_enabled("cpu")
    assert {*seen} == {torch.bfloat16}
    gains = [frame.set_index(frame["edit"].astype(str))["gain"] for frame in (full, half)]
    assert {*gains[0].index} == {*gains[1].index}
    assert gains[0].corr(gains[1][gains[0].index], method="spearman") > 0.7
    assert half["macs"].sum() == full["macs"].sum()


def test_an_edit_under_autocast_is_applied_and_checked_in_full_precision(trained):
    model, images, _ = copy.deepcopy(trained)
    with torch.autocast("cpu", torch.bfloat16):
        event = ghostkit.grow(model, AddBranch("blocks.1.0.ghost1", kernel_size=5), probe=images)
    assert event.max_logit_change < 1e-5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
