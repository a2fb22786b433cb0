"""Predictions as pictures and in words: what is shown of each image, and that it can be read."""

from __future__ import annotations

import base64
import html
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from ghostkit import views
from ghostkit.errors import GhostkitError
from ghostkit.predicting import Prediction
from ghostkit.views.lettering import width_of
from ghostkit.views.pictures import COLOURS, class_colour

CLASSES = ("shirt", "bag", "T-shirt/top", "boot")
MASKED = ("background", *CLASSES)
SIDE = 32


def image(colour: bool = False, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (side, side, 3) if colour else (side, side), dtype=np.uint8)


def boxes(*rows: tuple[float, ...], columns: int) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, columns)


def detected(number: int = 17, loss: float = 0.43, colour: bool = False) -> Prediction:
    truth = boxes((2, 12, 12, 28, 0), (14, 10, 30, 20, 0), (4, 2, 12, 8, 1), columns=5)
    found = boxes((3, 12, 12, 27, 0, 0.914), (15, 9, 30, 20, 0, 0.55), (1, 1, 9, 9, 2, 0.2), columns=6)
    return Prediction(number, image(colour), truth, found, loss)


def segmented(number: int = 3, loss: float = 0.5) -> Prediction:
    truth, found = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    truth[:16, :16], found[:16, :12] = 1, 1  # IoU 0.75
    truth[20:28, 20:28] = 2  # background: 592 pixels in both, 768 in either
    found[24:32, :8] = 3
    truth[30:, :] = 255
    return Prediction(number, image(), truth, found, loss)


def classified(number: int = 5, loss: float = 0.69) -> Prediction:
    return Prediction(number, image(side=8), 1, np.array([0.3, 0.5, 0.02, 0.18], np.float32), loss)


SHOWN = {
    "classification": (classified, CLASSES),
    "detection": (detected, CLASSES),
    "segmentation": (segmented, MASKED),
}


