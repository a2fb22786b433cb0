"""Anybody's network, ghosted: ghost modules in the place of its convolutions, and a report of what that did.

What is replaced is chosen in :mod:`ghostkit.nn.ghostify`, what the new weights start from is found in
:mod:`ghostkit.growth.decompose`. Here the two come together with what a user wants to know: what became of each layer
and why, what it costs before and after, and how well the new modules reproduce the old convolutions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, MobileNetV3
from torchvision.models import ResNet as TorchvisionResNet
from torchvision.models.resnet import BasicBlock

from ghostkit import costs
from ghostkit.errors import GhostkitError
from ghostkit.growth.decompose import decomposed
from ghostkit.nn.ghostify import choices, ghosted
from ghostkit.nn.hybrids import ResNet
from ghostkit.nn.zoo import VARIANTS, build

__all__ = ["GhostReport", "ghostify"]

INITS = ("random", "decompose")


@dataclass(frozen=True)
class GhostReport:
    """What :func:`ghostify` did; print it, or look at its frames.

    Args:
        layers: one row for each convolution: path, layer (kernel, channels, stride), became ("ghost module" or "left
            alone"), why, params_before, params_after, and missed, the share of its maps' variance that the ghost module
            does not reproduce, where it started from the trained convolution.
        costs: rows before and after; params, and where images were given, macs (per image) and milliseconds (measured,
            one image).
        init: what the new weights started from.
    """

    layers: pd.DataFrame
    costs: pd.DataFrame
    init: str = "random"
    recipe: dict[str, Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the report as text."""
        table = self.layers.drop(columns=[name for name in ("missed",) if self.layers[name].isna().all()])
        ghosts = self.layers["became"].eq("ghost module")
        lines = [
            f"{ghosts.sum()} of {len(table)} convolutions became ghost modules (init {self.init!r})",
            table.to_string(index=False, na_rep="", float_format=lambda share: f"{share:.3f}", justify="left"),
            "",
            self.costs.dropna(axis=1).to_string(float_format=lambda number: f"{number:,.2f}"),
        ]
        if self.init == "decompose":
            missed = self.layers.loc[ghosts, "missed"]
            worst = self.layers.loc[missed.idxmax(), "path"]
            lines.append(
                f"\nreconstruction: the ghost modules miss {missed.mean():.1%} of their convolutions' variance "
                f"(median {missed.median():.1%}, at most {missed.max():.1%}, in {worst})"
            )
        if self.recipe is None:
            lines.append("\nno recipe builds this network: load(folder, host=...) takes it from you, ghosted as here")
        return "\n".join(lines)


def ghostify(
    model: nn.Module,
    ratio: int = 2,
    cheap_kernel: int = 3,
    keep: Collection[str] = (),
    init: str = "random",
    images: Tensor | None = None,
) -> nn.Module:
    """Return a copy of ``model`` with ghost modules in the place of its convolutions, which can grow.

    The stem, depthwise and grouped convolutions and those of gates stay; rows of blocks become stages, so that links
    grow as well. The result carries ``ghost_report``, and torchvision's ResNets and MobileNets a recipe.

    Args:
        model: a torchvision ResNet or MobileNet, or any network of yours.
        ratio: the paper's *s*; with 1 the network stays the very same function, weights and all, and can grow ghosts.
        cheap_kernel: the paper's *d*, side of the cheap convolutions, odd, in pixels.
        keep: paths of layers to leave alone, with all that they hold; ``*`` stands for anything, as in ``"layer1*"``.
        init: ``"random"``, or ``"decompose"``: filters and kernels that reproduce what the trained convolutions
            compute, by least squares on ``images``, so that the network is fine-tuned instead of trained anew.
        images: a few batches in one (B, C, H, W), as in training; the report counts and times on them as well.

    Raises:
        GhostkitError: if an argument is unknown, ``keep`` names nothing, nothing is left to replace, the network is a
            ResNeXt, or ``init="decompose"`` comes without images.

    >>> ghost = ghostify(torchvision.models.resnet18(), images=torch.zeros(1, 3, 224, 224)); print(ghost.ghost_report)
    """
    if init not in INITS:
        raise GhostkitError(f"ghostify(init={init!r}): expected one of {', '.join(INITS)}")
    if init == "decompose" and images is None:
        raise GhostkitError("ghostify(init='decompose') fits the new weights to images: give it a batch, images=...")
    chosen = choices(model, ratio, cheap_kernel, keep)
    if images is not None:
        require_fitting(model, images)
    if init == "decompose" and images is not None:
        new, missed = decomposed(model, images, ratio, cheap_kernel, keep)
    else:
        new, missed = ghosted(model, ratio, cheap_kernel, keep), {}
    rows = [
        {
            "path": choice.path,
            "layer": choice.layer,
            "became": "left alone" if choice.why else "ghost module",
            "why": choice.why,
            "params_before": costs.params(model.get_submodule(choice.path)),
            "params_after": costs.params(new.get_submodule(choice.path)),
            "missed": missed.get(choice.path, float("nan")),
        }
        for choice in chosen
    ]
    priced = {name: priced_on(network, images) for name, network in (("before", model), ("after", new))}
    recipe = recipe_of(model, new, {"ratio": ratio, "cheap_kernel": cheap_kernel, "keep": list(keep)})
    for name in ("growth_history", "recipe"):  # those of the network before
        new.__dict__.pop(name, None)
    if recipe is not None:
        object.__setattr__(new, "recipe", recipe)
    report = GhostReport(pd.DataFrame(rows), pd.DataFrame.from_dict(priced, orient="index"), init, recipe)
    object.__setattr__(new, "ghost_report", report)
    return new


def require_fitting(model: nn.Module, images: Tensor) -> None:
    """Raise an error that quotes the shape and type of ``images`` (B, C, H, W) if ``model`` does not take them."""
    try:
        with costs.evaluating(model):
            model(images[:1])
    except RuntimeError as error:
        raise GhostkitError(
            f"ghostify(images=...): {type(model).__name__} does not take images of "
            f"{' x '.join(map(str, images.shape[1:]))} in {images.dtype}: {' '.join(str(error).split())[:300]}"
        ) from None


def priced_on(model: nn.Module, images: Tensor | None) -> dict[str, float]:
    """Return parameters of ``model``, and MACs and milliseconds for one of ``images``."""
    if images is None:
        return {"params": costs.params(model), "macs": float("nan"), "milliseconds": float("nan")}
    priced = costs.cost(model, images[:1])
    return {"params": priced.params, "macs": priced.macs, "milliseconds": priced.milliseconds or float("nan")}


def recipe_of(model: nn.Module, new: nn.Module, ghosts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the recipe that builds ``new``, if :func:`ghostkit.build` can.

    A recipe is guessed by what the network looks like, and taken only if what it builds looks the same in every layer.

    Args:
        model: the network before.
        new: the network with ghost modules.
        ghosts: the arguments of :func:`ghostify` that a recipe holds.
    """
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]
    if first is None or not last:
        return None
    common = {"num_classes": last[0].out_features, "in_channels": first.in_channels, **ghosts}
    for name, numbers in guesses(model, first):
        with torch.device("meta"):
            try:
                guess = build(name, **{**common, **numbers})
            except GhostkitError:
                continue
        if str(guess) == str(new) and shapes(guess) == shapes(new):
            return guess.__dict__["recipe"]
    return None


def guesses(model: nn.Module, first: nn.Conv2d) -> list[tuple[str, dict[str, Any]]]:
    """Return names and arguments of :func:`ghostkit.build` that might build a network like ``model``."""
    if type(model) in (TorchvisionResNet, ResNet):
        rows: list[Any] = [row for name, row in model.named_children() if name.startswith("layer")]
        block = "basic" if isinstance(rows[0][0], BasicBlock) else "bottleneck"
        numbers = {
            "width": first.out_channels,
            "width_per_group": rows[0][0].conv1.out_channels * 64 // first.out_channels,
        }
        layers = [len(row) for row in rows]
        return [
            (name, numbers)
            for name, (_, known) in VARIANTS.items()
            if known.get("block") == block and list(known["layers"]) == layers
        ]
    widest = {MobileNetV2: {"ghost_mobilenet_v2": 320}}  # channels before the last convolution at width 1
    widest[MobileNetV3] = {"ghost_mobilenet_v3_large": 160, "ghost_mobilenet_v3_small": 96}
    dropouts = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    return [
        (
            name,
            {
                "stem_stride": first.stride[0],
                "dropout": dropouts[0] if dropouts else 0.0,
                "width": round(width, digits),
            },
        )
        for name, channels in widest.get(type(model), {}).items()
        for width in [cast(Any, model).features[-1][0].in_channels / channels]
        for digits in (1, 2, 3)  # channels are rounded, so the width that they came from is a round number near by
    ]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every tensor of ``model``, by name."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
