"""What tells one data set from another by counts and names alone, so that a run sees when its data have changed."""

from __future__ import annotations

import hashlib
import os

from ghostkit.data.folders import ImageFiles
from ghostkit.data.loading import ImageData
from ghostkit.data.splits import Split

__all__ = ["fingerprint"]


def fingerprint(data: ImageData) -> dict[str, str]:
    """Return the classes of a data set, and of each split how many images it has, with a checksum of their names.

    Names begin below the folder that all files share, so data that were moved are the same. No image is read; those in
    memory have no names, and are counted only.

    >>> fingerprint(load("folder:photos"))["test"]
    '24 images, names 3f0c52a91b7e'
    """
    splits = {"train": data.train, "test": data.test, "validation": data.validation}
    there = {name: split for name, split in splits.items() if split is not None}
    names = [file for split in there.values() for file in _files(split)]
    start = os.path.commonprefix(names).rfind(os.sep) + 1  # noqa: RUF071  # of a million names, it splits none
    return {"classes": ", ".join(data.classes), **{name: _told(split, start) for name, split in there.items()}}


def _files(split: Split) -> tuple[str, ...]:
    """Return the files of a split; none where its images are in memory."""
    return split.source.files if isinstance(split.source, ImageFiles) else ()


def _told(split: Split, start: int) -> str:
    """Return a split in words; the names of its files begin at ``start``."""
    names = "\n".join(file[start:].replace(os.sep, "/") for file in _files(split))
    summed = f", names {hashlib.sha256(os.fsencode(names)).hexdigest()[:12]}" if names else ""
    return f"{len(split)} images{summed}"
