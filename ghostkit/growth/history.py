"""The history of a network: its recipe, then every growth event, as append-only JSON lines.

A grown network is its recipe, its history and its weights; the first two suffice to rebuild the architecture. What was
decided and what a clock said are kept in separate fields, so that two runs of one seed have equal histories.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import Edit, edit_from_json, edit_to_json
from ghostkit.reading import checked_fields, file_text, parsed_json

__all__ = ["GrowthEvent", "History", "history_of"]

FORMAT = 1
MOST_EVENTS = 100_000  # of a history, which a network could not be rebuilt of in a day
MOST_EDITS = 10_000  # in all of them
LARGEST_IMAGE = 1 << 24  # numbers in it: three channels of 2,300 pixels square
ROW = {  # of a candidate, which must have the first three, and may have more than these
    "edit": "str",
    "gain": "float",
    "chosen": "bool",
    "site": "str",
    "kind": "str",
    "init": "str | None",
    **dict.fromkeys(("macs", "params", "milliseconds"), "float | None"),
}


@dataclass(frozen=True)
class GrowthEvent:
    """Everything measured about the edits applied at one moment.

    Args:
        edits: the edits, in order; none when the engine decided not to grow.
        inverse: the edits that take these back on the network as it was right after, in order.
        undoes: number, from 1, of the earlier event that this one takes back.
        reason: why it grew, or why not.
        step: optimizer steps taken before.
        epoch: passes over the training images before.
        progress: share of the run done, 0 to 1.
        compute: training MACs spent before, scoring included.
        params_before, params_after: learnable parameters.
        macs_before, macs_after: multiply-accumulates per image.
        loss_before, loss_after: loss on the probe batch, in nats.
        max_logit_change: largest absolute change of an output on the probe batch, right after the edits.
        resolution: side of the training images from now on, in pixels, where the event is that it changes.
        candidates: the candidates with their scores, as plain rows.
        clock: measured times: ``seconds``, ``milliseconds_before``, ``milliseconds_after``.
    """

    edits: tuple[Edit, ...]
    inverse: tuple[Edit, ...] = ()
    undoes: int | None = None
    reason: str = "by hand"
    step: int = 0
    epoch: float = 0.0
    progress: float = 0.0
    compute: float = 0.0
    params_before: int = 0
    params_after: int = 0
    macs_before: int | None = None
    macs_after: int | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    max_logit_change: float | None = None
    resolution: int | None = None
    candidates: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    clock: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def by_hand(self) -> bool:
        """Whether a person asked for it, and not the policy."""
        return self.reason.startswith(("by hand", "changed by hand", "undo of event"))

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain data."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        edits, inverse = ([edit_to_json(edit) for edit in listed] for listed in (self.edits, self.inverse))
        return {**values, "edits": edits, "inverse": inverse, "candidates": list(self.candidates)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GrowthEvent:
        """Return the event that :meth:`to_json` wrote.

        Raises:
            GhostkitError: if a field is missing, unknown or of the wrong type.
        """
        try:
            types = {name: field.type for name, field in cls.__dataclass_fields__.items()}
            known = dict(checked_fields(values, types, "a growth event"))
            edits, inverse, rows = (known.pop(name, []) for name in ("edits", "inverse", "candidates"))
            if "edits" not in values or not all(isinstance(listed, list) for listed in (edits, inverse, rows)):
                raise ValueError("a growth event has no list of edits, or something else in the place of a list")
            for row in rows:
                columns = {**dict.fromkeys(row, "int | float | str | bool | None"), **ROW}
                if not checked_fields(row, columns, "a candidate").keys() >= {"edit", "gain", "chosen"}:
                    raise ValueError(f"a candidate has {', '.join(row)}; expected its edit, gain, and if it was chosen")
            checked_fields(clock := known.get("clock", {}), dict.fromkeys(clock, "float | None"), "a clock")
        except (TypeError, ValueError) as error:
            raise GhostkitError(f"{error}") from None
        edits, inverse = (tuple(map(edit_from_json, listed)) for listed in (edits, inverse))
        return cls(edits=edits, inverse=inverse, candidates=tuple(rows), **known)


@dataclass
class History:
    """A recipe and the growth events since.

    Args:
        recipe: name and arguments of :func:`ghostkit.build`; None for a user's own network.
        image: shape (C, H, W) of the images that MACs are counted for, where a trainer set it.
        events: the growth events, in order.
    """

    recipe: dict[str, Any] | None = None
    image: tuple[int, ...] | None = None
    events: list[GrowthEvent] = field(default_factory=list)

    @property
    def edits(self) -> list[Edit]:
        """All edits since the seedling, in order."""
        return [edit for event in self.events for edit in event.edits]

    def lines(self) -> list[str]:
        """Return the history as JSON lines, the recipe first."""
        head = {"format": FORMAT, "recipe": self.recipe, "image": self.image}
        return [json.dumps(head), *(json.dumps(event.to_json()) for event in self.events)]

    @classmethod
    def parse(cls, lines: Iterable[str], source: str = "history") -> History:
        """Return the history written by :meth:`lines`.

        Args:
            lines: the JSON lines; a last line that was cut short by a crash is left out.
            source: what to call them in an error.

        Raises:
            GhostkitError: if a line is broken, or the format is a newer one.
        """
        rows = json_lines(lines, source)
        if not rows or not isinstance(rows[0], dict) or "format" not in rows[0]:
            raise GhostkitError(f"{source} does not begin with a recipe line; it is no ghostkit history")
        if rows[0]["format"] != FORMAT:
            raise GhostkitError(f"{source} has format {rows[0]['format']!r}; this version reads format {FORMAT}")
        recipe, image = rows[0].get("recipe"), rows[0].get("image")
        if recipe is not None and not isinstance(recipe, dict):
            raise GhostkitError(f"{source} has the recipe {recipe!r:.60}; expected names and values")
        if image is not None and not is_image_shape(image):
            raise GhostkitError(f"{source} is for images of {image!r:.60}; expected channels, height and width")
        try:
            events = [GrowthEvent.from_json(row) for row in rows[1:]]
        except GhostkitError as error:
            raise GhostkitError(f"{source}: {error}") from None
        for what, count, most in (
            ("events", len(events), MOST_EVENTS),
            ("edits", sum(len(event.edits) for event in events), MOST_EDITS),
        ):
            if count > most:
                raise GhostkitError(f"{source} has {count:,} {what}; expected {most:,} at most")
        return cls(recipe, None if image is None else tuple(image), events)

    @classmethod
    def read(cls, path: str | Path) -> History:
        """Return the history stored at ``path``."""
        try:
            text = file_text(path)
        except (OSError, ValueError) as error:
            raise GhostkitError(f"cannot read the history {str(path)!r}: {error}") from None
        return cls.parse(text.splitlines(keepends=True), str(path))


def is_image_shape(shape: Any) -> bool:
    """Return whether plain data is the shape (C, H, W) of images that fit into memory."""
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        return False
    return math.prod(shape) <= LARGEST_IMAGE


def json_lines(lines: Iterable[str], source: str) -> list[Any]:
    """Return the values of JSON ``lines``; a torn last line is left out, any other broken one is an error."""
    rows, lines = [], list(lines)
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parsed_json(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise GhostkitError(f"{source}, line {number}: {error}; got {line[:80]!r}") from None
    return rows


def history_of(host: nn.Module) -> History:
    """Return the history that ``host`` carries; a network that never grew gets an empty one."""
    history = getattr(host, "growth_history", None)
    if history is None:
        history = History(getattr(host, "recipe", None))
        host.growth_history = history  # type: ignore[assignment]
    return history
