"""Costs are read off the live network, and reading them changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ghostkit import costs
from ghostkit.costs import LatencyTable, LayerCost
from ghostkit.growth import AddBlock, AddBranch, grow
from ghostkit.nn import GhostModule, build

NETWORKS = [("seedling", 12), ("ghostnet_050", 33), ("ghostnetv2_100", 40)]


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_the_macs_of_a_network_are_those_of_its_layers(name: str, side: int) -> None:
    model, images = build(name, 5), torch.randn(3, 3, side, side)
    layers = costs.layer_costs(model, images)
    assert costs.macs(model, images) == sum(layer.macs for layer in layers.values()) > 0
    convolutions = [path for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert list(layers) == convolutions


def test_macs_and_parameters_are_those_of_the_arithmetic() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 8 * 3 * 9 weights at 4x5 positions
        nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8),  # 8 * 5
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    layers = costs.layer_costs(model, torch.zeros(2, 3, 8, 10))
    assert [layer.macs for layer in layers.values()] == [216 * 20, 40 * 20, 16]
    assert [layer.params for layer in layers.values()] == [216, 48, 18]
    families = [layer.family for layer in layers.values()]
    assert families == ["dense 3x3 /2 4x5", "cheap 1x5 /1 4x5", "linear"]
    assert costs.macs(model, torch.zeros(2, 3, 8, 10)) == 216 * 20 + 40 * 20 + 16
    assert costs.params(model) == 216 + 48 + 18


@pytest.mark.parametrize("rows", [(5,), (3, 4)], ids=["tokens", "positions"])
def test_a_linear_layer_is_paid_for_at_every_token_or_position(rows: tuple[int, ...]) -> None:
    model, example = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), torch.zeros(2, *rows, 6)
    layers = costs.layer_costs(model, example)
    count = torch.Size(rows).numel()
    assert [layer.macs for layer in layers.values()] == [48 * count, 48 * count]
    assert costs.macs(model, example) == 96 * count
    assert {layer.family for layer in layers.values()} == {f"linear x{count}"}
    assert LatencyTable().total(layers.values()) > 0


@pytest.mark.parametrize(
    ("edit", "params", "macs"),
    [
        # A branch: a 5x5 kernel, gamma and beta for each of 4 maps, and 4 more columns of 6 rows, at 6x6 positions.
        (AddBranch("0", 5), 4 * 25 + 2 * 4 + 4 * 6, (4 * 25 + 4 * 6) * 36),
        (AddBranch("0", 3), 4 * 9 + 2 * 4 + 4 * 6, (4 * 9 + 4 * 6) * 36),
    ],
    ids=str,
)
def test_growth_costs_what_it_adds(edit: AddBranch, params: int, macs: int) -> None:
    model, images = nn.Sequential(GhostModule(3, 8), nn.Conv2d(8, 6, 1)), torch.randn(2, 3, 6, 6)
    before = costs.params(model), costs.macs(model, images)
    grow(model, edit)
    assert (costs.params(model) - before[0], costs.macs(model, images) - before[1]) == (params, macs)


@pytest.mark.parametrize("measure", [False, True])
def test_reading_the_cost_changes_nothing(measure: bool) -> None:
    model = build("seedling", 5).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    found = costs.cost(model, torch.randn(2, 3, 8, 8), measure=measure, repeats=2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert (found.milliseconds is not None) == measure
    torch.set_rng_state(state)


class Tokens(nn.Module):
    """Attention over the positions of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.attend = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(self.patches(x).flatten(2).transpose(1, 2))


def test_the_macs_of_attention_are_counted() -> None:
    patches, tokens = 16 * 3 * 4 * 4, 16  # MACs a token, and how many tokens 16 x 16 pixels make
    projections = 4 * 16 * 16 + 2 * 16 * 32
    attention = 2 * tokens * 16
    assert costs.macs(Tokens(), torch.randn(1, 3, 16, 16)) == tokens * (patches + projections + attention)
    assert torch.backends.mha.get_fastpath_enabled()


def test_modes_come_back_even_if_a_pass_fails() -> None:
    model = build("seedling", 5).train()
    with pytest.raises(RuntimeError, match="channels"):
        costs.macs(model, torch.randn(1, 2, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_memory_counts_every_tensor_and_grows_with_the_network() -> None:
    model, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), torch.zeros(4, 1, 5, 5)
    stored = (18 + 2 + 4 * 2) * 4 + 8  # weights, biases and statistics in float32, and BN's counter
    assert costs.cost(model, images, measure=False).memory == stored + 2 * 2 * 9 * 4  # of the two layers
    seedling = build("seedling", 5)
    before = costs.cost(seedling, torch.zeros(1, 3, 8, 8), measure=False)
    grow(seedling, AddBlock("blocks.0", "0"))
    after = costs.cost(seedling, torch.zeros(1, 3, 8, 8), measure=False)
    assert after.memory > before.memory


def test_a_latency_table_survives_json_whole() -> None:
    table = LatencyTable(4, {"linear": (0.5, 2e-9), "dense 3x3 /1 4x4": (0.1, 1e-8)})
    again = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
    assert again == table
    assert again.milliseconds(LayerCost("linear", 10**9, 7)) == pytest.approx(2.5)


@pytest.mark.parametrize("family", ["dense 3x3 /2 4x4", "cheap 5x5 /1 3x3", "cheap 1x5 /1 2x3", "linear"])
def test_every_kind_of_layer_is_measured_once_and_only_once(family: str) -> None:
    state, table = torch.get_rng_state(), LatencyTable(batch=2)
    table.measure(family, repeats=2)
    overhead, slope = table.lines[family]
    assert overhead >= 0
    assert slope >= 0
    assert overhead + slope > 0
    table.lines[family] = (3.0, 0.0)
    table.measure(family)
    assert table.lines == {family: (3.0, 0.0)}
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_whose_kind_was_never_measured_is_no_guess() -> None:
    with pytest.raises(KeyError):
        LatencyTable().milliseconds(LayerCost("linear", 1, 1))
