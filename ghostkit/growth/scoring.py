"""What each candidate would bring, measured with all of them attached, at zero, to one scratch copy of the network.

Being zero they do not disturb each other, so a single forward and backward pass gives every one of them its exact
gradient. The edits attached are the very ones that ``grow`` applies, so what is scored is what is grown. Four kinds of
numbers are born at zero: new columns of a consumer, the projection of a new block's hidden features onto its stream,
the kernels of a new layer over ghost maps (its centre tap aside), and the projection of a new link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ghostkit.costs import layer_costs
from ghostkit.growth.blocks import copied
from ghostkit.growth.edits import ORDER, Growth, take_down
from ghostkit.growth.fitting import fitted, note_columns
from ghostkit.growth.gain import (
    Probe,
    fisher_gain,
    newton_step,
    patches_of,
    per_sample_gradient,
    raw_gain,
    residual,
    scaled_gain,
    whitened_gain,
)
from ghostkit.growth.kernels import second_moments
from ghostkit.growth.layers import is_plain
from ghostkit.growth.proposals import Loss, backward
from ghostkit.growth.sites import Site
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import CheapLayer
from ghostkit.nn.links import CrossLayerLink

__all__ = ["SCORES", "Scored", "score_attached"]

# Streams get a round of their own: a block attached beside them would write into what they add.
ROUNDS: tuple[tuple[type, ...], ...] = (ORDER[:-1], ORDER[-1:])


@dataclass
class Part:
    """Numbers of one candidate that are born at zero.

    Args:
        layer: the layer that they belong to.
        features: what they multiply (B, n, ...).
        delta: the gradient at the layer's output (B, C, ...).
        existing: features that are there already (B, m, ...); a constant always is.
        weight: the layer's weights for those (C, m, ...).
    """

    layer: nn.Module
    features: Tensor
    delta: Tensor
    existing: Tensor | None = None
    weight: Tensor | None = None

    def news(self) -> Part:
        """Return the part with features that no linear map of the existing ones explains."""
        existing = self.features[:, :0] if self.existing is None else self.existing
        if existing.shape[1]:
            return replace(self, features=residual(self.features, existing))
        return replace(self, features=self.features - self.features.mean([0, *range(2, self.features.dim())], True))

    def gradients(self) -> Tensor:
        """Return the gradient of the numbers for each sample (B, numbers)."""
        return per_sample_gradient(self.layer, self.features, self.delta)

    def macs(self) -> float:
        """Return the MACs that residual features and per-sample gradients take."""
        new, there = self.features.shape[1], 0 if self.existing is None else self.existing.shape[1]
        taps = self.layer.kernel_size[0] ** 2 if isinstance(self.layer, nn.Conv2d) else 1
        each = self.features.numel() // max(new, 1)  # samples times positions
        return float(each * there * (there + 2 * new) + self.delta.numel() * new * taps)

    def moments(self) -> Tensor:
        """Return the second moments (1, d, d) of what the numbers multiply."""
        return second_moments(patches_of(self.layer, self.features)[:, None])


@dataclass
class Taps(Part):
    """The taps beside the centre of a new layer's depthwise kernels, each map for itself."""

    def macs(self) -> float:
        """Return the MACs that per-sample gradients of depthwise kernels take."""
        return float(2 * self.features.numel() * cast(nn.Conv2d, self.layer).kernel_size[0] ** 2)

    def news(self) -> Part:
        """Return the part; what the centre tap explains is left out in any case."""
        return self

    def _patches(self) -> Tensor:
        layer = cast(nn.Conv2d, self.layer)
        side, padding = layer.kernel_size[0], cast(tuple[int, ...], layer.padding)
        batch, channels = self.features.shape[:2]
        patches = F.unfold(self.features, side, padding=padding).view(batch, channels, side * side, -1)
        patches = patches - patches.mean((0, 3), keepdim=True)
        middle = side * side // 2
        centre = patches[:, :, middle : middle + 1]
        beside = torch.cat([patches[:, :, :middle], patches[:, :, middle + 1 :]], dim=2)
        explained = (beside * centre).sum((0, 3), keepdim=True)
        return beside - explained / centre.square().sum((0, 3), keepdim=True).clamp(min=1e-12) * centre

    def gradients(self) -> Tensor:
        """Return the gradient of the taps for each sample (B, G * (k * k - 1))."""
        delta = self.delta.flatten(2) * len(self.delta)
        return torch.einsum("bgl,bgdl->bgd", delta, self._patches()).flatten(1)

    def moments(self) -> Tensor:
        """Return the second moments (G, d, d) of what the taps multiply."""
        return second_moments(self._patches())


