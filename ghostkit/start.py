"""What a run starts from: a fresh seedling, published weights, or a network that has grown before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ghostkit.checkpoint import load
from ghostkit.errors import GhostkitError
from ghostkit.growth.history import history_of
from ghostkit.nn.zoo import build, load_weights, published_names, read_weights

__all__ = ["starting_network"]


def starting_network(
    name: str,
    num_classes: int,
    in_channels: int,
    seed: int,
    weights: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """Return the network that a run starts from.

    Args:
        name: a name that :func:`ghostkit.build` knows; what a checkpoint holds decides instead.
        num_classes: classes of the data.
        in_channels: channels of the images.
        seed: decides the weights that are drawn at random.
        weights: file of weights, or folder of a checkpoint; where its classes are others, the classifier starts afresh.
        options: further arguments of :func:`ghostkit.build`.

    Raises:
        GhostkitError: if the weights cannot be read or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights is not None and Path(weights).is_dir():
            return with_classes(load(weights), num_classes)
        model = build(name, **{"num_classes": num_classes, "in_channels": in_channels, **(options or {})})
    if weights is not None:
        known, state = model.state_dict(), published_names(read_weights(weights))
        head = head_of(model)
        of_head = [key for key in state if key.rpartition(".")[0] == head and key in known]
        if any(state[key].shape != known[key].shape for key in of_head):
            state |= {key: known[key] for key in of_head}
        load_weights(model, state, weights, name)
    return model


def with_classes(model: nn.Module, num_classes: int) -> nn.Module:
    """Return ``model`` with a classifier of ``num_classes``, a fresh one unless it has as many already."""
    path = head_of(model)
    if path is None:
        raise GhostkitError(f"{type(model).__name__} has no linear layer whose classes could be changed")
    head = cast(nn.Linear, model.get_submodule(path))
    if head.out_features == num_classes:
        return model
    fresh = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, fresh.to(head.weight))
    history = history_of(model)
    if history.recipe is not None:
        recipe = {**history.recipe, "num_classes": num_classes}
        object.__setattr__(model, "recipe", recipe)
        model.growth_history = replace(history, recipe=recipe)  # type: ignore[assignment]
    return model


def head_of(model: nn.Module) -> str | None:
    """Return the path of the classifier: the last linear layer."""
    return next((path for path, layer in reversed([*model.named_modules()]) if isinstance(layer, nn.Linear)), None)
