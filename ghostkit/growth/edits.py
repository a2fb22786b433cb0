"""The edits: what one change at a site is, as plain data, and how it is taken down as surgery.

An edit is a frozen dataclass that JSON can hold. It may also carry tensors that its candidate found (a kernel, the
weights of a block); these are not stored, and without them new weights are drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import singledispatch
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import sites as growth_sites
from ghostkit.growth.channels import FRESH, ChannelMap
from ghostkit.growth.layers import default_rows, identity_like, reader, widen_in, widen_out
from ghostkit.growth.sites import Site
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import CheapOperation, GhostModule

__all__ = ["AddBlock", "AddBranch", "AddIntrinsic", "Edit", "edit_from_json", "edit_to_json", "take_down"]

# Share of a split channel that stays with the original. Not a half: two exact copies with equal outgoing weights would
# get equal gradients for ever (Net2Net breaks the tie by noise, which would not keep the function).
ALPHA = 0.4

INITS = ("svd", "random", "split")
Tensors = Mapping[str, Tensor] | None


@dataclass(frozen=True)
class AddBranch:
    """One more parallel branch in a ghost module: width.

    Args:
        site: id of a width site.
        kernel_size: side of the new branch's depthwise convolution, odd, in pixels.
        init: how its weights start: ``"svd"``, ``"random"``, or ``"split"`` (copy one and share out what it feeds).
        tensors: ``{"rows": (intrinsic, 1, k, k)}``, where a candidate found them.
    """

    kind: ClassVar[str] = "branch"

    site: str
    kernel_size: int = 3
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddBranch({self.site}, {self.kernel_size}x{self.kernel_size})"


@dataclass(frozen=True)
class AddIntrinsic:
    """More intrinsic maps in a ghost module, and their ghosts: width.

    Args:
        site: id of a width site.
        channels: intrinsic maps to add.
        init: how their weights start: ``"svd"``, ``"random"`` or ``"split"``.
        tensors: ``{"rows": (channels, in_channels, k, k)}``, where a candidate found them.
    """

    kind: ClassVar[str] = "intrinsic"

    site: str
    channels: int = 1
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddIntrinsic({self.site}, +{self.channels})"


@dataclass(frozen=True)
class AddBlock:
    """One more residual block in a row of blocks: depth.

    Args:
        site: id of a depth site, the row.
        after: name of the block in the row that the new one stands behind.
        hidden: channels in the new block's middle; as many as the block before it has when None.
        tensors: the new block's state dict, where a candidate scored it.
    """

    kind: ClassVar[str] = "block"

    site: str
    after: str
    hidden: int | None = None
    tensors: Tensors = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddBlock({self.site}, after {self.after})"


Edit = AddBranch | AddIntrinsic | AddBlock
KINDS: dict[str, type[Edit]] = {"AddBranch": AddBranch, "AddIntrinsic": AddIntrinsic, "AddBlock": AddBlock}


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """Return ``edit`` as plain data, without its tensors."""
    values = {f.name: getattr(edit, f.name) for f in fields(edit) if f.name != "tensors"}
    return {"edit": type(edit).__name__, **values}


def edit_from_json(values: Mapping[str, Any]) -> Edit:
    """Return the edit that :func:`edit_to_json` wrote.

    Raises:
        GhostkitError: if the kind or an argument is unknown or of the wrong type.
    """
    arguments = dict(values)
    name = arguments.pop("edit", None)
    if name not in KINDS:
        raise GhostkitError(f"unknown edit {name!r}; known are {', '.join(KINDS)}")
    types = {f.name: f.type for f in fields(KINDS[name]) if f.name != "tensors"}
    for key, value in arguments.items():
        expected = types.get(key, "no such argument")
        if type(value).__name__ not in expected.replace("None", "NoneType").split(" | "):
            raise GhostkitError(f"{name} in a history has {key}={value!r}; expected {expected}")
    try:
        return KINDS[name](**arguments)
    except TypeError as error:
        raise GhostkitError(f"{name} in a history: {error}") from None


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let PyTorch's own initialisers draw from ``generator``, and leave the global random state as it was."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
        yield


@singledispatch
def take_down(edit: Edit, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    """Return the surgery that carries out ``edit`` on ``host``, which is not touched.

    Args:
        edit: the change.
        host: the network.
        known: its sites.
        generator: where new weights draw from.

    Raises:
        GhostkitError: if the site does not exist, or the edit does not fit it.
    """
    raise GhostkitError(f"{edit!r} is no edit; known are {', '.join(KINDS)}")


def width_site(edit: AddBranch | AddIntrinsic, host: nn.Module, known: list[Site]) -> tuple[Site, GhostModule]:
    """Return the edit's site and its ghost module, after checking the edit's arguments."""
    site = growth_sites.pick(known, edit.site)
    module = host.get_submodule(site.id)
    if site.axis != "width" or not isinstance(module, GhostModule):
        raise GhostkitError(f"{edit}: {edit.site!r} is a {site.axis} site; only a ghost module can take this edit")
    if edit.init not in INITS:
        raise GhostkitError(f"{edit}: unknown init {edit.init!r}; expected one of {', '.join(INITS)}")
    return site, module


def found_rows(edit: AddBranch | AddIntrinsic, shape: tuple[int, ...]) -> Tensor | None:
    """Return the rows that the edit carries, if any.

    Raises:
        GhostkitError: if they are of another shape.
    """
    if edit.tensors is None:
        return None
    rows = edit.tensors["rows"]
    if tuple(rows.shape) != shape:
        raise GhostkitError(f"{edit} carries weights of shape {tuple(rows.shape)}, this site needs {shape}")
    return rows


@take_down.register
def _(edit: AddBranch, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    side, intrinsic = edit.kernel_size, module.intrinsic_channels
    if side < 1 or side % 2 == 0:
        raise GhostkitError(f"{edit}: kernel_size={side} must be odd and positive")
    rows = found_rows(edit, (intrinsic, 1, side, side))
    surgery = Surgery(host, generator)
    parts: dict[str, ChannelMap] = {}
    for name, operation in module.operations():
        old = operation.branches
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
        take_down_operation(operation, parts[name], surgery, rows, groups=intrinsic)
    if parts:
        output = output_map(module, parts)
    elif edit.init == "split":
        raise GhostkitError(f"{edit}: there is no {side}x{side} branch to split; use init='random' or 'svd'")
    else:
        with drawing_from(generator):
            operation = CheapOperation(intrinsic, 1, side, module.activation)
        if rows is not None:
            operation.conv.weight.data = rows.to(operation.conv.weight.dtype)
        surgery.insert(module.further_operations, str(side), operation, input_of=module.primary_conv)
        output = output_map(module, {}, appended=intrinsic)
    widen_around(host, site, module, output, surgery)
    return surgery


@take_down.register
def _(edit: AddIntrinsic, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site, module = width_site(edit, host, known)
    if edit.channels < 1:
        raise GhostkitError(f"{edit}: channels={edit.channels} must be at least 1")
    conv, old = module.primary, module.intrinsic_channels
    rows = found_rows(edit, (edit.channels, *conv.weight.shape[1:]))
    source = torch.cat([torch.arange(old), torch.full((edit.channels,), FRESH)])
    share = (source >= 0).double()
    if edit.init == "split":
        if edit.channels > old:
            raise GhostkitError(f"{edit}: only {old} intrinsic maps are there to split")
        chosen = most_used_intrinsic(host, site, module, edit.channels)
        source[old:] = chosen
        share[chosen], share[old:] = ALPHA, 1 - ALPHA
    intrinsic = ChannelMap.of(source, old, share)
    surgery = Surgery(host, generator)
    widen_out(conv, intrinsic, surgery, rows)
    widen_out(module.primary_conv[1], intrinsic, surgery)
    parts = {"primary_conv": intrinsic}
    for name, operation in module.operations():
        # Group-major: the ghosts of the new maps stand behind all the others.
        parts[name] = intrinsic.repeated(operation.branches)
        take_down_operation(operation, parts[name], surgery, None, groups=intrinsic.size)
    widen_around(host, site, module, output_map(module, parts), surgery)
    return surgery


@take_down.register
def _(edit: AddBlock, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    site = growth_sites.pick(known, edit.site)
    if site.axis != "depth":
        raise GhostkitError(f"{edit}: {edit.site!r} is a {site.axis} site; a block goes into a row of blocks")
    if edit.after not in site.blocks:
        raise GhostkitError(f"{edit}: no block {edit.after!r} in {edit.site!r}; it has {', '.join(site.blocks)}")
    row = host.get_submodule(site.id)
    if edit.hidden is not None and edit.hidden < 1:
        raise GhostkitError(f"{edit}: hidden={edit.hidden} must be at least 1")
    before = row.get_submodule(edit.after)
    with drawing_from(generator):
        block, wakes_from = identity_like(before, edit.hidden)
    if edit.tensors is not None:
        try:
            block.load_state_dict(dict(edit.tensors))
        except RuntimeError as error:
            raise GhostkitError(f"{edit} carries the weights of another block: {error}") from None
    surgery = Surgery(host, generator)
    number = 1 + max((int(name[1:]) for name in site.blocks if name[:1] == "g" and name[1:].isdigit()), default=0)
    surgery.insert(row, f"g{number}", block, input_of=before, after=edit.after, wakes_from=wakes_from)
    return surgery


def take_down_operation(
    operation: CheapOperation, channels: ChannelMap, surgery: Surgery, rows: Tensor | None, groups: int
) -> None:
    """Take down that a cheap operation's outputs follow ``channels``, with ``groups`` intrinsic maps to read."""
    conv, bn = operation.conv, operation.bn
    if rows is None:
        rows = default_rows(conv.weight, int(channels.fresh.sum()), surgery.generator)
    fresh = rows if bool(channels.fresh.any()) else 0.0
    surgery.remap(conv, "weight", 0, channels, fresh)
    for name, value in (("in_channels", groups), ("groups", groups), ("out_channels", channels.size)):
        surgery.assign(conv, name, value)
    widen_out(bn, channels, surgery)


