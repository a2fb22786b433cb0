"""What could be grown: every edit to consider, with the weights that it would start from.

One pass over the probe batch shows what flows into the modules that could grow, and which gradient comes back to the
layers that would read what is new. From these follow the weights of each proposal; what it would bring is scored later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError, ProbeError
from ghostkit.growth.blocks import hidden_channels, is_residual, is_thin
from ghostkit.growth.depth import link_places
from ghostkit.growth.edits import (
    WIDTH_INITS,
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Growth,
    WidenStage,
    take_down,
)
from ghostkit.growth.fitting import reading_path
from ghostkit.growth.gain import Probe
from ghostkit.growth.kernels import best_branch, best_intrinsic, best_layer, search_macs
from ghostkit.growth.layers import default_rows, reader
from ghostkit.growth.sites import Site
from ghostkit.growth.sizing import Size
from ghostkit.growth.width import ALPHA
from ghostkit.nn.ghost import GhostModule

__all__ = ["Proposal", "Seen", "backward", "observe", "propose"]

Loss = Callable[[nn.Module, Any, Any], Tensor]

NOISE = 0.5  # a split is scored as a copy with this share of noise: an exact copy has nothing to bring of its own


@dataclass(frozen=True)
class Proposal:
    """An edit to consider.

    Args:
        edit: the edit that growth would apply.
        attached: the edit that is attached for the score; it differs for splits only.
        macs: what finding its weights took.
    """

    edit: Growth
    attached: Growth
    macs: float = 0.0


@dataclass
class Seen:
    """What one pass showed at a width or stream site.

    Args:
        inputs: path of each producer -> its input (B, C, H, W).
        readers: paths of the consumers that took part in the pass.
        features: what each of them reads (B, C, ...).
        deltas: gradients at their outputs.
        intrinsic: width: the module's intrinsic maps (B, m, H, W).
        ghosts: width: the module's ghost maps (B, g, H, W), as far as they are not cut off.
        ghost_delta: width: the gradient at them.
    """

    inputs: dict[str, Tensor]
    readers: list[str]
    features: list[Tensor]
    deltas: list[Tensor]
    intrinsic: Tensor | None = None
    ghosts: Tensor | None = None
    ghost_delta: Tensor | None = None


def backward(model: nn.Module, images: Any, targets: Any, loss: Loss, probe: Probe | None = None) -> None:
    """Run one forward and backward pass.

    Args:
        model, images, targets, loss: as for :func:`ghostkit.candidates`.
        probe: has to hear something of the forward pass.

    Raises:
        GhostkitError: if the probe hears nothing.
        ProbeError: if the loss is not finite.
    """
    with torch.enable_grad():
        value = loss(model, images, targets)
        if probe is not None and not probe.outputs:
            raise GhostkitError(
                "the loss did not use the model that it was given, or nothing in it that can grow; expected "
                "loss(model, images, targets) to call that model, and no other one"
            )
        if not bool(torch.isfinite(value)):
            raise ProbeError(
                f"the loss on the probe batch is {value.item()}, so no candidate can be scored; look for values that "
                "are not finite in the images, or lower the learning rate"
            )
        if value.requires_grad:  # it feels something that is listened to
            value.backward()


def observe(model: nn.Module, known: Sequence[Site], images: Any, targets: Any, loss: Loss) -> dict[str, Seen]:
    """Return what is seen in one forward and backward pass at each width and stream site that takes part in it."""
    grown = [site for site in known if site.axis != "depth"]
    layers: dict[str, nn.Module] = {}
    for site in grown:
        for path in site.producers:
            layers[path] = model.get_submodule(path)
        if site.axis == "width":
            layers[f"{site.id}.primary_conv"] = cast(GhostModule, layers[site.id]).primary_conv
        for path in site.consumers:
            layers[f"reader of {path}"] = reader(model.get_submodule(path))
    if not layers:
        return {}
    with Probe(layers) as probe:
        backward(model, images, targets, loss, probe)
    model.zero_grad(set_to_none=True)
    seen = {}
    for site in grown:
        readers = [path for path in site.consumers if f"reader of {path}" in probe.inputs]
        if not readers or not all(path in probe.inputs for path in site.producers):
            continue
        here = seen[site.id] = Seen(
            {path: probe.inputs[path] for path in site.producers},
            readers,
            [probe.inputs[f"reader of {path}"] for path in readers],
            [probe.gradients[f"reader of {path}"] for path in readers],
        )
        if site.axis == "width":
            here.intrinsic = probe.outputs[f"{site.id}.primary_conv"]
            maps = here.intrinsic.shape[1]
            here.ghosts, here.ghost_delta = probe.outputs[site.id][:, maps:], probe.gradients[site.id][:, maps:]
    return seen


def unseen(known: Sequence[Site]) -> dict[str, Seen]:
    """Return what no pass shows at each site, for weights that are not searched for."""
    return {site.id: Seen(dict.fromkeys(site.producers, torch.empty(0)), [], [], []) for site in known}


def propose(
    model: nn.Module,
    known: list[Site],
    grown: list[Site],
    sizes: Mapping[str, Size],
    seen: dict[str, Seen],
    kinds: Sequence[str],
    kernel_sizes: Sequence[int],
    inits: Sequence[str],
    generator: torch.Generator,
) -> Iterator[Proposal]:
    """Yield every edit to consider.

    Args:
        model: the host.
        known: its sites.
        grown: those of them that may grow.
        sizes: by how many channels, as :func:`ghostkit.growth.sizing.sizes_of` returns them.
        seen: what :func:`observe` returned.
        kinds: kinds of edit.
        kernel_sizes: sides of a new branch's kernels.
        inits: how weights start; a kind of edit that knows none of them starts in its own usual way.
        generator: where random weights draw from.
    """
    width_inits = inits_of_widths(inits)
    block_inits = ["clone"] * ("clone" in inits) + ["random"] * (set(inits) != {"clone"})
    for site in grown:
        if site.axis == "depth" and "block" in kinds:
            for init in block_inits:
                for after in ends_of(model, site, sizes):
                    yield from block_proposals(model, known, site, after, init, generator)
        if site.axis == "width":
            for init in width_inits:
                yield from branch_proposals(model, site, seen[site.id], kinds, kernel_sizes, init, generator)
                if site.id in sizes:
                    yield channel_proposal(model, known, sizes[site.id].edit, [site.id], seen[site.id], init, generator)
            if "layer" in kinds and cast(GhostModule, model.get_submodule(site.id)).ghosts:
                yield layer_proposal(model, site, seen[site.id], width_inits, generator)
        if site.axis == "stream" and site.id in sizes:
            for init in width_inits:
                edit = sizes[site.id].edit
                yield channel_proposal(model, known, edit, site.producers, seen[site.id], init, generator)
    if "link" in kinds:
        places = {site.id for site in grown}
        for source, target in link_places(model, known):
            link = AddLink(source, target)
            if link.site in places:
                yield alike(link)


def inits_of_widths(inits: Sequence[str]) -> list[str]:
    """Return those of ``inits`` that channels, branches and layers may start by, or their usual one."""
    return [init for init in inits if init in WIDTH_INITS] or ["svd"]


def alike(edit: Growth, macs: float = 0.0) -> Proposal:
    """Return the proposal that attaches what it would grow."""
    return Proposal(edit, edit, macs)


def ends_of(model: nn.Module, site: Site, widened: Collection[str] = ()) -> list[str]:
    """Return the blocks of a row behind which one more may stand: the last before channels or resolution change.

    Where one of the blocks up to there is thin, and offered channels, it gets these first: one more is made like it.

    Args:
        model: the host.
        site: the row, a depth site.
        widened: ids of the sites that are offered channels.
    """
    stretches: list[list[str]] = []
    for name in site.blocks:
        if not stretches or not is_residual(model.get_submodule(f"{site.id}.{name}")):
            stretches.append([])
        stretches[-1].append(name)
    waiting = [name for name in site.blocks if any(width.startswith(f"{site.id}.{name}.") for width in widened)]
    thin = {name for name in waiting if is_thin(model.get_submodule(f"{site.id}.{name}"))}
    return [stretch[-1] for stretch in stretches if not thin & {*stretch}]


def block_proposals(
    model: nn.Module, known: list[Site], site: Site, after: str, init: str, generator: torch.Generator
) -> Iterator[Proposal]:
    """Yield the proposal of one more block in a row, or none where no block like the one before it fits there."""
    plain = AddBlock(site.id, after, init=init)
    try:
        block = take_down(plain, model, known, generator).inserts[0].module
    except GhostkitError:  # such as groups that cannot share the channels of the row
        return
    # The hidden width is written down: an edit beside it may widen the block that it is like.
    yield alike(replace(plain, hidden=hidden_channels(block), tensors=block.state_dict()))


def layer_proposal(
    model: nn.Module, site: Site, seen: Seen, inits: Sequence[str], generator: torch.Generator
) -> Proposal:
    """Return the proposal of one more layer over a module's ghost maps."""
    module = cast(GhostModule, model.get_submodule(site.id))
    rows = default_rows(torch.empty(1, 1, 3, 3), module.ghosts, generator)
    init, spent = "random", 0.0
    if set(inits) & {"svd", "gradmax"}:
        init = "svd"
        ghosts, delta = cast(Tensor, seen.ghosts), cast(Tensor, seen.ghost_delta)
        found, spent = best_layer(ghosts, delta, 3), search_macs(ghosts, [delta[:, :1]], 9, grouped=True)
        rows[: len(found)] = found  # ghost maps that are cut off keep random kernels
    return alike(DeepenBranches(site.id, 3, init, {"rows": rows}), spent)


