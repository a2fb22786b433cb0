"""What the width edits do: branches, intrinsic maps and whole residual streams, added and removed.

A ghost module's output is laid out as its intrinsic maps, then the ghost maps of each cheap operation, group-major.
Every width edit comes down to a :class:`~ghostkit.growth.channels.ChannelMap` for each part of the module, from which
follows the map of its output, and from that what happens to all that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import sites as growth_sites
from ghostkit.growth.channels import FRESH, ChannelMap
from ghostkit.growth.edits import (
    AddBranch,
    AddIntrinsic,
    Edit,
    NarrowStage,
    RemoveBranch,
    RemoveIntrinsic,
    WidenStage,
    check_init,
    found_tensor,
    take_down,
)
from ghostkit.growth.layers import (
    centre_taps,
    channels_made,
    default_rows,
    moved_by,
    reader,
    widen_depthwise,
    widen_in,
    widen_out,
)
from ghostkit.growth.sites import Site
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import CheapLayer, CheapOperation, GhostModule

__all__ = ["Stream", "drawing_from", "most_used", "stream_at", "width_site"]

# Share of a split channel that stays with the original. Not a half: two exact copies with equal outgoing weights would
# get equal gradients for ever (Net2Net breaks the tie by noise, which would not keep the function).
ALPHA = 0.4


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let PyTorch's own initialisers draw from ``generator``, and leave the global random state as it was."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
        yield


def generator_of(edit: AddBranch | AddIntrinsic | WidenStage, generator: torch.Generator) -> torch.Generator:
    """Return where the edit's weights draw from: what its candidate was scored with, or else ``generator``."""
    return generator if edit.seed is None else torch.Generator().manual_seed(edit.seed)


def width_site(edit: Edit, host: nn.Module, known: list[Site]) -> tuple[Site, GhostModule]:
    """Return the edit's site and its ghost module."""
    site = growth_sites.pick(known, edit.site)
    module = host.get_submodule(site.id)
    if site.axis != "width" or not isinstance(module, GhostModule):
        raise GhostkitError(
            f"{edit}: {edit.site!r} is a {site.axis} site; only a ghost module with consumers of its own can take this "
            "edit"
        )
    return site, module


def check_kernel(edit: AddBranch | RemoveBranch) -> None:
    """Raise a GhostkitError unless the edit's kernel has a middle."""
    if edit.kernel_size < 1 or edit.kernel_size % 2 == 0:
        raise GhostkitError(f"{edit}: kernel_size={edit.kernel_size} must be odd and positive")


# -- ghost modules -----------------------------------------------------------------------------------------------------


