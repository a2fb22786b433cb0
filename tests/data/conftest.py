"""Small data sets, written to disk as their makers lay them out."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from ghostkit.data import ImageData, catalog, load

Paint = Callable[..., Path]


@pytest.fixture
def paint() -> Paint:
    """Write an image of noise around one brightness: ``paint(path, mode="RGB", size=(12, 10), level=128, **save)``."""

    def _paint(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 10), level: int = 128, **save: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = len(Image.new(mode, (1, 1)).getbands())
        noise = np.random.default_rng(level).integers(0, 40, (size[1], size[0], bands))
        pixels = np.clip(level + noise - 20, 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels)
        image.convert(mode).save(path, **save)
        return path

    return _paint


@pytest.fixture
def two_classes(tmp_path: Path, paint: Paint) -> Path:
    """A folder of two classes in colour, ten and five images of uneven sizes, besides files that are no images."""
    for number in range(10):
        paint(tmp_path / "set" / "bright" / f"{number}.png", size=(12 + number, 10), level=200 + number)
    for number in range(5):
        paint(tmp_path / "set" / "dark" / f"{number}.jpg", size=(9, 20 + number), level=40 + number)
    (tmp_path / "set" / "dark" / "notes.txt").write_text("not an image")
    (tmp_path / "set" / ".hidden").mkdir()
    return tmp_path / "set"


@pytest.fixture
def write_idx_set() -> Callable[..., Path]:
    """Write the four files of an idx data set: ``write_idx_set(folder, images=(30, 10), ending="")``, ten classes."""

    def _write(folder: Path, images: Sequence[int] = (30, 10), ending: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for part, count in zip(("train", "t10k"), images, strict=True):
            pixels, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
            for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
                head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
                content = head + values.tobytes()
                path = folder / f"{part}-{kind}-ubyte{ending}"
                path.write_bytes(gzip.compress(content) if ending == ".gz" else content)
        return folder

    return _write


@pytest.fixture
def digits_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the data sets of this machine, so that scenes are composed of digits everywhere."""
    monkeypatch.setenv("GHOSTKIT_DATA", str(tmp_path / "default"))
    source = catalog.SOURCES["fashion-mnist"]
    monkeypatch.setitem(catalog.SOURCES, "fashion-mnist", replace(source, homes=source.homes[:1]))


class Written(NamedTuple):
    """Scenes, and the folder that their images ``0.png``, ``1.png``, ... were written to."""

    boxes: ImageData
    masks: ImageData
    images: Path

    def numbers(self, pixels: torch.Tensor) -> list[int]:
        """Return which scene each of some images (N, 1, H, W) is, by its pixels."""
        scenes = self.boxes.train.pixels(torch.arange(len(self.boxes.train)))
        return [int((scenes == image).flatten(1).all(1).nonzero()) for image in pixels]


@pytest.fixture
def written(tmp_path: Path, digits_only: None) -> Written:
    """Ten scenes of 64 px, as a user would have them on disk but for their labels."""
    boxes, masks = (
        load("scenes", task=task, train_samples=10, test_samples=1) for task in ("detection", "segmentation")
    )
    images = tmp_path / "JPEGImages"
    images.mkdir()
    for number, image in enumerate(boxes.train.pixels(torch.arange(10))):
        Image.fromarray(image[0].numpy()).save(images / f"{number}.png")
    return Written(boxes, masks, images)
