"""Cross-layer links: what the ghost modules of one stage tell each other.

A link pools the intrinsic maps of an earlier ghost module and adds a linear projection of them, channel by channel, to
the ghost maps of a later one. It costs O(C^2) parameters and nothing per pixel. A :class:`Stage` is the row of blocks
that hands the earlier modules' outputs on; without links it is an ordinary ``nn.Sequential``, and as fast.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossLayerLink", "Stage"]


class CrossLayerLink(nn.Module):
    """Adds a projection of one ghost module's pooled intrinsic maps to another one's ghost maps.

    Args:
        intrinsic: intrinsic maps of the source.
        ghosts: ghost maps of the target, the last channels of its output.
    """

    def __init__(self, intrinsic: int, ghosts: int) -> None:
        super().__init__()
        self.projection = nn.Linear(intrinsic, ghosts, bias=False)
        nn.init.zeros_(self.projection.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return ``target`` (B, C, H, W) with the projection of ``source`` (B, C', H', W') added to its ghost maps."""
        descriptor = source[:, : self.projection.in_features].mean((2, 3))  # (B, intrinsic)
        shift = self.projection(descriptor)  # (B, ghosts)
        return target + F.pad(shift, (target.shape[1] - shift.shape[1], 0))[:, :, None, None]


class Stage(nn.Sequential):
    """A row of ghost bottlenecks in which later blocks may be linked to earlier ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) through the blocks in order."""
        if not any(len(block.links) for block in self):  # type: ignore[arg-type]
            return super().forward(x)
        earlier: dict[str, Tensor] = {}
        for name, block in self.named_children():
            x = block(x, earlier, name)
        return x
