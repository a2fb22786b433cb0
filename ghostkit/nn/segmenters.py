"""Segmenters: a host's taps under torchvision's LR-ASPP or DeepLabV3 head, whose classes are scaled to the images.

The backbone grows; the head reads what is new.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.lraspp import LRASPPHead

from ghostkit.errors import GhostkitError
from ghostkit.nn.taps import behead, finest, taps, taps_of

__all__ = ["HEADS", "Segmenter", "segmenter"]

HEADS = ("lraspp", "deeplabv3")
RATES = (2, 4, 6)  # of DeepLabV3's dilated convolutions, for maps of 8 to 16 places a side


class Segmenter(nn.Module):
    """A host's taps under a head; made by :func:`segmenter`."""

    grown_part = "backbone."  # paths of the sites begin so

    def __init__(self, backbone: nn.Module, head: nn.Module, read: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.read = tuple(read)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to the logits of every pixel (B, num_classes, H, W)."""
        found = taps(self.backbone, images)
        maps = [found[number] for number in self.read]
        logits = self.head(maps[0] if len(maps) == 1 else {"low": maps[0], "high": maps[1]})
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def segmenter(
    host: nn.Module,
    num_classes: int,
    in_channels: int,
    head: str = "lraspp",
    channels: int = 32,
    finest_stride: int = 4,
    rates: Sequence[int] = RATES,
    dropout: float = 0.5,
) -> Segmenter:
    """Return a segmenter over ``host``, which loses its classifier.

    Args:
        host: a network that :func:`ghostkit.nn.taps.trunk` knows; it becomes a part of the segmenter.
        num_classes: classes of pixels, the background among them.
        in_channels: channels of the images.
        head: ``"lraspp"``, which reads a fine and the coarsest tap, or ``"deeplabv3"``, which reads the coarsest.
        channels: of the head's layers.
        finest_stride: of the fine tap, in pixels; the host's finest one where all are coarser.
        rates: dilations of DeepLabV3's three convolutions, in places of the coarsest map.
        dropout: probability in DeepLabV3's head.

    Raises:
        GhostkitError: if a number does not fit, or the host is not known.

    Source: Howard et al., MobileNetV3, arXiv 1905.02244, section 6.4; Chen et al., DeepLabV3, arXiv 1706.05587.
    """
    if head not in HEADS:
        raise GhostkitError(f"head={head!r} is no segmentation head; expected one of {', '.join(HEADS)}")
    three = isinstance(rates, list | tuple) and len(rates) == 3
    whole = three and all(isinstance(count, int) and count > 0 for count in (channels, finest_stride, *rates))
    if not whole or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise GhostkitError(
            f"a segmenter with channels={channels!r}, finest_stride={finest_stride!r}, rates={rates!r} and "
            f"dropout={dropout!r}: expected whole numbers from 1 on, three rates, and a dropout in [0, 1)"
        )
    tapped = taps_of(host, in_channels)
    fine, last = finest(tapped, finest_stride), len(tapped) - 1
    widths = [width for width, _ in tapped]
    if head == "lraspp":
        return Segmenter(behead(host), LRASPPHead(widths[fine], widths[last], num_classes, channels), (fine, last))
    pyramid = ASPP(widths[last], list(rates), channels)
    pyramid.project[-1] = nn.Dropout(dropout)
    layers = (
        pyramid,
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 1),
    )
    return Segmenter(behead(host), nn.Sequential(*layers), (last,))
