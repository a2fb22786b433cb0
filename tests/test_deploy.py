"""A deployed copy computes what the original computes, with its BNs folded, and leaves the original alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ghostkit
from ghostkit.growth.history import history_of
from ghostkit.nn.ghost import CheapLayer, GhostBottleneck, GhostModule, SqueezeExcite
from ghostkit.nn.ghostify import ghosted
from ghostkit.nn.ghostnet import Row

GROWTH = (  # every kind of edit that adds
    ghostkit.DeepenBranches("blocks.0.0.ghost1"),
    ghostkit.AddBranch("blocks.0.0.ghost1", 5),
    ghostkit.AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"),
    ghostkit.AddBlock("blocks.1", "1", init="clone"),
    ghostkit.AddIntrinsic("blocks.1.g1.ghost1", 2),
    ghostkit.DeepenBranches("blocks.1.g1.ghost1", 5),
    ghostkit.WidenStage("blocks.0.0.ghost2", 4),
    ghostkit.WidenStage("blocks.2.0.conv", 3),
)
ROWS = ((Row(3, 8, 8, 0, 2), Row(3, 4, 8, 0, 1)), (Row(5, 8, 12, 0.5, 1), Row(3, 12, 12, 0, 1)))


def grown() -> nn.Module:
    model = ghostkit.build("seedling", 5, 1, stages=ROWS)
    ghostkit.grow(model, GROWTH)
    return model


class Odd(nn.Module):
    """Cut-off ghosts, strided attention, a BN behind an addition, functional activations, maps viewed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GhostModule(3, 7, kernel_size=3, ratio=3)
        self.norm = nn.BatchNorm2d(7)
        self.left = nn.Conv2d(7, 5, 3, padding=1, stride=2, padding_mode="reflect")
        self.norm_left = nn.BatchNorm2d(5, affine=False)
        self.right = GhostModule(7, 5, ratio=2, stride=2, attention=True)
        self.sum = nn.BatchNorm2d(5)
        self.deep = nn.Sequential(GhostBottleneck(5, 9, 5, squeeze_excite=0.25, ratio=3), nn.Dropout2d(0.5))
        self.grouped = nn.Sequential(nn.Conv2d(5, 10, 3, groups=5), nn.BatchNorm2d(10, eps=0.1), nn.Hardswish())
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.sum(self.norm_left(self.left(x)) + self.right(x))
        x = self.grouped(self.deep(x))
        return self.head(F.dropout(x.view(x.shape[0], -1), 0.5, self.training))


