"""Where a host is tapped: the maps at the end of each of its stages, for heads that need more than one resolution.

One ``singledispatch`` function says what a host's trunk is; for a network of your own, register it in two lines::

    @trunk.register
    def _(host: MyNetwork):
        return [host.stem, *host.rows]

The trunk is looked up at every pass, so blocks that growth adds to it are in the path, and a stage ends where it ends.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import torchvision
from torch import Tensor, nn
from torchvision.models import MobileNetV2, MobileNetV3

from ghostkit.costs import evaluating
from ghostkit.errors import GhostkitError
from ghostkit.nn.ghostnet import GhostNet
from ghostkit.nn.hybrids import ResNet

__all__ = ["Tap", "behead", "taps", "taps_of", "trunk"]

SIDE = 64  # px, of the image that a host's taps are found on

Tap = tuple[int, int]  # channels and stride, in pixels of the image


@singledispatch
def trunk(host: nn.Module) -> list[nn.Module]:
    """Return what the images pass in ``host``, in order, up to where its classifier begins.

    Raises:
        GhostkitError: if there is no rule for this kind of network.
    """
    raise GhostkitError(
        f"no rule says where {type(host).__name__} is tapped; register one with ghostkit.nn.taps.trunk.register"
    )


@trunk.register
def _(host: GhostNet) -> list[nn.Module]:
    return [host.conv_stem, host.bn1, host.act1, *list(host.blocks)[:-1]]  # the last row is the 1x1 convolution


@trunk.register(ResNet)
@trunk.register(torchvision.models.ResNet)
def _(host: Any) -> list[nn.Module]:
    rows = [row for name, row in host.named_children() if name.startswith("layer")]
    return [host.conv1, host.bn1, host.relu, host.maxpool, *rows]


@trunk.register(MobileNetV2)
@trunk.register(MobileNetV3)
def _(host: MobileNetV2 | MobileNetV3) -> list[nn.Module]:
    return list(host.features)[:-1]


def lowers(part: nn.Module) -> bool:
    """Return whether ``part`` lowers the resolution."""
    return any(
        isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and np.max(layer.stride) > 1
        for layer in part.modules()
    )


def taps(host: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the maps at the end of each stage, where the next one lowers the resolution, finest first.

    Those at the resolution of the images are left out.

    Args:
        host: a network that :func:`trunk` knows.
        x: images (B, C, H, W).
    """
    parts = trunk(host)
    lowering = [lowers(part) for part in parts]
    found = []
    for number, part in enumerate(parts):
        x = part(x)
        if number == len(parts) - 1 or (lowering[number + 1] and any(lowering[: number + 1])):
            found.append(x)
    return found


def taps_of(host: nn.Module, in_channels: int) -> list[Tap]:
    """Return channels and stride of each tap of ``host``, which is left as it was."""
    weight = next(host.parameters())
    with evaluating(host):
        found = taps(host, weight.new_zeros(1, in_channels, SIDE, SIDE))
    return [(maps.shape[1], SIDE // maps.shape[-1]) for maps in found]


def behead(host: nn.Module) -> nn.Module:
    """Take away from ``host``, in place, what stands behind its trunk, and return it."""
    kept = {id(layer) for part in trunk(host) for layer in part.modules()}
    for path, layer in list(host.named_modules()):
        inside = any(id(below) in kept for below in layer.modules())
        if path and not inside and not isinstance(layer, nn.Identity):
            parent, _, name = path.rpartition(".")
            setattr(host.get_submodule(parent), name, nn.Identity())
    return host


def finest(tapped: list[Tap], stride: int) -> int:
    """Return the number of the finest tap of at least ``stride``.

    Raises:
        GhostkitError: if all are finer; the message lists them.
    """
    for number, (_, tap_stride) in enumerate(tapped):
        if tap_stride >= stride:
            return number
    strides = ", ".join(str(tap_stride) for _, tap_stride in tapped)
    raise GhostkitError(f"no stage ends at stride {stride} or more; the host's stages end at {strides}")
