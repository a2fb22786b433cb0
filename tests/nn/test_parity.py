"""GhostNet and GhostNetV2 are the published networks: their weights load strictly and give the same numbers."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.nn import build

PARAMETERS = {
    "ghostnet_050": 2_587_292,
    "ghostnet_100": 5_182_508,
    "ghostnet_130": 7_358_820,
    "ghostnetv2_100": 6_156_908,
    "ghostnetv2_130": 8_960_404,
    "ghostnetv2_160": 12_392_698,
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The peer's network with BN as if it had been trained, and ours with its state loaded strictly."""
    peer = timm.create_model(name, drop_rate=0.0)
    for layer in peer.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 1.0, 2.5)
            nn.init.normal_(layer.bias, std=0.1)
    ours = build(name, dropout=0.0)
    ours.load_state_dict(peer.state_dict(), strict=True)
    return peer, ours


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_order_and_shapes_of_the_state_are_the_published_ones(name: str) -> None:
    ours, peer = build(name).state_dict(), timm.create_model(name).state_dict()
    assert [(key, value.shape, value.dtype) for key, value in ours.items()] == [
        (key, value.shape, value.dtype) for key, value in peer.items()
    ]


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_the_published_networks_have_exactly_their_parameters(name: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in build(name).parameters()) == expected


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_weights_give_the_same_logits_at_every_size(name: str) -> None:
    peer, ours = (model.eval() for model in pair(name))
    for side in (224, 225, 191, 64, *([] if "v2" in name else [33])):
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            expected, found = peer(images), ours(images)
        assert float((expected[0] - expected[1]).abs().max() / expected.abs().max()) > 0.05  # they depend on the image
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5, side


@pytest.mark.parametrize(("name", "side"), [("ghostnet_100", 65), ("ghostnetv2_100", 96)])
def test_published_weights_get_the_same_gradients_in_train_mode(name: str, side: int) -> None:
    peer, ours = (model.train().double() for model in pair(name))  # some gradients are zero but for rounding
    images, targets = torch.randn(4, 3, side, side).double(), torch.arange(4)
    gradients: list[dict[str, Tensor]] = []
    for model in (peer, ours):
        F.cross_entropy(model(images), targets).backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-6, atol=1e-10, msg=key)
    assert max(float(gradient.abs().max()) for gradient in gradients[0].values()) > 1e-2
    for key, expected in peer.named_buffers():
        torch.testing.assert_close(ours.get_buffer(key), expected)


@pytest.mark.parametrize("side", [8, 32])
def test_version_two_works_on_maps_too_small_for_its_peer(side: int) -> None:
    peer, ours = pair("ghostnetv2_100")
    images = torch.randn(2, 3, side, side)
    with pytest.raises(RuntimeError, match="too small"):
        peer(images)
    for training in (False, True):
        ours.train(training and side == 32)
        assert bool(torch.isfinite(ours(images)).all())
