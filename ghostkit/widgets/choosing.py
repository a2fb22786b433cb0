"""Several runs in one place: a list to choose from, and the explorer of the one that was chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets  # type: ignore[import-untyped]

from ghostkit.errors import GhostkitError
from ghostkit.runs import Run
from ghostkit.widgets.controls import dropdown, rows
from ghostkit.widgets.explorer import Explorer

__all__ = ["gallery", "run_names"]


def gallery(runs: Sequence[Run]) -> ipywidgets.VBox:
    """Return a widget that explores one of several runs.

    Args:
        runs: what there is to choose from; the first one is shown first.

    Raises:
        GhostkitError: if there is none.

    >>> gallery(find_runs("runs"))  # doctest: +SKIP
    """
    if not runs:
        raise GhostkitError("no run to explore; expected at least one, as ghostkit.runs.find_runs returns them")
    chooser = dropdown("run", "Which run is explored", list(zip(run_names(runs), range(len(runs)), strict=True)))
    chooser.layout.width = "auto"
    chooser.add_class("ghostkit-run")
    explored = ipywidgets.VBox()
    seen: dict[int, Explorer] = {}

    def explore(_change: Any = None) -> None:
        number = chooser.value
        explored.children = (ipywidgets.Label(f"reading {run_names(runs)[number]} …"),)
        try:
            if number not in seen:
                seen[number] = Explorer(runs[number])
            explored.children = (seen[number],)
        except GhostkitError as error:  # a run that cannot be read is read again when it is chosen again
            explored.children = (ipywidgets.Label(str(error)),)

    chooser.observe(explore, "value")
    explore()
    return ipywidgets.VBox([rows([chooser]), explored])


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return what to call some runs: their folders, without what is the same for all of them."""
    folders = [run.folder.resolve() for run in runs]
    shared = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [folder.relative_to(shared).as_posix() for folder in folders]
