"""Boxes and masks go where their images go, and batches of them are as repeatable as any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ghostkit.data.boxes import padded, present
from ghostkit.data.splits import Split, batches

BRIGHT = 250


def split_of(task: Any, count: int = 60, size: int = 32) -> Split:
    """Images of one or two bright rectangles on black, and an empty one; with their boxes or their masks."""
    generator = torch.Generator().manual_seed(3)
    pixels, rows = torch.zeros(count, 1, size, size, dtype=torch.uint8), []
    for number, image in enumerate(pixels):
        boxes = []
        for label in range(number % 3):
            left, top, width, height = torch.randint(5, 12, (4,), generator=generator).tolist()
            left += 10 * label
            image[0, top : top + height, left : left + width] = BRIGHT - label
            boxes.append([left, top, left + width, top + height, label, number % 2])
        rows.append(torch.tensor(boxes, dtype=torch.float32).view(-1, 6))
    masks = torch.where(pixels[:, 0] > 0, BRIGHT + 1 - pixels[:, 0], 0)
    labels = {"classification": torch.arange(count), "detection": padded(rows), "segmentation": masks}[task]
    return Split(pixels, labels, (0.0,), (1.0 / 255,), task)


def pairs(split: Split, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Return every image as bytes, with its labels."""
    return [pair for batch in batches(split, 16, **options) for pair in zip(*batch, strict=True)]


@pytest.mark.parametrize("augment", ["crop", "crop+flip"])
def test_a_box_still_encloses_the_pixels_of_its_object(augment: Any) -> None:
    moved = 0
    for image, rows in pairs(split_of("detection"), augment=augment):
        for x1, y1, x2, y2, label, _ in present(rows).int().tolist():
            y, x = (image[0].round() == BRIGHT - label).nonzero(as_tuple=True)
            if label == 1 or len(present(rows)) == 1:  # the one on top is seen in full
                assert (x1, y1, x2, y2) == (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
                moved += 1
    assert moved > 30


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
def test_a_mask_still_says_what_each_pixel_is_and_padding_is_ignored(augment: Any) -> None:
    padding = 0
    for image, mask in pairs(split_of("segmentation"), augment=augment):
        known = mask != 255
        assert mask.dtype == torch.int64
        assert torch.equal(mask[known], torch.where(image[0] > 0, BRIGHT + 1 - image[0].round(), 0).long()[known])
        assert (image[0][~known] == 0).all()
        padding += int((~known).sum())
    assert (padding > 0) == (augment != "none")


def test_padding_comes_in_along_the_edges_that_a_crop_goes_beyond() -> None:
    masks = {tuple(mask[:, 16].eq(255).tolist()) for _, mask in pairs(split_of("segmentation"), augment="crop")}
    assert {sum(column) for column in masks} == {0, 1, 2, 3, 4}  # an eighth of 32 px at most
    assert {column[0] for column in masks} == {True, False} == {column[-1] for column in masks}


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images_are_cropped_and_mirrored_as_for_classification(task: Any) -> None:
    options: dict[str, Any] = {"augment": "crop+flip", "seed": 4}
    expected = [image for image, _ in pairs(split_of("classification"), **options)]
    assert all(torch.equal(image, a) for (image, _), a in zip(pairs(split_of(task), **options), expected, strict=True))


@pytest.mark.parametrize("augment", ["none", "crop+flip"])
def test_boxes_come_as_float_rows_with_room_for_as_many_as_before(augment: Any) -> None:
    split = split_of("detection")
    for _, rows in batches(split, 16, augment=augment):
        assert (rows.dtype, rows.shape[1:]) == (torch.float32, (2, 6))
        absent = rows[rows[..., 4] < 0]
        assert (absent == torch.tensor([0.0, 0, 0, 0, -1, 0])).all()


def test_labels_and_crowds_stay_with_their_boxes() -> None:
    split = split_of("detection")
    before = {tuple(row[4:].tolist()) for image in split.labels for row in present(image)}
    after = {tuple(row[4:].tolist()) for _, rows in pairs(split, augment="crop+flip") for row in present(rows)}
    assert before == after == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}


def test_a_box_of_which_little_is_left_is_left_out() -> None:
    rows = torch.tensor([[[0.0, 0, 3, 32, 0, 0], [8, 8, 24, 24, 1, 1]]]).expand(200, 2, 6)
    pixels = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    found = [present(rows) for _, rows in pairs(Split(pixels, rows, (0.0,), (1.0,), "detection"), augment="crop")]
    widths = {float(row[2] - row[0]) for rows in found for row in rows if row[4] == 0}
    assert widths == {1.0, 2.0, 3.0}
    assert {len(rows) for rows in found} == {1, 2}  # moved by 3 px or 4, nothing of the first is left
    assert all(rows[-1, 4:].tolist() == [1, 1] for rows in found)


def test_images_without_objects_are_augmented_too() -> None:
    split = Split(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), padded([torch.zeros(0, 6)] * 4), (0.0,), (1.0,), "detection"
    )
    ((images, rows),) = batches(split, 4, augment="crop+flip")
    assert images.shape == (4, 1, 8, 8)
    assert torch.equal(rows, split.labels)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
def test_a_pass_that_starts_later_is_the_tail_of_the_full_pass(task: Any, augment: Any) -> None:
    split = split_of(task, 24)
    options: dict[str, Any] = {"seed": 3, "epoch": 2, "augment": augment}
    full = list(batches(split, 8, **options))
    before = torch.get_rng_state()
    for start in range(len(full) + 1):
        for one, two in zip(batches(split, 8, start=start, **options), full[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
