"""Predictions to browse while a kernel is there: by image, by how wrong they are, and by how sure they are.

The widget is thin. It holds a list of predictions, never a network, and draws by ``views.predictions`` alone, into one
output that is updated. Once the kernel is gone nothing of it is left; what is to stay in a notebook is shown by
``views.show(views.predictions(...))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]

from ghostkit.errors import GhostkitError
from ghostkit.predicting import Prediction
from ghostkit.views.pictures import NOTHING, predictions
from ghostkit.widgets.controls import button, dropdown, place, put, slider

__all__ = ["ORDERS", "browse", "ordered", "turned"]

ORDERS = ("as they come", "worst first", "best first")
LEAST_SCORE = 0.3


def browse(found: Sequence[Prediction], classes: Sequence[str], task: str) -> ipywidgets.Widget:
    """Return a widget that shows one prediction at a time.

    Args:
        found: what ``ghostkit.predicting`` returns.
        classes: names of the classes, in the order of their numbers.
        task: classification, detection or segmentation.

    Raises:
        GhostkitError: if the task is unknown, or a class has no name.

    >>> browse(worst(model, data, "detection", 32), data.classes, "detection")  # doctest: +SKIP
    """
    predictions(found[:1], classes, task)  # what does not fit is said here, and not by a control later on
    if not found:
        return ipywidgets.Label(NOTHING)
    controls = _controls(len(found), task)
    picture = place()

    def draw(_change: Any = None) -> None:
        number = controls["image"].value
        one = ordered(found, controls["order"].value)[number - 1]
        least = controls["score"].value if "score" in controls else LEAST_SCORE
        put(picture, predictions([one], classes, task, columns=1, least_score=least))
        controls["previous"].disabled, controls["next"].disabled = number == 1, number == len(found)

    def turn(by: int) -> None:
        controls["image"].value = turned(controls["image"].value, by, len(found))

    def begin(_change: Any) -> None:
        if controls["image"].value == 1:
            draw()
        else:
            controls["image"].value = 1  # which draws

    controls["previous"].on_click(lambda _button: turn(-1))
    controls["next"].on_click(lambda _button: turn(1))
    controls["order"].observe(begin, "value")
    for name in {"image", "score"} & set(controls):
        controls[name].observe(draw, "value")
    draw()
    rows = [("image", "count", "previous", "next"), ("order", "score")]
    boxes = [ipywidgets.HBox([controls[name] for name in row if name in controls]) for row in rows]
    return ipywidgets.VBox([*boxes, picture])


def _controls(count: int, task: str) -> dict[str, Any]:
    """Return the controls by name; each says what it is, and what it does when it is pointed at."""
    controls = {
        "image": slider("image", "Which image is shown, in the order chosen below", 1, count, 1),
        "count": ipywidgets.Label(f"of {count}", tooltip="How many images there are"),
        "previous": button("previous", "Show the image before", "arrow-left"),
        "next": button("next", "Show the image after", "arrow-right"),
        "order": dropdown("order", "Which image comes first, by the loss of each", ORDERS),
    }
    if task == "detection":
        controls["score"] = ipywidgets.FloatSlider(
            **{"value": LEAST_SCORE, "min": 0.0, "max": 1.0, "step": 0.05},
            description="least score",
            readout_format=".0%",
            tooltip="Boxes of a lower score are not drawn",
            continuous_update=False,
        )
    return controls


def ordered(found: Sequence[Prediction], order: str) -> list[Prediction]:
    """Return predictions in another order; those of equal loss stay as they come.

    Args:
        found: the predictions.
        order: one of ``ORDERS``. A loss that is no number is the worst there is.

    Raises:
        GhostkitError: if there is no such order.
    """
    if order not in ORDERS:
        raise GhostkitError(f"unknown order {order!r}, expected one of {', '.join(map(repr, ORDERS))}")
    if order == "as they come":
        return list(found)
    sign = -1 if order == "worst first" else 1
    return sorted(found, key=lambda one: sign * (math.inf if math.isnan(one.loss) else one.loss))


def turned(number: int, by: int, count: int) -> int:
    """Return the number, from 1 to ``count``, that is ``by`` steps from ``number``; at an end it stays there."""
    return min(max(number + by, 1), count)
