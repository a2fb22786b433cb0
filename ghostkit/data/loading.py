"""``load``: from a name to a data set that is ready to train on, or to an error that says what to do.

Whatever can be wrong with a data set comes up here, before any training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ghostkit.data.catalog import FOLDER, SOURCES, find_home
from ghostkit.data.folders import ImageFiles, read_folder
from ghostkit.data.readers import FILE_SIZE
from ghostkit.data.splits import Labelled, Split, statistics
from ghostkit.errors import GhostkitError

__all__ = ["ImageData", "load"]

RESIZED_BYTES = 2 * 2**30  # images in memory may not be scaled up to more


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set for classification, its images in memory or within reach.

    Args:
        name: as it was asked for.
        train: what is learned from.
        test: what is evaluated on.
        classes: names of the classes, in the order of their labels.
        channels: 1 (grey) or 3 (RGB).
        height: of every image, in pixels.
        width: of every image, in pixels.
        mean: per channel, of the training split, on pixels scaled to 0..1; both splits are normalised with it.
        std: per channel, likewise.
        where: the folder that the files were found in, or the package that brought them.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    where: str


def load(
    name: str,
    root: str | Path | None = None,
    *,
    train_samples: int | None = None,
    test_samples: int | None = None,
    size: int | None = None,
    download: bool = False,
) -> ImageData:
    """Return the data set called ``name``, ready to train on.

    Args:
        name: a name from ``sources()``, or ``folder:PATH``, with a folder of images per class.
        root: the folder that holds the data sets, as torchvision lays them out; when None, ``$GHOSTKIT_DATA`` or else
            ``~/.cache/ghostkit/data``. ``folder:PATH`` does not look at it.
        train_samples: keep the first n training images only; all when None.
        test_samples: keep the first n test images only; all when None.
        size: height and width in pixels; when None, as the images are; those decoded from files come at 64, and
            ``imagenet`` at 224.
        download: get the files if they are not found.

    Raises:
        GhostkitError: if the name is unknown, files are missing or damaged, fewer than two classes remain, or more
            images are asked for than there are.

    Example:
        >>> data = load("digits")
        >>> data.train.images(torch.tensor([0, 1])).shape
        torch.Size([2, 1, 8, 8])
    """
    if size is not None and size < 1:
        raise GhostkitError(f"size is {size}, expected a number of pixels, at least 1")
    if name.startswith(FOLDER):
        path = name.removeprefix(FOLDER)
        if not path:
            raise GhostkitError(f"{name!r} names no folder; expected folder:PATH")
        home = Path(path).expanduser()
        read = read_folder(home, size or FILE_SIZE)
    else:
        home = find_home(name, root, download)
        read = SOURCES[name].read(home, size)
    train = _scaled(_first(read.train, train_samples, "train_samples", name), size)
    test = _scaled(_first(read.test, test_samples, "test_samples", name), size)
    if len(set(train.labels.tolist())) < 2:
        raise GhostkitError(
            f"the training images of {name!r} (train_samples={train_samples}) are all of one class, expected two "
            "classes or more; set train_samples higher"
        )
    mean, std = statistics(train.pixels)
    _, channels, height, width = train.pixels.shape
    return ImageData(
        name=name,
        train=Split(train.pixels, train.labels, mean, std),
        test=Split(test.pixels, test.labels, mean, std),
        classes=read.classes,
        channels=channels,
        height=height,
        width=width,
        mean=mean,
        std=std,
        where=str(home) if name.startswith(FOLDER) or SOURCES[name].homes else "scikit-learn",
    )


def _first(part: Labelled, count: int | None, argument: str, name: str) -> Labelled:
    """Return the first ``count`` images and labels, all if None."""
    if count is None:
        return part
    if not 1 <= count <= len(part.labels):
        raise GhostkitError(f"{argument} is {count}, but {name!r} has {len(part.labels)}; expected 1 to that many")
    pixels = part.pixels.first(count) if isinstance(part.pixels, ImageFiles) else part.pixels[torch.arange(count)]
    return Labelled(pixels, part.labels[:count])


def _scaled(part: Labelled, size: int | None) -> Labelled:
    """Return images in memory scaled to ``size``; files are decoded to it anyway."""
    if size is None or not isinstance(part.pixels, Tensor) or part.pixels.shape[2:] == (size, size):
        return part
    count, channels = part.pixels.shape[:2]
    if count * channels * size * size > RESIZED_BYTES:
        raise GhostkitError(
            f"{count:,} images at size {size} need more than {RESIZED_BYTES // 2**30} GiB in memory; "
            "set a smaller size, or train_samples and test_samples"
        )
    from torchvision.transforms.v2 import functional  # takes longer to import than digits take to load

    pieces = (part.pixels[start : start + 1024] for start in range(0, count, 1024))
    return Labelled(torch.cat([functional.resize(piece, [size, size]) for piece in pieces]), part.labels)
