"""What a run starts from: a fresh seedling, published weights, or a network that has grown before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ghostkit.checkpoint import load
from ghostkit.config import RunConfig
from ghostkit.data import ImageData
from ghostkit.data import load as load_data
from ghostkit.errors import GhostkitError
from ghostkit.growth.grow import rebuild
from ghostkit.growth.history import History, history_of
from ghostkit.nn.zoo import build, head_of, load_weights, published_names, read_weights, with_own_head

__all__ = ["images_of", "network_of", "starting_network"]


def images_of(config: RunConfig) -> ImageData:
    """Return the images that a run of ``config`` learns from and is tested on.

    Raises:
        GhostkitError: if they are not found, or do not fit.
    """
    return load_data(
        config.data,
        config.data_root,
        task=config.task,
        train_samples=config.train_samples,
        test_samples=config.test_samples,
        validation_samples=config.validation_samples,
        size=config.size,
    )


def network_of(config: RunConfig, data: ImageData) -> nn.Module:
    """Return the network that a run of ``config`` on ``data`` starts from."""
    headed: dict[str, Any] = {}
    if config.task != "classification":
        headed = {"task": config.task, "head": config.head, "head_options": config.head_options}
    return starting_network(
        config.model,
        len(data.classes),
        data.channels,
        config.seed,
        config.weights,
        config.model_options,
        config.shape,
        **headed,
    )


def starting_network(
    name: str,
    num_classes: int,
    in_channels: int,
    seed: int,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    shape: str | None = None,
    **headed: Any,
) -> nn.Module:
    """Return the network that a run starts from.

    Args:
        name: a name that :func:`ghostkit.build` knows; what a checkpoint holds decides instead.
        num_classes: classes of the data.
        in_channels: channels of the images.
        seed: decides the weights that are drawn at random.
        weights: safetensors file, or a checkpoint's folder; where its classes are others, the classifier starts afresh.
        options: further arguments of :func:`ghostkit.build`.
        shape: folder of a run, whose grown shape decides instead; its weights are drawn afresh.
        **headed: its ``task``, ``head`` and ``head_options``.

    Raises:
        GhostkitError: if the weights cannot be read or do not fit, or an option is not one of the network.
    """
    for given, place in {"name": "model", "weights": "weights"}.items():
        if given in (options or {}):
            raise GhostkitError(
                f"model_options = {dict(options or {})!r}: expected further arguments of the network, without "
                f"{given!r}; give it as {place!r} of the configuration"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = headed.get("task", "classification")
        if shape is not None:
            path = Path(shape) / "history.jsonl"
            if not path.is_file():
                raise GhostkitError(f"shape={shape!r} is no folder of a run: it has no history.jsonl")
            return for_task(drawn_afresh(rebuild(History.read(path))), num_classes, task, shape)
        if weights is not None and Path(weights).is_dir():
            return for_task(load(weights), num_classes, task, weights)
        headless = task == "classification"  # whose classifier may be replaced, which build() does not
        arguments = {"num_classes": num_classes, "in_channels": in_channels, **headed, **(options or {})}
        model = build(name, weights=None if headless else weights, **arguments)
    if weights is not None and headless:
        load_weights(model, with_own_head(model, published_names(read_weights(weights))), weights, name)
    return model


def drawn_afresh(model: nn.Module) -> nn.Module:
    """Return ``model`` with every layer that growth made or widened started anew, as PyTorch starts such a layer.

    What growth adds begins at zero, which keeps a function. A network that begins with that shape has none to keep.
    """
    grown = getattr(model, "grown_part", "")
    for path, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        widened = (
            isinstance(weight, Tensor) and weight.dim() > 1 and not bool(weight.transpose(0, 1).flatten(1).any(1).all())
        )
        if hasattr(layer, "reset_parameters") and (path.startswith(grown) or widened):
            layer.reset_parameters()
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
            f"{source!r} holds a network for {made} of {classes} classes; expected {task} of {num_classes}"
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
