"""Where a run computes: the device and precision, the number of threads, the optimizer on it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.processes import process_count

__all__ = [
    "OPTIMIZERS",
    "as_precise",
    "as_taken",
    "fix_threads",
    "make_fabric",
    "make_optimizer",
    "move_state",
    "start_momentum",
    "widened",
]

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
# A batch of fewer MACs than this is faster on one thread: waiting for a second one takes longer than the work.
MACS_WORTH_THREADS = 5e7
PINNED: list[int] = []  # threads before any run pinned them, and those that the last one pinned


def fix_threads(config: RunConfig, device: torch.device, batch_macs: Callable[[], int]) -> None:
    """Fix the CPU threads for a whole run: results are bit for bit the same for the same number only.

    Args:
        config: the run's.
        device: where it computes.
        batch_macs: tells the MACs of a batch in the network that the run starts from; only asked where that decides.
    """
    if config.threads is not None:
        pin_threads(config.threads)
    elif device.type == "cpu" and batch_macs() < MACS_WORTH_THREADS:
        pin_threads(1)
    elif PINNED and PINNED[-1] == torch.get_num_threads():  # by an earlier run of this process, which is over
        torch.set_num_threads(PINNED[0])
        PINNED.clear()


def pin_threads(count: int) -> None:
    """Let PyTorch use ``count`` threads, and remember how many it used before the first run that pinned them."""
    now = torch.get_num_threads()
    PINNED[:] = [PINNED[0] if PINNED and PINNED[-1] == now else now, count]
    torch.set_num_threads(count)


def make_fabric(config: RunConfig) -> Fabric:
    """Return lightning-fabric for the configured device and precision, and for the processes that there are.

    Raises:
        GhostkitError: if this machine does not have them.
    """
    accelerator = config.device
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    processes = process_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))  # of those that share the machine
    strategy: Any = DDPStrategy(**own_statistics()) if processes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=here,
            num_nodes=processes // here,
            strategy=strategy,
            precision=config.precision,  # type: ignore[arg-type]
        )
        if processes > 1:
            fabric.launch()
        return fabric
    except Exception as error:  # fabric raises ValueError, RuntimeError and an exception of its own
        raise GhostkitError(
            f"device={config.device!r} with precision={config.precision!r} cannot be used: {error}"
        ) from None


def as_precise(fabric: Fabric, model: nn.Module) -> nn.Module:
    """Return ``model`` on the device, with numbers as wide as the precision stores them."""
    return fabric.strategy.precision.convert_module(model.to(fabric.device))


def as_taken(images: Tensor, model: nn.Module) -> Tensor:
    """Return ``images`` where the first parameter of ``model`` is, with numbers as wide; unchanged if it has none."""
    parameter = next(model.parameters(), None)
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in single precision where it is in less."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def own_statistics() -> dict[str, Any]:
    """Return what lets each process keep BN statistics of its own until the network is looked at."""
    known = inspect.signature(DistributedDataParallel).parameters  # which calls it otherwise from one version on
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def move_state(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Put the optimizer's state onto the devices of its parameters; step counts stay on the CPU, as PyTorch has it.

    On a CPU one kernel then takes a whole step: a loop over the parameters would take as long as a tenth of a small
    network's training step. A GPU has PyTorch's own choice.
    """
    for group in optimizer.param_groups:
        group["fused"] = device.type == "cpu" or None
    for parameter, state in optimizer.state.items():
        moved = {name: value.to(parameter.device) for name, value in state.items() if getattr(value, "ndim", 0)}
        state.update(moved)


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let parameters that growth has added start with a momentum of zero, which the fused kernel wants to find."""
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
            for parameter in group["params"]:
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the configured optimizer of all parameters of ``model``; :func:`move_state` makes it ready."""
    momentum = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    return OPTIMIZERS[config.optimizer](
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, **momentum
    )
