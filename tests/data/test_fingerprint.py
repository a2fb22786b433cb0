"""Data are told apart by counts and names, wherever they lie, and without a look at an image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ghostkit.data import folders, load
from ghostkit.data.fingerprint import fingerprint

Change = Callable[[Path, Callable[..., Path]], object]


def test_a_folder_is_the_same_wherever_it_lies(two_classes: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(two_classes, tmp_path / "far" / "away")
    told = fingerprint(load(f"folder:{two_classes}", size=8))
    assert told == fingerprint(load(f"folder:{copy}", size=8))
    assert told["classes"] == "bright, dark"
    assert told["train"].startswith("12 images, names ")
    assert told["test"].startswith("3 images, names ")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, paint: paint(folder / "dark" / "5.jpg"),
        lambda folder, paint: (folder / "dark" / "4.jpg").unlink(),
        lambda folder, paint: (folder / "dark" / "4.jpg").rename(folder / "dark" / "another.jpg"),
        lambda folder, paint: (folder / "dark").rename(folder / "dim"),
    ],
    ids=["an image more", "an image less", "another name", "another class"],
)
def test_a_folder_that_has_changed_is_another(two_classes: Path, paint: Callable[..., Path], change: Change) -> None:
    before = fingerprint(load(f"folder:{two_classes}", size=8))
    change(two_classes, paint)
    assert fingerprint(load(f"folder:{two_classes}", size=8)) != before


def test_no_image_is_read_for_it(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(f"folder:{two_classes}", size=8)
    monkeypatch.setattr(folders, "_decoded", None)
    shutil.rmtree(two_classes)
    assert fingerprint(data).keys() == {"classes", "train", "test"}


def test_images_in_memory_are_counted() -> None:
    told = fingerprint(load("digits", train_samples=20, test_samples=9, validation_samples=5))
    assert told == {
        "classes": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "train": "20 images",
        "test": "9 images",
        "validation": "5 images",
    }
