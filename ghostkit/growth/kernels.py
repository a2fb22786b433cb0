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

__all__ = ["best_branch", "best_directions", "best_intrinsic", "best_layer"]

RIDGE = 1e-3  # share of the mean diagonal added to S: dead and smooth maps make it singular
MOST_PATCHES = 2**23  # numbers unfolded at once; more samples would hardly change a second moment


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
    eye = torch.eye(d, dtype=moments.dtype, device=moments.device)
    ridge = RIDGE * moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(moments.dtype).tiny)
    values, vectors = torch.linalg.eigh(moments + ridge[:, None, None] * eye)
    root = vectors @ torch.diag_embed(values.clamp(min=torch.finfo(moments.dtype).tiny).rsqrt()) @ vectors.mT
    root = root if whiten else eye.expand_as(root)
    whitened = gradient @ root
    # The right singular vectors of the whitened gradient, by its small Gram matrix; eigh sorts upwards.
    best = torch.linalg.eigh(whitened.mT @ whitened).eigenvectors[..., -count:].flip(-1)
    directions = (root @ best).mT
    sign = torch.where(directions.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return directions * sign


def dense_gradient(x: Tensor, delta: Tensor, kernel_size: int) -> Tensor:
    """Return the weight gradient (C, channels, k, k) of the dense convolution from ``x`` to where ``delta`` is.

    Args:
        x: (B, channels, H, W).
        delta: (B, C, H', W') gradient at the consumer's output, at the same or a lower resolution; (B, C) behind a
            global pooling.
        kernel_size: k.
    """
    if delta.dim() == 2:
        delta = delta[:, :, None, None].expand(-1, -1, *x.shape[2:])
    stride = [-(-a // b) for a, b in zip(x.shape[2:], delta.shape[2:], strict=True)]
    reach = [-(-a // s) for a, s in zip(x.shape[2:], stride, strict=True)]
    if list(delta.shape[2:]) != reach:  # an unusual padding between: bring the gradient to the strided grid
        delta = F.interpolate(delta, size=reach, mode="nearest")
    shape = [delta.shape[1], x.shape[1], kernel_size, kernel_size]
    return conv2d_weight(x, shape, delta.contiguous(), stride=stride, padding=kernel_size // 2)


def unfolded(x: Tensor, kernel_size: int) -> Tensor:
    """Return the k x k patches (samples, channels, k*k, positions) of as many samples as fit into memory."""
    each = x[0].numel() * kernel_size**2
    x = x[: max(1, MOST_PATCHES // max(each, 1))]
    patches = F.unfold(x, kernel_size, padding=kernel_size // 2)
    return patches.view(len(x), x.shape[1], kernel_size**2, -1)


def best_branch(intrinsic: Tensor, deltas: list[Tensor], kernel_size: int, whiten: bool = True) -> Tensor:
    """Return the depthwise kernels (m, 1, k, k) that a new branch should start with.

    Args:
        intrinsic: the ghost module's intrinsic maps (B, m, H, W).
        deltas: gradients at the outputs of the layers that will read the branch.
        kernel_size: k, in pixels.
        whiten: as for :func:`best_directions`.
    """
    intrinsic = intrinsic.double()
    gradient = torch.cat([dense_gradient(intrinsic, delta.double(), kernel_size) for delta in deltas])
    patches = unfolded(intrinsic, kernel_size)
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
    patches = unfolded(ghosts.double(), kernel_size)  # (samples, g, k*k, positions)
    gradient = torch.einsum("bgdl,bgl->gd", patches, delta[: len(patches)].double().flatten(2))
    return unit_kernels(best_directions(second_moments(patches), gradient[:, None], count=1), kernel_size)


def best_intrinsic(x: Tensor, deltas: list[Tensor], conv: nn.Conv2d, count: int, whiten: bool = True) -> Tensor:
    """Return the filters (count, in_channels, k, k) that new intrinsic maps should start with.

    Args:
        x: input of the ghost module (B, in_channels, H, W).
        deltas: gradients at the outputs of the layers that will read the new maps.
        conv: the module's primary convolution; the filters get the mean norm of its own.
        count: filters wanted; beyond in_channels * k * k they repeat the last direction, which only noise could tell.
        whiten: as for :func:`best_directions`.
    """
    x, side = x.double(), conv.kernel_size[0]
    gradient = torch.cat([dense_gradient(x, delta.double(), side) for delta in deltas])
    patches = unfolded(x, side).flatten(1, 2)  # (samples, in_channels * k * k, positions)
    moments = second_moments(patches[:, None])
    most = min(count, patches.shape[1])
    directions = best_directions(moments, gradient.flatten(1)[None], most, whiten)[0]
    directions = torch.cat([directions, directions[-1:].expand(count - most, -1)])
    filters = directions.view(count, *conv.weight.shape[1:])
    norms = filters.flatten(1).norm(dim=1).clamp(min=1e-12)
    return filters * (conv.weight.detach().flatten(1).norm(dim=1).mean() / norms)[:, None, None, None]