def canvas(figure) -> np.ndarray:
    """The sheet's pixels (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.data[0].source.split(",", 1)[1]))))


def words(figure) -> list[str]:
    return [html.unescape(re.sub("<[^>]*>", "", note.text)) for note in figure.layout.annotations]


@pytest.mark.parametrize("task", SHOWN)
def test_every_image_has_headings_and_pixels_are_square_and_crisp(task):
    make, classes = SHOWN[task]
    figure = views.predictions([make(number) for number in range(5)], classes, task)
    sheet = figure.data[0]
    assert (sheet.type, sheet.zsmooth, sheet.dx, sheet.dy) == ("image", False, 1, 1)
    assert figure.layout.yaxis.scaleanchor == "x"
    assert [figure.layout.xaxis.visible, figure.layout.yaxis.visible] == [False, False]
    for number in range(5):
        assert any(text.startswith(f"image {number} · truth") for text in words(figure))
    assert len([text for text in words(figure) if text.startswith("predicted · loss ")]) == 5
    assert figure.layout.meta["text"] == views.predictions_text([make(number) for number in range(5)], classes, task)


def test_truth_stands_beside_the_prediction_of_the_same_image():
    one = detected(colour=True)
    sheet = canvas(views.predictions([one], CLASSES, "detection"))
    assert (sheet[-SIDE - 8 :, :SIDE] == one.image[0, 0]).all(axis=2).any()
    places = [
        x
        for x in range(sheet.shape[1] - SIDE + 1)
        for y in range(sheet.shape[0] - SIDE + 1)
        if (sheet[y : y + SIDE, x : x + SIDE] == one.image).all()
    ]
    assert len(places) == 2
    assert places[1] - places[0] >= SIDE


def test_a_name_with_an_ampersand_is_pointed_at_whole():
    figure = views.predictions([classified()], ("shirt", "hat & bag", *CLASSES[2:]), "classification")
    [pointed] = {trace.hovertext[0] for trace in figure.data if trace.type == "scatter" and trace.hovertext}
    assert "<br>truth hat &amp; bag<br>" in pointed


def test_a_row_has_so_many_images_and_no_more():
    few, many = (views.predictions([detected(n) for n in range(count)], CLASSES, "detection", 2) for count in (2, 3))
    assert canvas(many).shape[0] == 2 * canvas(few).shape[0]
    assert canvas(many).shape[1] == canvas(few).shape[1]


def test_boxes_are_one_trace_a_class_over_all_images():
    figure = views.predictions([detected(1), detected(2)], CLASSES, "detection", least_score=0.1)
    drawn = {trace.name: trace for trace in figure.data if trace.hovertext is not None}
    assert set(drawn) == {"shirt", "bag", "T-shirt/top"}
    assert drawn["shirt"].x.count(None) == 8  # two in truth and two found, in each image
    assert drawn["bag"].x.count(None) == 2
    assert drawn["shirt"].line.color == class_colour(0)


def test_a_box_lies_around_the_pixels_it_names():
    figure = views.predictions([detected()], CLASSES, "detection")
    bag = next(trace for trace in figure.data if trace.name == "bag" and trace.hovertext)
    left, top = min(bag.x[:4]) - 4, min(bag.y[:4]) - 2
    assert (canvas(figure)[int(top) :, int(left) :][:SIDE, :SIDE, 0] == detected().image).all()
    assert (max(bag.x[:4]) - min(bag.x[:4]), max(bag.y[:4]) - min(bag.y[:4])) == (8, 6)
    assert "x 4 to 12, y 2 to 8 px" in bag.hovertext[0]


def test_labels_name_classes_and_found_boxes_say_how_sure():
    shown = words(views.predictions([detected()], CLASSES, "detection"))
    assert {"shirt", "bag", "shirt 91 %", "shirt 55 %"} <= set(shown)
    assert not any(text.startswith("T-shirt") for text in shown)  # its score is below the least
    assert "T-shirt/top 20 %" in words(views.predictions([detected()], CLASSES, "detection", least_score=0.2))


@pytest.mark.parametrize(("made", "task"), [(detected, "detection"), (segmented, "segmentation")])
def test_the_headings_of_pairs_are_whole_unless_more_of_them_are_asked_for_in_a_row(made, task):
    def headings(columns=None):
        figure = views.predictions([made(number) for number in range(4)], CLASSES, task, columns)
        return [note.text for note in figure.layout.annotations if "predicted" in note.text]

    assert not any("…" in heading for heading in headings())
    assert all("…" in heading for heading in headings(4))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_no_label_lies_over_another_however_many_boxes_there_are(columns):
    rng = np.random.default_rng(columns)
    corners = rng.uniform(0, 40, (60, 2))
    rows = np.c_[corners, corners + rng.uniform(4, 24, (60, 2)), rng.integers(0, 4, 60), rng.uniform(0.3, 1, 60)]
    busy = Prediction(0, image(side=64), rows[:5, :5], rows.astype(np.float32), 9.87)
    figure = views.predictions([busy] * 4, CLASSES, "detection", columns)
    width = figure.layout.xaxis.range[1]
    for screen in (750, 1150):  # px of a figure that is 800 or 1,200 wide
        scale = min(screen, 900) / width
        areas = []
        for note in figure.layout.annotations:
            if note.bgcolor is None:
                continue
            wide, high = width_of(html.unescape(note.text), 10) + 6, 14
            x = note.x * scale - {"left": 0, "center": wide / 2, "right": wide}[note.xanchor]
            y = note.y * scale - {"top": 0, "middle": high / 2, "bottom": high}[note.yanchor]
            areas.append((x, y, x + wide, y + high))
        assert len(areas) > 20
        for a, b in itertools.combinations(areas, 2):
            assert a[2] <= b[0] + 0.1 or b[2] <= a[0] + 0.1 or a[3] <= b[1] + 0.1 or b[3] <= a[1] + 0.1


def test_a_mask_lies_over_its_image_and_the_background_is_left_alone():
    one = segmented()
    sheet = canvas(views.predictions([one], MASKED, "segmentation"))
    top = next(y for y in range(sheet.shape[0]) if (sheet[y, 20:28] == one.image[0, 20:28, None]).all())
    truth = sheet[top : top + SIDE, :SIDE].astype(int)
    plain = np.repeat(one.image[..., None], 3, axis=2)
    assert (truth[:20, 20:] == plain[:20, 20:]).all()
    shirt = truth[:16, :16].mean((0, 1))
    wanted = np.array([int(class_colour(1)[i : i + 2], 16) for i in (1, 3, 5)])
    assert np.abs(0.62 * wanted + 0.38 * plain[:16, :16].mean((0, 1)) - shirt).max() < 2
    assert (truth[30:] != plain[30:]).any()  # not asked for: striped


def test_the_legend_names_the_classes_that_are_there_and_not_the_background():
    figure = views.predictions([segmented()], MASKED, "segmentation")
    assert [trace.name for trace in figure.data[1:] if trace.showlegend] == ["shirt", "bag", "T-shirt/top"]
    assert {"shirt", "bag", "T-shirt/top"} <= set(words(figure))


def test_the_three_likeliest_classes_stand_below_with_bars_as_long_as_they_are_likely():
    figure = views.predictions([classified()], CLASSES, "classification")
    assert words(figure) == [
        *("image 5 · truth bag", "predicted · loss 0.69"),
        *("bag", "50 %", "shirt", "30 %", "boot", "18 %"),
    ]
    bars = [shape.x1 - shape.x0 for shape in figure.layout.shapes[1::2]]
    assert np.allclose(bars, [4, 2.4, 1.44])
    assert "<b>bag</b>" in [note.text for note in figure.layout.annotations]


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("classification", "image 5: truth bag; predicted bag (50 %), shirt (30 %), boot (18 %); loss 0.69"),
        ("detection", "image 17: truth 2 shirt, 1 bag; found 2 shirt (91 %, 55 %); loss 0.43"),
        (
            "segmentation",
            "image 3: IoU background 77 %, shirt 75 %, bag 0 % (missed), T-shirt/top 0 % (not there); loss 0.50",
        ),
    ],
)
def test_the_text_has_a_line_for_each_image(task, line):
    make, classes = SHOWN[task]
    assert views.predictions_text([make()], classes, task) == line
    assert len(views.predictions_text([make()] * 4, classes, task).splitlines()) == 4


def test_an_image_in_which_nothing_is_or_was_found_says_so():
    empty = Prediction(2, image(), boxes(columns=5), boxes(columns=6), 0.1)
    line = "image 2: truth nothing; found nothing of 30 % or more; loss 0.10"
    assert views.predictions_text([empty], CLASSES, "detection") == line
    assert words(views.predictions([empty], CLASSES, "detection")) == ["image 2 · truth", "predicted · loss 0.10"]


def test_a_mask_of_ignored_pixels_only_is_drawn_and_worded():
    blank = Prediction(0, image(), np.full((SIDE, SIDE), 255, np.uint8), np.zeros((SIDE, SIDE), np.uint8), 0.0)
    assert views.predictions_text([blank], MASKED, "segmentation") == "image 0: no pixel is asked for; loss 0.00"
    views.predictions([blank], MASKED, "segmentation")


def test_names_of_classes_are_never_markup():
    one = classified()
    figure = views.predictions([one], ("a", "<b>x</b>&", "c", "d"), "classification")
    assert any("&lt;b&gt;x" in note.text for note in figure.layout.annotations)


def test_a_class_has_one_colour_and_thirty_six_have_thirty_six():
    assert len({class_colour(number) for number in range(3 * len(COLOURS))}) == 3 * len(COLOURS) == 36
    assert all(re.fullmatch("#[0-9A-F]{6}", class_colour(number)) for number in range(100))


@pytest.mark.parametrize("task", SHOWN)
def test_no_predictions_are_said_in_picture_and_text(task):
    figure = views.predictions([], CLASSES, task)
    assert words(figure) == [figure.layout.meta["text"]] == ["There are no predictions to show."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([detected()], CLASSES, "colouring"), "unknown task 'colouring'"),
        (([detected()], CLASSES, "detection", 0), "columns=0"),
        (([detected()], CLASSES, "detection", 3, 1.5), "least_score=1.5"),
        (([detected(4)], CLASSES[:1], "detection"), "image 4 has class 2, but 1 names"),
        (([segmented()], MASKED[:3], "segmentation"), "class 3, but 3 names"),
        (([classified()], CLASSES[:2], "classification"), "class 3, but 2 names"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(GhostkitError, match=re.escape(message)):
        views.predictions(*arguments)
