"""Ghost modules that start from the trained convolutions whose places they take.

A ghost map is a cheap convolution of one intrinsic map, so the question is which of a convolution's maps can be made
from which others. On a few images, least squares tells for every pair of maps how much of the one a small kernel makes
from the other; the pairs that cost least are chosen greedily. The channels are then brought into the ghost module's
order, intrinsic maps first, in all layers that share them: the network computes the same as before. Then every
convolution is replaced, from the input on, while the images pass once through the new network: what it computes so far
decides the filters and kernels of the next module, whose targets are the maps of the old network, and BNs take the new
statistics.

Source for the pairs that ghost maps make: Han et al., GhostNet, fig. 1. Layer by layer on the new network's own
features, as here: He et al., Channel Pruning, arXiv 1707.06168, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ghostkit.costs import evaluating
from ghostkit.devices import widened
from ghostkit.errors import GhostkitError
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.gain import padded
from ghostkit.growth.layers import widen_in, widen_out
from ghostkit.growth.sites import Site, channel_sites
from ghostkit.growth.surgery import Surgery
from ghostkit.growth.tracing import traces
from ghostkit.nn.ghost import GhostModule
from ghostkit.nn.ghostify import choices, ghosted

__all__ = ["arranged", "decomposed"]

Hook = Callable[..., None]

POSITIONS = 4096  # of a layer's output that least squares look at
HELD_OUT = 1024  # and others, by which the error is told
RIDGE = 1e-3  # share of the mean diagonal that is added to second moments
RIVALS = 64  # intrinsic maps considered for each ghost map
SAME = 1e-3  # largest relative change of the outputs that bringing channels into order may make in float32


def decomposed(
    model: nn.Module,
    images: Tensor,
    ratio: int = 2,
    cheap_kernel: int = 3,
    keep: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Return ``model`` with ghost modules that reproduce its convolutions as well as they can, and how well they do.

    Args:
        model: a trained network; it is left as it was.
        images: a few batches in one, as in training (B, C, H, W).
        ratio, cheap_kernel, keep: as for :func:`ghostkit.ghostify`.
        generator: which positions are looked at; seeded when None.

    Returns:
        The new network, and the share of the variance of each convolution's maps that its ghost module misses, by path,
        on positions that nothing was fitted to; 1 is no better than a constant.

    Raises:
        GhostkitError: as :func:`ghostkit.ghostify`, or if the images are too few to tell anything.
    """
    if len(images) < 2:
        raise GhostkitError(f"init='decompose' needs a few batches of images to fit to; got {len(images)} image(s)")
    generator = generator or torch.Generator().manual_seed(0)
    replaced = [choice.path for choice in choices(model, ratio, cheap_kernel, keep) if not choice.why]
    dense, given, images = copy.deepcopy(model), images.dtype, widened(images)
    if images.dtype != given:  # least squares and rounding: the network comes back as narrow as it was
        dense = dense.to(images.dtype)
    bring_into_order(dense, replaced, images, ratio, cheap_kernel, generator)
    new = ghosted(dense, ratio, cheap_kernel, keep)
    targets: dict[str, Sample] = {}
    errors: dict[str, float] = {}

    def note(path: str) -> Hook:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            targets.setdefault(path, Sample.of(output, generator))

        return hook

    def fit(path: str) -> Hook:
        def hook(module: nn.Module, inputs: Any) -> None:
            if path in targets:
                errors[path] = fit_module(cast(GhostModule, module), inputs[0], targets.pop(path))

        return hook

    with (
        evaluating(dense),
        listening([dense.get_submodule(path).register_forward_hook(note(path)) for path in replaced]),
    ):
        dense(images)
    modules = {path: new.get_submodule(path) for path in replaced}
    for path, module in modules.items():
        old, primary = cast(nn.Conv2d, dense.get_submodule(path)), cast(GhostModule, module).primary
        primary.load_state_dict({name: tensor[: primary.out_channels] for name, tensor in old.state_dict().items()})
    handles = [module.register_forward_pre_hook(fit(path)) for path, module in modules.items()]
    with evaluating(new), listening(handles), taking_statistics(new):
        new(images)
    if images.dtype != given:
        new = new.to(given)
    return new, {path: errors[path] for path in replaced if path in errors}


