"""What an edit really brings: twins that train on, one grown and one not, on the same batches in the same order.

Hosts are trained to a moment, where they are offered *larger* edits than growth usually makes: one added branch is lost
in the noise of training. From there, the twins' rate is lower than before, and annealed to zero in the second half of
their horizon: at the full rate, two runs that differ by a thousandth of their weights end further apart than most edits
bring them. What noise is left is measured on just such twins.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostkit
from ghostkit.data import load as load_data
from ghostkit.growth.candidates import scratch_copy
from ghostkit.growth.depth import link_places
from ghostkit.growth.edits import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    WidenStage,
    take_down,
)
from ghostkit.growth.kernels import best_branch, best_layer
from ghostkit.growth.layers import default_rows
from ghostkit.growth.proposals import Seen, found_rows, observe
from ghostkit.growth.sites import Site, sites
from ghostkit.growth.width import stream_at
from ghostkit.nn.ghost import GhostModule

BATCH = 64
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4  # the defaults of a run
JITTER = 1e-3  # share of every weight that an irrelevant jitter changes
GIVEN = ("svd", "random", "gradmax")

# Rows as of ghostkit.nn.ghostnet.Row: kernel, hidden and output channels, SE share, stride.
HOSTS: dict[str, dict[str, Any]] = {
    "seedling": {},
    "plain": {"ratio": 1},
    "deep": {"stages": (((3, 4, 8, 0, 2), (3, 4, 8, 0, 1)), ((3, 4, 8, 0.25, 2), (3, 4, 8, 0, 1)))},
    "wide": {"stages": (((3, 8, 8, 0, 2),), ((3, 8, 12, 0, 2),)), "stem_channels": 8},
}


@dataclass(frozen=True, eq=False)
class Images:
    """Images (N, C, H, W) and labels (N,): to train on, to score on, and to measure the loss on."""

    train: tuple[Tensor, Tensor]
    probe: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]


def load(name: str, size: int, train: int, probe: int, held_out: int) -> Images:
    """Return a data set at ``size`` pixels; the loss is measured on images that nothing was trained or scored on."""
    split = load_data(name, train_samples=train + held_out).train
    images = split.images(torch.arange(len(split)))
    images = F.adaptive_avg_pool2d(images, size) if size != images.shape[-1] else images
    labels = split.labels
    return Images((images[:train], labels[:train]), (images[:probe], labels[:probe]), (images[train:], labels[train:]))


def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(images), targets)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Images, rates: Sequence[float], order: int
) -> None:
    """Take one step for each of ``rates``, on batches in the order that the seed ``order`` gives."""
    generator = torch.Generator().manual_seed(order)
    count = len(images.train[1])
    indices = torch.cat([torch.randperm(count, generator=generator) for _ in range(len(rates) * BATCH // count + 1)])
    model.train()
    for step, rate in enumerate(rates):
        batch = indices[step * BATCH : (step + 1) * BATCH]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss(model, images.train[0][batch], images.train[1][batch]).backward()
        optimizer.step()


def annealed(horizon: int, rate: float) -> list[float]:
    """Return the rates of a twin: held for half of the horizon, then down to zero in a straight line."""
    held = horizon // 2
    return [rate * min(1.0, (horizon - step) / (horizon - held)) for step in range(horizon)]


def moments(
    host: str, images: Images, steps: Sequence[int], seed: int
) -> Iterator[tuple[int, nn.Module, torch.optim.Optimizer]]:
    """Yield a host and its optimizer after each of the numbers of ``steps`` of training."""
    torch.manual_seed(seed)
    model = ghostkit.build("seedling", num_classes=10, in_channels=images.train[0].shape[1], **HOSTS[host])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    done = 0
    for moment in steps:
        train(model, optimizer, images, [RATE] * (moment - done), order=1000 * seed + done)
        done = moment
        yield moment, model, optimizer


def final_loss(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    rates: Sequence[float],
    order: int,
    edit: Edit | None = None,
    jitter: int = 0,
) -> float:
    """Return the held-out loss of a copy of ``model`` that trained on, grown by ``edit`` or not.

    Args:
        model, optimizer: the host; neither is touched.
        images: what it trains on.
        rates: of the steps to train.
        order: seed of the order of the batches.
        edit: what to grow first.
        jitter: seed of an irrelevant change of all weights by a thousandth; 0 for none.
    """
    model, optimizer = copy.deepcopy((model, optimizer))
    if jitter:
        generator = torch.Generator().manual_seed(jitter)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + JITTER * torch.randn(parameter.shape, generator=generator))
    if edit is not None:
        ghostkit.grow(model, edit, optimizer, probe=images.probe[0])
    train(model, optimizer, images, rates, order)
    model.eval()
    with torch.no_grad():
        return float(loss(model, *images.held_out))


def baseline(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    rates: Sequence[float],
    orders: int,
    twins: int,
) -> np.ndarray:
    """Return the held-out losses (orders, twins) of ungrown twins that differ by a jitter within a row."""
    seeds = 1 + np.arange(orders * twins).reshape(orders, twins)
    losses = [
        [final_loss(model, optimizer, images, rates, order, jitter=int(seed)) for seed in seeds[order]]
        for order in range(orders)
    ]
    return np.array(losses)


# -- larger edits ------------------------------------------------------------------------------------------------------


def larger_edits(model: nn.Module, images: Images, generator: torch.Generator) -> list[Edit]:
    """Return edits of every kind, site, start and size that ``model`` can take, with the weights that they start from.

    Args:
        model: the host; it is not touched.
        images: what the weights are found on.
        generator: where random weights draw from.
    """
    original = scratch_copy(model)
    known = sites(original)
    seen = observe(original, known, *images.probe, loss)
    edits: list[Edit] = []
    for site in known:
        if site.axis == "width":
            edits += branches_and_layers(original, site, seen[site.id], generator)
            edits += intrinsic_maps(original, known, site, seen[site.id], generator)
        elif site.axis == "stream":
            edits += streams(original, known, site, seen[site.id], generator)
        else:
            edits += blocks(original, known, site, generator)
    edits += [AddLink(source, target) for source, target in link_places(original, known)]
    return edits


def branches_and_layers(model: nn.Module, site: Site, seen: Seen, generator: torch.Generator) -> Iterator[Edit]:
    """Yield one more branch, or one more layer over the ghost maps, with kernels of several sides."""
    module = model.get_submodule(site.id)
    assert isinstance(module, GhostModule)
    for side, init in ((3, "svd"), (5, "svd"), (7, "svd"), (5, "random"), (5, "gradmax")):
        if init == "random":
            rows = default_rows(torch.empty(1, 1, side, side), module.intrinsic_channels, generator)
        else:
            rows = best_branch(seen.intrinsic, seen.deltas, side, whiten=init == "svd")
        yield AddBranch(site.id, side, init, {"rows": rows})
    for side, init in ((3, "svd"), (5, "random")) if module.ghosts else ():
        rows = default_rows(torch.empty(1, 1, side, side), module.ghosts, generator)
        if init == "svd":
            found = best_layer(seen.ghosts, seen.ghost_delta, side)
            rows[: len(found)] = found
        yield DeepenBranches(site.id, side, init, {"rows": rows})


def intrinsic_maps(
    model: nn.Module, known: list[Site], site: Site, seen: Seen, generator: torch.Generator
) -> Iterator[Edit]:
    """Yield as many, and up to three times as many, intrinsic maps as there are."""
    module = model.get_submodule(site.id)
    there = module.intrinsic_channels
    most = module.primary.weight[0].numel()  # directions that found filters can tell apart
    for count, inits in ((there, GIVEN), (min(3 * there, most), GIVEN[:2])):
        for init in inits:
            edit = AddIntrinsic(site.id, count, init)
            rows, _ = found_rows(edit, model, known, site.id, seen, generator)
            yield replace(edit, tensors={"rows": rows})


def streams(model: nn.Module, known: list[Site], site: Site, seen: Seen, generator: torch.Generator) -> Iterator[Edit]:
    """Yield half as many, and as many, channels of a stream as there are."""
    _, stream = stream_at(WidenStage(site.id, 1), model, known)
    for count, inits in ((stream.maps, GIVEN), (max(1, stream.maps // 2), GIVEN[:1])):
        for init in inits:
            edit = WidenStage(site.id, count * stream.ratio, init)
            tensors = {path: found_rows(edit, model, known, path, seen, generator)[0] for path in site.producers}
            yield replace(edit, tensors=tensors)


def blocks(model: nn.Module, known: list[Site], site: Site, generator: torch.Generator) -> Iterator[Edit]:
    """Yield one more block, as wide in its middle as the one before it, or four times as wide."""
    last = site.blocks[-1]
    hidden = model.get_submodule(f"{site.id}.{last}").ghost1.out_channels
    for width, init in ((hidden, "random"), (hidden, "clone"), (4 * hidden, "random"), (2 * hidden, "random")):
        edit = AddBlock(site.id, last, width, init)
        block = take_down(edit, model, known, generator).inserts[0].module
        yield replace(edit, tensors=block.state_dict())
