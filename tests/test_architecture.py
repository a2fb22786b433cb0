"""A network as a table: every parameter and every MAC of it stands in one row."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ghostkit import AddBlock, AddBranch, AddIntrinsic, build, grow
from ghostkit.architecture import aged, describe
from ghostkit.nn import GhostBottleneck

STAGES = [[[3, 4, 12, 0, 2]], [[3, 4, 16, 0, 2]], [[3, 4, 16, 0, 1]]]
COLUMNS = "block stage kind channels hidden intrinsic branches layers links stride params macs".split()


def counted_macs(model: nn.Module, example: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(example)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("seedling", {}, (1, 1, 8, 8)),
        ("seedling", {"ratio": 1, "head_channels": 12}, (1, 1, 28, 28)),
        ("ghostnet_050", {"width": 0.3, "head_channels": 16}, (1, 1, 40, 33)),
        ("ghostnetv2_100", {"width": 0.3, "head_channels": 16}, (1, 1, 32, 32)),
    ],
)
def test_the_rows_add_up_to_the_network(name, options, shape):
    model = build(name, num_classes=7, in_channels=1, **options)
    frame = describe(model, torch.zeros(shape))
    assert list(frame.columns) == COLUMNS
    assert frame["params"].sum() == sum(parameter.numel() for parameter in model.parameters())
    assert frame["macs"].sum() == counted_macs(model, torch.zeros(shape))
    blocks = [path for path, module in model.named_modules() if isinstance(module, GhostBottleneck)]
    assert frame["block"].tolist() == ["stem", *blocks, "head"]
    assert frame["kind"].tolist() == ["stem", *["bottleneck"] * len(blocks), "head"]


def test_a_grown_network_shows_what_it_grew_and_where():
    model, example = build("seedling", num_classes=10, in_channels=1, stages=STAGES), torch.zeros(1, 1, 8, 8)
    before = describe(model, example).set_index("block")
    edits = [
        AddBranch("blocks.0.0.ghost1", 5),
        AddIntrinsic("blocks.1.0.ghost1", 3),
        AddBlock("blocks.1", after="0", hidden=6),
        AddBlock("blocks.1", after="0"),
    ]
    grow(model, edits)
    after = describe(model, example).set_index("block")
    assert after.index.tolist() == [
        "stem",
        "blocks.0.0",
        "blocks.1.0",
        "blocks.1.g2",
        "blocks.1.g1",
        "blocks.2.0",
        "head",
    ]
    assert after["stage"].tolist() == ["stem", "blocks.0", "blocks.1", "blocks.1", "blocks.1", "blocks.2", "head"]
    assert after.loc["blocks.0.0", "branches"] == before.loc["blocks.0.0", "branches"] + 1
    assert (
        after.loc["blocks.0.0", "hidden"] == before.loc["blocks.0.0", "hidden"] + before.loc["blocks.0.0", "intrinsic"]
    )
    assert after.loc["blocks.1.0", "intrinsic"] == before.loc["blocks.1.0", "intrinsic"] + 3
    assert after.loc["blocks.1.g1", "hidden"] == 6
    assert (after.loc[["blocks.1.g1", "blocks.1.g2"], "stride"] == 1).all()
    assert (after.loc[["blocks.1.g1", "blocks.1.g2"], "channels"] == before.loc["blocks.1.0", "channels"]).all()
    untouched = ["stem", "blocks.2.0", "head"]
    assert after.loc[untouched].equals(before.loc[untouched])


def test_a_network_of_ones_own_is_described_from_an_image_or_without():
    model = nn.Sequential(nn.BatchNorm2d(2), GhostBottleneck(2, 6, 4, stride=2), nn.Conv2d(4, 3, 1)).double()
    frame = describe(model)  # 28 x 28 pixels in the network's own dtype
    assert frame["block"].tolist() == ["stem", "1", "head"]
    assert frame["stride"].tolist() == [1, 2, 1]
    assert frame["params"].tolist()[0] == 4
    assert frame["macs"].tolist() == [0, frame["macs"][1], 14 * 14 * 12]
    assert describe(model, torch.zeros(1, 2, 14, 14).double())["macs"][2] == 7 * 7 * 12


def test_a_network_without_blocks_is_a_head_only():
    frame = describe(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1)))
    assert frame[["block", "channels", "params"]].to_numpy().tolist() == [["head", 3, 36]]


def test_ageing_knows_when_a_block_came_and_when_it_grew_last():
    def network(**sizes: int) -> pd.DataFrame:
        return pd.DataFrame({"block": list(sizes), "params": list(sizes.values())})

    frame = aged(None, network(stem=5, first=10), 0)
    assert frame[["born", "grown"]].to_numpy().tolist() == [[0, 0], [0, 0]]
    frame = aged(frame, network(stem=5, first=12, second=7), 1)
    assert frame[["born", "grown"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0]]
    frame = aged(frame, network(stem=5, second=9), 2)
    assert frame[["born", "grown"]].to_numpy().tolist() == [[0, 0], [1, 2]]
