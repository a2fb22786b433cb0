"""A network, its optimizer and its moving average as they were before an event, to roll the event back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostkit.checkpoint import optimizer_from_plain, optimizer_to_plain, stored
from ghostkit.growth.surgery import renew, transaction

__all__ = ["Snapshot", "part", "prefixed"]


@dataclass(frozen=True)
class Snapshot:
    """Everything that training depends on, as plain data and tensors that a checkpoint can hold.

    Args:
        optimizer: the optimizer's groups and numbers.
        tensors: ``model/``, ``optimizer/`` and ``average/`` tensors by name.
    """

    optimizer: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None) -> Snapshot:
        """Return a snapshot of what is there now."""
        plain, moments = optimizer_to_plain(optimizer, model)
        tensors = prefixed("model/", stored(model.state_dict())) | prefixed("optimizer/", moments)
        if average is not None:
            tensors |= prefixed("average/", stored(average.state_dict()))
        return cls(plain, tensors)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None) -> None:
        """Put everything back into a model whose architecture is again that of the snapshot, or leave all as it is."""
        moments = {name: tensor.clone() for name, tensor in part(self.tensors, "optimizer/").items()}
        with transaction(model, optimizer, average):
            for network, prefix in ((model, "model/"), (average, "average/")):
                if network is not None:
                    renew(network)
                    network.load_state_dict(part(self.tensors, prefix))
            optimizer_from_plain(optimizer, model, self.optimizer, moments, "the snapshot")


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` under names that begin with ``prefix``."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
