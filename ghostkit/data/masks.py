"""Masks: images that say of each pixel of another image which class it is, 255 where that is left open.

A mask is grey or has a palette; its numbers are the classes, and colours of a palette are for the eye alone. It goes
with the image of the same name (but for the ending), and must have the size of that image as it stands upright. Masks
are decoded once, scaled like their images but without mixing classes, and kept: the square's padding is 255.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ghostkit.data.annotated import by_stem, held_out, upright_sizes
from ghostkit.data.augment import IGNORED
from ghostkit.data.boxes import fitted
from ghostkit.data.folders import ImageFiles, Read, channels_of, reason, refuse_broken
from ghostkit.data.splits import Labelled, fixed_order
from ghostkit.errors import GhostkitError

__all__ = ["NAMES", "class_names", "mask_read", "paired", "read_masks"]

NAMES = "classes.txt"  # the name of class 0, 1, ... on each line
LOSSY = (".jpg", ".jpeg", ".webp")
WRONG = "masks cannot be used"
HEAD = 4096  # bytes of a file in which its head lies
PNG_DEPTH, TIFF_DEPTH = 24, 0x0102  # where the bits of a pixel stand: at this byte, and under this tag
Pair = tuple[str, str]  # an image and its mask


def read_masks(images: Path, masks: Path, size: int) -> Read:
    """Return a user's own images with their masks, every file checked; a fifth is held out, always the same one.

    Args:
        images: the folder of the images.
        masks: the folder of their masks, and perhaps of ``classes.txt`` with the name of a class on each line.
        size: height and width in pixels after decoding.

    Raises:
        GhostkitError: if an image has no mask or a mask no image, or a file cannot be read or used.
    """
    of_images, of_masks = by_stem(images), by_stem(masks)
    alone = sorted(set(of_masks) - set(of_images))
    if alone:
        raise GhostkitError(
            f"the mask {of_masks[alone[0]]!r} has no image called {alone[0]!r} in {str(images)!r}; expected one"
        )
    pairs = paired(sorted(of_images), of_images, of_masks, str(images), str(masks))
    return mask_read(pairs, None, size, repr(str(masks)), class_names(masks / NAMES), check=True)


def paired(
    stems: Sequence[str], images: Mapping[str, str], masks: Mapping[str, str], of_images: str, of_masks: str
) -> list[Pair]:
    """Return the image and the mask of each name.

    Raises:
        GhostkitError: if one of them is missing.
    """
    for stem in stems:
        for found, folder, what in ((images, of_images, "image"), (masks, of_masks, "mask")):
            if stem not in found:
                other = (masks if what == "image" else images).get(stem, stem)
                raise GhostkitError(
                    f"there is no {what} called {stem!r} in {folder!r}, which {other!r} needs; expected an image and a "
                    "mask of the same name but for the ending"
                )
    return [(images[stem], masks[stem]) for stem in stems]


def class_names(path: Path) -> tuple[str, ...] | None:
    """Return the names in a file of one on each line; None if there is no such file.

    Raises:
        GhostkitError: if it cannot be read, is empty, or has a name twice.
    """
    if not path.is_file():
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").strip().splitlines())
    except (OSError, ValueError) as error:
        raise GhostkitError(f"cannot read the names of the classes in {str(path)!r}: {reason(error)}") from None
    if not all(names) or not names or len(set(names)) < len(names) or len(names) > IGNORED:
        raise GhostkitError(
            f"{str(path)!r} holds {names}; expected a name on each line, no two alike, {IGNORED} at most"
        )
    return names


def mask_read(
    train: Sequence[Pair],
    test: Sequence[Pair] | None,
    size: int,
    source: str,
    classes: tuple[str, ...] | None,
    *,
    check: bool,
    first: int = 0,
) -> Read:
    """Return images and masks as a data set, shuffled once for all, so that the first n are a fair sample.

    Args:
        train: the images to train on, each with its mask.
        test: those to test on; if None, a fifth of ``train`` is held out, always the same one.
        size: height and width in pixels after decoding.
        source: what to call the masks in a message.
        classes: names of the classes; if None, they are called by their numbers.
        check: whether every image is checked now, and decides whether the data set is grey.
        first: the number of the first class in the masks' pixels.

    Raises:
        GhostkitError: if there are too few images, or a file cannot be read or used.
    """
    if test is None:
        parts = [[train[i] for i in part.tolist()] for part in held_out(len(train), source)]
    elif not train or not test:
        raise GhostkitError(f"{source} has {len(train)} training and {len(test)} test image(s); expected some of each")
    else:
        parts = [[part[i] for i in fixed_order(len(part)).tolist()] for part in (train, test)]
    files = [image for part in parts for image, _ in part]
    channels = channels_of(files) if check else 3
    known = len(classes) if classes else IGNORED
    decoded, highest = _decoded([mask for part in parts for _, mask in part], upright_sizes(files), size, first, known)
    labelled = [
        Labelled(ImageFiles([image for image, _ in part], channels, size, whole=True), masks)
        for part, masks in zip(parts, decoded.split([len(part) for part in parts]), strict=True)
    ]
    return Read(classes or tuple(map(str, range(highest + 1))), *labelled)


def _decoded(
    files: Sequence[str], sizes: Sequence[tuple[int, int]], size: int, first: int, classes: int
) -> tuple[Tensor, int]:
    """Return masks (N, size, size), their numbers from 0, and the highest number in them."""
    masks = torch.empty(len(files), size, size, dtype=torch.uint8)

    def decode(i: int) -> tuple[int, str]:
        try:
            masks[i], highest = _mask(files[i], sizes[i], size, first, classes)
        except Exception as error:  # decoders raise whatever they stumble on
            return -1, reason(error)
        return highest, ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(decode, range(len(files))))
    refuse_broken([(file, why) for file, (_, why) in zip(files, seen, strict=True) if why], len(files), WRONG)
    return masks, max((highest for highest, _ in seen), default=-1)


def _mask(file: str, expected: tuple[int, int], size: int, first: int, classes: int) -> tuple[Tensor, int]:
    """Return one mask (size, size), and the highest class in it."""
    if file.lower().endswith(LOSSY):
        raise GhostkitError(f"{Path(file).suffix} files change the numbers of pixels; expected PNG")
    with Image.open(file) as image:
        if image.size != expected:
            raise GhostkitError(
                f"it is {image.width} x {image.height}, but its image stands upright at {expected[0]} x {expected[1]}"
            )
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise GhostkitError(
                f"its pixels are {image.mode} colours; expected class numbers, in grey or with a palette: map each "
                "colour to its number first"
            )
        numbers = _numbers(image, file)
    numbers = np.where(numbers == IGNORED, IGNORED, numbers - first)
    odd = numbers[(numbers < 0) | ((numbers >= classes) & (numbers != IGNORED))]
    if odd.size:
        raise GhostkitError(
            f"it holds the number {odd[0] + first}, expected {first} to {classes + first - 1}, or {IGNORED} to ignore"
        )
    fit = fitted(*expected, size)
    canvas = Image.new("L", (size, size), IGNORED)
    small = Image.fromarray(numbers.astype(np.uint8)).resize((fit.width, fit.height), Image.Resampling.NEAREST)
    canvas.paste(small, (fit.left, fit.top))
    return torch.from_numpy(np.array(canvas)), int(numbers.max(initial=-1, where=numbers != IGNORED))


def _numbers(image: Image.Image, file: str) -> np.ndarray:
    """Return the numbers (H, W) that an opened mask has in its file.

    Where white is less than 255 there (fewer than 8 bits, or a PGM that says so), Pillow spreads them up to 255, and up
    to 65535 where a PGM has more; that is undone.
    """
    white = spread = 255 if image.mode == "L" else 65535
    if image.format == "PNG" and image.mode == "L":
        white = 2 ** _head(file)[PNG_DEPTH] - 1
    elif image.format == "TIFF" and image.mode == "L":
        white = 2 ** image.getexif()[TIFF_DEPTH] - 1
    elif image.format == "PPM" and image.mode != "1":
        white = int(re.sub(rb"#[^\r\n]*", b"", _head(file)).split()[3])  # behind P5, width and height
    return np.rint(np.asarray(image).astype(np.int64) * white / spread).astype(np.int64)


def _head(file: str) -> bytes:
    with Path(file).open("rb") as stream:
        return stream.read(HEAD)
