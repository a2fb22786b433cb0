"""How the files of a named data set are got: by torchvision, which knows addresses, archives and checksums.

Its classes for MNIST and its relatives, CIFAR and ImageNet read pickles on the way, their own or ones that lie in the
folder. For those only its list of addresses and checksums is used, and what it does with one archive.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ghostkit.errors import GhostkitError

__all__ = [
    "IMAGENET_ARCHIVES",
    "Fetch",
    "archive",
    "by_torchvision",
    "idx_files",
    "torchvision_class",
    "unpack_imagenet",
]

Fetch = Callable[[Path], None]  # gets the files into a data root

IMAGENET_ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def torchvision_class(name: str) -> Any:
    """Return the class of torchvision's data sets that is called ``name``; torchvision takes long to import."""
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def by_torchvision(class_name: str, *calls: dict[str, Any]) -> Fetch:
    """Return what lets one of torchvision's classes download a data set.

    Args:
        class_name: of a class that opens no pickle.
        calls: the options of each call that is needed to get everything; none for one without options.
    """

    def fetch(root: Path) -> None:
        for call in calls or ({},):
            torchvision_class(class_name)(root, **call, download=True)

    return fetch


def idx_files(class_name: str) -> Fetch:
    """Return what downloads the idx files of MNIST or one of its relatives, from the first mirror that has them.

    The class itself would read ``processed/training.pt``, if that is there.
    """

    def fetch(root: Path) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        known = torchvision_class(class_name)
        for file, checksum in known.resources:
            failed: OSError | None = None
            for mirror in known.mirrors:
                try:
                    place = str(root / class_name / "raw")
                    download_and_extract_archive(f"{mirror}{file}", place, filename=file, md5=checksum)
                    break
                except OSError as error:  # the next mirror may have it
                    failed = error
            else:
                raise failed or OSError(f"torchvision knows no mirror of {class_name}")

    return fetch


def archive(url: str, md5: str) -> Fetch:
    """Return what downloads an archive, checks it, and unpacks it in the data root."""

    def fetch(root: Path) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(url, str(root), md5=md5)

    return fetch


def unpack_imagenet(home: Path) -> None:
    """Unpack ImageNet's archives, which only their owner may hand out, into ``train`` and ``val``.

    Raises:
        GhostkitError: if an archive is not what was published, or what it lists cannot be understood.
    """
    from torchvision.datasets import imagenet

    of_images = validation_classes(home / IMAGENET_ARCHIVES[0], imagenet.ARCHIVE_META["devkit"][1])
    if not (home / "train").is_dir():
        imagenet.parse_train_archive(str(home))
    if not (home / "val").is_dir():
        imagenet.parse_val_archive(str(home), wnids=of_images)  # without them, it would read a pickle


def validation_classes(devkit: Path, md5: str) -> list[str]:
    """Return the class (WordNet's id) of every validation image, in order, from the development kit.

    Args:
        devkit: its archive.
        md5: what its checksum must be.

    Raises:
        GhostkitError: if the archive has another checksum.
    """
    from scipy.io import loadmat
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(devkit), md5):
        raise GhostkitError(f"the archive {str(devkit)!r} is damaged: expected the MD5 sum {md5}; get it again")
    with tarfile.open(devkit) as kit:
        files = {Path(name).name: kit.extractfile(name) for name in kit.getnames() if "/data/" in name}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    synsets = loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
    numbers = contents["ILSVRC2012_validation_ground_truth.txt"].split()
    known = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    return [known[int(number)] for number in numbers]
