"""What new numbers learn at: the old ones do not notice, the new ones take a share of the same step."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    RemoveBranch,
    RemoveIntrinsic,
    WidenStage,
)
from ghostkit.growth.grow import apply_edits
from ghostkit.growth.rates import LEAST_RATE, SEEDLING, NewcomerRates
from ghostkit.nn import build

ROWS = (((3, 4, 8, 0, 2), (3, 6, 8, 0.5, 1)), ((5, 8, 12, 0, 1),))
SITE, LATER = "blocks.0.0.ghost1", "blocks.0.1.ghost1"
EDITS: dict[str, Edit] = {
    "branch of a kernel there": AddBranch(SITE, 3),
    "branch of another kernel": AddBranch(LATER, 5),
    "intrinsic": AddIntrinsic(LATER, 2),
    "block": AddBlock("blocks.0", "0"),
    "stage": WidenStage("blocks.0.0.ghost2", 4),
    "layer": DeepenBranches(SITE),
    "link": AddLink(SITE, LATER),
}
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}
IMAGES, TARGETS = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 5


def seedling() -> nn.Module:
    torch.manual_seed(0)
    return build("seedling", 5, 1, stages=ROWS)


def backward(model: nn.Module) -> None:
    model.zero_grad()
    F.cross_entropy(model(IMAGES), TARGETS).backward()


def grow(model: nn.Module, rates: NewcomerRates, edits: list[Edit], step: int, optimizer=None) -> tuple[Edit, ...]:
    with rates.following(step) as follow:
        event = apply_edits(model, edits, optimizer, IMAGES, None, torch.Generator().manual_seed(0), follow=follow)
    return event.inverse


def grown(name: str, edits: list[Edit], **settings: object) -> tuple[nn.Module, torch.optim.Optimizer, NewcomerRates]:
    """A network that was trained for two steps and then grew."""
    model = seedling()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(2):
        backward(model)
        optimizer.step()
    rates = NewcomerRates(model, **settings)
    grow(model, rates, edits, 2, optimizer)
    return model, optimizer, rates


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, rates: NewcomerRates, count: int
) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """Take steps both ways from the same place, and yield each parameter: name, born, before, plain, rated."""
    for step in range(2, 2 + count):
        backward(model)
        before = copy.deepcopy(dict(model.named_parameters()))
        weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        with rates.around_step(step):
            optimizer.step()
        rated = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        optimizer.step()
        for name, parameter in model.named_parameters():
            yield step, rates.born[name], before[name].detach(), parameter.detach().clone(), rated[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("settings", [{"warm_up": 3}, {"variance_transfer": True}], ids=["warm-up", "variance"])
def test_entries_of_the_seedling_take_exactly_the_same_step(name, settings):
    compared = new = 0
    for _, born, _, plain, rated in steps(*grown(name, list(EDITS.values()), **settings), count=2):
        old = born == SEEDLING
        assert torch.equal(plain[old], rated[old])
        compared, new = compared + int(old.sum()), new + int((plain != rated).sum())
    assert compared > 1000
    assert new > 100  # and others do not


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_entries_take_a_growing_share_of_their_step_and_all_of_it_after_the_warm_up(name):
    moved = 0
    for step, born, before, plain, rated in steps(*grown(name, list(EDITS.values()), warm_up=3), count=5):
        share, new = min((step - 1) / 4, 1.0), born == 2
        torch.testing.assert_close(rated[new] - before[new], share * (plain[new] - before[new]), rtol=1e-3, atol=1e-7)
        if share == 1:
            assert torch.equal(plain, rated)
        moved += int((plain[new] != before[new]).sum())
    assert moved > 500


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_variance_transfer_scales_by_the_ratio_of_norms_and_by_a_tenth_at_least(name):
    ratios = []
    for _, born, before, plain, rated in steps(*grown(name, list(EDITS.values()), variance_transfer=True), count=3):
        new = born == 2
        if not bool(new.any()):
            continue
        if bool(new.all()):  # a new layer has no elder to be measured by
            assert torch.equal(plain, rated)
            continue
        ratio = float(before[new].square().mean().sqrt() / before[~new].square().mean().sqrt())
        share = min(max(ratio, LEAST_RATE), 1.0)
        torch.testing.assert_close(rated[new] - before[new], share * (plain[new] - before[new]), rtol=1e-3, atol=1e-7)
        ratios.append(ratio)
    assert min(ratios) == 0  # the consumers' new columns, right after the event
    assert any(LEAST_RATE < ratio < 1 for ratio in ratios)
    assert max(ratios) > 1


def test_both_together_multiply():
    model, optimizer, rates = grown("SGD", [EDITS["intrinsic"]], warm_up=3, variance_transfer=True)
    name = "blocks.0.1.ghost2.primary_conv.0.weight"
    for step, born, before, plain, rated in steps(model, optimizer, rates, count=1):
        if born is rates.born[name]:
            torch.testing.assert_close(
                rated[born == 2] - before[born == 2], LEAST_RATE / 4 * (plain - before)[born == 2], rtol=1e-3, atol=1e-8
            )
            assert step == 2


def test_without_growth_a_step_is_what_it_was():
    first, second = seedling(), seedling()
    rates = NewcomerRates(second, warm_up=5, variance_transfer=True)
    for model in (first, second):
        optimizer = OPTIMIZERS["Adam"](model.parameters())
        for step in range(3):
            backward(model)
            with rates.around_step(step):
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# In step with surgery


def fits(rates: NewcomerRates, model: nn.Module) -> bool:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return {name: born.shape for name, born in rates.born.items()} == shapes


@pytest.mark.parametrize("names", [*([name] for name in EDITS), [*EDITS]], ids=" and ".join)
def test_the_birthdays_stay_with_their_entries(names):
    model = seedling()
    for parameter in model.parameters():
        parameter.data.fill_(1000.0)  # growth puts no such numbers into new entries
    before = sum(parameter.numel() for parameter in model.parameters())
    rates = NewcomerRates(model, warm_up=3)
    with rates.following(7) as follow:
        apply_edits(
            model, [EDITS[name] for name in names], None, None, None, torch.Generator().manual_seed(0), follow=follow
        )
    assert fits(rates, model)
    for name, parameter in model.named_parameters():
        assert torch.equal(rates.born[name] == SEEDLING, parameter == 1000.0), name
        assert set(rates.born[name].unique().tolist()) <= {SEEDLING, 7.0}
    assert sum(int((born == SEEDLING).sum()) for born in rates.born.values()) == before


@pytest.mark.parametrize("name", EDITS)
def test_what_is_taken_back_is_forgotten(name):
    model = seedling()
    rates = NewcomerRates(model, warm_up=3)
    before = {name: born.clone() for name, born in rates.born.items()}
    inverse = grow(model, rates, [EDITS[name]], 3)
    assert any(bool((born == 3).any()) for born in rates.born.values())
    grow(model, rates, list(inverse), 9)
    assert fits(rates, model)
    assert all(torch.equal(before[name], born) for name, born in rates.born.items())


def test_later_events_keep_the_birthdays_of_earlier_ones():
    model = seedling()
    rates = NewcomerRates(model, warm_up=3)
    grow(model, rates, [AddBranch(SITE, 5), AddIntrinsic(SITE, 1)], 3)
    grow(model, rates, [AddIntrinsic(SITE, 2), AddBranch(SITE, 5)], 8)
    grow(model, rates, [RemoveBranch(SITE, 5, 0), RemoveIntrinsic(SITE, (0,))], 9)
    assert fits(rates, model)
    assert rates.born[f"{SITE}.primary_conv.1.weight"].tolist() == [SEEDLING, 3.0, 8.0, 8.0]
    assert rates.born[f"{SITE}.further_operations.5.1.weight"].tolist() == [8.0] * 4
    assert rates.born["blocks.1.0.ghost1.primary_conv.0.weight"].unique().tolist() == [SEEDLING]


def test_an_event_that_fails_is_forgotten():
    model = seedling()
    rates = NewcomerRates(model, warm_up=3)
    grow(model, rates, [AddIntrinsic(SITE, 1)], 3)
    before = dict(rates.born)
    with pytest.raises(GhostkitError, match="nowhere"):
        grow(model, rates, [AddBranch(SITE, 5), AddBlock("blocks.0", "0"), AddBranch("nowhere")], 4)
    assert fits(rates, model)
    assert rates.born.keys() == before.keys()
    assert all(rates.born[name] is before[name] for name in before)


def test_half_precision_knows_the_steps_of_a_long_run_apart():
    model = seedling().bfloat16()
    rates = NewcomerRates(model, warm_up=3)
    for step in (2301, 2302):
        with rates.following(step) as follow:
            edits = [AddIntrinsic(SITE, 1), AddBranch(SITE, 5)]
            apply_edits(model, edits, None, None, None, torch.Generator().manual_seed(0), follow=follow)
    assert {*rates.born[f"{SITE}.primary_conv.1.weight"].tolist()} == {SEEDLING, 2301.0, 2302.0}
    weight = model.get_parameter(f"{SITE}.primary_conv.1.weight").detach()
    scale = rates._scale(weight, rates.born[f"{SITE}.primary_conv.1.weight"], 2302)
    assert scale.dtype == torch.bfloat16
    assert scale.tolist() == [1.0] * (len(scale) - 2) + [0.5, 0.25]
