"""What the colour of a drawn block says: its age, what was expected of its growth, or what it is worth.

Age has steps, one a growth event. Gain and importance are nats, on a scale that darkens all the way, so it survives in
grey and for every reader; a block without such a number is almost white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from plotly.colors import sample_colorscale

from ghostkit.errors import GhostkitError
from ghostkit.views.theme import MUTED, age_axis, age_colours

__all__ = ["COLOURS", "Colouring", "colouring"]

# What a colour may say -> the words at its bar.
COLOURS = {
    "age": "last grown at event (0: seedling)",
    "gain": "predicted gain of its growth so far (nats)",
    "importance": "rise of the loss without it (nats; pale: not known)",
}
# Cividis from high to low, without the ends that are too dark for a frame and too pale for paper.
SCALE = [[0, "#F0E08A"], [0.35, "#A59C74"], [0.7, "#575D6D"], [1, "#00224E"]]
APART = "<br><span style='font-size: 3px'>&nbsp;</span>"  # or letters reach down into the bar
UNKNOWN = "#ECEFF2"
WHERE = {
    "gain": "run.architecture(event) has it",
    "importance": "join what ghostkit.inspecting.importance returns: frame.merge(importance, how='left')",
}


@dataclass(frozen=True)
class Colouring:
    """How the blocks of all networks of a figure are coloured.

    Args:
        by: one of ``COLOURS``.
        events: number of the last growth event.
        low: the least number, in nats.
        high: the largest.
    """

    by: str
    events: int
    low: float = 0.0
    high: float = 0.0

    def of(self, frame: pd.DataFrame) -> list[str]:
        """Return the colour of each block of ``frame``."""
        if self.by == "age":
            colours = age_colours(self.events)
            return [colours[event] for event in frame[["grown", "born"]].max(axis=1)]
        values = frame[self.by].to_numpy(float)
        shares = (values - self.low) / (self.high - self.low or 1)
        return [
            sample_colorscale(SCALE, [min(max(share, 0), 1)])[0] if np.isfinite(share) else UNKNOWN for share in shares
        ]

    def axis(self, height: int) -> dict[str, Any]:
        """Return the colour axis of a figure ``height`` pixels tall, its bar at the upper right."""
        axis = age_axis(self.events, height)
        axis["colorbar"]["title"]["text"] = f"{COLOURS[self.by]}<br> "  # an empty line, or it would touch the bar
        if self.by == "age":
            return axis
        high = self.high if self.high > self.low else self.low + 1
        bar = {**axis["colorbar"], "tickvals": None, "nticks": 5, "tickfont": {"size": 11, "color": MUTED}}
        return {"colorscale": SCALE, "cmin": self.low, "cmax": high, "showscale": True, "colorbar": bar}


def colouring(frames: Sequence[pd.DataFrame], by: str, last_event: int = 0) -> Colouring:
    """Return how the blocks of ``frames`` are coloured, on one scale.

    Args:
        frames: ``run.architecture(event)``, one or several.
        by: one of ``COLOURS``.
        last_event: number of the run's last event, to keep one colour scale over several figures.

    Raises:
        GhostkitError: if there is no such colouring, or a frame lacks its column.
    """
    if by not in COLOURS:
        raise GhostkitError(f"colour={by!r} was given; expected one of {', '.join(map(repr, COLOURS))}")
    events = max([last_event, *(int(frame[["grown", "born"]].max().max()) for frame in frames)])
    if by == "age":
        return Colouring(by, events)
    for frame in frames:
        if by not in frame:
            raise GhostkitError(
                f"colour={by!r} was given, but the architecture frame has no column {by!r}; {WHERE[by]}"
            )
    values = np.concatenate([frame[by].to_numpy(float) for frame in frames])
    values = values[np.isfinite(values)]
    return Colouring(by, events, min(values.min(initial=0.0), 0.0), values.max(initial=0.0))
