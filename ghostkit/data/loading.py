"""``load``: from a name to a data set that is ready to train on, or to an error that says what to do.

Whatever can be wrong with a data set comes up here, before any training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ghostkit.data.augment import IGNORED
from ghostkit.data.catalog import SOURCES, find_home, require_task
from ghostkit.data.folders import ImageFiles
from ghostkit.data.own import form_of, paths_of
from ghostkit.data.readers import FILE_SIZE, Wanted, scene_items
from ghostkit.data.splits import Labelled, Split, Task, fixed_order, statistics
from ghostkit.errors import GhostkitError

__all__ = ["ImageData", "load"]

RESIZED_BYTES = 2 * 2**30  # images in memory may not be scaled up to more


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set for one task, its images in memory or within reach.

    Args:
        name: as it was asked for.
        train: what is learned from.
        test: what is evaluated on.
        classes: names of the classes, in the order of their labels; for detection without a background, and for
            segmentation with it where the masks have one.
        channels: 1 (grey) or 3 (RGB).
        height: of every image, in pixels.
        width: of every image, in pixels.
        mean: per channel, of the training split, on pixels scaled to 0..1; both splits are normalised with it.
        std: per channel, likewise.
        where: the folder that the files were found in, or the package that brought them.
        task: what the labels are for.
        validation: training images that were held out, where they were asked for.
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
    task: Task = "classification"
    validation: Split | None = None

    @property
    def judged(self) -> Split:
        """What a run is judged on while it is made: the images held out for it, or else the test images."""
        return self.test if self.validation is None else self.validation

    @property
    def judged_on(self) -> str:
        """What that part is called in the metrics of a run: ``"test"`` or ``"validation"``."""
        return "test" if self.validation is None else "validation"


def load(
    name: str,
    root: str | Path | None = None,
    *,
    task: Task = "classification",
    train_samples: int | None = None,
    test_samples: int | None = None,
    validation_samples: int | None = None,
    size: int | None = None,
    download: bool = False,
) -> ImageData:
    """Return the data set called ``name``, ready to train on.

    Args:
        name: a name from ``sources()``; or a user's own: ``folder:PATH``, with a folder of images per class,
            ``coco:IMAGES,ANNOTATIONS.json``, ``voc:PATH`` or ``masks:IMAGES,MASKS``.
        root: the folder that holds the data sets, as torchvision lays them out; when None, ``$GHOSTKIT_DATA`` or else
            ``~/.cache/ghostkit/data``. A user's own are not looked for in it.
        task: what the labels are to be for: classification, detection or segmentation.
        train_samples: keep the first n training images only; all when None. Of scenes, as many are composed.
        test_samples: keep the first n test images only; all when None. Of scenes, as many are composed.
        validation_samples: hold so many of all training images out, drawn at random but the same ones each time, before
            the first n of the others are kept; none when None.
        size: height and width in pixels; when None, as the images are; those decoded from files come at 64,
            photographs of a named data set with boxes or masks at 128, and ``imagenet`` at 224.
        download: get the files if they are not found.

    Raises:
        GhostkitError: if the name is unknown or does not offer the task, files are missing or damaged, too little
            remains to learn from, or more images are asked for than there are.

    Example:
        >>> data = load("digits")
        >>> data.train.images(torch.tensor([0, 1])).shape
        torch.Size([2, 1, 8, 8])
    """
    if size is not None and size < 1:
        raise GhostkitError(f"size is {size}, expected a number of pixels, at least 1")
    require_task(name, task)
    own = form_of(name)
    if own:
        paths = paths_of(name, own)
        read, where = own.read[task](paths, size or FILE_SIZE), ", ".join(map(str, paths))
    else:
        home = find_home(name, root, download)
        composed = None if train_samples is None else train_samples + (validation_samples or 0)
        read = SOURCES[name].read[task](home, Wanted(size, composed, test_samples))
        where = str(home) if SOURCES[name].homes else scene_items(home) if SOURCES[name].items else "scikit-learn"
    learned, held = _held_out(read.train, validation_samples, name)
    train = _scaled(_first(learned, train_samples, "train_samples", name), size)
    test = _scaled(_first(read.test, test_samples, "test_samples", name), size)
    _require_enough(train, task, name, train_samples)
    held = None if held is None else _scaled(held, size)
    mean, std = statistics(train.pixels)
    _, channels, height, width = train.pixels.shape
    return ImageData(
        name=name,
        train=Split(train.pixels, train.labels, mean, std, task),
        test=Split(test.pixels, test.labels, mean, std, task),
        classes=read.classes,
        channels=channels,
        height=height,
        width=width,
        mean=mean,
        std=std,
        where=where,
        task=task,
        validation=None if held is None else Split(held.pixels, held.labels, mean, std, task),
    )


def _require_enough(train: Labelled, task: Task, name: str, train_samples: int | None) -> None:
    """Raise an error if there is nothing to tell apart in the training images."""
    if task == "classification":
        enough, lack, wanted = len(set(train.labels.tolist())) > 1, "are all of one class", "two classes or more"
    elif task == "detection":
        learned = (train.labels[..., 4] >= 0) & (train.labels[..., 5] == 0)
        enough, lack, wanted = bool(learned.any()), "have no object in them", "one or more that is no crowd"
    else:
        seen = set[int]()
        for mask in train.labels:
            seen |= set(mask.unique().tolist()) - {IGNORED}
            if len(seen) > 1:
                break
        enough, lack = len(seen) > 1, "have masks of one class"
        wanted = f"two classes or more ({IGNORED} in a mask says that a pixel's class is left open)"
    if not enough:
        raise GhostkitError(
            f"the training images of {name!r} (train_samples={train_samples}) {lack}, expected {wanted}; "
            "set train_samples higher"
        )


def _first(part: Labelled, count: int | None, argument: str, name: str) -> Labelled:
    """Return the first ``count`` images and labels, all if None."""
    if count is None:
        return part
    if not 1 <= count <= len(part.labels):
        raise GhostkitError(f"{argument} is {count}, but {name!r} has {len(part.labels)}; expected 1 to that many")
    return _at(part, torch.arange(count))


def _held_out(part: Labelled, count: int | None, name: str) -> tuple[Labelled, Labelled | None]:
    """Return the images and labels without ``count`` of them, drawn at random but always alike, and those."""
    if count is None:
        return part, None
    there = len(part.labels)
    if not 1 <= count < there:
        raise GhostkitError(
            f"validation_samples is {count}, but {name!r} has {there} training images; expected 1 to {there - 1}"
        )
    order = fixed_order(there)
    held, rest = order[:count].sort().values, order[count:].sort().values
    return _at(part, rest), _at(part, held)


def _at(part: Labelled, indices: Tensor) -> Labelled:
    """Return the images and labels at ``indices`` alone."""
    pixels = part.pixels.at(indices.tolist()) if isinstance(part.pixels, ImageFiles) else part.pixels[indices]
    return Labelled(pixels, part.labels[indices])


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
