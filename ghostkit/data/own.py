"""A user's own data: the forms in which they are given, each a prefix and the paths after it.

Everything in them is checked before anything is trained, as nobody has done so before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ghostkit.data.coco import read_coco
from ghostkit.data.folders import Read, read_folder
from ghostkit.data.masks import read_masks
from ghostkit.data.splits import Task
from ghostkit.data.voc import read_voc_boxes, read_voc_masks
from ghostkit.errors import GhostkitError

__all__ = ["FOLDER", "OWN", "Own", "form_of", "paths_of"]

FOLDER = "folder:"


@dataclass(frozen=True)
class Own:
    """A form in which a user gives data of their own.

    Args:
        form: how it is written, from its prefix on.
        images: what it may hold, in words.
        read: for each task that it offers, what reads the paths after the prefix, at a size in pixels.
        get: how to make it, for people.
        paths: how many paths it may name, separated by commas.
    """

    form: str
    images: str
    read: Mapping[Task, Callable[[list[Path], int], Read]]
    get: str
    paths: tuple[int, ...] = (1,)


OWN: dict[str, Own] = {
    FOLDER: Own(
        form="folder:PATH",
        images="your own, grey or colour, any size",
        read={"classification": lambda paths, size: read_folder(paths[0], size)},
        get="put images in a folder per class",
    ),
    "coco:": Own(
        form="coco:IMAGES,ANNOTATIONS.json",
        images="your own with boxes, grey or colour, any size",
        read={"detection": lambda paths, size: read_coco(paths[0], paths[1], size, *paths[2:])},
        get="put images in a folder, and their boxes in a file as COCO has them; a second file may be for testing",
        paths=(2, 3),
    ),
    "voc:": Own(
        form="voc:PATH",
        images="your own with boxes or masks, grey or colour, any size",
        read={
            "detection": lambda paths, size: read_voc_boxes(paths[0], size),
            "segmentation": lambda paths, size: read_voc_masks(paths[0], size),
        },
        get="put images in JPEGImages, an XML file for each in Annotations, masks in SegmentationClass",
    ),
    "masks:": Own(
        form="masks:IMAGES,MASKS",
        images="your own with masks, grey or colour, any size",
        read={"segmentation": lambda paths, size: read_masks(paths[0], paths[1], size)},
        get="put images in a folder, and masks of class numbers under the same names in another",
        paths=(2,),
    ),
}


def form_of(name: str) -> Own | None:
    """Return the form that a name is written in; None if it is no user's own."""
    return next((form for prefix, form in OWN.items() if name.startswith(prefix)), None)


def paths_of(name: str, form: Own) -> list[Path]:
    """Return the paths in the name of a user's own data set.

    Raises:
        GhostkitError: if it names too few, or too many.
    """
    given = name.partition(":")[2]
    paths = [given] if form.paths == (1,) else given.split(",")  # where there is one only, it may have a comma in it
    if not any(paths):
        raise GhostkitError(f"{name!r} names no folder; expected {form.form}")
    if not all(paths) or len(paths) not in form.paths:
        raise GhostkitError(f"{name!r} has {len(paths)} path(s), separated by commas; expected {form.form}")
    return [Path(path.strip()).expanduser() for path in paths]
