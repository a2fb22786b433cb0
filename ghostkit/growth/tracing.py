"""How a host is traced: down to the layers that growth has rules for, in both modes, and left as it was.

A trace runs the host's own code on values that have no numbers. So its hooks are set aside meanwhile, what it keeps and
counts is taken back, and what stops it is told by the line of the user's code.
"""

from __future__ import annotations

import random
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import layers
from ghostkit.growth.blocks import HOOKS
from ghostkit.nn.ghost import GhostModule, SqueezeExcite
from ghostkit.nn.links import CrossLayerLink

__all__ = ["called_in", "calls_in", "trace", "traces"]

CONTAINERS = (list, dict, set, OrderedDict)
# What PyTorch keeps on every module and no forward writes into; buffers are given to a trace as copies.
INTERNAL = vars(nn.Module()).keys() - {"_parameters", "_modules"}


class HostTracer(fx.Tracer):
    """Traces a host down to the layers that growth has rules for."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether ``m`` is not looked into."""
        return (
            isinstance(m, GhostModule | SqueezeExcite | CrossLayerLink)
            or layers.has_rule(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what calling ``m`` gives; a ghost module, though not looked into, has links add to its output."""
        out = super().call_module(m, forward, args, kwargs)
        return m.change(out) if isinstance(m, GhostModule) and m.change is not None else out


def trace(host: nn.Module, training: bool | None = None) -> fx.Graph:
    """Return the graph of ``host``, with ghost modules and SE layers as single nodes.

    Args:
        host: the network; it is left as it was.
        training: whether it is traced in train mode or in eval mode; in its own when None.

    Raises:
        GhostkitError: if the host's forward cannot be traced; the message quotes why.
    """
    try:
        with set_for_tracing(host, training):
            return HostTracer().trace(host)
    except Exception as error:  # a forward may fail in any way under tracing
        mode = {None: "", True: " in train mode", False: " in eval mode"}[training]
        raise GhostkitError(
            f"{type(host).__name__} cannot be traced{mode}, so its sites cannot be found: {error}. It stopped at "
            f"{stopped_at(error, host)}. A trace has no values, so Python cannot branch on them or turn them into "
            "numbers: write the line with tensor operations alone, or put it into a module of its own and register it "
            "with ghostkit.growth.widen_in and widen_out, which keep a trace from looking inside"
        ) from error


def traces(host: nn.Module) -> list[fx.Graph]:
    """Return the graphs of ``host`` in train mode and in eval mode; one for both where its code asks for no mode."""
    is_leaf = HostTracer().is_leaf_module
    traced: set[Any] = {type(module) for path, module in host.named_modules() if not is_leaf(module, path)}
    modes = (True, False) if any(asks_for_mode(kind) for kind in traced) else (True,)
    return [trace(host, training) for training in modes]


@cache
def asks_for_mode(kind: Any) -> bool:
    """Return whether a kind of modules reads ``training`` anywhere in its code, or has a ``train`` of its own."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    codes = [getattr(member, "__code__", None) for base in own for member in vars(base).values()]
    for code in codes:  # which grows by the functions within functions
        codes += [part for part in getattr(code, "co_consts", ()) if isinstance(part, CodeType)]
    asked = any("training" in code.co_names for code in codes if code is not None)
    return asked or any({"train", "eval"} & vars(base).keys() for base in own)


@contextmanager
def set_for_tracing(host: nn.Module, training: bool | None) -> Iterator[None]:
    """Put ``host`` into a mode, set its hooks aside, and take back whatever its forward keeps, counts or draws.

    Hooks expect values, and a trace has none; nor may it leave any of its own behind. Numbers that a forward draws are
    the same ones in every trace, so that a host has the same sites whenever it is asked for them.
    """
    before = [(vars(module), dict(vars(module))) for module in host.modules()]
    held = [
        (part, part.copy())
        for _, kept in before
        for name, part in kept.items()
        if name not in INTERNAL and type(part) in CONTAINERS
    ]
    changed: dict[str, Any] = {name: OrderedDict() for name in HOOKS}
    changed |= {} if training is None else {"training": training}
    drawn = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)
            torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed accelerators as well
            for attributes, kept in before:
                attributes.update(changed)
                attributes["_buffers"] = {
                    name: None if buffer is None else buffer.detach().clone()
                    for name, buffer in kept["_buffers"].items()
                }
            yield
    finally:
        random.setstate(drawn)
        for attributes, kept in before:
            for name in attributes.keys() - kept.keys():
                del attributes[name]
            attributes.update(kept)
        for part, contents in held:
            if entries(part) != entries(contents):
                part.clear()
                part.extend(contents) if isinstance(part, list) else part.update(contents)


def entries(part: Any) -> list[int]:
    """Return which objects a container holds; values that a trace has made cannot be compared."""
    return [*map(id, part), *(map(id, part.values()) if isinstance(part, dict) else ())]


def stopped_at(error: BaseException, host: nn.Module) -> str:
    """Return the line of the user's code that an error came from, with its file and number."""
    walls = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(walls)]
    if not frames:
        return f"the forward of {type(host).__name__}"
    return f"{frames[-1].line!r} ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})"


def calls_in(graph: fx.Graph) -> list[str]:
    """Return the paths of the layers that a trace calls, in order."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def called_in(graphs: Sequence[fx.Graph]) -> set[str]:
    """Return the paths of all modules that every trace goes through, the network itself among them."""
    called = [
        {"", *(path for node in graph.nodes for path, _ in node.meta.get("nn_module_stack", {}).values())}
        for graph in graphs
    ]
    return set.intersection(*called)
