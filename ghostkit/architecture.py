"""A network as a table: one row a block, in network order, which the figures draw to scale."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import layer_costs, output_shapes, params
from ghostkit.nn.ghost import GhostBottleneck

__all__ = ["describe"]


def describe(model: nn.Module, example: Tensor | None = None) -> pd.DataFrame:
    """Return one row for every bottleneck of ``model``, for what stands before them and for what stands behind.

    Args:
        model: a network with ghost bottlenecks.
        example: an image (1, C, H, W); 28 x 28 pixels when None.

    Returns:
        A frame with the columns block, stage, kind (stem, bottleneck, head), channels (put out), hidden, intrinsic,
        branches and layers (of the first ghost module, and over its ghost maps), links (into the block), stride, params
        and macs (per image).
    """
    if example is None:
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        weight = first.weight
        example = torch.zeros(1, first.in_channels, 28, 28, dtype=weight.dtype, device=weight.device)
    shapes = output_shapes(model, example)
    costs = layer_costs(model, example)
    blocks = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, GhostBottleneck)]
    rows = [
        {
            "block": path,
            "stage": path.rpartition(".")[0],
            "kind": "bottleneck",
            "channels": shapes[path][1],
            "hidden": block.ghost1.out_channels,
            "intrinsic": block.ghost1.intrinsic_channels,
            "branches": sum(block.ghost1.branches().values()),
            "layers": len(block.ghost1.deeper_layers),
            "links": len(block.links),
            "stride": block.stride,
            "params": params(block),
            "macs": sum(cost.macs for layer, cost in costs.items() if layer.startswith(f"{path}.")),
        }
        for path, block in blocks
    ]
    inside = tuple(f"{path}." for path, _ in blocks)
    outside = [
        (path, sum(parameter.numel() for parameter in layer.parameters(recurse=False)))
        for path, layer in model.named_modules()
        if path in shapes and not path.startswith(inside)
    ]
    order = list(shapes)  # modules in the order in which they were done
    last = order.index(blocks[-1][0]) if blocks else -1
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
