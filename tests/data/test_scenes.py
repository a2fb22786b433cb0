"""Scenes are the same for the same number, and their boxes and masks tell what can be seen in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from ghostkit.data import ImageData, Split, load, scenes
from ghostkit.data.boxes import present
from ghostkit.data.splits import Labelled
from ghostkit.errors import GhostkitError


@pytest.fixture(autouse=True)
def _digits(digits_only: None) -> None:
    pass


def composed(
    name: str = "scenes", task: Any = "detection", train: int = 60, test: int = 5, **options: Any
) -> ImageData:
    return load(name, task=task, train_samples=train, test_samples=test, **options)


def pixels(split: Split) -> Tensor:
    return split.pixels(torch.arange(len(split)))


def flat_items(*levels: int, side: int = 28) -> Labelled:
    """Items that are squares of one brightness each, their class numbers in order."""
    images = torch.zeros(len(levels), 1, side, side, dtype=torch.uint8)
    for image, level in zip(images, levels, strict=True):
        image[:, 4:-4, 4:-4] = level
    return Labelled(images, torch.arange(len(levels)))


@pytest.mark.parametrize("name", ["scenes", "scenes-colour"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_scene_is_the_same_however_many_are_asked_for(name: str, task: Any) -> None:
    few, many = composed(name, task, 4, 3), composed(name, task, 9, 7)
    for a, b in ((few.train, many.train), (few.test, many.test)):
        assert torch.equal(pixels(a), pixels(b)[: len(a)])
        assert torch.equal(a.labels, b.labels[: len(a)])


def test_scenes_do_not_depend_on_the_global_random_state_and_leave_it_alone() -> None:
    first = composed(train=3)
    np.random.seed(1)  # noqa: NPY002
    before = torch.manual_seed(1).get_state()
    assert torch.equal(pixels(first.train), pixels(composed(train=3).train))
    assert torch.equal(torch.get_rng_state(), before)


def test_scenes_do_not_change_from_release_to_release() -> None:
    data = composed(train=2)
    expected = [[6, 18, 16, 35, 5, 0], [43, 12, 62, 40, 6, 0], [30, 15, 40, 34, 8, 0], [35, 3, 55, 29, 4, 0]]
    assert present(data.train.labels[0]).int().tolist() == expected
    assert int(pixels(data.train).sum()) == 969_048


def test_no_two_scenes_are_alike_and_test_scenes_are_others() -> None:
    data = composed(train=30, test=30)
    assert len(torch.cat([pixels(data.train), pixels(data.test)]).flatten(1).unique(dim=0)) == 60


def test_training_scenes_show_training_items_and_test_scenes_test_items(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, given = load("digits"), list[tuple[Labelled, int]]()

    def noted(items: Labelled, part: int, *args: Any, **options: Any) -> Labelled:
        given.append((items, part))
        return compose(items, part, *args, **options)

    compose = scenes.compose
    monkeypatch.setattr(scenes, "compose", noted)
    composed(train=1, test=1)
    for (items, part), split, number in zip(given, (digits.train, digits.test), (0, 1), strict=True):
        assert part == number
        assert torch.equal(items.pixels[torch.arange(len(split))], pixels(split))
        assert torch.equal(items.labels, split.labels)


def test_an_item_of_the_pool_is_all_that_its_scenes_show() -> None:
    made = scenes.compose(flat_items(250), 0, 20, 64, tinted=False, masks=True)
    shown = made.labels == 1
    assert shown.flatten(1).any(1).all()
    assert (made.pixels[:, 0][~shown] < 160).all()  # the ground is never as bright as an item in full light


@pytest.mark.parametrize("size", [64, 96, 128])
def test_a_box_is_the_extent_of_the_pixels_that_are_seen(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owners, extents = list[np.ndarray](), scenes._extents

    def noted(numbers: np.ndarray) -> list[tuple[int, int, int, int]]:
        owners.append(numbers.copy())
        return extents(numbers)

    items = flat_items(*range(100, 250, 15))
    monkeypatch.setattr(scenes, "_extents", noted)
    boxed = scenes.compose(items, 0, 25, size, tinted=False, masks=False)
    masked = scenes.compose(items, 0, 25, size, tinted=False, masks=True)
    owners = [owner for owner in owners if owner.shape == (size, size)]
    assert torch.equal(boxed.pixels[torch.arange(25)], masked.pixels[torch.arange(25)])
    for rows, mask, owner in zip(boxed.labels, masked.labels, owners, strict=True):
        rows = present(rows)
        assert owner.max() == len(rows)
        for number, (x1, y1, x2, y2, label, crowd) in enumerate(rows.int().tolist(), 1):
            y, x = (owner == number).nonzero()
            assert (x1, y1, x2, y2, crowd) == (x.min(), y.min(), x.max() + 1, y.max() + 1, 0)
            assert (mask.numpy()[owner == number] == label + 1).all()
        assert (mask.numpy()[owner == 0] == 0).all()


def test_later_items_hide_earlier_ones_but_never_too_much_of_them() -> None:
    scene = scenes._Scene(np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8), [], [], [])
    cut = scenes._cut(np.full((28, 28), 200, np.uint8), 3)
    rng, hidden = np.random.RandomState(0), 0
    for _ in range(60):
        scenes._lay(cut, scene, rng)
        seen = np.bincount(scene.owner.ravel(), minlength=len(scene.labels) + 1)[1:]
        assert seen.tolist() == scene.seen
        assert all(n >= max(12, 0.25 * area) for n, area in zip(scene.seen, scene.areas, strict=True))
        hidden += sum(scene.areas) > sum(scene.seen)
    assert hidden > 0
    assert len(scene.labels) < 60  # there is no room for all, and those that find none are not annotated


def test_a_hole_in_an_item_belongs_to_it_and_what_lies_outside_does_not() -> None:
    ring = np.zeros((28, 28), np.uint8)
    ring[4:24, 6:22] = 180
    ring[8:20, 10:18] = 0  # a hole
    ring[4:10, 12:16] = 0  # and a way out of it
    closed = ring.copy()
    closed[4, 12:16] = 180
    for item in (ring, closed):
        cut = scenes._cut(item, 0)
        assert cut.layers.shape == (2, 20, 16)
        assert np.array_equal(cut.layers[1] > 0, binary_fill_holes(item > 8)[4:24, 6:22])
    assert (scenes._cut(closed, 0).layers[1] > 0).sum() > (scenes._cut(ring, 0).layers[1] > 0).sum()


def test_the_tinted_scenes_are_the_grey_ones_in_colour() -> None:
    grey, tinted = composed(), composed("scenes-colour")
    assert (grey.channels, tinted.channels) == (1, 3)
    assert torch.equal(grey.train.labels, tinted.train.labels)
    coloured, plain = pixels(tinted.train), pixels(grey.train)
    assert (coloured <= plain).all()  # a tint takes light away, and from its strongest channel none
    assert (coloured.amax(1, keepdim=True).int() - plain.int()).abs().max() <= 1
    assert (coloured.float().std(1).flatten(1).mean(1) > 2).all()


def test_every_class_comes_about_equally_often_and_sizes_differ() -> None:
    rows = torch.cat([present(image) for image in composed(train=400).train.labels])
    counts = rows[:, 4].long().bincount(minlength=10)
    assert counts.min() > 0.6 * counts.float().mean()
    longest = (rows[:, 2:4] - rows[:, :2]).amax(1)
    assert longest.max() == 32
    assert longest.quantile(0.1) < 19


@pytest.mark.parametrize(("size", "most"), [(64, 5), (96, 8), (128, 10)])
def test_larger_scenes_hold_more_and_larger_items(size: int, most: int) -> None:
    data = composed(train=80, size=size)
    assert (data.height, data.width) == (size, size)
    assert data.train.labels.shape == (80, most, 6)
    counts = (data.train.labels[..., 4] >= 0).sum(1)
    assert (int(counts.min()), int(counts.max())) == (1, most)


def test_a_segmented_scene_names_its_ground_first() -> None:
    data = composed(task="segmentation")
    assert data.classes == ("background", *map(str, range(10)))
    assert (data.train.labels.dtype, data.train.labels.shape) == (torch.uint8, (60, 64, 64))
    assert sorted(data.train.labels.unique().tolist()) == list(range(11))
    assert composed(train=1).classes == tuple(map(str, range(10)))


def test_four_thousand_and_one_thousand_scenes_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scenes.SCENES == (4000, 1000)
    monkeypatch.setattr(scenes, "SCENES", (12, 6))
    data = load("scenes", task="detection")
    assert (len(data.train), len(data.test)) == (12, 6)
    assert len(load("scenes", task="detection", train_samples=20).train) == 20  # more than there are by default


def test_scenes_say_what_they_are_composed_of(tmp_path: Path, write_idx_set: Callable[..., Path]) -> None:
    assert composed(train=1).where == "real items, composed scenes: scikit-learn's digits"
    home = write_idx_set(tmp_path / "root" / "FashionMNIST" / "raw", ending=".gz")
    data = composed(train=2, root=tmp_path / "root")
    assert data.where == f"real items, composed scenes: Fashion-MNIST in {str(home)!r}"
    assert data.classes[0] == "T-shirt/top"


@pytest.mark.parametrize("dim", [1, 3, 40])
def test_a_dark_item_has_a_silhouette_too(dim: int) -> None:
    item = np.zeros((28, 28), np.uint8)
    item[5:20, 5:15] = dim
    assert scenes._cut(item, 0).layers.shape == (2, 15, 10)


@pytest.mark.parametrize("before", [5, 8, 28])
@pytest.mark.parametrize("after", [1, 16, 32, 64])
def test_scaling_keeps_a_flat_picture_flat_and_stays_exact(before: int, after: int) -> None:
    weights = scenes._weights(before, after)
    assert (weights.sum(1) == 256).all()
    assert (weights == weights.round()).all()
    assert (weights >= 0).all()
    assert (scenes._scaled(np.full((before, before), 255, np.float32), after, after) == 255).all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 32}, "size is 32, expected 64 to 128 px"),
        ({"size": 256}, "size is 256, expected 64 to 128 px"),
        ({"train": 0}, "train_samples is 0, expected 1 or more"),
        ({"test": -2}, "test_samples is -2"),
        ({"train": 600_000}, "600,000 scenes of 64 px need more than 2 GiB"),
    ],
)
def test_what_cannot_be_composed_is_quoted(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        composed(**options)


def test_an_item_without_a_pixel_is_refused() -> None:
    with pytest.raises(GhostkitError, match="an item of class 0 is all black"):
        scenes.compose(flat_items(0), 0, 1, 64, tinted=False, masks=False)
