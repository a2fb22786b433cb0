"""Several processes that train one network, as `torchrun` starts them: what they have to agree on, and by whose word.

All of them hold the same network, see the same batches and score the same candidates. Each computes its part of every
batch; the first one decides, writes and tells.
"""

from __future__ import annotations

import os
from typing import TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ghostkit.errors import GhostkitError

__all__ = ["agreed", "average_statistics", "check_shares", "is_first", "process_count", "summed"]

Value = TypeVar("Value")

PLACE = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process


def process_count() -> int:
    """Return how many processes `torchrun` or the like has started for one training; 1 without it.

    Raises:
        GhostkitError: if the environment says something else than a number, or not which of them this one is.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdigit() or int(count) < 1:
        raise GhostkitError(f"WORLD_SIZE is {count!r} in the environment; expected the number of processes")
    missing = [name for name in PLACE if name not in os.environ]
    if int(count) > 1 and missing:
        raise GhostkitError(
            f"WORLD_SIZE is {count} in the environment, but {', '.join(missing)} is not there; several processes train "
            f"one run by `torchrun --nproc-per-node {count} -m ghostkit train CONFIG`"
        )
    return int(count)


def is_first() -> bool:
    """Return whether this process is the one that decides, writes and tells."""
    return os.environ.get("RANK", "0") == "0" or process_count() == 1


def agreed(fabric: Fabric, value: Value) -> Value:
    """Return the first process's ``value`` in all of them."""
    return value if fabric.world_size == 1 else fabric.broadcast(value)


def summed(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes."""
    return value if fabric.world_size == 1 else cast(Tensor, fabric.all_reduce(value, reduce_op="sum"))


def average_statistics(fabric: Fabric, *networks: nn.Module | None) -> None:
    """Replace the running statistics of ``networks``, which each process gathers from its own parts, by their mean.

    The statistics are linear in what they were made of. So it does not matter how seldom this is done.
    """
    if fabric.world_size == 1:
        return
    buffers = (buffer for network in networks if network is not None for buffer in network.buffers())
    kept = [buffer for buffer in buffers if buffer.is_floating_point()]
    if not kept:
        return
    mean = summed(fabric, torch.cat([buffer.flatten() for buffer in kept])) / fabric.world_size
    with torch.no_grad():
        for buffer, part in zip(kept, mean.split([buffer.numel() for buffer in kept]), strict=True):
            buffer.copy_(part.view_as(buffer))


def check_shares(images: int, batch_size: int, micro_batches: int, processes: int, least: int) -> None:
    """Raise where several processes cannot have equal shares of every batch of an epoch.

    Args:
        images: of an epoch.
        batch_size: images per batch.
        micro_batches: that a batch is taken in, where that is more than there are processes.
        processes: that share it.
        least: images that a micro-batch must have.

    Raises:
        GhostkitError: if they cannot.
    """
    if processes == 1:
        return
    parts = max(micro_batches, processes)
    if parts % processes:
        raise GhostkitError(
            f"micro_batches={micro_batches} cannot be shared by {processes} processes; set it to a multiple of that"
        )
    rest = images % batch_size  # a last batch of one image joins the one before it
    smallest = min(rest if rest > 1 else batch_size, images)
    if smallest < least * parts:
        raise GhostkitError(
            f"batches of {batch_size} from {images} images leave one of {smallest}, too few for {parts} micro-batches "
            f"of at least {least} in {processes} processes; change batch_size or train_samples"
        )
