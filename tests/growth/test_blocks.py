"""A new block is like the one before it and computes nothing yet, whatever family it comes from."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.ops import FrozenBatchNorm2d

from ghostkit.errors import GhostkitError
from ghostkit.ghosting import ghostify
from ghostkit.growth import AddBlock, AddIntrinsic, AddLink, grow, sites
from ghostkit.growth.blocks import (
    asleep,
    hidden_channels,
    identity_like,
    is_block,
    is_residual,
    is_strided,
    is_thin,
    remade,
)
from ghostkit.growth.candidates import candidates
from ghostkit.growth.depth import link_places
from ghostkit.growth.proposals import ends_of
from ghostkit.nn import GhostModule, build

# a block of each family: network, path, channels out, hidden channels, whether it adds to its input, strided or not
BLOCKS = [
    ("ghost_resnet18", "layer1.0", 16, 16, True, False),
    ("ghost_resnet18", "layer2.0", 32, 32, False, True),
    ("ghost_resnet50", "layer2.0", 64, 16, False, True),
    ("ghost_resnet50", "layer2.1", 64, 16, True, False),
    ("ghost_mobilenet_v2", "features.1", 8, 16, False, False),
    ("ghost_mobilenet_v2", "features.2", 16, 48, False, True),
    ("ghost_mobilenet_v2", "features.3", 16, 96, True, False),
    ("ghost_mobilenet_v3_large", "features.4", 24, 40, False, True),
    ("ghost_mobilenet_v3_large", "features.5", 24, 64, True, False),
]
OPTIONS = {
    "ghost_resnet18": {"width": 16},
    "ghost_resnet50": {"width": 8},
    "ghost_mobilenet_v2": {"width": 0.5, "stages": [[1, 16, 1, 1], [6, 24, 2, 2]]},
    "ghost_mobilenet_v3_large": {"width": 0.5},
}


def host(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 5, **OPTIONS[name]).eval()


@pytest.mark.parametrize(("name", "path", "channels", "hidden", "residual", "strided"), BLOCKS)
def test_what_can_be_told_of_a_block(name, path, channels, hidden, residual, strided) -> None:
    block = host(name).get_submodule(path)
    assert is_block(block)
    assert (hidden_channels(block), is_residual(block), is_strided(block)) == (hidden, residual, strided)


@pytest.mark.parametrize("wanted", [None, 10])
@pytest.mark.parametrize(("name", "path", "channels", "hidden", "residual", "strided"), BLOCKS)
def test_a_new_block_passes_its_input_on_and_is_made_like_the_one_before(
    name, path, channels, hidden, residual, strided, wanted
) -> None:
    block = host(name).get_submodule(path)
    new, (conv, bn) = identity_like(block, wanted)
    x = torch.rand(2, channels, 6, 6)  # what a ResNet's blocks hand on is positive
    for training in (False, True):
        torch.testing.assert_close(new.train(training)(x), x)
    assert is_residual(new)
    assert not is_strided(new)
    assert type(new) is type(block)
    assert not bool(new.get_submodule(bn).weight.any())
    assert isinstance(new.get_submodule(conv), nn.Conv2d)
    kinds = [type(layer) for layer in block.modules() if not hasattr(layer, "downsample")]
    if not any("downsample" in path for path, _ in block.named_modules()):
        assert [type(layer) for layer in new.modules() if not hasattr(layer, "downsample")] == kinds
    expands = hidden_channels(new) != channels or name.startswith("ghost_resnet")
    if wanted and expands:
        assert hidden_channels(new) == wanted
    own = {id(parameter) for parameter in block.parameters()}
    assert not any(id(parameter) in own for parameter in new.parameters())


def test_a_row_in_which_channels_change_is_offered_a_block_behind_every_stage() -> None:
    model = host("ghost_mobilenet_v3_large")
    row = next(site for site in sites(model) if site.axis == "depth")
    assert (row.id, row.blocks) == ("features", tuple(str(number) for number in range(1, 16)))
    assert ends_of(model, row) == ["1", "3", "6", "10", "12", "15"]


def test_a_thin_ghost_block_is_given_channels_before_another_block_follows_it() -> None:
    torch.manual_seed(0)
    model = build("seedling", 5, 1)
    rows = [site for site in sites(model) if site.axis == "depth"]
    thin = [f"{row.id}.{name}.ghost1" for row in rows for name in row.blocks]
    assert thin
    assert all(is_thin(model.get_submodule(path.removesuffix(".ghost1"))) for path in thin)
    assert [ends_of(model, row, thin) for row in rows] == [[]] * len(rows)
    assert [ends_of(model, row, ["conv_stem"]) for row in rows] == [["0"]] * len(rows)  # where nothing else is offered
    grow(model, AddIntrinsic("blocks.1.0.ghost1", 2))
    assert [ends_of(model, row, thin) for row in sites(model) if row.axis == "depth"] == [[], ["0"], []]
    grow(model, AddBlock("blocks.1", "0", 4))  # by hand, everything may be grown
    thin.append("blocks.1.g1.ghost1")
    assert [ends_of(model, row, thin) for row in sites(model) if row.axis == "depth"] == [[]] * len(rows)


def test_blocks_that_are_narrow_inside_by_design_are_not_thin() -> None:
    for name in OPTIONS:
        assert not any(is_thin(layer) for layer in host(name).modules()), name


def test_links_stay_where_the_resolution_is_one() -> None:
    model = host("ghost_mobilenet_v3_large")
    ends = {tuple(int(path.split(".")[1]) for path in place) for place in link_places(model, sites(model))}
    stages = [(2, 3), (4, 5, 6), (7, 8, 9, 10, 11, 12), (13, 14, 15)]
    assert ends == {(a, b) for stage in stages for a in stage for b in stage if a < b}


def test_a_new_block_keeps_the_groups_of_its_convolutions_or_is_refused() -> None:
    model = torchvision.models.resnext50_32x4d(num_classes=4)
    new, _ = identity_like(model.layer1[0], 64)
    assert [(conv.in_channels, conv.out_channels, conv.groups) for conv in (new.conv1, new.conv2, new.conv3)] == [
        (256, 64, 1),
        (64, 64, 32),
        (64, 256, 1),
    ]
    x = torch.rand(2, 256, 4, 4)
    assert torch.equal(new.eval()(x), x)
    with pytest.raises(GhostkitError, match=r"reads 50 channels and makes 50: .* has 32 groups; expected multiples of"):
        grow(model, AddBlock("layer1", "0", 50))


class Shared(nn.Module):
    """A block that reads its input by groups, of which two cannot share what it puts out."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 6, 1, groups=2), nn.BatchNorm2d(6)
        self.back, self.norm = nn.Conv2d(6, out, 1), nn.BatchNorm2d(out)
        self.adds = channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.back(torch.relu(self.bn(self.conv(x)))))
        return x + y if self.adds else y


