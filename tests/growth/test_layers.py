"""A rule for each kind of layer, and two lines for a layer of one's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    RemoveIntrinsic,
    WidenStage,
    grow,
    identity_like,
    sites,
    widen_in,
    widen_out,
)
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.layers import is_channelwise, is_consumer
from ghostkit.growth.surgery import Surgery
from ghostkit.nn import GhostBottleneck, GhostModule, SqueezeExcite, build


class Mix(nn.Module):
    """A user's dense layer over channels, with a weight of its own."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.weight, x)


class Shift(nn.Module):
    """A user's channel-wise layer: one number for every channel is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift[:, None, None]


class Rest(nn.Module):
    """A user's residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x))


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised over all that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


class Same(nn.Conv2d):
    """A convolution that pads by the size that it finds, which no trace knows."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(F.pad(x, (-x.shape[3] % 2 if x.shape[3] > 2 else 0, 0)), weight, bias)


class Cosine(nn.Linear):
    """A head that compares directions."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight))


class Named(nn.Conv2d):
    """A convolution as any other, by another name."""


class Halved(nn.Conv2d):
    """A convolution with a forward and rules of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Activated(nn.BatchNorm2d):
    """BN and activation in one layer, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


for rule in (widen_in, widen_out):
    rule.register(Halved)(rule.dispatch(nn.Conv2d))


@widen_in.register(Mix)
def _(layer: Mix, channels: ChannelMap, surgery: Surgery) -> None:
    surgery.remap(layer, "weight", 1, channels, shared=True)


@widen_out.register(Shift)
def _(layer: Shift, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    surgery.remap(layer, "shift", 0, channels)


@identity_like.register(Rest)
def _(block: Rest, hidden: int | None = None) -> tuple[nn.Module, tuple[str, str]]:
    new = Rest(block.conv.out_channels)
    nn.init.zeros_(new.bn.weight)
    return new, ("conv", "bn")


@pytest.mark.parametrize(
    ("layer", "channelwise", "consumer"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), True, False),
        (nn.Conv2d(4, 4, 3), False, True),
        (nn.Conv2d(4, 4, 3, groups=2), False, False),
        (nn.Conv2d(4, 8, 3, groups=4), False, False),  # several outputs a channel: they would have to be told apart
        (nn.BatchNorm2d(4), True, False),
        (SqueezeExcite(4), True, False),
        (nn.ReLU(), True, False),
        (nn.AdaptiveAvgPool2d(1), True, False),
        (nn.Linear(4, 4), False, True),
        (GhostModule(4, 4), False, True),
        (nn.GroupNorm(2, 4), False, False),
        (nn.Softmax(1), False, False),
        (Mix(4, 4), False, True),
        (Shift(4), True, False),
        (Standardised(4, 4, 3), False, False),
        (Standardised(4, 4, 3, groups=4), False, False),
        (Same(4, 4, 3), False, False),
        (Cosine(4, 4), False, False),
        (Named(4, 4, 3), False, True),
        (Halved(4, 4, 3), False, True),
        (Halved(4, 4, 3, groups=4), True, False),
        (Activated(4), True, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_is_known_for_what_it_does_to_channels(layer: nn.Module, channelwise: bool, consumer: bool) -> None:
    assert (is_channelwise(layer), is_consumer(layer)) == (channelwise, consumer)


def test_a_layer_that_computes_otherwise_than_the_class_it_inherits_its_rule_from_stops_growth_at_it_alone() -> None:
    middle = [Standardised(6, 6, 3), Activated(6), Same(6, 5, 1), nn.Conv2d(5, 4, 1), Activated(4), Halved(4, 4, 1)]
    model = nn.Sequential(nn.Conv2d(3, 6, 1), *middle, nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Flatten(), Cosine(8 * 36, 2))
    model = model.double().eval()
    assert [site.id for site in sites(model)] == ["4", "6"]
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    before = model(images)
    grow(model, [WidenStage("4", 2), WidenStage("6", 2)])
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "edit", [AddBranch("0", 3), AddBranch("0", 5), AddIntrinsic("0", 2), AddIntrinsic("0", 2, "split")], ids=str
)
def test_layers_of_ones_own_grow_once_they_have_a_rule(edit: AddBranch | AddIntrinsic) -> None:
    model = nn.Sequential(GhostModule(3, 7), Shift(7), nn.BatchNorm2d(7), Mix(7, 4), nn.BatchNorm2d(4)).double()
    [site] = sites(model)
    assert (site.through, site.consumers) == (("1", "2"), ("3",))
    images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    before = model(images)
    grow(model, edit)
    assert model[3].weight.shape[1] == len(model[1].shift) == model[0].out_channels > 7
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)


