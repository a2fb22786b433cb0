"""Random crops and mirror images of a batch of bytes, with what is known about them carried along.

Every number is drawn from the generator that is handed in, so the threads that make batches do not share a random
state. A class number stays as it is; boxes and masks go through torchvision's ``transforms.v2``, which knows how each
of them moves with its image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ghostkit.data.boxes import ABSENT, padded

if TYPE_CHECKING:
    from ghostkit.data.splits import Task

__all__ = ["IGNORED", "augmented"]

IGNORED = 255  # of a mask: the class of a pixel that is neither learned from nor counted
SHARE_LEFT = 0.25  # a box is kept if a crop leaves this share of its area


def augmented(
    pixels: Tensor, labels: Tensor, task: Task, generator: torch.Generator, *, flip: bool
) -> tuple[Tensor, Tensor]:
    """Return each image cropped at a place of its own from itself padded by an eighth, perhaps mirrored, and labels.

    Images are padded with black and masks with 255. A box is cut off at the edge of its image, and left out if less
    than a quarter of it remains.

    Args:
        pixels: bytes, (B, C, H, W).
        labels: class numbers (B,), boxes (B, M, 6) or masks (B, H, W), as ``task`` has them.
        task: what the labels are for.
        generator: what places are drawn from.
        flip: whether every other image is mirrored, at random.
    """
    count, _, height, width = pixels.shape
    down, right = max(1, round(height / 8)), max(1, round(width / 8))
    top = torch.randint(2 * down + 1, (count,), generator=generator)
    left = torch.randint(2 * right + 1, (count,), generator=generator)
    mirrored = torch.zeros(count, dtype=torch.bool)
    if flip:
        mirrored = torch.randint(2, (count, 1, 1, 1), generator=generator, dtype=torch.bool).flatten()
    windows = F.pad(pixels, (right, right, down, down)).unfold(2, height, 1).unfold(3, width, 1)
    # windows: (B, C, 2 down + 1, 2 right + 1, H, W), a view; one of them is picked for each image.
    images = windows[torch.arange(count), :, top, left]
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images) if flip else images
    if task == "classification":
        return images, labels
    if task == "detection":
        return images, _boxes(labels, top - down, left - right, mirrored, (height, width))
    places = zip(labels, (top - down).tolist(), (left - right).tolist(), mirrored.tolist(), strict=True)
    return images, torch.stack([_mask(mask, y, x, (height, width), mirror) for mask, y, x, mirror in places])


def _boxes(rows: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what is left of the boxes (B, M, 6) in each image's window of ``size`` at ``top`` and ``left``, (B,)."""
    from torchvision.transforms.v2 import functional  # takes longer to import than digits take to load
    from torchvision.tv_tensors import BoundingBoxes

    images, numbers = (rows[..., 4] != ABSENT).nonzero(as_tuple=True)  # of all n boxes of the batch at once
    boxes, shift = rows[images, numbers], torch.stack([left, top, left, top], dim=1)[images]
    seen = functional.clamp_bounding_boxes(BoundingBoxes(boxes[:, :4] - shift, format="XYXY", canvas_size=size))
    kept = functional.sanitize_bounding_boxes(seen)[1] & (_areas(seen) >= SHARE_LEFT * _areas(boxes))
    corners = torch.where(mirrored[images, None], functional.horizontal_flip(seen), seen).as_subclass(Tensor)
    moved = torch.cat([corners, boxes[:, 4:]], dim=1)[kept]
    return padded(moved.split(images[kept].bincount(minlength=len(rows)).tolist()), rows.shape[1])


def _mask(mask: Tensor, top: int, left: int, size: tuple[int, int], mirror: bool) -> Tensor:
    """Return the mask (H, W) in the window of ``size`` at ``top``, ``left``; what lies beyond it is ignored."""
    from torchvision.transforms.v2 import functional
    from torchvision.tv_tensors import Mask

    (height, width), above, before = size, max(0, -top), max(0, -left)
    below, behind = max(0, top), max(0, left)
    whole = functional.pad(Mask(mask), [before, above, behind, below], fill=IGNORED)
    window = functional.crop(whole, top + above, left + before, height, width)
    return (functional.horizontal_flip(window) if mirror else window).as_subclass(Tensor)


def _areas(boxes: Tensor) -> Tensor:
    corners = boxes[:, :4].as_subclass(Tensor)
    return (corners[:, 2:] - corners[:, :2]).prod(1)
