"""Candidates: what could be grown where, and what each would bring and cost, found without touching the model.

All candidates of one round are attached, at zero, to one scratch copy of the network: being zero they do not disturb
each other, so a single forward and backward pass gives every one of them its exact gradient. The edits attached are the
very ones that ``grow`` applies, so what is scored is what is grown.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import TRAINING_PASS, LatencyTable, LayerCost, layer_costs, macs, output_shapes
from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import (
    INITS,
    KINDS,
    AddBlock,
    AddBranch,
    AddIntrinsic,
    Edit,
    most_used_intrinsic,
    take_down,
)
from ghostkit.growth.gain import Probe, fisher_gain, per_sample_gradient, raw_gain, residual
from ghostkit.growth.kernels import best_branch, best_intrinsic
from ghostkit.growth.layers import default_rows, reader
from ghostkit.growth.sites import Site, sites
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import GhostBottleneck, GhostModule

__all__ = ["candidates"]

Loss = Callable[[nn.Module, Any, Any], Tensor]

SCORES = {"fisher": fisher_gain, "raw": raw_gain}
NOISE = 0.5  # a split is scored as a copy with this share of noise: an exact copy has nothing to bring of its own
INTRINSIC_SHARE = 0.25  # new intrinsic maps, as a share of those there


def candidates(
    model: nn.Module,
    images: Any,
    targets: Any,
    loss: Loss,
    *,
    kinds: Sequence[str] = ("branch", "intrinsic", "block"),
    kernel_sizes: Sequence[int] = (3, 5),
    how: str | Sequence[str] = "svd",
    score: str = "fisher",
    latency: LatencyTable | None = None,
    generator: torch.Generator | None = None,
) -> pd.DataFrame:
    """Return what could be grown, with predicted gain and cost, best first; ``model`` is left untouched.

    Args:
        model: the host.
        images: a batch (B, C, H, W).
        targets: what ``loss`` takes.
        loss: ``loss(model, images, targets)`` gives the batch's mean loss.
        kinds: kinds of edit to consider: ``"branch"``, ``"intrinsic"``, ``"block"``.
        kernel_sizes: sides of the kernels that a new branch may have, in pixels.
        how: how new weights start: ``"svd"``, ``"random"``, ``"split"``, or several of them.
        score: ``"fisher"``, the predicted decrease of the loss, or ``"raw"``, the squared gradient norm.
        latency: milliseconds of layers by kind; measured here when None.
        generator: where random weights draw from.

    Returns:
        A frame with the columns edit, site, kind, init, gain (nats), macs, params and milliseconds (all added by the
        edit; MACs per image). ``frame.attrs["macs"]`` holds the MACs spent on scoring.

    Raises:
        GhostkitError: if an argument is unknown, the model has no site, or the loss is not finite.
    """
    inits = (how,) if isinstance(how, str) else tuple(how)
    generator = generator or torch.Generator().manual_seed(0)
    latency = latency or LatencyTable(batch=1)
    for asked, values, expected in (
        ("score", (score,), tuple(SCORES)),
        ("how", inits, INITS),
        ("kinds", kinds, tuple(edit.kind for edit in KINDS.values())),
    ):
        for value in values:
            if value not in expected:
                raise GhostkitError(f"candidates: {asked}={value!r} is unknown; expected one of {', '.join(expected)}")
    for side in kernel_sizes:
        if side < 1 or side % 2 == 0:
            raise GhostkitError(f"candidates: kernel_sizes={tuple(kernel_sizes)} holds {side}; expected odd numbers")
    original = scratch_copy(model)
    known = sites(original)
    if not known:
        raise GhostkitError(f"{type(model).__name__} has no site: no ghost module in it can grow")
    example = images[:1]
    ledger = Ledger(original, example, latency)
    seen, spent = observe(original, known, images, targets, loss)
    proposed = list(propose(original, known, seen, kinds, kernel_sizes, inits, generator))
    rows = []
    for wanted in (lambda edit: not isinstance(edit, AddIntrinsic), lambda edit: isinstance(edit, AddIntrinsic)):
        # New intrinsic maps would bring ghosts of every branch attached beside them, so they get a round of their own.
        found = [pair for pair in proposed if wanted(pair[1])]
        if not found:
            continue
        attached = [pair[1] for pair in found]
        gains, cost = score_round(
            original, known, attached, images, targets, loss, SCORES[score], score != "raw", generator
        )
        spent += cost
        for (edit, _), gain in zip(found, gains, strict=True):
            added = ledger.added(take_down(edit, original, known, generator))
            rows.append(
                {
                    "edit": edit,
                    "site": edit.site,
                    "kind": edit.kind,
                    "init": getattr(edit, "init", "identity"),
                    "gain": gain,
                    "macs": added.macs,
                    "params": added.params,
                    "milliseconds": added.milliseconds,
                }
            )
    columns = ["edit", "site", "kind", "init", "gain", "macs", "params", "milliseconds"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("gain", ascending=False, kind="stable", ignore_index=True)
    frame.attrs["macs"] = spent
    return frame


def scratch_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in train mode without dropout, hooks, history or gradients, to be used up."""
    scratch = copy.deepcopy(model)
    for module in scratch.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    for parameter in scratch.parameters():
        parameter.grad = None
        parameter.requires_grad_(True)
    return scratch.train()


