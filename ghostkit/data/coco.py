"""COCO's file of boxes, taken apart with suspicion: every entry that cannot be meant is quoted with its file.

The file is a JSON object with the lists ``images`` (``id``, ``file_name``, perhaps ``width`` and ``height``),
``categories`` (``id``, ``name``) and ``annotations`` (``image_id``, ``category_id``, ``bbox`` as x, y, width, height,
perhaps ``iscrowd``). Classes are numbered from 0 in the order of the categories' ids. Everything else in it, outlines
included, is passed over. Images without annotations are images without objects.

Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ghostkit.data.annotated import Annotated, detection_read
from ghostkit.data.folders import Read, reason, refuse_broken
from ghostkit.errors import GhostkitError

__all__ = ["read_coco"]

QUOTED = 160  # characters of an entry that an error quotes


def read_coco(
    images: Path,
    annotations: Path,
    size: int,
    test_annotations: Path | None = None,
    test_images: Path | None = None,
    *,
    check: bool = True,
) -> Read:
    """Return the images and boxes of one or two files of annotations.

    Args:
        images: the folder that the files' names refer to.
        annotations: the file for training.
        size: height and width in pixels after decoding.
        test_annotations: the file for testing; if None, a fifth of the images is held out, always the same one.
        test_images: the folder that its files lie in; None for ``images``.
        check: whether every image is checked now, as is right for a user's own.

    Raises:
        GhostkitError: if a file or an image is missing or unreadable, or an entry cannot be meant as it stands.
    """
    categories, train = _annotated(images, annotations)
    test = None
    if test_annotations is not None:
        tested, test = _annotated(test_images or images, test_annotations)
        if tested != categories:
            odd = min(set(tested.items()) ^ set(categories.items()))
            raise GhostkitError(
                f"{str(test_annotations)!r} has other categories than {str(annotations)!r}, such as {odd}; expected "
                "the same ids and names in both"
            )
        shared = sorted({image.file for image in train} & {image.file for image in test})
        if shared:
            raise GhostkitError(f"{shared[0]!r} is in {str(annotations)!r} and in {str(test_annotations)!r}; pick one")
    classes = tuple(categories[number] for number in sorted(categories))
    return detection_read(classes, train, test, size, repr(str(annotations)), check=check)


def _annotated(images: Path, path: Path) -> tuple[dict[int, str], list[Annotated]]:
    """Return the categories by their ids, and the images with their boxes, sorted by file."""
    if not images.is_dir():
        raise GhostkitError(f"{str(images)!r} is no folder; expected the one that the images of {str(path)!r} lie in")
    content = _content(path)
    categories = _categories(content["categories"], path)
    numbers = {number: label for label, number in enumerate(sorted(categories))}
    found: dict[Any, Annotated] = {}
    for entry in content["images"]:
        key = _entry(entry, path, "images").get("id")
        if not isinstance(key, int | str) or isinstance(key, bool):
            raise _odd(path, "images", entry, "its 'id' is neither a whole number nor a text")
        if key in found:
            raise _odd(path, "images", entry, f"there is another image of the id {key!r}")
        found[key] = Annotated(_file(entry, images, path), [], _size(entry, path))
    _require_distinct_files(found.values(), path)
    for entry in content["annotations"]:
        image = found.get(_hashable(_entry(entry, path, "annotations").get("image_id")))
        if image is None:
            raise _odd(path, "annotations", entry, f"no image has its 'image_id', {entry.get('image_id')!r}")
        label = numbers.get(_hashable(entry.get("category_id")))
        if label is None:
            known = ", ".join(map(str, sorted(numbers)))
            raise _odd(
                path,
                "annotations",
                entry,
                f"its 'category_id' is {entry.get('category_id')!r}, expected one of {known}",
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise _odd(path, "annotations", entry, f"its 'iscrowd' is {crowd!r}, expected 0 or 1")
        x, y, width, height = _corners(entry, path)
        image.boxes.append((x, y, x + width, y + height, label, int(crowd)))
    missing = [(image.file, "no such file") for image in found.values() if not _is_file(image.file)]
    refuse_broken(missing, len(found), f"images of {str(path)!r} are missing")
    return categories, sorted(found.values(), key=lambda image: image.file)


def _content(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise GhostkitError(f"cannot read the annotations {str(path)!r}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested without end
        raise GhostkitError(f"{str(path)!r} is no sound JSON: {reason(error)}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise GhostkitError(
                f"{str(path)!r} has no list {key!r}; expected a file of COCO's boxes: an object with the lists "
                "'images', 'annotations' and 'categories'"
            )
    return content


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in entries:
        number, name = _entry(entry, path, "categories").get("id"), entry.get("name")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str) or not name:
            raise _odd(path, "categories", entry, "expected an 'id' that is a whole number and a 'name' that is a text")
        if number in found or name in found.values():
            raise _odd(path, "categories", entry, "there is another category of the same id or name")
        found[number] = name
    if not found:
        raise GhostkitError(f"the list 'categories' in {str(path)!r} is empty; expected a class or more")
    return found


def _entry(entry: Any, path: Path, of: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise _odd(path, of, entry, "expected an object")
    return entry


def _file(entry: dict[str, Any], images: Path, path: Path) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise _odd(path, "images", entry, f"its 'file_name' is {name!r}, expected the name of a file")
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise _odd(path, "images", entry, f"its 'file_name' leads out of {str(images)!r}, or might")
    return str(images / name)


def _size(entry: dict[str, Any], path: Path) -> tuple[int, int] | None:
    sides = entry.get("width"), entry.get("height")
    if sides == (None, None):
        return None
    width, height = sides
    if not isinstance(width, int) or not isinstance(height, int) or width < 1 or height < 1:
        raise _odd(path, "images", entry, "expected 'width' and 'height' in whole pixels, or neither")
    return width, height


def _corners(entry: dict[str, Any], path: Path) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    numbers = isinstance(box, list) and all(
        isinstance(side, int | float) and not isinstance(side, bool) for side in box
    )
    if not isinstance(box, list) or not numbers or len(box) != 4:
        raise _odd(path, "annotations", entry, "expected a 'bbox' of four numbers: x, y, width, height")
    try:
        x, y, width, height = map(float, box)
    except OverflowError:  # a whole number that no float can hold
        raise _odd(path, "annotations", entry, "its 'bbox' has a number beyond all images") from None
    return x, y, width, height


def _require_distinct_files(images: Any, path: Path) -> None:
    seen = set[str]()
    for image in images:
        if image.file in seen:
            raise GhostkitError(f"{str(path)!r} has two images of the file {image.file!r}; expected one entry a file")
        seen.add(image.file)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _hashable(key: Any) -> Any:
    return key if isinstance(key, int | str) and not isinstance(key, bool) else None


def _odd(path: Path, of: str, entry: Any, why: str) -> GhostkitError:
    text = json.dumps(entry)
    text = text if len(text) <= QUOTED else text[:QUOTED] + "..."
    return GhostkitError(f"{str(path)!r} has an entry in {of!r} that cannot be used: {text}: {why}")
