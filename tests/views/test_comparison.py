import numpy as np
import pandas as pd
import pytest

from ghostkit import views


def test_compute_is_drawn_in_gmac_against_percent(curves):
    figure = views.compute_accuracy(curves)
    assert figure.layout.xaxis.title.text == "compute spent (GMAC)"
    assert figure.layout.yaxis.title.text == "test accuracy (%)"
    assert 9 < figure.data[-1].x[-1] < 11


def test_seeds_are_thin_lines_under_their_mean(curves):
    figure = views.compute_accuracy(curves)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["grown (mean of 3)", "seedling"]
    assert len(figure.data) == 3 + 1 + 1
    seeds, mean = figure.data[:3], figure.data[3]
    assert mean.line.width > seeds[0].line.width
    assert np.allclose(mean.y, np.mean([seed.y for seed in seeds], axis=0))


def test_the_mean_of_unequal_runs_covers_only_what_they_share(metrics):
    short = metrics[metrics["epoch"] < 5]
    mean = views.compute_accuracy({"run": [metrics, short]}).data[-1]
    assert mean.x[-1] * 1e9 == pytest.approx(short.loc[short["split"] == "test", "compute"].max())


def test_spread_over_seeds_is_a_band_around_their_mean(curves):
    figure = views.compute_accuracy(curves, spread=True)
    low, high, mean, alone = figure.data
    values = [frame[frame["split"] == "test"]["accuracy"].iloc[-1] for frame in curves["grown"]]
    assert mean.y[-1] == pytest.approx(100 * np.mean(values))
    assert high.y[-1] - mean.y[-1] == pytest.approx(100 * np.std(values, ddof=1))
    assert mean.y[-1] - low.y[-1] == pytest.approx(high.y[-1] - mean.y[-1])
    assert high.fill == "tonexty"
    assert alone.name == "seedling"


def test_with_a_band_a_mean_is_of_runs_that_are_equally_far(metrics):
    dear = metrics.assign(compute=2 * metrics["compute"])
    mean = views.compute_accuracy({"run": [metrics, dear]}, spread=True).data[-1]
    tests = metrics[metrics["split"] == "test"]
    assert mean.x[-1] * 1e9 == pytest.approx(1.5 * tests["compute"].max())
    assert mean.y[-1] == pytest.approx(100 * tests["accuracy"].iloc[-1])


def test_a_band_begins_where_all_runs_have_been_measured(metrics):
    late = metrics[metrics["progress"] > 0.5]
    mean = views.compute_accuracy({"run": [metrics, late]}, spread=True).data[-1]
    tests = late[late["split"] == "test"]
    assert list(mean.y) == pytest.approx(list(100 * tests["accuracy"]))


def of_shares(*reached):
    """A frame as the study's arms have it: at each share of F a run of its own."""
    rows = [{"split": "test", "progress": share, "compute": 1e9 * share, "accuracy": value} for share, value in reached]
    return pd.DataFrame(rows)


def test_runs_apart_have_their_mean_at_every_compute_whichever_seeds_ran_it():
    seeds = [of_shares((0.25, 0.8), (0.5, 0.85), (1.0, 0.9)), of_shares((0.5, 0.87)), of_shares((1.0, 0.92))]
    figure = views.compute_accuracy({"arm": seeds}, apart=True)
    mean = figure.data[-1]
    assert list(mean.x) == [0.25, 0.5, 1.0]
    assert list(mean.y) == pytest.approx([80, 86, 91])
    assert [trace.name for trace in figure.data if trace.showlegend] == ["arm (mean of 1 to 2)"]
    row = views.compute_accuracy_text({"arm": seeds}, apart=True).splitlines()[2].split()
    assert row[:8] == ["arm", "2", "of", "3", "1.00", "GMAC", "91.00", "±"]


def test_runs_that_share_no_compute_still_have_a_mean_and_a_name():
    figure = views.compute_accuracy({"arm": [of_shares((1.0, 0.8)), of_shares((1.0, 0.9)).assign(compute=2e9)]})
    assert [trace.name for trace in figure.data if trace.showlegend] == ["arm (mean of 2)"]
    assert (figure.data[-1].x[0], figure.data[-1].y[0]) == pytest.approx((1.5, 85))


def test_labels_are_no_markup(metrics, events):
    figures = views.compute_accuracy({"<a> b": metrics}), views.growth_histories({"<a> b": [(metrics, events)]})
    for figure in figures:
        assert figure.data[0].name == "&lt;a&gt; b"


def test_what_is_no_number_has_no_part_in_a_mean():
    table = views.closing_table(
        [{"network": n, "accuracy": a} for n, a in (("one", [0.9, np.nan]), ("none", [np.nan] * 2))]
    )
    assert list(table["test accuracy"]) == ["90.00 %", "–"]


def test_of_many_labels_the_first_are_told_apart_and_the_others_counted(metrics):
    figure = views.compute_accuracy({f"run {n}": metrics for n in range(11)}, spread=True)
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert shown == [*(f"run {n}" for n in range(8)), "3 others"]
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data[:8]}) == 8


def test_long_labels_get_room_above_the_data(metrics):
    short, long = ({f"{word} {n}": metrics for n in range(4)} for word in ("run", "a long label " * 5))
    assert views.compute_accuracy(long).layout.height > views.compute_accuracy(short).layout.height == 420


def test_the_text_of_compute_gives_mean_and_spread(curves):
    lines = views.compute_accuracy_text(curves).splitlines()
    assert lines[2].split()[:7] == ["grown", "3", "10.2", "GMAC", "96.87", "±", "0.66"]
    assert lines[3].split()[:5] == ["seedling", "1", "10.2", "GMAC", "89.18"]


def test_the_closing_table_words_every_number_with_its_unit():
    row = {
        "network": "grown",
        "params": 4_210,
        "macs": 318_000,
        "milliseconds": 1.02,
        "accuracy": 0.9645,
        "compute": 1e10,
    }
    table = views.closing_table([row, {"network": "seeds", "accuracy": [0.96, 0.97]}])
    assert list(table.columns) == [
        "network",
        "params",
        "MACs per image",
        "latency",
        "test accuracy",
        "compute spent",
    ]
    assert list(table.iloc[0]) == ["grown", "4.21 k", "318 kMAC", "1.02 ms", "96.45 %", "10.0 GMAC"]
    assert list(table.iloc[1]) == ["seeds", "–", "–", "–", "96.50 ± 0.71 %", "–"]
    assert "grown    4.21 k        318 kMAC" in views.table_text(table)