def branch_proposals(
    model: nn.Module,
    site: Site,
    seen: Seen,
    kinds: Sequence[str],
    kernel_sizes: Sequence[int],
    init: str,
    generator: torch.Generator,
) -> Iterator[Proposal]:
    """Yield the proposals of one more branch in a ghost module, one for each side of a kernel."""
    module = cast(GhostModule, model.get_submodule(site.id))
    for side in kernel_sizes if "branch" in kinds else ():
        if init == "split" and side not in module.branches():
            continue
        spent = 0.0
        if searched(init) and (deltas := laid_out(seen.deltas)):
            intrinsic = cast(Tensor, seen.intrinsic)
            rows = best_branch(intrinsic, deltas, side, whiten=init == "svd")
            spent = search_macs(intrinsic, deltas, side**2, grouped=True)
        elif init == "split":
            operation = next(operation for _, operation in module.operations() if operation.kernel_size == side)
            rows = noisy(operation.conv.weight.detach()[:: operation.branches], generator)
        else:
            rows = default_rows(torch.empty(1, 1, side, side), module.intrinsic_channels, generator)
        yield proposed(AddBranch(site.id, side, init), {"rows": rows}, spent, generator)


def channel_proposal(
    model: nn.Module,
    known: list[Site],
    edit: AddIntrinsic | WidenStage,
    producers: Sequence[str],
    seen: Seen,
    init: str,
    generator: torch.Generator,
) -> Proposal:
    """Return the proposal of more intrinsic maps in a ghost module, or of more channels in a stream.

    Args:
        model: the host.
        known: its sites.
        edit: says where and how many.
        producers: paths of the layers that get filters.
        seen: what was seen at the edit's site.
        init: how the filters start.
        generator: where random filters draw from.
    """
    edit = replace(edit, init=init)
    tensors, spent = {}, 0.0
    for path in producers:
        if isinstance(reader(model.get_submodule(path)), nn.Conv2d):  # a layer of the user's own starts by its rule
            name = "rows" if isinstance(edit, AddIntrinsic) else path
            tensors[name], macs = found_rows(edit, model, known, path, seen, generator)
            spent += macs
    return proposed(edit, tensors, spent, generator)


