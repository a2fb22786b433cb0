"""Ghost modules reproduce the convolutions whose places they take as well as they can, and the report says how well."""

from __future__ import annotations

import copy

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.decompose import arranged, bring_into_order, decomposed
from ghostkit.nn import GhostModule
from ghostkit.nn.ghostify import ghosted
from ghostkit.nn.hybrids import ResNet


class Hidden(nn.Module):
    """A network whose middle convolution is a ghost module in disguise: every second map is made from another one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 8, 5, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.after = nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])  # intrinsic maps 5, 2, 7, 0 and their ghosts
        with torch.no_grad():
            weight = torch.zeros_like(self.middle.weight)
            weight[order[:4], :, 1:4, 1:4] = torch.randn(4, 6, 3, 3)
            for made, source in zip(order[4:], order[:4], strict=True):
                # A convolution of a convolution: the outer kernel slides over the inner one.
                kernel = torch.randn(1, 1, 3, 3)
                weight[made] = F.conv2d(weight[source][:, None], kernel.flip(2, 3), padding=1)[:, 0]
            self.middle.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.middle(F.relu(self.stem(x)))))
        return self.head(F.relu(self.after(x)).mean((2, 3)))


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """``model`` in eval mode, its BNs with the statistics of ``images``."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def test_maps_that_are_made_from_each_other_are_found_and_reproduced_exactly_but_for_the_border() -> None:
    torch.manual_seed(0)
    model, images = Hidden(), torch.randn(16, 3, 24, 24)
    settled(model, images)
    ghost, missed = decomposed(model, images, keep=["after"])
    assert set(missed) == {"middle"}
    assert missed["middle"] < 0.02  # pixels at the border see zeros that the dense kernel did not
    settled(ghosted(model, keep=["after"]), images)
    with torch.no_grad():
        change = (ghost.eval()(images) - model(images)).square().mean() / model(images).var()
    assert change < 0.05


def test_the_network_with_reordered_channels_is_the_same_function() -> None:
    torch.manual_seed(0)
    model = settled(ResNet("bottleneck", (2, 2), 5, 3, width=8, small_images=True), torch.randn(8, 3, 12, 12)).double()
    images, before = torch.randn(8, 3, 12, 12).double(), copy.deepcopy(model)
    replaced = [path for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and path != "conv1"]
    bring_into_order(model, replaced, images, 2, 3, torch.Generator().manual_seed(0))
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])]
    assert {"layer1.1.conv2.weight", "layer1.0.bn1.running_mean", "layer2.0.downsample.0.weight", "fc.weight"} <= {
        *moved
    }
    torch.testing.assert_close(model(images), before(images), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ratio", [2, 3])
def test_it_misses_less_than_random_kernels_in_every_layer_and_leaves_the_network_alone(ratio: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(32, 3, 16, 16)
    model = settled(ResNet("basic", (2, 2), 5, 3, width=12, small_images=True), images)
    state, drawn = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    ghost, missed = decomposed(model, images, ratio)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not ghost.training
    assert {path for path, layer in ghost.named_modules() if isinstance(layer, GhostModule)} == missed.keys()
    assert all(0 < share < 1 for share in missed.values())
    again = decomposed(model, images, ratio)[1]
    assert again == missed
    random = settled(ghosted(model, ratio), images)
    with torch.no_grad():
        wanted = model(images)
        distance = [(network.eval()(images) - wanted).square().mean() for network in (ghost, random)]
    assert distance[0] < 0.8 * distance[1]
    assert drawn.shape == torch.random.get_rng_state().shape


def test_channels_that_get_into_a_concatenation_stay_where_they_are() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (nn.Conv2d(i, 6, 3, padding=1) for i in (3, 6, 6))
            self.neck, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            return self.head(F.relu(self.neck(torch.cat([self.left(x), self.right(x)], 1))).mean((2, 3)))

    torch.manual_seed(0)
    model, images = Joined(), torch.randn(8, 3, 10, 10)
    ghost, missed = decomposed(model, images)
    assert missed.keys() == {"left", "right", "neck"}
    assert torch.allclose(ghost.left.primary.weight, model.left.weight[:3], atol=0.2)
    assert ghost(images).shape == (8, 3)


def test_a_network_that_cannot_be_traced_is_decomposed_in_the_order_it_has() -> None:
    class Branching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1e9 else x

    torch.manual_seed(0)
    model = Branching(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 3))
    _, missed = decomposed(model, torch.randn(8, 3, 12, 12))
    assert missed.keys() == {"2"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_in_half_precision_is_decomposed_in_full_and_comes_back_in_half(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, images = Hidden().to(dtype), torch.randn(8, 3, 12, 12).to(dtype)
    ghost, missed = decomposed(model, images)
    _, expected = decomposed(copy.deepcopy(model).float(), images.float())
    assert missed == expected
    assert {tensor.dtype for tensor in (*ghost.parameters(), *model.parameters(), ghost(images))} == {dtype}


def test_a_network_whose_maps_shrink_from_layer_to_layer_loses_no_more_than_a_constant_would() -> None:
    torch.manual_seed(0)  # as of a network that was never trained: its BNs know no statistics, the new one's do
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for layer in layers:
        layer[0].weight.data *= 0.03
    _, missed = decomposed(model, torch.randn(16, 3, 16, 16))
    assert max(missed.values(), default=1.0) < 1


def test_a_single_image_is_refused() -> None:
    with pytest.raises(GhostkitError, match=r"needs a few batches of images to fit to; got 1 image"):
        decomposed(Hidden(), torch.randn(1, 3, 12, 12))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    channels=strategies.integers(2, 24), ratio=strategies.integers(2, 5), seed=strategies.integers(0, 2**16)
)
def test_an_arrangement_is_an_order_of_all_channels(channels: int, ratio: int, seed: int) -> None:
    costs = torch.rand(channels, channels, generator=torch.Generator().manual_seed(seed))
    maps = -(-channels // ratio)
    assert arranged(costs, maps, ratio - 1).sort().values.tolist() == list(range(channels))


def test_the_cheapest_pairs_are_taken() -> None:
    costs = torch.ones(6, 6)
    for source, ghost, price in ((4, 0, 0.1), (2, 5, 0.2), (3, 1, 0.3), (4, 5, 0.15)):
        costs[source, ghost] = price
    order = arranged(costs, 3, 1).tolist()
    pairs = set(zip(order[:3], order[3:], strict=True))
    assert {(4, 0), (2, 5), (3, 1)} == pairs
