"""Batches are the same for the same seed, from wherever a pass starts; splits are normalised, fair and fixed."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from ghostkit.data.splits import Split, batch_count, batches, statistics, stratified
from ghostkit.errors import GhostkitError


class Decoded:
    """Bytes that are not in memory as far as ``batches`` can tell; early images take longest, as a trap for order."""

    def __init__(self, pixels: Tensor, broken: int | None = None) -> None:
        self.tensor, self.broken, self.asked, self.threads = pixels, broken, [0] * len(pixels), set[str]()
        self.shape = tuple(pixels.shape)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, indices: Tensor) -> Tensor:
        self.threads.add(threading.current_thread().name)
        for i in indices.tolist():
            if i == self.broken:
                raise GhostkitError("cannot read the image 'broken.png'")
            self.asked[i] += 1
        time.sleep(0.002 * (int(indices.min()) == 0))
        return self.tensor[indices]


def split_of(count: int, *, channels: int = 1, size: int = 8, lazy: bool = False) -> Split:
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    mean, std = statistics(pixels)
    return Split(Decoded(pixels) if lazy else pixels, torch.arange(count), mean, std)


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pass_that_starts_later_is_the_tail_of_the_full_pass(lazy: bool, augment: Any, shuffle: bool) -> None:
    split = split_of(50, lazy=lazy)
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 3, "epoch": 2, "augment": augment}
    full = list(batches(split, 8, **options))
    for start in range(len(full) + 1):
        torch.manual_seed(start)  # the global random state must not matter
        assert equal(list(batches(split, 8, start=start, **options)), full[start:])


@pytest.mark.parametrize("augment", ["none", "crop+flip"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_from_files_give_the_same_batches_as_images_in_memory(augment: Any, workers: int) -> None:
    expected = list(batches(split_of(50), 8, seed=1, augment=augment))
    assert equal(list(batches(split_of(50, lazy=True), 8, seed=1, augment=augment, workers=workers)), expected)


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_seed_and_epoch_each_change_the_batches(augment: Any) -> None:
    split = split_of(32)
    one, same, seed, epoch = (
        list(batches(split, 8, augment=augment, seed=seed, epoch=epoch))
        for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert equal(one, same)
    assert not equal(one, seed)
    assert not equal(one, epoch)
    assert not equal(seed, epoch)


def test_augmentation_differs_between_epochs_and_batches_even_in_fixed_order() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(8, 1, 1, 1)
    split = Split(pixels, torch.arange(8), (0.0,), (1.0,))
    first, second = (x for x, _ in batches(split, 4, shuffle=False, augment="crop+flip"))
    later = next(batches(split, 4, shuffle=False, augment="crop+flip", epoch=1))[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, later)


def test_asking_for_batches_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(batches(split_of(20), 4, augment="crop+flip"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),  # the one that is left joins the batch before it
        (10, 4, [4, 4, 2]),
        (1, 4, [1]),
        (3, 4, [3]),
        (5, 4, [5]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_image_comes_once_and_none_comes_alone(
    images: int, batch_size: int, sizes: list[int], shuffle: bool
) -> None:
    found = [labels for _, labels in batches(split_of(images), batch_size, shuffle=shuffle)]
    assert [len(labels) for labels in found] == sizes
    assert batch_count(images, batch_size) == len(sizes)
    assert sorted(torch.cat(found).tolist()) == list(range(images))


def test_without_shuffling_images_come_in_the_order_of_the_split() -> None:
    split = split_of(10)
    images = torch.cat([x for x, _ in batches(split, 4, shuffle=False)])
    assert torch.equal(images, split.images(torch.arange(10)))


def test_a_crop_is_a_window_of_the_image_padded_with_black_by_an_eighth() -> None:
    pixels = torch.randint(1, 256, (64, 2, 16, 16), dtype=torch.uint8)
    split = Split(pixels, torch.arange(64), (0.5, 0.5), (0.25, 0.25))
    padded = split.normalise(torch.nn.functional.pad(pixels, (2, 2, 2, 2)))
    (images, labels), places = next(batches(split, 64, augment="crop")), set()
    for image, label in zip(images, labels.tolist(), strict=True):
        here = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(image, padded[label, :, y : y + 16, x : x + 16])
        ]
        assert len(here) == 1
        places.add(here[0])
    assert len(places) > 10  # of 25: images of one batch are cropped at places of their own


def test_about_half_of_the_images_are_mirrored() -> None:
    slope = torch.arange(0, 256, 16, dtype=torch.uint8).expand(400, 1, 16, 16)
    split = Split(slope, torch.arange(400), (0.0,), (1.0,))
    images, _ = next(batches(split, 400, augment="crop+flip"))
    mirrored = (images[:, 0, 8, 4] > images[:, 0, 8, 11]).float().mean()
    assert 0.4 < float(mirrored) < 0.6


def test_files_before_the_start_are_never_decoded() -> None:
    split = split_of(32, lazy=True)
    assert isinstance(split.source, Decoded)
    list(batches(split, 8, shuffle=False, start=3))
    assert split.source.asked == [0] * 24 + [1] * 8


def test_a_pass_that_is_given_up_ends_its_threads() -> None:
    split = split_of(400, lazy=True)
    assert isinstance(split.source, Decoded)
    some = batches(split, 4, workers=2)
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name in split.source.threads]
    assert sum(split.source.asked) < 100


def test_images_in_memory_need_no_threads() -> None:
    some = batches(split_of(40), 4, workers=4)
    next(some)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ghostkit-data")]


def test_an_unreadable_file_stops_the_pass_with_its_own_error() -> None:
    split = split_of(40, lazy=True)
    assert isinstance(split.source, Decoded)
    split.source.broken = 17
    with pytest.raises(GhostkitError, match=r"broken\.png"):
        list(batches(split, 4, shuffle=False))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"start": 4}, "start is 4, expected 0 to 3"),
        ({"start": -1}, "start is -1"),
        ({"augment": "mixup"}, "'mixup', expected one of none, crop, crop"),
        ({"workers": -2}, "workers is -2"),
    ],
)
def test_an_argument_that_does_not_fit_is_quoted_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        batches(split_of(10), **{"batch_size": 4, **options})


@pytest.mark.parametrize("lazy", [False, True])
def test_statistics_bring_the_images_to_mean_zero_and_deviation_one(lazy: bool) -> None:
    split = split_of(600, channels=3, lazy=lazy)
    mean, std = statistics(split.source)
    images = Split(split.source, split.labels, mean, std).images(torch.arange(600)).double()
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6)


def test_statistics_decode_no_more_than_the_first_2048_files() -> None:
    files = Decoded(torch.randint(0, 256, (2100, 1, 2, 2), dtype=torch.uint8))
    assert statistics(files) == statistics(files.tensor[:2048])
    assert files.asked == [1] * 2048 + [0] * 52


def test_statistics_agree_with_torch_on_pixels_scaled_to_one() -> None:
    pixels = torch.randint(0, 256, (300, 2, 5, 7), dtype=torch.uint8)
    mean, std = statistics(pixels)
    scaled = pixels.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_channel_that_never_varies_stays_finite() -> None:
    pixels = torch.full((4, 1, 3, 3), 9, dtype=torch.uint8)
    mean, std = statistics(pixels)
    assert std == (1.0,)
    assert torch.allclose(Split(pixels, torch.zeros(4), mean, std).images(torch.arange(4)), torch.zeros(1), atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "held_out"),
    [((10, 5), (2, 1)), ((100, 3, 2, 1), (20, 1, 1, 0)), ((1, 1), (0, 0)), ((0, 10), (0, 2))],
)
def test_a_stratified_split_holds_out_the_same_share_of_every_class(
    counts: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    train, test = stratified(labels, 0.2)
    assert tuple(labels[test].bincount(minlength=len(counts)).tolist()) == held_out
    assert sorted(torch.cat([train, test]).tolist()) == list(range(len(labels)))
    assert all(torch.equal(a, b) for a, b in zip(stratified(labels, 0.2), (train, test), strict=True))


def test_the_first_images_of_a_stratified_split_are_a_fair_sample() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    train, test = stratified(labels, 0.2)
    assert labels[train[:60]].bincount(minlength=4).min() > 5
    assert labels[test[:40]].bincount(minlength=4).min() > 3


def test_the_fixed_split_does_not_change_from_release_to_release() -> None:
    train, test = stratified(torch.tensor([0, 1] * 5), 0.2)
    assert (train.tolist(), test.tolist()) == ([8, 4, 1, 6, 7, 3, 0, 5], [2, 9])
