"""Photographs with boxes: what the readers of COCO and VOC files share once they have understood them.

Boxes refer to the image as a viewer shows it, *upright*: where the EXIF orientation of a file says that it is stored
turned, it is turned first, and then the boxes are laid over it. That is how labelling tools show images, and how
Detectron2 reads them. An annotation that gives the size of its image must give the size of the upright one; otherwise
its boxes would end up somewhere else, and it is refused by name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ghostkit.data.boxes import COLUMNS, clipped, fitted, moved, padded
from ghostkit.data.folders import EXTENSIONS, ImageFiles, Read, channels_of, reason, refuse_broken, upright_size
from ghostkit.data.splits import Labelled, fixed_order
from ghostkit.errors import GhostkitError

__all__ = ["Annotated", "Boxed", "by_stem", "detection_read", "held_out", "upright_sizes"]

TEST_SHARE = 0.2
Boxed = tuple[float, float, float, float, int, int]  # a row of ghostkit.data.boxes


class Annotated(NamedTuple):
    """An image and the boxes in it, as an annotation file has them."""

    file: str
    boxes: list[Boxed]
    size: tuple[int, int] | None  # width and height that the annotation gives to the image


def detection_read(
    classes: tuple[str, ...],
    train: Sequence[Annotated],
    test: Sequence[Annotated] | None,
    size: int,
    source: str,
    *,
    check: bool,
) -> Read:
    """Return annotated images as a data set, shuffled once for all, so that the first n are a fair sample.

    Boxes that reach beyond their image are cut off at its edge. Those that lie outside altogether, or have no area,
    are left out, with a warning that counts them.

    Args:
        classes: names of the classes.
        train: the annotated images to train on.
        test: those to test on; if None, a fifth of ``train`` is held out, always the same one.
        size: height and width in pixels after decoding.
        source: what to call the annotations in a message.
        check: whether every file is checked now, and decides whether the data set is grey; or else it is taken to be
            whole and in colour.

    Raises:
        GhostkitError: if there are too few images, a file cannot be read, or an annotation gives another size than
            its image has.
    """
    if test is None:
        kept, held = held_out(len(train), source)
        parts = [[train[i] for i in kept.tolist()], [train[i] for i in held.tolist()]]
    elif not train or not test:
        raise GhostkitError(f"{source} has {len(train)} training and {len(test)} test image(s); expected some of each")
    else:
        parts = [[part[i] for i in fixed_order(len(part)).tolist()] for part in (train, test)]
    channels = channels_of([image.file for part in parts for image in part]) if check else 3
    sizes = [upright_sizes([image.file for image in part]) for part in parts]
    pairs = [pair for part, found in zip(parts, sizes, strict=True) for pair in zip(part, found, strict=True)]
    refuse_broken(
        [
            (image.file, f"{_product(is_)}, not {_product(image.size)}")
            for image, is_ in pairs
            if image.size not in (None, is_)
        ],
        len(pairs),
        f"images stand upright at another size than {source} gives them",
    )
    left_out, labelled = 0, []
    for part, found in zip(parts, sizes, strict=True):
        rows: list[Tensor] = []
        for image, (width, height) in zip(part, found, strict=True):
            exact = torch.tensor(image.boxes, dtype=torch.float64).view(-1, len(COLUMNS))
            inside = clipped(exact, height, width)
            left_out += len(exact) - len(inside)
            rows.append(moved(inside, width, height, fitted(width, height, size)).float())
        files = ImageFiles([image.file for image in part], channels, size, whole=True)
        labelled.append(Labelled(files, padded(rows)))
    if left_out:
        total = left_out + sum(int((part.labels[..., 4] >= 0).sum()) for part in labelled)
        warnings.warn(
            f"{left_out} of {total} boxes in {source} lie outside their image or have no area; they are left out",
            stacklevel=2,
        )
    return Read(classes, *labelled)


def held_out(count: int, source: str) -> tuple[Tensor, Tensor]:
    """Return the indices of a training and a test part of ``count`` images; a fifth is held out, always the same.

    Raises:
        GhostkitError: if there are fewer than two images.
    """
    if count < 2:
        raise GhostkitError(f"{source} has {count} image(s), expected two or more: some are held out for testing")
    order = fixed_order(count)
    tested = max(1, round(TEST_SHARE * count))
    return order[tested:], order[:tested]


def upright_sizes(files: Sequence[str]) -> list[tuple[int, int]]:
    """Return the width and height in pixels of each image as it stands upright; little more than its head is read.

    Raises:
        GhostkitError: if any cannot be opened.
    """

    def opened(file: str) -> tuple[tuple[int, int], str]:
        try:
            with Image.open(file) as image:
                return upright_size(image), ""
        except Exception as error:  # decoders raise whatever they stumble on
            return (0, 0), reason(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(opened, files))
    refuse_broken([(file, problem) for file, (_, problem) in zip(files, seen, strict=True) if problem], len(files))
    return [size for size, _ in seen]


def _product(size: tuple[int, int] | None) -> str:
    return " x ".join(map(str, size or ()))


def by_stem(folder: Path) -> dict[str, str]:
    """Return the images directly in a folder, by their names without the ending, sorted.

    Raises:
        GhostkitError: if there is no such folder, or two images in it share a name.
    """
    if not folder.is_dir():
        raise GhostkitError(f"{str(folder)!r} is no folder; expected one that holds images")
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file():
            if path.stem in found:
                raise GhostkitError(
                    f"{found[path.stem]!r} and {str(path)!r} share the name {path.stem!r}, by which images find what "
                    "belongs to them; rename one"
                )
            found[path.stem] = str(path)
    return found
