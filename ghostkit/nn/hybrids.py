"""ResNet and MobileNet, plain and with ghost modules: torchvision's blocks under arguments that a recipe can hold.

Parameter names are torchvision's, so its state dicts fit the plain networks, and the plain parts of the hybrids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import MobileNetV2, MobileNetV3
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from ghostkit.errors import GhostkitError
from ghostkit.nn.ghost import make_divisible
from ghostkit.nn.ghostify import ghosted

__all__ = ["ResNet", "ghost_mobilenet_v2", "ghost_mobilenet_v3", "ghost_resnet"]

BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A ResNet of torchvision's blocks and names, of any width, number of stages and stem.

    Args:
        block: ``"basic"`` or ``"bottleneck"``.
        layers: blocks in each stage.
        num_classes: classes of the classifier.
        in_channels: channels of the images.
        width: channels of the stem, doubled from stage to stage.
        small_images: a 3x3 stem at full resolution and no pooling behind it, as He et al. use on CIFAR.
        width_per_group: torchvision's, channels in a bottleneck's middle for each 64 of its width.

    Raises:
        GhostkitError: if a number is out of range.

    Source: He et al., Deep Residual Learning, arXiv 1512.03385; strides as in torchvision.
    """

    def __init__(
        self,
        block: str = "basic",
        layers: Sequence[int] = (2, 2, 2, 2),
        num_classes: int = 1000,
        in_channels: int = 3,
        width: int = 64,
        small_images: bool = False,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        if block not in BLOCKS or not layers or min(*layers, num_classes, in_channels, width, width_per_group) < 1:
            raise GhostkitError(
                f"ResNet(block={block!r}, layers={layers!r}, num_classes={num_classes}, in_channels={in_channels}, "
                f"width={width}): expected a block of {', '.join(BLOCKS)}, and numbers from 1 on"
            )
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages, channels = len(layers), width
        for number, count in enumerate(layers):
            planes = width << number
            row = residual_row(BLOCKS[block], channels, planes, count, 2 if number else 1, width_per_group)
            self.add_module(f"layer{number + 1}", row)
            channels = planes * BLOCKS[block].expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(self.stages):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def residual_row(
    block: type[BasicBlock | Bottleneck], channels: int, planes: int, count: int, stride: int, width_per_group: int
) -> nn.Sequential:
    """Return the blocks of one stage; the first one changes channels and resolution."""
    out = planes * block.expansion
    downsample = None
    if stride > 1 or channels != out:
        downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    kind: Callable[..., nn.Module] = partial(block, base_width=width_per_group) if block is Bottleneck else block
    first = kind(channels, planes, stride, downsample)
    return nn.Sequential(first, *(kind(out, planes) for _ in range(count - 1)))


def ghost_resnet(ratio: int = 2, cheap_kernel: int = 3, keep: Collection[str] = (), **numbers: Any) -> nn.Module:
    """Return a :class:`ResNet` of these ``numbers`` with ghost modules; other arguments as for ``ghostify``."""
    return ghosted(ResNet(**numbers), ratio, cheap_kernel, keep)


def ghost_mobilenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    stem_stride: int = 2,
    dropout: float = 0.2,
    stages: Sequence[Sequence[int]] | None = None,
    ratio: int = 2,
    cheap_kernel: int = 3,
    keep: Collection[str] = (),
) -> nn.Module:
    """Return torchvision's MobileNetV2 with ghost modules in the place of its 1x1 convolutions.

    Args:
        num_classes: classes of the classifier.
        in_channels: channels of the images.
        width: factor of every channel count.
        stem_stride: 2 as published, 1 for small images.
        dropout: probability before the classifier.
        stages: rows of expansion, channels, blocks, stride; the published ones when None.
        ratio, cheap_kernel, keep: as for ``ghostify``.

    Source: Sandler et al., MobileNetV2, arXiv 1801.04381.
    """
    rows = None if stages is None else [list(row) for row in stages]
    model = MobileNetV2(num_classes, width, rows, dropout=dropout)
    return ghosted(with_stem(model, in_channels, stem_stride), ratio, cheap_kernel, keep)


def ghost_mobilenet_v3(
    rows: Sequence[Sequence[Any]],
    last_channels: int = 1280,
    num_classes: int = 1000,
    in_channels: int = 3,
    width: float = 1.0,
    stem_stride: int = 2,
    dropout: float = 0.2,
    ratio: int = 2,
    cheap_kernel: int = 3,
    keep: Collection[str] = (),
) -> nn.Module:
    """Return torchvision's MobileNetV3 with ghost modules in the place of its 1x1 convolutions.

    Args:
        rows: input channels, kernel (pixels), hidden and output channels at width 1, SE, activation (RE, HS), stride.
        last_channels: width of the layer before the classifier at width 1.
        num_classes, in_channels, width, stem_stride, dropout: as for :func:`ghost_mobilenet_v2`.
        ratio, cheap_kernel, keep: as for ``ghostify``.

    Source: Howard et al., Searching for MobileNetV3, arXiv 1905.02244, tables 1 and 2.
    """
    settings = [InvertedResidualConfig(*row, 1, width) for row in rows]
    model = MobileNetV3(settings, make_divisible(last_channels * width, 8), num_classes, dropout=dropout)
    return ghosted(with_stem(model, in_channels, stem_stride), ratio, cheap_kernel, keep)


def with_stem(model: Any, in_channels: int, stride: int) -> nn.Module:
    """Return a MobileNet that reads images of ``in_channels`` at another stride of its stem."""
    if in_channels < 1 or stride not in (1, 2):
        raise GhostkitError(
            f"MobileNet(in_channels={in_channels}, stem_stride={stride}): expected channels, and 1 or 2"
        )
    stem = model.features[0][0]
    fresh = nn.Conv2d(in_channels, stem.out_channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out")
    model.features[0][0] = fresh
    return model
