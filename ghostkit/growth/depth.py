"""What the depth edits do: blocks, layers over ghost maps, and links between them, added and removed.

All of them insert a module that computes nothing yet (its last BN, or its projection, is zero) or take one out again;
no channel moves.
"""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import sites as growth_sites
from ghostkit.growth.blocks import hidden_channels, identity_like, is_residual, is_strided
from ghostkit.growth.edits import (
    AddBlock,
    AddLink,
    DeepenBranches,
    RemoveBlock,
    RemoveLayer,
    RemoveLink,
    check_init,
    found_tensor,
    take_down,
)
from ghostkit.growth.sites import Site
from ghostkit.growth.surgery import Surgery
from ghostkit.growth.width import drawing_from, width_site
from ghostkit.nn.ghost import CheapLayer, GhostModule
from ghostkit.nn.links import CrossLayerLink, Links, link_place, links_of

__all__ = ["link_places"]

GROWN = re.compile(r"g\d+")  # names of blocks that growth added


def fresh_name(letter: str, names: list[str] | tuple[str, ...]) -> str:
    """Return ``letter`` with the lowest number above all that are in use."""
    numbers = [int(name[1:]) for name in names if name[:1] == letter and name[1:].isdigit()]
    return f"{letter}{1 + max(numbers, default=0)}"


# -- blocks ------------------------------------------------------------------------------------------------------------


def depth_site(edit: AddBlock | RemoveBlock, known: list[Site]) -> Site:
    """Return the edit's site."""
    site = growth_sites.pick(known, edit.site)
    if site.axis != "depth":
        raise GhostkitError(f"{edit}: {edit.site!r} is a {site.axis} site; a block goes into a row of blocks")
    return site


