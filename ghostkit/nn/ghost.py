"""The ghost module and the layers that it is built into.

What lives here is what is *grown*; how it grows is the business of :mod:`ghostkit.growth`. Parameter names, their order
and their layout are those of the published GhostNet and GhostNetV2 (and of timm), so published weights load strictly.

A ghost module makes a few *intrinsic maps* by an ordinary convolution and derives *ghost maps* from them by cheap
depthwise convolutions, its *branches*. All branches of one kernel size run as one grouped convolution whose channels
are group-major: channel ``i * branches + b`` is branch ``b`` of intrinsic map ``i``. A module therefore costs the same
number of kernel launches with one branch as with eight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError

__all__ = [
    "Change",
    "CheapLayer",
    "CheapOperation",
    "ConvBnAct",
    "GhostBottleneck",
    "GhostModule",
    "SqueezeExcite",
    "make_divisible",
]

Activation = Callable[..., nn.Module]
Change = Callable[[Tensor], Tensor]


def make_divisible(channels: float, divisor: int = 4) -> int:
    """Return ``channels`` rounded to a multiple of ``divisor``, never more than 10 % below (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def behind(channels: int, activation: Activation, bare: bool) -> tuple[nn.Module, nn.Module]:
    """Return the BN and the activation that stand behind a convolution, or what keeps their places in a bare module."""
    if bare:
        return nn.Identity(), nn.Identity()
    active = activation()
    if hasattr(active, "inplace"):
        active.inplace = True  # type: ignore[assignment]
    return nn.BatchNorm2d(channels), active


class CheapOperation(nn.Sequential):
    """The grouped convolution, BN and activation that make ghost maps, ``branches`` of every intrinsic map.

    Args:
        intrinsic: intrinsic maps that it reads.
        branches: ghost maps of each; channel ``i * branches + b`` is branch ``b`` of map ``i``.
        kernel_size: side of the kernels, odd, in pixels.
        activation: class of the activation.
        bare: leave BN and activation to what follows the module.
        bias: whether a bare convolution has a bias.
    """

    def __init__(
        self,
        intrinsic: int,
        branches: int,
        kernel_size: int,
        activation: Activation,
        bare: bool = False,
        bias: bool = False,
    ) -> None:
        ghosts, padding = intrinsic * branches, kernel_size // 2
        conv = nn.Conv2d(intrinsic, ghosts, kernel_size, padding=padding, groups=intrinsic, bias=bias)
        super().__init__(conv, *behind(ghosts, activation, bare))

    @property
    def conv(self) -> nn.Conv2d:
        """The grouped convolution."""
        return cast(nn.Conv2d, self[0])

    @property
    def bn(self) -> nn.BatchNorm2d:
        """The BN behind it."""
        return cast(nn.BatchNorm2d, self[1])

    @property
    def ghosts(self) -> int:
        """Number of ghost maps."""
        return self.conv.out_channels

    @property
    def branches(self) -> int:
        """Number of ghost maps of each intrinsic map."""
        return self.conv.out_channels // self.conv.in_channels

    @property
    def kernel_size(self) -> int:
        """Side of the kernels, in pixels."""
        return self.conv.kernel_size[0]


class CheapLayer(nn.Module):
    """One more cheap residual layer over ghost maps, ``g + BN(depthwise(g))``, which growth adds.

    Args:
        channels: ghost maps.
        kernel_size: side of the kernels, odd, in pixels.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, ghosts: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        return ghosts + self.bn(self.conv(ghosts))


class GhostModule(nn.Module):
    """Intrinsic maps by a convolution, ghost maps from them by parallel cheap branches (GhostNet, eq. 3 and 4).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; ghost maps beyond them are computed and cut off, as published.
        kernel_size: side of the primary convolution, in pixels.
        ratio: the paper's *s*, one plus the number of branches; 1 makes no ghost maps.
        cheap_kernel: the paper's *d*, side of the cheap convolutions, odd, in pixels.
        stride: stride of the primary convolution.
        activation: class of the activation; ``nn.Identity`` for the linear module of a bottleneck.
        attention: gate the output by GhostNetV2's decoupled fully connected attention.
        bare: convolutions alone, for a host whose own BN and activation follow the module.
        bias: whether the convolutions of a bare module have a bias.

    Raises:
        GhostkitError: if a count is below one or a kernel is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        cheap_kernel: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU,
        attention: bool = False,
        bare: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        sizes, kernels = (in_channels, out_channels, ratio, stride), (kernel_size, cheap_kernel)
        if min(sizes) < 1 or any(size % 1 for size in sizes) or any(kernel % 2 != 1 for kernel in kernels):
            raise GhostkitError(
                f"GhostModule({in_channels}, {out_channels}, kernel_size={kernel_size}, ratio={ratio}, "
                f"cheap_kernel={cheap_kernel}, stride={stride}): channels, ratio and stride must be "
                "whole numbers of at least 1, kernels odd"
            )
        self.out_channels = out_channels
        self.ratio = ratio  # what it was made with; growth may have added branches since
        self.cheap_kernel = cheap_kernel
        self.activation = activation
        self.bare = bare
        self.attention = attention
        self.change: Change | None = None  # what the output goes through, while a stage with links runs
        intrinsic = math.ceil(out_channels / ratio)
        self.primary_conv = nn.Sequential(
            nn.Conv2d(in_channels, intrinsic, kernel_size, stride, kernel_size // 2, bias=bias),
            *behind(intrinsic, activation, bare),
        )
        self.cheap_operation = self.operation(ratio - 1, cheap_kernel) if ratio > 1 else nn.Sequential()
        self.further_operations = nn.ModuleDict()  # branches of other kernel sizes, which only growth adds
        self.deeper_layers = nn.Sequential()  # layers over all ghost maps, which only growth adds
        if attention:
            self.short_conv = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, (1, 5), padding=(0, 2), groups=out_channels, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, (5, 1), padding=(2, 0), groups=out_channels, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    @property
    def primary(self) -> nn.Conv2d:
        """The convolution that makes the intrinsic maps."""
        return cast(nn.Conv2d, self.primary_conv[0])

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.primary.in_channels

    @property
    def intrinsic_channels(self) -> int:
        """Number of intrinsic maps."""
        return self.primary.out_channels

    def operation(self, branches: int, kernel_size: int) -> CheapOperation:
        """Return a new cheap operation over the intrinsic maps, alike in what stands behind its convolution."""
        bias = self.primary.bias is not None
        return CheapOperation(self.intrinsic_channels, branches, kernel_size, self.activation, self.bare, bias)

    def operations(self) -> Iterator[tuple[str, CheapOperation]]:
        """Yield the cheap operations with their paths inside the module, in the order of their output channels."""
        if isinstance(self.cheap_operation, CheapOperation):
            yield "cheap_operation", self.cheap_operation
        for name, operation in self.further_operations.items():
            yield f"further_operations.{name}", cast(CheapOperation, operation)

    @property
    def ghosts(self) -> int:
        """Number of ghost maps that are computed, whether or not the output is cut off."""
        return sum(operation.ghosts for _, operation in self.operations())

    def branches(self) -> dict[int, int]:
        """Return the number of branches of each kernel size (kernel side in pixels -> count)."""
        return {operation.kernel_size: operation.branches for _, operation in self.operations()}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        intrinsic = self.primary_conv(x)
        cheap, further, deeper = self.cheap_operation, self.further_operations, self.deeper_layers
        maps = [cheap(intrinsic)] if len(cheap) else []
        if len(further):
            maps.extend(operation(intrinsic) for operation in further.values())
        if len(deeper):
            maps = [deeper(torch.cat(maps, dim=1))]
        out = torch.cat([intrinsic, *maps], dim=1) if maps else intrinsic
        if out.shape[1] > self.out_channels:
            out = out[:, : self.out_channels]
        out = out * self._gate(x, out.shape[-2:]) if self.attention else out
        return out if self.change is None else self.change(out)

    def _gate(self, x: Tensor, size: torch.Size) -> Tensor:
        # Pooling by two needs two pixels; a map that is already one pixel wide is pooled no further.
        pooled = F.avg_pool2d(x, kernel_size=(min(2, x.shape[-2]), min(2, x.shape[-1])))
        return F.interpolate(self.short_conv(pooled).sigmoid(), size=size, mode="nearest")


class SqueezeExcite(nn.Module):
    """Channel gates from globally pooled features (SE-Net, with MobileNetV3's hard sigmoid).

    Args:
        channels: channels of the input and of the output.
        reduction: share of them in the bottleneck between, rounded to a multiple of 4.
    """

    def __init__(self, channels: int, reduction: float = 0.25) -> None:
        super().__init__()
        reduced = make_divisible(channels * reduction, 4)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act = nn.ReLU(inplace=True)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act(self.conv_reduce(pooled))))


