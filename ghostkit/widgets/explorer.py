"""A run to look into: a slider over its growth events, and what the network was, saw and could do at each of them.

The explorer is thin. :mod:`ghostkit.exploring` finds out, the figures of this package draw, and here is what the
controls ask for. Only the section that is open is drawn, into outputs that stay. What takes long says so; what goes
wrong is told in a line, and the controls go on.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import pandas as pd
import plotly.graph_objects as go

from ghostkit.data import ImageData
from ghostkit.errors import GhostkitError
from ghostkit.exploring import END, Exploration
from ghostkit.metrics import METRICS
from ghostkit.predicting import Prediction
from ghostkit.runs import Run
from ghostkit.views.candidates import candidate_scores
from ghostkit.views.colouring import COLOURS
from ghostkit.views.comparison import compute_accuracy
from ghostkit.views.features import feature_mosaic
from ghostkit.views.histories import growth_histories
from ghostkit.views.networks import architecture
from ghostkit.views.pictures import predictions
from ghostkit.views.similarity import branch_similarity
from ghostkit.views.wording import percent, quantity, table_text
from ghostkit.widgets.controls import (
    beside,
    button,
    choice,
    clear,
    dropdown,
    offer,
    place,
    put,
    rows,
    slider,
    stops,
)

__all__ = ["Explorer"]

SECTIONS = (
    ("growth", "What grew at an event, why there, and what else could have"),
    ("feature maps", "What a ghost module makes of an image, and how alike its branches are"),
    ("switch off", "What the network can do without a block or a branch"),
    ("two runs", "This run beside another one, equally far"),
)
PICTURES = {
    "growth": ("architecture", "candidates"),
    "feature maps": ("mosaic", "predicted", "similarity"),
    "switch off": ("before", "after"),
    "two runs": ("curves", "histories", "both"),
}
BESIDE = (("the event before", "before"), ("the seedling", "seedling"), ("the end", "end"))
OTHER = ("the other run, as far", "other")
IMAGES = 64  # images to choose from
COUNTS = (64, 256, 1024, 4096)  # images that a network is measured on
SHOWN = 3  # of them, those whose loss a part changes most
NOTHING = "nothing"
MONOSPACED = "font-family: monospace; line-height: 1.4; margin: 8px 0"
PLACES = {
    "architecture": 300,
    "candidates": 0,
    "mosaic": 300,
    "predicted": 0,
    "similarity": 0,
    "before": 0,
    "after": 0,
    "curves": 300,
    "histories": 0,
    "both": 0,
}


class Explorer(ipywidgets.VBox):
    """A widget that explores one run, also while it is still written, and compares it with another one.

    Args:
        run: the run, or its folder.
        other: a second run, or its folder; runs beside the first are offered in any case.
        data: the images of the run, where they are already loaded.

    Raises:
        GhostkitError: if there is no such run.

    >>> Explorer("runs/first", other="runs/second")  # doctest: +SKIP
    """

    def __init__(
        self, run: Run | str | Path, other: Run | str | Path | None = None, data: ImageData | None = None
    ) -> None:
        self.explored = Exploration(run, data)
        self.other = None if other is None else Exploration(other, data)
        self._runs = _runs_beside(self.explored.run, self.other)
        self._controls = c = _controls(self.explored.events, [name for name, _ in self._runs], self.other is not None)
        self._places = {name: place(height) for name, height in PLACES.items()}
        self._told, self._table = ipywidgets.HTML(), ipywidgets.HTML()
        self._message, self._busy = ipywidgets.HTML(), ipywidgets.HTML()
        self._wanted: dict[str, Any] = {"layer": None, "part": None}  # chosen, also where an event has no such thing
        self._changing = False  # the explorer itself changes its controls
        p = self._places
        self._sections = {
            "growth": ipywidgets.VBox(
                [rows((c["beside"], c["colour"])), self._told, p["architecture"], p["candidates"]]
            ),
            "feature maps": ipywidgets.VBox(
                [rows((c["layer"], c["image"])), p["mosaic"], beside(p["predicted"], p["similarity"])]
            ),
            "switch off": ipywidgets.VBox([rows((c["part"], c["images"])), self._table, p["before"], p["after"]]),
            "two runs": ipywidgets.VBox(
                [rows((c["other"],)), beside(p["curves"], p["histories"], least=420), p["both"]]
            ),
        }
        self._section = ipywidgets.VBox()
        head = rows((c["event"], c["previous"], c["next"], c["refresh"], self._busy), (c["section"],))
        super().__init__([head, self._message, self._section])
        words = {"told": self._told, "table": self._table, "message": self._message, "busy": self._busy}
        for name, widget in {**c, **p, **words}.items():
            widget.add_class(f"ghostkit-{name}")
        for name in ("event", "section", "beside", "colour", "layer", "image", "part", "images", "other"):
            c[name].observe(lambda change, name=name: self._chosen(name, change["new"]), "value")
        c["previous"].on_click(lambda _: self._turn(-1))
        c["next"].on_click(lambda _: self._turn(1))
        c["refresh"].on_click(lambda _: self._refresh())
        self.draw()

    @property
    def text(self) -> str:
        """What the open section shows, in words and tables."""
        shown = PICTURES[self._controls["section"].value]
        twins = [output["data"]["text/plain"] for name in shown for output in self._places[name].outputs]
        return "\n\n".join([str(self.explored.run), *twins])

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": self.text}

    # -- what the controls ask for -------------------------------------------------------------------------------------

    def _chosen(self, name: str, value: Any) -> None:
        if not self._changing:
            if name in self._wanted:
                self._wanted[name] = value
            self.draw()

    def _turn(self, by: int) -> None:
        event = self._controls["event"]
        event.index = min(max(event.index + by, 0), len(event.options) - 1)

    def _refresh(self) -> None:
        """Read the run again; who looked at its end still does."""
        event = self._controls["event"]
        for seen in filter(None, (self.explored, self.other)):
            if not self._try(seen.refresh):
                self._clear(self._controls["section"].value)
                return
        with self._own_changes():
            offer(event, _moments(self.explored.events), event.value)
        self.draw()

    @contextmanager
    def _own_changes(self) -> Any:
        self._changing = True
        try:
            yield
        finally:
            self._changing = False

    def _try(self, what: Callable[[], Any]) -> bool:
        """Do ``what``, and show an error instead of losing it: nobody would see what a callback raises.

        Returns:
            Whether it was done.
        """
        try:
            what()
            return True
        except GhostkitError as error:
            self._say(str(error))
        except Exception as error:  # whatever it is, the controls go on
            self._say(f"{type(error).__name__}: {error}")
        return False

    def _clear(self, name: str) -> None:
        """Show nothing in a section any more."""
        for picture in PICTURES[name]:
            clear(self._places[picture])
        self._table.value = ""

    def _say(self, text: str) -> None:
        self._message.value = f"<b>This could not be shown.</b> {html.escape(text)}" if text else ""

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw the section that is open, for the event that the slider is at."""
        c, name = self._controls, self._controls["section"].value
        event = c["event"].value
        c["previous"].disabled, c["next"].disabled = event == 0, event == END
        if self._section.children != (self._sections[name],):
            self._clear(name)  # JupyterLab would show a frozen image of what was here before
            self._section.children = (self._sections[name],)
        draw = {
            "growth": self._draw_growth,
            "feature maps": self._draw_maps,
            "switch off": self._draw_parts,
            "two runs": self._draw_runs,
        }[name]
        self._say("")
        self._busy.value = "working …"
        if not self._try(lambda: draw(event)):
            self._clear(name)
        self._busy.value = ""

    def _draw_growth(self, event: int) -> None:
        c, run = self._controls, self.explored.run
        self._told.value = _told(self.explored, event)
        if event > 0:
            put(self._places["candidates"], candidate_scores(run.candidates, event))
        else:
            clear(self._places["candidates"])
        colour, named = c["colour"].value, _named(event)
        if colour == "importance":
            self._busy.value = "working: the loss without each block …"
        weighed = colour == "importance"
        now = self.explored.architecture(event, weighed)
        with_what = c["beside"].value
        if with_what == "other" and self.other is not None:
            there = self.other.event_at(self.explored.progress(event))
            pair = [(now, f"{named}, this run"), (self.other.architecture(there, weighed), f"{_named(there)}, other")]
        else:
            earlier = max((self.explored.events if event == END else event) - 1, 0)
            number = {"before": earlier, "seedling": 0, "end": END}[with_what]
            pair = [(now, named), (self.explored.architecture(number, weighed), _named(number))]
            pair = pair if with_what == "end" else pair[::-1]
        (left, left_name), (right, right_name) = pair
        last = max(one.events for one in (self.explored, self.other) if one is not None)
        figure = architecture(left, right, (left_name, right_name), last, colour)
        put(self._places["architecture"], figure)

    def _draw_maps(self, event: int) -> None:
        c, seen = self._controls, self.explored
        known = seen.layers(event)
        wanted = self._wanted["layer"]
        with self._own_changes():
            offer(c["layer"], [(path, path) for path in known], wanted)
            c["image"].max = max(min(IMAGES, len(seen.data.judged)) - 1, 0)
        layer, number = c["layer"].value, c["image"].value
        if layer is None:
            raise GhostkitError("this network has no ghost module; there are no ghost maps to show")
        maps, intrinsic = seen.maps(event, layer, number)
        title = f"{layer} · {_named(event)} · {seen.data.judged_on} image {number}"
        put(self._places["mosaic"], feature_mosaic(maps, intrinsic, title))
        found = seen.predictions(event, None, [number])
        put(self._places["predicted"], predictions(found, seen.data.classes, seen.task, columns=1))
        put(self._places["similarity"], branch_similarity(seen.similarity(event, layer), f"{layer}: how alike"))
        self._note(event, f"{wanted} is not there yet, or no more" if wanted not in (None, layer) else "")

    def _draw_parts(self, event: int) -> None:
        c, seen = self._controls, self.explored
        with self._own_changes():
            offered = [(NOTHING, None), *((part.label, part) for part in seen.parts(event))]
            offer(c["part"], offered, self._wanted["part"])
            there = len(seen.data.judged)
            counts = [count for count in COUNTS if count < there]
            offer(c["images"], [(f"{count:,}", count) for count in [*counts, there]], c["images"].value)
        part, images = c["part"].value, c["images"].value
        self._busy.value = f"working: {images:,} {seen.data.judged_on} images, twice …"
        whole = seen.scores(event, None, images)
        without = whole if part is None else seen.scores(event, part, images)
        label = NOTHING if part is None else part.label
        self._table.value = f"<pre style='{MONOSPACED}'>{html.escape(_scores_text(whole, without, label))}</pre>"
        looked_at = range(min(IMAGES, there))
        before = seen.predictions(event, None, looked_at)
        after = before if part is None else seen.predictions(event, part, looked_at)
        change = [abs(b.loss - a.loss) for a, b in zip(before, after, strict=True)]
        most = sorted(looked_at, key=lambda number: -change[number])[:SHOWN]
        changed = f"whole: the {seen.data.judged_on} images that this changes most"
        heading = "as it is" if part is None else changed
        put(self._places["before"], self._predicted([before[number] for number in most], heading))
        if part is None:
            clear(self._places["after"])
        else:
            put(self._places["after"], self._predicted([after[number] for number in most], f"without {label}"))
        self._note(event, "")

    def _predicted(self, found: list[Prediction], heading: str) -> go.Figure:
        """Return a picture of predictions under a heading."""
        task = self.explored.task
        figure = predictions(found, self.explored.data.classes, task, columns=SHOWN if task == "classification" else 2)
        room = 18
        margin = figure.layout.margin.t + room
        return figure.update_layout(title={"text": heading}, height=figure.layout.height + room, margin_t=margin)

    def _draw_runs(self, event: int) -> None:
        chosen = self._controls["other"].value
        if chosen is None:
            raise GhostkitError("there is no other run beside this one; give one: Explorer(run, other)")
        run = self._runs[chosen][1]
        if self.other is None or self.other.run.folder != run.folder:
            self.other = Exploration(run)
        mine, its = "this run", self._runs[chosen][0]
        both = {mine: self.explored, its: self.other}
        put(self._places["curves"], compute_accuracy({label: one.run.metrics for label, one in both.items()}))
        stairs = {label: [(one.run.metrics, one.run.events)] for label, one in both.items()}
        put(self._places["histories"], growth_histories(stairs))
        there = self.other.event_at(self.explored.progress(event))
        titles = (f"{mine}, {_named(event)}", f"{its}, {_named(there)}")
        frames = self.explored.architecture(event), self.other.architecture(there)
        put(self._places["both"], architecture(*frames, titles, max(one.events for one in both.values())))

    def _note(self, event: int, more: str) -> None:
        """Say what a network at an event exactly is, where it is not the one right after it."""
        note = "; ".join(filter(None, (self.explored.network(event).note, more)))
        self._message.value = f"Note: {html.escape(note)}." if note else ""


