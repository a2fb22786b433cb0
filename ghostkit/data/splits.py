"""A split is pixels and labels; a batch is what a step sees of them, the same for the same seed, always.

Every random choice comes from a generator of its own, seeded by the run's seed, the epoch and (for augmentation) the
number of the batch. So nothing depends on the global random state, on threads, or on whether a pass was interrupted:
``batches(..., start=k)`` costs nothing for the k batches it leaves out and then gives exactly what they would have
been followed by.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ghostkit.data.augment import augmented
from ghostkit.errors import GhostkitError

__all__ = [
    "TASKS",
    "Augment",
    "Labelled",
    "Pixels",
    "Split",
    "Task",
    "batch_count",
    "batches",
    "fixed_order",
    "statistics",
    "stratified",
]

Task = Literal["classification", "detection", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "detection", "segmentation")
Augment = Literal["none", "crop", "crop+flip"]
AUGMENTS: tuple[str, ...] = ("none", "crop", "crop+flip")
SPLIT_SEED = 0  # of every split that a data set does not bring along; no run's seed reaches it
STATISTICS_IMAGES = 2048  # files are decoded for the mean and the deviation up to this number
CHUNK = 256
ORDER, AUGMENTATION = 0, 1  # the two streams of random numbers

Made = TypeVar("Made")


class Pixels(Protocol):
    """Images as bytes, by index: a uint8 tensor (N, C, H, W), or files that are decoded when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class Labelled(NamedTuple):
    """Pixels and their labels (N, ...), as a reader returns them, before anything is normalised."""

    pixels: Pixels
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one part of a data set.

    Args:
        source: the images as bytes, (N, C, H, W).
        labels: for classification, the class number of each image, int64, (N,); for detection, its boxes in pixels,
            float32, (N, M, 6), as :mod:`ghostkit.data.boxes` lays them out; for segmentation, the class number of each
            pixel, 255 where it is ignored, uint8, (N, H, W).
        mean: per channel, of the *training* split, on pixels scaled to 0..1.
        std: per channel, likewise.
        task: what the labels are for.
    """

    source: Pixels
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: Task = "classification"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether the images are a tensor already, and not files yet to be decoded."""
        return isinstance(self.source, Tensor)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (B,) as bytes 0..255, (B, C, H, W)."""
        return self.source[indices]

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (B,), normalised, float32, (B, C, H, W).

        Raises:
            GhostkitError: if a file can no longer be read; the message names it.
        """
        return self.normalise(self.pixels(indices))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes (B, C, H, W) as float32 with the training split's mean at 0 and deviation at 1."""
        mean = torch.tensor(self.mean).mul_(255).view(-1, 1, 1)
        std = torch.tensor(self.std).mul_(255).view(-1, 1, 1)
        return pixels.float().sub_(mean).div_(std)


def statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, on pixels scaled to 0..1.

    They are taken from all images in memory, or from the first 2,048 files (readers shuffle files once, so the first
    are a fair sample). Sums are integers, so the result is the same to the last bit whatever the number of threads. A
    channel that never varies gets the deviation 1.

    Args:
        pixels: the images of the training split, (N, C, H, W).
    """
    in_memory = isinstance(pixels, Tensor)
    count, channels = len(pixels) if in_memory else min(len(pixels), STATISTICS_IMAGES), pixels.shape[1]

    def histogram(first: int) -> Tensor:
        chunk = pixels[torch.arange(first, min(first + CHUNK, count))]
        return torch.stack([torch.bincount(chunk[:, c].flatten(), minlength=256) for c in range(channels)])

    chunks = range(0, count, CHUNK)
    parts = map(histogram, chunks) if in_memory else _ahead(histogram, chunks, _threads())
    total = torch.zeros(channels, 256, dtype=torch.int64)
    for part in parts:
        total += part
    mean, std = [], []
    for counts in total.tolist():
        n = sum(counts)
        first = sum(value * times for value, times in enumerate(counts))
        second = sum(value * value * times for value, times in enumerate(counts))
        mean.append(first / n / 255)
        std.append(math.sqrt(second * n - first * first) / n / 255 or 1.0)
    return tuple(mean), tuple(std)


def fixed_order(count: int) -> Tensor:
    """Return the numbers below ``count`` in an order that is shuffled, and always the same."""
    # RandomState and not a generator of torch or numpy: its stream is frozen, so a split outlives their releases.
    return torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(count))


def stratified(labels: Tensor, test_share: float) -> tuple[Tensor, Tensor]:
    """Return the indices of a training and a test part that hold every class in the same proportion.

    The split is fixed: it depends on the labels alone. Both parts come shuffled, so that their first n images are a
    fair sample. A class gives at least one image to the test part and keeps at least one for training; a class of one
    image is trained on only.

    Args:
        labels: class number of each image, (N,).
        test_share: share of each class that goes to the test part, in 0..1.
    """
    order = fixed_order(len(labels))
    shuffled = labels[order]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = (shuffled == label).nonzero().flatten()
        held_out[members[: min(len(members) - 1, max(1, round(test_share * len(members))))]] = True
    return order[~held_out], order[held_out]


def batch_count(images: int, batch_size: int) -> int:
    """Return how many batches one pass over ``images`` images has.

    A last batch of one image joins the batch before it: BatchNorm cannot train on a single value per channel, and no
    image is lost.

    Raises:
        GhostkitError: if ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise GhostkitError(f"batch_size is {batch_size}, expected at least 1")
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def batches(
    split: Split,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    augment: Augment = "none",
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of one pass: images (B, C, H, W), normalised float32, and their labels.

    Labels are class numbers (B,), int64, for classification; boxes (B, M, 6), float32, padded with class -1, for
    detection; and class numbers (B, H, W), int64, 255 where a pixel is ignored, for segmentation.

    A batch is fixed by the split, ``batch_size``, ``shuffle``, ``seed``, ``epoch``, ``augment`` and its own number.
    There are ``batch_count(len(split), batch_size)`` of them.

    Args:
        split: what to pass over.
        batch_size: images per batch; a last batch of one image joins the one before it.
        shuffle: whether the images come in an order drawn from ``seed`` and ``epoch``, or in the split's own.
        seed: the run's seed, 0 or more.
        epoch: number of the pass, from 0.
        start: number of the first batch to give, from 0; the ones before it cost nothing.
        augment: ``"crop"`` pads by an eighth of the size with black and crops at random, ``"crop+flip"`` also mirrors
            every other image at random; boxes and masks follow.
        workers: threads that decode files ahead, 0 for as many as the machine suggests (at most 4); images in memory
            need none.

    Raises:
        GhostkitError: if an argument does not fit; and later, from the iterator, if a file can no longer be read.
    """
    count = batch_count(len(split), batch_size)
    if not 0 <= start <= count:
        raise GhostkitError(f"start is {start}, expected 0 to {count}: that many batches of {batch_size} there are")
    if augment not in AUGMENTS:
        raise GhostkitError(f"unknown augment {augment!r}, expected one of {', '.join(AUGMENTS)}")
    if workers < 0:
        raise GhostkitError(f"workers is {workers}, expected 0 (as many as the machine suggests) or more")
    if augment != "none" and split.task != "classification":
        import torchvision.transforms.v2  # noqa: F401  # here, as several threads must not be the first to ask for it
    images = len(split)
    order = torch.randperm(images, generator=_generator(ORDER, seed, epoch)) if shuffle else torch.arange(images)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        stop = images if number == count - 1 else (number + 1) * batch_size
        indices = order[number * batch_size : stop]
        pixels, labels = split.pixels(indices), split.labels[indices]
        if augment != "none":
            generator = _generator(AUGMENTATION, seed, epoch, number)
            pixels, labels = augmented(pixels, labels, split.task, generator, flip=augment == "crop+flip")
        return split.normalise(pixels), labels.long() if split.task == "segmentation" else labels

    numbers = range(start, count)
    return (batch(number) for number in numbers) if split.in_memory else _ahead(batch, numbers, workers or _threads())


def _generator(stream: int, seed: int, epoch: int, number: int = 0) -> torch.Generator:
    """Return a generator of its own for one purpose at one place of a run."""
    mixed = np.random.SeedSequence((stream, seed, epoch, number)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def _threads() -> int:
    return min(4, os.cpu_count() or 1)


def _ahead(make: Callable[[int], Made], numbers: Iterable[int], workers: int) -> Generator[Made, None, None]:
    """Yield ``make(number)`` for each number, in order, while up to ``workers`` threads already make the next ones."""
    with ThreadPoolExecutor(workers, thread_name_prefix="ghostkit-data") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(make, number))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the pass was given up, or a file was unreadable: what has not begun need not
            for future in waiting:
                future.cancel()


def resized(images: Tensor, share: float) -> Tensor:
    """Return images (B, C, H, W) with both sides at ``share`` of their length, smoothed before they shrink."""
    if share == 1:
        return images
    size = [max(1, round(share * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
