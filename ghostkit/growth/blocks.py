"""How a row of blocks gains one more: blocks that compute nothing yet, and what can be told of the blocks there are.

One ``singledispatch`` function a question. For a block of your own, register what it needs::

    @identity_like.register
    def _(block: MyBlock, hidden=None):
        return asleep(remade(copy.deepcopy(block), block.channels, hidden))
"""

from __future__ import annotations

import copy
from collections.abc import Container
from functools import singledispatch
from typing import TypeVar, cast

from torch import Tensor, nn
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from ghostkit.errors import GhostkitError
from ghostkit.growth.layers import is_depthwise, knows, reader
from ghostkit.nn.ghost import GhostBottleneck, GhostModule
from ghostkit.nn.ghostify import ghost_of
from ghostkit.nn.links import unlink

__all__ = [
    "asleep",
    "copied",
    "hidden_channels",
    "identity_like",
    "is_block",
    "is_residual",
    "is_strided",
    "is_thin",
    "remade",
    "unhook",
]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Host = TypeVar("Host", bound=nn.Module)
ZeroBorn = tuple[nn.Module, tuple[str, str]]


def is_block(layer: nn.Module) -> bool:
    """Return whether :func:`identity_like` has a rule for ``layer``, and a BN in it can hold a new one at zero."""
    return knows(identity_like, layer) and any(map(is_scaling, layer.modules())) and hands_on(layer)


def hands_on(block: nn.Module) -> bool:
    """Return whether ``block`` would hand its input on if its layers were silent: a ResNet's ends in an activation."""
    return not isinstance(block, BasicBlock | Bottleneck) or isinstance(block.relu, nn.ReLU | nn.ReLU6 | nn.Identity)


def is_scaling(layer: nn.Module) -> bool:
    """Return whether ``layer`` is a BN whose gamma can be learned."""
    return isinstance(layer, nn.BatchNorm2d) and layer.affine


def is_strided(block: nn.Module) -> bool:
    """Return whether ``block`` lowers the resolution."""
    return any(isinstance(layer, nn.Conv2d) and max(layer.stride) > 1 for layer in block.modules())


def hidden_channels(block: nn.Module) -> int | None:
    """Return the channels in the middle of ``block``: what its first ghost module or convolution puts out."""
    layers = (layer for layer in block.modules() if isinstance(layer, GhostModule | nn.Conv2d))
    return next((layer.out_channels for layer in layers), None)


@singledispatch
def is_residual(block: nn.Module) -> bool:
    """Return whether ``block`` adds to its input, so that the network still fits together without it."""
    return False


@is_residual.register
def _(block: GhostBottleneck) -> bool:
    return not len(block.shortcut)


@is_residual.register(BasicBlock)
@is_residual.register(Bottleneck)
def _(block: BasicBlock | Bottleneck) -> bool:
    return block.downsample is None


@is_residual.register(mobilenetv2.InvertedResidual)
@is_residual.register(mobilenetv3.InvertedResidual)
def _(block: mobilenetv2.InvertedResidual | mobilenetv3.InvertedResidual) -> bool:
    return bool(block.use_res_connect)


@singledispatch
def is_thin(block: nn.Module) -> bool:
    """Return whether ``block``, one that expands what it reads, is narrower in its middle than where it is read."""
    return False


@is_thin.register
def _(block: GhostBottleneck) -> bool:
    return block.ghost1.out_channels < block.ghost2.out_channels


@singledispatch
def identity_like(block: nn.Module, hidden: int | None = None) -> ZeroBorn:
    """Return a new block to stand behind ``block`` that passes its input on, and the two layers that it wakes from.

    Args:
        block: a residual block; the new one reads and writes ``block``'s output channels at stride 1.
        hidden: channels in the new block's middle; as many as ``block`` has when None.

    Returns:
        The block, and the paths in it of its last convolution and of the BN behind that, whose gamma is zero.

    Raises:
        GhostkitError: if there is no rule for this kind of block.
    """
    raise GhostkitError(f"no rule makes a block like {type(block).__name__}; register one with identity_like.register")


@identity_like.register
def _(block: GhostBottleneck, hidden: int | None = None) -> ZeroBorn:
    channels = block.ghost2.out_channels
    new = GhostBottleneck(
        channels,
        hidden or block.ghost1.out_channels,
        channels,
        block.kernel_size,
        stride=1,
        squeeze_excite=block.squeeze_excite,
        ratio=block.ratio,
        cheap_kernel=block.ghost1.cheap_kernel,
        attention=block.ghost1.attention,
    )
    # Both BNs of the linear ghost module start at gamma = beta = 0; the block wakes from the intrinsic one. (Starting
    # only the ghost maps' BN at gamma = 1 would multiply gradients by 1 / sqrt(eps): it would divide by no variance.)
    for bn in (new.ghost2.primary_conv[1], *(operation.bn for _, operation in new.ghost2.operations())):
        nn.init.zeros_(cast(Tensor, bn.weight))
    return new, ("ghost2.primary_conv.0", "ghost2.primary_conv.1")


