"""Every named data set: what it holds, for which tasks, where its files are looked for, and how they are got.

The table below is the catalogue, and ``ghostkit data`` prints it with what is found here. Nothing is downloaded unless
that is asked for. The forms in which a user's own data are given have a room of their own.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ghostkit.data import fetching, readers
from ghostkit.data.cifar import CIFAR_10, CIFAR_100, CifarLayout
from ghostkit.data.folders import reason
from ghostkit.data.idx import find_idx
from ghostkit.data.own import FOLDER, OWN, form_of
from ghostkit.data.splits import TASKS, Task
from ghostkit.errors import GhostkitError

__all__ = ["FOLDER", "SOURCES", "Source", "default_root", "find_home", "require_task", "sources", "tasks_of"]

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
DEBIAN_FASHION = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class Source:
    """A named data set.

    Args:
        images: what it holds, in words.
        read: for each task that it offers, what turns the folder that holds the files into images and labels.
        homes: folders that are searched, in this order, each below the root or absolute; none for embedded data.
        files: files or folders that a home must hold; idx files may be gzipped.
        fetch: gets the files into the data root; None if they cannot be downloaded.
        pickled: a folder of the same images below the root, in pickles, which are not opened; "" if there is none.
        get: another way to get it, for people; ROOT stands for the data root.
        items: the data set that it is composed of, if that is found; or else it is composed of embedded data.
    """

    images: str
    read: Mapping[Task, readers.Reader]
    homes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    fetch: fetching.Fetch | None = None
    pickled: str = ""
    get: str = ""
    items: str = ""


def _idx(class_name: str, *more_homes: str, get: str = "") -> Source:
    """Return MNIST or one of the data sets made in its image: same sizes, same files, same layout."""
    homes = (f"{class_name}/raw", *more_homes)
    read, fetch = readers.read_idx_files(class_name), fetching.idx_files(class_name)
    return Source("60,000 + 10,000, 28x28 grey", {"classification": read}, homes, IDX_FILES, fetch, get=get)


def _cifar(layout: CifarLayout, home: str, archive: str, md5: str, pickled: str) -> Source:
    """Return CIFAR-10 or CIFAR-100, of which the binary archive is read."""
    return Source(
        images="50,000 + 10,000, 32x32 colour",
        read={"classification": readers.read_cifar_files(layout)},
        homes=(home,),
        files=layout.files,
        fetch=fetching.archive(f"{CIFAR_PAGE}/{archive}", md5),
        pickled=pickled,
    )


def _scenes(colours: str, *, tinted: bool) -> Source:
    """Return scenes in grey or tinted, the same ones but for their colours."""
    read: dict[Task, readers.Reader] = {
        "detection": readers.read_scenes(tinted=tinted, masks=False),
        "segmentation": readers.read_scenes(tinted=tinted, masks=True),
    }
    images = f"4,000 + 1,000 or as many as asked for, 64x64 to 128x128 {colours}: real items, composed scenes"
    return Source(images, read, items="fashion-mnist")


SOURCES: dict[str, Source] = {
    "digits": Source("1,401 + 396, 8x8 grey", {"classification": readers.read_digits}),
    "fashion-mnist": _idx("FashionMNIST", DEBIAN_FASHION, get="`apt-get install dataset-fashion-mnist`"),
    "mnist": _idx("MNIST"),
    "kmnist": _idx("KMNIST"),
    "cifar-10": _cifar(
        CIFAR_10,
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        pickled="cifar-10-batches-py",
    ),
    "cifar-100": _cifar(
        CIFAR_100,
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        pickled="cifar-100-python",
    ),
    "svhn": Source(
        images="73,257 + 26,032, 32x32 colour",
        read={"classification": readers.read_svhn},
        homes=(".",),
        files=("train_32x32.mat", "test_32x32.mat"),
        fetch=fetching.by_torchvision("SVHN", {"split": "train"}, {"split": "test"}),
    ),
    "eurosat": Source(
        images="27,000, a fifth held out, 64x64 colour",
        read={"classification": readers.read_eurosat},
        homes=("eurosat/2750",),
        fetch=fetching.by_torchvision("EuroSAT"),
    ),
    "imagenette": Source(
        images="9,469 + 3,925, photographs in colour",
        read={"classification": readers.read_imagenette},
        homes=tuple(readers.IMAGENETTE),
        files=("train", "val"),
        fetch=fetching.by_torchvision("Imagenette", {"size": "320px"}),
    ),
    "imagenet": Source(
        images="1,281,167 + 50,000, photographs in colour",
        read={"classification": readers.read_imagenet},
        homes=("imagenet",),
        files=("train", "val"),
        get=f"register at https://image-net.org, put {', '.join(fetching.IMAGENET_ARCHIVES)} into ROOT/imagenet, "
        "and run `ghostkit data imagenet --download`, which unpacks them",
    ),
    "scenes": _scenes("grey", tinted=False),
    "scenes-colour": _scenes("tinted", tinted=True),
    "voc": Source(
        images="5,717 + 5,823 with boxes, 1,464 + 1,449 with masks, photographs in colour",
        read={"detection": readers.read_voc_2012_boxes, "segmentation": readers.read_voc_2012_masks},
        homes=("VOCdevkit/VOC2012",),
        files=("JPEGImages", "Annotations", "SegmentationClass", "ImageSets"),
        fetch=fetching.by_torchvision("VOCDetection", {"year": "2012", "image_set": "train"}),
    ),
    "coco": Source(
        images="118,287 + 5,000, photographs in colour",
        read={"detection": readers.read_coco_2017},
        homes=("coco",),
        files=("train2017", "val2017", *(f"annotations/instances_{part}2017.json" for part in ("train", "val"))),
        get="unpack train2017.zip, val2017.zip and annotations_trainval2017.zip of https://cocodataset.org/#download "
        "into ROOT/coco",
    ),
    "oxford-iiit-pet": Source(
        images="3,680 + 3,669, photographs in colour",
        read={"classification": readers.read_pet_breeds, "segmentation": readers.read_pet_masks},
        homes=("oxford-iiit-pet",),
        files=("images", "annotations/trainval.txt", "annotations/test.txt", "annotations/trimaps"),
        fetch=fetching.by_torchvision("OxfordIIITPet", {"split": "trainval", "target_types": "segmentation"}),
    ),
}


def default_root() -> Path:
    """Return the folder that holds, or receives, data sets: ``$GHOSTKIT_DATA``, else ``~/.cache/ghostkit/data``."""
    return Path(os.environ.get("GHOSTKIT_DATA") or "~/.cache/ghostkit/data").expanduser()


def sources(root: str | Path | None = None) -> pd.DataFrame:
    """Return one row per data set: ``name``, ``task``, ``images``, ``found``, ``where`` and ``get``.

    A data set that offers several tasks has them all in ``task``, with commas between them.
    Only the presence of files is looked at: nothing is opened, and nothing is downloaded.

    Args:
        root: the folder that holds the data sets; None for :func:`default_root`.
    """
    rows: list[tuple[str, str, str, bool, str, str]] = []
    for name, source in SOURCES.items():
        tasks = ", ".join(source.read)
        home = _found(SOURCES[source.items or name], _base(root))
        if home is not None or source.homes:
            ways = "nothing to get, it is composed" if source.items else _ways(name, root)
            rows.append((name, tasks, source.images, home is not None, str(home or ""), ways))
        else:
            ways = "nothing to get, it comes with scikit-learn"
            rows.append((name, tasks, source.images, True, "scikit-learn", ways))
    for form in OWN.values():
        place = form.form.partition(":")[2]
        rows.append((form.form, ", ".join(form.read), form.images, True, place, form.get))
    return pd.DataFrame(rows, columns=["name", "task", "images", "found", "where", "get"])


def tasks_of(name: str) -> tuple[Task, ...]:
    """Return the tasks that a named data set, or a user's own, offers, the usual one first.

    Raises:
        GhostkitError: if the name is unknown.
    """
    own = form_of(name)
    if own is None and name not in SOURCES:
        raise GhostkitError(_unknown(name))
    return tuple(own.read if own else SOURCES[name].read)


def require_task(name: str, task: Task) -> None:
    """Raise an error that says what there is, unless a data set of that name offers that task.

    Args:
        name: a key of ``SOURCES``, or a user's own.
        task: one of ``TASKS``.
    """
    if task not in TASKS:
        raise GhostkitError(f"unknown task {task!r}, expected one of {', '.join(TASKS)}")
    offered = tasks_of(name)
    if task not in offered:
        able = [other for other, source in SOURCES.items() if task in source.read]
        able += [form.form for form in OWN.values() if task in form.read]
        raise GhostkitError(
            f"{name!r} offers {' and '.join(offered)}, but no {task}; that is offered by {', '.join(able)}"
        )


def find_home(name: str, root: str | Path | None, download: bool) -> Path:
    """Return the folder that holds the files of a named data set, after getting them if that is asked for.

    Args:
        name: a key of ``SOURCES``.
        root: the folder that holds the data sets; None for :func:`default_root`.
        download: get the files if they are not found.

    Raises:
        GhostkitError: if the name is unknown, the root is no folder, files are missing, or getting them failed.
    """
    if name not in SOURCES:
        raise GhostkitError(_unknown(name))
    source, base = SOURCES[name], _base(root)
    to_be_made = not base.exists() and (root is None or download)
    if not base.is_dir() and not to_be_made:
        raise GhostkitError(f"the data root {str(base)!r} is no folder; expected one that holds data sets")
    if source.items:
        return _found(SOURCES[source.items], base) or base
    if not source.homes:
        return base
    home = _found(source, base)
    if home is None and download:
        _get(name, root)
        home = _found(source, base)
    if home is None:
        wanted = ", ".join(source.files) or "a folder per class"
        gzipped = " (or .gz)" if source.files == IDX_FILES else ""
        places = " and in ".join(repr(str(base / place)) for place in source.homes)
        pickles = f" ({source.pickled} has them in pickles, which are never opened)" if source.pickled else ""
        raise GhostkitError(
            f"{name!r} is not here: looked for {wanted}{gzipped} in {places}{pickles}; to get it: {_ways(name, root)}"
        )
    return home


def _base(root: str | Path | None) -> Path:
    return default_root() if root is None else Path(root).expanduser()


def _found(source: Source, base: Path) -> Path | None:
    for home in (base / place for place in source.homes):
        if home.is_dir() and all((home / file).exists() or find_idx(home, file) for file in source.files):
            return home
    return None


def _get(name: str, root: str | Path | None) -> None:
    """Download a data set, or unpack ImageNet's archives, which only their owner may hand out."""
    fetch, place = SOURCES[name].fetch, _base(root)
    if name == "imagenet":
        place /= SOURCES[name].homes[0]
        fetch = fetching.unpack_imagenet if all((place / x).is_file() for x in fetching.IMAGENET_ARCHIVES) else None
    if fetch is None:
        raise GhostkitError(f"{name!r} cannot be downloaded; to get it: {_ways(name, root)}")
    try:
        place.mkdir(parents=True, exist_ok=True)
        fetch(place)
    except Exception as error:  # no network, no space, a wrong checksum, a damaged archive: each raises another type
        raise GhostkitError(f"getting {name!r} into {str(place)!r} failed: {reason(error)}") from None


def _ways(name: str, root: str | Path | None) -> str:
    """Return, for people, how to get a named data set."""
    source = SOURCES[name]
    ways = [f"`ghostkit data {name} --download`"] if source.fetch else []
    text = " or ".join([*ways, *([source.get] if source.get else [])]).replace("ROOT", str(_base(root)))
    return text if root is None else text.replace("--download", f"--download --root {root}")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), SOURCES, n=1)
    if not near and name and Path(name).expanduser().is_dir():
        near = [FOLDER + name]
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join([*SOURCES, *(form.form for form in OWN.values())])
    return f"unknown data {name!r}; {hint}known are {known}"
