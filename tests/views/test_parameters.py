"""Parallel coordinates: every value has its place and its word, and lines that share one can be told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ghostkit import views
from ghostkit.views.parameters import PLACES


def table(**columns):
    count = len(next(iter(columns.values())))
    common = {
        "run": [f"run-{number}" for number in range(count)],
        "group": [f"group {number}" for number in range(count)],
        "seed": 0,
        "macs": np.linspace(1e5, 2e5, count),
        "accuracy": np.linspace(0.80, 0.90, count),
        "progress": 1.0,
    }
    return pd.DataFrame({**common, **columns})


def lines(figure):
    """The heights of each line on each axis, the worst first."""
    return np.array([trace.y for trace in figure.data if trace.mode == "lines+markers"], dtype=float)


def words(figure, axis):
    """What stands beside an axis, from bottom to top."""
    notes = [note for note in figure.layout.annotations if note.x == axis and note.yref != "paper"]
    return [note.text for note in sorted(notes, key=lambda note: note.y)]


def titles(figure):
    return [note.text for note in figure.layout.annotations if note.yref == "paper"]


def test_axes_are_the_parameters_then_the_cost_then_what_was_reached():
    figure = views.parallel_parameters(table(where=["a", "b"], share=[0.1, 0.2]), ["where", "share"])
    assert titles(figure) == [
        "<b>where</b>",
        "<b>share</b>",
        "<b>kMAC per image</b>",
        "<b>test <br>accuracy <br>(%)</b>",
    ]
    assert lines(figure).shape == (2, 4)


def test_what_was_reached_is_said_of_the_images_that_runs_were_judged_on():
    figure = views.parallel_parameters(table(share=[0.1, 0.2]), ["share"], split="validation")
    assert titles(figure)[-1] == "<b>validation <br>accuracy <br>(%)</b>"
    assert figure.data[0].hovertext[0].endswith("validation accuracy 80.00 %, 1 seed(s)")


def test_words_have_a_place_each_the_better_ones_above():
    figure = views.parallel_parameters(table(where=["random", "robin", "random", "gain"]), ["where"])
    assert set(words(figure, 0)[:2]) == {"random", "robin"}, "which reached the same on average"
    assert words(figure, 0)[2] == "gain"
    heights = lines(figure)[:, 0]
    assert heights[3] == max(heights)
    assert len(set(heights)) == 4, "two lines through one place are spread in it"
    assert abs(heights[0] - heights[2]) < 1 / 3


def test_numbers_keep_their_order_whatever_they_brought():
    figure = views.parallel_parameters(table(share=[0.4, 0.2, 0.1]), ["share"])
    assert words(figure, 0) == ["0.1", "0.2", "0.4"]


def test_what_is_not_set_is_a_value_too():
    figure = views.parallel_parameters(table(roll_back=[None, 0.1]), ["roll_back"])
    assert set(words(figure, 0)) == {"not set", "0.1"}


@pytest.mark.parametrize(("low", "high", "by"), [(0.1, 1.0, "steps"), (1e-4, 1.0, "powers")])
def test_many_numbers_run_along_their_axis(low, high, by):
    count = PLACES + 4
    values = np.geomspace(low, high, count) if by == "powers" else np.linspace(low, high, count)
    figure = views.parallel_parameters(table(rate=values), ["rate"])
    heights = lines(figure)[:, 0]
    assert np.allclose(np.diff(heights, 2), 0, atol=1e-9), "evenly spaced as drawn"
    assert words(figure, 0)[-1] == "1"
    assert len(words(figure, 0)) <= 6


def test_a_long_word_is_broken_into_lines():
    figure = views.parallel_parameters(table(kinds=["branch+intrinsic+stage+block+layer+link", "block"]), ["kinds"])
    long = words(figure, 0)[0]
    assert long.replace("<br>", "") == "branch+intrinsic+stage+block+layer+link"
    assert max(map(len, long.split("<br>"))) <= 18


def test_seeds_are_marks_on_the_axis_of_the_metric_and_one_line():
    frame = table(where=["a", "a", "b"]).assign(group=["one", "one", "two"], seed=[0, 1, 0])
    figure = views.parallel_parameters(frame, ["where"])
    assert len(lines(figure)) == 2
    singles = next(trace for trace in figure.data if trace.mode == "markers")
    assert len(singles.y) == 3
    assert lines(figure)[0][-1] == pytest.approx(np.mean(singles.y[:2]))


def test_darker_is_better():
    def light(colour):
        return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    figure = views.parallel_parameters(table(share=[0.1, 0.2, 0.3]), ["share"])
    shades = [light(trace.line.color) for trace in figure.data if trace.mode == "lines+markers"]
    assert shades == sorted(shades, reverse=True)


def test_runs_that_are_not_over_are_left_out():
    frame = table(where=["a", "b"]).assign(progress=[1.0, 0.4])
    assert len(lines(views.parallel_parameters(frame, ["where"]))) == 1
    assert "b" not in views.parallel_parameters_text(frame, ["where"]).split()


def test_the_text_tells_what_each_value_reached():
    text = views.parallel_parameters_text(table(where=["a", "b", "a"], how=["svd", "svd", "random"]), ["where", "how"])
    rows = [line.split() for line in text.splitlines()[2:]]
    assert ["where", "a", "2", "85.00", "%", "90.00", "%"] in rows
    assert ["how", "svd", "2", "82.50", "%", "85.00", "%"] in rows
