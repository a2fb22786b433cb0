"""ghostify: a network of anybody's with ghost modules, a report in words, and a recipe where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import ghostkit
from ghostkit import AddBlock, AddBranch, AddLink, GhostkitError, WidenStage
from ghostkit.growth import history_of
from ghostkit.nn.hybrids import ResNet

RECIPES = [
    (lambda: torchvision.models.resnet18(num_classes=7), "ghost_resnet18", {"width": 64}),
    (lambda: torchvision.models.resnet50(width_per_group=128), "ghost_resnet50", {"width_per_group": 128}),
    (lambda: torchvision.models.mobilenet_v2(width_mult=0.5), "ghost_mobilenet_v2", {"width": 0.5}),
    (torchvision.models.mobilenet_v3_large, "ghost_mobilenet_v3_large", {"dropout": 0.2}),
    (lambda: torchvision.models.mobilenet_v3_small(width_mult=0.75), "ghost_mobilenet_v3_small", {"width": 0.75}),
    (lambda: ResNet("basic", (3, 3, 3), 10, 1, 8, small_images=True), "ghost_resnet20", {"width": 8}),
]
STRANGERS = {
    "two blocks a stage, none of a known depth": lambda: ResNet("basic", (1, 2, 1), 5),
    "another norm": lambda: torchvision.models.resnet18(norm_layer=lambda c: nn.BatchNorm2d(c, eps=1e-3)),
    "a dilated one": lambda: torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]),
    "a subclass": lambda: type("Mine", (torchvision.models.ResNet,), {})(
        torchvision.models.resnet.BasicBlock, [2, 2, 2, 2]
    ),
}


class Own(nn.Module):
    """A network of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.last, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(torch.relu(self.norm(self.middle(torch.relu(self.stem(x))))))
        return self.head(torch.relu(x).mean((2, 3)))


@pytest.mark.parametrize(("make", "name", "numbers"), RECIPES, ids=[name for _, name, _ in RECIPES])
def test_torchvisions_networks_carry_a_recipe_that_builds_them_again(make, name, numbers) -> None:
    with torch.device("meta"):
        ghost = ghostkit.ghostify(make(), 3, 5, keep=["layer1.0"] if "resnet" in name else [])
        assert ghost.recipe.items() >= {"name": name, "ratio": 3, "cheap_kernel": 5, **numbers}.items()
        again = ghostkit.build(**ghost.recipe)
    assert str(again) == str(ghost)


@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS)
def test_what_no_recipe_builds_says_so_and_gets_none(make) -> None:
    with torch.device("meta"):
        ghost = ghostkit.ghostify(make())
    assert not hasattr(ghost, "recipe")
    assert "load(folder, host=...)" in str(ghost.ghost_report)


def test_a_ghosted_torchvision_network_grows_is_saved_and_loaded_by_its_recipe(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 40, 40)
    ghost = ghostkit.ghostify(torchvision.models.resnet18(num_classes=5)).eval()
    edits = [
        AddBranch("layer1.0.conv1", 5),
        AddBlock("layer2", "1"),
        AddLink("layer2.0.conv1", "layer2.1.conv1"),
        WidenStage("layer3.0.conv2", 4),
    ]
    assert ghostkit.grow(ghost, edits, probe=images).max_logit_change < 1e-4
    ghostkit.save(ghost, tmp_path)
    again = ghostkit.load(tmp_path).eval()
    assert torch.equal(again(images), ghost(images))
    assert history_of(again).recipe["name"] == "ghost_resnet18"


def test_a_users_own_network_is_loaded_into_a_host_that_is_ghosted_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 12)
    ghost = ghostkit.ghostify(Own()).eval()
    ghostkit.grow(ghost, [AddBranch("middle", 5), WidenStage("stem", 3)])
    ghostkit.save(ghost, tmp_path)
    again = ghostkit.load(tmp_path, host=ghostkit.ghostify(Own())).eval()
    assert torch.equal(again(images), ghost(images))
    with pytest.raises(GhostkitError, match=r"load\(folder, host="):
        ghostkit.load(tmp_path)


def test_the_report_tells_what_became_of_each_layer_and_what_it_costs() -> None:
    model, images = Own().eval(), torch.randn(8, 3, 12, 12)
    ghost = ghostkit.ghostify(model, images=images)
    report = ghost.ghost_report
    assert report.layers["became"].tolist() == ["left alone", "ghost module", "ghost module"]
    assert report.layers.loc[0, "why"].startswith("the stem")
    assert report.layers["params_before"].tolist() == [224, 584, 438]
    assert report.layers["params_after"].tolist() == [224, 4 * 73 + 40, 3 * 73 + 30]
    assert report.layers["missed"].isna().all()
    for name, network in (("before", model), ("after", ghost)):
        price = ghostkit.cost(network, images[:1], measure=False)
        assert tuple(report.costs.loc[name, ["params", "macs"]]) == (price.params, price.macs)
    assert (report.costs["milliseconds"] > 0).all()
    words = str(report)
    assert "2 of 3 convolutions became ghost modules" in words
    assert "the stem: it reads the images" in words
    assert "missed" not in words


def test_without_images_the_report_counts_parameters_alone() -> None:
    report = ghostkit.ghostify(Own()).ghost_report
    assert report.costs["macs"].isna().all()
    assert "milliseconds" not in str(report)


def test_decomposing_prints_what_the_ghost_modules_miss() -> None:
    torch.manual_seed(0)
    report = ghostkit.ghostify(Own(), init="decompose", images=torch.randn(8, 3, 12, 12)).ghost_report
    missed = report.layers["missed"]
    assert missed.isna().tolist() == [True, False, False]
    assert "reconstruction: the ghost modules miss" in str(report)
    assert f"{missed.mean():.1%}" in str(report)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"init": "svd"}, ["init='svd'", "random, decompose"]),
        ({"init": "decompose"}, ["images=..."]),
        ({"init": "decompose", "images": torch.zeros(1, 3, 12, 12)}, ["got 1 image"]),
        ({"ratio": -1}, ["ratio=-1"]),
        ({"images": torch.zeros(2, 1, 12, 12)}, ["Own does not take images of 1 x 12 x 12 in torch.float32"]),
        ({"images": torch.zeros(2, 3, 12, 12).byte()}, ["Own does not take images of 3 x 12 x 12 in torch.uint8"]),
        (
            {"init": "decompose", "images": torch.zeros(2, 1, 12, 12)},
            ["Own does not take images of 1 x 12 x 12 in torch.float32"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_quoted(arguments, words) -> None:
    with pytest.raises(GhostkitError) as refusal:
        ghostkit.ghostify(Own(), **arguments)
    for word in words:
        assert word in str(refusal.value)
