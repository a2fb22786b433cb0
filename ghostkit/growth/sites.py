"""Where a host can grow, found by tracing it with ``torch.fx``.

Tracing gathers the values that share their channels: whatever stands between the layers that make the channels
(*producers*) and those that read them (*consumers*), be it BN, an activation, a depthwise convolution or an addition.
A *width site* is such a group with one ghost module for its only producer. A *stream site* is any other: the residual
stream of a stage, with all that write into it, or the output of an ordinary convolution. A *depth site* is a row of
blocks to which one more block can be added. Nothing here is special to our own networks: what counts as a consumer or
as channel-wise is what :mod:`ghostkit.growth.layers` has a rule for, and users add rules for layers of their own.

A host is traced in train mode and in eval mode, whichever it is in: a head that only one of them has reads the same
channels. What is made in one of them alone does not grow.

A network of which a part alone shall grow, as the backbone of a detector, says so by an attribute ``grown_part``: what
the paths of its sites begin with.

Site ids are the paths of modules: of the ghost module, of the stream's first producer, of the row. They stay valid when
blocks are added, because a new block gets a name of its own (``g1``, ``g2``, ...) and no block is ever renamed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostkit.costs import evaluating
from ghostkit.errors import GhostkitError
from ghostkit.growth import layers
from ghostkit.growth.blocks import is_block
from ghostkit.growth.tracing import called_in, calls_in, traces
from ghostkit.nn.ghost import GhostModule
from ghostkit.nn.links import CrossLayerLink, Stage

__all__ = ["Site", "find", "sites", "units"]

CHANNELWISE_FUNCTIONS = {
    torch.relu,
    torch.relu_,
    torch.sigmoid,
    torch.sigmoid_,
    torch.tanh,
    torch.tanh_,
    torch.selu,
    torch.selu_,
    torch.celu,
    torch.celu_,
    torch.rrelu,
    torch.rrelu_,
    torch.hardshrink,
    torch.threshold,
    torch.threshold_,
    F.elu_,
    F.leaky_relu_,
    F.hardtanh_,
    F.relu,
    F.relu6,
    F.hardswish,
    F.hardsigmoid,
    F.silu,
    F.gelu,
    F.leaky_relu,
    F.rrelu,
    F.elu,
    F.selu,
    F.celu,
    F.mish,
    F.hardtanh,
    F.tanhshrink,
    F.hardshrink,
    F.softshrink,
    F.softplus,
    F.softsign,
    F.logsigmoid,
    F.threshold,
    F.dropout,
    F.avg_pool2d,
    F.max_pool2d,
    F.adaptive_avg_pool2d,
    torch.flatten,
}
CHANNELWISE_METHODS = {
    "relu",
    "relu_",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
    "hardshrink",
    "flatten",
    "contiguous",
}
ADDITIONS = {operator.add, operator.iadd, torch.add}
UNROLLING = {(start, end) for start in (1, -3) for end in (-1, 3)}  # from the channels of maps to their last dimension


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
        stage: width: path of the stage that calls its block, and so could hand links on to it; empty if there is none.
        blocks: depth: names of the blocks in the row, in order.
    """

    id: str
    axis: str
    producers: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    links_from: tuple[str, ...] = ()
    links_into: tuple[str, ...] = ()
    stage: str = ""
    blocks: tuple[str, ...] = ()


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
    graphs = traces(host)
    channels = channel_sites(host, graphs)
    return [*sorted(channels, key=lambda site: site.axis, reverse=True), *depth_sites(host, graphs)]


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


def channel_sites(host: nn.Module, graphs: Sequence[fx.Graph]) -> Iterator[Site]:
    """Yield the width and stream sites of ``host``, in the order of their first producers.

    Args:
        host: the network.
        graphs: its traces in both modes, of which the first one gives the order.
    """
    modules, inside = dict(host.named_modules()), getattr(host, "grown_part", "")
    calls = [calls_in(graph) for graph in graphs]
    order = {path: place for listed in reversed(calls) for place, path in enumerate(listed)}
    counts = [Counter(listed) for listed in calls]
    stages = [path for path in called_in(graphs) if path and isinstance(modules[path], Stage)]
    held = Counter(parameter for module in modules.values() for parameter in module._parameters.values())
    groups = [group for group in gathered(graphs, modules) if grows(group, modules, counts, held)]
    for group in sorted(groups, key=lambda group: min(order[path] for path in group.producers)):
        producers, through, consumers = (
            tuple(sorted(dict.fromkeys(paths), key=order.__getitem__))
            for paths in (group.producers, group.through, group.consumers)
        )
        if not producers[0].startswith(inside):
            continue
        alone = len(producers) == 1 and isinstance(modules[producers[0]], GhostModule)
        yield Site(
            producers[0],
            "width" if alone else "stream",
            producers,
            through,
            consumers,
            tuple(dict.fromkeys(group.links_from)),
            tuple(dict.fromkeys(group.links_into)),
            min((path for path in stages if alone and producers[0].startswith(f"{path}.")), key=len, default=""),
        )