def backward(model: nn.Module, images: Any, targets: Any, loss: Loss) -> None:
    """Run one forward and backward pass."""
    with torch.enable_grad():
        value = loss(model, images, targets)
        if not bool(torch.isfinite(value)):
            raise GhostkitError(
                f"the loss on the probe batch is {value.item()}, so no candidate can be scored; look for values that "
                "are not finite in the images, or lower the learning rate"
            )
        value.backward()


def training_macs(model: nn.Module, images: Any) -> float:
    """Return the MACs of one forward and backward pass."""
    return TRAINING_PASS * macs(model, images) * len(images)


@dataclass
class Seen:
    """What one pass showed at a width site: its module's input, its intrinsic maps, the gradients at its readers."""

    x: Tensor
    intrinsic: Tensor
    deltas: list[Tensor]


def ghost_module(model: nn.Module, site: Site) -> GhostModule:
    """Return the ghost module of a width site."""
    return cast(GhostModule, model.get_submodule(site.id))


def observe(
    model: nn.Module, known: Sequence[Site], images: Any, targets: Any, loss: Loss
) -> tuple[dict[str, Seen], float]:
    """Return what is seen at each width site in one pass, and the MACs spent."""
    width = [site for site in known if site.axis == "width"]
    layers: dict[str, nn.Module] = {}
    for site in width:
        module = layers[site.id] = ghost_module(model, site)
        layers[f"{site.id}.primary_conv"] = module.primary_conv
        for path in site.consumers:
            layers[f"reader of {path}"] = reader(model.get_submodule(path))
    with Probe(layers) as probe:
        backward(model, images, targets, loss)
    model.zero_grad(set_to_none=True)
    return {
        site.id: Seen(
            probe.inputs[site.id],
            probe.outputs[f"{site.id}.primary_conv"],
            [probe.gradients[f"reader of {path}"] for path in site.consumers],
        )
        for site in width
    }, training_macs(model, images)


def propose(
    model: nn.Module,
    known: Sequence[Site],
    seen: dict[str, Seen],
    kinds: Sequence[str],
    kernel_sizes: Sequence[int],
    inits: Sequence[str],
    generator: torch.Generator,
) -> Iterable[tuple[Edit, Edit]]:
    """Yield every edit to consider, with the edit to attach for its score (they differ for splits only)."""
    for site in known:
        if site.axis == "depth":
            if "block" in kinds:
                plain = AddBlock(site.id, site.blocks[-1])
                block = take_down(plain, model, list(known), generator).inserts[0].module
                # The hidden width is written down: an edit beside it may widen the block that it is like.
                hidden = block.ghost1.out_channels if isinstance(block, GhostBottleneck) else None
                edit = replace(plain, hidden=hidden, tensors=block.state_dict())
                yield edit, edit
            continue
        module = ghost_module(model, site)
        for init in inits:
            if "branch" in kinds:
                for side in kernel_sizes:
                    if init == "split" and side not in module.branches():
                        continue
                    rows = branch_rows(module, seen[site.id], side, init, generator)
                    branch = AddBranch(site.id, side, "svd" if init == "split" else init, {"rows": rows})
                    yield (AddBranch(site.id, side, "split") if init == "split" else branch), branch
            if "intrinsic" in kinds:
                count = max(1, round(module.intrinsic_channels * INTRINSIC_SHARE))
                rows = intrinsic_rows(model, site, module, seen[site.id], count, init, generator)
                maps = AddIntrinsic(site.id, count, "svd" if init == "split" else init, {"rows": rows})
                yield (AddIntrinsic(site.id, count, "split") if init == "split" else maps), maps


def branch_rows(module: GhostModule, seen: Seen, side: int, init: str, generator: torch.Generator) -> Tensor:
    """Return the kernels (intrinsic, 1, k, k) of a new branch."""
    intrinsic = module.intrinsic_channels
    if init == "svd":
        return best_branch(seen.intrinsic, seen.deltas, side)
    if init == "split":
        operation = next(operation for _, operation in module.operations() if operation.kernel_size == side)
        return noisy(operation.conv.weight.detach()[:: operation.branches], generator)
    return default_rows(torch.empty(1, 1, side, side), intrinsic, generator)


def intrinsic_rows(
    model: nn.Module, site: Site, module: GhostModule, seen: Seen, count: int, init: str, generator: torch.Generator
) -> Tensor:
    """Return the filters (count, in_channels, k, k) of new intrinsic maps."""
    conv = module.primary
    if init == "svd":
        return best_intrinsic(seen.x, seen.deltas, conv, count)
    if init == "split":
        return noisy(conv.weight.detach()[most_used_intrinsic(model, site, module, count)], generator)
    return default_rows(conv.weight, count, generator)


