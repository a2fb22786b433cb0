"""Reads the idx format of MNIST and its relatives, plain or gzipped, and believes nothing that it has not counted.

A file is four bytes of magic (0, 0, 8 for unsigned bytes, number of dimensions), one big-endian 32-bit size per
dimension, then the values. torchvision's reader takes a file that is too short; a network trained on half of the
images would not say so, hence this one.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ghostkit.errors import GhostkitError

__all__ = ["find_idx", "read_idx", "read_labelled_idx"]

UNSIGNED_BYTE = 8


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file ``name``, or ``name.gz``, in ``folder``; None if neither is there."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the values of an idx file of unsigned bytes.

    Args:
        path: the file; a name that ends in ``.gz`` is unpacked on the way.
        dimensions: the number of dimensions it must have (3 for images, 1 for labels).

    Returns:
        A uint8 tensor of the shape that the file's header gives.

    Raises:
        GhostkitError: if the file cannot be read, is no such file, or is shorter or longer than its header says.

    Source: the format's description at http://yann.lecun.com/exdb/mnist/.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:  # a gzip file that stops early is an EOFError
        raise _damaged(path, f"it cannot be read to its end: {error}") from None
    head = 4 + 4 * dimensions
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise _damaged(path, f"it starts with the bytes {content[:4].hex(' ')!r}, expected {magic.hex(' ')!r}")
    if len(content) < head:
        raise _damaged(path, f"its header has {len(content)} bytes, expected {head}")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    expected = math.prod(shape)
    if len(content) - head != expected:
        sizes = " x ".join(map(str, shape))
        raise _damaged(path, f"it holds {len(content) - head:,} values, expected {expected:,} ({sizes})")
    if expected == 0:
        raise _damaged(path, "it holds no values")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=head).view(shape)


def read_labelled_idx(folder: Path, images: str, labels: str, classes: int) -> tuple[Tensor, Tensor]:
    """Return the images (N, 1, H, W) as uint8 and labels (N,) as int64 of two idx files that belong together.

    Args:
        folder: where both files lie, plain or gzipped.
        images: file name of the images, without ``.gz``.
        labels: file name of the labels, without ``.gz``.
        classes: number of classes; every label must be smaller.

    Raises:
        GhostkitError: if a file is missing or damaged, or if the two do not fit together.
    """
    paths = []
    for name in (images, labels):
        path = find_idx(folder, name)
        if path is None:
            raise GhostkitError(f"there is no {name!r} (or {name}.gz) in {str(folder)!r}")
        paths.append(path)
    pixels, targets = read_idx(paths[0], 3), read_idx(paths[1], 1).long()
    if len(pixels) != len(targets):
        raise _damaged(paths[1], f"it has {len(targets):,} labels for the {len(pixels):,} images of {paths[0].name}")
    if int(targets.max()) >= classes:
        raise _damaged(paths[1], f"it has a label {int(targets.max())}, expected 0 to {classes - 1}")
    return pixels.unsqueeze(1), targets


def _damaged(path: Path, why: str) -> GhostkitError:
    return GhostkitError(f"the idx file {str(path)!r} is damaged: {why}; delete it and get it again")
