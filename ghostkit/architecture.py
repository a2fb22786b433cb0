"""A network as a table: one row a block, in network order, which the figures draw to scale."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import layer_costs, output_shapes, params
from ghostkit.growth.blocks import is_block
from ghostkit.nn.ghost import GhostModule
from ghostkit.nn.links import links_of

__all__ = ["aged", "describe"]

KINDS = {"GhostBottleneck": "bottleneck", "Bottleneck": "bottleneck", "GhostModule": "ghost module"}


def describe(model: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """Return one row for every block of ``model``, for what stands before them and for what stands behind.

    Args:
        model: a network of blocks that growth knows, or of ghost modules, each of which is then a block.
        example: an image (1, C, H, W); 28 x 28 pixels when None.

    Returns:
        A frame with the columns block, stage, kind (stem, head, or the kind of block), channels (put out), hidden,
        intrinsic, branches and layers (of the first ghost module, and over its ghost maps), links (into the block),
        stride, params and macs (per image).
    """
    if example is None:
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        weight = first.weight
        example = torch.zeros(1, first.in_channels, 28, 28, dtype=weight.dtype, device=weight.device)
    shapes = output_shapes(model, example)
    costs = layer_costs(model, example)
    blocks = [(path, layer, middle_of(layer)) for path, layer in outermost(model)]
    rows = [
        {
            "block": path,
            "stage": path.rpartition(".")[0],
            "kind": KINDS.get(type(block).__name__, "block"),
            "channels": shapes[path][1],
            "hidden": middle.out_channels,
            "intrinsic": middle.intrinsic_channels if isinstance(middle, GhostModule) else middle.out_channels,
            "branches": sum(middle.branches().values()) if isinstance(middle, GhostModule) else 0,
            "layers": len(middle.deeper_layers) if isinstance(middle, GhostModule) else 0,
            "links": len(links_of(block)),
            "stride": max(max(conv.stride) for conv in block.modules() if isinstance(conv, nn.Conv2d)),
            "params": params(block),
            "macs": sum(cost.macs for layer, cost in costs.items() if layer.startswith(f"{path}.")),
        }
        for path, block, middle in blocks
    ]
    inside = tuple(f"{path}." for path, *_ in blocks)
    outside = [
        (path, sum(parameter.numel() for parameter in layer.parameters(recurse=False)))
        for path, layer in model.named_modules()
        if path in shapes and not f"{path}.".startswith(inside)
    ]
    order = list(shapes)  # modules in the order in which they were done
    last = max((order.index(path) for path, *_ in blocks), default=-1)
    for kind, paths in (
        ("stem", {path: size for path, size in outside if size and order.index(path) < last}),
        ("head", {path: size for path, size in outside if size and order.index(path) > last}),
    ):
        if not paths:
            continue
        counted = [path for path in paths if path in costs]
        row = {
            "block": kind,
            "stage": kind,
            "kind": kind,
            "channels": shapes[[*paths][-1]][1],
            "hidden": 0,
            "intrinsic": 0,
            "branches": 0,
            "layers": 0,
            "links": 0,
            "stride": max((getattr(model.get_submodule(path), "stride", (1,))[0] for path in counted), default=1),
            "params": sum(paths.values()),
            "macs": sum(costs[path].macs for path in counted),
        }
        rows = [row, *rows] if kind == "stem" else [*rows, row]
    return pd.DataFrame(rows)


def aged(before: pd.DataFrame | None, after: pd.DataFrame, event: int) -> pd.DataFrame:
    """Return ``after`` with the growth events at which each block came (``born``) and grew last (``grown``).

    Args:
        before: the network before the event, aged likewise; None for the seedling.
        after: the network after it, as :func:`describe` gives it.
        event: number of the event.
    """
    after = after.copy()
    known = None if before is None else before.set_index("block")
    for column in ("born", "grown"):
        after[column] = [
            0 if known is None else int(known[column].get(block, event if column == "born" else 0))
            for block in after["block"]
        ]
    if known is not None:
        changed = after["block"].isin(known.index) & (after["params"] != after["block"].map(known["params"]))
        after.loc[changed, "grown"] = event
    return after


def outermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks of ``model``, and the ghost modules outside of them, by path."""
    blocks: tuple[str, ...] = ()
    for path, layer in model.named_modules():
        if path and (is_block(layer) or isinstance(layer, GhostModule)) and not path.startswith(blocks):
            blocks += (f"{path}.",)
            yield path, layer


def middle_of(block: nn.Module) -> GhostModule | nn.Conv2d:
    """Return what makes the channels in the middle of a block: its first ghost module, or its first convolution."""
    return next(layer for layer in block.modules() if isinstance(layer, GhostModule | nn.Conv2d))
