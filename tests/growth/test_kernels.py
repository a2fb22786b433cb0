"""The kernels that growth starts with are the best that there are for the gradient, whatever the inputs are like."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.growth.kernels import (
    best_branch,
    best_directions,
    best_intrinsic,
    best_layer,
    dense_gradient,
    in_rows,
    search_macs,
)


def smooth(images: int, channels: int, side: int = 12) -> Tensor:
    """Images whose neighbouring pixels are much alike."""
    noise = torch.randn(images, channels, side + 2, side + 2, dtype=torch.float64)
    return F.avg_pool2d(noise, 3, stride=1) + 0.1 * noise[:, :, 1:-1, 1:-1]


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Absolute cosine of what is in the last dimensions of two stacks of kernels."""
    return F.cosine_similarity(a.flatten(1), b.flatten(1)).abs()


def test_the_best_direction_meets_the_gradient_better_than_any_other_of_its_output_variance() -> None:
    roots = torch.randn(4, 6, 30, dtype=torch.float64)  # well conditioned, so that the ridge does not matter
    moments, gradient = roots @ roots.mT, torch.randn(4, 3, 6, dtype=torch.float64)
    found = best_directions(moments, gradient, count=6)
    for M, S, directions in zip(gradient, moments, found, strict=True):

        def quotient(w: Tensor, M: Tensor = M, S: Tensor = S) -> Tensor:
            return (w @ M.T).norm(dim=-1) / ((w @ S) * w).sum(-1).sqrt()

        best, _ = scipy.linalg.eigh((M.T @ M).numpy(), (S + 1e-3 * S.diagonal().mean() * torch.eye(6)).numpy())
        scores = quotient(directions)
        assert float(scores[0]) == pytest.approx(best[-1] ** 0.5, rel=0.01)
        assert float(scores[0]) >= float(quotient(torch.randn(20_000, 6, dtype=torch.float64)).max())
        assert bool((scores[:2] >= scores[1:3]).all())
        assert bool((directions.sum(-1) >= 0).all())
        outputs = directions @ S @ directions.T
        torch.testing.assert_close(outputs, torch.eye(6, dtype=torch.float64), rtol=0, atol=0.2)


def test_directions_are_finite_where_the_inputs_are_dead_or_all_alike() -> None:
    moments = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).double()
    assert bool(torch.isfinite(best_directions(moments, torch.randn(2, 3, 4).double(), 2)).all())


@pytest.mark.parametrize("seen", ["never", "late"])
@pytest.mark.parametrize("felt", [True, False])
def test_kernels_over_a_map_that_is_dead_on_the_probe_are_alive(seen: str, felt: bool) -> None:
    maps, delta = smooth(64, 3), torch.randn(64, 2, 12, 12, dtype=torch.float64) * felt
    maps[: 48 if seen == "late" else None, 1] = 0  # moments are taken over the first 48
    norms = best_branch(maps, [delta], 3).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3, dtype=torch.float64))
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    filters = best_intrinsic(torch.zeros_like(maps), [delta], conv, 4)
    torch.testing.assert_close(
        filters.flatten(1).norm(dim=1), conv.weight.detach().flatten(1).norm(dim=1).mean().expand(4)
    )


