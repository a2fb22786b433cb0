"""Looking into a network: maps, likeness, parts switched off; and it is as it was afterwards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ghostkit import AddBlock, AddBranch, AddLink, GhostkitError, build, grow
from ghostkit.growth.edits import DeepenBranches
from ghostkit.inspecting import Part, feature_maps, importance, layers, parts, similarity, switched_off
from ghostkit.nn.ghost import GhostBottleneck, GhostModule
from ghostkit.tasks import TASKS

STAGES = [[[3, 8, 8, 0, 2]], [[3, 8, 8, 0, 2]]]
EDITS = [
    AddBranch("blocks.0.0.ghost1", 3),
    AddBranch("blocks.0.0.ghost1", 5),
    AddBlock("blocks.1", after="0"),
]


def awake(model: nn.Module) -> nn.Module:
    """Return ``model`` with random BNs, so that nothing of it is at zero."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    return model


@pytest.fixture
def model() -> nn.Module:
    made = build("seedling", num_classes=5, in_channels=1, stages=STAGES)
    grow(made, EDITS)
    return awake(made)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8)


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


HOSTS = {
    "GhostNet": ("seedling", {"stages": STAGES}),
    "ResNet": ("ghost_resnet20", {"width": 4}),
    "MobileNet": ("ghost_mobilenet_v2", {"stages": [[1, 8, 1, 1], [2, 8, 2, 2]], "stem_stride": 1}),
    "GhostNetV2": ("ghostnetv2_100", {"width": 0.25}),
    "detector": ("seedling", {"task": "detection", "stem_stride": 2}),
    "segmenter": ("seedling", {"task": "segmentation", "stem_stride": 2}),
}
each_host = pytest.mark.parametrize("host", HOSTS)


def built(host: str) -> nn.Module:
    name, options = HOSTS[host]
    return awake(build(name, num_classes=5, in_channels=1, **options))


# Feature maps


def test_layers_are_the_ghost_modules_in_network_order(model):
    assert layers(model) == [f"blocks.{block}.ghost{n}" for block in ("0.0", "1.0", "1.g1") for n in (1, 2)]


@each_host
def test_maps_are_what_the_module_puts_out_and_nothing_of_the_network_changes(host, monkeypatch):
    model, images = built(host), torch.randn(2, 1, 64, 64)
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer = layers(model)[-1]
    maps, intrinsic = feature_maps(model, layer, images)
    module = model.get_submodule(layer)
    assert maps.shape[:2] == (2, module.out_channels)
    assert intrinsic == min(module.intrinsic_channels, module.out_channels)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())


