"""A training on a thread of its own, and what may be asked of it while it goes on.

The trainer belongs to that thread alone. Whatever a person asks for (candidates, growth, undo, another budget) is put
into a queue and done there, between two events of the run; so is whatever looks at the network. The thread that asked
gets a future, and stays free. A run that is stopped has saved a checkpoint, and so has nothing to lose with the kernel.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

import pandas as pd
from IPython.core.getipython import get_ipython

from ghostkit.architecture import aged, describe
from ghostkit.errors import GhostkitError
from ghostkit.events import Evaluated, Event, Finished, Grown, StepDone
from ghostkit.growth.edits import Edit
from ghostkit.growth.history import GrowthEvent, history_of
from ghostkit.runs import Run, architectures, event_row, events_frame, metrics_frame
from ghostkit.trainer import Trainer

__all__ = ["Live", "Record", "State", "attended"]

State = Literal["ready", "training", "paused", "stopped", "finished", "failed"]
Answer = TypeVar("Answer")

POINTS = 400  # of the loss, step by step, over the whole run
OVER: tuple[State, ...] = ("finished", "failed")


@dataclass
class Record:
    """What has been seen of a run so far, as rows that data frames are made of.

    Args:
        metrics: a row a measurement, as in the metrics file.
        events: a row a growth event.
        blocks: the network as it is now, a row a block, with the events at which each came and grew last.
        seedling: the network as it was at first.
        steps: epoch and loss (nats), averaged over at least one step.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    blocks: pd.DataFrame = field(default_factory=pd.DataFrame)
    seedling: pd.DataFrame = field(default_factory=pd.DataFrame)
    steps: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, trainer: Trainer) -> Record:
        """Return what a run has come to before it goes on: nothing, or what its folder holds."""
        history = history_of(trainer.model)
        first, *later = architectures(history)
        metrics = [] if trainer.run is None else Run(trainer.run.folder).metrics.to_dict("records")
        events = [event_row(*numbered) for numbered in enumerate(history.events, start=1)]
        return cls(metrics, events, later[-1] if later else first, first)

    def metrics_frame(self) -> pd.DataFrame:
        """Return the measurements as :attr:`ghostkit.Run.metrics` does."""
        return metrics_frame(self.metrics)

    def events_frame(self) -> pd.DataFrame:
        """Return the growth events as :attr:`ghostkit.Run.events` does."""
        return events_frame(self.events)


