"""VOC's folders: ``JPEGImages``, an XML file of boxes for each in ``Annotations``, masks in ``SegmentationClass``.

``ImageSets`` may say which images are for training (``train.txt``) and which for testing (``val.txt``); in ``Main`` for
boxes, in ``Segmentation`` for masks. VOC counts pixels from 1 and includes the last, so its box 1, 1, W, H is our 0, 0,
W, H. Objects that are marked as ``difficult`` are not counted in VOC's scores: they are read as crowds are.

XML is read without entities: a file that declares a document type is refused, as it could grow without end.
Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from ghostkit.data.annotated import Annotated, Boxed, by_stem, detection_read
from ghostkit.data.folders import Read, reason
from ghostkit.data.masks import NAMES, class_names, mask_read, paired
from ghostkit.errors import GhostkitError

__all__ = ["VOC_CLASSES", "read_voc_boxes", "read_voc_masks"]

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
BEYOND = 2**31  # px, what no image has
Names = tuple[str, ...]


def read_voc_boxes(path: Path, size: int, classes: Names | None = None, *, check: bool = True) -> Read:
    """Return the images and boxes of a folder in VOC's layout.

    Args:
        path: holds ``JPEGImages`` and ``Annotations``, and perhaps ``ImageSets/Main`` with ``train.txt`` and
            ``val.txt``; without these two, a fifth of the images is held out, always the same one.
        size: height and width in pixels after decoding.
        classes: names of the classes; if None, those in ``classes.txt``, one on each line, or else all that are found,
            sorted.
        check: whether every image is checked now, as is right for a user's own.

    Raises:
        GhostkitError: if a file is missing or unreadable, or an object in it cannot be meant as it stands.
    """
    images = by_stem(path / "JPEGImages")
    sets = _sets(path, "Main", images) or (_all_annotated(path, images), None)
    parts = [None if stems is None else [_objects(path, stem, images) for stem in stems] for stems in sets]
    known = classes or class_names(path / NAMES)
    names = known or tuple(sorted({name for part in parts for _, found, _ in part or () for name, _ in found}))
    if not names:
        raise GhostkitError(f"there is no object in any file in {str(path / 'Annotations')!r}; expected some")
    train, test = (None if part is None else [_numbered(path, names, *entry) for entry in part] for part in parts)
    return detection_read(names, train or [], test, size, repr(str(path / "Annotations")), check=check)


def read_voc_masks(path: Path, size: int, classes: Names | None = None, *, check: bool = True) -> Read:
    """Return the images and masks of a folder in VOC's layout.

    Args:
        path: holds ``JPEGImages`` and ``SegmentationClass``, and perhaps ``ImageSets/Segmentation`` with ``train.txt``
            and ``val.txt``; without these two, all masks are taken, and a fifth is held out, always the same one.
        size: height and width in pixels after decoding.
        classes: names of the masks' numbers; if None, those in ``SegmentationClass/classes.txt``, or else the numbers.
        check: whether every image is checked now, as is right for a user's own.

    Raises:
        GhostkitError: if a file is missing or unreadable, or a mask cannot be used.
    """
    folders = path / "JPEGImages", path / "SegmentationClass"
    images, masks = map(by_stem, folders)
    train, test = (
        None if stems is None else paired(stems, images, masks, *map(str, folders))
        for stems in _sets(path, "Segmentation", images) or (sorted(masks), None)
    )
    names = classes or class_names(folders[1] / NAMES)
    return mask_read(train or [], test, size, repr(str(folders[1])), names, check=check)


def _all_annotated(path: Path, images: Mapping[str, str]) -> list[str]:
    """Return the names of all images, where each annotation has one."""
    for file in sorted((path / "Annotations").glob("*.xml")):
        if file.stem not in images:
            raise GhostkitError(
                f"there is no image called {file.stem!r} in {str(path / 'JPEGImages')!r} for {str(file)!r}"
            )
    return sorted(images)


def _sets(path: Path, kind: str, images: Mapping[str, str]) -> tuple[list[str], list[str]] | None:
    """Return the names in ``train.txt`` and ``val.txt``; None if the two are not there.

    A line is the name of an image, which may have spaces in it, or begins with one: VOC writes 1 or -1 behind it.
    """
    files = [path / "ImageSets" / kind / name for name in ("train.txt", "val.txt")]
    if not all(file.is_file() for file in files):
        return None
    try:
        read = [map(str.strip, file.read_text(encoding="utf-8-sig").splitlines()) for file in files]
    except (OSError, ValueError) as error:
        raise GhostkitError(
            f"cannot read which images are for what in {str(files[0].parent)!r}: {reason(error)}"
        ) from None
    train, test = ([line if line in images else line.split()[0] for line in lines if line] for lines in read)
    for names, file in zip((train, test), files, strict=True):
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise GhostkitError(f"{str(file)!r} lists {twice!r} twice; expected each image once")
    shared = sorted(set(train) & set(test))
    if shared:
        raise GhostkitError(
            f"{str(files[0])!r} and {str(files[1])!r} both list {shared[0]!r}; expected it in one of them"
        )
    return train, test


class _Plain(ElementTree.TreeBuilder):
    """Builds a tree of a file without a document type, where alone entities could be declared."""

    def doctype(self, name: str, _public: str | None, _system: str | None) -> NoReturn:
        raise GhostkitError(
            f"it declares a document type, {name!r}, which VOC's files have not; remove the declaration"
        )


Entry = tuple[str, list[tuple[str, Boxed]], tuple[int, int] | None]  # image, named boxes, width and height


def _objects(path: Path, stem: str, images: Mapping[str, str]) -> Entry:
    """Return what the XML file of one image says."""
    file = path / "Annotations" / f"{stem}.xml"
    if stem not in images:
        raise GhostkitError(
            f"there is no image called {stem!r} in {str(path / 'JPEGImages')!r}, which 'ImageSets' lists"
        )
    try:
        root = ElementTree.fromstring(file.read_bytes(), ElementTree.XMLParser(target=_Plain()))
    except FileNotFoundError:
        raise GhostkitError(
            f"there is no {str(file)!r} for the image {images[stem]!r}; where there is no object in an image, expected "
            "a file without objects"
        ) from None
    except Exception as error:  # no XML, an unknown encoding, or a document type
        raise GhostkitError(f"cannot read the annotation {str(file)!r}: {reason(error)}") from None
    found: list[tuple[str, Boxed]] = []
    for number, entry in enumerate(root.iter("object"), 1):
        place = f"object {number} in {str(file)!r}"
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise GhostkitError(f"{place} has no name; expected its class in <name>")
        left, top, right, bottom = (
            _number(entry.findtext(f"bndbox/{side}"), place, side) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        difficult = (entry.findtext("difficult") or "0").strip() == "1"
        found.append((name, (left - 1, top - 1, right, bottom, 0, int(difficult))))
    width, height = (
        _number(root.findtext(f"size/{side}") or "0", repr(str(file)), side) for side in ("width", "height")
    )
    return images[stem], found, (int(width), int(height)) if 0 < width < BEYOND and 0 < height < BEYOND else None


def _numbered(
    path: Path, classes: Names, image: str, found: list[tuple[str, Boxed]], size: tuple[int, int] | None
) -> Annotated:
    numbers = {name: number for number, name in enumerate(classes)}
    for name, _ in found:
        if name not in numbers:
            raise GhostkitError(
                f"the annotation of {Path(image).stem!r} in {str(path / 'Annotations')!r} has an unknown class "
                f"{name!r}; expected one of {', '.join(classes)}"
            )
    return Annotated(image, [(*box[:4], numbers[name], box[5]) for name, box in found], size)


def _number(text: str | None, place: str, side: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise GhostkitError(f"{place} has {text!r} for <{side}>, expected a number of pixels") from None
