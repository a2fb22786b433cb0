"""A link adds to ghost maps and to nothing else; without links a stage is a plain row of blocks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostkit import GhostkitError
from ghostkit.growth import AddLink, RemoveLink, grow, sites
from ghostkit.growth.depth import link_places
from ghostkit.growth.tracing import trace
from ghostkit.nn import GhostBottleneck, GhostNet
from ghostkit.nn.ghostify import ghosted
from ghostkit.nn.ghostnet import Row
from ghostkit.nn.links import CrossLayerLink, Links, Stage

ROWS = ((Row(3, 8, 8, 0, 1), Row(3, 12, 8, 0.5, 1), Row(3, 8, 8, 0, 1)),)


def stage() -> Stage:
    return Stage(GhostBottleneck(4, 8, 6, stride=2), GhostBottleneck(6, 10, 6), GhostBottleneck(6, 8, 6))


def linked(value: float = 1.0) -> Stage:
    """A stage whose last block is linked to both others, by projections full of ``value``."""
    row = stage()
    row[2].links = Links({"0": CrossLayerLink(4, 4), "1": CrossLayerLink(5, 4)})
    for link in row[2].links.values():
        nn.init.constant_(link.projection.weight, value)
    return row


def test_a_stage_without_links_is_a_plain_sequence_of_blocks() -> None:
    row, x = stage(), torch.randn(2, 4, 8, 8)
    plain = nn.Sequential(*copy.deepcopy(list(row)))
    for training in (True, False):
        assert torch.equal(row.train(training)(x), plain.train(training)(x))
    assert list(row.state_dict()) == list(plain.state_dict())
    assert not any("links" in name for name in row.state_dict())
    assert isinstance(row, nn.Sequential)


def test_a_link_is_born_at_zero_and_then_changes_nothing() -> None:
    link, source, target = CrossLayerLink(3, 4), torch.randn(2, 6, 8, 8), torch.randn(2, 7, 4, 4)
    assert not link.projection.weight.any()
    assert torch.equal(link(source, target), target)
    row, x = linked(0.0).eval(), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(row(x), nn.Sequential(*row)(x), rtol=0, atol=0)


def test_a_link_adds_the_projection_of_pooled_intrinsic_maps_to_ghost_maps_only() -> None:
    link = CrossLayerLink(3, 4)
    nn.init.normal_(link.projection.weight)
    source, target = torch.randn(2, 6, 8, 8), torch.randn(2, 7, 4, 4)
    out = link(source, target)
    assert torch.equal(out[:, :3], target[:, :3])  # intrinsic maps
    shift = source[:, :3].mean((2, 3)) @ link.projection.weight.T
    torch.testing.assert_close(out[:, 3:], target[:, 3:] + shift[:, :, None, None])
    assert sum(parameter.numel() for parameter in link.parameters()) == 3 * 4
    source[:, 3:] = 7.0  # ghost maps of the source are not read
    torch.testing.assert_close(link(source, target), out)


def test_a_linked_block_hears_the_earlier_blocks_and_no_other_does() -> None:
    row, x = linked().eval(), torch.randn(2, 4, 8, 8)
    heard: dict[str, Any] = {}
    for name, block in row.named_children():
        for part in ("primary_conv", "cheap_operation"):
            layer = block.ghost1.get_submodule(part)
            layer.register_forward_hook(lambda _, inputs, out, name=name: heard.setdefault(name, []).append(out))
        block.ghost2.register_forward_pre_hook(
            lambda _, inputs, name=name: heard.__setitem__(f"into {name}", inputs[0])
        )
    row(x)
    heard |= {name: torch.cat(heard[name], 1) for name in row._modules}  # before a link adds anything
    assert torch.equal(heard["into 1"], heard["1"])
    shift = sum(heard[name][:, :maps].mean((2, 3)).sum(1) for name, maps in (("0", 4), ("1", 5)))
    torch.testing.assert_close(heard["into 2"][:, 4:], heard["2"][:, 4:] + shift[:, None, None, None])
    assert torch.equal(heard["into 2"][:, :4], heard["2"][:, :4])


def test_what_a_link_added_reaches_the_links_that_read_its_block() -> None:
    row, x = linked().eval(), torch.randn(2, 4, 8, 8)
    row[1].links = Links({"0": CrossLayerLink(4, 5)})
    before = row(x)
    nn.init.ones_(row[1].links["0"].projection.weight)
    assert not torch.allclose(row(x), before)


def test_a_links_weight_is_called_after_the_block_that_it_reads_and_stands_with_the_block_that_it_adds_to() -> None:
    names = [name for name in linked().state_dict() if "links" in name]
    assert names == ["2.links.0.projection.weight", "2.links.1.projection.weight"]
    row = linked()
    fresh = linked(0.0)
    fresh.load_state_dict(row.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(fresh.eval()(x), row.eval()(x))


def network() -> nn.Module:
    model = GhostNet(ROWS, 1, 3, 2, head_channels=8, dropout=0.0)
    grow(model, [AddLink("blocks.0.0.ghost1", "blocks.0.2.ghost1"), AddLink("blocks.0.1.ghost1", "blocks.0.2.ghost1")])
    for link in model.blocks[0][2].links.values():
        nn.init.normal_(link.projection.weight)
    return model


@pytest.mark.parametrize("training", [False, True])
def test_gradients_flow_through_a_link_to_both_of_its_ends(training: bool) -> None:
    model = network().train(training)
    model(torch.randn(4, 2, 8, 8)).square().sum().backward()
    for name in ("2.links.0.projection", "2.links.1.projection", "0.ghost1.primary_conv.0", "1.ghost1.primary_conv.0"):
        assert model.blocks[0].get_submodule(name).weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("make", [network, lambda: GhostNet(ROWS, 1, 3, 2)], ids=["linked", "without links"])
def test_a_network_is_exported_and_traced_with_its_links(make: type[nn.Module]) -> None:
    model, x = make().eval(), torch.randn(2, 2, 8, 8)
    expected = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.fx.GraphModule(model, trace(model))(x), expected)


def test_a_linked_network_compiles_into_one_graph() -> None:
    model, x = network().eval(), torch.randn(2, 2, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_a_copy_of_a_linked_network_shares_nothing_with_it() -> None:
    model, x = network().eval(), torch.randn(2, 2, 8, 8)
    copied, before = copy.deepcopy(model), model(x)
    torch.testing.assert_close(copied(x), before)
    nn.init.zeros_(copied.blocks[0][2].links["0"].projection.weight)
    assert torch.equal(model(x), before)
    assert not torch.allclose(copied(x), before)


class Dropping(nn.Module):
    """A block whose forward reads its mode and a number of its own."""

    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.dropout(torch.relu(self.one(x)), 0.5 * self.scale, self.training)
        return x + self.two(hidden)


class Calling(nn.Module):
    """A block that calls all that it holds, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Listing(nn.Sequential):
    """A network whose own forward goes through the blocks of its row, its second part."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem, row, *head = self
        for layer in (stem, *row, *head):
            x = layer(x)
        return x


LINK = AddLink("1.0.one", "1.1.one")


def host(block: type[nn.Module] = Dropping, network: type[nn.Sequential] = nn.Sequential) -> nn.Module:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 8, 3, padding=1), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return ghosted(network(stem, nn.Sequential(block(), block()), *head))


@pytest.mark.parametrize("probe", [None, torch.randn(4, 3, 8, 8)], ids=["no probe", "probe"])
@pytest.mark.parametrize("training", [True, False], ids=["grown in train mode", "grown in eval mode"])
def test_a_linked_block_goes_on_to_tell_training_from_use(training: bool, probe: torch.Tensor | None) -> None:
    model, x = host().train(training), torch.randn(4, 3, 8, 8)
    grow(model, LINK, probe=probe)
    for mode in (training, not training):
        model.train(mode)
        assert torch.equal(model(x), model(x)) is not mode, "dropout is for training alone"


def test_what_a_linked_blocks_forward_reads_is_read_at_every_pass() -> None:
    model, x = host().train(), torch.randn(4, 3, 8, 8)
    grow(model, LINK)
    assert not torch.equal(model(x), model(x))
    for block in model[1]:
        block.scale = 0.0
    assert torch.equal(model(x), model(x))


class Skipped(Dropping):
    """A block that leaves its layers out of a pass now and then, as stochastic depth does."""

    left_out = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.left_out else super().forward(x)


def test_a_block_that_leaves_its_layers_out_of_a_pass_tells_nothing() -> None:
    model, x = host(Skipped).eval(), torch.randn(4, 3, 8, 8)
    grow(model, LINK)
    expected = nn.Sequential(model[0], *model[2:])(x)
    model[1][0].left_out = model[1][1].left_out = True
    assert torch.equal(model(x), expected)
    model[1][1].left_out = False
    nn.init.normal_(model[1][1].links["0"].projection.weight)
    torch.testing.assert_close(model(x), model[4](model[3](model[2](model[1][1](model[0](x))))))
    told = model(x)
    model[1][0].left_out = False
    assert not torch.allclose(model(x), told)


def test_a_block_that_calls_all_its_parts_can_be_linked() -> None:
    model, x = host(Calling), torch.randn(4, 3, 8, 8)
    before = model(x)
    assert grow(model, LINK, probe=x).max_logit_change == 0
    nn.init.normal_(model[1][1].links["0"].projection.weight)
    assert not torch.allclose(model(x), before)
    grow(model, RemoveLink(LINK.source, LINK.target))
    torch.testing.assert_close(model(x), before)


def test_blocks_that_the_network_calls_without_their_stage_cannot_be_linked() -> None:
    model = host(network=Listing)
    assert isinstance(model[1], Stage)
    assert link_places(model, sites(model)) == []
    with pytest.raises(GhostkitError, match="where the network calls the stage"):
        grow(model, LINK)


def test_a_link_that_is_taken_back_leaves_nothing_behind() -> None:
    model, x = host().eval(), torch.randn(4, 3, 8, 8)
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(GhostkitError, match="changed the outputs"):
        grow(model, LINK, probe=torch.full((1, 3, 8, 8), torch.nan))
    assert [name for name, _ in model.named_modules()] == before
    expected = model(x)
    assert grow(model, LINK, probe=x).max_logit_change == 0
    assert torch.equal(model(x), expected)


def test_a_pass_that_fails_leaves_no_ghost_module_with_a_links_function() -> None:
    row = linked().eval()
    with pytest.raises(RuntimeError):
        row(torch.randn(2, 5, 8, 8))
    assert all(block.ghost1.change is None for block in row)
