"""How each named data set is read from the folder that holds its files.

torchvision knows the archives, their checksums and their layout; this room turns what it gives into bytes (N, C, H, W)
and labels. The idx files of MNIST and its relatives and the binary files of CIFAR are read by our own, stricter
readers, and so are boxes and masks, which lie in the same layouts as a user's own. torchvision is imported only when it
is needed: it takes longer to import than ``digits`` takes to load.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ghostkit.data import scenes
from ghostkit.data.cifar import CifarLayout, read_cifar
from ghostkit.data.coco import read_coco
from ghostkit.data.fetching import torchvision_class
from ghostkit.data.folders import ImageFiles, Read, read_classes, reason
from ghostkit.data.idx import find_idx, read_labelled_idx
from ghostkit.data.masks import mask_read
from ghostkit.data.splits import Labelled, fixed_order, stratified
from ghostkit.data.voc import VOC_CLASSES, read_voc_boxes, read_voc_masks
from ghostkit.errors import GhostkitError

__all__ = [
    "Reader",
    "Wanted",
    "read_cifar_files",
    "read_coco_2017",
    "read_digits",
    "read_eurosat",
    "read_idx_files",
    "read_imagenet",
    "read_imagenette",
    "read_pet_breeds",
    "read_pet_masks",
    "read_scenes",
    "read_svhn",
    "read_voc_2012_boxes",
    "read_voc_2012_masks",
    "scene_items",
]


class Wanted(NamedTuple):
    """What is asked of a data set: a size in pixels, and how many images; None for as it is."""

    size: int | None = None
    train_samples: int | None = None
    test_samples: int | None = None


Reader = Callable[[Path, Wanted], Read]  # (folder that holds the files, what is asked for) -> what is in them

DIGITS = tuple("0123456789")
DIGITS_TEST = 397
FILE_SIZE = 64  # px, of images decoded from files, where no size is asked for
PHOTO_SIZE = 128  # px, likewise, of photographs with boxes or masks
IMAGENET_SIZE = 224
FASHION_FILE = "train-images-idx3-ubyte"  # whose presence tells Fashion-MNIST's folder from any other
PET_REGIONS = ("pet", "background", "border")  # 1, 2 and 3 in its masks
# Folder, as torchvision lays it -> (its name of the archive, shorter side of the images in px); the largest first.
IMAGENETTE = {"imagenette2": ("full", None), "imagenette2-320": ("320px", 320), "imagenette2-160": ("160px", 160)}


def read_digits(_home: Path, _wanted: Wanted) -> Read:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, their grey levels 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets.astype(np.int64))
    train, test = stratified(labels, DIGITS_TEST / len(labels))
    return Read(DIGITS, Labelled(images[train], labels[train]), Labelled(images[test], labels[test]))


def read_idx_files(class_name: str) -> Reader:
    """Return the reader of one of torchvision's idx data sets, which takes the names of the classes from there."""

    def read(home: Path, _wanted: Wanted) -> Read:
        # "0 - zero", as MNIST has it, comes to "0".
        classes = tuple(name.split(" - ")[0] for name in torchvision_class(class_name).classes)
        train, test = (
            Labelled(*read_labelled_idx(home, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte", len(classes)))
            for part in ("train", "t10k")
        )
        return Read(classes, train, test)

    return read


def read_cifar_files(layout: CifarLayout) -> Reader:
    """Return the reader of CIFAR-10 or CIFAR-100."""
    return lambda home, _wanted: read_cifar(home, layout)


def read_svhn(home: Path, _wanted: Wanted) -> Read:
    """Return the cropped house numbers, without the ``extra`` part."""
    train, test = (_made("SVHN", home, split=split) for split in ("train", "test"))
    return Read(DIGITS, *(_from_arrays(x.data, x.labels) for x in (train, test)))


def read_eurosat(home: Path, wanted: Wanted) -> Read:
    """Return EuroSAT in RGB; it has no official split, so a fifth of each class is held out, always the same one."""
    return read_classes(home, None, wanted.size or FILE_SIZE, check=False)


def read_imagenette(home: Path, wanted: Wanted) -> Read:
    """Return Imagenette, its classes named in words.

    Raises:
        GhostkitError: if ``size`` is more than the files have.
    """
    archive, side = IMAGENETTE[home.name]
    size = wanted.size
    if side is not None and size is not None and size > side:
        raise GhostkitError(
            f"size is {size}, but the images in {str(home)!r} have {side} pixels; expected at most that, or the "
            f"original images in {str(home.parent / 'imagenette2')!r} (https://github.com/fastai/imagenette)"
        )
    read = read_classes(home / "train", home / "val", wanted.size or FILE_SIZE, check=False)
    known = _made("Imagenette", home.parent, split="train", size=archive)
    names = dict(zip(known.wnids, known.classes, strict=True))
    return read._replace(classes=tuple(names[wnid][0] for wnid in read.classes))


def read_imagenet(home: Path, wanted: Wanted) -> Read:
    """Return ImageNet (ILSVRC 2012) from its unpacked ``train`` and ``val`` folders, each with a folder per class."""
    read = read_classes(home / "train", home / "val", wanted.size or IMAGENET_SIZE, check=False)
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]  # in the order of the folders' names
    return read._replace(classes=tuple(names)) if len(read.classes) == len(names) else read


def read_scenes(*, tinted: bool, masks: bool) -> Reader:
    """Return the reader of scenes, composed of what :func:`scene_items` finds."""

    def read(home: Path, wanted: Wanted) -> Read:
        fashion = find_idx(home, FASHION_FILE) is not None
        items = (read_idx_files("FashionMNIST") if fashion else read_digits)(home, wanted)
        size, asked = wanted.size or scenes.SMALLEST, (wanted.train_samples, wanted.test_samples)
        for argument, count in zip(("train_samples", "test_samples"), asked, strict=True):
            if count is not None and count < 1:
                raise GhostkitError(
                    f"{argument} is {count}, expected 1 or more: as many scenes are composed as are asked for"
                )
        counts = [scenes.SCENES[part] if count is None else count for part, count in enumerate(asked)]
        made = (
            scenes.compose(source, part, counts[part], size, tinted=tinted, masks=masks)
            for part, source in enumerate((items.train, items.test))
        )
        classes = ("background", *items.classes) if masks else items.classes
        return Read(classes, *made)

    return read


def scene_items(home: Path) -> str:
    """Return, for people, what scenes are composed of: Fashion-MNIST if the folder holds it, or else digits."""
    named = f"Fashion-MNIST in {str(home)!r}" if find_idx(home, FASHION_FILE) else "scikit-learn's digits"
    return f"real items, composed scenes: {named}"


def read_voc_2012_boxes(home: Path, wanted: Wanted) -> Read:
    """Return the boxes of VOC 2012: 5,717 images for training, its 5,823 of validation for testing."""
    return read_voc_boxes(home, wanted.size or PHOTO_SIZE, VOC_CLASSES, check=False)


def read_voc_2012_masks(home: Path, wanted: Wanted) -> Read:
    """Return the masks of VOC 2012: 1,464 images for training, its 1,449 of validation for testing."""
    return read_voc_masks(home, wanted.size or PHOTO_SIZE, ("background", *VOC_CLASSES), check=False)


def read_coco_2017(home: Path, wanted: Wanted) -> Read:
    """Return the boxes of COCO 2017, its 5,000 images of validation for testing."""
    train, test = (home / "annotations" / f"instances_{part}2017.json" for part in ("train", "val"))
    size = wanted.size or PHOTO_SIZE
    return read_coco(home / "train2017", train, size, test, home / "val2017", check=False)


def read_pet_breeds(home: Path, wanted: Wanted) -> Read:
    """Return the 37 breeds of Oxford-IIIT Pet."""
    parts, names = [], dict[int, str]()
    for file in ("trainval.txt", "test.txt"):
        listed = _pets(home, file)
        names |= {label: " ".join(name.rsplit("_", 1)[0].split("_")).title() for name, label in listed}
        images = [str(home / "images" / f"{name}.jpg") for name, _ in listed]
        labels, order = torch.tensor([label for _, label in listed]), fixed_order(len(listed))
        files = ImageFiles(images, 3, wanted.size or FILE_SIZE).at(order.tolist())
        parts.append(Labelled(files, labels[order]))
    return Read(tuple(names.get(label, str(label)) for label in range(max(names) + 1)), *parts)


def read_pet_masks(home: Path, wanted: Wanted) -> Read:
    """Return the outlines of Oxford-IIIT Pet: of each pixel, whether it is pet, background or on the border."""
    train, test = (
        [
            (str(home / "images" / f"{name}.jpg"), str(home / "annotations" / "trimaps" / f"{name}.png"))
            for name, _ in _pets(home, file)
        ]
        for file in ("trainval.txt", "test.txt")
    )
    size, source = wanted.size or PHOTO_SIZE, repr(str(home / "annotations" / "trimaps"))
    return mask_read(train, test, size, source, PET_REGIONS, check=False, first=1)


def _pets(home: Path, file: str) -> list[tuple[str, int]]:
    """Return the names of images and their breeds, from 0, which a file lists from 1."""
    path = home / "annotations" / file
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        listed = [(line[0], int(line[1]) - 1) for line in lines]
    except (OSError, ValueError, IndexError) as error:
        raise GhostkitError(f"cannot read the list of pets {str(path)!r}: {reason(error)}; get it again") from None
    if not listed or min(label for _, label in listed) < 0:
        raise GhostkitError(f"the list of pets {str(path)!r} is empty or has a breed below 1; get it again")
    return listed


def _from_arrays(pixels: Any, labels: Any) -> Labelled:
    """Return bytes (N, C, H, W) and labels (N,) that torchvision gives as arrays or lists."""
    return Labelled(torch.from_numpy(np.ascontiguousarray(pixels)), torch.as_tensor(labels, dtype=torch.int64))


def _made(class_name: str, root: Path, **options: Any) -> Any:
    """Return torchvision's data set, its complaints in our words."""
    try:
        return torchvision_class(class_name)(root, **options)
    except Exception as error:  # a damaged archive may break any of torchvision's, scipy's or the format's own rules
        raise GhostkitError(
            f"torchvision cannot read {class_name} in {str(root)!r}: {reason(error)}; "
            "delete its files there and get them again"
        ) from None
