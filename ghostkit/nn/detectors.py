"""Detectors: a host's taps, a feature pyramid over them, and torchvision's dense heads, FCOS or RetinaNet.

torchvision's own detectors cannot be traced, and so could not be grown: they resize images in lists, and return losses
or boxes by their mode. Here the forward maps a batch of images to what the head puts out, and nothing else; losses and
boxes are made of that by torchvision's own methods. So a detector is traced, counted, compared and grown like any other
network. Its backbone grows; pyramid and head read what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork

from ghostkit.devices import widened
from ghostkit.errors import GhostkitError
from ghostkit.nn.taps import behead, finest, taps, taps_of

__all__ = ["HEADS", "Detector", "detector"]

HEADS = ("fcos", "retinanet")
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # RetinaNet's three anchors a place and ratio
ANCHOR = 4  # side of RetinaNet's smallest anchor, in strides: objects are larger than that of FCOS's
GROUP = 4  # channels that the heads' GroupNorm takes together

Boxes = dict[str, Tensor]  # "boxes" (n, 4) x1 y1 x2 y2 in pixels, "labels" (n,), and of detections "scores" (n,)


class Dense(nn.Module):
    """What both detectors do with a host's taps."""

    grown_part = "backbone."  # paths of the sites begin so

    backbone: nn.Module
    pyramid: FeaturePyramidNetwork
    head: nn.Module
    anchor_generator: AnchorGenerator
    strides: tuple[int, ...]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (B, C, H, W) to what the head says at every place of every level: tensors (B, places, ·)."""
        levels = taps(self.backbone, images)[-len(self.strides) :]
        named = {str(number): maps for number, maps in enumerate(levels)}
        return cast(dict[str, Tensor], self.head(list(self.pyramid(named).values())))

    def places(self, images: Tensor) -> tuple[list[Tensor], list[int]]:
        """Return the anchors of each image (places, 4), and how many of them each level has.

        Raises:
            GhostkitError: if a side of the images is no multiple of the coarsest stride.
        """
        height, width = images.shape[-2:]
        last = self.strides[-1]
        if height % last or width % last:
            near = f"{-(-height // last) * last} x {-(-width // last) * last}"
            raise GhostkitError(
                f"images of {height} x {width} pixels do not fit a detector whose coarsest maps have stride {last}; "
                f"both sides must be multiples of it: take {near}"
            )
        empty = widened(images.new_empty(()))  # the 8 bits of bfloat16 hold every pixel up to 256 only
        grids = [empty.expand(1, 1, height // stride, width // stride) for stride in self.strides]
        anchors = self.anchor_generator(ImageList(images, [(height, width)] * len(images)), grids)
        each = self.anchor_generator.num_anchors_per_location()
        return anchors, [grid.shape[-2] * grid.shape[-1] * count for grid, count in zip(grids, each, strict=True)]

    def losses(self, raw: dict[str, Tensor], images: Tensor, targets: list[Boxes]) -> dict[str, Tensor]:
        """Return the parts of the loss of what :meth:`forward` made of ``images``, each a mean over the objects."""
        anchors, counts = self.places(images)
        return cast(Any, self).compute_loss(targets, raw, anchors, *([counts] if isinstance(self, FCOS) else []))

    def detections(self, raw: dict[str, Tensor], images: Tensor) -> list[Boxes]:
        """Return the boxes, class numbers and scores that :meth:`forward` found in each of ``images``."""
        anchors, counts = self.places(images)
        return cast(
            Any, self
        ).postprocess_detections(  # whose non-maximum suppression knows no half precision
            {name: list(widened(values).split(counts, dim=1)) for name, values in raw.items()},
            [list(places.split(counts)) for places in anchors],
            [tuple(images.shape[-2:])] * len(images),
        )


class GhostFCOS(Dense, FCOS):
    """FCOS (Tian et al., arXiv 1904.01355) on a host's taps; made by :func:`detector`."""


class GhostRetinaNet(Dense, RetinaNet):
    """RetinaNet (Lin et al., arXiv 1708.02002) on a host's taps; made by :func:`detector`."""


Detector = GhostFCOS | GhostRetinaNet


def detector(
    host: nn.Module,
    num_classes: int,
    in_channels: int,
    head: str = "fcos",
    channels: int = 32,
    convolutions: int = 2,
    finest_stride: int = 4,
    score_threshold: float = 0.05,
    detections: int = 100,
) -> Detector:
    """Return a detector over ``host``, which loses its classifier.

    Args:
        host: a network that :func:`ghostkit.nn.taps.trunk` knows; it becomes a part of the detector.
        num_classes: classes of objects, without a background.
        in_channels: channels of the images.
        head: ``"fcos"``, without anchors, or ``"retinanet"``.
        channels: of the pyramid and of the head's layers; a multiple of 4.
        convolutions: layers of each of the head's towers (of FCOS; RetinaNet has four).
        finest_stride: of the first of the host's stages that is tapped, in pixels.
        score_threshold: detections of a lower score are left out.
        detections: kept at most, for each image.

    Raises:
        GhostkitError: if a number does not fit, or the host is not known.
    """
    if head not in HEADS:
        raise GhostkitError(f"head={head!r} is no detection head; expected one of {', '.join(HEADS)}")
    counts = (channels, convolutions, finest_stride, detections)
    whole = all(isinstance(count, int) and count > 0 for count in counts) and channels % GROUP == 0
    if not whole or not isinstance(score_threshold, int | float) or not 0 <= score_threshold < 1:
        raise GhostkitError(
            f"a detector with channels={channels!r}, convolutions={convolutions!r}, finest_stride={finest_stride!r}, "
            f"detections={detections!r} and score_threshold={score_threshold!r}: expected whole numbers from 1 on, "
            f"channels that are a multiple of {GROUP}, and a threshold in [0, 1)"
        )
    tapped = taps_of(host, in_channels)
    tapped = tapped[finest(tapped, finest_stride) :]
    strides = [stride for _, stride in tapped]
    backbone: Any = behead(host)
    backbone.out_channels = channels  # torchvision asks for it
    settings = {"score_thresh": score_threshold, "detections_per_img": detections}
    norm = partial(nn.GroupNorm, channels // GROUP)
    model: Detector
    if head == "fcos":
        anchors = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        tower = FCOSHead(channels, 1, num_classes, 0)  # its own towers need multiples of 32 channels
        tower.classification_head = FCOSClassificationHead(channels, 1, num_classes, convolutions, norm_layer=norm)
        tower.regression_head = FCOSRegressionHead(channels, 1, convolutions, norm_layer=norm)
        model = GhostFCOS(backbone, num_classes, anchor_generator=anchors, head=tower, **settings)
    else:
        anchors = AnchorGenerator(sizes_of(strides), ((0.5, 1.0, 2.0),) * len(strides))
        count = anchors.num_anchors_per_location()[0]
        model = GhostRetinaNet(
            backbone,
            num_classes,
            anchor_generator=anchors,
            head=RetinaNetHead(channels, count, num_classes, norm_layer=norm),
            **settings,
        )
    model.pyramid = FeaturePyramidNetwork([width for width, _ in tapped], channels)
    model.strides = tuple(strides)
    return model


def sizes_of(strides: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the sides of RetinaNet's anchors at each level, in pixels."""
    return tuple(tuple(round(ANCHOR * stride * octave) for octave in OCTAVES) for stride in strides)
