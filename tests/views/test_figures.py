import json

import numpy as np
import pandas as pd
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError

EMPTY = pd.DataFrame()


def all_figures(metrics, events, candidates, before, after, curves, maps):
    return {
        "curves": views.training_curves(metrics, events),
        "architecture": views.architecture(before, after),
        "replay": views.architecture_replay({0: before, 2: after}),
        "candidates": views.candidate_scores(candidates),
        "compute": views.compute_accuracy(curves),
        "mosaic": views.feature_mosaic(maps, 4),
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


# Training curves


def test_the_curves_show_loss_accuracy_and_macs_with_their_units(metrics, events):
    layout = views.training_curves(metrics, events).layout
    titles = [layout[axis].title.text for axis in ("xaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert titles == ["epoch", "loss per image", "accuracy (%)", "kMAC<br>per image"]


def test_accuracy_is_drawn_in_percent(metrics):
    train = next(trace for trace in views.training_curves(metrics).data if trace.yaxis == "y3")
    assert 90 < train.y[-1] <= 101


def test_each_growth_event_draws_one_line_and_idle_events_only_a_mark(metrics, events):
    line, grown, idle = views.training_curves(metrics, events).data[-3:]
    assert list(grown.x) == pytest.approx([0.9, 1.8, 3.6])
    assert list(idle.x) == pytest.approx([2.7])
    assert len(line.x) == 3 * 3
    assert "AddBranch(blocks.1.0.ghost1, 5x5)" in grown.hovertext[0]
    assert "no candidate fits" in idle.hovertext[0]


def test_a_later_figure_can_be_poured_into_an_earlier_one(metrics, events):
    earlier = [views.training_curves(EMPTY), views.training_curves(metrics.head(3))]
    later = views.training_curves(metrics, events)
    for figure in earlier:
        assert [(t.type, t.name, t.yaxis) for t in figure.data] == [(t.type, t.name, t.yaxis) for t in later.data]


def test_event_numbers_that_would_touch_are_left_out(metrics, events):
    crowded = pd.concat([events.head(1)] * 40, ignore_index=True)
    crowded = crowded.assign(event=range(1, 41), epoch=np.linspace(1, 2, 40))
    marks = views.training_curves(metrics, crowded).data[-2]
    numbers = [text for text in marks.text if text]
    assert len(marks.x) == 40
    assert numbers[0] == "1"
    assert len(numbers) <= 4


def test_long_curves_are_thinned_but_keep_their_last_point(metrics):
    long = pd.concat([metrics[metrics["split"] == "train"]] * 100, ignore_index=True)
    long = long.assign(epoch=np.arange(len(long)))
    train = views.training_curves(long).data[0]
    assert len(train.x) == 1000
    assert train.x[-1] == len(long) - 1


def test_the_text_of_the_curves_says_how_it_began_and_ended(metrics, events):
    lines = views.training_curves_text(metrics, events).splitlines()
    assert lines[0] == "10.00 epochs, 10.6 GMAC spent; 258 kMAC per image at the end"
    assert lines[4].startswith("test   accuracy   28.03 % →  97.49 %  ▁")
    assert lines[-4:] == [
        "    1   0.90  201 k → 220 k  AddBranch(blocks.1.0.ghost1, 5x5)",
        "    2   1.80  220 k → 239 k  AddBlock(blocks.1, after=blocks.1.0)",
        "    3   2.70  239 k → 239 k  no growth",
        "    4   3.60  239 k → 258 k  AddIntrinsic(blocks.0.0.ghost1, 4), AddBranch(blocks.1.g1.ghost1, 3x3)",
    ]


# Architecture


def bars(figure, axis="x"):
    """The bars of one panel: intrinsic maps, ghost maps, channels out, frames of the born."""
    return [trace for trace in figure.data if trace.type == "bar" and trace.xaxis == axis]


def test_block_widths_are_channels_on_one_scale(before, after):
    figure = views.architecture(before, after)
    intrinsic, ghost, stream, _ = bars(figure)
    assert list(intrinsic.x) == [8, 8, 12, 32]
    assert list(ghost.x) == [0, 4, 6, 0] * 2
    assert list(stream.x) == [8, 16]
    assert list(intrinsic.base) == [-4, -4, -6, -16]
    assert list(bars(figure, "x2")[0].x) == [8, 12, 12, 12, 32]
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range


def test_rows_run_from_input_to_output_and_a_new_block_leaves_its_row_free_before(before, after):
    figure = views.architecture(before, after)
    assert list(figure.layout.yaxis.ticktext) == ["stem", "blocks.0.0", "blocks.1.0  ↓2", "blocks.1.g1", "head"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert list(bars(figure)[0].y) == [0, 1, 2, 4]


def test_a_block_that_was_removed_keeps_its_row(before, after):
    figure = views.architecture(after, before)
    assert list(figure.layout.yaxis.ticktext)[3] == "blocks.1.g1"


def test_blocks_that_did_not_grow_are_grey_and_only_the_born_are_framed(before, after):
    intrinsic, _, _, framed = bars(views.architecture(before, after), "x2")
    assert intrinsic.marker.color[0] == intrinsic.marker.color[4] == "#A9B2BD"
    assert len({*intrinsic.marker.color}) == 3
    assert intrinsic.marker.color[1] == intrinsic.marker.color[3]
    assert list(framed.y) == [3]


def test_the_colour_scale_can_be_kept_over_several_figures(before, after):
    colours = [bars(views.architecture(frame, last_event=9))[0].marker.color[1] for frame in (before, after)]
    assert colours[0] == "#A9B2BD"
    assert views.architecture(before, last_event=9).layout.coloraxis.cmax == 9.5
    assert colours[1] != bars(views.architecture(after))[0].marker.color[1]


def test_the_panels_say_how_large_the_networks_are(before, after):
    headings = [note.text for note in views.architecture(before, after).layout.annotations if "blocks" in note.text]
    assert headings == [
        "<b>before</b>  4 blocks · 2.61 k params · 201 kMAC",
        "<b>after</b>  5 blocks · 4.21 k params · 318 kMAC",
    ]


def test_the_replay_has_one_frame_and_one_slider_step_per_event(before, after):
    figure = views.architecture_replay({2: after, 0: before, 1: before})
    assert [frame.name for frame in figure.frames] == ["seedling", "event 1", "event 2"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["seedling", "1", "2"]
    for frame in figure.frames:
        assert [figure.data[i].type for i in frame.traces] == [trace.type for trace in frame.data]
    assert list(figure.layout.yaxis.ticktext)[3] == "blocks.1.g1"


def test_the_text_of_an_architecture_draws_bars_to_scale(before, after):
    assert views.architecture_text(after).splitlines() == [
        "5 blocks · 4.21 k params · 318 kMAC",
        "block        width                                       channels  params    MACs  born      grown",
        "─" * 100,
        "stem         █████████                                          8      88  56.0 k  seedling",
        "blocks.0.0   █████████████░░░░░░░░░░░░░░                12+12 → 8     640   118 k  seedling  event 4",
        "blocks.1.0   █████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░  12+24 → 16  1.30 k  71.0 k  seedling  event 1",
        "blocks.1.g1  █████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░  12+24 → 16     980  60.0 k  event 2   event 4",
        "head         ████████████████████████████████████              32  1.20 k  12.5 k  seedling",
    ]
    both = views.architecture_text(before, after)
    assert both.startswith("before  4 blocks")
    assert "\n\nafter  5 blocks" in both


def test_the_text_of_a_replay_lists_the_sizes(before, after):
    assert views.architecture_replay_text({0: before, 2: after}).splitlines()[2:] == [
        "seedling          4        80  2.61 k  201 k",
        "2                 5       136  4.21 k  318 k",
    ]


# Candidates


def test_candidates_of_the_last_event_are_drawn_best_first_and_the_chosen_framed(candidates):
    figure = views.candidate_scores(candidates)
    last = candidates[candidates["event"] == 4].sort_values("gain", ascending=False)
    assert figure.layout.title.text == "Candidates at growth event 4"
    assert figure.layout.yaxis.ticktext[0] == f"<b>{last.iloc[0]['edit']}</b>"
    gains = {y: x for trace in figure.data[:-2] if trace.xaxis == "x" for y, x in zip(trace.y, trace.x, strict=True)}
    assert [gains[row] for row in sorted(gains)] == list(last["gain"])
    chosen = next(trace for trace in figure.data if trace.name == "chosen")
    assert sorted(chosen.x) == sorted(last.loc[last["chosen"], "gain"])


def test_candidate_axes_say_what_the_gain_is_divided_by(candidates):
    layout = views.candidate_scores(candidates).layout
    assert [layout.xaxis.title.text, layout.xaxis2.title.text] == ["predicted gain", "predicted gain per added MMAC"]


def test_kinds_that_are_not_there_stay_out_of_the_legend(candidates):
    figure = views.candidate_scores(candidates, event=1)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["branch", "intrinsic", "block", "chosen"]


def test_a_kind_without_a_colour_of_its_own_is_still_drawn(candidates):
    strange = candidates.assign(kind="sprout")
    other = next(trace for trace in views.candidate_scores(strange).data if trace.name == "other")
    assert len(other.x) == 12


def test_a_long_list_is_cut_but_the_chosen_stay(candidates):
    worst = candidates.sort_values("gain").index[0]
    event = int(candidates.loc[worst, "event"])
    candidates = candidates.assign(chosen=candidates.index == worst)
    figure = views.candidate_scores(candidates, event, limit=3)
    assert len(figure.layout.yaxis.tickvals) == 4
    assert "the best 4 of 12" in figure.layout.title.text
    assert "8 candidates with a smaller gain are not shown" in views.candidate_scores_text(candidates, event, limit=3)


def test_a_candidate_that_costs_no_macs_has_no_rate(candidates):
    free = candidates.assign(macs=0)
    assert "nan" in views.candidate_scores_text(free)
    json.loads(views.candidate_scores(free).to_json())


def test_the_text_of_candidates_marks_the_chosen(candidates):
    lines = views.candidate_scores_text(candidates).splitlines()
    assert lines[0] == "candidates at growth event 4"
    assert lines[3].split() == [
        "*",
        "AddBranch(blocks.0.0.ghost1,",
        "3x3)",
        "branch",
        "0.0124",
        "0.886",
        "+14.0",
        "k",
        "+350",
    ]
    assert sum(line.startswith("*") for line in lines) == 2


# Comparing runs


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


# Feature maps


def test_the_mosaic_is_one_image_with_two_frames(maps):
    figure = views.feature_mosaic(maps, 4, "blocks.1.0.ghost1")
    assert [trace.type for trace in figure.data] == ["heatmap", "scatter"]
    assert [note.text for note in figure.layout.annotations] == [
        "<b>4 intrinsic maps</b>  0–3",
        "<b>8 ghost maps</b>  4–11",
    ]
    intrinsic, ghost = figure.layout.shapes
    assert intrinsic.line.color != ghost.line.color
    assert intrinsic.y1 < ghost.y0


def test_every_map_fills_its_own_range_and_only_the_gaps_are_paper(maps):
    image = views.feature_mosaic(maps, 4).data[0].z
    assert image.dtype == np.uint8
    assert int((image > 0).sum()) == maps.size
    assert int((image == 255).sum()) >= len(maps)


def test_hovering_tells_which_map_it_is(maps):
    texts = views.feature_mosaic(maps, 4).data[1].hovertext
    assert texts[3].startswith("<b>intrinsic map 3</b>")
    assert texts[4].startswith("<b>ghost map 4</b>")


@pytest.mark.parametrize("intrinsic", [0, 12])
def test_a_module_of_one_sort_of_maps_has_one_frame(maps, intrinsic):
    assert len(views.feature_mosaic(maps, intrinsic).layout.shapes) == 1


def test_dead_and_broken_maps_are_drawn_too(maps):
    maps[0], maps[1, 0, 0] = 0, np.nan
    image = views.feature_mosaic(maps, 4).data[0].z
    assert int((image > 0).sum()) == maps.size


def test_a_large_layer_stays_small_on_disk():
    figure = views.feature_mosaic(np.random.default_rng(0).normal(size=(256, 112, 112)), 128)
    assert len(figure.to_json()) < 600_000


def test_the_text_of_a_mosaic_lists_the_first_maps(maps):
    lines = views.feature_mosaic_text(maps, 4, limit=5).splitlines()
    assert lines[0] == "12 maps of 8 x 10: 4 intrinsic, 8 ghost"
    assert [line.split()[1] for line in lines[3:8]] == ["intrinsic"] * 4 + ["ghost"]
    assert lines[-1] == "… and 7 more"


# What is missing or wrong


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        (views.training_curves(EMPTY), "Nothing has been measured yet."),
        (views.architecture(EMPTY), "There is no network to draw."),
        (views.architecture_replay({}), "There is no network to draw."),
        (views.candidate_scores(EMPTY), "No candidates have been scored."),
        (views.compute_accuracy({}), "No test accuracy has been measured yet."),
        (views.compute_accuracy({"run": [EMPTY]}), "No test accuracy has been measured yet."),
        (views.feature_mosaic(np.zeros((0, 4, 4)), 0), "There are no feature maps to show."),
    ],
)
def test_a_figure_without_data_says_so(figure, sentence):
    assert [note.text for note in figure.layout.annotations] == [sentence]


def test_an_event_without_candidates_says_so(candidates):
    assert views.candidate_scores(candidates, event=3).layout.annotations[0].text == "Event 3 has no candidates."


def test_texts_without_data_say_so():
    assert views.training_curves_text(EMPTY) == "Nothing has been measured yet."
    assert views.architecture_text(EMPTY) == "There is no network to draw."
    assert views.architecture_replay_text({}) == "There is no network to draw."
    assert views.candidate_scores_text(EMPTY) == "No candidates have been scored."
    assert views.compute_accuracy_text({}) == "No test accuracy has been measured yet."


def test_a_run_without_events_has_curves_without_marks(metrics):
    for none in (None, EMPTY):
        assert [len(trace.x) for trace in views.training_curves(metrics, none).data[-3:]] == [0, 0, 0]
        assert views.training_curves_text(metrics, none).endswith("no growth events")


@pytest.mark.parametrize("split", ["train", "test"])
def test_curves_of_one_split_are_drawn(metrics, split):
    figure = views.training_curves(metrics[metrics["split"] == split])
    assert sorted({len(trace.x) > 0 for trace in figure.data[:4]}) == [False, True]


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (views.training_curves, "metrics"),
        (views.architecture, "architecture"),
        (views.candidate_scores, "candidates"),
        (lambda frame: views.compute_accuracy({"run": frame}), "metrics"),
    ],
)
def test_a_frame_without_its_columns_is_refused_by_name(draw, what):
    with pytest.raises(GhostkitError, match=rf"the {what} frame lacks the columns .*it has \['colour'\]"):
        draw(pd.DataFrame({"colour": [1]}))


@pytest.mark.parametrize(("shape", "intrinsic", "message"), [((4, 4), 1, r"\(4, 4\)"), ((2, 4, 4), 3, "intrinsic=3")])
def test_maps_of_another_shape_are_refused(shape, intrinsic, message):
    with pytest.raises(GhostkitError, match=message):
        views.feature_mosaic(np.zeros(shape), intrinsic)
