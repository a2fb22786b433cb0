"""How alike branches are: a square, its numbers in the cells, and the same as a table."""

import numpy as np
import pandas as pd
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError

NAMES = ["intrinsic", "3x3 number 0", "5x5 number 0"]
VALUES = [[1.0, 0.42, np.nan], [0.42, 1.0, 0.07], [np.nan, 0.07, 1.0]]


@pytest.fixture
def alike() -> pd.DataFrame:
    return pd.DataFrame(VALUES, index=NAMES, columns=NAMES)


def test_every_cell_has_its_number_readable_on_its_colour(alike):
    figure = views.branch_similarity(alike, "blocks.0.0.ghost1")
    written = {(note.y, note.x): note for note in figure.layout.annotations}
    assert [written[0, column].text for column in range(3)] == ["1.00", "0.42", "–"]
    assert written[0, 0].font.color == "white"
    assert written[1, 2].font.color != "white"
    assert figure.layout.title.text == "blocks.0.0.ghost1"


def test_rows_run_downwards_as_columns_run_to_the_right(alike):
    figure = views.branch_similarity(alike)
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == NAMES
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert figure.layout.xaxis.range[0] < figure.layout.xaxis.range[1]


def test_colours_span_0_to_1_whatever_the_numbers(alike):
    (cells,) = views.branch_similarity(alike).data
    assert (cells.zmin, cells.zmax) == (0, 1)


@pytest.mark.parametrize(("count", "written"), [(12, 144), (13, 0)])
def test_many_branches_have_a_bar_in_the_place_of_numbers(count, written):
    names = [f"3x3 number {n}" for n in range(count)]
    figure = views.branch_similarity(pd.DataFrame(np.eye(count), names, names))
    assert len(figure.layout.annotations) == written
    assert figure.data[0].showscale is (written == 0)


def test_the_text_is_the_table(alike):
    assert views.branch_similarity_text(alike).splitlines() == [
        "linear CKA    intrinsic  3x3 number 0  5x5 number 0",
        "─" * 51,
        "intrinsic          1.00          0.42             –",
        "3x3 number 0       0.42          1.00          0.07",
        "5x5 number 0          –          0.07          1.00",
    ]
    assert views.branch_similarity(alike).layout.meta["text"] == views.branch_similarity_text(alike)


def test_a_frame_that_is_no_square_is_refused(alike):
    with pytest.raises(GhostkitError, match=r"a similarity has the same rows and columns; it has \['intrinsic'"):
        views.branch_similarity(alike.iloc[:2])