class Shared(nn.Module):
    """A convolution called twice, one read by two, one whose weight is read, a BN called twice, one without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.read, self.weighed, self.last = (
            nn.Conv2d(inputs, 4, 3, padding=1) for inputs in (3, 4, 4, 4, 4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
        self.of_the_batch = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.stem(x))  # the one that folds
        x = self.norms[1](self.twice(self.norms[2](self.twice(x))))
        x = self.read(x)
        x = self.norms[3](x) + x
        x = self.norms[4](self.weighed(x)) * self.weighed.weight.mean()
        return self.of_the_batch(self.last(self.norms[4](x)))


def odd() -> nn.Module:
    model = Odd()
    model(torch.zeros(2, 3, 16, 16))
    return model


def ghost_resnet(ratio: int) -> nn.Module:
    return ghosted(torchvision.models.resnet18(num_classes=5), ratio)


HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ghostnet_100": (lambda: ghostkit.build("ghostnet_100", 5), (2, 3, 64, 64)),
    "ghostnetv2_100": (lambda: ghostkit.build("ghostnetv2_100", 5, width=0.5), (2, 3, 65, 65)),
    "seedling": (lambda: ghostkit.build("seedling", 5, 1), (2, 1, 12, 12)),
    "plain seedling": (lambda: ghostkit.build("seedling", 5, 1, ratio=1), (2, 1, 12, 12)),
    "cut-off ghosts": (lambda: ghostkit.build("seedling", 5, 1, ratio=3, stages=ROWS), (2, 1, 12, 12)),
    "grown": (grown, (2, 1, 12, 12)),
    "odd": (odd, (2, 3, 16, 16)),
    "shared": (Shared, (2, 3, 8, 8)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), (2, 3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5), (2, 3, 32, 32)),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), (2, 3, 64, 64)),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5), (2, 3, 64, 64)),
    "ghosted resnet18": (lambda: ghost_resnet(2), (2, 3, 32, 32)),
    "ghosted resnet18, ratio 1": (lambda: ghost_resnet(1), (2, 3, 32, 32)),
}
WHOLLY_FOLDED = sorted(HOSTS.keys() - {"odd", "shared", "ghosted resnet18"})


def host(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """The host in train mode, its BNs with statistics and numbers as training might leave them, and images."""
    make, shape = HOSTS[name]
    model = seasoned(make(), torch.randn(16, *shape[1:]))
    return model.to(dtype), torch.randn(shape, dtype=dtype)


def seasoned(model: nn.Module, images: Tensor) -> nn.Module:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in layers:
            layer.momentum = 1.0  # the statistics are those of these images, which keeps signals alive
            if layer.affine:
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
        model.train()(images)
    return model


def norms(model: nn.Module) -> list[str]:
    return [path for path, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]


def evaluated(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest output."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("name", HOSTS)
def test_a_deployed_copy_computes_what_the_original_computes(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model, images = host(name, dtype)
    deployed = ghostkit.deploy(model, images)
    others = torch.randn_like(images)
    expected, exact = evaluated(model, others), evaluated(model.double(), others.double())
    assert apart(evaluated(model, images.double()), exact) > 1e-3  # it depends on the images
    # Some of these networks amplify their own rounding beyond the tolerance, with BNs as without.
    assert apart(deployed(others), expected) < max(tolerance, 4 * apart(expected, exact))


@pytest.mark.parametrize("name", WHOLLY_FOLDED)
def test_no_bn_is_left_where_each_follows_a_convolution(name: str) -> None:
    model, images = host(name)
    deployed = ghostkit.deploy(model, images)
    assert norms(model)
    assert norms(deployed) == []
    assert not any(isinstance(layer, CheapLayer) for layer in deployed.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("odd", ["norm", "sum"]),
        ("shared", ["norms.1", "norms.2", "norms.3", "norms.4", "of_the_batch"]),
    ],
)
def test_a_bn_that_cannot_be_folded_exactly_stays(name: str, left: list[str]) -> None:
    model, images = host(name)
    assert norms(ghostkit.deploy(model, images)) == left


def test_a_bn_behind_a_bare_ghost_module_stays_only_where_there_are_ghosts() -> None:
    model, images = host("ghosted resnet18")
    deployed = ghostkit.deploy(model, images)
    assert "layer1.0.bn1" in norms(deployed)
    assert "bn1" not in norms(deployed)  # behind the stem, an ordinary convolution
    assert isinstance(model.layer1[0].conv1, GhostModule)


@pytest.mark.parametrize("name", ["grown", "odd", "ghosted resnet18"])
def test_the_original_is_untouched(name: str) -> None:
    model, images = host(name)
    model.eval()
    next(iter(model.children())).train()  # modes are mixed
    fired: list[int] = []
    handle = model.register_forward_hook(lambda *_: fired.append(1))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layers = [(path, id(layer), layer.training) for path, layer in model.named_modules()]
    parameters = [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]
    events = len(history_of(model).events)

    deployed = ghostkit.deploy(model, images)
    fired.clear()
    deployed(images)

    assert fired == []
    assert [(path, id(layer), layer.training) for path, layer in model.named_modules()] == layers
    assert [(id(parameter), parameter.requires_grad) for parameter in model.parameters()] == parameters
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert len(history_of(model).events) == events
    assert len(model._forward_hooks) == 1
    assert not {tensor.data_ptr() for tensor in model.state_dict().values()} & {
        tensor.data_ptr() for tensor in deployed.state_dict().values()
    }
    handle.remove()


def test_a_deployed_copy_is_for_use() -> None:
    model, images = host("grown")
    deployed = ghostkit.deploy(model, images)
    assert type(deployed) is type(model)
    assert deployed.deployed is True
    assert not hasattr(model, "deployed")
    assert not any(layer.training or isinstance(layer, nn.Dropout) for layer in deployed.modules())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert not hasattr(deployed, "growth_history")
    assert not hasattr(deployed, "recipe")


@pytest.mark.parametrize("name", ["grown", "odd", "ghosted resnet18, ratio 1"])
def test_deploying_a_deployed_copy_gives_an_equal_one(name: str) -> None:
    model, images = host(name)
    once = ghostkit.deploy(model, images)
    twice = ghostkit.deploy(once, images)
    assert twice is not once
    assert once.state_dict().keys() == twice.state_dict().keys()
    assert all(torch.equal(tensor, twice.state_dict()[key]) for key, tensor in once.state_dict().items())
    assert torch.equal(once(images), twice(images))


def test_without_an_example_the_images_are_those_of_the_history_or_of_the_first_convolution() -> None:
    seen: list[tuple[int, ...]] = []
    model, _ = host("grown")
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    ghostkit.deploy(model)
    history_of(model).image = (1, 20, 24)
    ghostkit.deploy(model)
    assert seen == [(2, 1, 64, 64), (2, 1, 20, 24)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_example_is_taken_as_wide_as_the_network(dtype: torch.dtype) -> None:
    model, images = host("grown", dtype)
    assert ghostkit.deploy(model, images.float())(images).dtype == dtype


def test_a_model_that_never_grew_gets_no_history() -> None:
    model, _ = host("resnet18")
    ghostkit.deploy(model)
    assert not hasattr(model, "growth_history")


def test_weights_lie_channels_last_unless_the_forward_cannot_do_with_it() -> None:
    model, images = host("resnet18")
    deployed = ghostkit.deploy(model, images)
    assert deployed.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert deployed(images).is_contiguous()
    viewing, images = host("odd")
    assert ghostkit.deploy(viewing, images).left.weight.is_contiguous()


def test_the_state_of_a_deployed_copy_saves_and_loads_as_plain_tensors(tmp_path) -> None:
    model, images = host("grown")
    deployed, other = ghostkit.deploy(model, images), grown()
    state = deployed.state_dict()
    assert all(type(tensor) is Tensor for tensor in state.values())
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "weights.safetensors")
    loaded = ghostkit.deploy(other, images)
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    assert apart(loaded(images), deployed(images)) < 1e-6


@pytest.mark.parametrize("name", ["grown", "odd"])
def test_a_deployed_copy_exports(name: str) -> None:
    model, images = host(name)
    deployed = ghostkit.deploy(model, images)
    program = torch.export.export(deployed, (images,), strict=False)
    names = [str(node.target) for node in program.graph.nodes]
    assert len([target for target in names if "batch_norm" in target]) == len(norms(deployed))
    assert apart(program.module()(images), evaluated(model, images)) < 1e-5


class Holder(nn.Module):
    """Layers held under two names, some of them by a layer that a trace does not look into, and a weight held twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ghost, self.gates = GhostModule(3, 6), SqueezeExcite(6)
        self.primary, self.behind_primary = self.ghost.primary, nn.BatchNorm2d(3)
        self.gate, self.behind_gate = self.gates.conv_reduce, nn.BatchNorm2d(4)
        self.conv, self.behind_conv = nn.Conv2d(7, 4, 1), nn.BatchNorm2d(4)
        self.again, self.tied = self.conv, nn.Conv2d(7, 4, 1)
        self.tied.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.gates(self.ghost(x)), self.behind_primary(self.primary(x))], 1)
        x = torch.cat([self.behind_gate(self.gate(x[:, :6])), x[:, 6:], x[:, :2]], 1)
        x = x[:, :7]
        return self.behind_conv(self.again(x)) + self.tied(x)


