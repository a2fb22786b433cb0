"""What a run starts from: a fresh seedling, published weights, or a network that has grown before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ghostkit.checkpoint import load
from ghostkit.errors import GhostkitError
from ghostkit.growth.history import history_of
from ghostkit.nn.zoo import build, head_of, load_weights, published_names, read_weights, with_own_head

__all__ = ["starting_network"]


def starting_network(
    name: str,
    num_classes: int,
    in_channels: int,
    seed: int,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    **headed: Any,
) -> nn.Module:
    """Return the network that a run starts from.

    Args:
        name: a name that :func:`ghostkit.build` knows; what a checkpoint holds decides instead.
        num_classes: classes of the data.
        in_channels: channels of the images.
        seed: decides the weights that are drawn at random.
        weights: file of weights, or folder of a checkpoint; where its classes are others, the classifier starts afresh.
        options: further arguments of :func:`ghostkit.build`.
        **headed: its ``task``, ``head`` and ``head_options``.

    Raises:
        GhostkitError: if the weights cannot be read or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = headed.get("task", "classification")
        if weights is not None and Path(weights).is_dir():
            return for_task(load(weights), num_classes, task, weights)
        headless = task == "classification"  # whose classifier may be replaced, which build() does not
        arguments = {"num_classes": num_classes, "in_channels": in_channels, **headed, **(options or {})}
        model = build(name, weights=None if headless else weights, **arguments)
    if weights is not None and headless:
        load_weights(model, with_own_head(model, published_names(read_weights(weights))), weights, name)
    return model


def for_task(model: nn.Module, num_classes: int, task: str, source: str) -> nn.Module:
    """Return a network that has grown before, for another run of its task.

    Raises:
        GhostkitError: if it was made for another task, or, unless it is a classifier, for other classes.
    """
    recipe = history_of(model).recipe or {}
    made, classes = recipe.get("task", "classification"), recipe.get("num_classes")
    if made != task or (task != "classification" and classes != num_classes):
        raise GhostkitError(
            f"weights={source!r} is the checkpoint of a network for {made} of {classes} classes; expected {task} of "
            f"{num_classes}"
        )
    return with_classes(model, num_classes) if task == "classification" else model


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
