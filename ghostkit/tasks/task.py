"""What every task offers to the trainer, and nothing of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Batches", "Scores", "Task", "one_tensor"]

Batches = Iterable[tuple[Tensor, Tensor]]


class Scores(Protocol):
    """How well a network does on a split."""

    @property
    def loss(self) -> float:
        """The mean loss, in nats."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the numbers that every row of a run's metrics gets, 0 to 1, the one that counts first."""
        ...

    def details(self) -> dict[str, Any]:
        """Return, as plain data, what only the result of a run gets besides."""
        ...


@dataclass(frozen=True)
class Task:
    """A task.

    Args:
        name: as in ``RunConfig.task``.
        loss: of the share of label smoothing: ``loss(model, images, targets)`` -> mean loss, in nats.
        evaluate: of a model, batches and the number of classes: its scores; the model is left as it was.
        mistaken: of what a model puts out for one image (1, C, H, W), that image and the number of classes: what was
            expected instead; None if it is right.
    """

    name: str
    loss: Callable[[float], Callable[[nn.Module, Tensor, Tensor], Tensor]]
    evaluate: Callable[[nn.Module, Batches, int], Scores]
    mistaken: Callable[[Any, Tensor, int], str | None]


def one_tensor(output: Any, shape: tuple[int, ...], what: str) -> str | None:
    """Return what was expected of ``output``, unless it is one tensor of this ``shape``."""
    if isinstance(output, Tensor) and tuple(output.shape) == shape:
        return None
    return f"{shape}, {what}"
