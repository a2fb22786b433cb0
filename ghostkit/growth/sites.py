"""Where a host can grow, found by tracing it with ``torch.fx``.

A *width site* is a ghost module whose output reaches its consumers through channel-wise layers only; a *depth site* is
a row of blocks to which one more block can be added. Nothing here is special to our own networks: what counts as a
consumer or as channel-wise is what :mod:`ghostkit.growth.layers` has a rule for, and users add rules for layers of
their own.

Site ids are the paths of modules. They stay valid when blocks are added, because a new block gets a name of its own
(``g1``, ``g2``, ...) and no block is ever renamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostkit.costs import evaluating
from ghostkit.errors import GhostkitError
from ghostkit.growth import layers
from ghostkit.nn.ghost import GhostModule, SqueezeExcite

__all__ = ["Site", "find", "sites", "trace"]

CHANNELWISE_FUNCTIONS = {
    torch.relu,
    torch.sigmoid,
    F.relu,
    F.relu6,
    F.hardswish,
    F.silu,
    F.gelu,
    F.dropout,
    F.avg_pool2d,
    F.max_pool2d,
    F.adaptive_avg_pool2d,
    torch.flatten,
}
CHANNELWISE_METHODS = {"relu", "flatten", "contiguous"}


@dataclass(frozen=True)
class Site:
    """A place where a host can grow.

    Args:
        id: path of the ghost module (width) or of the row of blocks (depth).
        axis: ``"width"`` or ``"depth"``.
        through: width: paths of the channel-wise layers that the new channels pass, in order.
        consumers: width: paths of the layers that read the new channels.
        blocks: depth: names of the blocks in the row, in order.
    """

    id: str
    axis: str
    through: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


class HostTracer(fx.Tracer):
    """Traces a host down to the layers that growth has rules for."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether ``m`` is not looked into."""
        return (
            isinstance(m, GhostModule | SqueezeExcite)
            or layers.has_rule(m)
            or super().is_leaf_module(m, module_qualified_name)
        )


def trace(host: nn.Module) -> fx.Graph:
    """Return the graph of ``host``, with ghost modules and SE layers as single nodes.

    Raises:
        GhostkitError: if the host's forward cannot be traced; the message quotes why.
    """
    try:
        return HostTracer().trace(host)
    except Exception as error:  # a forward may fail in any way under tracing
        raise GhostkitError(
            f"{type(host).__name__} cannot be traced, so its sites cannot be found: {error}. "
            "Keep Python control flow that depends on tensor values out of forward, or put it into a layer of its own "
            "with a rule in ghostkit.growth.layers"
        ) from error


def sites(host: nn.Module, example: torch.Tensor | None = None) -> list[Site]:
    """Return the places where ``host`` can grow, in network order, width before depth.

    Args:
        host: the network.
        example: images (B, C, H, W); when given, the host must accept them.

    Raises:
        GhostkitError: if the host cannot be traced, or does not accept the example.
    """
    if example is not None:
        check_accepts(host, example)
    graph = trace(host)
    return [*width_sites(host, graph), *depth_sites(host)]


def find(host: nn.Module, site_id: str) -> Site:
    """Return the site called ``site_id``.

    Raises:
        GhostkitError: if there is none; the message lists those that exist.
    """
    return pick(sites(host), site_id)


def pick(known: list[Site], site_id: str) -> Site:
    """Return the site called ``site_id`` among ``known``."""
    for site in known:
        if site.id == site_id:
            return site
    listed = ", ".join(site.id for site in known) or "none: it has no ghost module that can grow"
    raise GhostkitError(f"no site {site_id!r} in this network; its sites are {listed}")


def check_accepts(host: nn.Module, example: torch.Tensor) -> None:
    """Raise a GhostkitError if ``host`` cannot compute ``example``; leave the host as it was."""
    try:
        with evaluating(host):
            host(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise GhostkitError(
            f"{type(host).__name__} does not accept images of shape {tuple(example.shape)}: {error}"
        ) from None


def width_sites(host: nn.Module, graph: fx.Graph) -> Iterator[Site]:
    """Yield the ghost modules whose output reaches consumers through channel-wise layers only."""
    modules = dict(host.named_modules())
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], GhostModule):
            continue
        reached = downstream(node, modules)
        if reached is None:
            continue
        through, consumers = reached
        if consumers and all(calls[path] == 1 for path in (node.target, *through, *consumers)):
            yield Site(node.target, "width", tuple(through), tuple(consumers))


def downstream(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[list[str], list[str]] | None:
    """Return the channel-wise layers and the consumers behind ``node``; None if a channel escapes them."""
    through: list[str] = []
    consumers: list[str] = []
    waiting = list(node.users)
    while waiting:
        user = waiting.pop(0)
        if user.op == "call_module":
            path = str(user.target)
            if layers.is_channelwise(modules[path]):
                through.append(path)
                waiting.extend(user.users)
            elif layers.is_consumer(modules[path]):
                consumers.append(path)
            else:
                return None
        elif (user.op == "call_function" and user.target in CHANNELWISE_FUNCTIONS) or (
            user.op == "call_method" and user.target in CHANNELWISE_METHODS
        ):
            waiting.extend(user.users)
        elif user.op == "call_function" and user.target is getattr:
            continue  # a shape was asked for
        else:  # an addition, a concatenation, the output: the channels are shared with somebody else
            return None
    return through, consumers


def depth_sites(host: nn.Module) -> Iterator[Site]:
    """Yield the rows of blocks that can take one more block."""
    for path, module in host.named_modules():
        if isinstance(module, nn.Sequential) and len(module) and all(layers.is_block(block) for block in module):
            yield Site(path, "depth", blocks=tuple(name for name, _ in module.named_children()))
