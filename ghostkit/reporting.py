"""What a comparison is told as: text for a terminal, figures for a notebook, files for everything else.

`ghostkit compare` and its notebook say the same, because both say what stands here. Nothing is computed but in
:mod:`ghostkit.comparing`, and nothing is drawn but in :mod:`ghostkit.views`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from ghostkit import views
from ghostkit.comparing import Comparison, UnknownGroupError, alike, compare
from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.runs import Run
from ghostkit.views.page import Heading, Part, write_page

__all__ = ["compare_all", "comparison_figures", "comparison_text", "export_comparisons"]


def compare_all(runs: Sequence[Run], reference: str | None = None) -> dict[str, Comparison]:
    """Return a comparison for each thing that some of the runs were judged on, by what it is.

    Args:
        runs: any number, of any tasks and data.
        reference: the group, or a run in it, that others are measured against; one of the comparisons has to have it,
            and the best group is it in those that do not.

    Raises:
        UnknownGroupError: if no comparison has the reference.
    """
    comparisons: dict[str, Comparison] = {}
    unknown: list[UnknownGroupError] = []
    for what, some in alike(runs).items():
        try:
            comparisons[what] = compare(some, reference)
        except UnknownGroupError as error:
            unknown.append(error)
            comparisons[what] = compare(some)
    if unknown and len(unknown) == len(comparisons):
        raise unknown[0]
    return comparisons


def comparison_text(comparison: Comparison) -> str:
    """Return the ranked table, the differences to the reference, and what a reader of them must know."""
    blocks = [views.table_text(views.ranking_table(comparison.groups, comparison.metric, comparison.split))]
    if comparison.differences["difference"].notna().any():
        blocks.append(views.difference_forest_text(comparison.differences))
    if comparison.notes:
        blocks.append("\n".join(f"* {note}" for note in comparison.notes))
    return "\n\n".join(blocks)


def comparison_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """Return the four figures of a comparison, by what they show."""
    over = comparison.finished()
    return {
        "What was reached for which compute": views.compute_accuracy(
            {group: [run.metrics for run in runs] for group, runs in over.items()}, spread=True
        ),
        "Differences": views.difference_forest(comparison.differences, comparison.metric, comparison.split),
        "Which parameters led where": views.parallel_parameters(
            comparison.table, comparison.parameters, comparison.metric, comparison.split
        ),
        "How they grew": views.growth_histories(
            {group: [(run.metrics, run.events) for run in runs] for group, runs in over.items()}
        ),
    }


def export_comparisons(comparisons: Mapping[str, Comparison], folder: str | Path) -> list[Path]:
    """Write comparisons as comparison.csv and comparison.parquet, a row a run, and as the page comparison.html.

    Args:
        comparisons: what the runs were judged on -> their comparison, as :func:`ghostkit.comparing.alike` sorts them.
        folder: made if missing; older files are replaced.

    Raises:
        GhostkitError: if they cannot be written.
    """
    place = Path(folder)
    table = pd.concat([one.table.assign(judged_on=what) for what, one in comparisons.items()], ignore_index=True)
    parts: list[Part] = []
    for what, one in comparisons.items():
        parts += [Heading(what), views.ranking_table(one.groups, one.metric, one.split)]
        if one.reference is not None and len(one.differences):
            parts += [f"Points above {one.reference}:", views.difference_table(one.differences)]
        parts += one.notes
        for title, figure in comparison_figures(one).items():
            parts += [Heading(title), figure]
        parts += [Heading("All runs"), _worded(one)]
    paths = [place / f"comparison.{kind}" for kind in ("csv", "parquet", "html")]
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(paths[0], table.to_csv(index=False))
        write_atomically(paths[1], table.to_parquet(index=False))
    except (OSError, ValueError) as error:
        raise GhostkitError(f"cannot write the comparison into {str(folder)!r}: {error}") from None
    write_page("Runs compared", parts, paths[2])
    return paths


def _worded(comparison: Comparison) -> pd.DataFrame:
    """Return the table of runs with its numbers worded."""
    table, metric = comparison.table, comparison.metric
    units = {"params": "", "macs": "MAC", "milliseconds": "ms", "compute": "MAC", "seconds": "s"}
    worded = table.drop(columns="folder").astype(object)
    for name, unit in units.items():
        worded[name] = [views.quantity(value, unit) for value in table[name].astype(float)]
    for name in (metric, "progress"):
        worded[name] = [views.percent(value) for value in table[name].astype(float)]
    return worded.where(worded.notna(), "–")