@contextmanager
def listening(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind ``handles`` when the block is over."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def taking_statistics(model: nn.Module) -> Iterator[None]:
    """Let every BN use, and keep, the statistics of the batch that passes."""
    bns = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    momenta = [bn.momentum for bn in bns]
    for bn in bns:
        bn.momentum = 1.0
        bn.train()
    try:
        yield
    finally:
        for bn, momentum in zip(bns, momenta, strict=True):
            bn.momentum = momentum


@dataclass
class Sample:
    """Some positions of a layer's output, and what it is there.

    Args:
        where: (3, L) image, row and column of each.
        maps: (C, L) the output.
    """

    where: Tensor
    maps: Tensor

    @classmethod
    def of(cls, output: Tensor, generator: torch.Generator) -> Sample:
        """Return a sample of ``output`` (B, C, H, W)."""
        batch, _, height, width = output.shape
        every = batch * height * width
        chosen = torch.randperm(every, generator=generator)[: POSITIONS + HELD_OUT].to(output.device)
        where = torch.stack([chosen // (height * width), chosen // width % height, chosen % width])
        return cls(where, output[where[0], :, where[1], where[2]].T)

    @property
    def fitted(self) -> int:
        """How many of the positions are for fitting; the rest tells the error."""
        return self.where.shape[1] * POSITIONS // (POSITIONS + HELD_OUT)


def patches_at(x: Tensor, conv: nn.Conv2d, where: Tensor) -> Tensor:
    """Return what a convolution reads for some positions of its output (C, k * k, L).

    Args:
        x: its input (B, C, H, W).
        conv: gives kernel size, stride, padding and dilation.
        where: (3, L) image, row and column of its output.
    """
    x = padded(x, conv)
    image, row, column = where
    taps = [
        x[image, :, row * conv.stride[0] + down * conv.dilation[0], column * conv.stride[1] + right * conv.dilation[1]]
        for down in range(conv.kernel_size[0])
        for right in range(conv.kernel_size[1])
    ]
    return torch.stack(taps, 2).permute(1, 2, 0)  # from (L, C, k * k)


def ridged(moments: Tensor) -> Tensor:
    """Return second moments (..., d, d) that can be inverted."""
    ridge = RIDGE * moments.diagonal(dim1=-2, dim2=-1).mean(-1) + torch.finfo(torch.float32).tiny
    return moments + ridge[..., None, None] * torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)


def fit_module(module: GhostModule, x: Tensor, target: Sample) -> float:
    """Give a bare ghost module the filters and kernels that reproduce ``target`` best, and return what it misses.

    Args:
        module: its primary convolution holds the old filters of the intrinsic maps.
        x: its input in the new network (B, C, H, W).
        target: the old convolution's output, in the module's order of channels.
    """
    fitted, maps = target.fitted, module.intrinsic_channels
    wanted = target.maps.double()
    offset, primary = wanted[:, :fitted].mean(1), module.primary
    read = patches_at(x, primary, target.where)[..., :fitted].flatten(0, 1)
    fit_filters(primary, read.double(), wanted[:maps, :fitted])
    intrinsic = primary(x)
    made = [intrinsic[target.where[0], :, target.where[1], target.where[2]].T.double()]
    for _, operation in module.operations():
        near = patches_at(intrinsic, operation.conv, target.where).double()  # (m, k * k, L)
        near = near.repeat_interleave(operation.branches, 0)[
            : len(wanted) - maps
        ]  # of each ghost map that is not cut off
        middle = near[..., :fitted].mean(-1, keepdim=True)
        ghosts = wanted[maps:, :fitted] - offset[maps:, None]
        moments = (near - middle)[..., :fitted] @ (near - middle)[..., :fitted].mT
        products = (near - middle)[..., :fitted] @ ghosts[:, :, None]
        kernels = torch.linalg.solve(ridged(moments), products)[..., 0]  # (g, k * k)
        operation.conv.weight.data[: len(kernels)] = kernels.view(-1, *operation.conv.weight.shape[1:]).to(x.dtype)
        made.append((kernels[:, None] @ near)[:, 0])
        if operation.conv.bias is not None:
            shift = offset[maps:] - (kernels[:, None] @ middle)[:, 0, 0]
            operation.conv.bias.data[: len(shift)] = shift.to(x.dtype)
    rest = torch.cat(made) - wanted
    rest = rest[:, fitted:] - rest[:, :fitted].mean(1, keepdim=True)
    return float(rest.square().sum() / (wanted[:, fitted:] - offset[:, None]).square().sum().clamp(min=1e-30))


def fit_filters(conv: nn.Conv2d, patches: Tensor, wanted: Tensor) -> None:
    """Change a convolution's filters as little as it takes to put out what is ``wanted`` for other inputs than before.

    Its inputs may have become larger or smaller on the whole (the BNs of a network that was never trained do not know
    them yet); so each filter is brought to the best length first, and then changed.

    Args:
        conv: the convolution (C outputs).
        patches: what it reads now (d, L).
        wanted: what it is to put out (C, L).
    """
    middle, offset = patches.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    centred = patches - middle
    filters = conv.weight.detach().flatten(1).double()
    wanted, now = wanted - offset, filters @ centred  # (C, L)
    filters = filters * ((wanted * now).sum(1) / now.square().sum(1).clamp(min=1e-30))[:, None]
    rest = wanted - filters @ centred
    if len(centred) <= centred.shape[1]:
        change = torch.linalg.solve(ridged(centred @ centred.mT), centred @ rest.mT).mT
    else:  # more taps than positions: the same change, by the smaller matrix
        change = torch.linalg.solve(ridged(centred.mT @ centred), rest.mT).mT @ centred.mT
    filters = filters + change
    conv.weight.data = filters.view_as(conv.weight).to(conv.weight)
    if conv.bias is not None:
        conv.bias.data = (offset - filters @ middle)[:, 0].to(conv.bias)


# -- which maps are made from which ------------------------------------------------------------------------------------


def bring_into_order(
    dense: nn.Module,
    replaced: Collection[str],
    images: Tensor,
    ratio: int,
    cheap_kernel: int,
    generator: torch.Generator,
) -> None:
    """Bring channels of ``dense`` into the order of the ghost modules to come, in all layers that share them.

    Channels that also get elsewhere (into a concatenation, say) stay in the order in which they are, and so does a
    network that cannot be traced.
    """
    if ratio == 1:
        return
    try:
        groups = list(channel_sites(dense, traces(dense)))
    except GhostkitError:
        return
    groups = [group for group in groups if any(path in replaced for path in group.producers)]
    producers = {path: group.id for group in groups for path in group.producers if path in replaced}
    costs: dict[str, Tensor] = {}

    def note(group: str) -> Hook:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            missed = pair_costs(output, cheap_kernel, generator)
            costs[group] = costs[group] + missed if group in costs else missed

        return hook

    with (
        evaluating(dense),
        listening([dense.get_submodule(path).register_forward_hook(note(group)) for path, group in producers.items()]),
    ):
        before = dense(images[:2])
        costs.clear()
        dense(images)
    for group in groups:
        maps = -(-len(costs[group.id]) // ratio)
        reorder(dense, group, arranged(costs[group.id], maps, ratio - 1))
    with evaluating(dense):
        after = dense(images[:2])
    if isinstance(before, Tensor) and not torch.allclose(
        before, after, rtol=SAME, atol=SAME * float(before.abs().max())
    ):
        raise GhostkitError(
            f"bringing the channels of {type(dense).__name__} into order changed its outputs by "
            f"{float((after - before).abs().max()):.3g}: a rule of widen_in or widen_out does not keep the function"
        )


def reorder(dense: nn.Module, group: Site, order: Tensor) -> None:
    """Let all layers around a group of channels hold them in ``order``."""
    channels = ChannelMap.of(order, len(order))
    surgery = Surgery(dense, torch.Generator())
    for path in (*group.producers, *group.through):
        widen_out(dense.get_submodule(path), channels, surgery)
    for path in group.consumers:
        widen_in(dense.get_submodule(path), channels, surgery)
    surgery.apply(dense)


def pair_costs(maps: Tensor, kernel_size: int, generator: torch.Generator) -> Tensor:
    """Return the share of each map's variance that a small kernel cannot make from each other map (from, to).

    Args:
        maps: (B, C, H, W).
        kernel_size: side of the kernel, in pixels.
        generator: which positions are looked at.
    """
    channels = maps.shape[1]
    cheap = nn.Conv2d(1, 1, kernel_size, padding=kernel_size // 2)
    sample = Sample.of(maps, generator)
    near = patches_at(maps, cheap, sample.where)
    near = near - near.mean(2, keepdim=True)  # (C, k * k, L)
    wanted = sample.maps - sample.maps.mean(1, keepdim=True)
    products = (near.flatten(0, 1) @ wanted.mT).view(channels, -1, channels)
    explained = (products * torch.linalg.solve(ridged(near @ near.mT), products)).sum(1)
    return 1 - explained / wanted.square().sum(1).clamp(min=1e-30)


def arranged(costs: Tensor, maps: int, branches: int) -> Tensor:
    """Return an order of channels in which a ghost module can make the later ones from the first ``maps``.

    Pairs are taken greedily, the cheapest first.

    Args:
        costs: (C, C) what it costs to make a map (column) from another one (row).
        maps: intrinsic maps.
        branches: ghost maps of each; where there are too few channels for all, the last ones have fewer.
    """
    channels = len(costs)
    rooms = [min(branches, max(0, channels - maps - number * branches)) for number in range(maps)]
    costs = costs.clone()
    costs.fill_diagonal_(torch.inf)
    best = costs.topk(min(RIVALS, channels - 1), dim=0, largest=False)
    ghosts: dict[int, list[int]] = {}  # of each intrinsic map
    settled: set[int] = set()

    def take(source: int, ghost: int) -> None:
        opens = source not in ghosts
        rooms_left = len(ghosts) < sum(room > 0 for room in rooms) if opens else len(ghosts[source]) < branches
        if ghost not in settled and (not opens or source not in settled) and rooms_left:
            ghosts.setdefault(source, []).append(ghost)
            settled.update((source, ghost))

    order = best.values.flatten().argsort(stable=True).tolist()
    for place in order:
        take(int(best.indices.flatten()[place]), place % channels)
    left = [channel for channel in range(channels) if channel not in settled]
    while len(ghosts) < maps:
        ghosts[left.pop(0)] = []
    row = sorted(ghosts, key=lambda source: -len(ghosts[source]))
    for source, room in zip(row, rooms, strict=True):  # some hold too many, where the last ones have fewer
        left += ghosts[source][room:]
        del ghosts[source][room:]
    for source, room in zip(row, rooms, strict=True):
        missing = room - len(ghosts[source])
        cheapest = sorted(left, key=lambda ghost: float(costs[source, ghost]))[:missing]
        ghosts[source] += cheapest
        left = [ghost for ghost in left if ghost not in cheapest]
    return torch.tensor(row + [ghost for source in row for ghost in ghosts[source]])