def output_map(module: GhostModule, parts: Mapping[str, ChannelMap], appended: int = 0) -> ChannelMap:
    """Return the map of a ghost module's output, from the maps of its parts.

    Ghost maps that were computed but cut off (an odd output, say) come into use: to consumers they are fresh.

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
        source = torch.where(part.fresh, FRESH, part.source + start)
        visible = source < module.out_channels
        sources.append(torch.where(visible, source, FRESH))
        shares.append(torch.where(visible, part.share, 0.0))
        start += width
    sources.append(torch.full((appended,), FRESH))
    shares.append(torch.zeros(appended, dtype=torch.float64))
    return ChannelMap.of(torch.cat(sources), module.out_channels, torch.cat(shares))


def widen_around(host: nn.Module, site: Site, module: GhostModule, output: ChannelMap, surgery: Surgery) -> None:
    """Take down what follows from a ghost module's wider output: its attention, the layers behind, the consumers."""
    surgery.assign(module, "out_channels", output.size)
    if module.attention:
        for layer in module.short_conv:
            widen_out(layer, output, surgery)
    for path in site.through:
        widen_out(host.get_submodule(path), output, surgery)
    for path in site.consumers:
        widen_in(host.get_submodule(path), output, surgery)


def outgoing_norms(host: nn.Module, site: Site, module: GhostModule) -> Tensor:
    """Return the norm of what the consumers make of each output channel, zero for those that are cut off (total,)."""
    total = module.intrinsic_channels + sum(operation.ghosts for _, operation in module.operations())
    norms = torch.zeros(total, dtype=torch.float64)
    for path in site.consumers:
        consumer = host.get_submodule(path)
        weight = cast(Tensor, reader(consumer).weight).detach().double().cpu()
        columns = weight.transpose(0, 1).reshape(module.out_channels, -1)  # a flattened layer has several a channel
        norms[: module.out_channels] += columns.square().sum(1)
    return norms.sqrt()


def most_used_branch(host: nn.Module, site: Site, module: GhostModule, name: str) -> int:
    """Return the branch of one cheap operation that the consumers weigh most."""
    norms, start = outgoing_norms(host, site, module), module.intrinsic_channels
    for other, operation in module.operations():
        width = operation.ghosts
        if other == name:
            return int(norms[start : start + width].view(module.intrinsic_channels, -1).sum(0).argmax())
        start += width
    raise GhostkitError(f"{site.id} has no cheap operation {name!r}")


def most_used_intrinsic(host: nn.Module, site: Site, module: GhostModule, count: int) -> Tensor:
    """Return the ``count`` intrinsic maps that the consumers weigh most, ghosts included."""
    norms, old = outgoing_norms(host, site, module), module.intrinsic_channels
    weights, start = norms[:old].clone(), old
    for _, operation in module.operations():
        width = operation.ghosts
        weights += norms[start : start + width].view(old, -1).sum(1)
        start += width
    return weights.topk(count).indices.sort().values