def grows(
    group: Channels,
    modules: dict[str, nn.Module],
    counts: Sequence[Counter[str]],
    held: Mapping[nn.Parameter | None, int],
) -> bool:
    """Return whether all that makes and reads a group's channels is known, has weights of its own, and does it once.

    Args:
        group: the group.
        modules: the layers by path.
        counts: how often each layer is called in a pass, in each mode.
        held: how many layers hold each parameter.
    """
    parts = (*group.producers, *group.through, *group.consumers, *group.links_from, *group.links_into)
    tied = any(held[weight] > 1 for path in parts for weight in modules[path].parameters())
    if tied or any(layers.computes_weights(modules[path]) for path in parts):
        return False
    shared = any(count[path] > 1 for count in counts for path in parts if not layers.is_weightless(modules[path]))
    widths = {getattr(modules[path], "out_channels", None) for path in group.producers} - {None}  # one may be broadcast
    always = all(count[path] for count in counts for path in group.producers)
    return bool(group.producers and group.consumers) and always and len(widths) < 2 and not (shared or group.escapes)


def gathered(graphs: Sequence[fx.Graph], modules: dict[str, nn.Module]) -> list[Channels]:
    """Return the groups of values in ``graphs`` that share their channels: those of one layer do in all of them."""
    of: dict[Any, Channels] = {}  # by value, and by layer: what it makes, and its inputs by number
    maps: set[fx.Node] = set()  # values that surely have positions behind their channels

    def tie(*ends: Any) -> Channels:
        """Let ``ends``, of which some are known, have the same channels."""
        first, *others = [of[end] for end in ends if end in of]
        for other in others:
            if other is not first:
                first.absorb(other)
                for end, group in of.items():
                    if group is other:
                        of[end] = first
        of.update(dict.fromkeys(ends, first))
        return first

    for node in chain.from_iterable(graph.nodes for graph in graphs):
        read, layer = node.all_input_nodes, modules[str(node.target)] if node.op == "call_module" else None
        flattened = dimensions_flattened(node, layer)
        regroups = flattened is not None and flattened not in UNROLLING
        if flattened is None and layers.makes_maps(layer, of_maps=not maps.isdisjoint(read)):
            maps.add(node)
        if layer is not None:
            path = str(node.target)
            if isinstance(layer, CrossLayerLink):
                source, target = node.args
                of[source].links_from.append(path)
                tie(target, node).links_into.append(path)
            elif len(read) == 1 and layers.is_channelwise(layer) and not regroups:
                own = [] if layers.is_weightless(layer) else [path]
                tie(*own, *read, node).through.append(path)
            else:
                of[node] = Channels(producers=[path], escapes=not layers.is_producer(layer))
                tie(path, node)
                for number, value in enumerate(read):
                    group = tie((path, number), value)
                    group.consumers.append(path)
                    group.escapes |= not layers.is_consumer(layer, of_maps=value in maps)
        elif (read and not regroups) and (
            (node.op == "call_function" and node.target in CHANNELWISE_FUNCTIONS | ADDITIONS)
            or (node.op == "call_method" and node.target in CHANNELWISE_METHODS)
        ):
            tie(*read, node)
        else:  # a value made from nothing, or by something that there is no rule for
            of[node] = Channels(escapes=True)
            if not (node.op == "call_function" and node.target is getattr):  # asking for a shape does no harm
                for value in read:
                    of[value].escapes = True
    return list(dict.fromkeys(of.values()))


def dimensions_flattened(node: fx.Node, layer: nn.Module | None) -> tuple[Any, Any] | None:
    """Return the first and the last dimension that ``node`` makes one of; None if it does not flatten."""
    if isinstance(layer, nn.Flatten):
        return layer.start_dim, layer.end_dim
    if node.target not in (torch.flatten, "flatten"):
        return None
    given = dict(zip(("input", "start_dim", "end_dim"), node.args, strict=False)) | node.kwargs
    return given.get("start_dim", 0), given.get("end_dim", -1)


def depth_sites(host: nn.Module, graphs: Sequence[fx.Graph]) -> Iterator[Site]:
    """Yield the rows of blocks that can take one more block: those that are called as a whole, in both modes."""
    inside = getattr(host, "grown_part", "")
    wholes = called_in(graphs)
    for path, module in host.named_modules():
        if isinstance(module, nn.Sequential) and f"{path}.".startswith(inside):
            names = tuple(name for name, child in module.named_children() if is_block(child))
            if names and (path in wholes or takes_one_more(host, path, names[-1], graphs)):
                yield Site(path, "depth", blocks=names)


def takes_one_more(host: nn.Module, row: str, last: str, graphs: Sequence[fx.Graph]) -> bool:
    """Return whether a part behind block ``last`` of a row would be called, and all others as before.

    It would where a forward goes through the blocks one by one, and would not where it calls them by number.
    """
    parts, another = host.get_submodule(row)._modules, "another"
    before = list(parts.items())
    place = list(parts).index(last) + 1
    parts.clear()
    parts.update([*before[:place], (another, nn.Identity()), *before[place:]])
    try:
        calls = [Counter(calls_in(graph)) for graph in traces(host)]
    except GhostkitError:  # such as a forward that takes a fixed number of parts
        return False
    finally:
        parts.clear()
        parts.update(before)
    for count, graph in zip(calls, graphs, strict=True):
        count.subtract(calls_in(graph))
    return all({path for path in count if count[path]} == {f"{row}.{another}".lstrip(".")} for count in calls)