def noisy(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``rows`` with noise of a share of their own norm."""
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    scale = rows.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1).clamp(min=1e-12)
    return rows + NOISE * scale[:, None, None, None] * noise


def score_round(
    original: nn.Module,
    known: Sequence[Site],
    edits: Sequence[Edit],
    images: Any,
    targets: Any,
    loss: Loss,
    score: Callable[[Tensor], float],
    residualised: bool,
    generator: torch.Generator,
) -> tuple[list[float], float]:
    """Return the gain of each of ``edits`` when all are attached to one copy at zero, and the MACs spent."""
    scratch = copy.deepcopy(original)
    born = ZeroBorn()
    for number, edit in enumerate(edits):
        surgery = take_down(edit, scratch, list(known), generator)
        surgery.apply(scratch)
        born.note(number, surgery)
    layers = {path: scratch.get_submodule(path) for path in born.paths()}
    with Probe(layers) as probe:
        backward(scratch, images, targets, loss)
    parts: dict[int, list[Tensor]] = {}

    def add(number: int, path: str, features: Tensor, delta: Tensor, existing: Tensor) -> None:
        if residualised:
            features = residual(features, existing)
        parts.setdefault(number, []).append(per_sample_gradient(layers[path], features, delta))

    for path, owners in born.columns.items():
        x, delta = probe.inputs[path], probe.gradients[path]
        owners = owners.to(x.device)
        for number in owners[owners >= 0].unique().tolist():
            add(number, path, x[:, owners == number], delta, x[:, owners < 0])
    for number, (path, bn, stream) in born.projections.items():
        add(number, path, probe.inputs[path], probe.gradients[bn], probe.outputs[stream])
    gains = [sum(score(part) for part in parts.get(number, [])) for number in range(len(edits))]
    return gains, training_macs(scratch, images)


@dataclass
class ZeroBorn:
    """Who owns the zero-born numbers of a scratch copy.

    Args:
        columns: path of a layer -> (in_channels,) number of the candidate that each input column belongs to, or -1.
        projections: number of a candidate block -> paths of its last convolution, of the BN behind it, and of the
            module whose output the block adds to.
    """

    columns: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[int, tuple[str, str, str]] = field(default_factory=dict)

    def note(self, number: int, surgery: Surgery) -> None:
        """Take in what the surgery of candidate ``number`` added, moving earlier columns to where they are now."""
        for remap in surgery.remaps:
            if remap.shared:
                owners = self.columns.get(remap.path, torch.full((remap.channels.before,), -1))
                kept = owners[remap.channels.source.clamp(min=0)]
                self.columns[remap.path] = torch.where(remap.channels.fresh, number, kept)
        for insert in surgery.inserts:
            if insert.wakes_from is not None:
                conv, bn = (f"{insert.target}.{name}" for name in insert.wakes_from)
                self.projections[number] = (conv, bn, insert.input_of)

    def paths(self) -> list[str]:
        """Return the paths of all layers that have to be listened to."""
        return list(dict.fromkeys([*self.columns, *(path for three in self.projections.values() for path in three)]))


@dataclass(frozen=True)
class Added:
    """What an edit adds to the cost: MACs per image, parameters, and predicted milliseconds."""

    macs: int
    params: int
    milliseconds: float


class Ledger:
    """Reads the cost of an edit off its surgery, without applying it.

    Args:
        model: the host.
        example: an image (1, C, H, W).
        latency: milliseconds by kind of layer; kinds it lacks are measured.
    """

    def __init__(self, model: nn.Module, example: Tensor, latency: LatencyTable) -> None:
        self.model, self.example, self.latency = model, example, latency
        self.shapes = output_shapes(model, example)
        self.layers = layer_costs(model, example)

    def added(self, surgery: Surgery) -> Added:
        """Return what ``surgery`` adds."""
        before: dict[str, LayerCost] = {}
        after: dict[str, LayerCost] = {}
        total = 0
        for remap in surgery.remaps:
            tensor = getattr(self.model.get_submodule(remap.path), remap.name)
            if not isinstance(tensor, nn.Parameter):
                continue
            grown = tensor.numel() // remap.channels.before * remap.channels.size
            total += grown - tensor.numel()
            if remap.name == "weight" and remap.path in self.layers:
                layer = before[remap.path] = self.layers[remap.path]
                after[remap.path] = replace(layer, macs=layer.macs // remap.channels.before * remap.channels.size)
        for insert in surgery.inserts:
            total += sum(parameter.numel() for parameter in insert.module.parameters())
            shape = (1, *self.shapes[insert.input_of][1:])
            inside = nn.Sequential(insert.module)  # a bare layer, too, is then a part with a path
            example = torch.zeros(shape, device=self.example.device, dtype=self.example.dtype)
            if not isinstance(insert.module, nn.BatchNorm2d | nn.Identity | nn.ReLU):
                found = layer_costs(inside.to(example), example)
                after.update({f"{insert.target}.{path}": layer for path, layer in found.items()})
        return Added(
            macs=sum(layer.macs for layer in after.values()) - sum(layer.macs for layer in before.values()),
            params=total,
            milliseconds=self.latency.total(after.values(), self.example.device)
            - self.latency.total(before.values(), self.example.device),
        )