@dataclass
class Own(Part):
    """New columns of a layer of the user's own, which is asked what they would bring.

    Args:
        name: the tensor that the columns belong to.
        dim: its dimension of input channels, 0 or 1; the other one is that of output channels.
        inputs: all that the layer reads (B, m + n, ...).
        places: numbers of the features among these channels (n,).
        felt: (C,) mask of the output channels that the loss feels.
    """

    name: str = "weight"
    dim: int = 1
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    felt: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    def gradients(self) -> Tensor:
        """Return the gradient of the columns for each sample (B, numbers), without numbers where it cannot be told."""
        weight = getattr(self.layer, self.name).detach()
        inputs = self.inputs.index_copy(1, self.places, self.features).to(weight.dtype)
        deltas = self.delta.to(weight.dtype) * len(self.delta)

        def response(weight: Tensor, x: Tensor, delta: Tensor) -> Tensor:
            return (functional_call(self.layer, {self.name: weight}, (x[None],))[0] * delta).sum()

        try:
            each = vmap(grad(response), (None, 0, 0), chunk_size=32)(weight, inputs, deltas)
        except Exception:  # a forward of one's own may do anything; its site is grown by hand
            return self.features.new_zeros(len(deltas), 0)
        columns = each.index_select(1 + self.dim, self.places).movedim(1 + self.dim, -1)
        return columns[:, self.felt].flatten(1).to(self.features)

    def moments(self) -> Tensor:
        """Return the second moments of what the numbers multiply, which nobody knows: they count as white."""
        return torch.ones(1, 1, 1, device=self.features.device)


def scaled(part: Part, news: Part, gradients: Tensor) -> float:
    """Return the gain corrected for the consumer's scale, where the new numbers stand beside others."""
    return raw_gain(part.gradients()) if part.weight is None else scaled_gain(part.gradients(), part.weight)


# What a candidate's gain may be: the predicted decrease of the loss, and what others have scored by. Each takes a part,
# the part with residual features, and the gradients of the latter.
SCORES: dict[str, Callable[[Part, Part, Tensor], float]] = {
    "fisher": lambda part, news, gradients: fisher_gain(gradients),
    "raw": lambda part, news, gradients: raw_gain(part.gradients()),
    "scaled": scaled,
    "residual": lambda part, news, gradients: raw_gain(gradients),
    "whitened": lambda part, news, gradients: whitened_gain(gradients, news.moments()),
}


@dataclass
class Scored:
    """What one candidate would bring.

    Args:
        gain: in the units of the score.
        numbers: how many are born at zero.
        response: by how much a step would lower the loss of each sample, to first order (B,).
        macs: what scoring it took, beside the passes that all candidates share.
    """

    gain: float
    numbers: int
    response: Tensor
    macs: float


def score_attached(
    original: nn.Module,
    known: list[Site],
    edits: Sequence[Growth],
    images: Any,
    targets: Any,
    loss: Loss,
    score: str,
    generator: torch.Generator,
) -> tuple[dict[int, Scored], float]:
    """Return what each of ``edits`` would bring, by its number, and the MACs that one forward of all copies takes.

    Args:
        original: the host.
        known: its sites.
        edits: growth with the weights it would start from.
        images, targets, loss: as for :func:`ghostkit.candidates`.
        score: one of ``SCORES``.
        generator: where weights that are not found draw from.
    """
    found: dict[int, Scored] = {}
    forwards = 0.0
    for kinds in ROUNDS:
        here = [number for kind in kinds for number, edit in enumerate(edits) if isinstance(edit, kind)]
        if not here:
            continue
        scratch, born = attached(original, known, edits, here, generator)
        layers = {path: scratch.get_submodule(path) for path in born.paths()}
        with Probe(layers) as probe:
            backward(scratch, images, targets, loss)
        found |= {number: gained(parts, score) for number, parts in parts_of(born, layers, probe).items()}
        forwards += len(images) * sum(cost.macs for cost in layer_costs(scratch, images).values())
    return found, forwards


def gained(parts: Sequence[Part], score: str) -> Scored:
    """Return what a candidate with these zero-born ``parts`` would bring."""
    gain, size, response = 0.0, 0, torch.zeros(len(parts[0].delta))
    for part in parts:
        if not (part.features.shape[1] and part.delta.shape[1]):  # dead, or felt by nobody: nothing to gain
            continue
        news = part.news()
        gradients = news.gradients()
        if not gradients.shape[1]:
            continue
        gain += SCORES[score](part, news, gradients)
        size += gradients.shape[1]
        response = response.to(gradients) + gradients @ newton_step(gradients)
    return Scored(gain, size, response, sum(part.macs() for part in parts))


def attached(
    original: nn.Module, known: list[Site], edits: Sequence[Growth], numbers: list[int], generator: torch.Generator
) -> tuple[nn.Module, ZeroBorn]:
    """Return a copy of ``original`` with those of ``edits`` attached, and who owns its zero-born numbers."""
    scratch, born = copied(original), ZeroBorn()
    for number in numbers:
        surgery = take_down(fitted(edits[number], scratch, born.columns), scratch, known, generator)
        surgery.apply(scratch)
        born.note(number, surgery)
    return scratch, born


