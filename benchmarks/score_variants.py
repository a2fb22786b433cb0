"""Corrections of the default score that were tried: each is one line, and a reason to believe in it.

Those in ``VARIANTS`` change what is added up over the parts of a candidate; each takes a part, the part with residual
features, and the per-sample gradients of the latter. Those in ``JOINT`` look at a candidate beside the weights that are
there already, by the Gram matrices (B, B) of the per-sample gradients of both. Those of :func:`derived` change a score
by what else is known of a candidate.

The scores that divide by the Fisher information ask what one Newton step of *this* candidate would bring, whatever the
rate. Those with an *absolute* damping, the same for all, ask what the same time at the same rate brings to each:
directions of small curvature then count by their gradient alone, as they do for SGD.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.growth.gain import Probe, per_sample_gradient
from ghostkit.growth.proposals import Loss, backward
from ghostkit.growth.scoring import Part


def centred(part: Part) -> Tensor:
    """Return the gradients of features that are only centred, not residualised."""
    features = part.features
    part.features = features - features.mean([0, *range(2, features.dim())], keepdim=True)
    try:
        return part.gradients()
    finally:
        part.features = features


def diagonal(gradients: Tensor, damping: float = 0.1, noise: bool = True, power: float = 1.0) -> float:
    """Return the gain of the default score with other constants.

    Args:
        gradients: (B, numbers).
        damping: share of the mean Fisher information that is added to every entry.
        noise: take off what pure noise would score.
        power: of the Fisher information, 1 for Newton's step, 1/2 for Adam's, 0 for the gradient's.
    """
    mean, fisher = gradients.mean(0), gradients.square().mean(0)
    squares = mean.square()
    if noise:
        squares = squares - (fisher - squares) / (len(gradients) - 1)
    return 0.5 * float((squares / (fisher + damping * fisher.mean() + 1e-30).pow(power)).sum())


def full(gradients: Tensor, damping: float, noise: bool = True) -> float:
    """Return the gain of a damped Newton step with the whole Fisher matrix, by the Gram matrix of the samples.

    Numbers that say the same are then counted once.
    """
    samples = len(gradients)
    gradients = gradients.double()
    ridge = damping * gradients.square().sum(1).mean() / gradients.shape[1] + 1e-30
    if gradients.shape[1] <= samples:
        fisher = gradients.mT @ gradients / samples
        inverse = torch.linalg.inv(fisher + ridge * torch.eye(len(fisher), dtype=fisher.dtype))
    else:
        gram = gradients @ gradients.mT / samples
        middle = torch.linalg.inv(gram + ridge * torch.eye(samples, dtype=gram.dtype))
        inverse = (
            torch.eye(gradients.shape[1], dtype=gram.dtype) - gradients.mT @ middle @ gradients / samples
        ) / ridge
    mean = gradients.mean(0)
    gain = mean @ inverse @ mean
    if noise:
        apart = gradients - mean
        gain = gain - ((apart @ inverse) * apart).sum() / (samples * (samples - 1))
    return 0.5 * float(gain)


def absolute(gradients: Tensor, damping: float, noise: bool) -> float:
    """Return the gain with the same ``damping`` for all candidates, in units of the squared gradient of one sample."""
    mean, fisher = gradients.mean(0), gradients.square().mean(0)
    squares = mean.square()
    if noise:
        squares = squares - (fisher - squares) / (len(gradients) - 1)
    return 0.5 * float((squares / (fisher + damping)).sum())


def crossed(gradients: Tensor, damping: float = 0.1) -> float:
    """Return what a step found on one half of the samples gains on the other."""
    first, second = gradients[::2], gradients[1::2]
    gain = 0.0
    for found, judged in ((first, second), (second, first)):
        fisher = found.square().mean(0)
        step = found.mean(0) / (fisher + damping * fisher.mean() + 1e-30)
        gain += float((step * judged.mean(0)).sum()) / 4
    return gain


def energy(gradients: Tensor) -> float:
    """Return the squared norm of the gradients of single samples: how much the numbers can do, whatever is asked."""
    return float(gradients.square().sum(1).mean())


VARIANTS: dict[str, Callable[[Part, Part, Tensor], float]] = {
    "damping 0.01": lambda part, news, g: diagonal(g, 0.01),
    "damping 1": lambda part, news, g: diagonal(g, 1.0),
    "damping 10": lambda part, news, g: diagonal(g, 10.0),
    "noise left in": lambda part, news, g: diagonal(g, noise=False),
    "Adam's step": lambda part, news, g: diagonal(g, power=0.5),
    "centred": lambda part, news, g: diagonal(centred(part)),
    "as they are": lambda part, news, g: diagonal(part.gradients()),
    "full, damping 1": lambda part, news, g: full(g, 1.0),
    "crossed": lambda part, news, g: crossed(g),
    "absolute 0.01": lambda part, news, g: absolute(g, 0.01, noise=True),
    "absolute 0.1": lambda part, news, g: absolute(g, 0.1, noise=True),
    "absolute 1": lambda part, news, g: absolute(g, 1.0, noise=True),
    "absolute 0.01, noise left in": lambda part, news, g: absolute(g, 0.01, noise=False),
    "absolute 0.1, noise left in": lambda part, news, g: absolute(g, 0.1, noise=False),
    "absolute 1, noise left in": lambda part, news, g: absolute(g, 1.0, noise=False),
    "energy": lambda part, news, g: energy(g),
}


def gram_of_all(model: nn.Module, images: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the Gram matrix (B, B) of the per-sample gradients of all convolutions, BNs and linear layers."""
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    }
    with Probe(layers) as probe:
        backward(model, images, targets, loss)
    model.zero_grad(set_to_none=True)
    gram = torch.zeros(len(images), len(images), dtype=torch.float64)
    for path, layer in layers.items():
        gradients = layer_gradients(layer, probe.inputs[path], probe.gradients[path]).double()
        gram += gradients @ gradients.mT
    return gram


