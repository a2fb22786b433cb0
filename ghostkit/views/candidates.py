"""What growth could have done: the scored candidates of one growth event, best first, the chosen ones marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.views.columns import check_columns
from ghostkit.views.theme import (
    BLUE,
    FAINT,
    FRAMED,
    GREEN,
    LEGEND_ABOVE,
    MUTED,
    ORANGE,
    OWN_WORDS,
    PURPLE,
    SKY,
    VERMILLION,
    finish,
    notice,
)
from ghostkit.views.wording import quantity, table_text

__all__ = ["candidate_scores", "candidate_scores_text"]

CANDIDATE_COLUMNS = ("event", "edit", "site", "kind", "gain", "macs", "params", "chosen")
# What the two panels show, and the titles of their axes, where gains were predicted and where (score="none") not.
SCORED = ("gain", "predicted gain<br>(nats)"), ("per_mac", "predicted gain<br>(nats per added MMAC)")
UNSCORED = ("macs", "added MACs<br>per image"), ("params", "added<br>parameters")
NOT_SCORED = "no gain was predicted"
KIND_COLOURS = {
    "branch": BLUE,
    "intrinsic": ORANGE,
    "block": GREEN,
    "layer": PURPLE,
    "link": VERMILLION,
    "stage": SKY,
}


def candidate_scores(candidates: pd.DataFrame, event: int | None = None, limit: int = 25) -> go.Figure:
    """Return the predicted gain of each candidate of a growth event, and that gain per added MMAC.

    Args:
        candidates: ``run.candidates``.
        event: number of the growth event; the last one when None.
        limit: candidates shown at most, besides the chosen ones.

    Raises:
        GhostkitError: if a column is missing.
    """
    rows, event, left_out = _best(candidates, event, limit)
    if rows.empty:
        return notice(_nothing(event))
    scored = bool(rows["gain"].any())
    (first, first_title), (second, second_title) = SCORED if scored else UNSCORED
    places, hover = np.arange(len(rows)), np.array([_hover(row, scored) for row in rows.itertuples()])
    figure = go.Figure()
    for name, (members, look) in _groups(rows).items():
        for axis, column in (("x", first), ("x2", second)):
            figure.add_bar(
                x=rows[column][members],
                y=places[members],
                xaxis=axis,
                orientation="h",
                name=name,
                legendgroup=name,
                showlegend=axis == "x" and bool(members.any()),
                marker=look,
                width=0.68,
                hovertext=hover[members],
                hovertemplate=OWN_WORDS,
            )
    notes = [f"{'the best ' if scored else ''}{len(rows)} of {len(rows) + left_out}"] if left_out else []
    notes += [] if scored else [NOT_SCORED]
    shown = f"  <span style='color:{MUTED}'>{'; '.join(notes)}</span>" if notes else ""
    named = sum(bool(trace.showlegend) for trace in figure.data)
    many = 20 * ((named - 1) // 3)  # where figures are narrow, three fit into a line of the legend
    panel = {"rangemode": "tozero", "nticks": 6}
    return finish(
        figure,
        candidate_scores_text(candidates, event, limit),
        height=int(158 + 22 * len(rows)) + many,
        title={"text": f"Candidates at growth event {event}{shown}"},
        barmode="overlay",
        xaxis={"domain": [0, 0.475], "title": {"text": first_title}, **panel},
        xaxis2={"domain": [0.525, 1], "title": {"text": second_title}, **panel},
        yaxis={
            "range": [len(rows) - 0.4, -0.6],
            "tickvals": places,
            "ticktext": [f"<b>{row.edit}</b>" if row.chosen else row.edit for row in rows.itertuples()],
            "showgrid": False,
            "ticks": "",
        },
        legend=LEGEND_ABOVE | {"y": 1},
        margin={"t": 72 + many, "b": 70},
    )


def _best(candidates: pd.DataFrame, event: int | None, limit: int) -> tuple[pd.DataFrame, int | None, int]:
    """Return the best and the chosen candidates of one event, best first, the event, and how many were left out."""
    check_columns(candidates, CANDIDATE_COLUMNS, "candidates")
    if candidates.empty:
        return candidates, event, 0
    event = int(candidates["event"].max()) if event is None else event
    rows = candidates[candidates["event"] == event].sort_values("gain", ascending=False, kind="stable")
    best = (np.arange(len(rows)) < limit) | rows["chosen"].to_numpy(bool)
    kept = rows[best].copy()
    kept["per_mac"] = kept["gain"] / kept["macs"].where(kept["macs"] > 0) * 1e6
    return kept, event, len(rows) - len(kept)


def _nothing(event: int | None) -> str:
    return "No candidates have been scored." if event is None else f"Event {event} has no candidates."


def _groups(rows: pd.DataFrame) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return who is in each group of bars, shape (rows,), and its look: the kinds, other kinds, and the chosen."""
    kind = rows["kind"]
    return {
        **{name: ((kind == name).to_numpy(), {"color": colour}) for name, colour in KIND_COLOURS.items()},
        "other": (~kind.isin(KIND_COLOURS).to_numpy(), {"color": FAINT}),
        "chosen": (rows["chosen"].to_numpy(bool), FRAMED),
    }


def _hover(row: Any, scored: bool) -> str:
    gain = f"gain {row.gain:.3g}, per MMAC {row.per_mac:.3g}" if scored else NOT_SCORED
    return (
        f"<b>{row.edit}</b>{' · chosen' if row.chosen else ''}<br>{gain}"
        f"<br>+{quantity(row.macs, 'MAC')}, +{quantity(row.params, 'params')}"
    )


def candidate_scores_text(candidates: pd.DataFrame, event: int | None = None, limit: int = 25) -> str:
    """Return the candidates of one growth event as a table, best first; ``*`` marks the chosen ones.

    Args:
        candidates: ``run.candidates``.
        event: number of the growth event; the last one when None.
        limit: candidates listed at most, besides the chosen ones.

    Raises:
        GhostkitError: if a column is missing.
    """
    rows, event, left_out = _best(candidates, event, limit)
    if rows.empty:
        return _nothing(event)
    scored = bool(rows["gain"].any())
    gain = "{:.3g}".format if scored else "–".format
    table = pd.DataFrame(
        {
            "": np.where(rows["chosen"], "*", ""),
            "edit": rows["edit"],
            "kind": rows["kind"],
            "gain": rows["gain"].map(gain),
            "per MMAC": rows["per_mac"].map(gain),
            "MACs": ["+" + quantity(value) for value in rows["macs"]],
            "params": ["+" + quantity(value) for value in rows["params"]],
        }
    )
    which = "candidates with a smaller gain" if scored else "further candidates"
    more = f"\n{left_out} {which} are not shown" if left_out else ""
    told = "" if scored else f"; {NOT_SCORED}"
    return f"candidates at growth event {event}{told}\n{table_text(table)}{more}"
