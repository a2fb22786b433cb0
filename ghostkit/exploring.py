"""What can be asked of a run that is explored: its networks at any growth event, and what they see, say and are worth.

Everything is worked out when it is first asked for, and kept for the next time; networks are large, so only those of
the last few events are. Nothing here draws, and nothing is changed: a run may still be going on. The images are those
that the run is judged on: the test images, or those held out for validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ghostkit.data import ImageData
from ghostkit.data.fingerprint import fingerprint
from ghostkit.devices import as_taken
from ghostkit.errors import GhostkitError
from ghostkit.growth.history import History
from ghostkit.inspecting import Part, feature_maps, importance, layers, parts, similarity, switched_off
from ghostkit.metrics import metric_of
from ghostkit.predicting import Prediction, predict
from ghostkit.run_folder import data_changes
from ghostkit.runs import KeptNetwork, Run, architectures, gained
from ghostkit.start import images_of
from ghostkit.tasks import TASKS

__all__ = ["END", "Exploration"]

NETWORKS = 4  # kept in memory at most
BATCH = 64  # images of one forward at most
ALIKE = 64  # images that similarity is taken over
WEIGHED, PIXELS = 256, 2**20  # images that a block's importance is taken over, and pixels of them, at most

END = -1  # in the place of an event's number: the network as it was saved last

Asked = TypeVar("Asked")


class Exploration:
    """One run, and everything that was asked of it so far.

    Args:
        run: the run, or its folder.
        data: its images, where they are already loaded; what its configuration names otherwise, once they are needed.

    Raises:
        GhostkitError: if there is no such run.
    """

    def __init__(self, run: Run | str | Path, data: ImageData | None = None) -> None:
        self.run = run if isinstance(run, Run) else Run(run)
        self._data = data
        self._known: dict[Hashable, Any] = {}
        self.refresh()

    @property
    def task(self) -> str:
        """What the network does."""
        return self.run.config.task

    @property
    def data(self) -> ImageData:
        """The images of the run; a warning says where they have changed since it began.

        Raises:
            GhostkitError: if they are not found.
        """
        if self._data is None:
            self._data = images_of(self.run.config)
            if changed := data_changes(self.run.folder, self.run.config.data, fingerprint(self._data)):
                warnings.warn(changed, stacklevel=2)
        return self._data

    @property
    def events(self) -> int:
        """How many growth events there are. Everywhere here, event 0 is the seedling, and ``END`` the run's end."""
        return len(self.history.events)

    def refresh(self) -> None:
        """Read again what a run that goes on has written since."""
        self.history: History = self.run.history
        self._known.clear()
        self._frames: list[pd.DataFrame] = []
        self._coming = architectures(self.history)

    # -- the network at an event --------------------------------------------------------------------------------------

    def architecture(self, event: int, weighed: bool = False) -> pd.DataFrame:
        """Return ``run.architecture(event)``.

        Args:
            event: its number, or ``END``.
            weighed: with a column ``importance``, what each block is worth (nats).
        """
        number = self.events if event == END else event
        while len(self._frames) <= number:
            try:
                frame = next(self._coming)
            except GhostkitError:  # a generator that has raised says no more; asked again, this one says it again
                self._coming = islice(architectures(self.history), len(self._frames), None)
                raise
            self._frames.append(frame.assign(gain=gained(self.history, len(self._frames), frame["block"])))
        frame = self._frames[number]
        return frame.merge(self.importance(event), how="left") if weighed else frame

    def progress(self, event: int) -> float:
        """Return the share of the run that was done at an event, 0 to 1."""
        if event == END:
            return 1.0
        return self.history.events[event - 1].progress if event else 0.0

    def event_at(self, progress: float) -> int:
        """Return the last event up to this share of the run: 0 before the first one, ``END`` when it is done."""
        return END if progress >= 1 else sum(event.progress <= progress for event in self.history.events)

    def network(self, event: int) -> KeptNetwork:
        """Return the network at an event, or the nearest that was kept.

        Raises:
            GhostkitError: if none was kept.
        """
        kept: list[Hashable] = [key for key in self._known if isinstance(key, tuple) and key[0] == "network"]
        if ("network", event) not in kept and len(kept) >= NETWORKS:
            del self._known[kept[0]]
        return self._once(("network", event), lambda: self.run.model_at(event))

    def layers(self, event: int) -> list[str]:
        """Return the ghost modules of the network at an event."""
        return layers(self.network(event).model)

    def parts(self, event: int) -> list[Part]:
        """Return what can be switched off in the network at an event."""
        return parts(self.network(event).model)

    # -- what it makes of images ---------------------------------------------------------------------------------------

    def maps(self, event: int, layer: str, number: int) -> tuple[np.ndarray, int]:
        """Return the maps (C, H, W) that a ghost module makes of one image, and how many are intrinsic."""
        maps, intrinsic = feature_maps(self.network(event).model, layer, self._images([number]))
        return maps[0], intrinsic

    def similarity(self, event: int, layer: str) -> pd.DataFrame:
        """Return how alike the maps of a ghost module's branches are, over the first images."""
        images = range(min(ALIKE, len(self.data.judged)))
        return self._once(
            ("similarity", event, layer),
            lambda: similarity(self.network(event).model, layer, self._images(images)),
        )

    def predictions(self, event: int, part: Part | None, numbers: Sequence[int]) -> list[Prediction]:
        """Return what the network at an event makes of some images, a part of it switched off."""
        with self._without(event, part):
            return predict(self.network(event).model, self.data, self.task, numbers)

    def scores(self, event: int, part: Part | None, images: int) -> dict[str, float]:
        """Return the metric and the ``loss`` (nats) over the first images, a part switched off.

        Args:
            event: number of the event.
            part: what is switched off; nothing when None.
            images: how many images are looked at.
        """

        def measured() -> dict[str, float]:
            with self._without(event, part):
                batches, classes = self._batches(event, images), len(self.data.classes)
                found = TASKS[self.task].evaluate(self.network(event).model, batches, classes)
            metrics = found.metrics()
            return {metric_of(metrics): metrics[metric_of(metrics)], "loss": found.loss}

        return self._once(("scores", event, part, images), measured)

    def importance(self, event: int) -> pd.DataFrame:
        """Return what each block of the network at an event is worth (nats), over the first images."""

        def weighed() -> pd.DataFrame:
            data = self.data
            count = min(WEIGHED, len(data.judged), max(8, PIXELS // (data.height * data.width)))
            images, targets = self._pair(event, torch.arange(count))
            return importance(self.network(event).model, images, targets, TASKS[self.task].loss(0.0))

        return self._once(("importance", event), weighed)

    def _once(self, key: Hashable, ask: Callable[[], Asked]) -> Asked:
        if key not in self._known:
            self._known[key] = ask()
        return self._known[key]

    def _without(self, event: int, part: Part | None) -> Any:
        return nullcontext() if part is None else switched_off(self.network(event).model, part)

    def _images(self, numbers: Sequence[int]) -> Tensor:
        chosen, there = torch.as_tensor(list(numbers)), len(self.data.judged)
        if not all(0 <= number < there for number in numbers):
            what = self.data.judged_on
            raise GhostkitError(f"there is no {what} image {max(numbers)}; expected 0 to {there - 1}")
        return self.data.judged.images(chosen)

    def _pair(self, event: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.data.judged.labels[numbers]
        images = as_taken(self.data.judged.images(numbers), self.network(event).model)
        return images, labels.long() if self.task == "segmentation" else labels

    def _batches(self, event: int, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in torch.arange(min(images, len(self.data.judged))).split(BATCH):
            yield self._pair(event, numbers)
