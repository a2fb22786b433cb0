import math
import re

import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError


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
        "<b>before</b>  4 blocks<br>2.61 k params<br>201 kMAC",
        "<b>after</b>  5 blocks<br>4.21 k params<br>318 kMAC",
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


def weighed(frame):
    """The frame with gains and importances in nats; a stem and a head cannot be switched off."""
    numbers = dict.fromkeys(frame["block"], 0.1) | {"stem": math.nan, "head": math.nan, "blocks.1.0": 0.9}
    return frame.assign(gain=frame["block"].map({"blocks.0.0": 0.25}).fillna(0.0), importance=list(numbers.values()))


def luminance(colour):
    red, green, blue = (int(number) for number in re.findall(r"\d+", colour))
    return 0.3 * red + 0.6 * green + 0.1 * blue


@pytest.mark.parametrize(("colour", "most"), [("gain", 1), ("importance", 2)])
def test_blocks_darken_with_their_nats_on_one_scale_for_both_networks(colour, most, before, after):
    figure = views.architecture(weighed(before), weighed(after), colour=colour)
    shades = [bars(figure, axis)[0].marker.color for axis in ("x", "x2")]
    assert shades[0][1:3] == shades[1][1:3]
    assert luminance(shades[1][most]) == min(luminance(c) for c in shades[1] if not c.startswith("#")) < 40
    bar = figure.layout.coloraxis
    assert (bar.cmin, bar.showscale) == (0, True)
    assert "(nats" in bar.colorbar.title.text


def test_blocks_without_a_number_are_pale(before):
    colours = bars(views.architecture(weighed(before), colour="importance"))[0].marker.color
    assert colours[0] == colours[-1] == "#ECEFF2"
    assert not {"#ECEFF2"} & {*colours[1:-1]}


def test_numbers_below_zero_have_their_place_on_the_scale(before):
    frame = before.assign(importance=[-0.5, 0.0, 0.5, 1.0])
    figure = views.architecture(frame, colour="importance")
    shades = [luminance(colour) for colour in bars(figure)[0].marker.color]
    assert shades == sorted(shades, reverse=True)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.5, 1.0)


def test_gain_and_importance_are_told_in_hover_and_text(before):
    frame = weighed(before)
    figure = views.architecture(frame, colour="importance")
    assert "importance 0.9 nats" in bars(figure)[0].hovertext[2]
    assert "gain 0.25 nats" in bars(figure)[0].hovertext[1]
    lines = views.architecture_text(frame, colour="importance").splitlines()
    assert lines[1].endswith("importance (nats)")
    assert [line.split()[-1] for line in lines[3:]] == ["–", "0.1", "0.9", "–"]


def test_the_replay_keeps_one_scale_of_gain_through_all_frames(before, after):
    figure = views.architecture_replay({0: weighed(before), 4: weighed(after)}, colour="gain")
    first, last = (frame.data[0].marker.color for frame in figure.frames)
    assert first[1] == last[1]
    assert "predicted gain" in figure.layout.coloraxis.colorbar.title.text


def test_a_frame_of_age_alone_is_drawn_by_age_and_refused_for_more(before):
    views.architecture(before)
    with pytest.raises(GhostkitError, match=r"colour='gain' .* no column 'gain'; run\.architecture\(event\) has it"):
        views.architecture(before, colour="gain")
    with pytest.raises(GhostkitError, match=r"no column 'importance'; join what ghostkit\.inspecting\.importance"):
        views.architecture(before, colour="importance")
    with pytest.raises(GhostkitError, match="colour='size' was given; expected one of 'age', 'gain', 'importance'"):
        views.architecture(before, colour="size")
