"""Folders of images, one folder per class: found, checked before anything is trained, decoded when asked for.

What is *checked at load time* for ``folder:PATH``: every file is opened, and must be whole. A JPEG must end in its end
marker and a PNG must have sound checksums to its last chunk, which is quick; a JPEG that ends otherwise, and every
other format, is decoded in full and the decoder has the last word. What only decoding all pixels of a JPEG could tell
comes up later, as an error that names the file.

Decoding stands an image upright, as its EXIF orientation has it. For classification, it takes the largest central
square and scales it to ``size``; where boxes or masks say something about the whole image, the whole image is scaled to
fit, and lies in the middle of a black square. Decoded images are kept as bytes if the whole split is small enough, so a
second epoch reads no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ghostkit.data.boxes import fitted
from ghostkit.data.splits import Labelled, fixed_order, stratified
from ghostkit.errors import GhostkitError

__all__ = [
    "EXTENSIONS",
    "ImageFiles",
    "Read",
    "channels_of",
    "files_by_class",
    "parts_of",
    "read_classes",
    "read_folder",
    "reason",
    "refuse_broken",
    "upright",
    "upright_size",
]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
LAYOUT = (
    f"a folder per class with images in it ({', '.join(EXTENSIONS)}), "
    "or 'train' and 'test' (or 'val') with such folders in each"
)
TEST_NAMES = ("test", "val", "valid", "validation")
TEST_LIKE = re.compile(r"(test|valid|eval).*|(val|dev)([^a-z].*)?")
TEST_SHARE = 0.2
KEPT_BYTES = 512 * 2**20  # a split whose decoded images need no more than this keeps them
NAMED = 5  # unreadable files that an error names
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for an image that is stored on its side
WIDTH, HEIGHT = 0x0100, 0x0101  # tags of a TIFF for the size that it is stored at


class Read(NamedTuple):
    """What a reader brings home: the names of the classes, and the two parts of the data set."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


