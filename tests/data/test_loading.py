"""Every name loads from its files, and everything that can be wrong with one says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat

from ghostkit.data import batches, catalog, load, own, sources
from ghostkit.data.splits import Split
from ghostkit.errors import GhostkitError

Write = Callable[..., Path]
GREY_NAMES = [("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST"), ("kmnist", "KMNIST")]


DEBIAN_HOME = catalog.SOURCES["fashion-mnist"].homes[1]


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTKIT_DATA", str(tmp_path / "default"))
    source = catalog.SOURCES["fashion-mnist"]
    moved = catalog.Source(**{**vars(source), "homes": (source.homes[0], str(tmp_path / "debian"))})
    monkeypatch.setitem(catalog.SOURCES, "fashion-mnist", moved)


def test_digits_load_at_once_with_a_fixed_fair_split() -> None:
    data = load("digits")
    assert (data.channels, data.height, data.width) == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.test)) == (1401, 396)
    assert data.test.labels.bincount().min() >= 38
    assert data.test.labels[:6].tolist() == [2, 8, 2, 6, 6, 7]  # today, tomorrow, and whatever the run's seed
    assert data.train.pixels(torch.arange(1401)).max() == 255


def test_no_digit_is_both_trained_and_tested_on() -> None:
    data = load("digits")
    everything = torch.cat([split.pixels(torch.arange(len(split))) for split in (data.train, data.test)]).flatten(1)
    assert len(everything) == len(everything.unique(dim=0)) == 1797


def test_training_images_have_mean_zero_and_deviation_one_and_test_images_share_their_scale() -> None:
    data = load("digits")
    images = data.train.images(torch.arange(len(data.train)))
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std(correction=0)) - 1) < 1e-5
    assert (data.test.mean, data.test.std) == (data.train.mean, data.train.std) == (data.mean, data.std)


@pytest.mark.parametrize(("name", "folder"), GREY_NAMES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_sets_load_from_the_layout_of_torchvision(
    tmp_path: Path, write_idx_set: Write, name: str, folder: str, ending: str
) -> None:
    home = write_idx_set(tmp_path / "root" / folder / "raw", ending=ending)
    data = load(name, tmp_path / "root")
    assert (len(data.train), len(data.test), len(data.classes)) == (30, 10, 10)
    assert data.train.images(torch.arange(2)).shape == (2, 1, 28, 28)
    assert data.train.labels.tolist() == [i % 10 for i in range(30)]
    assert data.where == str(home)


def test_fashion_mnist_is_read_as_debian_installs_it(tmp_path: Path, write_idx_set: Write) -> None:
    assert DEBIAN_HOME == "/usr/share/datasets/fashion-mnist"
    home = write_idx_set(tmp_path / "debian", ending=".gz")
    data = load("fashion-mnist")
    assert data.where == str(home)
    assert data.classes[-1] == "Ankle boot"


def test_the_data_root_goes_before_the_system_and_the_variable_before_the_cache(
    tmp_path: Path, write_idx_set: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx_set(tmp_path / "debian", (50, 10))
    home = write_idx_set(tmp_path / "default" / "FashionMNIST" / "raw", (20, 10))
    assert load("fashion-mnist").where == str(home)
    monkeypatch.delenv("GHOSTKIT_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert catalog.default_root() == tmp_path / "home" / ".cache" / "ghostkit" / "data"


def test_archives_with_a_wrong_checksum_are_never_opened(tmp_path: Path) -> None:
    for file in catalog.SOURCES["svhn"].files:
        (tmp_path / file).write_bytes(b"not what it should be")
    with pytest.raises(GhostkitError, match=r"corrupted.*delete its files there"):
        load("svhn", tmp_path)


def test_svhn_loads_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        path = tmp_path / f"{part}_32x32.mat"
        labels = np.arange(count).reshape(-1, 1) % 3 + 8  # 8, 9, and 10 for the digit 0
        savemat(path, {"X": rng.integers(0, 256, (32, 32, 3, count), np.uint8), "y": labels})
        known = torchvision.datasets.SVHN.split_list[part]
        checksum = torchvision.datasets.utils.calculate_md5(path)
        monkeypatch.setitem(torchvision.datasets.SVHN.split_list, part, [*known[:2], checksum])
    data = load("svhn", tmp_path)
    assert data.train.images(torch.arange(2)).shape == (2, 3, 32, 32)
    assert data.train.labels[:3].tolist() == [8, 9, 0]


def test_eurosat_is_split_the_same_way_every_time(tmp_path: Path, paint: Write) -> None:
    for name in ("Forest", "River"):
        for number in range(10):
            paint(tmp_path / "eurosat" / "2750" / name / f"{name}_{number}.jpg", size=(64, 64))
    data = load("eurosat", tmp_path)
    assert (data.classes, data.channels, data.height) == (("Forest", "River"), 3, 64)
    assert data.train.labels.bincount().tolist() == [8, 8]
    assert torch.equal(data.train.labels, load("eurosat", tmp_path).train.labels)


@pytest.mark.parametrize(
    ("folder", "largest"), [("imagenette2", None), ("imagenette2-320", 320), ("imagenette2-160", 160)]
)
def test_imagenette_names_its_classes_and_scales_no_image_up(
    tmp_path: Path, paint: Write, folder: str, largest: int | None
) -> None:
    for part in ("train", "val"):
        for wnid in ("n01440764", "n03888257"):
            paint(tmp_path / folder / part / wnid / f"{wnid}_1.JPEG", size=(200, 180))
    data = load("imagenette", tmp_path)
    assert (data.classes, data.height) == (("tench", "parachute"), 64)
    if largest:
        with pytest.raises(GhostkitError, match=rf"size is {largest + 1}, but .* have {largest} pixels"):
            load("imagenette", tmp_path, size=largest + 1)


def test_imagenet_is_read_from_its_unpacked_folders(tmp_path: Path, paint: Write) -> None:
    for part in ("train", "val"):
        for wnid in ("n01440764", "n01443537"):
            paint(tmp_path / "imagenet" / part / wnid / f"{wnid}_1.JPEG")
    data = load("imagenet", tmp_path, size=32)
    assert (data.classes, data.height) == (("n01440764", "n01443537"), 32)
    assert load("imagenet", tmp_path).height == 224


def test_a_damaged_image_of_a_named_set_is_named_when_it_is_met(tmp_path: Path, paint: Write) -> None:
    for name in ("Forest", "River"):
        for number in range(4):
            path = paint(tmp_path / "eurosat" / "2750" / name / f"{name}_{number}.jpg")
    for path in (tmp_path / "eurosat" / "2750" / "River").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(GhostkitError, match=r"cannot read the image '.*River_\d\.jpg'"):
        load("eurosat", tmp_path)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_fewer_samples_are_the_first_ones(two_classes: Path, name: str) -> None:
    name = f"folder:{two_classes}" if name == "folder" else name
    whole, part = load(name), load(name, train_samples=10, test_samples=2)
    assert (len(part.train), len(part.test)) == (10, 2)
    assert torch.equal(part.train.pixels(torch.arange(10)), whole.train.pixels(torch.arange(10)))
    assert torch.equal(part.test.labels, whole.test.labels[:2])
    assert part.classes == whole.classes


@pytest.mark.parametrize("size", [4, 8, 16])
def test_images_in_memory_are_scaled_to_the_size_asked_for(size: int) -> None:
    data = load("digits", size=size)
    assert (data.height, data.width) == (size, size)
    assert next(batches(data.train, 5))[0].shape == (5, 1, size, size)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"validation_samples": 1401}, "validation_samples is 1401, but 'digits' has 1401 training images"),
        ({"validation_samples": 0}, "validation_samples is 0"),
        ({"train_samples": 1302, "validation_samples": 100}, "train_samples is 1302, but 'digits' has 1301"),
        ({"train_samples": 1402}, "train_samples is 1402, but 'digits' has 1401"),
        ({"test_samples": 400}, "test_samples is 400, but 'digits' has 396"),
        ({"train_samples": 0}, "train_samples is 0"),
        ({"test_samples": -3}, "test_samples is -3"),
        ({"train_samples": 1}, r"train_samples=1\) are all of one class"),
        ({"size": 0}, "size is 0"),
        ({"size": 2000}, "more than 2 GiB.*smaller size"),
        ({"root": "/nowhere/at/all"}, "data root '/nowhere/at/all' is no folder"),
        ({"root": __file__}, r"test_loading.py' is no folder"),
    ],
)
def test_an_argument_that_does_not_fit_is_quoted(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        load("digits", **options)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("fashon-mnist", "unknown data 'fashon-mnist'; did you mean 'fashion-mnist'"),
        ("CIFAR10", "did you mean 'cifar-10'"),
        ("Digits", "did you mean 'digits'"),
        ("unheard of", "known are digits, fashion-mnist, .*folder:PATH"),
        ("", "unknown data ''; known are"),
        ("folder:", "'folder:' names no folder"),
    ],
)
def test_an_unknown_name_is_quoted_with_the_nearest_and_the_known_ones(name: str, complaint: str) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        load(name)


def test_a_path_without_its_prefix_is_recognised(two_classes: Path) -> None:
    with pytest.raises(GhostkitError, match=f"did you mean 'folder:{two_classes}'"):
        load(str(two_classes))


@pytest.mark.parametrize("name", [name for name, source in catalog.SOURCES.items() if source.homes])
def test_missing_files_are_listed_with_the_places_and_the_command_that_gets_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(GhostkitError) as raised:
        load(name, task=next(iter(catalog.SOURCES[name].read)))
    text = str(raised.value)
    assert f"{name!r} is not here: looked for " in text
    assert all(str(tmp_path / "default" / home) in text for home in catalog.SOURCES[name].homes)
    assert all(file in text for file in catalog.SOURCES[name].files)
    assert ("unpack train2017.zip" if name == "coco" else f"`ghostkit data {name} --download`") in text


def test_the_command_that_gets_missing_files_repeats_the_root(tmp_path: Path) -> None:
    with pytest.raises(GhostkitError, match=rf"ghostkit data mnist --download --root {tmp_path}"):
        load("mnist", tmp_path)


def test_missing_fashion_mnist_names_the_package_too() -> None:
    with pytest.raises(GhostkitError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist")


def test_download_fetches_what_is_missing_and_only_then(
    tmp_path: Path, write_idx_set: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(root: Path) -> None:
        asked.append(root)
        write_idx_set(root / "KMNIST" / "raw")

    monkeypatch.setitem(catalog.SOURCES, "kmnist", replace(catalog.SOURCES["kmnist"], fetch=fetch))
    for _ in range(2):
        assert len(load("kmnist", tmp_path / "new", download=True).train) == 30
    assert asked == [tmp_path / "new"]


def test_a_failed_download_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(root: Path, **_: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets, "SVHN", fake)
    with pytest.raises(GhostkitError, match=r"getting 'svhn' into '.*default' failed: no route to host"):
        load("svhn", download=True)


def test_truncated_files_of_a_named_set_are_refused_by_name(tmp_path: Path, write_idx_set: Write) -> None:
    home = write_idx_set(tmp_path / "MNIST" / "raw", ending=".gz")
    path = home / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(GhostkitError, match=r"t10k-images-idx3-ubyte\.gz' is damaged"):
        load("mnist", tmp_path)


def test_the_list_has_a_row_for_every_name_and_says_what_was_found(tmp_path: Path, write_idx_set: Write) -> None:
    home = write_idx_set(tmp_path / "default" / "KMNIST" / "raw")
    frame = sources().set_index("name")
    assert list(frame.columns) == ["task", "images", "found", "where", "get"]
    forms = ["folder:PATH", "coco:IMAGES,ANNOTATIONS.json", "voc:PATH", "masks:IMAGES,MASKS"]
    assert list(frame.index) == [*catalog.SOURCES, *forms]
    assert set(frame.index[frame["found"]]) == {"digits", "kmnist", "scenes", "scenes-colour", *forms}
    assert frame.loc["kmnist", "where"] == str(home)
    assert (frame.loc[~frame["found"], "where"] == "").all()
    assert frame.loc["digits", "task"] == "classification"
    assert frame.loc["scenes", "task"] == frame.loc["voc:PATH", "task"] == "detection, segmentation"
    assert (frame["get"] != "").all()
    assert frame["found"].dtype == bool


def test_a_set_of_which_one_file_is_missing_is_not_found(tmp_path: Path, write_idx_set: Write) -> None:
    home = write_idx_set(tmp_path / "KMNIST" / "raw")
    (home / "t10k-labels-idx1-ubyte").unlink()
    assert not sources(tmp_path).set_index("name").loc["kmnist", "found"]


def test_listing_opens_and_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a list must not do this")

    monkeypatch.setattr(catalog.fetching, "torchvision_class", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(sources()) == len(catalog.SOURCES) + len(own.OWN)


@pytest.mark.parametrize(
    ("name", "task", "complaint"),
    [
        ("digits", "detection", "'digits' offers classification, but no detection; that is offered by scenes, .*coco:"),
        ("scenes", "classification", "'scenes' offers detection and segmentation, but no classification; .*digits"),
        ("coco:images,boxes.json", "segmentation", "'coco:images,boxes.json' offers detection, but no segmentation"),
        ("masks:images,masks", "detection", "offers segmentation, but no detection"),
        ("digits", "depth", "unknown task 'depth', expected one of classification, detection, segmentation"),
        ("scenery", "detection", "unknown data 'scenery'; did you mean 'scenes'"),
        ("coco:images", "detection", r"'coco:images' has 1 path\(s\), .* expected coco:IMAGES,ANNOTATIONS\.json"),
        ("coco:images,", "detection", r"expected coco:IMAGES,ANNOTATIONS\.json"),
        ("masks:a,b,c", "segmentation", r"has 3 path\(s\), .* expected masks:IMAGES,MASKS"),
        ("voc:", "detection", "names no folder; expected voc:PATH"),
    ],
)
def test_a_task_or_a_path_that_is_not_there_is_quoted_with_what_is(name: str, task: Any, complaint: str) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        load(name, task=task)


def test_coco_itself_says_that_it_cannot_be_downloaded_and_how_it_is_got(tmp_path: Path) -> None:
    with pytest.raises(GhostkitError, match=r"'coco' cannot be downloaded; .*cocodataset\.org/#download into /.*/coco"):
        load("coco", tmp_path, task="detection", download=True)


def pixels_of(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.pixels(torch.arange(len(split)))]


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_validation_images_are_training_images_that_nothing_is_learned_from(name: str, two_classes: Path) -> None:
    name = f"folder:{two_classes}" if name == "folder" else name
    whole, held = load(name), load(name, validation_samples=5)
    numbers = torch.arange(len(whole.train))
    learned, kept, there = (pixels_of(part) for part in (held.train, held.validation, whole.train))
    assert (len(learned), len(kept)) == (len(numbers) - 5, 5)
    assert sorted(learned + kept) == sorted(there)
    assert pixels_of(held.test) == pixels_of(whole.test)
    assert (held.judged, whole.judged, whole.validation) == (held.validation, whole.test, None)
    assert held.mean == pytest.approx(held.train.pixels(torch.arange(len(held.train))).float().mean((0, 2, 3)) / 255)


def test_the_same_images_are_held_out_however_many_are_learned_from() -> None:
    many, few = load("digits", validation_samples=300), load("digits", validation_samples=300, train_samples=50)
    assert pixels_of(many.validation) == pixels_of(few.validation)
    assert pixels_of(many.train)[:50] == pixels_of(few.train)
    assert not torch.equal(many.validation.labels, many.validation.labels.sort().values)  # a fair draw


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_as_many_scenes_are_learned_from_as_are_asked_for_when_some_are_held_out(task: str) -> None:
    found = load("scenes", task=task, train_samples=6, test_samples=2, validation_samples=3)
    assert (len(found.train), len(found.validation), len(found.test)) == (6, 3, 2)
