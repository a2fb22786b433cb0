"""Cross-layer links: what the ghost modules of one stage tell each other.

A link pools the intrinsic maps of an earlier ghost module and adds a linear projection of them, channel by channel, to
the ghost maps of a later one. It costs O(C^2) parameters and nothing per pixel. A :class:`Stage` is the row of blocks
that hands the earlier modules' outputs on; without links it is an ordinary ``nn.Sequential``, and as fast.

Blocks know nothing of links. In a stage, a block becomes one of a subclass whose forward takes a function as well: it
is the block's own forward, traced by ``torch.fx``, with one line more. Behind the first ghost module stands a call of
that function, which gives the module's output back with what the links add. So any block can be linked, ours,
torchvision's or the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostkit.nn.ghost import GhostModule

__all__ = ["CrossLayerLink", "Stage", "first_ghost", "linkable", "unlink"]

Change = Callable[[Tensor], Tensor]


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
    """A row of blocks in which later ones may be linked to earlier ones, from first ghost module to first ghost module.

    The links into a block are its part ``links``: name of an earlier block -> link.
    """

    def __init__(self, *blocks: Any) -> None:
        super().__init__(*blocks)
        for block in self:
            linkable(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) through the blocks in order."""
        if not any(is_linked(block) for block in self):
            for block in self:
                x = block(x)
            return x
        earlier: dict[str, Tensor] = {}

        def handing_on(name: str, links: Any) -> Change:
            def hand_on(hidden: Tensor) -> Tensor:
                for source, link in links.items():
                    hidden = link(earlier[source], hidden)
                earlier[name] = hidden
                return hidden

            return hand_on

        for name, block in self.named_children():
            x = block(x, handing_on(name, block.links)) if hasattr(block, "links") else block(x)
        return x


def is_linked(block: nn.Module) -> bool:
    """Return whether a link leads into ``block``."""
    links = block._modules.get("links")  # looked up at every forward: getattr would search three places first
    return isinstance(links, nn.ModuleDict) and len(links) > 0


def linkable(block: nn.Module) -> nn.Module:
    """Return ``block``, itself, with a place for links, if it has a ghost module that they could add to.

    A block that is a mere sequence has no place for them: it would call them.
    """
    if first_ghost(block) is not None and not isinstance(block, nn.Sequential) and not hasattr(block, "links"):
        block.links = nn.ModuleDict()
        block.__class__ = linkable_class(type(block))  # type: ignore[arg-type]
    return block


def unlink(block: nn.Module) -> None:
    """Take from ``block``, a copy of another one that is to become something else, what it has of links."""
    block.__dict__.pop("changing_forward", None)
    if hasattr(block, "links"):
        block.links = nn.ModuleDict()


def first_ghost(block: nn.Module) -> str | None:
    """Return the path of a block's first ghost module, if it has any."""
    return next((path for path, layer in block.named_modules() if path and isinstance(layer, GhostModule)), None)


@cache
def linkable_class(kind: Any) -> Any:
    """Return the subclass of a kind of blocks whose forward may be given a function for its first ghost module."""

    class Linkable(kind):
        unlinked_forward = kind.forward

        def forward(self, x: Tensor, function: Change | None = None) -> Tensor:
            if function is None:
                return super().forward(x)
            if "changing_forward" not in self.__dict__:
                self.__dict__["changing_forward"] = changing_forward(self)
            return self.__dict__["changing_forward"](self, function, x)

        def __reduce_ex__(self, protocol: Any) -> Any:  # neither class nor traced forward can be found by a name
            state = {name: value for name, value in self.__dict__.items() if name != "changing_forward"}
            return _new_linkable, (kind,), state

    Linkable.__name__, Linkable.__qualname__, Linkable.__doc__ = kind.__name__, kind.__qualname__, kind.__doc__
    return Linkable


def _new_linkable(kind: Any) -> Any:
    made = linkable_class(kind)
    return made.__new__(made)


def changing_forward(block: nn.Module) -> Callable[[nn.Module, Change, Tensor], Tensor]:
    """Return the forward of ``block`` that calls a function behind its first ghost module: ``(block, function, x)``."""
    path = str(first_ghost(block))
    graph = _BlockTracer(path).trace(block)
    hidden = next(node for node in graph.nodes if node.op == "call_module" and node.target == path)
    with graph.inserting_before(next(iter(graph.nodes))):
        function = graph.placeholder("function")
    with graph.inserting_after(hidden):
        changed = graph.call_function(_changed, (function, hidden))
    hidden.replace_all_uses_with(changed, delete_user_cb=lambda user: user is not changed)
    return type(fx.GraphModule(block, graph)).forward


def _changed(function: Change, hidden: Tensor) -> Tensor:
    return function(hidden)


class _BlockTracer(fx.Tracer):
    """Looks into nothing but what surrounds one ghost module: all else of a block may do as it likes."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.traced_func_name = "unlinked_forward"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether ``m`` is not looked into."""
        return not self.path.startswith(f"{module_qualified_name}.")
