"""How channels move when a layer is widened: one small record that every tensor of the neighbourhood follows.

A ghost module's output is laid out as intrinsic maps, then the ghost maps of each kernel size, group-major. Adding a
branch therefore moves old channels to new places. A :class:`ChannelMap` says, for every channel of the widened layer,
which old channel it is, and what factor a consumer's weights for it take, so that the sum over channels stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FRESH", "ChannelMap"]

FRESH = -1  # the source of a channel that did not exist before


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """Where each channel of a widened layer comes from.

    Args:
        source: (new,) old channel that each new one continues or copies; ``FRESH`` where there is none.
        share: (new,) factor of the consumers' weights: 1 for a channel kept, alpha and 1 - alpha for the halves of a
            split one, 0 for a fresh one.
        before: channels before the change.
    """

    source: Tensor
    share: Tensor
    before: int

    @classmethod
    def of(
        cls, source: Sequence[int] | Tensor, before: int, share: Sequence[float] | Tensor | None = None
    ) -> ChannelMap:
        """Return the map with these sources; without shares, kept channels count whole and fresh ones not at all."""
        source = torch.as_tensor(source, dtype=torch.long)
        if share is None:
            share = (source >= 0).double()
        return cls(source, torch.as_tensor(share, dtype=torch.float64), before)

    @property
    def size(self) -> int:
        """Channels after the change."""
        return len(self.source)

    @property
    def fresh(self) -> Tensor:
        """(new,) mask of the channels that did not exist before."""
        return self.source < 0

    @classmethod
    def without(cls, gone: Sequence[int], before: int) -> ChannelMap:
        """Return the map that leaves out the channels ``gone``."""
        return cls.of([channel for channel in range(before) if channel not in set(gone)], before)

    def behind(self, new: int, old: int) -> ChannelMap:
        """Return the map of the channels behind the first ``new``, which were those behind the first ``old``."""
        source = torch.where(self.fresh, FRESH, self.source - old)[new:]
        return ChannelMap(source, self.share[new:], self.before - old)

    def repeated(self, times: int) -> ChannelMap:
        """Return the map of a flattened layer, in which every channel holds ``times`` values."""
        offset = torch.arange(times)
        source = torch.where(self.fresh[:, None], FRESH, self.source[:, None] * times + offset).flatten()
        return ChannelMap(source, self.share.repeat_interleave(times), self.before * times)


def remapped(old: Tensor, channels: ChannelMap, dim: int, fresh: Tensor | float = 0.0, shared: bool = False) -> Tensor:
    """Return ``old`` with its channels along ``dim`` moved as ``channels`` says.

    Args:
        old: tensor whose size along ``dim`` is the number of channels before.
        channels: the map.
        dim: the dimension that holds the channels.
        fresh: value of the fresh entries: a number, or a tensor with one slice along ``dim`` for every fresh channel.
        shared: multiply by the map's shares, as a consumer's weights must.
    """
    source = channels.source.to(old.device)
    new = old.index_select(dim, source.clamp(min=0))
    if shared and not bool((channels.share[~channels.fresh] == 1).all()):
        shape = [1] * old.dim()
        shape[dim] = -1
        new = new * channels.share.to(old.device, old.dtype).view(shape)
    positions = channels.fresh.nonzero().flatten().to(old.device)
    if len(positions):
        if isinstance(fresh, Tensor):
            new.index_copy_(dim, positions, fresh.to(old.device, old.dtype))
        else:
            new.index_fill_(dim, positions, fresh)
    format_ = torch.channels_last if is_channels_last(old) else torch.contiguous_format
    return new.contiguous(memory_format=format_)


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is laid out channels-last and not just ambiguous, as 1x1 kernels are."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