@take_down.register
def _(edit: AddBlock, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site = depth_site(edit, known)
    check_init(edit)
    if edit.after not in site.blocks:
        raise GhostkitError(f"{edit}: no block {edit.after!r} in {edit.site!r}; it has {', '.join(site.blocks)}")
    if edit.hidden is not None and edit.hidden < 1:
        raise GhostkitError(f"{edit}: hidden={edit.hidden} must be at least 1")
    row = host.get_submodule(site.id)
    before = row.get_submodule(edit.after)
    with drawing_from(generator):
        block, wakes_from = identity_like(before, edit.hidden)
    if edit.init == "clone":
        clone_into(block, before)
    if edit.tensors is not None:
        try:
            block.load_state_dict(dict(edit.tensors))
        except RuntimeError as error:
            raise GhostkitError(f"{edit} carries the weights of another block: {error}") from None
    name = fresh_name("g", tuple(row._modules))
    surgery = Surgery(host, generator, inverse=RemoveBlock(site.id, name))
    surgery.insert(row, name, block, input_of=before, after=edit.after, wakes_from=wakes_from)
    return surgery


def clone_into(block: nn.Module, before: nn.Module) -> None:
    """Copy into a new ``block`` what fits of the one before it, except where BNs start at zero (FRAGrow's clone)."""
    known = before.state_dict()
    zero = {
        path
        for path, layer in block.named_modules()
        if isinstance(layer, nn.BatchNorm2d) and layer.affine and not bool(layer.weight.any())
    }
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            asleep = name.rpartition(".")[0] in zero and name.endswith((".weight", ".bias"))
            if not asleep and name in known and known[name].shape == tensor.shape:
                tensor.copy_(known[name])


@take_down.register
def _(edit: RemoveBlock, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site = depth_site(edit, known)
    if edit.block not in site.blocks:
        raise GhostkitError(f"{edit}: no block {edit.block!r} in {edit.site!r}; it has {', '.join(site.blocks)}")
    place = site.blocks.index(edit.block)
    block = host.get_submodule(f"{site.id}.{edit.block}")
    if place == 0:
        raise GhostkitError(f"{edit}: a row keeps its first block, since new ones are made like those before them")
    if not (is_residual(block) or GROWN.fullmatch(edit.block)):
        raise GhostkitError(f"{edit}: this block changes the channels or the resolution, and others rely on that")
    for name, other in host.get_submodule(site.id).named_children():
        if edit.block in links_of(other):
            raise GhostkitError(f"{edit}: block {name!r} is linked to this one; remove that link first")
    inverse = AddBlock(site.id, site.blocks[place - 1], hidden_channels(block))
    surgery = Surgery(host, generator, inverse=inverse)
    surgery.remove(host.get_submodule(site.id), edit.block)
    return surgery


# -- layers over ghost maps --------------------------------------------------------------------------------------------


@take_down.register
def _(edit: DeepenBranches, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    check_init(edit)
    side, ghosts = edit.kernel_size, module.ghosts
    if side < 3 or side % 2 == 0:
        raise GhostkitError(f"{edit}: kernel_size={side} must be odd and at least 3")
    if not ghosts:
        raise GhostkitError(f"{edit}: {site.id!r} has no branch that could get deeper; add one first")
    rows = found_tensor(edit, "rows", (ghosts, 1, side, side))
    with drawing_from(generator):
        layer = CheapLayer(ghosts, side)
    nn.init.zeros_(layer.bn.weight)
    if rows is not None:
        layer.conv.weight.data = rows.to(layer.conv.weight.dtype)
    name = fresh_name("d", tuple(module.deeper_layers._modules))
    surgery = Surgery(host, generator, inverse=RemoveLayer(site.id, name))
    surgery.insert(module.deeper_layers, name, layer, input_of=module)
    return surgery


@take_down.register
def _(edit: RemoveLayer, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    names = list(module.deeper_layers._modules)
    if edit.layer not in names:
        raise GhostkitError(f"{edit}: there is no such layer; {site.id} has {', '.join(names) or 'none'}")
    layer = module.deeper_layers.get_submodule(edit.layer)
    assert isinstance(layer, CheapLayer)
    surgery = Surgery(host, generator, inverse=DeepenBranches(site.id, layer.conv.kernel_size[0]))
    surgery.remove(module.deeper_layers, edit.layer)
    return surgery


# -- links -------------------------------------------------------------------------------------------------------------


def link_places(host: nn.Module, known: list[Site]) -> list[tuple[str, str]]:
    """Return every pair of width sites, source and target, that a link can join and none joins yet."""
    linkable = [site for site in known if stage_of(site, host) is not None]
    return [
        (source.id, target.id)
        for target in linkable
        for source in linkable
        if link_refusal(source, target, host) is None
    ]


def stage_of(site: Site, host: nn.Module) -> tuple[str, str] | None:
    """Return the path of the stage and the name of the block that a width site is the first ghost module of."""
    if not site.stage:
        return None
    name, _, rest = site.id.removeprefix(f"{site.stage}.").partition(".")
    block = host.get_submodule(f"{site.stage}.{name}")
    return (site.stage, name) if link_place(block) == rest else None


def link_refusal(source: Site, target: Site, host: nn.Module) -> str | None:
    """Return why no link can lead from ``source`` to ``target``; None if one can."""
    start, end = stage_of(source, host), stage_of(target, host)
    if start is None or end is None:
        return (
            "links join the first ghost modules of two blocks of a ghostkit.nn.links.Stage, which hands them on where "
            "the network calls the stage and not its blocks"
        )
    (row, reads), (other, writes) = start, end
    names = list(host.get_submodule(row)._modules)
    if row != other or names.index(reads) >= names.index(writes):
        return "a link leads from an earlier block to a later one of the same stage"
    between = names[names.index(reads) + 1 : names.index(writes) + 1]
    if any(is_strided(host.get_submodule(f"{row}.{name}")) for name in between):
        return "a stage ends where the resolution changes, and links stay in their stage"
    module = cast(GhostModule, host.get_submodule(target.id))
    if module.out_channels <= module.intrinsic_channels:
        return "the target has no ghost maps to add to"
    links = links_of(host.get_submodule(f"{row}.{writes}"))
    return "there is one already" if reads in links else None


@take_down.register
def _(edit: AddLink, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    source, target = (growth_sites.pick(known, path) for path in (edit.source, edit.target))
    refusal = link_refusal(source, target, host)
    if refusal is not None:
        raise GhostkitError(f"{edit}: {refusal}")
    reads, writes = (host.get_submodule(path) for path in (edit.source, edit.target))
    assert isinstance(reads, GhostModule)
    assert isinstance(writes, GhostModule)
    with drawing_from(generator):  # PyTorch draws what is set to zero right after
        link = CrossLayerLink(reads.intrinsic_channels, writes.out_channels - writes.intrinsic_channels)
    surgery = Surgery(host, generator, inverse=RemoveLink(edit.source, edit.target))
    (_, name), place = cast(tuple[str, str], stage_of(source, host)), cast(tuple[str, str], stage_of(target, host))
    block = host.get_submodule(".".join(place))
    links = block._modules.get("links")
    if links is None:
        links = Links()
        surgery.insert(block, "links", links, input_of=writes)
    surgery.insert(links, name, link, input_of=reads)
    return surgery


@take_down.register
def _(edit: RemoveLink, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    source, target = (stage_of(growth_sites.pick(known, path), host) for path in (edit.source, edit.target))
    block = None if target is None else host.get_submodule(".".join(target))
    links = {} if block is None else links_of(block)
    if source is None or target is None or block is None or source[0] != target[0] or source[1] not in links:
        raise GhostkitError(f"{edit}: there is no such link; this block is linked to {', '.join(links) or 'no other'}")
    surgery = Surgery(host, generator, inverse=AddLink(edit.source, edit.target))
    if len(links) > 1:
        surgery.remove(block.get_submodule("links"), source[1])
    else:  # the block is as it was before its first link
        surgery.remove(block, "links")
    return surgery
