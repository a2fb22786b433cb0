"""The network's few freedoms: small images, any channels, any ratio, and a tap at the end of each stage."""

from __future__ import annotations

import pytest
import torch

from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, grow
from ghostkit.nn import GhostNet, build
from ghostkit.nn.ghostnet import Row
from ghostkit.nn.taps import taps


@pytest.mark.parametrize("name", ["ghostnet_050", "ghostnetv2_100"])
def test_features_are_tapped_at_the_end_of_each_stage(name: str) -> None:
    model = build(name, num_classes=3).eval()
    images = torch.randn(1, 3, 96, 96)
    found = taps(model, images)
    assert [96 // tap.shape[-1] for tap in found] == [2, 4, 8, 16, 32]
    ends = [model.blocks[stage][-1].ghost2.out_channels for stage in (0, 2, 4, 6, 8)]  # the last before the next halves
    assert [tap.shape[1] for tap in found] == ends
    head = model.act2(model.conv_head(model.global_pool(model.blocks[-1](found[-1]))))
    torch.testing.assert_close(model.classifier(head.flatten(1)), model(images))


def test_features_follow_a_network_that_grew() -> None:
    model = build("ghostnet_050", num_classes=3, width=0.25).eval()
    images = torch.randn(1, 3, 64, 64)
    before = taps(model, images)
    for stage in range(9):
        grow(model, AddBlock(f"blocks.{stage}", "0"))
    for old, new in zip(before, taps(model, images), strict=True):
        torch.testing.assert_close(new, old)


def test_a_small_network_has_taps_too() -> None:
    sides = [tap.shape[-1] for tap in taps(build("seedling"), torch.randn(1, 3, 16, 16))]
    assert sides == [8, 4, 2]
    flat = GhostNet(((Row(3, 4, 4, 0, 1),),), head_channels=0, stem_stride=1)
    assert [tap.shape[-1] for tap in taps(flat, torch.randn(1, 3, 6, 6))] == [6]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize(("in_channels", "side"), [(1, 8), (2, 1), (4, 33)])
def test_any_ratio_any_channels_and_any_size_of_image_work(
    version: int, ratio: int, in_channels: int, side: int
) -> None:
    model = build(
        "ghostnet_050", 7, in_channels, width=0.25, head_channels=8, ratio=ratio, version=version, stem_stride=1
    )
    images = torch.randn(4, in_channels, side, side)
    assert model.eval()(images).shape == (4, 7)
    model.train()(torch.randn(4, in_channels, 33, 33)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_a_head_the_classifier_reads_the_pooled_maps() -> None:
    model = GhostNet(((Row(3, 8, 8, 0, 1),),), num_classes=5, head_channels=0)
    assert (model.classifier.in_features, model(torch.randn(2, 3, 8, 8)).shape) == (8, (2, 5))


def test_rows_may_be_plain_numbers_as_json_holds_them() -> None:
    rows = [[3, 8, 8, 0, 2], [5, 8, 8, 0.25, 1]]
    plain, named = (GhostNet(stages, num_classes=3) for stages in ([rows], [[Row(*row) for row in rows]]))
    assert str(plain) == str(named)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"width": 0}, "width=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"in_channels": -1}, "in_channels=-1"),
        ({"head_channels": -1}, "head_channels=-1"),
        ({"dropout": 1.0}, r"dropout=1\.0.*\[0, 1\)"),
        ({"version": 3}, "version=3.*1 or 2"),
        ({"stem_stride": 4}, "stem_stride=4.*1 or 2"),
        ({"ratio": 0}, "ratio=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_number_out_of_range_is_refused_and_quoted(numbers: dict, words: str) -> None:
    with pytest.raises(GhostkitError, match=words):
        GhostNet(**numbers)