def layer_gradients(layer: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Return the gradient of a layer's numbers for each sample (B, numbers), as for ``per_sample_gradient``."""
    sums = len(x) * (delta.flatten(2).sum(2) if delta.dim() > 2 else delta)
    if isinstance(layer, nn.BatchNorm2d):
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        normal = (x - mean) / (variance + layer.eps).sqrt()
        return torch.cat([len(x) * (delta * normal).flatten(2).sum(2), sums], dim=1)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        patches = patches.view(*x.shape[:2], -1, patches.shape[-1])  # (B, C, k * k, positions)
        patches = patches.repeat_interleave(layer.out_channels // layer.in_channels, dim=1)
        gradients = len(x) * torch.einsum("bcl,bckl->bck", delta.flatten(2), patches).flatten(1)
    else:
        gradients = per_sample_gradient(layer, x, delta)
    return torch.cat([gradients, sums], dim=1) if getattr(layer, "bias", None) is not None else gradients


def explained(gram: Tensor, damping: float, noise: bool) -> float:
    """Return the gain of a damped Newton step with the whole Fisher matrix, from a Gram matrix (B, B)."""
    samples = len(gram)
    eye = torch.eye(samples, dtype=gram.dtype)
    left = torch.linalg.inv(gram / samples + damping * eye)
    # With G G^T for the Gram matrix, m (F + r)^-1 m = 1 - r / B 1^T (G G^T / B + r)^-1 1 for the mean gradient m.
    gain = samples - damping * left.sum()
    if noise:  # what gradients of the same sizes, but of random signs, would explain
        gain = gain - (samples - damping * left.trace())
    return 0.5 * float(gain) / samples


def beyond(there: Tensor, new: Tensor, damping: float, noise: bool) -> float:
    """Return what a candidate explains beyond what the weights that are there explain."""
    return explained(there + new, damping, noise) - explained(there, damping, noise)


JOINT: dict[str, Callable[[Tensor, Tensor], float]] = {
    "beyond, damping 0.1": lambda there, new: beyond(there, new, 0.1, noise=True),
    "beyond, damping 1": lambda there, new: beyond(there, new, 1.0, noise=True),
    "beyond, damping 0.01, noise left in": lambda there, new: beyond(there, new, 0.01, noise=False),
    "beyond, damping 0.1, noise left in": lambda there, new: beyond(there, new, 0.1, noise=False),
    "beyond, damping 1, noise left in": lambda there, new: beyond(there, new, 1.0, noise=False),
}


def derived(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with the corrections that need no more than its columns; ``attrs["derived"]`` names them."""
    gain, numbers = frame["fisher"].clip(lower=0), frame["numbers"].clip(lower=1)
    columns = {
        "params": frame["params"],
        "numbers born": frame["numbers"],
        "fisher x params": gain * frame["params"],
        "fisher x sqrt(params)": gain * np.sqrt(frame["params"]),
        "fisher x params / numbers": gain * frame["params"] / numbers,
        "fisher per number": gain / numbers,
        "residual x sqrt(params)": frame["residual"] * np.sqrt(frame["params"]),
        "whitened x sqrt(params)": frame["whitened"] * np.sqrt(frame["params"]),
        "beyond x sqrt(params)": frame["beyond, damping 0.1, noise left in"] * np.sqrt(frame["params"]),
    }
    frame = frame.assign(**columns)
    frame.attrs["derived"] = tuple(columns)
    return frame
