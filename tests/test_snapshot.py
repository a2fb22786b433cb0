"""A snapshot puts everything back to the last bit, whatever was grown, trained and taken out in between."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostkit
from ghostkit.averaging import moving_average
from ghostkit.checkpoint import load_state
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    GrowthEvent,
    WidenStage,
    grow,
)
from ghostkit.snapshot import Snapshot, part, prefixed

STAGES = [[[3, 4, 8, 0, 2], [3, 6, 8, 0.5, 1]], [[5, 8, 12, 0, 1]]]
EDITS = (
    DeepenBranches("blocks.0.0.ghost1"),
    AddIntrinsic("blocks.0.0.ghost1", 2),
    AddBranch("blocks.1.0.ghost1", 5),
    AddBlock("blocks.0", "1"),
    AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"),
    WidenStage("blocks.0.0.ghost2", 4),
)
OPTIMIZERS: dict[str, Callable[[Iterable[Any]], torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.99)),
}
IMAGES, TARGETS = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 5


def train(model: nn.Module, optimizer: torch.optim.Optimizer, average: Any, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), TARGETS).backward()
        optimizer.step()
        average.update_parameters(model)


def trained(name: str) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """A network with two groups of parameters, in an order of their own, and its moving average."""
    model = ghostkit.build("seedling", num_classes=5, in_channels=1, stages=STAGES)
    convolutions = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 4]
    optimizer = OPTIMIZERS[name]([{"params": others, "weight_decay": 0.0}, {"params": convolutions, "lr": 0.02}])
    average = moving_average(model, 0.8)
    train(model, optimizer, average, 3)
    return model, optimizer, average


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module) -> dict[str, Any]:
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, Any] = {f"model {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    found |= {f"average {name}": tensor.clone() for name, tensor in average.state_dict().items()}
    for parameter, state in optimizer.state.items():
        found |= {f"{names[parameter]} {key}": copy.deepcopy(value) for key, value in state.items()}
    for number, group in enumerate(optimizer.param_groups):
        found |= {f"group {number} {key}": value for key, value in group.items() if key != "params"}
        found[f"group {number} members"] = [names[parameter] for parameter in group["params"]]
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b

    return [name for name in first | second if name not in first or not same(first[name], second.get(name))]


def grown_and_back(model: nn.Module, optimizer: torch.optim.Optimizer, average: Any) -> GrowthEvent:
    """Grow, train with other rates, and take out what was grown."""
    event = grow(model, EDITS, optimizer, IMAGES, average)
    for group in optimizer.param_groups:
        group["lr"] *= 3
    train(model, optimizer, average)
    grow(model, event.inverse, optimizer, IMAGES, average)
    return event


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_back_to_the_last_bit(name):
    network = trained(name)
    before, taken = everything(*network), Snapshot.of(*network)
    grown_and_back(*network)
    assert len(differences(before, everything(*network))) > 50
    taken.restore(*network)
    assert differences(before, everything(*network)) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been(name):
    untouched, network = (trained(name) for _ in range(2) if torch.manual_seed(0))
    assert differences(everything(*untouched), everything(*network)) == []
    taken = Snapshot.of(*network)
    for _ in range(2):  # it can be rolled back to again and again
        grown_and_back(*network)
        taken.restore(*network)
        train(*network)
        taken.restore(*network)
    for three in (untouched, network):
        train(*three)
    assert differences(everything(*untouched), everything(*network)) == []


def test_parameters_keep_their_identity():
    model, optimizer, average = trained("SGD")
    before, taken = dict(model.named_parameters()), Snapshot.of(model, optimizer, average)
    grown_and_back(model, optimizer, average)
    taken.restore(model, optimizer, average)
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert members == {id(parameter) for parameter in before.values()}


def test_a_snapshot_is_not_touched_by_what_happens_after_it():
    network = trained("Adam")
    taken = Snapshot.of(*network)
    tensors, plain = copy.deepcopy(taken.tensors), copy.deepcopy(taken.optimizer)
    grown_and_back(*network)
    taken.restore(*network)
    train(*network)
    assert differences(tensors, taken.tensors) == []
    assert taken.optimizer == plain


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_can_hold_it(name, tmp_path):
    network = trained(name)
    before, taken = everything(*network), Snapshot.of(*network)
    ghostkit.save(network[0], tmp_path, state={"kept": taken.optimizer}, tensors=prefixed("kept/", taken.tensors))
    grown_and_back(*network)
    state, tensors = load_state(tmp_path)
    assert json.loads(json.dumps(state)) == state
    Snapshot(state["kept"], part(tensors, "kept/")).restore(*network)
    assert differences(before, everything(*network)) == []


def test_no_average_no_entry():
    model, optimizer, _ = trained("SGD")
    taken = Snapshot.of(model, optimizer, None)
    assert {name.partition("/")[0] for name in taken.tensors} == {"model", "optimizer"}
    taken.restore(model, optimizer, None)
