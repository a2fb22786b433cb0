"""What an edit adds to the cost, read off its surgery without carrying it out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from ghostkit.costs import LatencyTable, LayerCost, called_shapes, layer_costs
from ghostkit.growth.surgery import Insert, Surgery
from ghostkit.nn.links import CrossLayerLink

__all__ = ["Added", "Ledger"]


@dataclass(frozen=True)
class Added:
    """What an edit adds to the cost: MACs per image, parameters, and predicted milliseconds."""

    macs: int
    params: int
    milliseconds: float


class Ledger:
    """Prices edits on one host.

    Args:
        model: the host.
        example: an image (1, C, H, W).
        latency: milliseconds by kind of layer; kinds it lacks are measured.
    """

    def __init__(self, model: nn.Module, example: Tensor, latency: LatencyTable) -> None:
        self.model, self.example, self.latency = model, example, latency
        self.shapes = called_shapes(model, example)
        self.layers = layer_costs(model, example)

    def added(self, surgery: Surgery) -> Added:
        """Return what the edit that ``surgery`` was taken down from adds."""
        shapes: dict[tuple[str, str], list[int]] = {}
        old: dict[tuple[str, str], int] = {}
        for remap in surgery.remaps:
            tensor = getattr(self.model.get_submodule(remap.path), remap.name)
            if isinstance(tensor, nn.Parameter):
                key = remap.path, remap.name
                old[key] = tensor.numel()
                shapes.setdefault(key, list(tensor.shape))[remap.dim] = remap.channels.size
        before: dict[str, LayerCost] = {}
        after: dict[str, LayerCost] = {}
        for (path, name), shape in shapes.items():
            if name == "weight" and path in self.layers:
                layer = before[path] = self.layers[path]
                after[path] = replace(layer, macs=layer.macs * prod(shape) // old[path, name])
        params = sum(prod(shape) - old[key] for key, shape in shapes.items())
        for insert in surgery.inserts:
            params += sum(parameter.numel() for parameter in insert.module.parameters())
            after |= self._inserted(insert)
        return Added(
            macs=sum(layer.macs for layer in after.values()) - sum(layer.macs for layer in before.values()),
            params=params,
            milliseconds=self.latency.total(after.values(), self.example.device)
            - self.latency.total(before.values(), self.example.device),
        )

    def _inserted(self, insert: Insert) -> dict[str, LayerCost]:
        """Return the cost of every layer of a new module, by path and number of the call."""
        module: nn.Module = insert.module.projection if isinstance(insert.module, CrossLayerLink) else insert.module
        first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)), None)
        if first is None:
            return {}
        inside = nn.Sequential(module)  # a bare layer, too, is then a part with a path
        priced: dict[str, LayerCost] = {}
        for call, read in enumerate(self.shapes[insert.input_of], start=1):  # a row may be called several times
            shape = (1, first.in_features) if isinstance(first, nn.Linear) else (1, first.in_channels, *read[2:])
            example = torch.zeros(shape, device=self.example.device, dtype=self.example.dtype)
            layers = layer_costs(inside.to(example), example)
            priced |= {f"{insert.target}.{path} ({call})": layer for path, layer in layers.items()}
        return priced