def searched(init: str) -> bool:
    """Return whether weights that start so are searched for."""
    return init in ("svd", "gradmax")


def proposed(
    edit: AddBranch | AddIntrinsic | WidenStage, tensors: dict[str, Tensor], macs: float, generator: torch.Generator
) -> Proposal:
    """Return the proposal of ``edit`` with the weights found for it; what a split grows are exact copies instead."""
    found = replace(edit, tensors=tensors, seed=int(torch.randint(2**62, (), generator=generator)))
    return Proposal(edit, replace(found, init="svd"), macs) if edit.init == "split" else alike(found, macs)


def found_rows(
    edit: AddIntrinsic | WidenStage,
    model: nn.Module,
    known: list[Site],
    producer: str,
    seen: Seen,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Return the filters (new, in_channels, k, k) that a producer would start with, and the MACs that it took.

    Args:
        edit: what would be grown.
        model: the host.
        known: its sites.
        producer: path of the ghost module or convolution that gets the filters.
        seen: what was seen at the edit's site.
        generator: where random filters draw from.
    """
    conv, path, x = reader(model.get_submodule(producer)), reading_path(model, producer), seen.inputs[producer]
    assert isinstance(conv, nn.Conv2d)
    plain = replace(edit, init=edit.init if edit.init == "split" else "random")
    surgery = take_down(plain, model, known, generator)
    channels = next(r.channels for r in surgery.remaps if (r.path, r.name, r.dim) == (path, "weight", 0))
    if edit.init == "split":
        return noisy(conv.weight.detach()[channels.source[channels.share == 1 - ALPHA]], generator), 0.0
    count, deltas = int(channels.fresh.sum()), laid_out(seen.deltas)
    if edit.init == "random" or not deltas:
        return default_rows(conv.weight, count, generator), 0.0
    rows = best_intrinsic(x, deltas, conv, count, whiten=edit.init == "svd")
    return rows, search_macs(x, deltas, conv.weight[0, 0].numel(), grouped=False)


def laid_out(deltas: Sequence[Tensor]) -> list[Tensor]:
    """Return those gradients whose layout is known: maps (B, C, H, W) or, behind a global pooling, rows (B, C)."""
    return [delta for delta in deltas if delta.dim() in (2, 4)]


def noisy(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``rows`` with noise of a share of their own norm."""
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    scale = rows.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1).clamp(min=1e-12)
    return rows + NOISE * scale[:, None, None, None] * noise
