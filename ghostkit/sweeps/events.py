"""What a sweep reports while it goes on, and the counts that a display makes of it.

A terminal, a widget and a log are fed the same small records, so all of them tell the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["RunBegan", "RunEnded", "SweepBegan", "SweepEvent", "Tally"]


@dataclass(frozen=True)
class SweepBegan:
    """A sweep is about to start.

    Args:
        runs: all of its runs.
        done: those of them that were finished before.
        workers: runs at a time.
        seconds: what finished runs took on average; None where none is finished.
    """

    runs: int
    done: int
    workers: int
    seconds: float | None = None


@dataclass(frozen=True)
class RunBegan:
    """A notebook was started.

    Args:
        run: name of the run.
    """

    run: str

    def __str__(self) -> str:
        return f"{self.run}: begun"


@dataclass(frozen=True)
class RunEnded:
    """A notebook has ended, well or not.

    Args:
        run: name of the run.
        status: "done", "failed" or "interrupted".
        seconds: what it took.
        error: what went wrong, in one line; empty if nothing did.
    """

    run: str
    status: str
    seconds: float
    error: str = ""

    def __str__(self) -> str:
        return f"{self.run}: {self.status} after {self.seconds:.1f} s{': ' * bool(self.error)}{self.error}"


SweepEvent = SweepBegan | RunBegan | RunEnded


@dataclass
class Tally:
    """How far a sweep is, counted from its events.

    Args:
        runs: all runs; ``done``, ``failed`` and ``interrupted`` of them are over.
        workers: runs at a time.
        running: names of the runs that are under way, and when each began.
    """

    runs: int = 0
    done: int = 0
    failed: int = 0
    interrupted: int = 0
    workers: int = 1
    running: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _seconds: float | None = None
    _ended: list[float] = field(default_factory=list)

    def take(self, event: SweepEvent) -> None:
        """Count what ``event`` says."""
        match event:
            case SweepBegan():
                self.runs, self.done, self.workers = event.runs, event.done, event.workers
                self.failed = self.interrupted = 0
                self._seconds, self._ended = event.seconds, []
                self.running.clear()
            case RunBegan():
                self.running[event.run] = self.clock()
            case RunEnded():
                self.running.pop(event.run, None)
                setattr(self, event.status, getattr(self, event.status) + 1)
                if event.status == "done":
                    self._ended.append(event.seconds)

    @property
    def left(self) -> int:
        """Runs that are not over."""
        return self.runs - self.done - self.failed - self.interrupted

    def seconds_left(self) -> float | None:
        """Return the seconds until the sweep is over, guessed from runs that are; None until one has finished."""
        if self._ended:
            typical = sum(self._ended) / len(self._ended)
        elif self._seconds is not None:
            typical = self._seconds
        else:
            return None
        spent = sum(min(self.clock() - began, typical) for began in self.running.values())
        return max(0.0, self.left * typical - spent) / max(1, min(self.workers, self.left))

    def __str__(self) -> str:
        left = duration(self.seconds_left()) if self.left else "none"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.runs} done, {len(self.running)} running{failed}, time left {left}"


def duration(seconds: float | None) -> str:
    """Return a time in words; None is unknown."""
    if seconds is None:
        return "unknown until one has finished"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
