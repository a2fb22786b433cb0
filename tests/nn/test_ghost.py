"""A ghost module makes few maps dearly and many cheaply, whatever its numbers are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import GhostBottleneck, GhostModule, SqueezeExcite
from ghostkit.nn.ghost import make_divisible


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (3, 7), (5, 4), (8, 13)])
def test_a_ghost_module_puts_out_what_was_asked_for(
    in_channels: int, out_channels: int, ratio: int, attention: bool
) -> None:
    module = GhostModule(in_channels, out_channels, kernel_size=3, ratio=ratio, stride=2, attention=attention)
    assert module(torch.randn(2, in_channels, 9, 6)).shape == (2, out_channels, 5, 3)
    assert (module.in_channels, module.intrinsic_channels) == (in_channels, -(-out_channels // ratio))
    assert module.branches() == ({3: ratio - 1} if ratio > 1 else {})
    assert module.attention == attention


def test_ghost_maps_are_laid_out_group_major() -> None:
    module = GhostModule(3, 16, ratio=4, cheap_kernel=5).eval()
    x = torch.randn(2, 3, 6, 6)
    out, intrinsic = module(x), module.primary_conv(x)
    conv, bn = module.cheap_operation[0], module.cheap_operation[1]
    assert torch.equal(out[:, :4], intrinsic)
    for i in range(4):
        for branch in range(3):
            channel = i * 3 + branch  # branch `branch` of intrinsic map `i`
            ghost = F.conv2d(intrinsic[:, i : i + 1], conv.weight[channel : channel + 1], padding=2)
            ghost = (ghost[:, 0] - bn.running_mean[channel]) / (bn.running_var[channel] + bn.eps).sqrt()
            torch.testing.assert_close(out[:, 4 + channel], F.relu(ghost))


def test_all_branches_of_a_kernel_run_as_one_convolution() -> None:
    module = GhostModule(4, 64, ratio=8)
    assert [type(layer) for layer in module.modules() if isinstance(layer, nn.Conv2d)] == [nn.Conv2d] * 2
    assert module.cheap_operation[0].groups == module.intrinsic_channels == 8


def test_ghost_maps_beyond_the_output_are_cut_off() -> None:
    whole, cut = GhostModule(3, 9, ratio=3), GhostModule(3, 7, ratio=3)
    cut.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(whole(x)[:, :7], cut(x))


def test_attention_gates_the_output_between_zero_and_one() -> None:
    module = GhostModule(4, 6, attention=True).eval()
    plain = GhostModule(4, 6).eval()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("short_conv")})
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        gated, free = module(x), plain(x)
    used = free > 1e-3
    gate = gated / free
    assert bool(((gate[used] > 0) & (gate[used] < 1)).all())
    assert float(gate[used].std()) > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (2, 2), (5, 3)])
def test_attention_works_on_maps_of_any_size(size: tuple[int, int]) -> None:
    module = GhostModule(4, 6, attention=True).eval()
    out = module(torch.randn(2, 4, *size))
    assert out.shape == (2, 6, *size)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(
    "numbers",
    [
        {"in_channels": 0},
        {"out_channels": 0},
        {"ratio": 0},
        {"ratio": 1.5},
        {"stride": 0},
        {"kernel_size": 2},
        {"cheap_kernel": 4},
    ],
    ids=lambda numbers: next(iter(numbers)),
)
def test_a_number_out_of_range_is_refused_and_quoted(numbers: dict[str, float]) -> None:
    with pytest.raises(GhostkitError) as refusal:
        GhostModule(**{"in_channels": 3, "out_channels": 4, **numbers})
    assert "at least 1" in str(refusal.value)
    assert str(next(iter(numbers.values()))) in str(refusal.value)


@pytest.mark.parametrize("channels", [1, 6, 13])
def test_squeeze_and_excitation_gates_each_channel_alike_everywhere(channels: int) -> None:
    layer, x = SqueezeExcite(channels, 0.25), torch.randn(3, channels, 4, 5)
    gates = layer(x) / x
    assert layer.conv_reduce.out_channels == make_divisible(0.25 * channels, 4)
    torch.testing.assert_close(gates, gates[:, :, :1, :1].expand_as(gates))
    pooled = F.relu(layer.conv_reduce(x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(gates[:, :, 0, 0], F.relu6(layer.conv_expand(pooled) + 3).flatten(1) / 6)


@pytest.mark.parametrize(
    ("numbers", "identity"),
    [
        ({"in_channels": 8, "hidden_channels": 16, "out_channels": 8}, True),
        ({"in_channels": 8, "hidden_channels": 15, "out_channels": 7}, False),
        ({"in_channels": 7, "hidden_channels": 15, "out_channels": 7, "stride": 2, "kernel_size": 5}, False),
        ({"in_channels": 5, "hidden_channels": 9, "out_channels": 5, "squeeze_excite": 0.25, "ratio": 3}, True),
        ({"in_channels": 5, "hidden_channels": 9, "out_channels": 5, "ratio": 1, "attention": True}, True),
    ],
    ids=["identity", "odd", "strided", "SE", "attention"],
)
def test_a_bottleneck_adds_its_shortcut_which_is_the_identity_where_shapes_agree(numbers: dict, identity: bool) -> None:
    block = GhostBottleneck(**numbers).eval()
    x = torch.randn(2, numbers["in_channels"], 8, 8)
    side = 8 // numbers.get("stride", 1)
    assert block(x).shape == (2, numbers["out_channels"], side, side)
    assert (len(block.shortcut) == 0) == identity
    nn.init.zeros_(block.ghost2.primary_conv[1].weight)  # the linear module now puts out zeros
    torch.testing.assert_close(block(x), block.shortcut(x))
    kernels = {name: layer.kernel_size[0] for name, layer in block.named_modules() if isinstance(layer, nn.Conv2d)}
    strided = {name for name, layer in block.named_modules() if getattr(layer, "stride", 1) == (2, 2)}
    if numbers.get("stride", 1) == 2:  # the block's kernel is that of the strided and of the shortcut's convolution
        assert strided == {"conv_dw", "shortcut.0"}
        assert {name for name, kernel in kernels.items() if kernel == 5} == strided


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 4), (16 * 0.5, 8), (24 * 1.3, 32), (72 * 0.25, 20), (40 * 0.5, 20), (10, 12)]
)
def test_channels_are_rounded_to_fours_and_never_much_below(channels: float, expected: int) -> None:
    assert make_divisible(channels, 4) == expected
    assert make_divisible(channels, 4) >= 0.9 * channels
