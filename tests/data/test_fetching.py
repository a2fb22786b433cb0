"""Files are got from where they are said to be, checked, and nothing is unpickled on the way."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import imagenet

from ghostkit.data import catalog, fetching, load
from ghostkit.errors import GhostkitError

Write = Callable[..., Path]
WNIDS = ("n01440764", "n01443537")


@pytest.fixture(autouse=True)
def _nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("something was unpickled"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the files below ``tmp_path`` are served over HTTP."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pack(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar archive of files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_idx_files_come_from_the_first_mirror_that_has_them(
    tmp_path: Path, address: str, write_idx_set: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = write_idx_set(tmp_path / "served", ending=".gz")
    known = torchvision.datasets.KMNIST
    monkeypatch.setattr(known, "mirrors", [f"{address}/nowhere/", f"{address}/served/"])
    monkeypatch.setattr(known, "resources", [(path.name, md5(path)) for path in sorted(served.iterdir())])
    pickled = tmp_path / "root" / "KMNIST" / "processed"  # which torchvision's class would read instead
    pickled.mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        (pickled / file).write_bytes(b"a pickle")
    assert len(load("kmnist", tmp_path / "root", download=True).train) == 30


def test_an_idx_file_that_no_mirror_has_says_so(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", [f"{address}/nowhere/"])
    with pytest.raises(GhostkitError, match=r"getting 'kmnist' into .* failed: .*404"):
        load("kmnist", tmp_path / "root", download=True)


def test_an_archive_is_checked_and_unpacked(tmp_path: Path, address: str) -> None:
    packed = pack(tmp_path / "served" / "set.tar.gz", {"set/file.bin": b"content"}, "w:gz")
    fetching.archive(f"{address}/served/set.tar.gz", md5(packed))(tmp_path / "root")
    assert (tmp_path / "root" / "set" / "file.bin").read_bytes() == b"content"
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        fetching.archive(f"{address}/served/set.tar.gz", "0" * 32)(tmp_path / "other")
    assert not (tmp_path / "other" / "set").exists()


@pytest.mark.parametrize(("name", "file"), [("cifar-10", "data_batch_5.bin"), ("cifar-100", "fine_label_names.txt")])
def test_cifar_is_got_as_binary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str) -> None:
    asked: list[tuple[str, str]] = []

    def fake(url: str, root: str, md5: str) -> None:
        asked.append((url, md5))
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fake)
    with pytest.raises(GhostkitError, match=rf"getting {name!r} into .* failed: no route to host"):
        load(name, tmp_path / "root", download=True)
    [(url, checksum)] = asked
    assert url == f"https://www.cs.toronto.edu/~kriz/{name}-binary.tar.gz"
    assert len(checksum) == 32
    assert file in catalog.SOURCES[name].files


def jpeg(level: int) -> bytes:
    """Return a small grey image as a file."""
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), (level,) * 3).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def imagenet_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three archives of an ImageNet of two classes, five validation images, and their checksums in torchvision."""
    home = tmp_path / "imagenet"
    kinds = [("ILSVRC2012_ID", int), ("WNID", object), ("words", object), ("num_children", int)]
    synsets = np.array([(1, WNIDS[0], "tench", 0), (2, WNIDS[1], "goldfish", 0), (3, "n0", "fish", 2)], kinds)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data"
    truth = {
        f"{data}/meta.mat": stream.getvalue(),
        f"{data}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n1\n2\n2\n",
    }
    pack(home / fetching.IMAGENET_ARCHIVES[0], truth, "w:gz")
    of_class = {
        f"{wnid}.tar": pack(tmp_path / f"{wnid}.tar", {f"{wnid}_1.JPEG": jpeg(9)}).read_bytes() for wnid in WNIDS
    }
    pack(home / fetching.IMAGENET_ARCHIVES[1], of_class)
    images = {f"ILSVRC2012_val_{number:08}.JPEG": jpeg(number) for number in range(1, 6)}
    pack(home / fetching.IMAGENET_ARCHIVES[2], images)
    for part, archive in zip(("devkit", "train", "val"), fetching.IMAGENET_ARCHIVES, strict=True):
        monkeypatch.setitem(imagenet.ARCHIVE_META, part, (archive, md5(home / archive)))
    return home


def test_imagenet_is_unpacked_by_its_own_lists(tmp_path: Path, imagenet_archives: Path) -> None:
    data = load("imagenet", tmp_path, download=True, size=8)
    assert (len(data.train), len(data.test)) == (2, 5)
    found = {wnid: sorted(path.name for path in (imagenet_archives / "val" / wnid).iterdir()) for wnid in WNIDS}
    assert {wnid: [int(name[15:23]) for name in names] for wnid, names in found.items()} == {
        WNIDS[0]: [2, 3],
        WNIDS[1]: [1, 4, 5],
    }
    assert not (imagenet_archives / "meta.bin").exists()


def test_imagenet_says_how_it_is_got(tmp_path: Path) -> None:
    with pytest.raises(GhostkitError, match=r"cannot be downloaded; to get it: register at https://image-net\.org"):
        load("imagenet", tmp_path, download=True)


def test_a_development_kit_with_a_wrong_checksum_is_not_opened(
    tmp_path: Path, imagenet_archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(imagenet.ARCHIVE_META, "devkit", (fetching.IMAGENET_ARCHIVES[0], "0" * 32))
    with pytest.raises(GhostkitError, match=r"devkit_t12\.tar\.gz' is damaged: expected the MD5 sum 0000"):
        load("imagenet", tmp_path, download=True)


def test_what_torchvision_gets_by_itself_is_asked_for_with_the_options_of_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda root, **options: asked.append({"root": root, **options}))
    fetch = catalog.SOURCES["svhn"].fetch
    assert fetch is not None
    fetch(tmp_path)
    assert asked == [{"root": tmp_path, "split": part, "download": True} for part in ("train", "test")]
