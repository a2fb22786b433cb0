"""What all widgets are made of: controls that say what they do when they are pointed at, and places for pictures.

A picture is put into an output that stays where it is, as plotly's MIME type and as text: no widget holds plotly.js,
which would put five megabytes into the state of a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import plotly.graph_objects as go

from ghostkit.views.report import CONFIG, PLOTLY, show
from ghostkit.views.theme import Drawn

__all__ = [
    "beside",
    "button",
    "choice",
    "clear",
    "dropdown",
    "number",
    "offer",
    "place",
    "put",
    "rows",
    "slider",
    "stops",
]


def button(label: str, tooltip: str, icon: str = "", **look: Any) -> ipywidgets.Button:
    """Return a button; ``icon`` is a name of Font Awesome."""
    return ipywidgets.Button(description=label, tooltip=tooltip, icon=icon, layout={"width": "116px"}, **look)


def dropdown(label: str, tooltip: str, options: Sequence[Any], **look: Any) -> ipywidgets.Dropdown:
    """Return a list to choose one from: words, or pairs of a word and a value."""
    return ipywidgets.Dropdown(options=options, **_named(label, tooltip), **look)


def _named(label: str, tooltip: str) -> dict[str, Any]:
    """Return the label of a control that has a description and would not show its tooltip (ipywidgets 8.1)."""
    label = f'<span title="{tooltip}">{label}</span>'
    return {"description": label, "description_allow_html": True, "tooltip": tooltip}


def slider(label: str, tooltip: str, low: int, high: int, value: int, **look: Any) -> ipywidgets.IntSlider:
    """Return a slider over whole numbers that tells its value when it is let go."""
    # A picture for each place that is passed would lag behind the hand.
    return ipywidgets.IntSlider(value, low, high, description=label, tooltip=tooltip, continuous_update=False, **look)


def stops(label: str, tooltip: str, options: Sequence[Any], value: Any, **look: Any) -> ipywidgets.SelectionSlider:
    """Return a slider over named places, pairs of a word and a value, that tells its value when it is let go."""
    return ipywidgets.SelectionSlider(
        options=options, value=value, description=label, tooltip=tooltip, continuous_update=False, **look
    )


def choice(options: Sequence[tuple[str, str]], **look: Any) -> ipywidgets.ToggleButtons:
    """Return buttons of which one is pressed, for pairs of a word and what it says when it is pointed at."""
    words, tooltips = ([pair[place] for pair in options] for place in (0, 1))
    return ipywidgets.ToggleButtons(options=words, tooltips=tooltips, tooltip="; ".join(tooltips), **look)


def offer(control: Any, options: Sequence[tuple[str, Any]], wanted: Any) -> None:
    """Put other options into a control and choose ``wanted``, or the first where that is not among them."""
    values = [value for _, value in options]
    control.options = options
    control.value = wanted if wanted in values else values[0] if values else None


def rows(*lines: Sequence[Any]) -> ipywidgets.VBox:
    """Return widgets in lines, one line below the other; a line that does not fit is wrapped."""
    wrapped = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
    return ipywidgets.VBox([ipywidgets.HBox(list(line), layout=wrapped) for line in lines])


def beside(*widgets: Any, least: int = 340) -> ipywidgets.HBox:
    """Return widgets side by side, each as wide as the others, or below each other where one had under ``least`` px."""
    for widget in widgets:
        widget.layout.flex, widget.layout.min_width = f"1 1 {least}px", f"{min(least, 280)}px"
    return ipywidgets.HBox(list(widgets), layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def place(height: int = 0) -> ipywidgets.Output:
    """Return a place for a picture that keeps ``height`` pixels free, so that what is below it does not jump."""
    return ipywidgets.Output(layout={"min_height": f"{height}px"} if height else {})


def put(output: ipywidgets.Output, figure: go.Figure | Drawn, text: str | None = None) -> None:
    """Show ``figure`` in ``output``, in the place of what is there; what is only drawn brings its text."""
    if isinstance(figure, Drawn):
        data = {PLOTLY: {**figure.json(text or ""), "config": CONFIG}, "text/plain": text or ""}
    else:
        data = show(figure, text)._repr_mimebundle_()
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


def clear(output: ipywidgets.Output) -> None:
    """Show nothing in ``output`` any more."""
    output.outputs = ()


def number(label: str, tooltip: str, value: float, **look: Any) -> ipywidgets.FloatText:
    """Return a field for a number, which tells its value when it is left or Enter is pressed."""
    return ipywidgets.FloatText(
        value,
        **_named(label, tooltip),
        continuous_update=False,
        layout={"width": "170px"},
        style={"description_width": "50px"},
        **look,
    )
