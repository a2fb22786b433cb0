"""What a candidate would bring, in one unit for every kind of edit: the predicted decrease of the loss, in nats.

Every edit adds something that starts at zero: new columns of a consumer, or what a new block adds to its stream (taken
as a projection of the block's hidden features, so that width and depth are measured alike). At that point the gradient
of these zero-born numbers is exact, whatever lies before them (BN, activation, strided depthwise convolution, SE). With
g_n the gradient of sample n, the predicted decrease is that of a damped Newton step with the diagonal of the empirical
Fisher information for a Hessian,

    gain = 1/2 * sum_i (mean(g_i)^2 - var(g_i) / N) / (mean(g_i^2) + damping),

where the variance term takes off what pure noise would score (a gain below zero is one that the probe cannot tell
from noise). It is free of the scale of weights and features, so candidates at different sites and of different kinds
compare.

Features are *residualised* first (TINY): what the consumer could already make from the channels it has, a constant
included, is taken out. Without that, two thirds of a new channel is an old one over again, and its per-sample gradients
are mostly a part that the BN behind the consumer cancels: pure noise in the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.devices import widened

__all__ = [
    "Probe",
    "fisher_gain",
    "newton_step",
    "patches_of",
    "per_sample_gradient",
    "raw_gain",
    "residual",
    "scaled_gain",
    "whitened_gain",
]

RIDGE = 1e-3  # share of the mean diagonal that is added to second moments
NEGLIGIBLE = 1e-3  # share of a channel's variance below which nothing of it is new
DAMPING = 0.1  # share of the mean Fisher information that is added to every entry


@dataclass
class Probe:
    """What went into some layers and which gradient came back to their outputs, in one forward and backward pass.

    Use as a context manager around the passes.

    Args:
        layers: the layers to listen to, by path.
        inputs: path -> input (B, ...).
        outputs: path -> output (B, ...).
        gradients: path -> gradient of the loss at the layer's output (B, ...), zero where the loss does not feel it.
    """

    layers: dict[str, nn.Module]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def __enter__(self) -> Probe:
        self._handles = [layer.register_forward_hook(self._hook(path)) for path, layer in self.layers.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for path in self.outputs.keys() - self.gradients.keys():
            self.gradients[path] = torch.zeros_like(self.outputs[path])

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():  # a pass that only measures something
                return None
            self.inputs[path] = widened(inputs[0].detach())
            self.outputs[path] = widened(output.detach())
            if not output.requires_grad:  # all before it is frozen; a copy, since in-place activations may follow
                output = output.detach().requires_grad_().clone()
            # A hook on the tensor, not on the module: the latter forbids the in-place activations that may follow.
            output.register_hook(lambda gradient: self.gradients.__setitem__(path, widened(gradient)))
            return output

        return hook


def residual(new: Tensor, old: Tensor) -> Tensor:
    """Return the part of the channels ``new`` (B, n, ...) that no linear map of ``old`` (B, m, ...) explains."""
    shape = new.shape
    flat_new, flat_old = (
        (x - x.mean([0, *range(2, x.dim())], keepdim=True)).transpose(0, 1).flatten(1) for x in (new, old)
    )
    moments = (flat_old @ flat_old.mT).double()
    ridge = RIDGE * moments.diagonal().mean() + torch.finfo(new.dtype).tiny  # dead channels have no moments at all
    moments.diagonal().add_(ridge)
    weights = torch.linalg.solve(moments, (flat_old @ flat_new.mT).double()).to(new.dtype)
    rest = flat_new - weights.mT @ flat_old
    # The ridge leaves over a little of what is explained, which a gain without regard to scale would count in full.
    rest[rest.square().mean(1) < NEGLIGIBLE * flat_new.square().mean(1)] = 0.0
    return rest.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)


def patches_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what each weight of a convolution or linear layer is multiplied with (B, n * k * k, positions).

    Args:
        layer: gives kernel size, stride, padding and dilation.
        x: those channels of its input that are meant (B, n, ...).
    """
    if not isinstance(layer, nn.Conv2d):
        return x[:, :, None]
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0):
        return x.flatten(2)
    return F.unfold(padded(x, layer), layer.kernel_size, layer.dilation, 0, layer.stride)


def padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return what a convolution sees of its input (B, n, H, W), with what it puts around it."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)


def per_sample_gradient(layer: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Return the gradient of a convolution's or linear layer's weight for each sample.

    Args:
        layer: gives kernel size, stride, padding and dilation.
        x: those channels of its input that are meant (B, n, ...).
        delta: gradient of the batch's mean loss at its output (B, C, ...).

    Returns:
        (B, C * n * k * k), scaled so that the mean over the samples is the gradient of the mean loss.
    """
    delta = delta * len(delta)
    delta = delta.flatten(2) if delta.dim() > 2 else delta[:, :, None]
    return (delta @ patches_of(layer, x).transpose(1, 2)).flatten(1)


def newton_step(gradients: Tensor) -> Tensor:
    """Return the damped Newton step (parameters,) that per-sample gradients (B, parameters) ask for."""
    fisher = gradients.square().mean(0)
    return gradients.mean(0) / (fisher + damping(fisher))


def damping(fisher: Tensor) -> Tensor:
    """Return what is added to every entry of the diagonal Fisher information."""
    return DAMPING * fisher.mean() + torch.finfo(fisher.dtype).tiny


def fisher_gain(gradients: Tensor) -> float:
    """Return the predicted decrease of the loss, in nats, from per-sample gradients (B, parameters)."""
    samples = len(gradients)
    mean, fisher = gradients.mean(0), gradients.square().mean(0)
    noise = (fisher - mean.square()) / max(samples - 1, 1)
    return 0.5 * float(((mean.square() - noise) / (fisher + damping(fisher))).sum())


def raw_gain(gradients: Tensor) -> float:
    """Return the squared norm of the gradient (GradMax's score), from per-sample gradients (B, parameters)."""
    return float(gradients.mean(0).square().sum())


def scaled_gain(gradients: Tensor, weight: Tensor) -> float:
    """Return the squared norm of the gradient, each row times the squared norm of the weights that are there.

    A consumer followed by BN does not notice the scale of its rows; this takes it out of the gradient.

    Args:
        gradients: (B, C * d).
        weight: the existing weights (C, ...) of the layer that reads the new channels.
    """
    rows = gradients.mean(0).view(len(weight), -1).square().sum(1)
    return float((rows * weight.detach().flatten(1).square().sum(1)).sum())


def whitened_gain(gradients: Tensor, moments: Tensor) -> float:
    """Return the gradient's squared norm where features have unit covariance (TINY), sum_c G_c S^-1 G_c^T.

    Args:
        gradients: (B, G * C * d) for G independent groups of features.
        moments: (G, d, d) second moments of the residual features.
    """
    groups, d = moments.shape[:2]
    mean = gradients.mean(0).view(groups, -1, d).double()
    ridge = RIDGE * moments.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(torch.float32).tiny
    eye = torch.eye(d, dtype=torch.float64, device=moments.device)
    return float((mean.mT * torch.linalg.solve(moments.double() + ridge[:, None, None] * eye, mean.mT)).sum())
