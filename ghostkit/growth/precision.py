"""Growth under autocast: the network computes as it is trained, and what is reckoned of it is reckoned in full.

Moments, singular values and gains are sums over thousands of numbers; half precision would leave nothing of them. The
same holds for whether an edit has kept the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["in_full"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_full(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return ``function`` of a ``model`` without the autocast that it may be called under; its ``loss`` keeps that."""
    known = inspect.signature(function)

    @wraps(function)
    def reckoning(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        given = known.bind(*arguments, **named)
        model = given.arguments["model"]
        if "loss" in given.arguments:
            given.arguments["loss"] = as_trained(given.arguments["loss"], model)
        with torch.autocast(device_of(model).type, enabled=False):
            return function(*given.args, **given.kwargs)

    return reckoning


def as_trained(loss: Callable[[nn.Module, Any, Any], Tensor], model: nn.Module) -> Callable[..., Tensor]:
    """Return ``loss`` under the autocast that is in force now, wherever it is called."""
    kind = device_of(model).type
    if not torch.is_autocast_enabled(kind):
        return loss
    dtype = torch.get_autocast_dtype(kind)

    def cast(model: nn.Module, images: Any, targets: Any) -> Tensor:
        with torch.autocast(kind, dtype, cache_enabled=False):
            return loss(model, images, targets)

    return cast


def device_of(model: Any) -> torch.device:
    """Return the device of a network's parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
