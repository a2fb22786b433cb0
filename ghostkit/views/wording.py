"""How every view words its numbers and sets its tables, in pictures and in their text twins alike.

Numbers carry SI prefixes and units. Nothing here knows what a figure or a network is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["axis_unit", "percent", "quantity", "sparkline", "table_text"]

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def axis_unit(values: Sequence[float] | np.ndarray | pd.Series, unit: str) -> tuple[float, str]:
    """Return the divisor and the prefixed unit in which an axis over ``values`` reads best, such as (1e6, "MMAC").

    Args:
        values: what the axis has to span, in ``unit``.
        unit: the unit without a prefix.
    """
    finite = np.abs(np.asarray(values, dtype=float))
    finite = finite[np.isfinite(finite)]
    largest = float(finite.max()) if finite.size else 0.0
    power = min(max(math.floor(math.log10(largest) / 3), 0), len(_PREFIXES) - 1) if largest > 0 else 0
    return 1000.0**power, _PREFIXES[power] + unit


def quantity(value: float | None, unit: str = "") -> str:
    """Return ``value`` with three significant digits, an SI prefix and its unit: ``1.20 MMAC``, ``34.5 k``.

    Args:
        value: the number, in ``unit``; None and NaN become a dash.
        unit: "MAC", "params" or nothing. A prefix is joined to MAC and stands before a space and any other unit.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1000:
        return f"{value:.0f} {unit}".rstrip()
    value = float(f"{value:.3g}")
    magnitude = math.floor(math.log10(abs(value)))
    power = min(max(magnitude // 3, 0), len(_PREFIXES) - 1)
    tail = _PREFIXES[power] + unit if unit == "MAC" else f"{_PREFIXES[power]} {unit}".strip()
    return f"{value / 1000.0**power:.{max(0, 2 - magnitude + 3 * power)}f} {tail}".rstrip()


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as a percentage with two decimals; None and NaN become a dash."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.2f} %"


def sparkline(values: Sequence[float] | np.ndarray | pd.Series, width: int = 32) -> str:
    """Return the course of ``values`` as one line of block characters.

    Args:
        values: the numbers in order; what is not finite is left out.
        width: characters at most.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ""
    kept = numbers[np.unique(np.linspace(0, numbers.size - 1, min(width, numbers.size)).round().astype(int))]
    low, high = float(kept.min()), float(kept.max())
    steps = (kept - low) / (high - low) * 7 if high > low else np.full(kept.size, 3.0)
    return "".join("▁▂▃▄▅▆▇█"[round(step)] for step in steps)


def table_text(frame: pd.DataFrame) -> str:
    """Return ``frame`` as aligned monospace text: words to the left, numbers to the right.

    Args:
        frame: any data frame, its cells already worded; the index is not shown.
    """
    if frame.empty:
        return "(nothing to show)"
    columns = []
    for name in frame.columns:
        cells = [str(name), *map(str, frame[name])]
        width = max(map(len, cells))
        worded = any(text[:1].isalpha() or text[:1] in "█▓░*" for text in cells[1:] if text)
        columns.append([cell.ljust(width) if worded else cell.rjust(width) for cell in cells])
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])