def test_a_block_of_ones_own_is_added_once_it_has_a_rule() -> None:
    model = nn.Sequential(nn.Sequential(Rest(4), Rest(4)), GhostModule(4, 4), nn.Conv2d(4, 2, 1)).double()
    images = torch.randn(4, 4, 5, 5, dtype=torch.float64)
    before = model(images)
    grow(model, AddBlock("0", "0"), probe=images)
    assert [type(block) for block in model[0]] == [Rest] * 3
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "activation",
    [
        *(
            nn.ReLU(),
            nn.ReLU6(),
            nn.LeakyReLU(0.1),
            nn.RReLU(),
            nn.PReLU(),
            nn.PReLU(8),
            nn.ELU(),
            nn.SELU(),
            nn.CELU(),
        ),
        *(nn.GELU(), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardswish(), nn.Tanh(), nn.Hardtanh()),
        *(nn.Tanhshrink(), nn.Hardshrink(), nn.Softshrink(), nn.Softplus(), nn.Softsign(), nn.LogSigmoid()),
        nn.Threshold(0.1, 20.0),
    ],
    ids=str,
)
def test_channels_pass_through_every_activation_and_grow(activation: nn.Module) -> None:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    model = nn.Sequential(GhostModule(3, 8), activation, depthwise, nn.Conv2d(8, 4, 3, padding=1)).double().eval()
    [site] = sites(model)
    assert (site.id, site.through, site.consumers) == ("0", ("1", "2"), ("3",))
    images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    before = model(images)
    for edit in (AddBranch("0", 5), AddIntrinsic("0", 2), AddIntrinsic("0", 2, "split")):
        grow(model, edit)
        torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)
    grow(model, RemoveIntrinsic("0", (0, 3)))
    assert model[0].out_channels == model[2].groups != 8
    assert model(images).shape == before.shape


def test_channels_pass_through_bn_that_is_synchronised_and_no_block_is_added_behind_one() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(build("seedling", num_classes=3)).double()
    known = {(site.id, site.axis) for site in sites(build("seedling", num_classes=3))}
    assert {(site.id, site.axis) for site in sites(model)} == {site for site in known if site[1] != "depth"}
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    before = model.eval()(images)
    grow(model, [AddIntrinsic("blocks.1.0.ghost1", 2), WidenStage("conv_stem", 4)], probe=images)
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)
    assert model.bn1.num_features == len(model.bn1.running_var) == model.conv_stem.out_channels


def test_new_channels_get_a_slope_where_each_has_its_own() -> None:
    model = nn.Sequential(GhostModule(3, 4), nn.PReLU(4), nn.Conv2d(4, 4, 1), nn.PReLU(), nn.Conv2d(4, 4, 1))
    nn.init.constant_(model[1].weight, 0.5)
    assert [site.id for site in sites(model)] == ["0", "2"]
    grow(model, [AddIntrinsic("0", 1), WidenStage("2", 2)])
    assert model[1].weight.tolist() == [0.5, 0.5, 0.25, 0.5, 0.5, 0.25]
    assert (model[1].num_parameters, model[3].num_parameters) == (6, 1)


