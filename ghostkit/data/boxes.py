"""Boxes: the one layout that everything about detection shares, and what becomes of boxes when their image changes.

A row is ``x1, y1, x2, y2, class, crowd``: the corners in pixels of the image, x to the right and y down from its top
left corner, so that a box around the whole of an image of width W and height H is 0, 0, W, H; the class from 0; and 1
for a box around a crowd, which is neither learned from nor counted, else 0. As images have different numbers of boxes,
rows that hold none are padded with class -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ABSENT", "COLUMNS", "Fit", "clipped", "fitted", "moved", "padded", "present"]

COLUMNS = ("x1", "y1", "x2", "y2", "class", "crowd")
ABSENT = -1.0  # the class of a row that holds no box


def padded(rows: Sequence[Tensor], at_least: int = 1) -> Tensor:
    """Return the boxes of N images as one tensor (N, M, 6), float32; M is the largest number of boxes of an image.

    Args:
        rows: the boxes of each image, (n, 6); n may be 0.
        at_least: M is at least this.
    """
    most = max([at_least, *map(len, rows)])
    together = torch.zeros(len(rows), most, len(COLUMNS))
    together[..., 4] = ABSENT
    for target, boxes in zip(together, rows, strict=True):
        target[: len(boxes)] = boxes
    return together


def present(rows: Tensor) -> Tensor:
    """Return the boxes (n, 6) among the rows (M, 6) of one image: all but the padding."""
    return rows[rows[:, 4] >= 0]


def clipped(rows: Tensor, height: float, width: float) -> Tensor:
    """Return the boxes (n, 6) cut off at the edges of their image, without those of which no area is left.

    Boxes with a corner that is no number, or infinite, are left out too, and so are those with a side of 0 or less.
    """
    edges = torch.tensor([width, height, width, height], dtype=rows.dtype)
    corners = rows[:, :4].clamp(min=torch.zeros(4, dtype=rows.dtype), max=edges)
    sound = rows[:, :4].isfinite().all(1) & (rows[:, 2:4] > rows[:, :2]).all(1)
    left = sound & (corners[:, 2:] > corners[:, :2]).all(1)
    return torch.cat([corners, rows[:, 4:]], dim=1)[left]


class Fit(NamedTuple):
    """Where an image lies on a square canvas: scaled to ``width`` x ``height``, its corner at ``left``, ``top``."""

    width: int
    height: int
    left: int
    top: int


def fitted(width: int, height: int, size: int) -> Fit:
    """Return how an image of ``width`` x ``height`` px is letterboxed: as large as ``size`` allows, and centred."""
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    return Fit(wide, high, (size - wide) // 2, (size - high) // 2)


def moved(rows: Tensor, width: int, height: int, fit: Fit) -> Tensor:
    """Return the boxes (n, 6) of an image of ``width`` x ``height`` px where they are once it lies as ``fit`` says."""
    scale = torch.tensor([fit.width / width, fit.height / height] * 2, dtype=rows.dtype)
    shift = torch.tensor([fit.left, fit.top] * 2, dtype=rows.dtype)
    return torch.cat([rows[:, :4] * scale + shift, rows[:, 4:]], dim=1)
