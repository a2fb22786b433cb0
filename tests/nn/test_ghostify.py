"""Which convolutions become ghost modules, and that nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import GhostModule, build
from ghostkit.nn.ghostify import choices, ghost_of, ghosted
from ghostkit.nn.links import Stage, link_place

TORCHVISION = ["resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]


class Mixed(nn.Module):
    """One layer for each reason to leave it alone, and two that can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.thin = nn.Conv2d(8, 3, 1)
        self.special = type("Special", (nn.Conv2d,), {})(3, 8, 1)
        self.dilated = nn.Conv2d(8, 12, (5, 3), (2, 1), (4, 1), (2, 1), padding_mode="reflect")
        self.plain = nn.Conv2d(12, 8, 1, bias=False)
        self.ghost = GhostModule(8, 8)
        self.last = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.special(self.thin(self.grouped(self.depthwise(self.stem(x)))))
        return self.last(self.ghost(self.plain(self.dilated(x))))


REASONS = {
    "stem": "the stem",
    "depthwise": "depthwise",
    "grouped": "grouped (2 groups)",
    "thin": "only 3 channels",
    "special": "a Special may do more",
    "dilated": "",
    "plain": "",
    "last": "the last layer",
}


def randomised(model: nn.Module) -> nn.Module:
    """``model`` in eval mode with statistics and affine weights that are not those of a fresh BN."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in (
                (layer.weight, 0.5),
                (layer.running_var, 0.5),
                (layer.bias, -0.2),
                (layer.running_mean, -0.2),
            ):
                tensor.data.uniform_(low, low + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", TORCHVISION)
def test_with_a_ratio_of_one_the_network_is_the_very_same(name: str) -> None:
    torch.manual_seed(0)
    plain = randomised(getattr(torchvision.models, name)(num_classes=10))
    images = torch.randn(2, 3, 64, 64)
    ghost = ghosted(plain, ratio=1)
    assert sum(isinstance(layer, GhostModule) for layer in ghost.modules()) > 5
    assert not any(layer.ghosts for layer in ghost.modules() if isinstance(layer, GhostModule))
    with torch.no_grad():
        torch.testing.assert_close(ghost(images), plain(images), rtol=1e-6, atol=1e-6)


def test_every_convolution_that_stays_has_its_reason() -> None:
    chosen = {choice.path: choice.why for choice in choices(Mixed(), 2, 3)}
    assert chosen.keys() == REASONS.keys()
    for path, reason in REASONS.items():
        assert chosen[path][: len(reason) or None] == reason, path


def test_the_gates_of_a_mobilenet_stay_and_its_depthwise_convolutions_too() -> None:
    why = {choice.path: choice.why for choice in choices(torchvision.models.mobilenet_v3_large(), 2, 3)}
    assert why["features.4.block.2.fc1"] == "a gate, and no features"
    assert why["features.4.block.1.0"].startswith("depthwise")
    assert {why[path] for path in ("features.4.block.0.0", "features.4.block.3.0", "features.16.0")} == {""}


def test_the_primary_convolution_is_like_the_one_before_with_fewer_outputs() -> None:
    model = Mixed().eval()
    before = copy.deepcopy(model.state_dict())
    ghost = ghosted(model, ratio=3, cheap_kernel=5)
    module, dense = ghost.dilated, model.dilated
    assert isinstance(module, GhostModule)
    assert type(model.dilated) is nn.Conv2d
    for name in ("in_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode"):
        assert getattr(module.primary, name) == getattr(dense, name), name
    assert (module.intrinsic_channels, module.branches(), module.out_channels) == (4, {5: 2}, 12)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.ReLU) for layer in module.modules())
    assert all(layer.bias is not None for layer in module.modules() if isinstance(layer, nn.Conv2d))
    assert all(layer.bias is None for layer in ghost.plain.modules() if isinstance(layer, nn.Conv2d))
    images = torch.randn(2, 3, 24, 24)
    assert ghost(images).shape == model(images).shape
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_convolution_that_is_used_twice_becomes_one_module_that_is_used_twice() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(8 * 36, 2))
    ghost = ghosted(model)
    assert isinstance(ghost[1], GhostModule)
    assert ghost[1] is ghost[3]


def test_rows_of_blocks_become_stages_whose_blocks_have_a_place_for_links() -> None:
    ghost = build("ghost_resnet18", 10)
    assert all(isinstance(row, Stage) for row in (ghost.layer1, ghost.layer2, ghost.layer3, ghost.layer4))
    assert all(link_place(block) == "conv1" for block in ghost.layer1)
    assert [name for name, _ in ghost.layer1[0].named_children()] == ["conv1", "bn1", "relu", "conv2", "bn2"]
    assert not isinstance(ghost.layer2[0].downsample, Stage)
    assert list(ghost.state_dict())[:6] == list(torchvision.models.resnet18().state_dict())[:6]


class Scaled(nn.Module):
    """A block whose forward takes more than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x + scale * self.conv(x)