def _controls(events: int, runs: list[str], other: bool) -> dict[str, Any]:
    """Return the controls by name; each says what it is, and what it does when it is pointed at."""
    wide: dict[str, Any] = {"layout": {"width": "440px"}}
    beside = [*BESIDE, *([OTHER] if other else [])]
    many: dict[str, Any] = {"layout": {"width": "380px"}}
    return {
        "event": stops("event", "The growth event after which the network is looked at", _moments(events), END, **many),
        "previous": button("previous", "Go to the event before", "arrow-left"),
        "next": button("next", "Go to the event after", "arrow-right"),
        "refresh": button("refresh", "Read what a run that goes on has written since", "refresh"),
        "section": choice(SECTIONS),
        "beside": dropdown("beside", "What the network is shown beside", beside),
        "colour": dropdown("colour", "What the colour of a block says", [(word, word) for word in COLOURS]),
        "layer": dropdown("layer", "The ghost module whose maps are shown", [], **wide),
        "image": slider("image", "Which image the maps are made from", 0, IMAGES - 1, 0),
        "part": dropdown("without", "The block or branch that is switched off", [(NOTHING, None)], **wide),
        "images": dropdown("images", "How many images it is measured on", [(f"{COUNTS[1]}", COUNTS[1])]),
        "other": dropdown("other run", "The run to compare with", [(name, n) for n, name in enumerate(runs)], **wide),
    }


