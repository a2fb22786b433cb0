"""CIFAR comes from its binary archives: every byte is accounted for, and the pickles beside them are not opened."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ghostkit.data import catalog, load
from ghostkit.data.cifar import CIFAR_10, CIFAR_100, CifarLayout, read_cifar
from ghostkit.errors import GhostkitError

SMALL = {"cifar-10": replace(CIFAR_10, images=(4, 6)), "cifar-100": replace(CIFAR_100, images=(20, 6))}
CLASSES = {"cifar-10": 10, "cifar-100": 100}
Write = Callable[[str, Path], Path]


def records(layout: CifarLayout, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Return random pixels behind labels 0, 1, 2, ...; a coarse label, where there is one, is 7."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, layout.labels + 3072), np.uint8)
    drawn[:, 0] = 7
    drawn[:, layout.labels - 1] = np.arange(count)
    return drawn


@pytest.fixture
def write() -> Write:
    """Write one of the two data sets, small, into its folder below a root, and return that folder."""

    def _write(name: str, root: Path) -> Path:
        layout, home = SMALL[name], root / catalog.SOURCES[name].homes[0]
        home.mkdir(parents=True)
        for seed, file in enumerate((*layout.train, layout.test)):
            records(layout, layout.images[file == layout.test], seed).tofile(home / file)
        (home / layout.names).write_text("\n".join(f"class_{n}" for n in range(CLASSES[name])) + "\n\n")
        return home

    return _write


@pytest.mark.parametrize("name", SMALL)
def test_classes_labels_and_channels_are_those_of_the_files(tmp_path: Path, write: Write, name: str) -> None:
    layout = SMALL[name]
    read = read_cifar(write(name, tmp_path), layout)
    assert read.classes == tuple(f"class_{n}" for n in range(CLASSES[name]))
    count = layout.images[0]
    assert read.train.labels.tolist() == list(range(count)) * len(layout.train)
    assert read.test.labels.tolist() == list(range(6))
    assert read.train.pixels.shape == (20, 3, 32, 32)
    expected = torch.from_numpy(records(layout, count, len(layout.train) - 1)[-1, layout.labels :]).view(3, 32, 32)
    assert torch.equal(read.train.pixels[-1], expected)


@pytest.mark.parametrize("name", SMALL)
def test_half_a_file_is_refused_though_it_ends_with_a_whole_record(tmp_path: Path, write: Write, name: str) -> None:
    layout, home = SMALL[name], write(name, tmp_path)
    path = home / layout.test
    path.write_bytes(path.read_bytes()[: 3 * (layout.labels + 3072)])
    with pytest.raises(GhostkitError, match=rf"{layout.test}' is damaged: it has .* bytes, expected .* \(6 images\)"):
        read_cifar(home, layout)
    with pytest.raises(GhostkitError, match=r"is damaged.*\(\d\d,000 images\); delete it and get it again"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_a_label_of_no_class_is_refused(tmp_path: Path, write: Write, name: str) -> None:
    home = write(name, tmp_path)
    (home / SMALL[name].names).write_text("cat\ndog\n")
    with pytest.raises(GhostkitError, match=r"has a label \d+, expected 0 to 1"):
        read_cifar(home, SMALL[name])


def test_names_that_are_no_text_are_refused(tmp_path: Path, write: Write) -> None:
    home = write("cifar-10", tmp_path)
    (home / "batches.meta.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GhostkitError, match=r"batches\.meta\.txt' is damaged: it cannot be read"):
        read_cifar(home, SMALL["cifar-10"])


def test_files_of_the_published_length_load_by_name(tmp_path: Path) -> None:
    home = tmp_path / "cifar-10-batches-bin"
    home.mkdir()
    for file in (*CIFAR_10.train, CIFAR_10.test):
        with (home / file).open("wb") as stream:
            stream.truncate(10_000 * 3073)
            stream.write(b"\x01")  # all but the first image are airplanes
    (home / CIFAR_10.names).write_text("airplane\nautomobile\n")
    data = load("cifar-10", tmp_path, train_samples=100)
    assert (data.channels, data.height, len(data.train), len(data.test)) == (3, 32, 100, 10_000)


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [("cifar-10", "cifar-10-batches-py", "data_batch_1"), ("cifar-100", "cifar-100-python", "train")],
)
def test_pickles_of_the_same_images_are_not_opened_and_said_to_be_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str, file: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / file).write_bytes(pickle.dumps({"data": b""}))
    for reader in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, reader, lambda *_, **__: pytest.fail("something was unpickled"))
    with pytest.raises(GhostkitError, match=rf"{folder} has them in pickles, which are never opened.*--download"):
        load(name, tmp_path)
