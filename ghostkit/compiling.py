"""Compiling a network block by block, so that growth recompiles what it touched and nothing else.

A block is compiled when it is first used, and again when its shapes have changed; blocks that growth left alone keep
what they have. The compiled forwards are in place only while a step is taken: whoever copies, traces, scores or saves
the network meets it as it was written.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ghostkit.errors import GhostkitError

__all__ = ["Regions", "blocks_of"]

COMPILERS = ("g++", "clang++", "c++", "cl")  # those that PyTorch looks for, beside $CXX
ROWS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
RECOMPILES = 1000  # a block is compiled anew for each event that touched it, and for each size of image
# Where PyTorch offers it, blocks of one class do not share what they compiled: each looks through its own alone.
ISOLATED: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": RECOMPILES}


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what is compiled as a whole: the outermost members of rows that hold a convolution.

    Of GhostNet these are its bottlenecks, of a ResNet its residual blocks. A row of plain layers is one block.
    """
    for child in model.children():
        row = isinstance(child, ROWS) and any(len([*member.children()]) for member in child.children())
        whole = isinstance(child, nn.Sequential) or (isinstance(model, ROWS) and len([*child.children()]))
        if row or not whole:
            yield from blocks_of(child)
        elif any(isinstance(layer, nn.Conv2d) for layer in child.modules()):
            yield child


class Regions:
    """The compiled forwards of a network's blocks.

    Args:
        model: the network; :meth:`renew` looks at it again after surgery.

    Raises:
        GhostkitError: if it is on the CPU, and there is no compiler for what PyTorch writes for that.
    """

    def __init__(self, model: nn.Module) -> None:
        check_compiler(next((parameter.device.type for parameter in model.parameters()), "cpu"))
        self.model = model
        self._compiled: dict[nn.Module, Any] = {}
        self.renew()

    def renew(self) -> None:
        """Take in the blocks that growth has added, and forget those that it took away."""
        known = self._compiled
        self._compiled = {block: known.get(block) or compiled(block) for block in blocks_of(self.model)}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the network's blocks run compiled inside the block of code."""
        try:
            for block, forward in self._compiled.items():
                block.__dict__["_compiled_call_impl"] = forward
            yield
        finally:
            for block in self._compiled:
                block.__dict__.pop("_compiled_call_impl", None)


def check_compiler(device: str) -> None:
    """Raise a GhostkitError if what is compiled for ``device`` needs a C++ compiler that is not there."""
    asked = os.environ.get("CXX", "").split()[:1]
    if device == "cpu" and not any(map(shutil.which, asked or COMPILERS)):
        sought = f"$CXX, {asked[0]!r}, is not there" if asked else f"none of {', '.join(COMPILERS)} is on the PATH"
        raise GhostkitError(
            f"compile=True: on the CPU, PyTorch compiles through a C++ compiler, but {sought}; install one (Debian's "
            "package `g++`), or leave compile out"
        )


def compiled(block: nn.Module) -> Any:
    """Return the compiled call of ``block``; sizes are taken as fixed, since growth changes them seldom."""
    known = inspect.signature(torch.compile).parameters
    settings: dict[str, Any] = {name: value for name, value in ISOLATED.items() if name in known}
    return torch.compile(block._call_impl, dynamic=False, **settings)
