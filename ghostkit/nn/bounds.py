"""How large a network may be that a file asks for: a recipe or a history may come from a stranger.

What is written in a few bytes can ask for a network that fills any memory, or takes a day to build. So a recipe is
carried out on PyTorch's meta device first, where a tensor is a shape, and given up as soon as there is too much of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ghostkit.errors import GhostkitError

__all__ = ["check_size", "outlining"]

MOST_PARAMETERS = 2**28  # 1 GiB of weights: twice those of the widest published ResNet, fifty times a GhostNet's
MOST_MODULES = 50_000  # a ResNet of 1,202 layers with ghost modules has 12,000


def check_size(parameters: int, modules: int) -> None:
    """Raise where a network that a file asks for is larger than any that is real.

    Raises:
        GhostkitError: if it has too many parameters or modules.
    """
    for what, count, most in (("parameters", parameters, MOST_PARAMETERS), ("modules", modules, MOST_MODULES)):
        if count > most:
            raise GhostkitError(f"it asks for a network of {count:,} {what} or more; expected {most:,} at most")


@contextmanager
def outlining() -> Iterator[None]:
    """Make networks inside the block, on this thread, without memory for their weights, and no more than there may be.

    Raises:
        GhostkitError: as :func:`check_size`, as soon as there are too many.
    """
    here, counts = threading.get_ident(), {"parameters": 0, "modules": 0}

    def registered(_: nn.Module, name: str, thing: Any) -> None:
        if threading.get_ident() == here and thing is not None:
            is_module = isinstance(thing, nn.Module)
            counts["modules" if is_module else "parameters"] += 1 if is_module else thing.numel()
            check_size(**counts)

    hooks = [
        register_module_module_registration_hook(registered),
        register_module_parameter_registration_hook(registered),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()
