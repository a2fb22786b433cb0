"""Real items, composed scenes: clothes or digits laid over each other on a ground, with their boxes and masks.

Scene i is made from its number alone: it is the same scene however many are asked for, and in whatever order. Training
scenes are composed of training items only, and test scenes of test items. The tinted scenes are the grey ones in
colour: same items, same places.

An item is cut out along its silhouette: the pixels brighter than a threshold, with the holes in them filled, so a dark
print on a shirt is shirt. It is scaled at random and laid over what was there before. Where that would leave too little
of an item to see, it is tried elsewhere, and then not laid at all; so every item of a scene is annotated, a box is the
extent of an item's *visible* pixels, and boxes and masks say the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghostkit.data.boxes import COLUMNS, padded
from ghostkit.data.splits import Labelled
from ghostkit.errors import GhostkitError

__all__ = ["LARGEST", "SCENES", "SMALLEST", "compose"]

SMALLEST, LARGEST = 64, 128  # px, of a scene
SCENES = (4000, 1000)  # training and test scenes where no number is asked for
MOST = 5  # items in a scene of 64 px; one of 128 px has up to twice as many
SEED = 0
THRESHOLD = 8  # of 0..255: what is brighter belongs to an item
FINE = 28  # px; smaller items are first brought to this, so that their outlines are no staircases; a quarter of the
# greatest brightness is their threshold then, as they have become blurred
SHARE_SEEN, SEEN = 0.25, 12  # what must remain to be seen of an item: a share of it, and pixels
TRIES = 3  # places that an item is tried at
SCENE_BYTES = 2 * 2**30  # scenes are kept in memory, and may not take more

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])  # pixels that are joined: neighbours by a side

Bytes = NDArray[np.uint8]


class _Cut(NamedTuple):
    """An item cut out along its silhouette."""

    layers: NDArray[np.float32]  # grey levels, and 255 where the silhouette is: (2, h, w)
    label: int  # class number


class _Scene(NamedTuple):
    """A scene in the making."""

    canvas: Bytes  # grey levels, (size, size)
    owner: Bytes  # number of the item that is seen at a pixel, from 1; 0 for the ground; (size, size)
    labels: list[int]  # class number of each item
    areas: list[int]  # pixels of each item's silhouette
    seen: list[int]  # pixels of it that no later item hides


def compose(items: Labelled, part: int, count: int, size: int, *, tinted: bool, masks: bool) -> Labelled:
    """Return scenes and their boxes or masks, in memory.

    Args:
        items: what scenes are composed of: grey bytes (N, 1, h, w) on black, and class numbers (N,).
        part: 0 for training and 1 for test scenes, which differ even where their items are the same.
        count: number of scenes; the first n are the same for every count.
        size: height and width in pixels, 64 to 128.
        tinted: whether each item, and the ground, has a colour of its own.
        masks: whether the labels are masks (N, size, size), with 0 for the ground and 1 more than the item's class
            elsewhere; or else boxes (N, M, 6).

    Raises:
        GhostkitError: if the size is out of range, there are no scenes, or they would not fit in memory.
    """
    if not SMALLEST <= size <= LARGEST:
        raise GhostkitError(f"size is {size}, expected {SMALLEST} to {LARGEST} px for scenes")
    if count < 1:
        raise GhostkitError(f"{count} scenes are asked for, expected 1 or more")
    channels = 3 if tinted else 1
    if count * size * size * (channels + masks) > SCENE_BYTES:
        raise GhostkitError(
            f"{count:,} scenes of {size} px need more than {SCENE_BYTES // 2**30} GiB in memory; "
            "set a smaller size, or train_samples and test_samples"
        )
    most = round(MOST * size / SMALLEST)
    pixels = np.empty((count, channels, size, size), np.uint8)
    classes = np.zeros((count if masks else 0, size, size), np.uint8)
    rows: list[Tensor] = []
    pool, cuts = items.pixels[torch.arange(len(items.pixels))][:, 0].numpy(), dict[int, _Cut]()
    labels = items.labels.tolist()
    for index in range(count):
        rng = _rng(part, index)
        scene = _Scene(_ground(rng, size), np.zeros((size, size), np.uint8), [], [], [])
        for item in rng.randint(0, len(pool), rng.randint(1, most + 1)).tolist():
            if item not in cuts:
                cuts[item] = _cut(pool[item], labels[item])
            _lay(cuts[item], scene, rng)
        pixels[index] = _exposed(scene, rng, tinted)
        if masks:
            classes[index] = np.array([0, *(label + 1 for label in scene.labels)], np.uint8)[scene.owner]
        else:
            found = [[*box, label, 0] for box, label in zip(_extents(scene.owner), scene.labels, strict=True)]
            rows.append(torch.from_numpy(np.array(found, np.float32).reshape(-1, len(COLUMNS))))
    return Labelled(torch.from_numpy(pixels), torch.from_numpy(classes) if masks else padded(rows, most))


def _rng(part: int, index: int) -> np.random.RandomState:
    """Return the random numbers of one scene; as a RandomState's, they outlive numpy's releases."""
    return np.random.RandomState(np.random.PCG64([SEED, part, index]))


def _cut(item: Bytes, label: int) -> _Cut:
    """Return an item (h, w) cropped to its silhouette, whose holes are filled."""
    from scipy.ndimage import label as connected

    if not item.any():
        raise GhostkitError(f"an item of class {label} is all black; expected grey on black, to compose scenes of")
    threshold = min(THRESHOLD, item.max() // 2)
    if max(item.shape) < FINE:
        threshold = item.max() // 4
        item = _scaled(item.astype(np.float32), FINE, FINE)
    height, width = item.shape
    dark = np.ones((height + 2, width + 2), np.bool_)  # with a rim, which joins all that is outside
    dark[1:-1, 1:-1] = item <= threshold
    regions = connected(dark, CROSS)[0]
    silhouette = (regions != regions[0, 0])[1:-1, 1:-1]  # dark regions that do not reach the rim are holes
    left, top, right, bottom = _extents(silhouette.astype(np.uint8))[0]
    return _Cut(np.stack([item, silhouette * 255.0])[:, top:bottom, left:right].astype(np.float32), label)


def _lay(cut: _Cut, scene: _Scene, rng: np.random.RandomState) -> None:
    """Lay an item over what was there before, unless every place that is tried would hide too much of something."""
    size, number, sides = len(scene.owner), len(scene.labels) + 1, cut.layers.shape[1:]
    scale = rng.randint(size // 4, size // 2 + 1) / max(sides)  # the longer side comes to 16 to 32 px of 64
    height, width = (max(1, round(side * scale)) for side in sides)
    grey, silhouette = _scaled(cut.layers, height, width)
    shape = silhouette > 127
    area = int(np.count_nonzero(shape))
    strength = rng.randint(150, 257)  # of 256: some items are in the shade
    for _ in range(TRIES):
        left, top = rng.randint(0, size - width + 1), rng.randint(0, size - height + 1)
        owner = scene.owner[top : top + height, left : left + width]
        hidden = np.bincount(owner[shape], minlength=number)[1:].tolist()
        seen = [*(before - loss for before, loss in zip(scene.seen, hidden, strict=True)), area]
        if all(n >= max(SEEN, SHARE_SEEN * whole) for n, whole in zip(seen, [*scene.areas, area], strict=True)):
            shaded = (grey.astype(np.uint16) * strength >> 8).astype(np.uint8)
            np.copyto(scene.canvas[top : top + height, left : left + width], shaded, where=shape)
            np.copyto(owner, np.uint8(number), where=shape)
            scene.labels.append(cut.label)
            scene.areas.append(area)
            scene.seen[:] = seen
            return


def _ground(rng: np.random.RandomState, size: int) -> Bytes:
    """Return a smooth ground of low contrast, (size, size): about as bright as some items are."""
    return _scaled((rng.randint(20, 121) + rng.randint(-20, 21, (5, 5))).astype(np.float32), size, size)


def _scaled(layers: NDArray[np.float32], height: int, width: int) -> Bytes:
    """Return layers (..., h, w) of 0..255 at another size, as bytes; smoothed before they shrink.

    Weights are whole 256ths, so the sums are whole numbers below 2 ** 24. Those are exact in float32: a scene has the
    same bytes on every machine, however its matrix products add up.
    """
    h, w = layers.shape[-2:]
    return (_weights(h, height) @ layers @ _weights(w, width).T * np.float32(2**-16)).astype(np.uint8)


@cache
def _weights(before: int, after: int) -> NDArray[np.float32]:
    """Return the weights (after, before) of linear interpolation, in 256ths."""
    step = before / after
    middles = (np.arange(after)[:, None] + 0.5) * step - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(before) - middles) / max(step, 1))
    whole = np.rint(256 * weights / weights.sum(1, keepdims=True))
    whole[np.arange(after), whole.argmax(1)] += 256 - whole.sum(1)
    return whole.astype(np.float32)


def _exposed(scene: _Scene, rng: np.random.RandomState, tinted: bool) -> Bytes:
    """Return a scene as it is photographed, with noise, and tinted if that is asked for: (C, size, size)."""
    noise = np.frombuffer(rng.bytes(scene.canvas.size), np.uint8).reshape(scene.canvas.shape) >> 4  # 0..15
    grey = np.minimum(scene.canvas, 240) + noise
    if not tinted:
        return grey[None]
    tints = rng.random_sample((len(scene.labels) + 1, 3)).astype(np.float32) * 0.7 + 0.3
    tints /= tints.max(1, keepdims=True)
    coloured: Bytes = (tints.T[:, scene.owner] * grey).astype(np.uint8)
    return coloured


def _extents(numbers: NDArray[Any]) -> list[tuple[int, int, int, int]]:
    """Return the edges x1, y1, x2, y2 around each of the numbers from 1 on in ``numbers`` (H, W)."""
    from scipy.ndimage import find_objects

    return [(across.start, down.start, across.stop, down.stop) for down, across in find_objects(numbers)]
