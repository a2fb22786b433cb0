"""How each kind of layer gains channels: one ``singledispatch`` function per side.

:func:`widen_out` makes a layer's *output* channels follow a :class:`~ghostkit.growth.channels.ChannelMap`;
:func:`widen_in` its *input* channels. Neither touches the layer: they write what is to be done into a
:class:`~ghostkit.growth.surgery.Surgery`, which applies it later, whole or not at all.

For a layer of your own, register what it needs::

    @widen_in.register
    def _(layer: MyConv, channels, surgery):
        surgery.remap(layer, "weight", 1, channels, shared=True)
        surgery.assign(layer, "in_channels", channels.size)

    @widen_out.register
    def _(layer: MyConv, channels, surgery, rows=None):
        fresh = default_rows(layer.weight, int(channels.fresh.sum()), surgery.generator)
        surgery.remap(layer, "weight", 0, channels, fresh)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from ghostkit.errors import GhostkitError
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import GhostModule, SqueezeExcite
from ghostkit.nn.links import CrossLayerLink

__all__ = [
    "is_channelwise",
    "is_consumer",
    "is_producer",
    "moved_by",
    "widen_in",
    "widen_out",
]

# Layers without weights that treat every channel alike.
CHANNELWISE_LAYERS = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.LeakyReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Mish,
    nn.Tanh,
    nn.Hardtanh,
    nn.Tanhshrink,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Softplus,
    nn.Softsign,
    nn.LogSigmoid,
    nn.Threshold,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)

# Layers that surely make maps (B, C, H, W).
MAP_LAYERS = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    GhostModule,
    SqueezeExcite,
    SqueezeExcitation,
    CrossLayerLink,
)


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether ``layer`` is a convolution that keeps every channel to itself."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def is_weightless(layer: nn.Module) -> bool:
    """Return whether ``layer`` has nothing to widen, and so may be called in several places."""
    return isinstance(layer, CHANNELWISE_LAYERS) or (isinstance(layer, nn.PReLU) and layer.num_parameters == 1)


def makes_maps(layer: nn.Module | None, of_maps: bool) -> bool:
    """Return whether what ``layer`` makes surely has positions behind its channels.

    Args:
        layer: the layer; None for a function that keeps the shape of what it reads.
        of_maps: whether it reads such maps.
    """
    keeps = layer is None or isinstance(layer, (*CHANNELWISE_LAYERS, nn.PReLU, nn.SyncBatchNorm))
    return isinstance(layer, MAP_LAYERS) or (keeps and of_maps)


def is_channelwise(layer: nn.Module) -> bool:
    """Return whether every output channel of ``layer`` is made from the input channel of the same number.

    A layer whose two sides are widened apart has a rule for each; one that has a rule for :func:`widen_out` alone keeps
    its channels to themselves, as BN and SE do.
    """
    if isinstance(layer, nn.Conv2d):
        return is_depthwise(layer) and holds(widen_out, layer)
    return isinstance(layer, CHANNELWISE_LAYERS) or (holds(widen_out, layer) and not knows(widen_in, layer))


def is_consumer(layer: nn.Module, of_maps: bool = False) -> bool:
    """Return whether :func:`widen_in` has a rule for ``layer``; a linear layer reads the positions of maps.

    Args:
        layer: the layer.
        of_maps: whether it surely reads maps, with positions behind their channels.
    """
    if of_maps and widen_in.dispatch(type(layer)) is widen_in.dispatch(nn.Linear):
        return False
    return holds(widen_in, layer) and not (isinstance(layer, nn.Conv2d) and layer.groups > 1)


def is_producer(layer: nn.Module) -> bool:
    """Return whether ``layer`` makes channels of its own that growth can add to."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and holds(widen_out, layer)
    return isinstance(layer, GhostModule) or (holds(widen_out, layer) and holds(widen_in, layer))


def has_rule(layer: nn.Module) -> bool:
    """Return whether there is a rule for layers of this kind, which are therefore not looked into when tracing."""
    return knows(widen_in, layer) or knows(widen_out, layer)


def knows(rules: Any, layer: nn.Module) -> bool:
    """Return whether the ``singledispatch`` function ``rules`` has a rule for this kind of layer."""
    return rules.dispatch(type(layer)) is not rules.dispatch(object)


