"""Any host that can be asked for by name carries any head, at its legal sizes, and grows beneath it."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import ghostkit
from ghostkit.checkpoint import stored
from ghostkit.costs import head_macs, head_params, macs, params
from ghostkit.growth.sites import sites
from ghostkit.nn.taps import taps, taps_of, trunk
from ghostkit.nn.zoo import names

CLASSES = 4
COARSEST = {"ghost_resnet20": 4, "ghost_resnet56": 4, "seedling": 8}  # the others' coarsest stride is 32


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("name", names())
def test_a_host_carries_a_head(name, task):
    model = ghostkit.build(name, CLASSES, 3, task=task).eval()
    side = 2 * COARSEST.get(name, 32)
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        output = model(images)
    if task == "segmentation":
        assert output.shape == (1, CLASSES, side, side)
    else:
        assert model.strides[-1] == COARSEST.get(name, 32)
        assert output["cls_logits"].shape[-1] == CLASSES
        assert sum(model.places(images)[1]) == output["cls_logits"].shape[1]
    known = sites(model)
    assert {site.axis for site in known} == {"width", "stream", "depth"}
    assert all(site.id.startswith("backbone.") for site in known), "the head stays as it is"
    readers = {path for site in known for path in site.consumers if not path.startswith("backbone.")}
    assert readers, "and reads what grows"


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        *((name, [2, 4, 8, 16, 32]) for name in ("ghostnet_100", "ghost_mobilenet_v2", "ghost_mobilenet_v3_large")),
        ("ghost_resnet18", [2, 4, 8, 16, 32]),
        ("ghost_resnet20", [2, 4]),
        ("seedling", [2, 4, 8]),
    ],
)
def test_a_host_is_tapped_where_its_stages_end(name, strides):
    model = ghostkit.build(name, CLASSES, 3)
    found = taps_of(model, 3)
    assert [stride for _, stride in found] == strides
    with torch.no_grad():
        maps = taps(model.eval(), torch.zeros(1, 3, 64, 64))
    assert [(level.shape[1], 64 // level.shape[2]) for level in maps] == found


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_network_with_a_head_is_read_from_its_checkpoint(task, tmp_path):
    model = ghostkit.build("seedling", CLASSES, 3, task=task)
    ghostkit.save(model, tmp_path)
    read = ghostkit.load(tmp_path).state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in model.state_dict().items())


def test_a_ghosted_network_of_torchvisions_is_tapped_too():
    plain = torchvision.models.resnet18(num_classes=CLASSES)
    assert [stride for _, stride in taps_of(ghostkit.ghostify(plain), 3)] == [2, 4, 8, 16, 32]


def test_the_parameters_and_macs_of_the_head_are_counted_apart():
    model = ghostkit.build("seedling", CLASSES, 1, task="detection", stem_stride=2)
    example = torch.zeros(1, 1, 64, 64)
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert head_params(model) == params(model) - backbone > 0
    alone = ghostkit.build("seedling", CLASSES, 1, stem_stride=2)
    spared = macs(alone.blocks[-1], torch.zeros(1, 8, 4, 4)) + alone.classifier.weight.numel()
    assert macs(model, example) - head_macs(model, example) == macs(alone, example) - spared
    plain = ghostkit.build("seedling", CLASSES, 1)
    assert (head_params(plain), head_macs(plain, example)) == (0, 0)


def test_weights_of_a_classifier_start_a_detectors_backbone(tmp_path):
    torch.manual_seed(1)
    classifier = ghostkit.build("seedling", 7, 1)
    save_file(stored(classifier.state_dict()), tmp_path / "classifier.safetensors")
    for task in ("detection", "segmentation"):
        model = ghostkit.build("seedling", CLASSES, 1, weights=tmp_path / "classifier.safetensors", task=task)
        mine, theirs = model.backbone.state_dict(), classifier.state_dict()
        assert mine
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


class Pooled(nn.Module):
    """A user's own network, which lowers the resolution in one way or another."""

    def __init__(self, lowering):
        super().__init__()
        self.rows = nn.ModuleList(
            nn.Sequential(lowering(before), nn.Conv2d(before, after, 3, padding=1))
            for before, after in ((3, 8), (8, 16), (16, 32))
        )


@trunk.register
def _(host: Pooled):
    return list(host.rows)


@pytest.mark.parametrize(
    "lowering",
    [
        lambda channels: nn.AvgPool2d(2),
        lambda channels: nn.MaxPool2d(3, stride=2, padding=1),
        lambda channels: nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(channels, channels, 2, stride=2)
        ),
    ],
    ids=["average", "maximum", "convolution"],
)
def test_a_users_network_is_tapped_however_it_lowers_the_resolution(lowering):
    assert taps_of(Pooled(lowering), 3) == [(8, 2), (16, 4), (32, 8)]


def test_a_pooling_that_lowers_nothing_ends_no_stage():
    assert taps_of(Pooled(lambda channels: nn.AvgPool2d(3, stride=1, padding=1)), 3) == [(32, 1)]