@identity_like.register(BasicBlock)
@identity_like.register(Bottleneck)
def _(block: BasicBlock | Bottleneck, hidden: int | None = None) -> ZeroBorn:
    last = block.conv2 if isinstance(block, BasicBlock) else block.conv3
    new = copied(block)
    new.downsample, new.stride = None, 1
    return asleep(remade(new, last.out_channels, hidden))


@identity_like.register(mobilenetv2.InvertedResidual)
@identity_like.register(mobilenetv3.InvertedResidual)
def _(block: mobilenetv2.InvertedResidual | mobilenetv3.InvertedResidual, hidden: int | None = None) -> ZeroBorn:
    *_, last = (layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d))
    new = copied(block)
    new.use_res_connect, new.stride, new._is_cn = True, 1, False
    return asleep(remade(new, last.num_features, hidden))


def asleep(block: nn.Module) -> ZeroBorn:
    """Return ``block``, its last BN at zero, with the paths of its last convolution and of that BN."""
    *_, (norm, bn) = ((path, layer) for path, layer in block.named_modules() if isinstance(layer, nn.BatchNorm2d))
    *_, (conv, layer) = chain(block)
    nn.init.zeros_(cast(Tensor, bn.weight))
    nn.init.zeros_(cast(Tensor, bn.bias))
    return block, (f"{conv}.primary_conv.0" if isinstance(layer, GhostModule) else conv, norm)


def remade(block: nn.Module, channels: int, hidden: int | None = None) -> nn.Module:
    """Give ``block``, a fresh copy of another one, new layers that read and write ``channels`` at stride 1.

    Its convolutions and ghost modules are taken for a chain in the order in which the block holds them, each with the
    BN and the SE layer that follow it.

    Args:
        block: changed in place.
        channels: of its input and output.
        hidden: channels between its layers; each as many as it has when None.

    Raises:
        GhostkitError: if the groups of one of its convolutions cannot share the new channels.
    """
    unlink(block)
    unhook(block)
    layers = chain(block)
    last, now = layers[-1][0], channels
    convolutions = dict(layers)
    for path, layer in list(block.named_modules()):
        new: nn.Module
        if path in convolutions:
            conv = cast(nn.Conv2d, reader(layer))
            depthwise = is_depthwise(conv)
            out = now if depthwise else channels if path == last else hidden or cast(int, layer.out_channels)
            new = nn.Conv2d(
                now,
                out,
                cast(tuple[int, int], conv.kernel_size),
                padding=cast(tuple[int, int], conv.padding),
                dilation=cast(tuple[int, int], conv.dilation),
                groups=out if depthwise else shared_groups(conv, now, out),
                bias=conv.bias is not None,
                padding_mode=conv.padding_mode,
            )
            if isinstance(layer, GhostModule):
                new = ghost_of(new, layer.ratio, layer.cheap_kernel)
            now = out
        elif isinstance(layer, nn.BatchNorm2d) and not inside(path, convolutions):
            new = nn.BatchNorm2d(now, layer.eps, layer.momentum)
        elif isinstance(layer, SqueezeExcitation):
            squeezed = layer.fc1.out_channels  # which growth leaves as it is
            new = copy.deepcopy(layer)
            new.fc1, new.fc2 = nn.Conv2d(now, squeezed, 1), nn.Conv2d(squeezed, now, 1)
        else:
            continue
        parent, _, name = path.rpartition(".")
        setattr(block.get_submodule(parent), name, new)
    return block


def shared_groups(conv: nn.Conv2d, channels: int, out: int) -> int:
    """Return the groups of ``conv`` for one like it, of ``channels`` in and ``out`` channels out.

    Raises:
        GhostkitError: if they do not divide both.
    """
    if channels % conv.groups or out % conv.groups:
        raise GhostkitError(
            f"no convolution like that of the block before reads {channels} channels and makes {out}: {conv} has "
            f"{conv.groups} groups; expected multiples of {conv.groups}"
        )
    return conv.groups


def copied(host: Host) -> Host:
    """Return a copy of ``host``, in which tensors that it computed and keeps, as pruned weights, stay as they are.

    Raises:
        GhostkitError: if it keeps some where they are not found, as in a list: PyTorch does not copy them.
    """
    kept = [value for part in host.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    try:
        return copy.deepcopy(host, {id(value): value.detach().clone() for value in kept if not value.is_leaf})
    except RuntimeError as error:
        raise GhostkitError(
            f"{type(host).__name__} cannot be copied: {error}. It keeps what a forward computed; keep it detached"
        ) from error


def unhook(host: nn.Module) -> None:
    """Take from ``host``, a copy, the hooks that were set to listen to the original."""
    for module in host.modules():
        for name in HOOKS:
            getattr(module, name).clear()


def chain(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the convolutions and bare ghost modules of ``block`` by path, without those inside of others."""
    found: list[tuple[str, nn.Module]] = []
    for path, layer in block.named_modules():
        if isinstance(layer, nn.Conv2d | GhostModule | SqueezeExcitation) and not inside(path, dict(found)):
            found.append((path, layer))
    return [(path, layer) for path, layer in found if not isinstance(layer, SqueezeExcitation)]


def inside(path: str, others: Container[str]) -> bool:
    """Return whether ``path`` lies inside one of the ``others``."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in others for length in range(1, len(parts)))
