"""A growth event: what is measured about it, and the network that its history rebuilds."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostkit import costs
from ghostkit.checkpoint import load, save
from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, History, grow, history_of, identity_like, rebuild, undo
from ghostkit.growth.candidates import candidates
from ghostkit.nn import GhostModule, build
from ghostkit.nn.ghostnet import Row

EDITS = [AddBranch("blocks.1.0.ghost1", 5), AddBlock("blocks.1", "0"), AddIntrinsic("blocks.1.g1.ghost1", 2)]


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize("name", ["seedling", "plain seedling", "ghostnetv2_100"])
def test_a_history_rebuilds_the_architecture_without_the_weights(host: Callable, any_edit: Callable, name: str) -> None:
    model, _, _ = host(name)
    draw = random.Random(1)
    for _ in range(12):
        grow(model, [any_edit(model, draw, draw.random() < 0.3)])
    history = History.parse(history_of(model).lines())
    rebuilt = rebuild(history)
    assert shapes(rebuilt) == shapes(model)
    assert history_of(rebuilt) == history
    attributes = [[repr(layer) for layer in root.modules()] for root in (model, rebuilt)]
    assert attributes[0] == attributes[1]


def test_a_history_rebuilds_a_network_of_stages_that_the_user_chose() -> None:
    model = build("seedling", 4, 1, stages=((Row(3, 8, 8, 0, 2),), (Row(5, 8, 8, 0.25, 1),)))
    grow(model, AddBlock("blocks.1", "0"))
    assert shapes(rebuild(History.parse(history_of(model).lines()))) == shapes(model)


@pytest.mark.parametrize("averaged", [False, True], ids=["a copy", "AveragedModel"])
def test_an_average_has_the_history_of_its_network_and_is_saved_by_it(tmp_path: Path, averaged: bool) -> None:
    model = build("seedling", 4, 1)
    average = torch.optim.swa_utils.AveragedModel(model) if averaged else copy.deepcopy(model)
    inner = average.module if averaged else average
    grow(model, EDITS, ema=average)
    with pytest.raises(GhostkitError, match="no site"):
        grow(model, [AddBranch("blocks.1.0.ghost1"), AddBranch("nowhere")], ema=average)
    grow(model, AddBranch("blocks.1.0.ghost1"), ema=average)
    undo(model, ema=average)
    assert history_of(inner) == history_of(model)
    assert len(history_of(inner).events) == 3
    loaded = load(save(inner, tmp_path))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in inner.state_dict().items())
    undo(inner)
    assert len(history_of(inner).events) == 4
    assert len(history_of(model).events) == 3


def test_a_network_of_ones_own_has_no_recipe_to_be_rebuilt_from() -> None:
    model = nn.Sequential(GhostModule(3, 4), nn.Conv2d(4, 2, 1))
    grow(model, AddBranch("0"))
    with pytest.raises(GhostkitError, match=r"no recipe.*load\(folder, host=\.\.\.\)"):
        rebuild(history_of(model))


KINDS = ["branch 5x5 random", "intrinsic random", "stage random", "block clone", "layer 3x3 random", "link"]


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS], ids=", ".join)
def test_an_event_holds_what_the_live_network_costs_before_and_after(
    host: Callable, edits_of: Callable, kinds: list[str]
) -> None:
    model, images, _ = host("grown")
    edits = [edit for kind in kinds for edit in edits_of(model, kind)]
    before = costs.params(model), costs.macs(model, images)
    event = grow(model, edits, probe=images)
    assert (event.params_before, event.macs_before) == before
    assert (event.params_after, event.macs_after) == (costs.params(model), costs.macs(model, images))
    assert event.params_after > event.params_before
    assert event.macs_after > event.macs_before
    assert event.edits == tuple(edits)
    assert len(event.inverse) == len(edits)
    assert 0 <= event.max_logit_change < 1e-10
    assert event.clock["seconds"] > 0
    assert history_of(model).events[-1] == event


def test_without_a_probe_only_parameters_are_counted(host: Callable) -> None:
    model, _, _ = host("small")
    event = grow(model, EDITS[0])
    assert (event.macs_before, event.macs_after, event.max_logit_change) == (None, None, None)
    assert event.params_after == costs.params(model) > event.params_before


def test_the_same_edits_on_the_same_network_give_the_same_weights_and_a_later_event_others(host: Callable) -> None:
    twins = [host("small")[0] for _ in range(2)]
    for twin in twins:
        grow(twin, EDITS)
    for (name, one), other in zip(twins[0].state_dict().items(), twins[1].state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    for _ in range(2):  # one event each
        grow(twins[0], AddIntrinsic("blocks.0.0.ghost1", 1))
    filters = twins[0].blocks[0][0].ghost1.primary_conv[0].weight
    assert not torch.equal(filters[-1], filters[-2])


def test_a_generator_that_is_handed_over_decides_the_new_weights(host: Callable) -> None:
    rows = []
    for seed in (1, 1, 2):
        model, _, _ = host("small")
        grow(model, EDITS[0], generator=torch.Generator().manual_seed(seed))
        rows.append(model.blocks[1][0].ghost1.further_operations["5"][0].weight.detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_growth_lets_a_network_fit_what_its_seedling_cannot(host: Callable, train_step: Callable) -> None:
    images = torch.randn(64, 1, 6, 6)
    targets = (images[:, 0, :3].mean((1, 2)) * images[:, 0, 3:].mean((1, 2)) > 0).long()  # exclusive or, of two halves
    losses = {}
    for grown in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(GhostModule(1, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(150):
            if grown and step in (20, 40):
                grow(model, [AddIntrinsic("0", 4), AddBranch("0", 5)], optimizer, probe=images)
            loss = train_step(model, optimizer, images, targets)
        losses[grown] = loss
    assert losses[True] < 0.7 * losses[False]
    assert F.cross_entropy(model(images), targets) < losses[False]


def test_a_block_found_behind_channels_that_the_same_event_widens_draws_weights_that_fit() -> None:
    rows = [[1, 4, 1, 1], [2, 8, 2, 2]]  # the first block alone writes what the second reads: a width site
    model = build("ghost_mobilenet_v2", 4, 1, stages=rows, stem_stride=1, dropout=0.0)
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    frame = candidates(model, images, labels, lambda model, x, y: F.cross_entropy(model(x), y))
    block = next(edit for edit in frame.edit if isinstance(edit, AddBlock) and edit.after == "1")
    wider = next(edit for edit in frame.edit if isinstance(edit, AddIntrinsic) and edit.site == "features.1.conv.1")
    assert grow(model, [wider, block], probe=images).max_logit_change < 1e-5
    fresh, _ = identity_like(model.get_submodule("features.1"))
    assert model.get_submodule("features.g1").state_dict().keys() == fresh.state_dict().keys()