class ConvBnAct(nn.Module):
    """A 1x1 convolution, BN and ReLU: the last layer before GhostNet's head."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        return self.act(self.bn1(self.conv(x)))


class GhostBottleneck(nn.Module):
    """Two ghost modules with a shortcut around them: the first expands, the second projects (GhostNet, fig. 3).

    Args:
        in_channels: channels of the input.
        hidden_channels: channels between the two ghost modules.
        out_channels: channels of the output.
        kernel_size: side of the strided depthwise convolution and of the shortcut's, in pixels.
        stride: 1, or 2 to halve the resolution.
        squeeze_excite: share of the hidden channels in the SE layer's middle; 0 leaves the layer out.
        ratio: the paper's *s*, for both ghost modules.
        cheap_kernel: the paper's *d*, for both ghost modules.
        attention: gate the first ghost module by GhostNetV2's attention.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        squeeze_excite: float = 0.0,
        ratio: int = 2,
        cheap_kernel: int = 3,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.kernel_size = kernel_size
        self.squeeze_excite = squeeze_excite
        self.ratio = ratio
        self.ghost1 = GhostModule(
            in_channels, hidden_channels, ratio=ratio, cheap_kernel=cheap_kernel, attention=attention
        )

        def depthwise(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False)

        if stride > 1:
            self.conv_dw: nn.Conv2d | None = depthwise(hidden_channels)
            self.bn_dw: nn.BatchNorm2d | None = nn.BatchNorm2d(hidden_channels)
        else:
            self.conv_dw = self.bn_dw = None
        self.se = SqueezeExcite(hidden_channels, squeeze_excite) if squeeze_excite else None
        self.ghost2 = GhostModule(
            hidden_channels, out_channels, ratio=ratio, cheap_kernel=cheap_kernel, activation=nn.Identity
        )
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Sequential()
        else:
            self.shortcut = nn.Sequential(
                depthwise(in_channels),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        hidden = self.ghost1(x)
        if self.conv_dw is not None and self.bn_dw is not None:
            hidden = self.bn_dw(self.conv_dw(hidden))
        if self.se is not None:
            hidden = self.se(hidden)
        maps, shortcut = self.ghost2(hidden), self.shortcut(x)
        in_place = is_own(maps, self.ghost2) and maps.dtype == shortcut.dtype
        return maps.add_(shortcut) if in_place else maps + shortcut


def is_own(maps: Tensor, module: GhostModule) -> bool:
    """Return whether nobody but the caller holds the ``maps`` that ``module`` has just made: they may be written over.

    Intrinsic and ghost maps are concatenated into a tensor of its own. Hooks may keep what they are shown; a tracer's
    maps are no tensor, a compiler sees to it by itself, and gradients through a part of a tensor take a copy.
    """
    if not isinstance(maps, Tensor) or torch.compiler.is_compiling() or not len(module.cheap_operation):
        return False
    if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    return not (maps.requires_grad and maps._is_view())
