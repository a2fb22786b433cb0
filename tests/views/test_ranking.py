"""Rankings and differences: worded with what they rest on, and drawn so that what is certain stands out."""

from __future__ import annotations

import pytest
from made_runs import make_run

from ghostkit import views
from ghostkit.comparing import Comparison, compare
from ghostkit.errors import GhostkitError
from ghostkit.views.theme import BLUE, MUTED, VERMILLION

REACHED = {
    "better": (0.951, 0.960, 0.972),
    "base": (0.900, 0.912, 0.921),
    "like": (0.905, 0.900, 0.930),
    "worse": (0.800, 0.811, 0.822),
    "once": (0.850,),
}


@pytest.fixture
def comparison(tmp_path) -> Comparison:
    runs = [
        make_run(tmp_path / f"{name}-{seed}", value, share=(number + 1) / 10, seed=seed)
        for number, (name, values) in enumerate(REACHED.items())
        for seed, value in enumerate(values)
    ]
    return compare([*runs, make_run(tmp_path / "late-0", progress=0.5, share=0.9)], "base")


def test_a_ranking_words_mean_spread_and_interval(comparison):
    table = views.ranking_table(comparison.groups)
    assert list(table["group"]) == ["better", "like", "base", "once", "worse", "late"]
    assert list(table["rank"]) == ["1", "2", "3", "4", "5", "–"]
    assert list(table["seeds"]) == ["3", "3", "3", "1", "3", "0"]
    assert list(table["test accuracy"])[0::3] == ["96.10 ± 1.05 %", "85.00 %"]
    assert list(table["95 % interval"])[0::3] == ["93.48 to 98.72 %", "–"]
    assert list(table["not over"]) == ["0"] * 5 + ["1"]
    assert table["compute spent"].iloc[0] == "3.00 GMAC"
    assert table["time"].iloc[0] == "60 s"
    assert "not over" not in views.ranking_table(comparison.groups[:5])


def test_differences_are_worded_in_points_with_the_test_beside_them(comparison):
    rows = views.difference_table(comparison.differences).set_index("group")
    assert list(rows.loc["better", ["points", "by", "won"]]) == ["+5.00", "paired t, 3 pairs", "3 of 3"]
    assert list(rows.loc["once", ["points", "95 % interval", "by", "p", "won"]]) == [
        "-6.10",
        "–",
        "no test, 1 run",
        "–",
        "–",
    ]
    assert rows.loc["worse", "p"] == "< 0.001"
    assert rows.loc["late", "points"] == "–"


def test_a_forest_has_a_row_a_group_and_a_line_at_zero(comparison):
    figure = views.difference_forest(comparison.differences)
    places, points = (
        [value for marks in figure.data for value in marks[name]] for name in ("y", "x")
    )  # of the hollow marks last
    labels = list(figure.layout.yaxis.ticktext)
    names = ["better", "like", "once", "worse"]
    assert [next(name for name in names if f">{name}<" in label) for label in labels] == names
    assert "paired t, 3 pairs, p < 0.001" in labels[0]
    drawn = sorted(zip(places, points, strict=True), reverse=True)
    assert [x for _, x in drawn] == pytest.approx([5.0, 0.0667, -6.1, -10.0], abs=1e-3)
    assert [y for y, _ in drawn] == list(figure.layout.yaxis.tickvals)
    assert figure.layout.xaxis.zeroline
    assert figure.layout.xaxis.title.text == "points of test accuracy above base"


def test_colour_says_whether_an_interval_is_clear_of_zero_and_hollow_marks_have_none(comparison):
    marks, hollow = views.difference_forest(comparison.differences).data
    assert list(marks.marker.color) == [BLUE, MUTED, VERMILLION]
    assert list(marks.marker.symbol) == ["circle"] * 3
    assert min(marks.error_x.array) > 0
    assert list(hollow.marker.symbol) == ["circle-open"]
    assert hollow.error_x.array is None  # a length of zero would be drawn with its caps


def test_runs_of_other_seeds_are_told_apart_by_their_mark(tmp_path):
    reached = [(0.1, 0, 0.90), (0.1, 1, 0.91), (0.2, 2, 0.80), (0.2, 3, 0.82)]
    runs = [make_run(tmp_path / f"{seed}", value, share=share, seed=seed) for share, seed, value in reached]
    figure = views.difference_forest(compare(runs, "0").differences)
    assert list(figure.data[0].marker.symbol) == ["diamond"]
    assert "Welch&#x27;s t, 2 runs and more" in figure.layout.yaxis.ticktext[0].replace("'", "&#x27;")


def test_a_long_name_is_broken_into_lines_that_get_room(comparison):
    long = ", ".join(f"parameter_{number}=value" for number in range(12))
    differences = comparison.differences.replace({"group": {"better": long}})
    figure = views.difference_forest(differences)
    assert figure.layout.yaxis.ticktext[0].count("<br>") == 3
    assert "…" in figure.layout.yaxis.ticktext[0]
    assert figure.layout.height > views.difference_forest(comparison.differences).layout.height


def test_the_text_of_a_forest_is_the_table_of_differences(comparison):
    lines = views.difference_forest_text(comparison.differences).splitlines()
    assert lines[0] == "points above base"
    assert lines[3].split()[:3] == ["better", "+5.00", "+4.57"]
    assert not any(line.startswith("late") for line in lines), "of what is not over there is no difference"


@pytest.mark.parametrize("draw", [views.difference_forest, views.difference_table, views.ranking_table])
def test_a_frame_of_something_else_is_refused(draw, metrics):
    with pytest.raises(GhostkitError, match=r"the (differences|groups) frame lacks the columns .*comparing.compare"):
        draw(metrics)
