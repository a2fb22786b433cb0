"""The results of a sweep as one tidy table: a row a run.

Columns: ``run``; the parameters as ``p.NAME``; what the notebook published as ``m.NAME``; what grew (``growth_events``,
``edits``, ``params``, ``macs``); ``seconds`` and ``peak_memory`` (bytes), which are the clock's; ``status`` ("done",
"failed", "interrupted" or "missing") and ``error``. So a parameter may have the name of a metric.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ghostkit.files import write_atomically
from ghostkit.sweeps.folder import State
from ghostkit.sweeps.record import Record

__all__ = ["CLOCK", "results_table", "write_results"]

CLOCK = ("seconds", "peak_memory")
GROWN = ("growth_events", "edits", "params", "macs")
FILE = "results.parquet"


def results_table(state: State) -> pd.DataFrame:
    """Return a row a run, in the order of the plan, whether it has ended or not, and then the finished earlier ones."""
    missing = Record("", "missing")
    rows = [*((run, state.records.get(run.name, missing)) for run in state.plan.runs), *state.earlier]
    frame = pd.DataFrame({"run": [run.name for run, _ in rows]})
    for name in state.plan.runs[0].parameters:
        frame[f"p.{name}"] = _column([run.parameters[name] for run, _ in rows])
    for name in sorted(_all(record.metrics for _, record in rows)):
        frame[f"m.{name}"] = pd.Series([record.metrics.get(name) for _, record in rows], dtype="float64")
    for name in GROWN:
        frame[name] = pd.Series([record.history.get(name) for _, record in rows], dtype="Int64")
    ended = [None if record is missing else record for _, record in rows]
    frame["seconds"] = pd.Series([record and record.seconds for record in ended], dtype="float64")
    frame["peak_memory"] = pd.Series([record and record.peak_memory for record in ended], dtype="Int64")
    frame["status"] = [record.status for _, record in rows]
    frame["error"] = [record.told for _, record in rows]
    return frame


def write_results(state: State) -> pd.DataFrame:
    """Write the table into the sweep's folder, and return it.

    Raises:
        GhostkitError: if it cannot be written.
    """
    frame = results_table(state)
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    write_atomically(state.folder / FILE, content.getvalue())
    return frame


def _all(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """Return every name once, in order of appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _column(values: list[Any]) -> pd.Series:
    """Return numbers, and other values of one kind, as they are, and the rest as JSON: a column has one type."""
    kinds = {type(value) for value in values if value is not None}
    kinds = {float} if kinds == {int, float} else kinds
    names = {bool: "boolean", int: "Int64", float: "float64"}
    if len(kinds) == 1 and (kind := kinds.pop()) in names and all(abs(value or 0) < 2**63 for value in values):
        return pd.Series(values, dtype=names[kind])
    if all(value is None or isinstance(value, str) for value in values):
        return pd.Series(values)
    return pd.Series([None if value is None else json.dumps(value) for value in values])
