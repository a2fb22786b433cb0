"""Where a run computes: the device and precision, the number of threads, the optimizer on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError

__all__ = ["OPTIMIZERS", "fix_threads", "make_fabric", "make_optimizer", "move_state"]

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
# A batch of fewer MACs than this is faster on one thread: waiting for a second one takes longer than the work.
MACS_WORTH_THREADS = 5e7


def fix_threads(config: RunConfig, device: torch.device, batch_macs: Callable[[], int]) -> None:
    """Fix the CPU threads for a whole run: results are bit for bit the same for the same number only.

    Args:
        config: the run's.
        device: where it computes.
        batch_macs: tells the MACs of a batch in the network that the run starts from; only asked where that decides.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif device.type == "cpu" and batch_macs() < MACS_WORTH_THREADS:
        torch.set_num_threads(1)


def make_fabric(config: RunConfig) -> Fabric:
    """Return lightning-fabric for the configured device and precision.

    Raises:
        GhostkitError: if this machine does not have them.
    """
    accelerator = config.device
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=config.precision)  # type: ignore[arg-type]
    except Exception as error:  # fabric raises ValueError, RuntimeError and an exception of its own
        raise GhostkitError(
            f"device={config.device!r} with precision={config.precision!r} cannot be used: {error}"
        ) from None


def move_state(optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's state onto the devices of its parameters; step counts stay on the CPU, as PyTorch has it."""
    for parameter, state in optimizer.state.items():
        moved = {name: value.to(parameter.device) for name, value in state.items() if getattr(value, "ndim", 0)}
        state.update(moved)


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the configured optimizer of all parameters of ``model``."""
    momentum = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    return OPTIMIZERS[config.optimizer](
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, **momentum
    )