@take_down.register
def _(edit: AddBranch, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    check_init(edit)
    check_kernel(edit)
    side, intrinsic = edit.kernel_size, module.intrinsic_channels
    rows = found_tensor(edit, "rows", (intrinsic, 1, side, side))
    old = module.branches().get(side, 0)
    surgery = Surgery(host, generator_of(edit, generator), inverse=RemoveBranch(site.id, side, old, cut_off_at(module)))
    parts: dict[str, ChannelMap] = {}
    for name, operation in module.operations():
        if operation.kernel_size != side:
            continue
        grown = torch.full((intrinsic, old + 1), FRESH)
        grown[:, :old] = torch.arange(intrinsic * old).view(intrinsic, old)
        share = (grown >= 0).double()
        if edit.init == "split":
            source = most_used_branch(host, site, module, name)
            grown[:, old] = grown[:, source]
            share[:, source], share[:, old] = ALPHA, 1 - ALPHA
        parts[name] = ChannelMap.of(grown.flatten(), operation.ghosts, share.flatten())
        change_operation(operation, parts[name], surgery, rows, groups=intrinsic)
    if not parts and edit.init == "split":
        raise GhostkitError(f"{edit}: there is no {side}x{side} branch to split; use init='random' or 'svd'")
    if not parts:
        with drawing_from(surgery.generator):
            operation = module.operation(1, side)
        if rows is not None:
            operation.conv.weight.data = rows.to(operation.conv.weight.dtype)
        surgery.insert(module.further_operations, str(side), operation, input_of=module.primary_conv)
    change_around(host, site, module, parts, surgery, appended=0 if parts else intrinsic)
    return surgery


@take_down.register
def _(edit: RemoveBranch, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    check_kernel(edit)
    surgery = Surgery(host, generator, inverse=AddBranch(site.id, edit.kernel_size))
    for name, operation in module.operations():
        if operation.kernel_size != edit.kernel_size:
            continue
        if not 0 <= edit.branch < operation.branches:
            break
        gone = range(edit.branch, operation.ghosts, operation.branches)
        part = ChannelMap.without(gone, operation.ghosts)
        if part.size:
            change_operation(operation, part, surgery, None, groups=module.intrinsic_channels)
        elif name == "cheap_operation":
            surgery.remove(module, name, instead=nn.Sequential())
        else:
            surgery.remove(module.further_operations, str(edit.kernel_size))
        rests = [*site.links_into, *(f"{site.id}.deeper_layers.{name}" for name in module.deeper_layers._modules)]
        if module.ghosts == len(gone) and rests:
            raise GhostkitError(f"{edit}: links or layers rest on these last ghost maps; remove {rests[-1]!r} first")
        change_around(host, site, module, {name: part}, surgery, out_channels=edit.out_channels)
        return surgery
    raise GhostkitError(f"{edit}: there is no such branch; {site.id} has {named_branches(module)}")


def named_branches(module: GhostModule) -> str:
    """Return the branches of a module in words."""
    counts = [f"{count} of {side}x{side}" for side, count in module.branches().items()]
    return ", ".join(counts) or "none"


@take_down.register
def _(edit: AddIntrinsic, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    check_init(edit)
    if edit.channels < 1:
        raise GhostkitError(f"{edit}: channels={edit.channels} must be at least 1")
    old = module.intrinsic_channels
    rows = found_tensor(edit, "rows", (edit.channels, *module.primary.weight.shape[1:]))
    chosen = None
    if edit.init == "split":
        if edit.channels > old:
            raise GhostkitError(f"{edit}: only {old} intrinsic maps are there to split")
        chosen = most_used(host, site, module, edit.channels)
    new = tuple(range(old, old + edit.channels))
    surgery = Surgery(host, generator_of(edit, generator), inverse=RemoveIntrinsic(site.id, new, cut_off_at(module)))
    parts = change_intrinsic(module, more(old, edit.channels, chosen), surgery, rows)
    change_around(host, site, module, parts, surgery)
    return surgery


@take_down.register
def _(edit: RemoveIntrinsic, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    check_removed(edit, edit.maps, module.intrinsic_channels, "intrinsic maps")
    surgery = Surgery(host, generator, inverse=AddIntrinsic(site.id, len(edit.maps)))
    parts = change_intrinsic(module, ChannelMap.without(edit.maps, module.intrinsic_channels), surgery, None)
    change_around(host, site, module, parts, surgery, out_channels=edit.out_channels)
    return surgery


def check_removed(edit: Edit, maps: Sequence[int], there: int, what: str) -> None:
    """Raise a GhostkitError unless ``maps`` are some, but not all, of the numbers below ``there``."""
    if not maps or len(set(maps)) != len(maps) or not set(maps) <= set(range(there)) or len(maps) == there:
        raise GhostkitError(
            f"{edit}: expected different numbers of {what} between 0 and {there - 1}, and one of them to be left"
        )


def more(old: int, new: int, chosen: Tensor | None) -> ChannelMap:
    """Return the map that adds ``new`` channels, as copies of those ``chosen`` where there are any."""
    source = torch.cat([torch.arange(old), torch.full((new,), FRESH) if chosen is None else chosen])
    share = (source >= 0).double()
    if chosen is not None:
        share[chosen], share[old:] = ALPHA, 1 - ALPHA
    return ChannelMap.of(source, old, share)


def change_intrinsic(
    module: GhostModule, intrinsic: ChannelMap, surgery: Surgery, rows: Tensor | None
) -> dict[str, ChannelMap]:
    """Take down that a module's intrinsic maps, and their ghosts, follow ``intrinsic``; return the map of each part."""
    widen_out(module.primary, intrinsic, surgery, rows)
    widen_out(module.primary_conv[1], intrinsic, surgery)
    parts = {"primary_conv": intrinsic}
    for name, operation in module.operations():
        parts[name] = intrinsic.repeated(operation.branches)  # group-major: ghosts of new maps stand behind the others
        change_operation(operation, parts[name], surgery, None, groups=intrinsic.size)
    return parts


def change_operation(
    operation: CheapOperation, channels: ChannelMap, surgery: Surgery, rows: Tensor | None, groups: int
) -> None:
    """Take down that a cheap operation's outputs follow ``channels``, with ``groups`` intrinsic maps to read."""
    conv, bn = operation.conv, operation.bn
    if rows is None:
        rows = default_rows(conv.weight, int(channels.fresh.sum()), surgery.generator)
    fresh = rows if bool(channels.fresh.any()) else 0.0
    surgery.remap(conv, "weight", 0, channels, fresh)
    if conv.bias is not None:
        surgery.remap(conv, "bias", 0, channels, 0.0)
    for name, value in (("in_channels", groups), ("groups", groups), ("out_channels", channels.size)):
        surgery.assign(conv, name, value)
    widen_out(bn, channels, surgery)


def computed_map(module: GhostModule, parts: Mapping[str, ChannelMap], appended: int = 0) -> ChannelMap:
    """Return the map of all maps that a module computes, from the maps of its parts.

    Args:
        module: the ghost module before the edit.
        parts: map of the primary convolution and of the cheap operations that change, by name.
        appended: ghost maps of a new operation, behind all the others.
    """
    sources, shares, start = [], [], 0
    widths = [("primary_conv", module.intrinsic_channels)]
    widths += [(name, operation.ghosts) for name, operation in module.operations()]
    for name, width in widths:
        part = parts.get(name, ChannelMap.of(torch.arange(width), width))
        sources.append(torch.where(part.fresh, FRESH, part.source + start))
        shares.append(part.share)
        start += width
    sources.append(torch.full((appended,), FRESH))
    shares.append(torch.zeros(appended, dtype=torch.float64))
    return ChannelMap.of(torch.cat(sources), start, torch.cat(shares))


def cut_off_at(module: GhostModule) -> int | None:
    """Return the number of channels that a module cuts its ghost maps off at; None where it puts out all of them."""
    return module.out_channels if module.out_channels < module.intrinsic_channels + module.ghosts else None


def change_module(
    module: GhostModule,
    parts: Mapping[str, ChannelMap],
    surgery: Surgery,
    appended: int = 0,
    out_channels: int | None = None,
) -> ChannelMap:
    """Take down what changed parts mean for the rest of their module, and return the map of its output.

    Ghost maps that were computed but cut off (an odd output, say) come into use: to consumers they are fresh. What
    takes such an edit back cuts them off again, at ``out_channels``.
    """
    computed = computed_map(module, parts, appended)
    seen = computed.source < module.out_channels
    output = ChannelMap.of(
        torch.where(seen, computed.source, FRESH), module.out_channels, torch.where(seen, computed.share, 0.0)
    )
    old = module.intrinsic_channels
    intrinsic = parts["primary_conv"].size if "primary_conv" in parts else old
    if out_channels is not None:
        if not intrinsic <= out_channels <= output.size:
            raise GhostkitError(
                f"{surgery.path(module)!r} cannot be cut off at out_channels={out_channels}; expected a number between "
                f"its {intrinsic} intrinsic maps and all {output.size} maps"
            )
        output = ChannelMap(output.source[:out_channels], output.share[:out_channels], output.before)
    ghosts = computed.behind(intrinsic, old)
    surgery.assign(module, "out_channels", output.size)
    if module.attention:
        for number, layer in enumerate(module.short_conv):
            if number in (2, 4):  # depthwise, which a convolution of a single channel does not tell by itself
                widen_depthwise(cast(nn.Conv2d, layer), output, surgery)
            else:
                widen_out(layer, output, surgery)
    for layer in module.deeper_layers if ghosts.size else ():
        change_layer(cast(CheapLayer, layer), ghosts, surgery)
    return output


def change_layer(layer: CheapLayer, ghosts: ChannelMap, surgery: Surgery) -> None:
    """Take down that a cheap residual layer follows ``ghosts``; it passes fresh ghost maps on as they are at first."""
    for name in ("in_channels", "groups", "out_channels"):
        surgery.assign(layer.conv, name, ghosts.size)
    surgery.remap(layer.conv, "weight", 0, ghosts, centre_taps(layer.conv.weight, int(ghosts.fresh.sum())))
    widen_out(layer.bn, ghosts, surgery, torch.zeros(int(ghosts.fresh.sum())))


def change_around(
    host: nn.Module,
    site: Site,
    module: GhostModule,
    parts: Mapping[str, ChannelMap],
    surgery: Surgery,
    appended: int = 0,
    out_channels: int | None = None,
) -> None:
    """Take down all that follows, inside a module and behind it, from the changed parts of a width site."""
    output = change_module(module, parts, surgery, appended, out_channels)
    change_behind(host, site, output, surgery)
    old = module.intrinsic_channels
    intrinsic = parts.get("primary_conv", ChannelMap.of(torch.arange(old), old))
    if site.links_into and output.size == intrinsic.size:
        raise GhostkitError(f"links rest on the last ghost maps of {site.id!r}; remove {site.links_into[-1]!r} first")
    for path in site.links_from:
        widen_in(host.get_submodule(path), intrinsic, surgery)
    for path in site.links_into:
        widen_out(host.get_submodule(path), output.behind(intrinsic.size, old), surgery)


def change_behind(host: nn.Module, site: Site, output: ChannelMap, surgery: Surgery) -> None:
    """Take down that the channel-wise layers and the consumers behind a site follow ``output``."""
    for path in site.through:
        widen_out(host.get_submodule(path), output, surgery)
    for path in site.consumers:
        widen_in(host.get_submodule(path), output, surgery)


# -- residual streams --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Who writes into a residual stream.

    Args:
        ghosts: its ghost modules by path, all of one layout.
        dense: its other producers by path.
        ratio: channels for each map that is added: the ghost modules' ratio, or 1.
        maps: intrinsic maps among its channels, or all of them where no ghost module writes.
    """

    ghosts: dict[str, GhostModule]
    dense: dict[str, nn.Module]
    ratio: int
    maps: int


def stream_at(edit: WidenStage | NarrowStage, host: nn.Module, known: list[Site]) -> tuple[Site, Stream]:
    """Return the edit's site and who writes into it.

    Raises:
        GhostkitError: if that is no stream, or its producers lay their channels out in different orders.
    """
    site = growth_sites.pick(known, edit.site)
    if site.axis != "stream":
        raise GhostkitError(f"{edit}: {edit.site!r} is a {site.axis} site; only a residual stream can take this edit")
    producers = {path: host.get_submodule(path) for path in site.producers}
    ghosts = {path: layer for path, layer in producers.items() if isinstance(layer, GhostModule)}
    dense = {path: layer for path, layer in producers.items() if path not in ghosts}
    if not ghosts:
        first = next(iter(dense.values()))
        return site, Stream({}, dense, 1, channels_made(first))
    layouts = {path: (module.intrinsic_channels, *module.branches().values()) for path, module in ghosts.items()}
    leader = next(iter(ghosts))
    for path, module in ghosts.items():
        if module.out_channels != module.intrinsic_channels + module.ghosts:
            raise GhostkitError(
                f"{edit}: {path!r} cuts its ghost maps off at {module.out_channels} of "
                f"{module.intrinsic_channels + module.ghosts}, so its channels have no place to grow in this stream"
            )
        if layouts[path] != layouts[leader]:
            raise GhostkitError(
                f"{edit}: {path!r} lays its channels out as intrinsic maps and branches {layouts[path]}, {leader!r} as "
                f"{layouts[leader]}; a stream has one order of channels"
            )
    maps, *branches = layouts[leader]
    return site, Stream(ghosts, dense, 1 + sum(branches), maps)


@take_down.register
def _(edit: WidenStage, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, stream = stream_at(edit, host, known)
    check_init(edit)
    count, rest = divmod(edit.channels, stream.ratio)
    if count < 1 or rest:
        raise GhostkitError(
            f"{edit}: channels={edit.channels} must be a positive multiple of {stream.ratio}, the ratio of the ghost "
            "modules that write into this stream"
        )
    chosen = None
    if edit.init == "split":
        if count > stream.maps:
            raise GhostkitError(f"{edit}: only {stream.maps} maps are there to split")
        chosen = most_used(host, site, next(iter(stream.ghosts.values()), None), count)
    surgery = Surgery(
        host,
        generator_of(edit, generator),
        inverse=NarrowStage(site.id, tuple(range(stream.maps, stream.maps + count))),
    )
    change_stream(edit, host, site, stream, more(stream.maps, count, chosen), surgery)
    return surgery


@take_down.register
def _(edit: NarrowStage, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, stream = stream_at(edit, host, known)
    check_removed(edit, edit.maps, stream.maps, "maps")
    surgery = Surgery(host, generator, inverse=WidenStage(site.id, len(edit.maps) * stream.ratio))
    change_stream(edit, host, site, stream, ChannelMap.without(edit.maps, stream.maps), surgery)
    return surgery


def change_stream(
    edit: WidenStage | NarrowStage, host: nn.Module, site: Site, stream: Stream, maps: ChannelMap, surgery: Surgery
) -> None:
    """Take down that every producer, channel-wise layer and consumer of a stream follows ``maps``."""
    output = maps
    for path, module in stream.ghosts.items():
        rows = found_tensor(edit, path, (int(maps.fresh.sum()), *module.primary.weight.shape[1:]))
        output = change_module(module, change_intrinsic(module, maps, surgery, rows), surgery)
    for path, layer in stream.dense.items():
        filters = layer.weight.shape[1:] if isinstance(layer, nn.Conv2d) else ()  # others start by their rules alone
        rows = found_tensor(edit, path, (int(output.fresh.sum()), *filters)) if filters else None
        widen_out(layer, output, surgery, rows)
    change_behind(host, site, output, surgery)


# -- what a split copies -----------------------------------------------------------------------------------------------


def outgoing_norms(host: nn.Module, site: Site, channels: int) -> Tensor:
    """Return the norm of what the consumers make of each of a site's channels (channels,)."""
    squares = torch.zeros(channels, dtype=torch.float64)
    for path in site.consumers:
        weight, dim = moved_by(widen_in, reader(host.get_submodule(path)))
        columns = weight.detach().double().cpu().movedim(dim, 0).reshape(channels, -1)  # flattened, it has several each
        squares += columns.square().sum(1)
    return squares.sqrt()


def computed_norms(host: nn.Module, site: Site, module: GhostModule) -> Tensor:
    """Return the outgoing norms of all maps that a module computes, zero for those that are cut off (computed,)."""
    total = module.intrinsic_channels + module.ghosts
    return F.pad(outgoing_norms(host, site, module.out_channels), (0, total - module.out_channels))


def most_used_branch(host: nn.Module, site: Site, module: GhostModule, name: str) -> int:
    """Return the branch of one cheap operation that the consumers weigh most."""
    norms, start = computed_norms(host, site, module), module.intrinsic_channels
    for other, operation in module.operations():
        width = operation.ghosts
        if other == name:
            return int(norms[start : start + width].view(module.intrinsic_channels, -1).sum(0).argmax())
        start += width
    raise GhostkitError(f"{site.id} has no cheap operation {name!r}")


def most_used(host: nn.Module, site: Site, module: GhostModule | None, count: int) -> Tensor:
    """Return the ``count`` intrinsic maps that the consumers weigh most, ghosts included; channels without a module."""
    if module is None:
        weights = outgoing_norms(host, site, channels_made(host.get_submodule(site.producers[0])))
        return weights.topk(count).indices.sort().values
    norms, old = computed_norms(host, site, module), module.intrinsic_channels
    weights, start = norms[:old].clone(), old
    for _, operation in module.operations():
        width = operation.ghosts
        weights += norms[start : start + width].view(old, -1).sum(1)
        start += width
    return weights.topk(count).indices.sort().values