def _runs_beside(run: Run, other: Exploration | None) -> list[tuple[str, Run]]:
    """Return what the run can be compared with, by name: the one that was given, and those of its task beside it."""
    given = [] if other is None else [other.run]
    folders = sorted(path.parent for path in run.folder.resolve().parent.glob("*/history.jsonl"))
    known = {one.folder.resolve() for one in (run, *given)}
    near = _of_task(run.config.task, [folder for folder in folders if folder not in known])
    return [(one.folder.resolve().name, one) for one in [*given, *near]]


def _of_task(task: str, folders: Sequence[Path]) -> Iterator[Run]:
    """Yield the runs of one task; a folder whose configuration cannot be read holds none."""
    for folder in folders:
        with suppress(GhostkitError):
            run = Run(folder)
            if run.config.task == task:
                yield run


def _moments(events: int) -> list[tuple[str, int]]:
    """Return what the time slider stops at: its words and the numbers of the events."""
    return [(_named(event), event) for event in [*range(events + 1), END]]


def _named(event: int) -> str:
    return {0: "seedling", END: "the end"}.get(event, f"event {event}")


def _told(seen: Exploration, event: int) -> str:
    """Return in words what an event did, when and why, as HTML."""
    if event in (0, END):
        frame = seen.architecture(event)
        size = f"{quantity(frame['params'].sum(), 'params')} · {quantity(frame['macs'].sum(), 'MAC')} per image"
        if event == 0:
            return f"<b>The seedling</b>, before any of {seen.events} growth events · {size}"
        return f"<b>The end</b>, after {seen.events} growth events · {size} · {html.escape(str(seen.run))}"
    happened = seen.history.events[event - 1]
    when = f"epoch {happened.epoch:.2f}, step {happened.step:,}, {100 * happened.progress:.0f} % of the run"
    edits = ", ".join(map(str, happened.edits)) or "nothing"
    before, after = ((getattr(happened, f"params_{at}"), getattr(happened, f"macs_{at}")) for at in ("before", "after"))
    size = (
        f"{quantity(before[0])} → {quantity(after[0], 'params')} · {quantity(before[1])} → {quantity(after[1], 'MAC')}"
    )
    measured = []
    if happened.loss_before is not None and happened.loss_after is not None:
        measured.append(f"loss of the probe {happened.loss_before:.4f} → {happened.loss_after:.4f} nats")
    if happened.max_logit_change is not None:
        measured.append(f"outputs moved by {happened.max_logit_change:.2g} at most")
    lines = [
        f"<b>Event {event} of {seen.events}</b> · {when}",
        f"<b>why</b> {html.escape(happened.reason)}",
        f"<b>what</b> {html.escape(edits)}",
        f"<b>so</b> {' · '.join([size, *measured])}",
    ]
    return f"<div style='line-height: 1.5'>{'<br>'.join(lines)}</div>"


def _scores_text(whole: dict[str, float], without: dict[str, float], label: str) -> str:
    """Return a network's scores with and without a part, and the difference, as a table."""
    rows = [{"network": "whole", **_worded(whole)}]
    if without is not whole:
        difference = {name: without[name] - whole[name] for name in whole}
        change = {METRICS[name]: f"{100 * value:+.2f} points" for name, value in difference.items() if name in METRICS}
        rows.append({"network": f"without {label}", **_worded(without)})
        rows.append({"network": "difference", **change, "loss (nats)": f"{difference['loss']:+.4f}"})
    return table_text(pd.DataFrame(rows))


def _worded(scores: dict[str, float]) -> dict[str, str]:
    shares = {METRICS[name]: percent(value) for name, value in scores.items() if name in METRICS}
    return {**shares, "loss (nats)": f"{scores['loss']:.4f}"}