@pytest.mark.parametrize(
    "function",
    [
        *(F.relu, F.relu6, F.leaky_relu, F.rrelu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh),
        *(F.hardsigmoid, F.hardswish, F.hardtanh, F.tanhshrink, F.hardshrink, F.softshrink, F.softplus, F.softsign),
        *(F.logsigmoid, torch.relu, torch.sigmoid, torch.tanh, lambda x: F.threshold(x, 0.1, 20.0)),
        *(torch.selu, torch.celu, torch.rrelu, torch.hardshrink, lambda x: torch.threshold(x, 0.1, 20.0)),
        *(
            F.relu_,
            F.elu_,
            F.selu_,
            F.celu_,
            F.leaky_relu_,
            F.rrelu_,
            F.hardtanh_,
            lambda x: F.threshold_(x, 0.1, 20.0),
        ),
        *(torch.relu_, torch.selu_, torch.celu_, torch.sigmoid_, torch.tanh_),
        *(lambda x, name=name: getattr(x, name)() for name in ("relu_", "sigmoid_", "tanh_", "hardshrink")),
    ],
)
def test_channels_pass_through_every_activation_that_is_a_function(function: Callable[[Tensor], Tensor]) -> None:
    class Applied(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](function(self[0](x)))

    [site] = sites(Applied(GhostModule(3, 4), nn.Conv2d(4, 2, 1)))
    assert (site.id, site.consumers) == ("0", ("1",))


@pytest.mark.parametrize(
    ("rule", "layer", "words"),
    [
        (widen_out, nn.GroupNorm(2, 4), "GroupNorm gains output channels; register one with widen_out.register"),
        (widen_in, nn.GroupNorm(2, 4), "GroupNorm gains input channels; register one with widen_in.register"),
        (widen_in, nn.Conv2d(4, 4, 3, groups=2), "groups=2; only dense convolutions"),
    ],
)
def test_a_layer_without_a_rule_is_refused_with_what_to_register(rule: Callable, layer: nn.Module, words: str) -> None:
    surgery = Surgery(layer, torch.Generator())
    with pytest.raises(GhostkitError, match=words):
        rule(layer, ChannelMap.of([0, 1, 2, 3, -1], before=4), surgery)


def test_a_block_without_a_rule_is_refused_with_what_to_register() -> None:
    with pytest.raises(GhostkitError, match=r"block like Linear; register one with identity_like\.register"):
        identity_like(nn.Linear(1, 1))


@pytest.mark.parametrize(
    "block",
    [
        GhostBottleneck(6, 12, 8, kernel_size=5, stride=2, squeeze_excite=0.25),
        GhostBottleneck(8, 13, 7, ratio=3),
        GhostBottleneck(8, 8, 8, ratio=1),
        GhostBottleneck(8, 16, 8, attention=True, cheap_kernel=5),
    ],
    ids=["strided with SE", "cut off", "plain", "attention"],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("hidden", [None, 5])
def test_a_new_block_is_like_its_neighbour_and_passes_its_input_on(
    block: GhostBottleneck, training: bool, hidden: int | None
) -> None:
    new, (conv, bn) = identity_like(block, hidden)
    new.train(training)
    x = torch.randn(4, block.ghost2.out_channels, 6, 6)
    assert torch.equal(new(x), x)
    assert new.ghost1.out_channels == (hidden or block.ghost1.out_channels)
    assert (new.stride, new.ghost1.attention, new.se is None) == (1, block.ghost1.attention, block.se is None)
    assert new.get_submodule(bn) is new.ghost2.primary_conv[1]
    # All of the last BNs are held at zero: a ghost BN at one, fed with zeros, would multiply gradients by 300.
    assert not any(layer.weight.any() for layer in new.ghost2.modules() if isinstance(layer, nn.BatchNorm2d))
    assert isinstance(new.get_submodule(conv), nn.Conv2d)
    assert list(new.ghost1.branches()) == list(block.ghost1.branches())
