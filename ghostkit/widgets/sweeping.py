"""A sweep as a notebook shows it while it goes on: a bar with counts and the time left, and the runs that went wrong.

The widget is fed the same events as the terminal, and changes what it shows instead of drawing it again.
"""

from __future__ import annotations

import html

import ipywidgets  # type: ignore[import-untyped]

from ghostkit.sweeps.events import RunEnded, SweepBegan, SweepEvent, Tally

__all__ = ["SweepProgress"]

SHOWN = 10  # runs that went wrong; the table has them all


class SweepProgress:
    """A widget that shows a sweep; call it with each event.

    >>> progress = SweepProgress()
    >>> display(progress.widget)
    >>> run_sweep("sweep.yaml", on_event=progress)
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.bar = ipywidgets.IntProgress(0, 0, 1, layout={"width": "100%", "max_width": "640px"})
        self.counts = ipywidgets.Label("not begun")
        self.running = ipywidgets.Label("")
        self.trouble = ipywidgets.HTML("")
        self.widget = ipywidgets.VBox([self.bar, self.counts, self.running, self.trouble])
        self._troubles: list[str] = []

    def __call__(self, event: SweepEvent) -> None:
        """Show what ``event`` changes."""
        self.tally.take(event)
        tally = self.tally
        if isinstance(event, SweepBegan):
            self._troubles, self.trouble.value = [], ""
        self.bar.max, self.bar.value = max(1, tally.runs), tally.runs - tally.left
        self.bar.bar_style = "danger" if tally.failed else "success" if not tally.left else ""
        self.counts.value = str(tally)
        self.running.value = f"running: {', '.join(tally.running)}" if tally.running else ""
        if isinstance(event, RunEnded) and event.status != "done":
            self._troubles.append(str(event))
            lines = "<br>".join(html.escape(line) for line in self._troubles[-SHOWN:])
            more = f"<br>and {len(self._troubles) - SHOWN} before these" if len(self._troubles) > SHOWN else ""
            self.trouble.value = f"{lines}{more}"

    def __repr__(self) -> str:
        return "\n".join([str(self.tally), *self._troubles])