@identity_like.register(Shared)
def _(block: Shared, hidden: int | None = None) -> tuple[nn.Module, tuple[str, str]]:
    new = remade(copy.deepcopy(block), block.norm.num_features, hidden)
    new.adds = True
    return asleep(new)


@pytest.mark.parametrize(("out", "kinds"), [(4, {"block"}), (5, {"stage"})])
def test_where_no_block_like_those_of_a_row_fits_none_is_a_candidate(out: int, kinds: set[str]) -> None:
    row = nn.Sequential(Shared(4, out))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), row, nn.Conv2d(out, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    frame = candidates(model, torch.randn(8, 3, 5, 5), torch.arange(8) % 4, lambda m, x, y: cross_entropy(m(x), y))
    assert set(frame["kind"]) == kinds


def test_a_linked_block_is_copied_without_its_links() -> None:
    model = host("ghost_resnet18")
    images = torch.randn(4, 3, 33, 33)
    grow(model, AddLink("layer1.0.conv1", "layer1.1.conv1"))
    nn.init.normal_(model.layer1[1].links["0"].projection.weight)
    before = model(images)
    assert grow(model, AddBlock("layer1", "1"), probe=images).max_logit_change < 1e-5
    assert grow(model, AddLink("layer1.1.conv1", "layer1.g1.conv1"), probe=images).max_logit_change < 1e-5
    torch.testing.assert_close(model(images), before)
    assert (len(model.layer1[1].links), len(model.layer1.g1.links)) == (1, 1)
    assert isinstance(model.layer1.g1.conv1, GhostModule)


@pytest.mark.parametrize("norm", [lambda channels: nn.GroupNorm(4, channels), FrozenBatchNorm2d])
def test_blocks_without_a_bn_that_could_hold_a_new_one_at_zero_are_no_place_for_depth(norm) -> None:
    model = ghostify(torchvision.models.resnet18(num_classes=4, norm_layer=norm))
    assert not is_block(model.layer1[0])
    assert not [site for site in sites(model) if site.axis == "depth"]
    with pytest.raises(GhostkitError, match="no site 'layer1'"):
        grow(model, AddBlock("layer1", "1"))


def test_hooks_of_the_block_before_are_not_those_of_a_new_one() -> None:
    model, heard = host("ghost_resnet18"), []
    model.layer1[1].register_forward_hook(lambda block, inputs, output: heard.append(block))
    grow(model, AddBlock("layer1", "1"))
    heard.clear()
    model(torch.rand(2, 3, 32, 32))
    assert heard == [model.layer1[1]]


def test_blocks_that_end_in_what_changes_its_own_output_are_no_place_for_depth():
    model = ghostify(torchvision.models.resnet18(num_classes=4))
    for block in model.layer1:
        block.relu = nn.LeakyReLU(0.1)
    assert [site.id for site in sites(model) if site.axis == "depth"] == ["layer2", "layer3", "layer4"]