class Live:
    """Trains on a daemon thread.

    Args:
        trainer: what is trained; it must not be used by another thread while this one lives. :meth:`of` returns the
            one training that a trainer has.
        changed: called, by the training thread, with every event of the run, and with None after whatever else may
            have changed something. An error in it is kept in ``trouble`` and stops nothing.

    >>> live = Live(Trainer(config, "runs/first"))
    >>> live.start()
    >>> live.grow(live.candidates().result()["edit"][0]).result().edits  # doctest: +SKIP
    """

    def __init__(self, trainer: Trainer, changed: Callable[[Event | None], None] = lambda _event: None) -> None:
        self.trainer = trainer
        self.state: State = "ready"
        self.record = Record.of(trainer)
        self.failure = ""  # the traceback that ended the run
        self.trouble = ""  # the traceback of the last error of who looks on, until they take it away
        self.changed = changed
        self._events: Generator[Event, None, None] | None = None
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._sum, self._count, self._kept_at = 0.0, 0, 0.0
        LIVES[id(trainer)] = self

    @classmethod
    def of(cls, trainer: Trainer) -> Live:
        """Return the training of ``trainer`` that there is already, or a new one; two would train into each other."""
        return LIVES.get(id(trainer)) or cls(trainer)

    # -- what a person may ask for; every method returns at once -------------------------------------------------------

    def start(self) -> None:
        """Train, or go on after a pause or a stop.

        Raises:
            GhostkitError: if the run is over, or has failed.
        """
        if self.state == "finished":
            raise GhostkitError("the run is over; start another one with a new Trainer")
        self._require_whole()
        self._ask(lambda: self._become("training"))

    def pause(self) -> None:
        """Wait after the step in hand; everything else can be asked for meanwhile."""
        self._ask(lambda: self._become("paused") if self.state == "training" else None)

    def stop(self) -> Future[None]:
        """Ask to end after the step in hand, with a checkpoint saved; :meth:`start` goes on from there.

        Where it cannot be saved, the future raises, and the run is paused.
        """
        return self.ask(lambda _trainer: self._stop())

    def candidates(self) -> Future[pd.DataFrame]:
        """Ask what could be grown now, best first; scoring counts as compute spent."""
        return self.ask(lambda trainer: trainer.candidates())

    def grow(self, edit: Edit) -> Future[GrowthEvent]:
        """Ask to apply ``edit``."""
        return self.ask(lambda trainer: self._kept(trainer.grow(edit)))

    def undo(self, event: int = -1) -> Future[GrowthEvent]:
        """Ask to take growth event number ``event`` back; -1 is the last one that still stands."""
        return self.ask(lambda trainer: self._kept(trainer.undo(event)))

    def steer(self, **values: Any) -> Future[GrowthEvent | None]:
        """Ask for another policy or budget; arguments as for :meth:`ghostkit.Trainer.steer`."""
        return self.ask(lambda trainer: self._noted(trainer.steer(**values)))

    def ask(self, question: Callable[[Trainer], Answer]) -> Future[Answer]:
        """Have ``question`` answered by the training thread, between two events of the run.

        Args:
            question: called with the trainer. What it raises, the future raises; the run goes on.

        Raises:
            GhostkitError: if the run has failed.
        """
        self._require_whole()
        future: Future[Answer] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(question(self.trainer))
            except BaseException as error:
                future.set_exception(error)
            self._tell(None)

        self._ask(answer)
        return future

    def join(self, timeout: float | None = None) -> None:
        """Wait, for ``timeout`` seconds at most, until the thread has ended: the run is over, stopped or failed."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _require_whole(self) -> None:
        if self.state == "failed":
            raise GhostkitError("the run has failed; make its Trainer again, which resumes from the last checkpoint")

    # -- the training thread -------------------------------------------------------------------------------------------

    def _ask(self, what: Callable[[], None]) -> None:
        with self._lock:
            self._asked.put(what)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ghostkit training", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Do what is asked for, and train; end when there is nothing to wait for."""
        while True:
            try:
                wish = self._asked.get(block=self.state == "paused")
            except queue.Empty:
                wish = None
            if wish is None and self.state != "training":
                with self._lock:  # whoever asks from now on gets a new thread
                    if self._asked.empty():
                        self._thread = None
                        return
                continue
            try:
                if wish is None:
                    self._events = self._events or iter(self.trainer)
                    self._see(next(self._events))
                else:
                    wish()
            except Exception:
                self.failure = traceback.format_exc()
                self._let_go()
                self._become("failed")

    def _see(self, event: Event) -> None:
        """Keep in the record what ``event`` says, and pass it on."""
        if isinstance(event, StepDone):
            self._sum, self._count = self._sum + event.loss, self._count + 1
            if not self.record.steps or self.trainer.done - self._kept_at >= 1 / POINTS:
                self.record.steps.append((self.trainer.epoch, self._sum / self._count))
                self._sum, self._count, self._kept_at = 0.0, 0, self.trainer.done
        elif isinstance(event, Evaluated):
            self.record.metrics += [event.train, event.row] if event.train else [event.row]
        elif isinstance(event, Grown):
            self._noted(event.event)
        elif isinstance(event, Finished):
            self.state = "finished"
            self._let_go()
        self._tell(event)

    def _noted(self, event: Any) -> Any:
        """Keep a growth event in the record, and return it."""
        if event is not None:
            number = len(self.record.events) + 1
            self.record.events.append(event_row(number, event))
            if event.edits:
                now = describe(self.trainer.model, self.trainer.engine.probe[0][:1])
                self.record.blocks = aged(self.record.blocks, now, number)
        return event

    def _kept(self, event: GrowthEvent) -> GrowthEvent:
        """Keep an event by hand in the record and, right after it, the network, as a run does after its own events."""
        self.trainer.save()
        if self.state == "finished":
            self.trainer.train()  # of which nothing is left, but to measure again for the closing numbers
        return self._noted(event)

    def _stop(self) -> None:
        if self.state in ("training", "paused"):
            try:
                self.trainer.save()
            except GhostkitError:
                self._become("paused")
                raise
            self._let_go()
            self._become("stopped")

    def _let_go(self) -> None:
        """Leave the run between two of its events, and its folder to others; who asks for the next one goes on."""
        if self._events is not None:
            self._events.close()
        self._events = None
        self.trainer.close()

    def _become(self, state: State) -> None:
        if self.state not in OVER:
            self.state = state
        self._tell(None)

    def _tell(self, event: Event | None) -> None:
        try:
            self.changed(event)
        except Exception:  # a picture that cannot be drawn must not stop a run
            self.trouble = traceback.format_exc()


LIVES: WeakValueDictionary[int, Live] = WeakValueDictionary()  # by the id of the trainer, which lives as long


def attended() -> bool:
    """Return whether somebody sits at the notebook, who could press a button.

    A notebook that is executed headless (papermill, nbclient) may not ask for input; one that is open in a browser may.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))
