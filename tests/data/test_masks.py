"""Masks: scenes come back as they were written, and what cannot be a mask is refused by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ghostkit.data import batches, load
from ghostkit.errors import GhostkitError

Paint = Callable[..., Path]


def saved(path: Path, numbers: Any, mode: str = "L", **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(numbers, np.uint8)).convert(mode).save(path, **save)
    return path


@pytest.fixture
def small(tmp_path: Path, paint: Paint) -> Path:
    """Five images of 40 x 20 px whose right half is 1, in ``images`` and ``masks``."""
    numbers = np.zeros((20, 40), np.uint8)
    numbers[:, 20:] = 1
    for number in range(5):
        paint(tmp_path / "images" / f"{number}.jpg", size=(40, 20))
        saved(tmp_path / "masks" / f"{number}.png", numbers)
    return tmp_path


def named(home: Path) -> str:
    return f"masks:{home / 'images'},{home / 'masks'}"


@pytest.mark.parametrize("palette", [False, True])
def test_scenes_come_back_from_masks_as_they_were_written(written: Any, tmp_path: Path, palette: bool) -> None:
    (tmp_path / "masks").mkdir()
    for number, mask in enumerate(written.masks.train.labels):
        image = Image.fromarray(mask.numpy())
        if palette:
            image.putpalette(list(range(255, -1, -1)) * 3)  # colours that have nothing to do with the numbers
        image.save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "masks" / "classes.txt").write_text("\n".join(written.masks.classes))
    data = load(f"masks:{written.images},{tmp_path / 'masks'}", task="segmentation")
    assert (data.task, data.classes) == ("segmentation", written.masks.classes)
    assert (len(data.train), len(data.test)) == (8, 2)
    met = []
    for split in (data.train, data.test):
        for number, mask in zip(written.numbers(split.pixels(torch.arange(len(split)))), split.labels, strict=True):
            assert torch.equal(mask, written.masks.train.labels[number])
            met.append(number)
    assert sorted(met) == list(range(10))
    _, masks = next(batches(data.train, 4, augment="crop+flip"))
    assert (masks.dtype, masks.shape) == (torch.int64, (4, 64, 64))


def test_masks_follow_an_image_that_is_scaled_to_fit_and_no_class_is_mixed(small: Path) -> None:
    data = load(named(small), task="segmentation", size=64)
    assert data.classes == ("0", "1")
    for mask in data.train.labels:
        assert (mask[:16] == 255).all()
        assert (mask[48:] == 255).all()
        assert (mask[16:48, :32] == 0).all()
        assert (mask[16:48, 32:] == 1).all()


def test_a_bilevel_mask_and_a_deep_one_are_read_as_numbers(small: Path) -> None:
    saved(small / "masks" / "1.png", np.full((20, 40), 255), "1")
    Image.fromarray(np.full((20, 40), 3, np.uint16)).save(small / "masks" / "2.png")
    data = load(named(small), task="segmentation")
    assert data.classes == ("0", "1", "2", "3")
    found = {tuple(mask.unique().tolist()) for split in (data.train, data.test) for mask in split.labels}
    assert found == {(0, 1, 255), (1, 255), (3, 255)}


def grey_png(numbers: np.ndarray, depth: int) -> bytes:
    """A grey PNG of so few bits a pixel, which Pillow does not write."""
    bits = (numbers[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(numbers), -1), axis=1)
    head = struct.pack(">IIBBBBB", numbers.shape[1], len(numbers), depth, 0, 0, 0, 0)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    written = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def grey_tiff(numbers: np.ndarray, depth: int) -> bytes:
    bits = (numbers[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(numbers), -1), axis=1).tobytes()
    height, width = numbers.shape
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        *((".png", partial(grey_png, depth=depth)) for depth in (2, 4, 8)),
        *((".tif", partial(grey_tiff, depth=depth)) for depth in (2, 4, 8)),
        *((".pgm", lambda n, w=w: b"P5 # mine\n40 20 %d\n" % w + n.tobytes()) for w in (3, 7, 200, 255)),
        *((".pgm", lambda n, w=w: b"P5\n40 20\n%d\n" % w + n.astype(">u2").tobytes()) for w in (256, 1000, 65535)),
        (".pgm", lambda numbers: b"P2 40 20 3 " + b" ".join(b"%d" % n for n in numbers.flatten())),
    ],
)
def test_numbers_are_those_of_the_file_however_bright_its_white_is(small: Path, ending: str, content: Any) -> None:
    numbers = (np.arange(800) % 4).astype(np.uint8).reshape(20, 40)
    for number in range(5):
        (small / "masks" / f"{number}.png").unlink()
        (small / "masks" / f"{number}{ending}").write_bytes(content(numbers))
    data = load(named(small), task="segmentation", size=40)
    assert data.classes == ("0", "1", "2", "3")
    assert torch.equal(data.train.labels[0][10:30], torch.from_numpy(numbers))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_a_mask_fits_a_photograph_as_it_stands_upright(small: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(small / "images" / "0.jpg") as image:
        image.rotate(90, expand=True).save(small / "images" / "0.jpg", form, exif=exif)
    assert len(load(named(small), task="segmentation").train) == 4


def all_alike(home: Path) -> None:
    for path in (home / "masks").iterdir():
        saved(path, np.ones((20, 40)))


def black_and_white(home: Path) -> None:
    for path in (home / "masks").iterdir():
        saved(path, [[0] * 20 + [255] * 20] * 20)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda home: (home / "masks" / "2.png").unlink(), r"no mask called '2' in '.*masks', which '.*2\.jpg' needs"),
        (lambda home: (home / "images" / "2.jpg").unlink(), r"mask '.*2\.png' has no image called '2'"),
        (
            lambda home: saved(home / "masks" / "2.png", np.ones((40, 20))),
            r"1 of 5 masks cannot be used: '.*2\.png' \(it is 20 x 40, but its image stands upright at 40 x 20",
        ),
        (
            lambda home: saved(home / "masks" / "2.png", np.ones((20, 40)), "RGB"),
            r"2\.png' \(its pixels are RGB colours; expected class numbers, .* map each colour",
        ),
        (lambda home: saved(home / "masks" / "2.png", np.ones((20, 40)), "RGBA"), "its pixels are RGBA colours"),
        (
            lambda home: Image.fromarray(np.full((20, 40), 300, np.uint16)).save(home / "masks" / "2.png"),
            r"2\.png' \(it holds the number 300, expected 0 to 254, or 255 to ignore",
        ),
        (lambda home: (home / "masks" / "classes.txt").write_text("sky"), r"holds the number 1, expected 0 to 0"),
        (lambda home: (home / "masks" / "classes.txt").write_text(""), r"classes\.txt' holds \(\); expected a name"),
        (lambda home: (home / "masks" / "classes.txt").write_bytes(b"\xff\xfe\x00"), r"cannot read the names"),
        (lambda home: (home / "masks" / "2.png").write_bytes(b"no"), r"1 of 5 masks cannot be used: '.*2\.png'"),
        (lambda home: (home / "images" / "2.jpg").write_bytes(b"no"), r"1 of 5 images cannot be read: '.*2\.jpg'"),
        (
            lambda home: saved((home / "masks" / "2.png").rename(home / "masks" / "2.jpg"), np.ones((20, 40))),
            r"2\.jpg' \(\.jpg files change the numbers of pixels; expected PNG",
        ),
        (lambda home: saved(home / "masks" / "2.bmp", np.ones((20, 40))), "share the name '2'"),
        (lambda home: (home / "masks").rename(home / "elsewhere"), "masks' is no folder"),
        (lambda home: (home / "images").rename(home / "elsewhere"), "images' is no folder"),
        (all_alike, "have masks of one class, expected two classes or more"),
        (black_and_white, r"have masks of one class, expected two .*\(255 in a mask says that a pixel's class is left"),
        (
            lambda home: [p.unlink() for n in range(1, 5) for p in home.rglob(f"{n}.*")],
            r"has 1 image\(s\), expected two",
        ),
    ],
)
def test_what_cannot_be_a_mask_is_refused_by_name(small: Path, change: Callable[[Path], Any], complaint: str) -> None:
    change(small)
    with pytest.raises(GhostkitError, match=complaint):
        load(named(small), task="segmentation")


@pytest.fixture
def pets(tmp_path: Path, paint: Paint) -> Path:
    """Oxford-IIIT Pet in its layout: two breeds, four images for training and two for testing."""
    home = tmp_path / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": ["# a comment"], "test": []}
    for label, breed in enumerate(("Abyssinian", "american_bulldog"), 1):
        for number in range(3):
            stem = f"{breed}_{number}"
            paint(home / "images" / f"{stem}.jpg", size=(40, 20), level=80 * label)
            trimap = np.full((20, 40), 2)
            trimap[5:15, 10:30] = 3
            trimap[6:14, 12:28] = 1
            saved(home / "annotations" / "trimaps" / f"{stem}.png", trimap)
            lines["test" if number == 2 else "trainval"].append(f"{stem} {label} 1 1")
    for part, listed in lines.items():
        (home / "annotations" / f"{part}.txt").write_text("\n".join(listed))
    return tmp_path


def test_pets_are_told_from_their_background(pets: Path) -> None:
    data = load("oxford-iiit-pet", pets, task="segmentation", size=40)
    assert data.classes == ("pet", "background", "border")
    assert (len(data.train), len(data.test), data.channels) == (4, 2, 3)
    assert data.train.labels[0][[5, 10, 15, 20], [20, 5, 20, 20]].tolist() == [255, 1, 2, 0]
    assert load("oxford-iiit-pet", pets, task="segmentation").height == 128


def test_pets_are_told_apart_by_breed(pets: Path) -> None:
    data = load("oxford-iiit-pet", pets)
    assert (data.classes, data.height) == (("Abyssinian", "American Bulldog"), 64)
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([2, 2], [1, 1])
    brightness = data.train.pixels(torch.arange(4)).float().mean((1, 2, 3))
    assert torch.equal(brightness > 120, data.train.labels == 1)


def test_a_damaged_list_of_pets_is_named(pets: Path) -> None:
    (pets / "oxford-iiit-pet" / "annotations" / "test.txt").write_text("Abyssinian_1 one")
    with pytest.raises(GhostkitError, match=r"cannot read the list of pets '.*test\.txt'"):
        load("oxford-iiit-pet", pets)