def test_intrinsic_maps_come_first_and_ghosts_are_made_of_them(model, images):
    maps, intrinsic = feature_maps(model, "blocks.0.0.ghost1", images)
    module = copy.deepcopy(model).eval().blocks[0][0].ghost1
    assert intrinsic == 4
    with torch.no_grad():
        ghosts = [operation(torch.from_numpy(maps[:, :intrinsic])) for _, operation in module.operations()]
    assert np.allclose(maps[:, intrinsic:], torch.cat(ghosts, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", ["blocks.9", "conv_stem", ""])
def test_another_layer_is_refused_with_those_there_are(layer, model, images):
    with pytest.raises(GhostkitError, match=r"no ghost module .*; its ghost modules are blocks\.0\.0\.ghost1, "):
        feature_maps(model, layer, images)


def test_a_module_that_no_image_passes_is_named(images):
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ghost, self.used = GhostModule(1, 4), nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(GhostkitError, match="no image passes this ghost module"):
        feature_maps(Unused(), "ghost", images)


# How alike


def bare(kernels: list[torch.Tensor], intrinsic: int = 3) -> GhostModule:
    """A ghost module whose branches have these kernels, (intrinsic, k, k) each; nothing stands behind them."""
    module = GhostModule(1, intrinsic * (1 + len(kernels)), ratio=1 + len(kernels), bare=True)
    with torch.no_grad():
        for number, kernel in enumerate(kernels):
            module.cheap_operation.conv.weight[number :: len(kernels), 0] = kernel
    return module


def test_a_scaled_copy_is_like_the_intrinsic_maps_and_noise_is_not():
    copied = torch.zeros(3, 3, 3)
    copied[:, 1, 1] = -2.0
    module = bare([copied, torch.zeros(3, 3, 3)])
    module.primary_conv[0] = nn.Conv2d(1, 3, 3, padding=1)
    frame = similarity(nn.Sequential(module), "0", torch.randn(64, 1, 8, 8))
    assert list(frame.index) == list(frame.columns) == ["intrinsic", "3x3 number 0", "3x3 number 1"]
    assert frame.loc["intrinsic", "3x3 number 0"] == pytest.approx(1.0)
    assert frame.loc["3x3 number 0", "3x3 number 0"] == pytest.approx(1.0)
    assert np.isnan(frame.loc["intrinsic", "3x3 number 1"]), "maps that are the same everywhere are like nothing"


def test_linear_cka_is_that_of_its_definition():
    module = bare([torch.randn(3, 3, 3), torch.randn(3, 3, 3)])
    model, images = nn.Sequential(module), torch.randn(16, 1, 6, 6)
    maps, _ = feature_maps(model, "0", images)
    one, other = (maps[:, channels].transpose(0, 2, 3, 1).reshape(-1, 3) for channels in ([0, 1, 2], [4, 6, 8]))
    gram = [(rows - rows.mean(0)) @ (rows - rows.mean(0)).T for rows in (one, other)]  # HSIC of linear kernels
    expected = (gram[0] * gram[1]).sum() / np.sqrt((gram[0] ** 2).sum() * (gram[1] ** 2).sum())
    assert similarity(model, "0", images).loc["intrinsic", "3x3 number 1"] == pytest.approx(expected, rel=1e-4)


def test_every_branch_has_its_row_and_likeness_is_mutual(model, images):
    grow(model, DeepenBranches("blocks.0.0.ghost1", 3))
    frame = similarity(model, "blocks.0.0.ghost1", images)
    assert list(frame) == ["intrinsic", "3x3 number 0", "3x3 number 1", "5x5 number 0"]
    assert np.allclose(frame, frame.T)
    assert frame.to_numpy().max() <= 1 + 1e-9
    assert frame.to_numpy().min() >= 0


def test_a_module_without_ghosts_is_like_itself_alone(images):
    model = build("seedling", num_classes=5, in_channels=1, stages=STAGES, ratio=1)
    assert similarity(model, "blocks.0.0.ghost1", images).to_numpy() == pytest.approx(np.ones((1, 1)))


# Parts switched off


def test_parts_are_the_blocks_with_a_shortcut_and_every_branch(model):
    labels = [part.label for part in parts(model)]
    assert labels[:3] == ["block blocks.0.0", "block blocks.1.0", "block blocks.1.g1"]
    assert labels[3:6] == [
        f"branch {name} of blocks.0.0.ghost1" for name in ("3x3 number 0", "3x3 number 1", "5x5 number 0")
    ]
    assert len(labels) == 3 + 3 + 5


@each_host
def test_every_part_of_every_host_can_be_switched_off_and_on_again(host):
    model, images = built(host).eval(), torch.randn(2, 1, 64, 64)

    def said() -> torch.Tensor:
        with torch.no_grad():
            found = model(images)
        return torch.cat([value.flatten() for value in found.values()]) if isinstance(found, dict) else found

    before, known = said(), parts(model)
    assert {part.kind for part in known} == {"block", "branch"}
    moved = 0
    for part in [*known[:4], *known[-4:]]:
        with switched_off(model, part):
            moved += not torch.equal(said(), before)
        assert torch.equal(said(), before)
    assert moved, "something of it matters"


def test_a_block_that_is_off_passes_its_shortcut_on(model, images):
    block: GhostBottleneck = model.blocks[1].g1
    with torch.no_grad(), switched_off(model, Part("block", "blocks.1.g1")):
        x = torch.randn(2, 8, 2, 2)
        assert torch.equal(block(x), x)
        first = model.blocks[0][0]
    with torch.no_grad(), switched_off(model.eval(), Part("block", "blocks.0.0")):
        x = torch.randn(2, first.ghost1.in_channels, 8, 8)
        assert torch.equal(first(x), first.shortcut(x))


def test_a_resnet_block_that_is_off_is_the_activation_of_its_shortcut():
    model = built("ResNet").eval()
    for path in ("layer1.0", "layer2.0"):  # an identity, and a projection
        block = model.get_submodule(path)
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        with torch.no_grad(), switched_off(model, Part("block", path)):
            shortcut = x if block.downsample is None else block.downsample(x)
            assert torch.equal(block(x), shortcut.relu())


def test_what_is_linked_to_a_block_that_is_off_hears_nothing_of_it(model, images):
    grow(model, AddLink("blocks.1.0.ghost1", "blocks.1.g1.ghost1"))
    link = model.blocks[1].g1.links["0"]
    quiet = copy.deepcopy(model)
    nn.init.normal_(link.projection.weight, std=5.0)
    assert not torch.equal(outputs(model, images), outputs(quiet, images))
    off = Part("block", "blocks.1.0")
    with torch.no_grad(), switched_off(model.eval(), off), switched_off(quiet.eval(), off):
        assert torch.equal(model(images), quiet(images))


@pytest.mark.parametrize("deeper", [False, True])
@pytest.mark.parametrize(
    ("side", "number", "channels"), [(3, 0, (4, 6, 8, 10)), (3, 1, (5, 7, 9, 11)), (5, 0, (12, 13, 14, 15))]
)
def test_a_branch_that_is_off_gives_zeros_in_its_channels_alone(side, number, channels, deeper, model, images):
    if deeper:
        grow(model, DeepenBranches("blocks.0.0.ghost1", 3))
        awake(model)
    whole, _ = feature_maps(model, "blocks.0.0.ghost1", images)
    with switched_off(model, Part("branch", "blocks.0.0.ghost1", side, number)):
        left, _ = feature_maps(model, "blocks.0.0.ghost1", images)
    others = [channel for channel in range(16) if channel not in channels]
    assert np.array_equal(left[:, others], whole[:, others])
    assert not left[:, channels].any()
    assert whole[:, channels].any()


@pytest.mark.parametrize(
    "part", [Part("block", "blocks.9.0"), Part("branch", "blocks.0.0.ghost1", 7), Part("block", "blocks.0.0.ghost1")]
)
def test_a_part_that_is_not_there_is_refused_with_those_that_are(part, model):
    message = r"cannot be switched off in this network; what can be is block blocks\.0"
    with pytest.raises(GhostkitError, match=message), switched_off(model, part):
        pass


def test_an_error_inside_leaves_no_hook_behind(model):
    with pytest.raises(ZeroDivisionError), switched_off(model, parts(model)[0]):
        raise ZeroDivisionError
    assert not any(layer._forward_hooks for layer in model.modules())


# What a block is worth


def test_importance_is_the_rise_of_the_loss_without_the_block(model, images):
    targets, loss = torch.arange(6) % 5, TASKS["classification"].loss(0.0)
    found = importance(model, images, targets, loss)
    assert list(found["block"]) == ["blocks.0.0", "blocks.1.0", "blocks.1.g1"]
    with torch.no_grad(), switched_off(model.eval(), Part("block", "blocks.1.0")):
        without = float(loss(model, images, targets))
    with torch.no_grad():
        assert found["importance"][1] == pytest.approx(without - float(loss(model, images, targets)), abs=1e-6)


def test_a_block_that_computes_nothing_yet_is_worth_nothing(images):
    made = build("seedling", num_classes=5, in_channels=1, stages=STAGES)
    grow(made, EDITS)
    found = importance(made, images, torch.arange(6) % 5, TASKS["classification"].loss(0.0)).set_index("block")
    assert found.loc["blocks.1.g1", "importance"] == 0
    assert found["importance"].abs().max() > 0
