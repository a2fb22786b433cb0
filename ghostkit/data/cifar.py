"""Reads the binary archives of CIFAR-10 and CIFAR-100. Those for Python are pickles, which nothing here opens.

A file is one record after another, without a header: a byte for each label, then 3,072 bytes of pixels, channel by
channel and row by row. It does not say how many there are, so its length is held against what was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ghostkit.data.folders import Read, reason
from ghostkit.data.splits import Labelled
from ghostkit.errors import GhostkitError

__all__ = ["CIFAR_10", "CIFAR_100", "CifarLayout", "read_cifar"]

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarLayout:
    """How the files of one of the two data sets are laid out.

    Args:
        train: files of training images.
        test: the file of test images.
        names: the file that has a class in each line.
        labels: bytes of labels before the pixels; the last one counts, "fine" in CIFAR-100.
        images: of each file for training, and of that for testing.
    """

    train: tuple[str, ...]
    test: str
    names: str
    labels: int
    images: tuple[int, int]

    @property
    def files(self) -> tuple[str, ...]:
        """All that the folder must hold."""
        return (*self.train, self.test, self.names)


BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_10 = CifarLayout(BATCHES, "test_batch.bin", "batches.meta.txt", 1, (10_000, 10_000))
CIFAR_100 = CifarLayout(("train.bin",), "test.bin", "fine_label_names.txt", 2, (50_000, 10_000))


def read_cifar(home: Path, layout: CifarLayout) -> Read:
    """Return the classes, training and test images of the folder ``home``.

    Args:
        home: the folder that holds the files.
        layout: ``CIFAR_10`` or ``CIFAR_100``.

    Raises:
        GhostkitError: if a file cannot be read, is shorter or longer than was published, or has a label of no class.

    Source: the description at https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    try:
        text = (home / layout.names).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(home / layout.names, f"it cannot be read: {reason(error)}") from None
    classes = tuple(line.strip() for line in text.splitlines() if line.strip())
    train, test = (
        [_read_records(home / file, layout.labels, count, len(classes)) for file in files]
        for files, count in zip((layout.train, (layout.test,)), layout.images, strict=True)
    )
    return Read(classes, _joined(train), _joined(test))


def _read_records(path: Path, labels: int, count: int, classes: int) -> Labelled:
    """Return the images (N, 3, 32, 32) as uint8 and labels (N,) as int64 of one file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {reason(error)}") from None
    expected = count * (labels + PIXELS)
    if len(content) != expected:
        raise _damaged(path, f"it has {len(content):,} bytes, expected {expected:,} ({count:,} images)")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(count, labels + PIXELS)
    targets = records[:, labels - 1].long()
    if int(targets.max()) >= classes:
        raise _damaged(path, f"it has a label {int(targets.max())}, expected 0 to {classes - 1}")
    return Labelled(records[:, labels:].reshape(count, *SHAPE), targets)


def _joined(parts: list[Labelled]) -> Labelled:
    pixels, labels = zip(*parts, strict=True)
    return Labelled(torch.cat(pixels), torch.cat(labels))


def _damaged(path: Path, why: str) -> GhostkitError:
    return GhostkitError(f"the CIFAR file {str(path)!r} is damaged: {why}; delete it and get it again")
