"""Where a host can grow, found by tracing it with ``torch.fx``.

Tracing gathers the values that share their channels: whatever stands between the layers that make the channels
(*producers*) and those that read them (*consumers*), be it BN, an activation, a depthwise convolution or an addition.
A *width site* is such a group with one ghost module for its only producer. A *stream site* is any other: the residual
stream of a stage, with all that write into it, or the output of an ordinary convolution. A *depth site* is a row of
blocks to which one more block can be added. Nothing here is special to our own networks: what counts as a consumer or
as channel-wise is what :mod:`ghostkit.growth.layers` has a rule for, and users add rules for layers of their own.

A network of which a part alone shall grow, as the backbone of a detector, says so by an attribute ``grown_part``: what
the paths of its sites begin with.

Site ids are the paths of modules: of the ghost module, of the stream's first producer, of the row. They stay valid when
blocks are added, because a new block gets a name of its own (``g1``, ``g2``, ...) and no block is ever renamed.
"""

from __future__ import annotations

import operator
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostkit.costs import evaluating
from ghostkit.errors import GhostkitError
from ghostkit.growth import layers
from ghostkit.growth.blocks import is_block
from ghostkit.nn.ghost import GhostModule, SqueezeExcite
from ghostkit.nn.links import CrossLayerLink, Stage

__all__ = ["Site", "find", "sites", "trace", "units"]

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
ADDITIONS = {operator.add, operator.iadd, torch.add}


@dataclass(frozen=True)
class Site:
    """A place where a host can grow.

    Args:
        id: path of the ghost module (width), of the first producer (stream), or of the row of blocks (depth).
        axis: ``"width"``, ``"stream"`` or ``"depth"``.
        producers: width, stream: paths of the layers that make the channels; of a width site, its ghost module alone.
        through: width, stream: paths of the channel-wise layers that the channels pass, in order.
        consumers: width, stream: paths of the layers that read the channels.
        links_from: width: paths of the links that read the module's intrinsic maps.
        links_into: width: paths of the links that add to its ghost maps.
        stage: width: path of the outermost ``Stage`` whose forward calls the module, if any does.
        blocks: depth: names of the blocks in the row, in order.
    """

    id: str
    axis: str
    producers: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    links_from: tuple[str, ...] = ()
    links_into: tuple[str, ...] = ()
    stage: str | None = None
    blocks: tuple[str, ...] = ()


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


def trace(host: nn.Module) -> fx.Graph:
    """Return the graph of ``host``, with ghost modules and SE layers as single nodes.

    Raises:
        GhostkitError: if the host's forward cannot be traced; the message quotes why.
    """
    try:
        return HostTracer().trace(host)
    except Exception as error:  # a forward may fail in any way under tracing
        raise GhostkitError(
            f"{type(host).__name__} cannot be traced, so its sites cannot be found: {error}. It stopped at "
            f"{stopped_at(error, host)}. A trace has no values, so Python cannot branch on them or turn them into "
            "numbers: write the line with tensor operations alone, or put it into a module of its own and register it "
            "with ghostkit.growth.widen_in and widen_out, which keep a trace from looking inside"
        ) from error


def stopped_at(error: BaseException, host: nn.Module) -> str:
    """Return the line of the user's code that an error came from, with its file and number."""
    walls = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(walls)]
    if not frames:
        return f"the forward of {type(host).__name__}"
    return f"{frames[-1].line!r} ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})"


def sites(host: nn.Module, example: torch.Tensor | None = None) -> list[Site]:
    """Return the places where ``host`` can grow, in network order: width, then streams, then depth.

    Args:
        host: the network.
        example: images (B, C, H, W); when given, the host must accept them.

    Raises:
        GhostkitError: if the host cannot be traced, or does not accept the example.
    """
    if getattr(host, "deployed", False):
        raise GhostkitError("a deployed copy has no BN left and does not grow; grow the network that it was made from")
    if example is not None:
        check_accepts(host, example)
    channels = channel_sites(host, trace(host))
    return [*sorted(channels, key=lambda site: site.axis, reverse=True), *depth_sites(host)]


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


def units(known: list[Site]) -> dict[str, str]:
    """Return the unit that each width and stream site belongs to, by site id: the stream that its channels end up in.

    A unit is a stream with the hidden maps of all blocks that write into it. Such maps help as far as both ends have
    them, so a block whose stream alone grew would be a bottleneck. A site that leads into no single stream is a unit
    of its own. Without ghost modules, streams are what several layers add up to, and hidden maps what one writes.
    """
    channels = {site.id: site for site in known if site.axis != "depth"}
    writers = {path: site for site in channels.values() for path in site.producers}
    ghosts = any(site.axis == "width" for site in known)
    hidden = {
        name for name, site in channels.items() if site.axis == "width" or (not ghosts and len(site.producers) == 1)
    }

    def end_of(site: Site) -> str:
        following = {writers[path].id if path in writers else None for path in site.consumers}
        if site.id not in hidden or len(following) != 1 or None in following:
            return site.id
        return end_of(writers[site.consumers[0]])

    ends = {name: end_of(site) for name, site in channels.items()}
    return {name: name if end in hidden else end for name, end in ends.items()}


