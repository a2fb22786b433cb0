"""Corrections of the default score that were tried: each is one line, and a reason to believe in it.

Those in ``VARIANTS`` change what is added up over the parts of a candidate; each takes a part, the part with residual
features, and the per-sample gradients of the latter. Those of :func:`derived` change the sum, by what else is known of
a candidate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

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


def significant(gradients: Tensor, least: float = 2.0) -> float:
    """Return the gain of those numbers alone whose gradient stands above its own noise by ``least`` deviations."""
    mean, fisher = gradients.mean(0), gradients.square().mean(0)
    error = ((fisher - mean.square()) / (len(gradients) - 1)).sqrt()
    kept = mean.abs() > least * error
    return 0.5 * float((mean.square() / (fisher + 0.1 * fisher.mean() + 1e-30))[kept].sum())


def crossed(gradients: Tensor, damping: float = 0.1) -> float:
    """Return what a step found on one half of the samples gains on the other."""
    first, second = gradients[::2], gradients[1::2]
    gain = 0.0
    for found, judged in ((first, second), (second, first)):
        fisher = found.square().mean(0)
        step = found.mean(0) / (fisher + damping * fisher.mean() + 1e-30)
        gain += float((step * judged.mean(0)).sum()) / 4
    return gain


def first_order(gradients: Tensor) -> float:
    """Return the norm of the gradient, noise taken off."""
    mean = gradients.mean(0)
    noise = (gradients.square().mean(0) - mean.square()) / (len(gradients) - 1)
    return float((mean.square() - noise).clamp(min=0).sum().sqrt())


VARIANTS: dict[str, Callable[[Part, Part, Tensor], float]] = {
    "damping 0.01": lambda part, news, g: diagonal(g, 0.01),
    "damping 1": lambda part, news, g: diagonal(g, 1.0),
    "damping 10": lambda part, news, g: diagonal(g, 10.0),
    "noise left in": lambda part, news, g: diagonal(g, noise=False),
    "noise left in, damping 1": lambda part, news, g: diagonal(g, 1.0, noise=False),
    "Adam's step": lambda part, news, g: diagonal(g, power=0.5),
    "centred": lambda part, news, g: diagonal(centred(part)),
    "centred, damping 1": lambda part, news, g: diagonal(centred(part), 1.0),
    "as they are": lambda part, news, g: diagonal(part.gradients()),
    "full, damping 0.1": lambda part, news, g: full(g, 0.1),
    "full, damping 1": lambda part, news, g: full(g, 1.0),
    "full, damping 10": lambda part, news, g: full(g, 10.0),
    "full, noise left in": lambda part, news, g: full(g, 1.0, noise=False),
    "significant": lambda part, news, g: significant(g),
    "crossed": lambda part, news, g: crossed(g),
    "gradient norm": lambda part, news, g: first_order(g),
}


def derived(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with the corrections that need no more than its columns; ``attrs["derived"]`` names them."""
    gain, numbers = frame["fisher"].clip(lower=0), frame["numbers"].clip(lower=1)
    columns = {
        "params": frame["params"],
        "numbers born": frame["numbers"],
        "fisher x numbers": gain * numbers,
        "fisher x params": gain * frame["params"],
        "fisher x sqrt(params)": gain * np.sqrt(frame["params"]),
        "fisher x macs": gain * frame["macs"],
        "fisher x sqrt(macs)": gain * np.sqrt(frame["macs"]),
        "fisher x params / numbers": gain * frame["params"] / numbers,
        "fisher per number": gain / numbers,
        "fisher / sqrt(numbers)": gain / np.sqrt(numbers),
    }
    frame = frame.assign(**columns)
    frame.attrs["derived"] = tuple(columns)
    return frame
