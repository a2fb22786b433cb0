"""Cross-layer links: what the ghost modules of one stage tell each other.

A link pools the intrinsic maps of an earlier ghost module and adds a linear projection of them, channel by channel, to
the ghost maps of a later one. It costs O(C^2) parameters and nothing per pixel. A :class:`Stage` is the row of blocks
that hands the earlier modules' outputs on; without links it is an ordinary ``nn.Sequential``, and as fast.

Blocks know nothing of links: they stay as they are, and their own forward runs, whatever it reads or decides. While it
does, the stage has its first ghost module pass what it made through a function, which adds the links. So any block can
be linked, ours, torchvision's or the user's; but a linked network is called by one thread at a time.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.nn.ghost import Change, GhostModule

__all__ = ["CrossLayerLink", "Links", "Stage", "link_place", "links_of", "unlink"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # links among their parts would be taken for layers


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


class Links(nn.ModuleDict):
    """The links into a block, which growth adds to it as its part ``links``: name of an earlier block -> link."""

    def forward(self, x: Any) -> Any:
        """Return ``x``: a block that calls all its parts, one after the other, calls this one, too."""
        return x


class Stage(nn.Sequential):
    """A row of blocks in which later ones may be linked to earlier ones, first ghost module to first ghost module."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) through the blocks in order."""
        if not any(links_of(block) for block in self):
            for block in self:
                x = block(x)
            return x
        earlier: dict[str, Tensor] = {}

        def handing_on(name: str, links: dict[str, nn.Module]) -> Change:
            def hand_on(hidden: Tensor) -> Tensor:
                for source, link in links.items():
                    if source in earlier:  # a block may leave out its layers, as stochastic depth does
                        hidden = link(earlier[source], hidden)
                earlier[name] = hidden
                return hidden

            return hand_on

        for name, block in self.named_children():
            place = link_place(block)
            x = block(x) if place is None else called(block, x, place, handing_on(name, links_of(block)))
        return x


def called(block: nn.Module, x: Tensor, place: str, change: Change) -> Tensor:
    """Return what ``block`` makes of ``x`` when the output of its ghost module at ``place`` goes through ``change``."""
    module = cast(GhostModule, block.get_submodule(place))
    module.change = change
    try:
        return block(x)
    finally:
        module.change = None


def links_of(block: nn.Module) -> dict[str, nn.Module]:
    """Return the links into ``block``: name of an earlier block -> link."""
    links = block._modules.get("links")  # looked up at every forward: getattr would search three places first
    return links._modules if isinstance(links, Links) else {}


def link_place(block: nn.Module) -> str | None:
    """Return the path of the ghost module of ``block`` that links join, its first; None if it can have no links."""
    taken = hasattr(block, "links") and not isinstance(block.links, Links)
    if isinstance(block, CONTAINERS) or taken:
        return None
    return next((path for path, layer in block.named_modules() if path and isinstance(layer, GhostModule)), None)


def unlink(block: nn.Module) -> None:
    """Take from ``block``, a copy of another one that is to become something else, what it has of links."""
    if isinstance(block._modules.get("links"), Links):
        del block.links
