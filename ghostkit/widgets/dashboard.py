"""A training to look at and to steer while it goes on: start, pause, stop, grow now, undo, another policy or budget.

The dashboard is thin. The training thread belongs to :mod:`ghostkit.live`; here is what is seen of it. The thread tells
of every event, and the dashboard pours what is new into figures that stay: the curves into one live figure, anything
else into outputs. Drawing may take a fiftieth of the time at most, so what takes long to draw is drawn less often.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, get_args

import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ghostkit.engine import plain_rows
from ghostkit.errors import GhostkitError
from ghostkit.events import Event, StepDone
from ghostkit.growth.policy import When, Where
from ghostkit.live import Live, State, attended
from ghostkit.steering import steered
from ghostkit.trainer import Trainer
from ghostkit.views.candidates import candidate_scores
from ghostkit.views.curves import curves_drawn, training_curves
from ghostkit.views.networks import architecture_drawn, architecture_text
from ghostkit.views.report import CONFIG, Shown, show
from ghostkit.views.theme import Drawn
from ghostkit.views.wording import quantity
from ghostkit.widgets.controls import button, dropdown, number, offer, place, put, rows

__all__ = ["Dashboard"]

SHARE = 0.02  # of the time that drawing may take
SECONDS = 0.2  # between two looks at the least
POURED = ("x", "y", "text", "hovertext", "customdata", "mode", "name", "legendgroup", "showlegend", "hovertemplate")
AGED = ("color", "cmax")  # of the marks that are coloured by age; a browser loses markers that are poured whole
WORDS: dict[State, str] = {
    "ready": "ready: press start",
    "training": "training",
    "paused": "paused",
    "stopped": "stopped, a checkpoint is saved",
    "finished": "finished",
    "failed": "failed",
}


class Dashboard(ipywidgets.VBox):
    """A widget that trains on a thread of its own, so that the kernel stays free for other cells.

    Args:
        trainer: what is trained. It belongs to the dashboard from now on: ask ``dashboard.live`` for whatever is wanted
            of it. Another dashboard of the same trainer shows the same training, in the place of this one.

    >>> dashboard = Dashboard(Trainer(config, "runs/by-hand"))  # doctest: +SKIP
    """

    def __init__(self, trainer: Trainer) -> None:
        self.live = Live.of(trainer)
        self.candidates = pd.DataFrame()
        self._controls = _controls(trainer)
        self._status, self._message = ipywidgets.HTML(), ipywidgets.HTML()
        self._bar = ipywidgets.FloatProgress(min=0, max=1, layout={"width": "98%"}, tooltip="Share of the run done")
        self._curves = go.FigureWidget(training_curves(*self._frames()).update_layout(autosize=True))
        self._curves._config = CONFIG
        self._blocks, self._scores = place(240), place()
        self._looked_at = self._drawn_at = self._drawn_for = 0.0
        self._drawn = (-1, -1)  # rows of metrics and events when the figures were drawn last
        self._wire()
        c = self._controls
        super().__init__(
            [
                rows(
                    (c["start"], c["pause"], c["stop"], self._status),
                    (self._bar,),
                    (c["look"], c["candidates"], c["grow"], c["undo"]),
                    (c["when"], c["where"], c["grow_every"], c["grow_until"], c["share"], c["budget_macs"]),
                    (self._message,),
                ),
                self._curves,
                self._blocks,
                self._scores,
            ]
        )
        named = {"status": self._status, "message": self._message, "architecture": self._blocks, "scores": self._scores}
        for name, widget in {**c, **named, "curves": self._curves}.items():
            widget.add_class(f"ghostkit-{name.replace('_', '-')}")
        self.draw()
        self.live.changed = self._told  # from here on, in the training thread

    # -- without anybody there ----------------------------------------------------------------------------------------

    def run_unattended(self) -> Shown | None:
        """Where nobody is there to press start, train to the end and return the curves; otherwise do nothing.

        Raises:
            GhostkitError: if the run failed.
        """
        return None if attended() else self.train()

    def train(self) -> Shown:
        """Train to the end, wait for it, and return the curves as a figure that stays.

        Raises:
            GhostkitError: if the run failed.
        """
        self.live.start()
        self.live.join()
        if self.live.state == "failed":
            raise GhostkitError(f"the run failed: {self.live.failure.strip().splitlines()[-1]}")
        return show(training_curves(*self._frames()))

    # -- what is seen --------------------------------------------------------------------------------------------------

    def _told(self, event: Event | None) -> None:
        """Draw, in the training thread, what an event changed, if it is time to."""
        now = time.perf_counter()
        if isinstance(event, StepDone) and now - self._looked_at < SECONDS:
            return
        self._looked_at = now
        if self.live.state != "training" or now - self._drawn_at >= max(SECONDS, self._drawn_for / SHARE):
            self.draw()
        else:
            self._tell_status()

    def draw(self) -> None:
        """Draw everything that is new."""
        started = time.perf_counter()
        self._tell_status()
        record = self.live.record
        now = len(record.metrics), len(record.events)
        if now != self._drawn:
            self._pour(curves_drawn(*self._frames()))
            if now[1] != self._drawn[1]:
                grown = record.blocks if any(event["edits"] for event in record.events) else None
                shown = record.seedling, grown, ("at first", "now")
                put(self._blocks, architecture_drawn(*shown, last_event=now[1]), architecture_text(*shown))
            self._drawn = now
        elif record.steps:  # between two measurements, the loss alone goes on
            self._pour(curves_drawn(pd.DataFrame(), None, self._steps()), traces=1)
        if self.live.trouble:  # of an earlier time
            self.live.trouble = ""
            self._say("")
        self._drawn_at = time.perf_counter()
        self._drawn_for = self._drawn_at - started

    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        record = self.live.record
        return record.metrics_frame(), record.events_frame(), self._steps()

    def _steps(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.live.record.steps), columns=["epoch", "loss"])

    def _pour(self, drawn: Drawn, traces: int | None = None) -> None:
        """Pour the curves, as they are now, into the live figure; the first ``traces`` of them, or all."""
        shown, partly = self._curves, traces is not None
        with shown.batch_update():
            for old, new in zip(shown.data[:traces], drawn.traces[:traces], strict=True):
                _renew(old, new, POURED)
                if "colorscale" in new.get("marker", {}):
                    _renew(old.marker, new["marker"], AGED)
            for name in ("xaxis",) if partly else ("xaxis", "yaxis3", "yaxis4"):
                shown.layout[name].update(drawn.layout[name])
            if not partly or shown.layout.annotations:
                shown.layout.annotations = drawn.layout["annotations"]

    def _tell_status(self) -> None:
        live, c = self.live, self._controls
        trainer, state = live.trainer, live.state
        size = f"{quantity(trainer.engine.params, 'params')} · {quantity(trainer.engine.macs, 'MAC')} per image"
        loss = f" · loss {live.record.steps[-1][1]:.3f} nats" if live.record.steps else ""
        told = f"{trainer.done:.0%} · epoch {trainer.epoch:.2f} · step {trainer.progress.step:,}{loss} · {size}"
        left = trainer.progress.seconds * (1 - trainer.done) / trainer.done if trainer.done else 0.0
        minutes, seconds = divmod(round(left), 60)
        wait = f" · about {minutes}:{seconds:02} min left" if left and state == "training" else ""
        self._status.value = f"<b>{WORDS[state]}</b> · {told}{wait}"
        self._bar.value = trainer.done
        c["start"].description = "resume" if state in ("paused", "stopped") else "start"
        c["start"].disabled = state in ("training", "finished", "failed")
        c["pause"].disabled = state != "training"
        c["stop"].disabled = state not in ("training", "paused")
        for name in ("look", "candidates", "grow", "undo", *KNOBS):
            c[name].disabled = state == "failed" or (state == "finished" and name in KNOBS)
        if live.failure:
            self._say(live.failure, "The run failed; what its last checkpoint holds can be resumed by a new Trainer.")
        elif live.trouble:
            self._say(live.trouble, "Something could not be drawn; the run goes on.")

    def _say(self, text: str, heading: str = "") -> None:
        """Show a message, or an error with its heading, below the controls."""
        shown = f"<pre>{html.escape(text)}</pre>" if heading else html.escape(text)
        self._message.value = f"<b>{html.escape(heading)}</b>{shown}" if heading else shown

    # -- what is asked for ---------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        c, live = self._controls, self.live
        c["start"].on_click(lambda _: self._try(live.start))
        c["pause"].on_click(lambda _: live.pause())
        c["stop"].on_click(lambda _: self._ask(live.stop, lambda _: self._say(""), "saving a checkpoint …"))
        c["look"].on_click(lambda _: self._ask(live.candidates, self._list, "scoring what could be grown …"))
        c["grow"].on_click(lambda _: self._grow())
        c["undo"].on_click(lambda _: self._ask(live.undo, self._tell_event, "taking the last event back …"))
        for name in KNOBS:
            c[name].observe(lambda change, name=name: self._steer(name, change["new"]), "value")

    def _try(self, what: Callable[[], Any]) -> Any:
        """Do ``what``, and show an error instead of raising it."""
        try:
            return what()
        except GhostkitError as error:
            self._say(str(error))
            return None

    def _ask(self, what: Callable[[], Future[Any]], then: Callable[[Any], None], meanwhile: str) -> None:
        """Ask the training thread for something, and go on with its answer in that thread."""
        self._say(meanwhile)

        def answered(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                self._try(lambda: then(future.result()))
            else:
                self._say(str(error))
            self._show_knobs()

        future = self._try(what)
        if future is not None:
            future.add_done_callback(answered)

    def _list(self, frame: pd.DataFrame) -> None:
        """Offer the candidates, best first, and show what they are predicted to bring."""
        self.candidates = frame
        offered = [(f"{row.edit}  {row.gain:+.3g} nats, {quantity(row.macs, 'MAC')}", n) for n, row in _best(frame)]
        offer(self._controls["candidates"], offered, 0)
        if offered:
            number = len(self.live.record.events) + 1
            table = pd.DataFrame(plain_rows(frame, ())).assign(event=number)
            put(self._scores, candidate_scores(table, number))
        self._say(f"{len(frame)} candidates, the best of them in the list" if offered else "there is no candidate")

    def _grow(self) -> None:
        chosen = self._controls["candidates"].value
        if chosen is None:
            self._say("press look first: it scores what could be grown, and lists it here")
            return
        edit = self.candidates["edit"].tolist()[chosen]
        self._ask(lambda: self.live.grow(edit), self._tell_event, f"growing {edit} …")

    def _tell_event(self, event: Any) -> None:
        """Say what an event by hand did; the candidates from before it no longer hold."""
        self.candidates, self._controls["candidates"].options = pd.DataFrame(), []
        done = ", ".join(map(str, event.edits))
        moved = event.max_logit_change
        change = "" if moved is None else f"; the outputs moved by {moved:.2g} at most"
        self._say(f"{event.reason}: {done}{change}")

    def _show_knobs(self) -> None:
        """Let the knobs stand at what the run goes by, whatever was asked for."""
        for name, value in _knobs(self.live.trainer).items():
            self._controls[name].value = value

    def _steer(self, name: str, value: Any) -> None:
        if value == _knobs(self.live.trainer)[name]:
            return
        value = round(value * 1e6) if name == "budget_macs" else value
        self._ask(lambda: self.live.steer(**{name: value}), lambda event: self._say(event.reason if event else ""), "")


KNOBS = ("when", "where", "grow_every", "grow_until", "share", "budget_macs")
LISTED = 30  # candidates to choose from at most


def _knobs(trainer: Trainer) -> dict[str, Any]:
    """Return what the knobs show of what the run goes by now; the budget in millions, 0 where there is none."""
    now = steered(trainer.engine)
    return {name: (now[name] or 0) / 1e6 if name == "budget_macs" else now[name] for name in KNOBS}


def _controls(trainer: Trainer) -> dict[str, Any]:
    """Return the controls by name, the knobs at what the run goes by now."""
    now = _knobs(trainer)
    wide: dict[str, Any] = {"layout": {"width": "460px"}}
    return {
        "start": button("start", "Train, or go on", "play", button_style="primary"),
        "pause": button("pause", "Wait after the step in hand", "pause"),
        "stop": button("stop", "End after the step in hand and save a checkpoint to go on from", "stop"),
        "look": button("look", "Score what could be grown now; takes as long as a few steps", "search"),
        "candidates": dropdown("candidate", "What could be grown now, the highest gain first", [], **wide),
        "grow": button("grow now", "Grow the chosen candidate; the network computes the same right after", "leaf"),
        "undo": button("undo", "Take the last growth event back", "undo"),
        "when": dropdown("when", "What triggers a growth event", get_args(When), value=now["when"]),
        "where": dropdown("where", "How candidates are ranked", get_args(Where), value=now["where"]),
        "grow_every": number("every", "Share of the run between two growth events, 0 to 1", now["grow_every"]),
        "grow_until": number("until", "No growth after this share of the run, 0 to 1", now["grow_until"]),
        "share": number("share", "Share of the budget's room that one event may spend, 0 to 1", now["share"]),
        "budget_macs": number(
            "MMAC", "Budget: millions of MACs per image that growth may not exceed", now["budget_macs"]
        ),
    }


def _best(frame: pd.DataFrame) -> list[tuple[int, Any]]:
    """Return the first candidates with their numbers."""
    return list(enumerate(frame.head(LISTED).itertuples()))


def _renew(part: Any, values: dict[str, Any], names: Sequence[str]) -> None:
    """Give a part of a live figure those of ``values`` that it does not have yet."""
    for name in names:
        if values.get(name) is not None and not _same(part[name], values[name]):
            part[name] = values[name]


def _same(old: Any, new: Any) -> bool:
    """Return whether a trace has these values already."""
    if old is None:
        return False
    if isinstance(new, str | int):
        return bool(old == new)
    return len(old) == len(new) and bool(np.array_equal(np.asarray(old), np.asarray(new)))