def parts_of(born: ZeroBorn, layers: dict[str, nn.Module], probe: Probe) -> dict[int, list[Part]]:
    """Return the zero-born parts of each candidate, by its number."""
    parts: dict[int, list[Part]] = {}

    def add(number: int, part: Part) -> None:
        parts.setdefault(number, []).append(part)

    for path, owners in born.columns.items():
        if path not in probe.inputs:  # the loss asks for another part of the network
            continue
        x, delta = probe.inputs[path], probe.gradients[path]
        owners = owners.to(x.device)
        if path in born.own:
            for number, part in own_parts(layers[path], *born.own[path], x, delta, owners):
                add(number, part)
            continue
        columns = cast(Tensor, layers[path].weight)
        # What is attached beside a candidate adds dead maps (their kernels are zero), and rows that are felt by nobody.
        felt = alive(delta)
        there, delta = x[:, owners < 0], delta[:, felt]
        weight = (columns[:, owners < 0] if len(owners) == columns.shape[1] else columns)[felt]
        for number in owners[owners >= 0].unique().tolist():
            features = x[:, owners == number]
            add(number, Part(layers[path], features[:, alive(features)], delta, there, weight))
    for number, (path, bn, stream) in born.projections.items():
        if path not in probe.inputs:
            continue
        own = probe.gradients[bn][:, : len(cast(Tensor, layers[path].weight))]  # a bare module's BN has its ghosts, too
        add(number, Part(layers[path], probe.inputs[path], own, probe.outputs[stream]))
    for number, path in born.layers.items():
        delta = probe.gradients[path]
        felt = alive(delta)  # ghosts of what is attached beside it are felt by nobody
        conv = cast(CheapLayer, layers[path]).conv
        add(number, Taps(conv, probe.inputs[path][:, felt], delta[:, felt]))
    for number, (path, maps) in born.links.items():
        delta = probe.gradients[path]
        add(number, Part(layers[path], probe.inputs[path][:, :maps], delta[:, alive(delta)]))
    return parts


def own_parts(
    layer: nn.Module, name: str, dim: int, x: Tensor, delta: Tensor, owners: Tensor
) -> Iterator[tuple[int, Part]]:
    """Yield the new columns of a layer of the user's own, by the candidate that they belong to."""
    weight, there, felt = cast(Tensor, getattr(layer, name)), owners < 0, alive(delta)
    known = dim in (0, 1) and weight.dim() > 1 and weight.shape[1 - dim] == len(felt)
    if not known or not len(owners) == x.shape[1] == weight.shape[dim]:
        return
    kept = weight.movedim(dim, -1)[felt][..., there]
    for number in owners[~there].unique().tolist():
        places = ((owners == number) & alive(x)).nonzero().flatten()
        yield number, Own(layer, x[:, places], delta, x[:, there], kept, name, dim, x, places, felt)


def alive(x: Tensor) -> Tensor:
    """Return the mask (n,) of the channels of ``x`` (B, n, ...) that are not zero throughout."""
    return x.any(0) if x.dim() == 2 else x.flatten(2).any(2).any(0)


@dataclass
class ZeroBorn:
    """Who owns the zero-born numbers of a scratch copy.

    Args:
        columns: path of a layer -> (in_channels,) number of the candidate that each input column belongs to, or -1.
        projections: number of a candidate block -> paths of its last convolution, of the BN behind it, and of the
            module whose output the block adds to.
        layers: number of a candidate layer -> its path.
        links: number of a candidate link -> path of its projection, and the intrinsic maps that its source has.
        maps: path of a layer that was widened -> the output channels that it had before.
        own: path of a layer of the user's own -> its tensor that has new columns, and their dimension.
    """

    columns: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    layers: dict[int, str] = field(default_factory=dict)
    links: dict[int, tuple[str, int]] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    own: dict[str, tuple[str, int]] = field(default_factory=dict)

    def note(self, number: int, surgery: Surgery) -> None:
        """Take in what the surgery of candidate ``number`` added, moving earlier columns to where they are now."""
        note_columns(self.columns, surgery, number)
        for remap in surgery.remaps:
            if remap.shared and not is_plain(surgery.host.get_submodule(remap.path)):
                self.own.setdefault(remap.path, (remap.name, remap.dim))
            if not remap.shared and (remap.name, remap.dim) == ("weight", 0):
                self.maps.setdefault(remap.path, remap.channels.before)
        for insert in surgery.inserts:
            if insert.wakes_from is not None:
                conv, bn = (f"{insert.target}.{name}" for name in insert.wakes_from)
                self.projections[number] = (conv, bn, insert.input_of)
            elif isinstance(insert.module, CheapLayer):
                self.layers[number] = insert.target
            elif isinstance(insert.module, CrossLayerLink):
                source = f"{insert.input_of}.primary_conv.0"
                maps = self.maps.get(source, insert.module.projection.in_features)
                self.links[number] = (f"{insert.target}.projection", maps)

    def paths(self) -> Iterator[str]:
        """Yield the paths of all layers that have to be listened to."""
        yield from self.columns
        for three in self.projections.values():
            yield from three
        yield from self.layers.values()
        yield from (path for path, _ in self.links.values())
