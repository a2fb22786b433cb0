"""All images of a figure on one sheet: where each lies, and the sheet as one picture.

The sheet's unit is one pixel of an image; so pixels stay square and crisp, and zooming keeps pairs together. What has a
fixed size on the screen (headings, labels) gets its room for a narrow figure, so that there is enough in any wider one.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from PIL import Image

__all__ = ["APART", "BETWEEN", "HEADING", "NARROW", "Panel", "Sheet", "picture_of", "sheet_of"]

# All in pixels of the screen.
WIDE, NARROW = 900, 580  # width of a sheet where there is room, and the least at which no text overlaps
BETWEEN, APART = 8, 26  # from truth to prediction, and from one image to the next
HEADING = 18  # height of a heading


class Panel(NamedTuple):
    """A rectangle on the sheet."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Sheet:
    """Where everything lies. Lengths are pixels of the images, whose size is ``height`` x ``width``.

    Each image has one panel, or two (truth and prediction), ``gap`` between them, ``head`` above and ``foot`` below.
    ``unit`` is how long an image's pixel is on the screen, ``narrow`` how long it is where figures are narrow.
    """

    count: int  # images
    columns: int
    panels: int
    height: int
    width: int
    gap: int
    space: int
    head: int
    foot: int
    unit: float
    narrow: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        rows = -(-self.count // self.columns)
        pair = self.panels * (self.width + self.gap) - self.gap
        return self.columns * (pair + self.space) - self.space, rows * (self.head + self.height + self.foot)

    def panel(self, number: int, panel: int) -> Panel:
        """Return panel 0 or 1 of the image that is shown at place ``number``."""
        row, column = divmod(number, self.columns)
        pair = self.panels * (self.width + self.gap) - self.gap
        left = column * (pair + self.space) + panel * (self.width + self.gap)
        top = row * (self.head + self.height + self.foot) + self.head
        return Panel(left, top, left + self.width, top + self.height)


def sheet_of(count: int, size: tuple[int, int], columns: int, panels: int, largest: float, below: float) -> Sheet:
    """Return the sheet of ``count`` images.

    Args:
        count: images.
        size: height and width of the largest image, in its pixels.
        columns: images in a row at most.
        panels: of each image, 1 or 2.
        largest: side of an image at most, in pixels of the screen.
        below: what is kept free below each image, in pixels of the screen.
    """
    height, width = size
    columns = min(columns, count)
    free = WIDE - (columns - 1) * APART - columns * (panels - 1) * BETWEEN
    unit = min(largest / max(height, width), max(free, 1) / (columns * panels * width))
    gap, space = math.ceil(BETWEEN / unit), math.ceil(APART / unit)
    across = columns * (panels * (width + gap) - gap + space) - space
    unit = min(unit, WIDE / across)
    narrow = min(unit, NARROW / across)
    head, foot = math.ceil(HEADING / narrow), math.ceil(below / narrow)
    return Sheet(count, columns, panels, height, width, gap, space, head, foot, unit, narrow)


def picture_of(sheet: Sheet, tiles: Sequence[tuple[Panel, np.ndarray]]) -> go.Image:
    """Return all panels as one PNG on paper white; its pixel (0, 0) spans 0 to 1."""
    width, height = sheet.size
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for panel, pixels in tiles:
        canvas[panel.top : panel.top + pixels.shape[0], panel.left : panel.left + pixels.shape[1]] = pixels
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return go.Image(source=source, x0=0.5, y0=0.5, dx=1, dy=1, zsmooth=False, hoverinfo="skip")
