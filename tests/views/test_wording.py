import numpy as np
import pandas as pd
import pytest

from ghostkit.views.wording import axis_unit, percent, quantity, sparkline, table_text


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0, "MAC", "0 MAC"),
        (512, "params", "512 params"),
        (0.8312, "ms", "0.831 ms"),
        (12.345, "ms", "12.3 ms"),
        (999, "MAC", "999 MAC"),
        (999.7, "ms", "1.00 k ms"),
        (0.0008312, "ms", "0.000831 ms"),
        (34_500, "", "34.5 k"),
        (34_500, "params", "34.5 k params"),
        (999_600, "MAC", "1.00 MMAC"),
        (1_200_000, "MAC", "1.20 MMAC"),
        (2.4e10, "MAC", "24.0 GMAC"),
        (-1_500, "", "-1.50 k"),
        (None, "MAC", "–"),
        (float("nan"), "MAC", "–"),
    ],
)
def test_a_quantity_has_three_digits_a_prefix_and_its_unit(value, unit, expected):
    assert quantity(value, unit) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 5e9], (1e9, "GMAC")),
        ([999], (1.0, "MAC")),
        ([np.nan, 2e6], (1e6, "MMAC")),
        ([], (1.0, "MAC")),
    ],
)
def test_an_axis_takes_the_unit_of_its_largest_value(values, expected):
    assert axis_unit(values, "MAC") == expected


def test_a_share_is_worded_as_percent():
    assert [percent(0.97125), percent(None), percent(float("nan"))] == ["97.12 %", "–", "–"]


def test_a_sparkline_keeps_its_ends_and_survives_what_is_not_finite():
    assert sparkline([0, 1, np.nan, 7]) == "▁▂█"
    assert sparkline([2, 2]) == "▄▄"
    assert sparkline([]) == ""
    assert len(sparkline(np.arange(1000), width=20)) == 20


def test_a_table_aligns_words_left_and_numbers_right():
    frame = pd.DataFrame({"run": ["a", "long name"], "MACs": ["1.20 M", "9"]})
    assert table_text(frame).splitlines() == [
        "run          MACs",
        "─────────────────",
        "a          1.20 M",
        "long name       9",
    ]


def test_a_table_without_rows_says_so():
    assert table_text(pd.DataFrame()) == "(nothing to show)"
