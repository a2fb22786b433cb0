"""Where new weights may start: the directions that the loss asks for most, whitened against what the inputs are like.

A cheap branch is a depthwise kernel w_j over an intrinsic map P_j. Had the module been dense, its convolution would
have had the gradient M_j[c, :] = sum delta_c * unfold(P_j), with delta the gradient at the consumer. With S_j the mean
of unfold * unfold^T, the kernel whose output, brought to unit variance by the BN behind it, meets that gradient best is
w_j = S_j^(-1/2) v_1, with v_1 the first right singular vector of M_j S_j^(-1/2). S = I gives GradMax's direction
(arXiv 2201.05125, eq. 8), except that GradMax zeroes the incoming weights, which is degenerate behind BN and ReLU, and
we the outgoing ones; the whitening is that of TINY (Verbockhaven et al., TMLR 2024).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

__all__ = ["best_branch", "best_directions", "best_intrinsic", "best_layer", "search_macs", "second_moments"]

RIDGE = 1e-3  # share of the mean diagonal added to S: dead and smooth maps make it singular
LEAST = 1e-30  # added to the S of maps that are dead throughout; their directions stay far from overflow
# Second moments are taken over this many samples, and over as many positions for each of their dimensions, at least.
MOMENT_SAMPLES = 48

Side = int | tuple[int, ...]


def best_directions(moments: Tensor, gradient: Tensor, count: int, whiten: bool = True) -> Tensor:
    """Return the ``count`` directions that meet ``gradient`` best at unit output variance.

    Args:
        moments: (G, d, d) second moments of the inputs of G independent groups.
        gradient: (G, C, d) gradient of a dense layer over them.
        count: directions per group, at most d.
        whiten: False for GradMax's S = I, which meets it best at unit norm.

    Returns:
        (G, count, d), best first, with a fixed sign.
    """
    d = moments.shape[-1]
    ridge = (RIDGE * moments.diagonal(dim1=1, dim2=2).mean(1)).clamp(min=LEAST)
    moments = moments + ridge[:, None, None] * torch.eye(d, dtype=moments.dtype, device=moments.device)
    # With S = L L^T, L^(-1) stands for S^(-1/2): they differ by a rotation, and eigenvectors of S would take minutes
    # where there are thousands of inputs.
    root = torch.linalg.cholesky(moments)
    whitened = torch.linalg.solve_triangular(root, gradient.mT, upper=False).mT if whiten else gradient
    beyond = count > gradient.shape[1]  # what no consumer asks for, but at right angles to what they do
    best = torch.linalg.svd(whitened, full_matrices=beyond).Vh[:, :count]
    directions = torch.linalg.solve_triangular(root.mT, best.mT, upper=True).mT if whiten else best
    sign = torch.where(directions.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return directions * sign


def dense_gradient(x: Tensor, delta: Tensor, kernel_size: Side, dilation: Side = 1) -> Tensor:
    """Return the weight gradient (C, channels, k, k) of the dense convolution from ``x`` to where ``delta`` is.

    Args:
        x: (B, channels, H, W).
        delta: (B, C, H', W') gradient at the consumer's output, at the same or a lower resolution; (B, C) behind a
            global pooling.
        kernel_size: k, or both sides where they differ.
        dilation: of the kernel.
    """
    if delta.dim() == 2:
        delta = delta[:, :, None, None].expand(-1, -1, *x.shape[2:])
    kernel, spread = both(kernel_size), both(dilation)
    stride = [-(-a // b) for a, b in zip(x.shape[2:], delta.shape[2:], strict=True)]
    padding = [gap * (side - 1) // 2 for side, gap in zip(kernel, spread, strict=True)]
    reach = [
        (size + 2 * pad - gap * (side - 1) - 1) // step + 1
        for size, pad, gap, side, step in zip(x.shape[2:], padding, spread, kernel, stride, strict=True)
    ]
    if list(delta.shape[2:]) != reach:  # an unusual padding between: bring the gradient to the strided grid
        delta = F.interpolate(delta, size=reach, mode="nearest")
    shape = [delta.shape[1], x.shape[1], *kernel]
    return conv2d_weight(in_rows(x), shape, in_rows(delta), stride=stride, padding=padding, dilation=spread)


def in_rows(maps: Tensor) -> Tensor:
    """Return maps in the plain layout: from channels-last ones PyTorch computes gradients beyond its memory.

    Maps of one channel, or of one pixel, are contiguous in both layouts; their strides have to say which is meant.
    """
    return maps.contiguous().flatten().view(maps.shape)


def both(side: Side) -> tuple[int, ...]:
    """Return height and width of a kernel that may be square."""
    return (side, side) if isinstance(side, int) else tuple(side)


def unfolded(x: Tensor, kernel_size: Side, dimensions: int, dilation: Side = 1) -> Tensor:
    """Return the k x k patches (samples, channels, k*k, positions) of enough samples for moments of ``dimensions``."""
    x = x[: moment_samples(x, dimensions)].double()
    kernel, spread = both(kernel_size), both(dilation)
    padding = tuple(gap * (side - 1) // 2 for side, gap in zip(kernel, spread, strict=True))
    patches = F.unfold(x, kernel, dilation=spread, padding=padding)
    return patches.view(len(x), x.shape[1], kernel[0] * kernel[1], -1)


def moment_samples(x: Tensor, dimensions: int) -> int:
    """Return how many samples of ``x`` (B, channels, H, W) second moments of ``dimensions`` are taken over."""
    return min(len(x), MOMENT_SAMPLES * -(-dimensions // x.shape[2:].numel()))


def search_macs(x: Tensor, deltas: list[Tensor], taps: int, grouped: bool) -> float:
    """Return the MACs that a search for directions takes.

    Args:
        x: what the new weights read (B, channels, H, W).
        deltas: gradients at the outputs of the layers that will read what is new.
        taps: weights that the new kernels have for each channel.
        grouped: whether each channel is searched for itself, as for branches and layers.
    """
    channels, positions = x.shape[1], x.shape[2:].numel()
    dimensions = taps if grouped else channels * taps
    gradient = sum(delta.numel() * (positions if delta.dim() == 2 else 1) for delta in deltas) * channels * taps
    samples = moment_samples(x, dimensions)
    return float(gradient + samples * positions * dimensions**2 * (channels if grouped else 1))


def best_branch(intrinsic: Tensor, deltas: list[Tensor], kernel_size: int, whiten: bool = True) -> Tensor:
    """Return the depthwise kernels (m, 1, k, k) that a new branch should start with.

    Args:
        intrinsic: the ghost module's intrinsic maps (B, m, H, W).
        deltas: gradients at the outputs of the layers that will read the branch.
        kernel_size: k, in pixels.
        whiten: as for :func:`best_directions`.
    """
    gradient = torch.cat([dense_gradient(intrinsic, delta, kernel_size) for delta in deltas]).double()
    patches = unfolded(intrinsic, kernel_size, kernel_size**2)
    directions = best_directions(second_moments(patches), gradient.flatten(2).transpose(0, 1), 1, whiten)
    return unit_kernels(directions, kernel_size)


def second_moments(patches: Tensor) -> Tensor:
    """Return the second moments (m, d, d) of patches (samples, m, d, positions)."""
    return torch.einsum("bmdl,bmel->mde", patches, patches) / (patches.shape[0] * patches.shape[-1])


def unit_kernels(directions: Tensor, kernel_size: int) -> Tensor:
    """Return directions (m, 1, k*k) as depthwise kernels (m, 1, k, k) of norm 1."""
    kernels = directions.reshape(-1, 1, kernel_size, kernel_size)
    return kernels / kernels.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


def best_layer(ghosts: Tensor, delta: Tensor, kernel_size: int) -> Tensor:
    """Return the depthwise kernels (g, 1, k, k) that a new layer over ghost maps should start with.

    Args:
        ghosts: the ghost maps (B, g, H, W).
        delta: the gradient at them (B, g, H, W).
        kernel_size: k, in pixels.
    """
    maps, shape = ghosts.shape[1], (ghosts.shape[1], 1, kernel_size, kernel_size)
    gradient = conv2d_weight(in_rows(ghosts), shape, in_rows(delta), padding=kernel_size // 2, groups=maps).double()
    moments = second_moments(unfolded(ghosts, kernel_size, kernel_size**2))
    return unit_kernels(best_directions(moments, gradient.view(maps, 1, -1), count=1), kernel_size)


def best_intrinsic(x: Tensor, deltas: list[Tensor], conv: nn.Conv2d, count: int, whiten: bool = True) -> Tensor:
    """Return the filters (count, in_channels, k, k) that new intrinsic maps should start with.

    Args:
        x: input of the ghost module (B, in_channels, H, W).
        deltas: gradients at the outputs of the layers that will read the new maps.
        conv: the module's primary convolution; the filters get the mean norm of its own.
        count: filters wanted; beyond in_channels * k * k they repeat the last direction, which only noise could tell.
        whiten: as for :func:`best_directions`.
    """
    gradient = torch.cat([dense_gradient(x, delta, conv.kernel_size, conv.dilation) for delta in deltas]).double()
    patches = unfolded(x, conv.kernel_size, conv.weight[0].numel(), conv.dilation)
    patches = patches.flatten(1, 2)  # (samples, in_channels * k * k, positions)
    moments = second_moments(patches[:, None])
    most = min(count, patches.shape[1])
    directions = best_directions(moments, gradient.flatten(1)[None], most, whiten)[0]
    directions = torch.cat([directions, directions[-1:].expand(count - most, -1)])
    filters = directions.view(count, *conv.weight.shape[1:])
    norms = filters.flatten(1).norm(dim=1).clamp(min=1e-12)
    return filters * (conv.weight.detach().flatten(1).norm(dim=1).mean() / norms)[:, None, None, None]
