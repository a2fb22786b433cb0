"""How each named data set is read from the folder that holds its files.

torchvision knows the archives, their checksums and their layout; this room turns what it gives into bytes (N, C, H, W)
and labels. The idx files of MNIST and its relatives are read by our own, stricter reader. torchvision is imported only
when it is needed: it takes longer to import than ``digits`` takes to load.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ghostkit.data.folders import Read, read_classes, reason
from ghostkit.data.idx import read_labelled_idx
from ghostkit.data.splits import Labelled, stratified
from ghostkit.errors import GhostkitError

__all__ = [
    "Reader",
    "read_cifar",
    "read_digits",
    "read_eurosat",
    "read_idx_files",
    "read_imagenet",
    "read_imagenette",
    "read_svhn",
    "torchvision_class",
]

Reader = Callable[[Path, int | None], Read]  # (folder that holds the files, size asked for) -> what is in them

DIGITS = tuple("0123456789")
DIGITS_TEST = 397
FILE_SIZE = 64  # px, of images decoded from files, where no size is asked for
IMAGENET_SIZE = 224
# Folder, as torchvision lays it -> (its name of the archive, shorter side of the images in px); the largest first.
IMAGENETTE = {"imagenette2": ("full", None), "imagenette2-320": ("320px", 320), "imagenette2-160": ("160px", 160)}


def read_digits(_home: Path, _size: int | None) -> Read:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, their grey levels 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets.astype(np.int64))
    train, test = stratified(labels, DIGITS_TEST / len(labels))
    return Read(DIGITS, Labelled(images[train], labels[train]), Labelled(images[test], labels[test]))


def read_idx_files(class_name: str) -> Reader:
    """Return the reader of one of torchvision's idx data sets, which takes the names of the classes from there."""

    def read(home: Path, _size: int | None) -> Read:
        # "0 - zero", as MNIST has it, comes to "0".
        classes = tuple(name.split(" - ")[0] for name in torchvision_class(class_name).classes)
        train, test = (
            Labelled(*read_labelled_idx(home, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte", len(classes)))
            for part in ("train", "t10k")
        )
        return Read(classes, train, test)

    return read


def read_cifar(class_name: str) -> Reader:
    """Return the reader of CIFAR-10 or CIFAR-100."""

    def read(home: Path, _size: int | None) -> Read:
        # The archives are pickles; torchvision opens them only after their checksum has been found right.
        train, test = (_made(class_name, home.parent, train=train) for train in (True, False))
        return Read(
            tuple(train.classes), *(_from_arrays(x.data.transpose(0, 3, 1, 2), x.targets) for x in (train, test))
        )

    return read


def read_svhn(home: Path, _size: int | None) -> Read:
    """Return the cropped house numbers, without the ``extra`` part."""
    train, test = (_made("SVHN", home, split=split) for split in ("train", "test"))
    return Read(DIGITS, *(_from_arrays(x.data, x.labels) for x in (train, test)))


def read_eurosat(home: Path, size: int | None) -> Read:
    """Return EuroSAT in RGB; it has no official split, so a fifth of each class is held out, always the same one."""
    return read_classes(home, None, size or FILE_SIZE, check=False)


def read_imagenette(home: Path, size: int | None) -> Read:
    """Return Imagenette, its classes named in words.

    Raises:
        GhostkitError: if ``size`` is more than the files have.
    """
    archive, side = IMAGENETTE[home.name]
    if side is not None and size is not None and size > side:
        raise GhostkitError(
            f"size is {size}, but the images in {str(home)!r} have {side} pixels; expected at most that, or the "
            f"original images in {str(home.parent / 'imagenette2')!r} (https://github.com/fastai/imagenette)"
        )
    read = read_classes(home / "train", home / "val", size or FILE_SIZE, check=False)
    known = _made("Imagenette", home.parent, split="train", size=archive)
    names = dict(zip(known.wnids, known.classes, strict=True))
    return read._replace(classes=tuple(names[wnid][0] for wnid in read.classes))


def read_imagenet(home: Path, size: int | None) -> Read:
    """Return ImageNet (ILSVRC 2012) from its unpacked ``train`` and ``val`` folders, each with a folder per class."""
    read = read_classes(home / "train", home / "val", size or IMAGENET_SIZE, check=False)
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]  # in the order of the folders' names
    return read._replace(classes=tuple(names)) if len(read.classes) == len(names) else read


def _from_arrays(pixels: Any, labels: Any) -> Labelled:
    """Return bytes (N, C, H, W) and labels (N,) that torchvision gives as arrays or lists."""
    return Labelled(torch.from_numpy(np.ascontiguousarray(pixels)), torch.as_tensor(labels, dtype=torch.int64))


def torchvision_class(name: str) -> Any:
    """Return the class of torchvision's data sets that is called ``name``."""
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _made(class_name: str, root: Path, **options: Any) -> Any:
    """Return torchvision's data set, its complaints in our words."""
    try:
        return torchvision_class(class_name)(root, **options)
    except Exception as error:  # a damaged archive may break any of torchvision's, scipy's or the format's own rules
        raise GhostkitError(
            f"torchvision cannot read {class_name} in {str(root)!r}: {reason(error)}; "
            "delete its files there and get them again"
        ) from None
