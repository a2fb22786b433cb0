"""A user's own folder is understood, checked to the last file, and decoded to what a person would expect."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from ghostkit.data import batches, folders, load
from ghostkit.data.folders import ImageFiles
from ghostkit.errors import GhostkitError

Paint = Callable[..., Path]


def decoded(path: Path, channels: int, size: int) -> torch.Tensor:
    return ImageFiles([str(path)], channels, size)[torch.tensor([0])][0]


def test_a_folder_per_class_becomes_a_data_set_with_a_fifth_of_each_class_held_out(two_classes: Path) -> None:
    data = load(f"folder:{two_classes}")
    assert data.classes == ("bright", "dark")
    assert (data.channels, data.height, data.width) == (3, 64, 64)
    assert data.train.labels.bincount().tolist() == [8, 4]
    assert data.test.labels.bincount().tolist() == [2, 1]
    for split in (data.train, data.test):
        pixels = split.pixels(torch.arange(len(split)))
        brightness = pixels.float().mean((1, 2, 3))
        assert torch.equal(brightness < 120, split.labels == 1)  # every image kept its own label


def test_normalised_images_of_a_folder_have_mean_zero_and_deviation_one(two_classes: Path) -> None:
    data = load(f"folder:{two_classes}", size=16)
    images = data.train.images(torch.arange(len(data.train)))
    assert images.shape == (12, 3, 16, 16)
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_the_split_of_a_folder_is_the_same_wherever_and_in_whatever_order_it_was_written(
    two_classes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    for file in sorted(two_classes.rglob("*.*"), reverse=True):
        if file.is_file():
            (copy / file.relative_to(two_classes)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy / file.relative_to(two_classes))
    first, second = load(f"folder:{two_classes}", size=8), load(f"folder:{copy}", size=8)
    assert first.mean == second.mean
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(a.images(torch.arange(len(a))), b.images(torch.arange(len(b))))


@pytest.mark.parametrize(
    ("training", "name"),
    [
        *(("train", name) for name in ("test", "val", "Validation", "eval", "dev", "test_images")),
        *(("Training", name) for name in ("Testing", "val", "Evaluation")),
    ],
)
def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path, paint: Paint, training: str, name: str) -> None:
    for part, count in ((training, 3), (name, 2)):
        for label in ("a", "b"):
            for number in range(count):
                paint(tmp_path / part / label / f"{number}.png")
    paint(tmp_path / training / "c" / "deeper" / "0.png")  # a class that is not tested
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("a", "b", "c")
    assert (len(data.train), len(data.test)) == (7, 4)
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1]


def test_of_several_parts_the_test_images_are_what_is_tested_on(tmp_path: Path, paint: Paint) -> None:
    for part, count in (("Training", 3), ("dev", 1), ("Testing", 2)):
        for label in ("a", "b"):
            for number in range(count):
                paint(tmp_path / part / label / f"{number}.png")
    data = load(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (6, 4)


@pytest.mark.parametrize("classes", [("train", "tram"), ("trainers", "valley"), ("bus", "test", "train-station")])
def test_classes_whose_names_begin_like_parts_stay_classes(
    tmp_path: Path, paint: Paint, classes: tuple[str, ...]
) -> None:
    for label in classes:
        for number in range(2):
            paint(tmp_path / label / f"{number}.png")
    assert load(f"folder:{tmp_path}").classes == classes


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(("L", "L"), 1), (("L", "1"), 1), (("L", "LA"), 1), (("L", "RGB"), 3), (("RGBA", "P"), 3)],
)
def test_images_are_grey_only_if_all_are(tmp_path: Path, paint: Paint, modes: tuple[str, str], channels: int) -> None:
    for number in range(3):
        for name, mode in zip("ab", modes, strict=True):
            paint(tmp_path / name / f"{number}.png", mode=mode)
    data = load(f"folder:{tmp_path}", size=8)
    assert data.channels == channels
    assert data.train.images(torch.arange(2)).shape == (2, channels, 8, 8)


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (24, 24), (8, 12)])
def test_an_image_is_scaled_by_its_short_side_and_cropped_in_the_middle(
    tmp_path: Path, paint: Paint, size: tuple[int, int]
) -> None:
    path = paint(tmp_path / "any.png", size=size)
    with Image.open(path) as image:
        expected = functional.center_crop(functional.resize(functional.pil_to_tensor(image), [12]), [12, 12])
    assert torch.allclose(decoded(path, 3, 12).float(), expected.float(), atol=1.0)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, ending: str) -> None:
    Image.fromarray(np.full((8, 8), 0x8123, np.uint16)).save(tmp_path / f"deep.{ending}")
    assert decoded(tmp_path / f"deep.{ending}", 1, 4).unique().tolist() == [0x81]


def test_a_photograph_taken_sideways_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: its top is on the right
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    image = decoded(tmp_path / "turned.jpg", 1, 32)[0].float()
    assert image[:, 20:].mean() > 200 > 50 > image[:, :12].mean()


def test_a_large_jpeg_comes_out_as_its_full_decoding_would(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (600, 900)).copy()).save(tmp_path / "large.jpg", quality=95)
    image = decoded(tmp_path / "large.jpg", 1, 32)[0].float()
    middles = torch.linspace(42.5, 212.5, 65)[1::2]  # of 32 columns over the central 600 of the ramp's 900 pixels
    assert torch.allclose(image.mean(0), middles, atol=2.0)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "mode", "harm"),
    [
        (f"x.{ending}", "RGB", harm)
        for ending in ("jpg", "png", "bmp", "webp")
        for harm in (truncated, emptied, replaced)
    ]
    + [("x.png", "RGB", flipped), ("x.gif", "P", truncated), ("x.tif", "RGB", truncated), ("x.ppm", "RGB", truncated)],
)
def test_a_damaged_image_is_named_before_anything_is_trained(
    two_classes: Path, paint: Paint, name: str, mode: str, harm: Any
) -> None:
    path = paint(two_classes / "dark" / name, mode=mode, size=(60, 50))
    load(f"folder:{two_classes}")
    harm(path)
    with pytest.raises(GhostkitError, match=rf"1 of 16 images cannot be read: '.*{name}' \(.+\); repair or remove"):
        load(f"folder:{two_classes}")


def test_many_damaged_images_are_counted_and_the_first_are_named(two_classes: Path) -> None:
    for path in (two_classes / "bright").iterdir():
        emptied(path)
    with pytest.raises(GhostkitError, match=r"10 of 15 images .* and 5 more"):
        load(f"folder:{two_classes}")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(two_classes: Path) -> None:
    path = two_classes / "dark" / "0.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 300 + b"camera notes")
    assert len(load(f"folder:{two_classes}").train) == 12


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "whole numbers of 32 bits")])
def test_pixels_of_which_it_is_not_known_what_is_white_are_refused_by_name(
    two_classes: Path, dtype: Any, kind: str
) -> None:
    Image.fromarray(np.full((8, 8), 200, dtype)).save(two_classes / "dark" / "depth.tif")
    with pytest.raises(GhostkitError, match=rf"depth\.tif.*{kind}"):
        load(f"folder:{two_classes}")
    with pytest.raises(GhostkitError, match=rf"depth\.tif.*{kind}"):
        decoded(two_classes / "dark" / "depth.tif", 1, 8)


def test_an_image_that_vanishes_later_is_named_when_it_is_needed(two_classes: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(folders, "KEPT_BYTES", 0)
    data = load(f"folder:{two_classes}")
    shutil.rmtree(two_classes / "dark")
    with pytest.raises(GhostkitError, match=r"cannot read the image '.*dark.*\.jpg'"):
        list(batches(data.train, 4))


def test_a_small_split_is_decoded_once_and_kept(two_classes: Path) -> None:
    data = load(f"folder:{two_classes}")  # the statistics have decoded every training image
    shutil.rmtree(two_classes)
    assert sum(len(labels) for _, labels in batches(data.train, 4)) == 12


def test_keeping_decoded_images_changes_no_batch(two_classes: Path, monkeypatch: Any) -> None:
    kept = list(batches(load(f"folder:{two_classes}", size=16).train, 5, augment="crop"))
    monkeypatch.setattr(folders, "KEPT_BYTES", 0)
    fresh = list(batches(load(f"folder:{two_classes}", size=16).train, 5, augment="crop"))
    assert all(torch.equal(a, b) for one, two in zip(kept, fresh, strict=True) for a, b in zip(one, two, strict=True))


def _without_classes(root: Path, paint: Paint) -> None:
    paint(root / "set" / "loose.png")


def _with_one_class(root: Path, paint: Paint) -> None:
    paint(root / "set" / "cats" / "0.png")


def _without_images(root: Path, paint: Paint) -> None:
    (root / "set" / "cats").mkdir(parents=True)
    (root / "set" / "dogs").mkdir()


def _with_an_empty_class(root: Path, paint: Paint) -> None:
    _with_one_class(root, paint)
    paint(root / "set" / "dogs" / "0.png")
    (root / "set" / "birds").mkdir()


def _with_single_images(root: Path, paint: Paint) -> None:
    _with_one_class(root, paint)
    paint(root / "set" / "dogs" / "0.png")


def _with_a_class_tested_only(root: Path, paint: Paint) -> None:
    for place in ("train/cats", "train/dogs", "test/cats", "test/birds"):
        paint(root / "set" / place / "0.png")


def _without_test_images(root: Path, paint: Paint) -> None:
    for place in ("train/cats", "train/dogs"):
        paint(root / "set" / place / "0.png")
    (root / "set" / "test").mkdir()


def _with_one_class_in_train(root: Path, paint: Paint) -> None:
    for place in ("train/cats", "test/cats"):
        paint(root / "set" / place / "0.png")


def _as_a_file(root: Path, paint: Paint) -> None:
    (root / "set").write_text("")


def _not_at_all(root: Path, paint: Paint) -> None:
    pass


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (_without_classes, "holds no class folder; expected a folder per class"),
        (_with_one_class, "one class only, 'cats'; expected two or more"),
        (_with_one_class_in_train, "train' has one class only, 'cats'"),
        (_without_images, r"holds no image in its 2 folder\(s\)"),
        (_with_an_empty_class, "class folder '.*birds' holds no image"),
        (_with_single_images, "one image only; expected two or more"),
        (_with_a_class_tested_only, "test' has a class 'birds' that '.*train' has not"),
        (_without_test_images, "test' holds no image"),
        (_as_a_file, "is no folder"),
        (_not_at_all, "is no folder"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_with_what_was_expected(
    tmp_path: Path, paint: Paint, written: Any, complaint: str
) -> None:
    written(tmp_path, paint)
    with pytest.raises(GhostkitError, match=complaint) as raised:
        load(f"folder:{tmp_path / 'set'}")
    assert str(tmp_path / "set") in str(raised.value)


def test_a_class_of_one_image_is_trained_on_only(two_classes: Path, paint: Paint) -> None:
    paint(two_classes / "rare" / "0.png")
    data = load(f"folder:{two_classes}")
    assert data.train.labels.bincount().tolist() == [8, 4, 1]
    assert data.test.labels.bincount(minlength=3).tolist() == [2, 1, 0]


def test_png_checksums_are_what_catches_a_changed_byte(two_classes: Path) -> None:
    path = two_classes / "bright" / "0.png"
    content = path.read_bytes()
    at = content.index(b"IDAT")
    length = int.from_bytes(content[at - 4 : at], "big")
    assert zlib.crc32(content[at : at + 4 + length]) == int.from_bytes(
        content[at + 4 + length : at + 8 + length], "big"
    )
    path.write_bytes(content[: at + 4 + length] + b"\0\0\0\0" + content[at + 8 + length :])
    with pytest.raises(GhostkitError, match=r"bright.0\.png"):
        load(f"folder:{two_classes}")