def test_a_layer_with_other_users_is_folded_for_its_own_only() -> None:
    images = torch.randn(8, 3, 8, 8)
    model = seasoned(Holder(), images)
    deployed = ghostkit.deploy(model, images)
    assert norms(deployed) == ["behind_gate"]
    assert apart(deployed(images), evaluated(model, images)) < 1e-5


def test_outputs_in_containers_are_compared_as_well() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> dict[str, object]:
            return {"maps": self.norm(self.conv(x)), "rest": [x.mean(), (x,)]}

    deployed = ghostkit.deploy(Two())
    assert norms(deployed) == []


# What cannot be deployed


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore")  # PyTorch would rather have parametrizations
def test_weights_that_a_hook_computes_are_those_of_now(norm: str, tmp_path) -> None:
    torch.manual_seed(0)
    conv = getattr(torch.nn.utils, norm)(nn.Conv2d(1, 4, 3))
    model, images = (
        nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
        torch.randn(4, 1, 8, 8),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(images).square().mean().backward()
    optimizer.step()  # the weight that the hook keeps is one step old now
    deployed = ghostkit.deploy(model, images)
    with torch.no_grad():
        assert torch.allclose(deployed(images), model.eval()(images), atol=1e-6)
    assert ghostkit.export(model, tmp_path / "model.pt2", (1, 8, 8)) < 1e-4


def test_a_network_that_cannot_be_traced_says_so() -> None:
    with pytest.raises(ghostkit.GhostkitError, match="Branching cannot be traced"):
        ghostkit.deploy(Branching())


def test_images_that_do_not_fit_are_refused() -> None:
    model, _ = host("resnet18")
    with pytest.raises(ghostkit.GhostkitError, match=r"ResNet does not accept images of shape \(2, 1, 32, 32\)"):
        ghostkit.deploy(model, torch.zeros(2, 1, 32, 32))


def test_a_copy_that_computes_anything_else_is_refused_with_the_difference() -> None:
    model, images = host("seedling")
    model.register_forward_hook(lambda _, inputs, output: output + 1)  # the copy has no hooks
    with pytest.raises(ghostkit.GhostkitError, match="differs from the original by 1 where outputs reach"):
        ghostkit.deploy(model, images)


def test_outputs_that_are_not_finite_are_refused() -> None:
    model, images = host("seedling")
    model.classifier.weight.data[0, 0] = torch.nan
    with pytest.raises(ghostkit.GhostkitError, match="differs from the original by nan"):
        ghostkit.deploy(model, images)


def test_a_network_without_convolutions_needs_an_example() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ghostkit.GhostkitError, match="give an example"):
        ghostkit.deploy(model)
    images = torch.randn(2, 3, 2, 2)
    assert torch.equal(ghostkit.deploy(model, images)(images), model(images))


def test_a_deployed_copy_does_not_grow() -> None:
    copied = ghostkit.deploy(ghostkit.build("seedling", 5, 1), torch.randn(2, 1, 12, 12))
    with pytest.raises(ghostkit.GhostkitError, match="a deployed copy has no BN left and does not grow"):
        ghostkit.grow(copied, ghostkit.AddBranch("blocks.0.0.ghost1"))
