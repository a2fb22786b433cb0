import numpy as np
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