def holds(rules: Any, layer: nn.Module) -> bool:
    """Return whether ``rules`` has a rule that ``layer`` keeps: an inherited one, if it computes as that class does.

    A convolution that standardises its weights over all that it reads, say, is none of PyTorch's. A BN that has an
    activation of its own, as timm's, still leaves each channel to itself.
    """
    ruled = next(base for base in type(layer).__mro__ if base in rules.registry)
    return knows(rules, layer) and (computes_as(layer, ruled) or issubclass(ruled, nn.BatchNorm2d))


def computes_as(layer: nn.Module, kind: type) -> bool:
    """Return whether ``layer`` is of a ``kind``, and its forward is that of this kind."""
    own = type(layer)
    alike = all(getattr(own, name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward"))
    return alike and isinstance(layer, kind)


def is_plain(layer: nn.Module) -> bool:
    """Return whether ``layer`` computes as PyTorch's convolution or linear layer, of which everything is known."""
    return computes_as(layer, nn.Conv2d) or computes_as(layer, nn.Linear)


@dataclass(eq=False)
class Listening(Surgery):
    """A surgery that notes the tensors which a rule moves, and along which dimension, whatever their size."""

    moves: list[tuple[Tensor, int]] = field(default_factory=list)

    def remap(self, layer: nn.Module, name: str, dim: int, *_rest: Any, **_named: Any) -> None:
        """Note that tensor ``name`` of ``layer`` moves along ``dim``."""
        self.moves.append((getattr(layer, name), dim))


def moved_by(rule: Any, layer: nn.Module) -> tuple[Tensor, int]:
    """Return the first tensor that a rule moves, and along which dimension: a layer of one's own may call it anything.

    Args:
        rule: :func:`widen_in` or :func:`widen_out`.
        layer: the layer.

    Raises:
        GhostkitError: if there is no rule, or it moves nothing.
    """
    surgery = Listening(layer, torch.Generator())
    rule(layer, ChannelMap.of([0], before=1), surgery)
    if not surgery.moves:
        raise GhostkitError(f"the rule of {rule.__name__} for {type(layer).__name__} moves no tensor by surgery.remap")
    return surgery.moves[0]


def channels_made(layer: nn.Module) -> int:
    """Return how many channels ``layer``, a producer, puts out."""
    stated = getattr(layer, "out_channels", None)
    if isinstance(stated, int):
        return stated
    tensor, dim = moved_by(widen_out, layer)
    return tensor.shape[dim]


def computes_weights(layer: nn.Module) -> bool:
    """Return whether a weight in ``layer`` is no parameter but computed from some, as weight norm and pruning have it.

    Such a tensor lies on its layer as a plain attribute, beside parameters called after it (``weight_orig``).
    """

    def is_computed(part: nn.Module) -> bool:
        plain = [name for name, value in vars(part).items() if name[0] != "_" and isinstance(value, Tensor)]
        after = [name.rpartition("_")[0] for name in part._parameters]
        return "parametrizations" in part._modules or any(name in (*after, "weight", "bias") for name in plain)

    return any(map(is_computed, layer.modules()))


def reader(consumer: nn.Module) -> nn.Module:
    """Return the layer whose weight reads a consumer's input (of a ghost module, the primary convolution)."""
    return consumer.primary if isinstance(consumer, GhostModule) else consumer


def default_rows(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random rows (count, ...) for ``weight``, distributed as PyTorch starts a convolution."""
    bound = max(weight[0].numel(), 1) ** -0.5
    rows = torch.empty(count, *weight.shape[1:], dtype=torch.float64)
    return rows.uniform_(-bound, bound, generator=generator)


def centre_taps(weight: Tensor, count: int) -> Tensor:
    """Return ``count`` rows of a depthwise ``weight`` that pass a map on as it is."""
    rows = torch.zeros(count, *weight.shape[1:], dtype=torch.float64)
    rows[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = 1.0
    return rows


@singledispatch
def widen_out(layer: nn.Module, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    """Make the output channels of ``layer`` follow ``channels``.

    Args:
        layer: the layer to widen; it is not touched.
        channels: where each output channel comes from.
        surgery: takes down what is to be done.
        rows: (fresh, ...) weights of the fresh channels, where a candidate found them; random otherwise.

    Raises:
        GhostkitError: if there is no rule for this kind of layer.
    """
    if isinstance(layer, CHANNELWISE_LAYERS):
        return
    raise GhostkitError(
        f"no rule says how {type(layer).__name__} gains output channels; register one with widen_out.register"
    )


@widen_out.register(nn.BatchNorm2d)
@widen_out.register(nn.SyncBatchNorm)
def _(
    layer: nn.BatchNorm2d | nn.SyncBatchNorm, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None
) -> None:
    surgery.assign(layer, "num_features", channels.size)
    gamma = 1.0 if rows is None else rows
    for name, start in (("weight", gamma), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        if getattr(layer, name) is not None:
            surgery.remap(layer, name, 0, channels, start)
    surgery.measure(layer, channels)


@widen_out.register
def _(layer: nn.PReLU, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    if not is_weightless(layer):  # a slope for each channel, and not one for all
        surgery.assign(layer, "num_parameters", channels.size)
        surgery.remap(layer, "weight", 0, channels, layer.init)


@widen_out.register
def _(layer: nn.Conv2d, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    if is_depthwise(layer):
        widen_depthwise(layer, channels, surgery, rows)
        return
    if rows is None:
        rows = default_rows(layer.weight, int(channels.fresh.sum()), surgery.generator)
    surgery.assign(layer, "out_channels", channels.size)
    surgery.remap(layer, "weight", 0, channels, rows)
    if layer.bias is not None:
        surgery.remap(layer, "bias", 0, channels, 0.0)


def widen_depthwise(layer: nn.Conv2d, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    """Make both sides of a depthwise convolution follow ``channels``, be it of a single channel."""
    for name in ("in_channels", "groups", "out_channels"):
        surgery.assign(layer, name, channels.size)
    fresh = centre_taps(layer.weight, int(channels.fresh.sum())) if rows is None else rows
    surgery.remap(layer, "weight", 0, channels, fresh)
    if layer.bias is not None:
        surgery.remap(layer, "bias", 0, channels, 0.0)


@widen_out.register
def _(layer: SqueezeExcite, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    widen_in(layer.conv_reduce, channels, surgery)
    widen_out(layer.conv_expand, channels, surgery)


@widen_out.register
def _(layer: SqueezeExcitation, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    widen_in(layer.fc1, channels, surgery)
    widen_out(layer.fc2, channels, surgery)


@widen_out.register
def _(layer: CrossLayerLink, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    surgery.assign(layer.projection, "out_features", channels.size)
    surgery.remap(layer.projection, "weight", 0, channels)


@singledispatch
def widen_in(layer: nn.Module, channels: ChannelMap, surgery: Surgery) -> None:
    """Make the input channels of ``layer`` follow ``channels``; the weights of fresh ones start at zero.

    Args:
        layer: the layer to widen; it is not touched.
        channels: where each input channel comes from.
        surgery: takes down what is to be done.

    Raises:
        GhostkitError: if there is no rule for this kind of layer.
    """
    raise GhostkitError(
        f"no rule says how {type(layer).__name__} gains input channels; register one with widen_in.register"
    )


@widen_in.register
def _(layer: nn.Conv2d, channels: ChannelMap, surgery: Surgery) -> None:
    if layer.groups != 1:
        raise GhostkitError(f"{layer} has groups={layer.groups}; only dense convolutions can read new channels")
    surgery.assign(layer, "in_channels", channels.size)
    surgery.remap(layer, "weight", 1, channels, shared=True)


@widen_in.register
def _(layer: nn.Linear, channels: ChannelMap, surgery: Surgery) -> None:
    values = channels.repeated(layer.in_features // channels.before)
    surgery.assign(layer, "in_features", values.size)
    surgery.remap(layer, "weight", 1, values, shared=True)


@widen_in.register
def _(layer: GhostModule, channels: ChannelMap, surgery: Surgery) -> None:
    widen_in(layer.primary, channels, surgery)
    if layer.attention:
        widen_in(layer.short_conv[0], channels, surgery)


@widen_in.register
def _(layer: CrossLayerLink, channels: ChannelMap, surgery: Surgery) -> None:
    widen_in(layer.projection, channels, surgery)