class ImageFiles:
    """Image files that are decoded when they are indexed, all to one size.

    Args:
        files: paths, in the order of the labels.
        channels: 1 (grey) or 3 (RGB); every image is converted.
        size: height and width in pixels after decoding.
        whole: whether the whole image is scaled to fit, and padded with black; or else its central square is taken.
    """

    def __init__(self, files: Iterable[str], channels: int, size: int, *, whole: bool = False) -> None:
        self.files = tuple(files)
        self.whole = whole
        self.shape = (len(self.files), channels, size, size)
        keep = channels * size * size * len(self.files) <= KEPT_BYTES
        self._kept = torch.empty(self.shape, dtype=torch.uint8) if keep else None  # takes memory as it fills
        self._known = torch.zeros(len(self.files), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices`` (B,) as bytes (B, C, size, size).

        Raises:
            GhostkitError: if a file cannot be decoded; the message names it.
        """
        _, channels, size, _ = self.shape
        if self._kept is None:
            return torch.stack([_decoded(self.files[i], channels, size, self.whole) for i in indices.tolist()])
        for i in indices[~self._known[indices]].tolist():  # two threads may decode one file: to the same bytes
            self._kept[i] = _decoded(self.files[i], channels, size, self.whole)
            self._known[i] = True
        return self._kept[indices]

    def at(self, indices: Iterable[int]) -> ImageFiles:
        """Return the files at ``indices`` alone."""
        _, channels, size, _ = self.shape
        return ImageFiles([self.files[i] for i in indices], channels, size, whole=self.whole)


def read_folder(path: Path, size: int) -> Read:
    """Return the images of a user's own folder, every file checked.

    Args:
        path: holds a folder per class; or ``train`` and ``test`` (or ``val``), each with a folder per class. Names such
            as ``Training`` and ``Testing`` mean these two, where there is no other folder. Without them, a fifth of
            each class is held out for testing, always the same one. Files lie in a class folder at any depth; hidden
            ones, and those that are no images by their extension, are passed over.
        size: height and width in pixels after decoding.

    Raises:
        GhostkitError: if there is no such folder, it has fewer than two classes, a class has no image, the test folder
            has a class that training has not, or a file cannot be read.
    """
    if not path.is_dir():
        raise GhostkitError(f"{str(path)!r} is no folder; expected one that holds a folder of images per class")
    train, test = parts_of(path)
    return read_classes(train, test, size, check=True)


def read_classes(train: Path, test: Path | None, size: int, *, check: bool) -> Read:
    """Return the images of a folder per class, shuffled once for all, so that the first n are a fair sample.

    Args:
        train: holds a folder per class.
        test: holds folders of the same names; if None, a fifth of each class of ``train`` is held out.
        size: height and width in pixels after decoding.
        check: whether every file is checked now, and decides whether the data set is grey. Otherwise it is taken to be
            whole and in colour, as is right for a published archive whose checksum was seen.

    Raises:
        GhostkitError: as for :func:`read_folder`.
    """
    found = files_by_class(train)
    _require_classes(train, found)
    classes = tuple(found)
    files, labels = _flattened(found, classes)
    if test is None:
        kept, held_out = stratified(labels, TEST_SHARE)
        if not len(held_out):
            raise GhostkitError(
                f"every class in {str(train)!r} has one image only; expected two or more, to test on one"
            )
        parts = [([files[i] for i in part.tolist()], labels[part]) for part in (kept, held_out)]
    else:
        tested = files_by_class(test)
        unknown = [name for name, members in tested.items() if members and name not in found]
        if unknown:
            raise GhostkitError(f"{str(test)!r} has a class {unknown[0]!r} that {str(train)!r} has not")
        if not any(tested.values()):
            raise GhostkitError(f"{str(test)!r} holds no image in a class folder; expected {LAYOUT}")
        parts = [_shuffled(files, labels), _shuffled(*_flattened(tested, classes))]
    channels = channels_of([file for members, _ in parts for file in members]) if check else 3
    sources = (Labelled(ImageFiles(members, channels, size), targets) for members, targets in parts)
    return Read(classes, *sources)


def reason(error: Exception) -> str:
    """Return what an exception of another library says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _folders(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]


def parts_of(path: Path) -> tuple[Path, Path | None]:
    """Return the folders to train and to test on; ``path`` and None where it holds a folder per class."""
    folders = {folder.name.lower(): folder for folder in _folders(path)}
    train = [name for name in folders if name.startswith("train")]
    test = sorted(filter(TEST_LIKE.fullmatch, folders), key=lambda name: not name.startswith("test"))
    named = [name for name in TEST_NAMES if name in folders]
    if "train" in folders and named:
        return folders["train"], folders[named[0]]
    if len(train) == 1 and test and len(folders) == 1 + len(test):
        return folders[train[0]], folders[[*named, *test][0]]
    return path, None


def files_by_class(folder: Path) -> dict[str, list[str]]:
    """Return the image files below each class folder; sorted, as file systems list them in any order."""
    found: dict[str, list[str]] = {}
    for class_folder in _folders(folder):
        members = found[class_folder.name] = []
        for place, inner, names in os.walk(class_folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            members += [
                str(Path(place, name))
                for name in names
                if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
            ]
        members.sort()
    return found


def _require_classes(folder: Path, found: dict[str, list[str]]) -> None:
    if not found:
        raise GhostkitError(f"{str(folder)!r} holds no class folder; expected {LAYOUT}")
    if not any(found.values()):
        raise GhostkitError(f"{str(folder)!r} holds no image in its {len(found)} folder(s); expected {LAYOUT}")
    empty = [name for name, members in found.items() if not members]
    if empty:
        raise GhostkitError(
            f"the class folder {str(folder / empty[0])!r} holds no image; add some, or remove the folder"
        )
    if len(found) == 1:
        (name,) = found
        raise GhostkitError(f"{str(folder)!r} has one class only, {name!r}; expected two or more: {LAYOUT}")


def _flattened(found: dict[str, list[str]], classes: tuple[str, ...]) -> tuple[list[str], Tensor]:
    pairs = [(file, label) for label, name in enumerate(classes) for file in found.get(name, [])]
    return [file for file, _ in pairs], torch.tensor([label for _, label in pairs], dtype=torch.int64)


def _shuffled(files: list[str], labels: Tensor) -> tuple[list[str], Tensor]:
    order = fixed_order(len(files))
    return [files[i] for i in order.tolist()], labels[order]


def channels_of(files: Sequence[str]) -> int:
    """Return 1 if all images are grey and 3 otherwise; every file is checked.

    Raises:
        GhostkitError: if any cannot be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(_check, files))
    refuse_broken([(file, problem) for file, (_, problem) in zip(files, seen, strict=True) if problem], len(files))
    return 1 if all(grey for grey, _ in seen) else 3


def refuse_broken(broken: Sequence[tuple[str, str]], total: int, what: str = "images cannot be read") -> None:
    """Raise an error that names the first files of ``broken``, and what is wrong with them, if there are any."""
    if broken:
        more = f", and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        named = ", ".join(f"{file!r} ({problem})" for file, problem in broken[:NAMED])
        raise GhostkitError(f"{len(broken)} of {total} {what}: {named}{more}; repair or remove them")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height in pixels that an image has once it stands upright."""
    exif = image.getexif()
    stored = (exif[WIDTH], exif[HEIGHT]) if image.format == "TIFF" else image.size  # Pillow turns a TIFF's
    return (stored[1], stored[0]) if exif.get(ORIENTATION) in SIDEWAYS else stored


def upright(opened: Image.Image, mode: str) -> Image.Image:
    """Return an image that was just opened as it stands upright, in 8 bits per channel.

    Args:
        opened: the image.
        mode: ``"L"`` (grey) or ``"RGB"``.

    Raises:
        GhostkitError: if its pixels are numbers of which it is not known what is white.
    """
    if pixels := _no_bytes(opened):
        raise GhostkitError(pixels)
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits; convert() would clip them instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":  # its transparency may be a table, which only RGBA can hold
        image = image.convert("RGBA")
    return image.convert(mode)


def _no_bytes(image: Image.Image) -> str:
    """Return what is wrong with the kind of numbers that an opened image's pixels are ('' if nothing)."""
    if image.mode == "F":
        return "its pixels are floating-point numbers; expected 8 or 16 bits per channel"
    if image.mode == "I" and image.format == "TIFF":  # 16 bits without a sign have modes of their own there
        return "its pixels are whole numbers of 32 bits, or with a sign; expected 8 or 16 bits per channel"
    return ""


def _check(file: str) -> tuple[bool, str]:
    """Return whether the image is grey, and what is wrong with its file ('' if nothing)."""
    try:
        with Image.open(file) as image:
            grey = image.mode in GREY_MODES
            if pixels := _no_bytes(image):
                return grey, pixels
            if image.format == "PNG":
                image.verify()
            elif image.format == "JPEG" and _ends_as_jpeg(file):
                image.getexif()  # decoding will ask it for the orientation
            else:
                image.load()
            return grey, ""
    except Exception as error:  # decoders raise whatever they stumble on: OSError, SyntaxError, struct.error, ...
        return False, reason(error)


def _ends_as_jpeg(file: str) -> bool:
    with Path(file).open("rb") as stream:
        stream.seek(-2, os.SEEK_END)
        return stream.read() == b"\xff\xd9"


def _decoded(file: str, channels: int, size: int, whole: bool) -> Tensor:
    """Return the largest central square of an image, or all of it on black, at (channels, size, size), as bytes."""
    try:
        with Image.open(file) as opened:
            fit = fitted(*upright_size(opened), size) if whole else None  # before a draft makes it smaller
            opened.draft(None, (2 * size, 2 * size))  # a JPEG may be decoded smaller: much quicker, and never too small
            image = upright(opened, "L" if channels == 1 else "RGB")
            if fit is None:
                side = min(image.size)
                left, top = (image.width - side) / 2, (image.height - side) / 2
                image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
            else:
                canvas = Image.new(image.mode, (size, size))
                canvas.paste(image.resize((fit.width, fit.height), Image.Resampling.BILINEAR), (fit.left, fit.top))
                image = canvas
            return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()
    except Exception as error:  # as in _check
        raise GhostkitError(f"cannot read the image {file!r}: {reason(error)}; repair or remove it") from None
