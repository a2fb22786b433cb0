"""Texts of a fixed size on the screen: how wide they are, cut to their room, and laid where none overlaps another.

A browser sets them, whose fonts are not known here; so widths are estimates, a little too wide rather than too narrow.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from ghostkit.views.sheet import Panel
from ghostkit.views.theme import INK

__all__ = ["BARE", "Label", "laid_apart", "shortened", "width_of"]

# Widths of letters, in font sizes.
LETTERS = dict.fromkeys("iljtfrI.,:;'|!·()[]-/ ", 0.32) | dict.fromkeys("mwMW%@…", 0.9)
CAPITAL, LETTER = 0.72, 0.56
LABEL = 14  # height of a label, in pixels of the screen
BARE = {"showarrow": False, "borderpad": 0}  # an annotation that is nothing but its text


class Label(NamedTuple):
    """A text that wants to lie in its panel, at the first of ``places`` that is free: x, y, and plotly's anchors."""

    text: str
    colour: str
    panel: Panel
    places: tuple[tuple[float, float, str, str], ...]


def width_of(text: str, size: float) -> float:
    """Return about how wide ``text`` is at a font ``size``, in pixels."""
    return size * sum(LETTERS.get(letter, CAPITAL if letter.isupper() else LETTER) for letter in text)


def shortened(text: str, room: float, size: float) -> str:
    """Return ``text``, cut so that it is at most ``room`` pixels wide at a font ``size``; a letter of it remains."""
    if width_of(text, size) <= room:
        return text
    while len(text) > 1 and width_of(text + "…", size) > room:
        text = text[:-1].rstrip()
    return text + "…"


def laid_apart(labels: Sequence[Label], narrow: float) -> list[dict[str, Any]]:
    """Return the labels as annotations, each where it overlaps none before it; what finds no such place is left out.

    Widths do not grow with the figure, and distances do; so labels that are apart where an image's pixel is ``narrow``
    on the screen stay apart where it is longer.
    """
    taken: dict[Panel, list[tuple[float, float, float, float]]] = {}
    annotations = []
    for label in labels:
        others = taken.setdefault(label.panel, [])
        wide = width_of(label.text, 10) + 6
        first, upper, last, lower = (side * narrow for side in label.panel)
        for x, y, across, along in label.places:
            left = x * narrow - {"left": 0, "center": wide / 2, "right": wide}[across]
            top = y * narrow - {"top": 0, "middle": LABEL / 2, "bottom": LABEL}[along]
            right, bottom = left + wide, top + LABEL
            inside = left >= first - 1 and top >= upper - 1 and right <= last + 1 and bottom <= lower + 1
            if inside and all(left >= o[2] or right <= o[0] or top >= o[3] or bottom <= o[1] for o in others):
                others.append((left, top, right, bottom))
                look = {"bgcolor": "rgba(255,255,255,0.88)", "bordercolor": label.colour, "borderwidth": 1, **BARE}
                look["font"] = {"size": 10, "color": INK}
                place = {"x": x, "y": y, "xanchor": across, "yanchor": along}
                annotations.append({"text": html.escape(label.text, quote=False), **place, **look})
                break
    return annotations
