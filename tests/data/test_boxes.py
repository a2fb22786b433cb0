"""Boxes keep their rows, their padding and their place, whatever becomes of their image."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ghostkit.data.boxes import Fit, clipped, fitted, moved, padded, present

ONE = [2.0, 3.0, 10.0, 9.0, 1.0, 0.0]


def test_padding_is_what_present_takes_away() -> None:
    rows = [torch.tensor([ONE, [0, 0, 1, 1, 0, 1]]), torch.zeros(0, 6), torch.tensor([ONE])]
    together = padded(rows)
    assert (together.shape, together.dtype) == ((3, 2, 6), torch.float32)
    assert all(torch.equal(present(image), boxes) for image, boxes in zip(together, rows, strict=True))
    assert together[1].tolist() == [[0, 0, 0, 0, -1, 0]] * 2


@pytest.mark.parametrize(("rows", "at_least", "most"), [([], 1, 1), ([torch.zeros(0, 6)], 1, 1), ([], 4, 4)])
def test_there_is_always_room_for_a_box(rows: list[torch.Tensor], at_least: int, most: int) -> None:
    assert padded(rows, at_least).shape == (len(rows), most, 6)


@pytest.mark.parametrize(
    ("corners", "left"),
    [
        ((2, 3, 10, 9), (2, 3, 10, 9)),
        ((-5, -5, 40, 30), (0, 0, 20, 16)),
        ((15, 10, 25, 14), (15, 10, 20, 14)),
        ((20, 0, 25, 5), None),  # beside the image, which is 20 wide
        ((-9, 0, 0, 5), None),
        ((4, 4, 4, 9), None),  # no width
        ((9, 4, 4, 9), None),
        ((30, 4, 25, 9), None),
        ((25, 4, -5, 9), None),  # turned around: what clipping makes of it must not count
        ((math.nan, 4, 8, 9), None),
        ((0, 0, math.inf, 9), None),
    ],
)
def test_a_box_is_cut_off_at_the_edge_and_left_out_if_nothing_is_left(
    corners: tuple[float, ...], left: tuple[float, ...] | None
) -> None:
    rows = clipped(torch.tensor([[*corners, 3.0, 1.0]]), 16, 20)
    assert rows.tolist() == ([[*left, 3, 1]] if left else [])


@pytest.mark.parametrize(
    ("width", "height", "fit"),
    [
        (64, 64, Fit(64, 64, 0, 0)),
        (128, 64, Fit(64, 32, 0, 16)),
        (32, 64, Fit(32, 64, 16, 0)),
        (10, 20, Fit(32, 64, 16, 0)),
        (6400, 3, Fit(64, 1, 0, 31)),
    ],
)
def test_an_image_of_any_shape_is_centred_and_as_large_as_fits(width: int, height: int, fit: Fit) -> None:
    assert fitted(width, height, 64) == fit


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 256))
def test_a_box_around_the_image_is_around_the_image_after_scaling_too(width: int, height: int, size: int) -> None:
    fit = fitted(width, height, size)
    (row,) = moved(torch.tensor([[0.0, 0.0, width, height, 2.0, 0.0]]).double(), width, height, fit).tolist()
    expected = [fit.left, fit.top, fit.left + fit.width, fit.top + fit.height, 2, 0]
    assert row == pytest.approx(expected)
    assert 0 <= fit.left <= fit.left + fit.width <= size
    assert 0 <= fit.top <= fit.top + fit.height <= size
