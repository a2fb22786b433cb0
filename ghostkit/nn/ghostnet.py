"""GhostNet and GhostNetV2 as published, with the few freedoms that a seedling needs.

The published networks are rows of numbers, kept below as such. The class adds a small-image stem, any number of input
channels, and any ratio, none of which changes a published network's state dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn.ghost import ConvBnAct, GhostBottleneck, make_divisible
from ghostkit.nn.links import Stage

__all__ = ["GHOSTNET_STAGES", "SEEDLING_STAGES", "GhostNet", "Row"]


class Row(NamedTuple):
    """One bottleneck of a GhostNet: kernel (pixels), hidden and output channels at width 1, SE share, stride."""

    kernel_size: int
    hidden: int
    out: int
    squeeze_excite: float
    stride: int


# GhostNet, table 1: the rows are grouped as in the authors' code, which fixes the names of the parameters.
GHOSTNET_STAGES: tuple[tuple[Row, ...], ...] = (
    (Row(3, 16, 16, 0, 1),),
    (Row(3, 48, 24, 0, 2),),
    (Row(3, 72, 24, 0, 1),),
    (Row(5, 72, 40, 0.25, 2),),
    (Row(5, 120, 40, 0.25, 1),),
    (Row(3, 240, 80, 0, 2),),
    (
        Row(3, 200, 80, 0, 1),
        Row(3, 184, 80, 0, 1),
        Row(3, 184, 80, 0, 1),
        Row(3, 480, 112, 0.25, 1),
        Row(3, 672, 112, 0.25, 1),
    ),
    (Row(5, 672, 160, 0.25, 2),),
    (Row(5, 960, 160, 0, 1), Row(5, 960, 160, 0.25, 1), Row(5, 960, 160, 0, 1), Row(5, 960, 160, 0.25, 1)),
)

# For images of 8 to 64 pixels. Everything is as thin as can be, the middles of the blocks above all: it underfits for
# want of hidden maps and of depth, which is what growth adds. The third stage, which growth cannot add, costs 3 % of
# its MACs, and is worth more than a point of accuracy where it grows (docs/study.md).
SEEDLING_STAGES: tuple[tuple[Row, ...], ...] = ((Row(3, 4, 8, 0, 2),),) * 3


class GhostNet(nn.Module):
    """The published GhostNet, version 1 or 2, state-dict compatible with timm's and the authors' own.

    Args:
        stages: the rows of each stage; the published ones by default.
        width: factor of every channel count but the head's.
        num_classes: classes of the classifier.
        in_channels: channels of the images.
        stem_channels: channels of the stem at width 1.
        stem_stride: 2 as published, 1 for small images.
        neck_channels: width of the 1x1 convolution behind the last stage; the last row's hidden width, as published,
            when None.
        head_channels: width of the layer before the classifier; 0 leaves that layer out.
        dropout: probability before the classifier.
        ratio: the paper's *s*; 1 makes no ghost maps, a plain seedling.
        cheap_kernel: the paper's *d*, in pixels.
        version: 1, or 2 for decoupled fully connected attention from the third block on.

    Raises:
        GhostkitError: if a number is out of range.

    Source: Han et al., GhostNet, arXiv 1911.11907, table 1; Tang et al., GhostNetV2, arXiv 2211.12905.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Row]] = GHOSTNET_STAGES,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_channels: int = 16,
        stem_stride: int = 2,
        neck_channels: int | None = None,
        head_channels: int = 1280,
        dropout: float = 0.2,
        ratio: int = 2,
        cheap_kernel: int = 3,
        version: int = 1,
    ) -> None:
        super().__init__()
        if not (width > 0 and num_classes > 0 and in_channels > 0 and head_channels >= 0 and 0 <= dropout < 1):
            raise GhostkitError(
                f"GhostNet(width={width}, num_classes={num_classes}, in_channels={in_channels}, "
                f"head_channels={head_channels}, dropout={dropout}): sizes must be positive and dropout in [0, 1)"
            )
        if version not in (1, 2) or stem_stride not in (1, 2):
            raise GhostkitError(f"GhostNet(version={version}, stem_stride={stem_stride}): both must be 1 or 2")
        channels = make_divisible(stem_channels * width)
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)

        built: list[nn.Sequential] = []
        hidden, count = channels, 0
        for rows in stages:
            blocks = []
            for row in (Row(*numbers) for numbers in rows):  # plain lists, too, as a recipe in JSON holds them
                hidden, out = make_divisible(row.hidden * width), make_divisible(row.out * width)
                blocks.append(
                    GhostBottleneck(
                        channels,
                        hidden,
                        out,
                        row.kernel_size,
                        row.stride,
                        row.squeeze_excite,
                        ratio=ratio,
                        cheap_kernel=cheap_kernel,
                        attention=version == 2 and count > 1,
                    )
                )
                channels, count = out, count + 1
            built.append(Stage(*blocks))
        neck = neck_channels or hidden
        built.append(nn.Sequential(ConvBnAct(channels, neck)))
        self.blocks = nn.Sequential(*built)

        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_head = nn.Conv2d(neck, head_channels, 1) if head_channels else nn.Identity()
        self.act2 = nn.ReLU(inplace=True) if head_channels else nn.Identity()
        self.flatten = nn.Flatten(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head_channels or neck, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.conv_head(self.global_pool(x)))
        return self.classifier(self.dropout(self.flatten(x)))
