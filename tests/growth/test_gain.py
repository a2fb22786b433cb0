"""The gain is the predicted decrease of the loss: exact gradients, residual features, and noise that scores nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@pytest.mark.parametrize("shape", [(32, 4, 5, 5), (400, 4)], ids=["maps", "descriptors"])
def test_a_copy_of_channels_that_are_there_leaves_nothing_and_what_is_new_stays(shape: tuple[int, ...]) -> None:
    old = torch.randn(shape, dtype=torch.float64)
    mixed = torch.stack([old[:, 0], 0.5 * old[:, 1] - 2 * old[:, 3] + 7.0], 1)  # a constant is there as well
    new = torch.randn(shape[0], 2, *shape[2:], dtype=torch.float64)
    assert residual(mixed, old).shape == mixed.shape
    assert not residual(mixed, old).any()  # not even a little, which a gain free of scale would count in full
    rest = residual(new + old[:, :2], old)
    torch.testing.assert_close(rest, new - new.mean([0, *range(2, new.dim())], keepdim=True), rtol=0, atol=0.5)
    assert float(rest.var() / new.var()) == pytest.approx(1, abs=0.05)


def test_a_residual_does_not_correlate_with_any_channel_that_is_there() -> None:
    old, new = torch.randn(16, 5, 6, 6, dtype=torch.float64), torch.randn(16, 3, 6, 6, dtype=torch.float64)
    rest = residual(new + old[:, [0, 0, 4]], old)
    correlation = torch.corrcoef(torch.cat([rest, old], 1).transpose(0, 1).flatten(1))[:3, 3:]
    assert float(correlation.abs().max()) < 0.01


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (5, 3, 7, 7)),
        (nn.Conv2d(3, 4, 3, padding=2, dilation=2), (5, 3, 6, 6)),
        (nn.Conv2d(3, 4, 1), (5, 3, 4, 6)),
        (nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), (5, 3, 4, 6)),
        (nn.Conv2d(3, 4, 4, padding="same", padding_mode="reflect"), (5, 3, 6, 6)),
        (nn.Conv2d(3, 4, 1, padding="valid"), (5, 3, 4, 6)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular"), (5, 3, 7, 7)),
        (nn.Linear(3, 4), (5, 3)),
    ],
    ids=["strided", "dilated", "1x1", "oblong", "same, reflected", "valid", "circular", "linear"],
)
def test_per_sample_gradients_are_those_of_autograd_one_sample_at_a_time(layer: nn.Module, shape: tuple) -> None:
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)

    def loss(inputs: Tensor) -> Tensor:
        return layer(inputs).sin().flatten(1).sum(1).mean()

    output = layer(x).detach().requires_grad_()
    output.sin().flatten(1).sum(1).mean().backward()
    found = per_sample_gradient(layer, x, output.grad)
    apart = [torch.autograd.grad(loss(x[i : i + 1]), layer.weight)[0].flatten() for i in range(len(x))]
    torch.testing.assert_close(found, torch.stack(apart))
    torch.testing.assert_close(found.mean(0), torch.autograd.grad(loss(x), layer.weight)[0].flatten())


def test_the_fisher_gain_is_the_formula_of_its_docstring() -> None:
    gradients = torch.tensor([[1.0, 3.0], [2.0, -1.0], [3.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    # Means 2 and 1, mean squares 4.5 and 3, variances over N 0.5/3 and 2/3, damping a tenth of 3.75.
    by_hand = 0.5 * ((4 - 0.5 / 3) / (4.5 + 0.375) + (1 - 2 / 3) / (3 + 0.375))
    assert fisher_gain(gradients) == pytest.approx(by_hand)
    assert raw_gain(gradients) == pytest.approx(5.0)


def test_the_newton_step_is_that_which_the_fisher_gain_foresees_but_for_the_noise() -> None:
    gradients = torch.tensor([[1.0, 3.0], [2.0, -1.0], [3.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([2 / (4.5 + 0.375), 1 / (3 + 0.375)], dtype=torch.float64)
    torch.testing.assert_close(newton_step(gradients), expected)


def test_the_scaled_gain_weighs_each_rows_gradient_by_the_weights_that_are_there() -> None:
    gradients = torch.tensor([[1.0, 3.0, -1.0, 0.0], [3.0, 1.0, 1.0, 4.0]], dtype=torch.float64)  # rows (2, 2), (0, 2)
    weight = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]], dtype=torch.float64)
    assert scaled_gain(gradients, weight) == pytest.approx((4 + 4) * (1 + 4) + (0 + 4) * (9 + 1))


def test_the_scaled_gain_does_not_notice_the_scale_of_a_consumer_in_front_of_bn() -> None:
    bn, targets = nn.BatchNorm2d(3).double(), torch.randn(8, 3, 4, 4, dtype=torch.float64)
    x, new = torch.randn(8, 2, 4, 4, dtype=torch.float64), torch.randn(8, 1, 4, 4, dtype=torch.float64)
    start, gains = torch.randn(3, 2, 1, 1, dtype=torch.float64), {"raw": [], "scaled": []}
    for scale in (1.0, 10.0):
        conv = nn.Conv2d(2, 3, 1, bias=False).double()
        conv.weight.data = scale * start
        with Probe({"conv": conv}) as probe:
            F.mse_loss(bn(conv(x)), targets).backward()
        gradients = per_sample_gradient(conv, new, probe.gradients["conv"])
        gains["raw"].append(raw_gain(gradients))
        gains["scaled"].append(scaled_gain(gradients, conv.weight))
    assert gains["scaled"][1] == pytest.approx(gains["scaled"][0], rel=1e-3)  # but for BN's epsilon
    assert gains["raw"][1] == pytest.approx(gains["raw"][0] / 100, rel=1e-3)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_whitened_gain_is_the_formula_of_its_docstring(groups: int) -> None:
    roots = torch.randn(groups, 4, 40, dtype=torch.float64)
    moments, gradients = roots @ roots.mT / 40, torch.randn(6, groups * 2 * 4, dtype=torch.float64)
    mean = gradients.mean(0).view(groups, 2, 4)
    by_hand = 0.0
    for group in range(groups):
        ridge = 1e-3 * moments[group].diagonal().mean() * torch.eye(4, dtype=torch.float64)
        for row in mean[group]:
            by_hand += float(row @ torch.linalg.inv(moments[group] + ridge) @ row)
    assert whitened_gain(gradients, moments) == pytest.approx(by_hand)


def test_the_whitened_gain_does_not_depend_on_the_basis_of_the_features() -> None:
    layer, x, delta = nn.Conv2d(3, 2, 1), torch.randn(16, 3, 5, 5).double(), torch.randn(16, 2, 5, 5).double()
    mixed = torch.einsum("ij,bjhw->bihw", torch.randn(3, 3).double(), x)

    def gain(features: Tensor) -> float:
        patches = patches_of(layer, features)
        moments = torch.einsum("bdl,bel->de", patches, patches)[None] / (16 * 25)
        return whitened_gain(per_sample_gradient(layer, features, delta), moments)

    assert gain(mixed) == pytest.approx(gain(x), rel=0.05)  # but for the ridge
    assert raw_gain(per_sample_gradient(layer, mixed, delta)) != pytest.approx(
        raw_gain(per_sample_gradient(layer, x, delta)), rel=0.05
    )


def test_the_fisher_gain_does_not_depend_on_the_scale_of_what_it_compares() -> None:
    gradients = torch.randn(32, 10, dtype=torch.float64) + 0.5
    assert fisher_gain(1000 * gradients) == pytest.approx(fisher_gain(gradients))
    assert raw_gain(1000 * gradients) == pytest.approx(1e6 * raw_gain(gradients))


def test_noise_gains_nothing_on_average_and_a_direction_that_samples_agree_on_does() -> None:
    noise = torch.randn(200, 64, 20, dtype=torch.float64)
    gains = torch.tensor([fisher_gain(gradients) for gradients in noise])
    assert abs(float(gains.mean())) < 3 * float(gains.std()) / len(gains) ** 0.5
    assert fisher_gain(noise[0] + 1.0) > 100 * float(gains.std())


@pytest.mark.parametrize("gradients", [torch.zeros(4, 3), torch.full((1, 3), 2.0)], ids=["zeros", "one sample"])
def test_a_gain_is_finite_where_there_is_little_to_go_by(gradients: Tensor) -> None:
    assert 0 <= fisher_gain(gradients) < 10


def test_a_probe_hears_what_goes_in_and_what_comes_back_and_then_leaves() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 1))
    x = torch.randn(5, 2, 2, 2)
    with Probe({"first": model[0], "last": model[3]}) as probe:
        F.mse_loss(model(x), torch.zeros(5, 1)).backward()
    assert torch.equal(probe.inputs["first"], x)
    assert probe.gradients["first"].shape == (5, 3, 2, 2)
    torch.testing.assert_close(probe.gradients["last"], 2 / 5 * probe.outputs["last"])
    torch.testing.assert_close(probe.gradients["first"].sum((0, 2, 3)), model[0].bias.grad)
    assert not any(layer._forward_hooks for layer in model)


def test_a_probe_does_not_hear_passes_that_only_measure_something() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 3, 1)), torch.randn(5, 2, 2, 2)
    with Probe({"first": model[0]}) as probe:
        model(x).sum().backward()
        with torch.no_grad():
            model(torch.zeros(1, 2, 2, 2))
    assert torch.equal(probe.inputs["first"], x)
    assert probe.outputs["first"].shape == (5, 3, 2, 2)


def test_a_probe_hears_gradients_where_all_weights_are_frozen_and_in_place_layers_follow() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 1))
    x, heard = torch.randn(5, 2, 2, 2), []
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        with Probe({"first": model[0], "last": model[3]}) as probe:
            F.mse_loss(model(x), torch.zeros(5, 1)).backward()
        heard.append(probe.gradients)
    assert all(torch.equal(heard[0][name], heard[1][name]) for name in ("first", "last"))
