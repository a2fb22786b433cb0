"""What a view asks of the data frames that a run gives, before it draws them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ghostkit.errors import GhostkitError

__all__ = ["check_columns"]


def check_columns(frame: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise if ``frame`` cannot be drawn; an empty frame can, whatever its columns.

    Args:
        frame: what the caller of a view gave.
        columns: the names that the view reads.
        what: the attribute of a run that has them: "metrics", "events", "candidates" or "architecture".

    Raises:
        GhostkitError: if a column is missing.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing and not frame.empty:
        raise GhostkitError(
            f"the {what} frame lacks the columns {missing}; it has {list(frame.columns)}. "
            f"Give the frame that a run returns (ghostkit.Run(folder).{what})"
        )
