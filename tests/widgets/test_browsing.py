"""Browsing predictions: the order, the ends, and what each control changes; no browser is needed."""

from __future__ import annotations

import re

import ipywidgets
import numpy as np
import pytest

from ghostkit import widgets
from ghostkit.errors import GhostkitError
from ghostkit.predicting import Prediction
from ghostkit.views.report import PLOTLY
from ghostkit.widgets.browsing import ORDERS, ordered, turned

LOSSES = (0.4, 2.5, 0.1, float("nan"), 0.4)


@pytest.fixture
def found() -> list[Prediction]:
    truth = np.array([[1, 1, 6, 6, 0]], np.float32)
    boxes = np.array([[1, 1, 6, 6, 0, 0.9], [2, 2, 7, 7, 1, 0.4]], np.float32)
    image = np.zeros((8, 8), np.uint8)
    return [Prediction(number, image, truth, boxes, loss) for number, loss in enumerate(LOSSES)]


def controls(widget) -> dict:
    """The controls by what is written on them."""
    boxes = [child for row in widget.children[:-1] for child in row.children]
    return {re.sub("<[^>]*>", "", child.description) or child.value: child for child in boxes}


def shown(widget) -> str:
    """The text twin of what the output shows."""
    (output,) = widget.children[-1].outputs
    assert PLOTLY in output["data"]
    return output["data"]["text/plain"]


@pytest.mark.parametrize(
    ("order", "numbers"),
    [("as they come", [0, 1, 2, 3, 4]), ("worst first", [3, 1, 0, 4, 2]), ("best first", [2, 0, 4, 1, 3])],
)
def test_an_order_goes_by_the_loss_and_no_number_is_the_worst(found, order, numbers):
    assert [one.number for one in ordered(found, order)] == numbers


def test_another_order_is_refused(found):
    with pytest.raises(GhostkitError, match="unknown order 'random'"):
        ordered(found, "random")


@pytest.mark.parametrize(("place", "by", "reached"), [(1, -1, 1), (1, 1, 2), (5, 1, 5), (3, -1, 2), (2, 9, 5)])
def test_turning_stays_at_the_ends(place, by, reached):
    assert turned(place, by, 5) == reached


def test_every_control_says_what_it_is_and_what_it_does(found):
    named = controls(widgets.browse(found, ("shirt", "bag"), "detection"))
    assert list(named) == ["image", "of 5", "previous", "next", "order", "least score"]
    assert all(control.tooltip for control in named.values())
    assert tuple(named["order"].options) == ORDERS
    assert named["order"].tooltip in named["order"].description  # which alone is shown, of a dropdown


def test_the_buttons_turn_and_are_off_at_the_ends(found):
    widget = widgets.browse(found[:2], ("shirt", "bag"), "detection")
    named = controls(widget)
    assert shown(widget).startswith("image 0:")
    assert (named["previous"].disabled, named["next"].disabled) == (True, False)
    named["next"].click()
    assert shown(widget).startswith("image 1:")
    assert (named["previous"].disabled, named["next"].disabled) == (False, True)
    named["next"].click()
    assert named["image"].value == 2
    named["previous"].click()
    assert shown(widget).startswith("image 0:")


def test_another_order_begins_with_its_first_image(found):
    widget = widgets.browse(found, ("shirt", "bag"), "detection")
    named = controls(widget)
    named["order"].value = "worst first"
    assert shown(widget).startswith("image 3:")
    named["image"].value = 4
    assert shown(widget).startswith("image 4:")
    named["order"].value = "best first"
    assert named["image"].value == 1
    assert shown(widget).startswith("image 2:")


def test_the_least_score_decides_which_boxes_are_drawn(found):
    widget = widgets.browse(found, ("shirt", "bag"), "detection")
    assert "1 bag (40 %)" in shown(widget)
    controls(widget)["least score"].value = 0.5
    assert "bag" not in shown(widget)


def test_the_picture_is_updated_and_not_made_anew(found):
    widget = widgets.browse(found, ("shirt", "bag"), "detection")
    output = widget.children[-1]
    controls(widget)["next"].click()
    assert widget.children[-1] is output
    assert len(output.outputs) == 1


def test_other_tasks_have_no_least_score():
    one = Prediction(0, np.zeros((8, 8), np.uint8), 1, np.array([0.2, 0.8], np.float32), 0.2)
    widget = widgets.browse([one], ("cat", "dog"), "classification")
    assert "least score" not in controls(widget)
    assert "truth dog" in shown(widget)


def test_nothing_to_browse_says_so():
    widget = widgets.browse([], ("cat",), "classification")
    assert isinstance(widget, ipywidgets.Label)
    assert widget.value == "There are no predictions to show."


def test_an_unknown_task_is_refused_at_once(found):
    with pytest.raises(GhostkitError, match="unknown task 'colouring'"):
        widgets.browse(found, ("shirt", "bag"), "colouring")
