"""What every view promises, whatever it shows."""

import json

import pandas as pd
import pytest

from ghostkit import views

EMPTY = pd.DataFrame()
ALIKE = pd.DataFrame([[1.0, 0.4], [0.4, 1.0]], ["intrinsic", "3x3 number 0"], ["intrinsic", "3x3 number 0"])
ONE_BLOCK = pd.DataFrame([{"block": "stem", "hidden": 0, "channels": 8}])

TABLE = pd.DataFrame(
    {
        **{"run": ["a", "b"], "group": ["a", "b"], "seed": 0, "progress": 1.0},
        **{"where": ["random", "sprout"], "macs": [1e5, 2e5], "accuracy": [0.8, 0.9]},
    }
)
DIFFERENCES = pd.DataFrame(
    {
        **{"group": ["a"], "reference": ["b"], "method": ["paired t"], "n": [3], "difference": [0.1]},
        **{"low": [0.05], "high": [0.15], "p": [0.01], "p_holm": [0.01], "p_wilcoxon": [None], "won": [1.0]},
    }
)


def all_figures(metrics, events, candidates, before, after, curves, maps):
    return {
        "curves": views.training_curves(metrics, events),
        "architecture": views.architecture(before, after),
        "replay": views.architecture_replay({0: before, 2: after}),
        "candidates": views.candidate_scores(candidates),
        "compute": views.compute_accuracy(curves),
        "mosaic": views.feature_mosaic(maps, 4),
        "spread": views.compute_accuracy(curves, spread=True),
        "histories": views.growth_histories({"grown": [(metrics, events)]}),
        "parameters": views.parallel_parameters(TABLE, ["where"]),
        "forest": views.difference_forest(DIFFERENCES),
    }


@pytest.fixture
def figures(metrics, events, candidates, before, after, curves, maps):
    return all_figures(metrics, events, candidates, before, after, curves, maps)


def test_every_figure_is_json_has_our_template_and_carries_its_text(figures):
    for name, figure in figures.items():
        document = json.loads(figure.to_json())
        assert document["layout"]["template"]["layout"]["font"]["family"].startswith("Inter"), name
        assert "\n" in document["layout"]["meta"]["text"], name


def test_drawing_changes_no_frame(metrics, events, candidates, before, after, curves, maps):
    frames = [metrics, events, candidates, before, after]
    copies = [frame.copy(deep=True) for frame in frames]
    all_figures(metrics, events, candidates, before, after, curves, maps)
    for frame, copy in zip(frames, copies, strict=True):
        pd.testing.assert_frame_equal(frame, copy)


@pytest.mark.parametrize(
    ("draw", "word", "frames", "sentence"),
    [
        (views.training_curves, views.training_curves_text, [EMPTY], "Nothing has been measured yet."),
        (views.architecture, views.architecture_text, [EMPTY], "There is no network to draw."),
        (views.architecture, views.architecture_text, [ONE_BLOCK, EMPTY], "There is no network to draw."),
        (views.architecture_replay, views.architecture_replay_text, [{}], "There is no network to draw."),
        (views.architecture_replay, views.architecture_replay_text, [{0: EMPTY}], "There is no network to draw."),
        (views.candidate_scores, views.candidate_scores_text, [EMPTY], "No candidates have been scored."),
        (views.branch_similarity, views.branch_similarity_text, [EMPTY], "There are no maps to compare."),
        (
            views.compute_accuracy,
            views.compute_accuracy_text,
            [{}],
            "Nothing has been measured yet.",
        ),
        (
            views.compute_accuracy,
            views.compute_accuracy_text,
            [{"run": [EMPTY]}],
            "Nothing has been measured yet.",
        ),
        (views.growth_histories, views.growth_histories_text, [{}], "Nothing has been measured yet."),
        (
            views.growth_histories,
            views.growth_histories_text,
            [{"run": [(EMPTY, EMPTY)]}],
            "Nothing has been measured yet.",
        ),
        (
            views.parallel_parameters,
            views.parallel_parameters_text,
            [EMPTY, ["where"]],
            "No run is over, or all have the same parameters: there is nothing to tell apart.",
        ),
        (
            views.difference_forest,
            views.difference_forest_text,
            [EMPTY],
            "There is only one group of runs, or none that is over: nothing to take a difference of.",
        ),
    ],
)
def test_a_view_without_data_says_so_in_picture_and_text(draw, word, frames, sentence):
    figure = draw(*frames)
    (note,) = figure.layout.annotations
    assert note.text.replace("<br>", " ") == sentence
    assert max(map(len, note.text.split("<br>"))) <= 60  # a narrow window shows no more
    assert figure.layout.meta["text"] == word(*frames) == sentence
