"""The history of a network: its recipe, then every growth event, as append-only JSON lines.

A grown network is its recipe, its history and its weights; the first two suffice to rebuild the architecture. What was
decided and what a clock said are kept in separate fields, so that two runs of one seed have equal histories.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import Edit, edit_from_json, edit_to_json

__all__ = ["GrowthEvent", "History", "history_of"]

FORMAT = 1


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

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain data."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        edits, inverse = ([edit_to_json(edit) for edit in listed] for listed in (self.edits, self.inverse))
        return {**values, "edits": edits, "inverse": inverse, "candidates": list(self.candidates)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GrowthEvent:
        """Return the event that :meth:`to_json` wrote.

        Raises:
            GhostkitError: if a field is missing or unknown.
        """
        known = dict(values)
        unknown = sorted(set(known) - set(cls.__dataclass_fields__))
        if unknown or not isinstance(known.get("edits"), list):
            raise GhostkitError(f"a growth event has unknown fields {unknown} or no list of edits")
        edits, inverse = (tuple(map(edit_from_json, known.pop(name, ()))) for name in ("edits", "inverse"))
        return cls(edits=edits, inverse=inverse, candidates=tuple(known.pop("candidates", ())), **known)


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
        try:
            image = rows[0].get("image")
            events = [GrowthEvent.from_json(row) for row in rows[1:]]
            return cls(rows[0].get("recipe"), None if image is None else tuple(map(int, image)), events)
        except (TypeError, ValueError, AttributeError) as error:
            raise GhostkitError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: str | Path) -> History:
        """Return the history stored at ``path``."""
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GhostkitError(f"cannot read the history {str(path)!r}: {error}") from None
        return cls.parse(text.splitlines(keepends=True), str(path))


def json_lines(lines: Iterable[str], source: str) -> list[Any]:
    """Return the values of JSON ``lines``; a torn last line is left out, any other broken one is an error."""
    rows, lines = [], list(lines)
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
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
