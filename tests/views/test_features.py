import numpy as np
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError


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
    maps[0], maps[1, 0, 0], maps[2] = 0, np.nan, np.inf
    image = views.feature_mosaic(maps, 4).data[0].z
    assert int((image > 0).sum()) == maps.size


def test_what_is_not_finite_is_told_and_leaves_the_range_of_its_map_to_the_rest(maps):
    assert "not finite" not in views.feature_mosaic(maps, 4).layout.title.subtitle.text
    whole = views.feature_mosaic(10 + maps, 4).data[0].z
    maps[1, 0, 0], maps[2] = np.nan, np.inf
    figure = views.feature_mosaic(10 + maps, 4)
    assert "2 of 12 hold values that are not finite (dark)" in figure.layout.title.subtitle.text
    assert "2 of 12 hold values that are not finite" in views.feature_mosaic_text(maps, 4)
    height, width = maps.shape[1:]
    assert int((figure.data[0].z != whole).sum()) <= height * width + 1  # all of map 2, and one pixel


@pytest.mark.parametrize("side", [1, 2, 3, 28])
def test_frames_and_headings_of_the_smallest_maps_are_inside_the_figure(side):
    layout = views.feature_mosaic(np.random.default_rng(0).normal(size=(24, side, side)), 12).layout
    low, high = sorted(layout.yaxis.range)
    for place in [shape[name] for shape in layout.shapes for name in ("y0", "y1")] + [a.y for a in layout.annotations]:
        assert low <= place <= high
    first, second = (shape.y1 for shape in layout.shapes)
    assert layout.annotations[1].y > first  # the second heading lies below the first frame
    assert second > layout.annotations[1].y


def test_maps_of_a_single_pixel_share_one_range():
    figure = views.feature_mosaic(np.arange(6.0).reshape(6, 1, 1), 3)
    drawn = figure.data[0].z
    assert sorted(drawn[drawn > 0]) == [1, 52, 103, 153, 204, 255]
    assert "of all maps" in figure.layout.title.subtitle.text


def test_a_large_layer_stays_small_on_disk():
    figure = views.feature_mosaic(np.random.default_rng(0).normal(size=(256, 112, 112)), 128)
    assert len(figure.to_json()) < 600_000


def test_the_text_of_a_mosaic_lists_the_first_maps(maps):
    lines = views.feature_mosaic_text(maps, 4, limit=5).splitlines()
    assert lines[0] == "12 maps of 8 x 10: 4 intrinsic, 8 ghost"
    assert [line.split()[1] for line in lines[3:8]] == ["intrinsic"] * 4 + ["ghost"]
    assert lines[-1] == "… and 7 more"


@pytest.mark.parametrize(("shape", "intrinsic", "message"), [((4, 4), 1, r"\(4, 4\)"), ((2, 4, 4), 3, "intrinsic=3")])
def test_maps_of_another_shape_are_refused(shape, intrinsic, message):
    with pytest.raises(GhostkitError, match=message):
        views.feature_mosaic(np.zeros(shape), intrinsic)


def test_a_layer_without_maps_says_so():
    figure = views.feature_mosaic(np.zeros((0, 4, 4)), 0)
    assert [note.text for note in figure.layout.annotations] == ["There are no feature maps to show."]
