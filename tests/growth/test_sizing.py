"""A site is offered a share of the channels that it has, and never more than the budget has room for."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from ghostkit.growth.candidates import candidates
from ghostkit.growth.edits import KINDS, take_down
from ghostkit.growth.ledger import Ledger
from ghostkit.growth.sites import Site, sites, units
from ghostkit.growth.sizing import Size, sizes_of, sizes_within
from ghostkit.nn import build
from tests.growth.test_candidates import Flat, entropy

IMAGE = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def seedling() -> nn.Module:
    torch.manual_seed(0)
    return build("seedling", in_channels=1, num_classes=10)


def priced(model: nn.Module, known: list[Site], sizes: dict[str, Size], ledger: Ledger) -> dict[str, int]:
    generator = torch.Generator().manual_seed(0)
    return {name: ledger.added(take_down(size.edit, model, known, generator)).macs for name, size in sizes.items()}


def test_hidden_maps_double_and_streams_grow_by_a_quarter(seedling: nn.Module) -> None:
    known = sites(seedling)
    sizes = sizes_of(seedling, known, known, KINDS)
    assert sizes["blocks.0.0.ghost1"].edit.channels == seedling.get_submodule("blocks.0.0.ghost1").intrinsic_channels
    assert (sizes["blocks.0.0.ghost2"].edit.channels, sizes["blocks.0.0.ghost2"].step) == (2, 2)
    assert set(sizes) == {site.id for site in known if site.axis != "depth"}
    assert set(sizes_of(seedling, known, known, ("intrinsic",))) == {site.id for site in known if site.axis == "width"}
    assert set(sizes_of(seedling, known, known[:1], KINDS)) <= {known[0].id}


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_a_unit_is_shrunk_until_it_fits_as_a_whole_and_what_fits_stays(seedling: nn.Module, share: float) -> None:
    wide = build("seedling", in_channels=1, stages=[[[3, 16, 32, 0, 2]], [[3, 24, 48, 0, 2], [3, 24, 48, 0, 1]]])
    known, ledger = sites(wide), Ledger(wide, IMAGE, Flat())
    usual, unit_of = sizes_of(wide, known, known, KINDS), units(known)
    full = priced(wide, known, usual, ledger)
    of_unit = [name for name in usual if unit_of[name] == unit_of["blocks.1.0.ghost1"]]
    assert len(of_unit) > 2
    room = share * sum(full[name] for name in of_unit)
    shrunk = sizes_within({"macs": room}, usual, wide, known, ledger)
    after = priced(wide, known, shrunk, ledger)
    assert sum(after[name] for name in of_unit) <= room
    assert sum(after[name] for name in of_unit) > 0.5 * room
    for name, size in shrunk.items():
        assert size.edit.channels % size.step == 0
        if sum(full[other] for other in usual if unit_of[other] == unit_of[name]) <= room:
            assert size == usual[name]
    alone = sizes_within({"macs": room}, usual, wide, known, ledger, together=False)
    assert all(alone[name].edit.channels >= shrunk[name].edit.channels for name in usual)


def test_without_a_limit_or_with_none_that_binds_nothing_changes(seedling: nn.Module) -> None:
    known, ledger = sites(seedling), Ledger(seedling, IMAGE, Flat())
    usual = sizes_of(seedling, known, known, KINDS)
    for room in ({}, {"macs": 1e12, "params": 1e12, "milliseconds": 1e12}):
        assert sizes_within(room, usual, seedling, known, ledger) == usual


def test_one_step_is_offered_even_where_it_is_too_much(seedling: nn.Module) -> None:
    known, ledger = sites(seedling), Ledger(seedling, IMAGE, Flat())
    for room in (1.0, -5.0):
        shrunk = sizes_within({"params": room}, sizes_of(seedling, known, known, KINDS), seedling, known, ledger)
        assert all(size.edit.channels == size.step for size in shrunk.values())


@pytest.mark.parametrize("how", ["svd", "random", "split"])
def test_candidates_offer_what_fits_with_weights_for_as_many(how: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    images, targets = torch.randn(6, 3, 32, 32), torch.arange(6) % 4
    asked = {"kinds": ("stage",), "at": "layer1.0.conv1", "how": how, "latency": Flat()}
    [usual] = candidates(model, images, targets, entropy, **asked).itertuples()
    [fitting] = candidates(model, images, targets, entropy, room={"macs": usual.macs / 3}, **asked).itertuples()
    assert (usual.edit.channels, fitting.edit.channels) == (64, 21)
    assert fitting.macs <= usual.macs / 3
    assert all(len(rows) == 21 for rows in (fitting.edit.tensors or {}).values())
