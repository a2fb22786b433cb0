"""What a ghost module makes of one image: its feature maps as a mosaic, intrinsic and ghost maps apart.

The mosaic is one image of bytes, of which 0 is the paper between the maps, and 1 to 255 is each map's own range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.errors import GhostkitError
from ghostkit.views.theme import BLUE, MAP_SCALE, ORANGE, OWN_WORDS, finish, notice
from ghostkit.views.wording import table_text

__all__ = ["feature_mosaic", "feature_mosaic_text"]

RANGE = "each map from its lowest value (dark) to its highest (bright)"
SHARED_RANGE = "from the lowest value of all maps (dark) to the highest (bright)"


@np.errstate(invalid="ignore")  # means of values that are not finite
def feature_mosaic(maps: np.ndarray, intrinsic: int, title: str = "Feature maps") -> go.Figure:
    """Return all feature maps of one layer as one image: intrinsic maps in one frame, ghost maps in another.

    Args:
        maps: shape (C, H, W), the output of one ghost module for one image. Each map has its own grey range.
        intrinsic: how many of the first maps are intrinsic.
        title: what was looked at.

    Raises:
        GhostkitError: if ``maps`` has another shape, or ``intrinsic`` is not between 0 and C.
    """
    maps = _checked_maps(maps, intrinsic)
    if not len(maps):
        return notice("There are no feature maps to show.")
    tiles = _tiles(maps)
    count, height, width = tiles.shape
    columns = min(count, max(4, round((2.4 * count * height / width) ** 0.5)))
    pixel = min(960 / (columns * width), 84 / width)  # on the screen, for one pixel of a tile
    gap = max(3, int(np.ceil(34 / pixel)))  # frame and heading lie there
    parts = _parts(count, intrinsic, columns, height, gap)
    corners = [corner for part in parts for corner in part.corners(columns, height, width)]
    image = np.zeros((parts[-1].bottom, columns * width), dtype=np.uint8)
    for tile, (y, x) in zip(tiles, corners, strict=True):
        image[y : y + height, x : x + width] = tile
    figure = go.Figure(go.Heatmap(z=image, zmin=0, zmax=255, colorscale=MAP_SCALE, showscale=False, hoverinfo="skip"))
    figure.add_scatter(
        x=[x + width / 2 - 1 for _, x in corners],
        y=[y + height / 2 - 1 for y, _ in corners],
        mode="markers",
        marker={"size": 18, "opacity": 0},
        hovertext=[
            f"<b>{'intrinsic' if number < intrinsic else 'ghost'} map {number}</b><br>"
            f"mean {values.mean():.3g}, std {values.std():.3g}<br>from {values.min():.3g} to {values.max():.3g}"
            for number, values in enumerate(maps)
        ],
        hovertemplate=OWN_WORDS,
        showlegend=False,
    )
    fitted: dict[str, Any] = {"visible": False, "constrain": "domain"}
    return finish(
        figure,
        feature_mosaic_text(maps, intrinsic),
        height=int(pixel * len(image)) + 66,
        title={"text": title, "subtitle": {"text": _legend(maps)}},
        shapes=[part.frame(columns, width) for part in parts],
        annotations=[part.heading() for part in parts],
        xaxis={"constraintoward": "left", "range": [-2, image.shape[1]], **fitted},
        yaxis={"constraintoward": "top", "range": [len(image) + 1, 0], "scaleanchor": "x", **fitted},
        margin={"t": 52, "l": 20, "b": 12},
    )


def _checked_maps(maps: np.ndarray, intrinsic: int) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3:
        raise GhostkitError(f"feature maps of shape {maps.shape} were given; expected (C, H, W), the maps of one image")
    if not 0 <= intrinsic <= len(maps):
        raise GhostkitError(f"intrinsic={intrinsic} was given for {len(maps)} maps; expected 0 to {len(maps)}")
    return maps


def _legend(maps: np.ndarray) -> str:
    """Return what the grey levels mean, and what is missing."""
    return "; ".join([RANGE if maps[0].size > 1 else SHARED_RANGE, *_not_finite(maps)])


def _not_finite(maps: np.ndarray) -> list[str]:
    """Return how many maps hold values that are not finite, in words, if any do."""
    count = int((~np.isfinite(maps)).any(axis=(1, 2)).sum())
    return [f"{count} of {len(maps)} hold values that are not finite (dark)"] if count else []


def _tiles(maps: np.ndarray) -> np.ndarray:
    """Return each map as bytes over its own range, with one pixel of paper below and to the right of it.

    Maps of a single pixel have no range of their own; they share one. What is not finite is as dark as the lowest
    value. One byte a pixel and at most a quarter of a million pixels keep a notebook small.
    """
    stride = max(1, round((maps.size / 250_000) ** 0.5))
    small = maps[:, ::stride, ::stride]
    over = None if small[0].size == 1 else (1, 2)
    there = np.isfinite(small)
    low = small.min(axis=over, keepdims=True, where=there, initial=np.inf)
    high = small.max(axis=over, keepdims=True, where=there, initial=-np.inf)
    low, high = np.where(high < low, 0, low), np.where(high < low, 0, high)  # maps without any finite value
    small = np.where(there, small, low)
    levels = 1 + np.round(254 * (small - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
    return np.pad(levels, ((0, 0), (0, 1), (0, 1)))


@dataclass(frozen=True)
class _Part:
    """The maps of one sort, from number ``start`` to before ``stop``, in the image's rows ``top`` to ``bottom``."""

    name: str
    colour: str
    start: int
    stop: int
    top: int
    bottom: int

    def corners(self, columns: int, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Yield the upper left pixel (y, x) of each tile of height x width."""
        for place in range(self.stop - self.start):
            yield self.top + place // columns * height, place % columns * width

    def frame(self, columns: int, width: int) -> dict[str, Any]:
        right = min(self.stop - self.start, columns) * width - 0.5
        sides = {"x0": -1.5, "x1": right, "y0": self.top - 1.5, "y1": self.bottom - 0.5}
        return {"type": "rect", "line": {"color": self.colour, "width": 2}, **sides}

    def heading(self) -> dict[str, Any]:
        text = f"<b>{self.stop - self.start} {self.name} maps</b>  {self.start}–{self.stop - 1}"
        place = {"x": -1.5, "y": self.top - 1.5, "xanchor": "left", "yanchor": "bottom"}
        return {"text": text, "showarrow": False, **place}


def _parts(count: int, intrinsic: int, columns: int, height: int, gap: int) -> list[_Part]:
    """Return where the intrinsic and the ghost maps lie, one below the other, each under a gap for its heading."""
    parts: list[_Part] = []
    bottom = 0
    for name, colour, start, stop in (("intrinsic", ORANGE, 0, intrinsic), ("ghost", BLUE, intrinsic, count)):
        if stop > start:
            top = bottom + gap
            bottom = top + -(-(stop - start) // columns) * height
            parts.append(_Part(name, colour, start, stop, top, bottom))
    return parts


@np.errstate(invalid="ignore")  # means of values that are not finite
def feature_mosaic_text(maps: np.ndarray, intrinsic: int, limit: int = 24) -> str:
    """Return the shape of a layer's feature maps and, map by map, mean and standard deviation.

    Args:
        maps: shape (C, H, W).
        intrinsic: how many of the first maps are intrinsic.
        limit: maps listed at most.

    Raises:
        GhostkitError: if ``maps`` has another shape, or ``intrinsic`` is not between 0 and C.
    """
    maps = _checked_maps(maps, intrinsic)
    count, height, width = maps.shape
    table = pd.DataFrame(
        {
            "map": range(min(count, limit)),
            "kind": ["intrinsic" if c < intrinsic else "ghost" for c in range(min(count, limit))],
            "mean": [f"{values.mean():.3f}" for values in maps[:limit]],
            "std": [f"{values.std():.3f}" for values in maps[:limit]],
        }
    )
    more = f"\n… and {count - limit} more" if count > limit else ""
    head = f"{count} maps of {height} x {width}: {intrinsic} intrinsic, {count - intrinsic} ghost"
    head = "; ".join([head, *_not_finite(maps)])
    return f"{head}\n{table_text(table)}{more}"
