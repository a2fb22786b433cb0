"""Sites are found in any network that can be traced, and are none where channels are shared with somebody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, Site, grow, sites
from ghostkit.growth.sites import find
from ghostkit.nn import GhostModule, build


class Own(nn.Module):
    """A user's network whose ghost modules end in every way that one can."""

    def __init__(self) -> None:
        super().__init__()
        self.read = GhostModule(3, 7)
        self.norm = nn.BatchNorm2d(7)
        self.one, self.two = nn.Conv2d(7, 6, 3, padding=1), GhostModule(7, 6)  # `two` is added
        self.joined = GhostModule(6, 4)  # concatenated
        self.called_twice = GhostModule(10, 10)
        self.into_shared, self.shared = GhostModule(10, 8), nn.Conv2d(8, 8, 1)
        self.sized = GhostModule(8, 5)  # asked for its size only
        self.grouped = nn.Conv2d(5, 4, 1)
        self.into_groups, self.groups = GhostModule(4, 4), nn.Conv2d(4, 4, 1, groups=2)
        self.flat = GhostModule(4, 3)
        self.head = nn.Linear(12, 2)
        self.unused = GhostModule(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.read(x)))
        x = self.one(x) + self.two(x)
        x = torch.cat([x, self.joined(x)], 1)
        x = self.called_twice(self.called_twice(x))
        x = self.shared(self.shared(self.into_shared(x)))
        y = self.sized(x)
        x = self.grouped(y) * y.shape[2]
        x = self.groups(self.into_groups(x))
        x = F.adaptive_avg_pool2d(self.flat(x), 2)
        return self.head(torch.flatten(x, 1))


class Branching(nn.Module):
    """A forward that looks at values cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.ghost = GhostModule(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.ghost(x) if x.sum() > 0 else x


def test_a_users_own_network_has_a_site_wherever_channels_reach_their_consumers_alone() -> None:
    assert sites(Own(), torch.randn(2, 3, 6, 6)) == [
        Site("read", "width", ("norm",), ("one", "two")),
        Site("sized", "width", (), ("grouped",)),
        Site("flat", "width", (), ("head",)),
    ]


@pytest.mark.parametrize("name", ["read", "sized", "flat"])
def test_every_site_of_a_users_own_network_grows(name: str) -> None:
    model, images = Own().double(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    before = model(images)
    grow(model, [AddBranch(name, 3), AddBranch(name, 5)], probe=images)
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ghostnet_050", "ghostnetv2_100", "seedling"])
def test_every_first_ghost_module_and_every_row_of_our_networks_is_a_site(name: str) -> None:
    model = build(name, num_classes=3)
    found = sites(model)
    width, depth = ([site for site in found if site.axis == axis] for axis in ("width", "depth"))
    assert found == [*width, *depth]
    assert len(width) == sum(len(stage) for stage in list(model.blocks)[:-1])
    assert all(site.id.endswith(".ghost1") for site in width)  # the second one writes into the stream
    assert [site.id for site in depth] == [f"blocks.{i}" for i in range(len(model.blocks) - 1)]
    for site in width:
        block = model.get_submodule(site.id.removesuffix(".ghost1"))
        layers = [layer for layer in ("conv_dw", "bn_dw", "se") if getattr(block, layer) is not None]
        path = site.id.removesuffix("ghost1")
        assert site.through == tuple(f"{path}{layer}" for layer in layers)
        assert site.consumers == (f"{path}ghost2",)


def test_ids_stay_valid_when_blocks_are_added_before_them(host: Callable) -> None:
    model, images, _ = host("ghostnet_050")
    before = sites(model)
    for _ in range(2):
        grow(model, [AddBlock(site.id, site.blocks[0]) for site in before if site.axis == "depth"])
    after = {site.id: site for site in sites(model)}
    assert len(after) == len(before) + 18
    for site in before:
        assert site.id in after
        if site.axis == "width":
            assert after[site.id] == site
        grow(model, AddBranch(site.id) if site.axis == "width" else AddBlock(site.id, site.blocks[-1]))
    assert torch.isfinite(model(images)).all()


def test_an_example_that_the_network_does_not_accept_is_refused_and_the_mode_kept() -> None:
    model = Own().train()
    with pytest.raises(GhostkitError, match=r"Own does not accept images of shape \(2, 1, 6, 6\)"):
        sites(model, torch.zeros(2, 1, 6, 6))
    assert all(module.training for module in model.modules())


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(GhostkitError, match=r"Branching cannot be traced.*control flow"):
        sites(Branching())


def test_a_site_that_does_not_exist_is_refused_with_those_that_do() -> None:
    assert find(Own(), "flat").consumers == ("head",)
    with pytest.raises(GhostkitError, match=r"no site 'two' in this network; its sites are read, sized, flat"):
        find(Own(), "two")
    with pytest.raises(GhostkitError, match="no ghost module that can grow"):
        find(nn.Sequential(nn.Conv2d(1, 1, 1)), "0")