def check_accepts(host: nn.Module, example: torch.Tensor) -> None:
    """Raise a GhostkitError if ``host`` cannot compute ``example``; leave the host as it was."""
    try:
        with evaluating(host):
            host(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise GhostkitError(
            f"{type(host).__name__} does not accept images of shape {tuple(example.shape)}: {error}"
        ) from None


@dataclass(eq=False)
class Channels:
    """The values of a trace that share their channels, and the layers around them.

    Args:
        producers, through, consumers, links_from, links_into: as of a :class:`Site`.
        escapes: whether the channels get anywhere that no rule is known for, such as the network's output.
    """

    producers: list[str] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    links_from: list[str] = field(default_factory=list)
    links_into: list[str] = field(default_factory=list)
    escapes: bool = False

    def absorb(self, other: Channels) -> None:
        """Take in ``other``, whose channels turned out to be the same."""
        for name in ("producers", "through", "consumers", "links_from", "links_into"):
            getattr(self, name).extend(getattr(other, name))
        self.escapes |= other.escapes


def channel_sites(host: nn.Module, graph: fx.Graph) -> Iterator[Site]:
    """Yield the width and stream sites of ``host``, in the order of their first producers."""
    modules, inside = dict(host.named_modules()), getattr(host, "grown_part", "")
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    order, count = {path: place for place, path in enumerate(calls)}, Counter(calls)
    stages = {str(node.target): stage_calling(node) for node in graph.nodes if node.op == "call_module"}
    groups = [group for group in gathered(graph, modules) if group.producers and group.consumers]
    for group in sorted(groups, key=lambda group: min(order[path] for path in group.producers)):
        parts = [*group.producers, *group.through, *group.consumers]
        shared = [path for path in parts if count[path] != 1 and not layers.is_weightless(modules[path])]
        producers = sorted(group.producers, key=order.__getitem__)
        if group.escapes or shared or not producers[0].startswith(inside):
            continue
        alone = len(producers) == 1 and isinstance(modules[producers[0]], GhostModule)
        yield Site(
            producers[0],
            "width" if alone else "stream",
            tuple(producers),
            tuple(sorted(dict.fromkeys(group.through), key=order.__getitem__)),
            tuple(sorted(group.consumers, key=order.__getitem__)),
            tuple(group.links_from),
            tuple(group.links_into),
            stages[producers[0]] if alone else None,
        )


def stage_calling(node: fx.Node) -> str | None:
    """Return the path of the outermost stage whose forward calls the module of ``node``, if any does."""
    callers = node.meta["nn_module_stack"].values()  # path and class of each, from the outside in
    stages = (path for path, kind in callers if issubclass(kind, Stage))
    return next((path for path in stages if str(node.target).startswith(f"{path}.")), None)


def gathered(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[Channels]:
    """Return the groups of values in ``graph`` that share their channels."""
    of: dict[fx.Node, Channels] = {}

    def tie(node: fx.Node, *values: Any) -> Channels:
        """Let ``node`` have the channels of ``values``."""
        first, *others = [of[value] for value in values if isinstance(value, fx.Node)]
        for other in others:
            if other is not first:
                first.absorb(other)
                for value, group in of.items():
                    if group is other:
                        of[value] = first
        of[node] = first
        return first

    for node in graph.nodes:
        read = [of[value] for value in node.all_input_nodes]
        if node.op == "call_module":
            path, layer = str(node.target), modules[str(node.target)]
            if isinstance(layer, CrossLayerLink):
                source, target = node.args
                of[source].links_from.append(path)
                tie(node, target).links_into.append(path)
            elif len(read) == 1 and layers.is_channelwise(layer):
                tie(node, *node.all_input_nodes).through.append(path)
            else:
                of[node] = Channels(producers=[path], escapes=not layers.is_producer(layer))
                for group in read:
                    group.consumers.append(path)
                    group.escapes |= not layers.is_consumer(layer)
        elif read and (
            (node.op == "call_function" and node.target in CHANNELWISE_FUNCTIONS | ADDITIONS)
            or (node.op == "call_method" and node.target in CHANNELWISE_METHODS)
        ):
            tie(node, *node.all_input_nodes)
        else:  # a value made from nothing, or by something that there is no rule for
            of[node] = Channels(escapes=True)
            if not (node.op == "call_function" and node.target is getattr):  # asking for a shape does no harm
                for group in read:
                    group.escapes = True
    return list(dict.fromkeys(of.values()))


def depth_sites(host: nn.Module) -> Iterator[Site]:
    """Yield the rows of blocks that can take one more block."""
    for path, module in host.named_modules():
        if isinstance(module, nn.Sequential):
            names = tuple(name for name, child in module.named_children() if is_block(child))
            if names:
                yield Site(path, "depth", blocks=names)