@pytest.mark.parametrize(("inputs", "consumers"), [(40, 6), (6, 40)])
def test_the_directions_are_those_of_the_square_root_of_the_moments(inputs: int, consumers: int) -> None:
    roots, gradient = torch.randn(2, inputs, 90).double(), torch.randn(2, consumers, inputs).double()
    moments = roots @ roots.mT
    for M, S, found in zip(gradient, moments, best_directions(moments, gradient, count=4), strict=True):
        ridged = S + 1e-3 * S.diagonal().mean() * torch.eye(inputs)
        root = torch.from_numpy(np.linalg.inv(scipy.linalg.sqrtm(ridged.numpy())))
        best = torch.linalg.svd(M @ root).Vh[:4] @ root
        torch.testing.assert_close(found, best * best.sum(1, keepdim=True).sign())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_gradient_of_fewer_directions_than_asked_for_leads_to_filters_that_differ_all_the_same(rank: int) -> None:
    roots = torch.randn(1, 20, 50, dtype=torch.float64)
    moments = roots @ roots.mT
    gradient = torch.randn(1, 3, rank, dtype=torch.float64) @ torch.randn(1, rank, 20, dtype=torch.float64)
    found = best_directions(moments, gradient, count=3)[0]
    torch.testing.assert_close(found @ moments[0] @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize(("stride", "side"), [(1, 3), (2, 3), (2, 5)])
def test_the_dense_gradient_is_that_of_the_convolution_that_a_ghost_module_saved(stride: int, side: int) -> None:
    x, weight = torch.randn(4, 3, 9, 9, dtype=torch.float64), torch.zeros(5, 3, side, side, dtype=torch.float64)
    output = F.conv2d(x, weight.requires_grad_(), stride=stride, padding=side // 2)
    delta = torch.randn_like(output)
    output.backward(delta)
    torch.testing.assert_close(dense_gradient(x, delta, side), weight.grad)


def test_behind_a_global_pooling_the_dense_gradient_is_that_of_every_position_alike() -> None:
    x, delta = torch.randn(4, 3, 6, 6), torch.randn(4, 2)
    torch.testing.assert_close(
        dense_gradient(x, delta, 3), dense_gradient(x, delta[:, :, None, None].expand(-1, -1, 6, 6), 3)
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5])
def test_a_branch_starts_with_the_kernel_that_the_gradient_was_made_with(side: int, stride: int) -> None:
    intrinsic = smooth(32, 4, side=12 if stride == 1 else 24)
    kernels = torch.randn(4, 1, side, side, dtype=torch.float64)
    wanted = F.conv2d(intrinsic, kernels, stride=stride, padding=side // 2, groups=4)
    found = best_branch(intrinsic, [wanted @ torch.eye(wanted.shape[-1]).double()], side)
    assert found.shape == kernels.shape
    assert float(alike(found, kernels).min()) > 0.97
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(4).double())


def test_without_whitening_smooth_maps_would_hide_that_kernel() -> None:
    intrinsic, kernel = smooth(32, 1), torch.tensor([[[[0, -1, 0], [-1, 4, -1], [0, -1, 0]]]], dtype=torch.float64)
    delta = F.conv2d(intrinsic, kernel, padding=1)
    assert float(alike(dense_gradient(intrinsic, delta, 3), kernel)) < 0.9
    assert float(alike(best_branch(intrinsic, [delta], 3), kernel)) > 0.97


def test_gradients_of_several_consumers_count_together() -> None:
    intrinsic, kernels = smooth(32, 1), torch.randn(2, 1, 3, 3, dtype=torch.float64)
    weak, strong = (
        scale * F.conv2d(intrinsic, kernel[None], padding=1) for scale, kernel in zip((1, 30), kernels, strict=True)
    )
    assert float(alike(best_branch(intrinsic, [weak, strong], 3), kernels[1:])) > 0.97


def test_new_intrinsic_maps_start_with_the_filters_that_the_gradient_was_made_with() -> None:
    x, conv = smooth(64, 3), nn.Conv2d(3, 6, 3, padding=1).double()
    filters = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    found = best_intrinsic(x, [F.conv2d(x, filters, padding=1)], conv, count=1)
    assert float(alike(found, filters)) > 0.97
    torch.testing.assert_close(found.norm(), conv.weight.detach().flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize("count", [1, 3, 5])
def test_as_many_new_filters_as_asked_for_even_beyond_the_directions_that_there_are(count: int) -> None:
    x, conv = torch.randn(8, 3, 4, 4), nn.Conv2d(3, 6, 1)
    found = best_intrinsic(x, [torch.randn(8, 2, 4, 4)], conv, count)
    assert found.shape == (count, 3, 1, 1)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("side", [3, 5])
def test_a_layer_starts_with_the_kernels_that_the_gradient_of_each_map_was_made_with(side: int) -> None:
    ghosts, kernels = smooth(48, 4), torch.randn(4, 1, side, side, dtype=torch.float64)
    delta = (
        F.conv2d(ghosts, kernels, padding=side // 2, groups=4) * torch.tensor([1.0, 100.0, 1e-3, 7.0])[:, None, None]
    )
    found = best_layer(ghosts, delta, side)
    assert found.shape == kernels.shape
    assert float(alike(found, kernels).min()) > 0.97
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(4).double())


def test_a_layer_over_maps_that_are_dead_or_felt_by_nobody_starts_with_finite_kernels() -> None:
    ghosts = smooth(8, 3)
    ghosts[:, 1] = 0
    delta = torch.randn_like(ghosts)
    delta[:, 2] = 0
    assert bool(torch.isfinite(best_layer(ghosts, delta, 3)).all())


def test_without_whitening_the_directions_are_the_singular_vectors_of_the_gradient() -> None:
    roots, gradient = torch.randn(3, 5, 20, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    found = best_directions(roots @ roots.mT, gradient, count=4, whiten=False)
    vectors = torch.linalg.svd(gradient, full_matrices=False).Vh
    torch.testing.assert_close((found * vectors).sum(-1).abs(), torch.ones(3, 4, dtype=torch.float64))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 4, dtype=torch.float64))
    assert bool((found.sum(-1) >= 0).all())


def test_gradmax_takes_the_kernel_of_the_largest_gradient_norm_and_svd_that_of_unit_variance() -> None:
    intrinsic, kernel = smooth(32, 1), torch.tensor([[[[0, -1, 0], [-1, 4, -1], [0, -1, 0]]]], dtype=torch.float64)
    delta = F.conv2d(intrinsic, kernel, padding=1)
    gradmax, svd = (best_branch(intrinsic, [delta], 3, whiten=whiten) for whiten in (False, True))
    assert float(alike(gradmax, dense_gradient(intrinsic, delta, 3))) == pytest.approx(1.0)
    assert float(alike(svd, kernel)) > 0.97 > float(alike(gradmax, kernel))

    conv = nn.Conv2d(1, 6, 3, padding=1).double()
    gradmax, svd = (best_intrinsic(intrinsic, [delta], conv, 1, whiten=whiten) for whiten in (False, True))
    assert float(alike(gradmax, dense_gradient(intrinsic, delta, 3))) == pytest.approx(1.0)
    assert float(alike(svd, kernel)) > 0.97 > float(alike(gradmax, kernel))


def test_the_macs_of_a_search_are_those_of_its_gradient_and_of_its_second_moments() -> None:
    x, delta = torch.zeros(4, 3, 6, 6), torch.zeros(4, 5, 3, 3)
    gradient = 4 * 5 * 9 * 3 * 9  # samples, rows, positions of the consumer; maps, taps
    assert search_macs(x, [delta], 9, grouped=True) == gradient + 4 * 36 * 9**2 * 3
    assert search_macs(x, [delta], 9, grouped=False) == gradient + 4 * 36 * 27**2
    assert search_macs(x, [delta, delta], 9, grouped=True) == 2 * gradient + 4 * 36 * 9**2 * 3
    assert search_macs(x, [torch.zeros(4, 5)], 1, grouped=True) == 4 * 5 * 36 * 3 + 4 * 36 * 3


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 6, 1, 1), (4, 6, 8, 8)])
def test_rows_are_said_to_be_rows_where_both_layouts_are_one(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape)
    laid = in_rows(maps.to(memory_format=torch.channels_last))
    assert torch.equal(laid, maps)
    assert laid.stride() == maps.stride()


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("reach", [8, 4])
def test_the_dense_gradient_is_the_same_however_maps_lie_in_memory(side, reach):
    draw = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(4, 6, size, size, generator=draw) for size in (8, reach))
    laid = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, delta)]
    torch.testing.assert_close(dense_gradient(*laid, side), dense_gradient(x, delta, side))
