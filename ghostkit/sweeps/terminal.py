"""A sweep as a terminal shows it: a bar with counts and the time left, or lines in a log where nothing can move."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from ghostkit.sweeps.events import RunEnded, SweepBegan, SweepEvent, Tally

__all__ = ["TerminalProgress"]


class TerminalProgress(AbstractContextManager["TerminalProgress"]):
    """Shows a sweep on standard error; call it with each event.

    Args:
        shown: whether anything is written at all.
    """

    def __init__(self, shown: bool = True) -> None:
        self.tally = Tally()
        self._console = Console(stderr=True, quiet=not shown)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            refresh_per_second=4,
        )
        self._bar = self._progress.add_task("starting", total=None)

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: SweepEvent) -> None:
        """Show what ``event`` changes; a run that did not end well gets a line that stays."""
        self.tally.take(event)
        tally = self.tally
        over = tally.runs - tally.left
        names = ", ".join(list(tally.running)[:2]) + (", ..." if len(tally.running) > 2 else "")
        self._progress.update(
            self._bar, total=tally.runs, completed=over, description=f"{tally}{'; ' * bool(names)}{names}"
        )
        match event:
            case RunEnded() if event.status != "done":
                self._console.print(str(event), markup=False, highlight=False, soft_wrap=True)
            case RunEnded() | SweepBegan() if self._progress.disable:
                self._console.print(str(tally), markup=False, highlight=False, soft_wrap=True)
