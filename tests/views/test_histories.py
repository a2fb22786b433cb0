"""Growth of several runs: stairs that rise at the events, one colour a label."""

from __future__ import annotations

import pandas as pd
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError
from ghostkit.views.theme import FAINT


@pytest.fixture
def histories(metrics, events):
    return {"grown": [(metrics, events)] * 2, "never": [(metrics.assign(macs=200_544, params=2_608), events[:0])]}


def stairs(figure, label):
    return [trace for trace in figure.data if trace.mode == "lines" and trace.legendgroup == label]


def test_stairs_rise_at_the_events_to_the_macs_that_these_left(histories, events):
    figure = views.growth_histories(histories)
    line, _ = stairs(figure, "grown")
    grown = events[events["edits"] != ""]
    assert line.line.shape == "hv"
    assert list(line.x[1:-1]) == pytest.approx(list(grown["compute"] / 1e9))
    assert list(line.y[:-1]) == pytest.approx([200.544, *(grown["macs_after"] / 1e3)])
    assert figure.layout.xaxis.title.text == "compute spent (GMAC)"
    assert figure.layout.yaxis.title.text == "kMAC per image"


def test_a_network_that_never_grew_is_a_flat_line(histories):
    (line,) = stairs(views.growth_histories(histories), "never")
    assert set(line.y) == {200.544}


def test_seeds_share_a_colour_and_a_place_in_the_legend(histories):
    figure = views.growth_histories(histories)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["grown (2 runs)", "never"]
    assert len({trace.line.color for trace in stairs(figure, "grown")}) == 1
    assert stairs(figure, "grown")[0].line.color != stairs(figure, "never")[0].line.color


def test_every_event_that_grew_is_marked_and_says_what_it_did(histories):
    marks = next(trace for trace in views.growth_histories(histories).data if trace.mode == "markers")
    assert len(marks.x) == 3, "the event without edits has no mark"
    assert marks.hovertext[2].split("<br>")[:2] == ["<b>grown</b>", "1 × intrinsic, 1 × branch"]


@pytest.mark.parametrize(
    ("options", "x", "y"),
    [
        ({"over": "progress"}, "share of the run (%)", "kMAC per image"),
        ({"size": "params"}, "compute spent (GMAC)", "parameters (k)"),
    ],
)
def test_the_axes_can_be_others(histories, options, x, y):
    figure = views.growth_histories(histories, **options)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (x, y)
    if "over" in options:
        assert stairs(figure, "grown")[0].x[1] == pytest.approx(9)


def test_of_many_labels_the_first_are_told_apart_and_the_others_counted(metrics, events):
    figure = views.growth_histories({f"run {n}": [(metrics, events)] for n in range(11)})
    shown = [trace for trace in figure.data if trace.mode == "lines" and trace.showlegend is not False]
    assert [trace.name for trace in shown] == [*(f"run {n}" for n in range(8)), "3 others"]
    looks = {(trace.line.color, trace.line.dash) for trace in shown[:8]}
    assert len(looks) == 8
    assert stairs(figure, "run 9")[0].line.color == FAINT


def test_the_text_tells_when_and_what_each_grew(histories):
    grown, never = views.growth_histories_text(histories).splitlines()[2:]
    assert grown.split()[:7] == ["grown", "2", "201", "kMAC", "→", "258", "kMAC"]
    assert "9% to 36%" in grown
    assert "2 branch, 1 block, 1 intrinsic" in grown
    assert never.split()[-2:] == ["–", "–"]


def test_frames_without_their_columns_are_refused(metrics):
    with pytest.raises(GhostkitError, match="the events frame lacks the columns"):
        views.growth_histories({"run": [(metrics, pd.DataFrame({"colour": [1]}))]})
    with pytest.raises(GhostkitError, match="the metrics frame lacks the columns"):
        views.growth_histories({"run": [(pd.DataFrame({"colour": [1]}), pd.DataFrame())]})