class Scaling(nn.Module):
    """A network that hands its blocks a second argument, by place and by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.row = nn.Sequential(Scaled(), Scaled())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.row[1](self.row[0](x, 0.5), scale=2.0)


@pytest.mark.parametrize("make", [torchvision.models.densenet121, Scaling])
def test_blocks_are_called_as_before_whatever_they_do_with_their_parts_and_arguments(make) -> None:
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(2, 3, 32, 32)
    ghost = ghosted(model, ratio=1)
    with torch.no_grad():
        torch.testing.assert_close(ghost(images), model(images))


def test_what_keep_names_stays_with_all_that_it_holds() -> None:
    model = torchvision.models.resnet18()
    ghost = ghosted(model, keep=["layer1", "*.downsample.*", "layer4.1.conv2"])
    left = {path for path, layer in ghost.named_modules() if type(layer) is nn.Conv2d and layer.groups == 1}
    left = {path for path in left if "primary_conv" not in path and "cheap_operation" not in path}
    assert left == {
        *("conv1", "layer4.1.conv2", "layer2.0.downsample.0", "layer3.0.downsample.0", "layer4.0.downsample.0"),
        *(f"layer1.{block}.conv{number}" for block in (0, 1) for number in (1, 2)),
    }


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (Mixed, {"ratio": 0}, ["ratio=0", "from 1 on"]),
        (Mixed, {"ratio": 1.5}, ["ratio=1.5", "whole number"]),
        (Mixed, {"cheap_kernel": 4}, ["cheap_kernel=4", "odd"]),
        (Mixed, {"keep": "plain"}, ["keep='plain'", "keep=['plain']"]),
        (Mixed, {"keep": ["plane"]}, ["no layer of Mixed is called 'plane'"]),
        (Mixed, {"keep": ["plain", "dilated"], "ratio": 1}, []),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3)), {}, ["nothing in Sequential", "0: the stem"]),
        (lambda: nn.Linear(3, 3), {}, ["nothing in Linear", "it has no convolution"]),
        (torchvision.models.resnext50_32x4d, {}, ["ResNeXt", "grouped convolutions"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_and_quoted(model, arguments, words) -> None:
    if not words:
        ghosted(model(), **arguments)
        return
    with pytest.raises(GhostkitError) as refusal:
        ghosted(model(), **arguments)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("ratio", [1, 2])
def test_plain_weights_of_torchvision_load_into_the_plain_parts_by_name(ratio: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = randomised(torchvision.models.resnet18(num_classes=10))
    save_file(plain.state_dict(), tmp_path / "resnet18.safetensors")
    ghost = build("ghost_resnet18", 10, ratio=ratio, weights=tmp_path / "resnet18.safetensors").eval()
    state, known = ghost.state_dict(), plain.state_dict()
    shared = state.keys() & known.keys()
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer3.0.bn2.bias",
        "layer2.0.downsample.1.weight",
        "fc.bias",
    } <= shared
    assert all(torch.equal(state[name], known[name]) for name in shared)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        same = torch.allclose(ghost(images), plain(images), rtol=1e-6, atol=1e-6)
    assert same == (ratio == 1)


def test_plain_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(torchvision.models.resnet18(num_classes=9).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(GhostkitError, match="do not fit 'ghost_resnet18'"):
        build("ghost_resnet18", 10, weights=tmp_path / "w.safetensors")
    with pytest.raises(GhostkitError, match="do not fit 'ghost_resnet34'"):
        build("ghost_resnet34", 9, weights=tmp_path / "w.safetensors")


def test_a_bare_module_has_no_room_for_a_bias_unless_the_convolution_had_one() -> None:
    module = ghost_of(nn.Conv2d(4, 6, 3, bias=False), 2, 3)
    assert not any("bias" in name for name in module.state_dict())
