"""The hybrids cost what they should: torchvision's numbers without ghosts, the paper's with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from ghostkit.costs import cost
from ghostkit.errors import GhostkitError
from ghostkit.nn import GhostModule, build

PLAIN = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
PLAIN += ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]
# name, options, side of the images, the paper's parameters (millions) and MACs (millions)
PAPER = [
    ("ghost_resnet50", {"ratio": 2}, 224, 13.0, 2200),
    ("ghost_resnet50", {"ratio": 4}, 224, 6.5, 1200),
    ("ghost_resnet56", {"ratio": 2, "num_classes": 10}, 32, 0.43, 63),
]


@pytest.mark.parametrize("name", PLAIN)
def test_without_ghosts_a_hybrid_is_torchvisions_network_layer_by_layer(name: str) -> None:
    with torch.device("meta"):
        ghost, plain = build(f"ghost_{name}", ratio=1), getattr(torchvision.models, name)()
    shapes = {key.replace(".primary_conv.0", ""): tensor.shape for key, tensor in ghost.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in plain.state_dict().items()}


def priced(name: str, options: dict, side: int) -> tuple[nn.Module, int, int]:
    model = build(name, **options)
    price = cost(model, torch.zeros(1, 3, side, side), measure=False)
    return model, price.params, price.macs


@pytest.mark.parametrize(("name", "options", "side", "params", "macs"), PAPER)
def test_costs_are_the_papers_but_for_the_classifier_and_the_cheap_operations(
    name, options, side, params, macs
) -> None:
    model, ours_params, ours_macs = priced(name, options, side)
    classifier = model.fc.weight.numel() * (1 - 1 / options["ratio"])  # which the paper's count divides by s as well
    assert (ours_params - classifier) / 1e6 == pytest.approx(params, rel=0.03)
    cheap = sum(  # which the paper's count for CIFAR leaves out
        operation.conv.weight.numel() * (side // (1 << (int(path[5]) - 1))) ** 2
        for path, module in model.named_modules()
        if isinstance(module, GhostModule)
        for _, operation in module.operations()
    )
    assert (ours_macs - cheap * (side == 32)) / 1e6 == pytest.approx(macs, rel=0.03)


@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("name", ["ghost_resnet20", "ghost_mobilenet_v2", "ghost_mobilenet_v3_large"])
def test_the_ratio_divides_what_ghosts_replace(name: str, ratio: int) -> None:
    plain, ghost = (build(name, 10, ratio=s) for s in (1, ratio))
    dense = sum(layer.primary.weight.numel() for layer in plain.modules() if isinstance(layer, GhostModule))
    primary = sum(layer.primary.weight.numel() for layer in ghost.modules() if isinstance(layer, GhostModule))
    assert primary == pytest.approx(dense / ratio, rel=0.05)
    assert ghost(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ghost_resnet18", {"small_images": True, "width": 8}),
        ("ghost_resnet50", {"width": 4, "layers": [1, 2]}),
        ("ghost_mobilenet_v2", {"stem_stride": 1, "width": 0.25, "stages": [[1, 8, 1, 1], [3, 12, 2, 2]]}),
        ("ghost_mobilenet_v3_small", {"stem_stride": 1, "width": 0.25}),
    ],
)
def test_small_images_grey_ones_and_other_widths_are_options_that_a_recipe_holds(name: str, options: dict) -> None:
    model = build(name, 7, 1, **options).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    again = build(**json.loads(json.dumps(model.recipe)))
    assert repr(again) == repr(model)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(("small_images", "side"), [(False, 8), (True, 32)])
def test_the_stem_for_small_images_keeps_their_resolution(small_images: bool, side: int) -> None:
    model = build("ghost_resnet20", 10, small_images=small_images)
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape[-1] == side


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ghost_resnet18", {"width": 0}, "width=0"),
        ("ghost_resnet18", {"block": "wide"}, "block='wide'"),
        ("ghost_resnet18", {"layers": []}, "layers=[]"),
        ("ghost_resnet18", {"ratio": 0}, "ratio=0"),
        ("ghost_resnet18", {"keep": ["layer9"]}, "'layer9'"),
        ("ghost_mobilenet_v2", {"stem_stride": 3}, "stem_stride=3"),
        ("ghost_mobilenet_v2", {"cheap": 3}, "cheap"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_and_quoted(name, options, words) -> None:
    with pytest.raises(GhostkitError) as refusal:
        build(name, 10, **options)
    assert words in str(refusal.value)


TRAINED = """
import torch
import ghostkit
torch.set_num_threads(1)
model = ghostkit.build("ghost_resnet20", 10, 1, width=2)
images, targets = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
for _ in range(40):
    torch.nn.functional.cross_entropy(model(images), targets).backward()
"""


def test_a_thin_residual_network_is_laid_out_so_that_its_training_stays_within_its_memory():
    """The weight gradient of a strided 1x1 convolution of few channels is not safe in channels-last."""
    thin, usual = build("ghost_resnet20", width=2), build("ghost_resnet20")
    assert all(parameter.is_contiguous() for parameter in thin.parameters())
    assert usual.layer1[0].conv1.primary_conv[0].weight.is_contiguous(memory_format=torch.channels_last)
    checked = {**os.environ, "MALLOC_CHECK_": "3"}
    assert subprocess.run([sys.executable, "-c", TRAINED], env=checked, check=False).returncode == 0
