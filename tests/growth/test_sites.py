"""Sites are found in any network that can be traced, and are none where channels are shared with somebody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from ghostkit.errors import GhostkitError
from ghostkit.ghosting import ghostify
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddLink,
    Edit,
    NarrowStage,
    Site,
    WidenStage,
    grow,
    sites,
    undo,
    widen_out,
)
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.depth import link_places
from ghostkit.growth.sites import find, units
from ghostkit.growth.surgery import Surgery
from ghostkit.nn import GhostBottleneck, GhostModule, build
from ghostkit.nn.links import Stage


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


class Plain(nn.Module):
    """An ordinary residual network: no ghost module anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.one, self.norm_one = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.norm_two = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last, self.short = nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Conv2d(6, 5, 1, stride=2)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_two(self.two(F.relu(self.norm_one(self.one(x))))))
        x = F.relu(self.last(x) + self.short(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Joined(nn.Module):
    """Two ghost modules whose outputs are added."""

    def __init__(self, channels: int, ratio: int, other_channels: int, other_ratio: int) -> None:
        super().__init__()
        self.read = GhostModule(3, 4)
        self.one = GhostModule(4, channels, ratio=ratio)
        self.two = GhostModule(4, other_channels, ratio=other_ratio)
        self.head = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        return self.head(F.adaptive_avg_pool2d(self.one(x) + self.two(x), 1).flatten(1))


class TwoHeads(nn.Module):
    """A network with a head that only one mode has, and layers that one mode joins to others than the other does."""

    def __init__(self, aux_in_training: bool) -> None:
        super().__init__()
        self.aux_in_training = aux_in_training
        self.stem, self.hidden = nn.Conv2d(3, 8, 3, padding=1), GhostModule(8, 8)
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.aux_hidden, self.aux = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.hidden(F.relu(self.stem(x)))
        one, two = self.one(x), self.two(x)
        read = self.norm(one if self.training else two)
        found = [self.head(F.adaptive_avg_pool2d(F.relu(read), 1).flatten(1))]
        if self.training == self.aux_in_training:
            found.append(self.aux(F.adaptive_avg_pool2d(self.aux_hidden(x), 1).flatten(1)))
        return found


class Rows(nn.Module):
    """A network whose rows of blocks are called in every way that there is."""

    grown_part = ""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for name in ("whole", "one_by_one", "but_last", "by_number", "last_twice", "unused", "in_training"):
            layers = [BasicBlock(8, 8), BasicBlock(8, 8), nn.Conv2d(8, 8, 1)]
            self.add_module(name, nn.Sequential(*layers[: 3 if name == "but_last" else 2]))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whole(self.stem(x))
        for block in [*self.one_by_one, *list(self.but_last)[:-1]]:
            x = block(x)
        x = self.by_number[1](self.by_number[0](x))
        x = self.last_twice[-1](self.last_twice[-1](x))
        if self.training:
            x = self.in_training(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Pooled(nn.Module):
    """A layer of one's own that leaves no positions behind the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@widen_out.register(Pooled)
def _(layer: Pooled, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    pass


class Broadcast(nn.Module):
    """A network that adds a map of one channel to all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.adaptive_avg_pool2d(self.last(x + self.map(x)), 1).flatten(1))


def test_a_users_own_network_has_a_site_wherever_channels_reach_their_consumers_alone() -> None:
    assert sites(Own(), torch.randn(2, 3, 6, 6)) == [
        Site("read", "width", ("read",), ("norm",), ("one", "two")),
        Site("sized", "width", ("sized",), (), ("grouped",)),
        Site("flat", "width", ("flat",), (), ("head",)),
    ]


@pytest.mark.parametrize("name", ["read", "sized", "flat"])
def test_every_site_of_a_users_own_network_grows(name: str) -> None:
    model, images = Own().double(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    before = model(images)
    grow(model, [AddBranch(name, 3), AddBranch(name, 5)], probe=images)
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ghostnet_100", "ghostnetv2_100", "seedling"])
def test_every_first_ghost_module_and_every_row_of_our_networks_is_a_site(name: str) -> None:
    model = build(name, num_classes=3)
    found = sites(model)
    width, stream, depth = ([site for site in found if site.axis == axis] for axis in ("width", "stream", "depth"))
    assert found == [*width, *stream, *depth]
    assert len(width) == sum(len(stage) for stage in list(model.blocks)[:-1])
    assert all(site.id.endswith(".ghost1") for site in width)  # the second one writes into the stream
    assert [site.id for site in depth] == [f"blocks.{i}" for i in range(len(model.blocks) - 1)]
    for site in width:
        block = model.get_submodule(site.id.removesuffix(".ghost1"))
        layers = [layer for layer in ("conv_dw", "bn_dw", "se") if getattr(block, layer) is not None]
        path = site.id.removesuffix("ghost1")
        assert site.producers == (site.id,)
        assert site.through == tuple(f"{path}{layer}" for layer in layers)
        assert site.consumers == (f"{path}ghost2",)


@pytest.mark.parametrize("name", ["ghostnet_100", "ghost_resnet18", "ghost_resnet50"])
def test_a_unit_is_a_stream_with_the_hidden_maps_of_all_blocks_that_write_into_it(name: str) -> None:
    known = sites(build(name, num_classes=3))
    of, streams = units(known), {site.id: site for site in known if site.axis == "stream"}
    assert of.keys() == {site.id for site in known if site.axis != "depth"}
    assert all(of[site_id] == site_id for site_id in streams)
    for site in known:
        if site.axis == "width":
            block = site.id.rpartition(".")[0]
            assert any(path.startswith(f"{block}.") for path in streams[of[site.id]].producers)


def test_a_site_that_leads_into_no_single_stream_is_a_unit_of_its_own() -> None:
    assert units(sites(Own())) == {"read": "read", "sized": "sized", "flat": "flat"}


def test_the_hidden_maps_of_ordinary_blocks_belong_to_the_stream_that_they_end_in() -> None:
    of = units(sites(torchvision.models.resnet50(num_classes=3)))
    streams = {unit: [name for name in of if of[name] == unit and name != unit] for unit in set(of.values())}
    two_a_block = {"layer1.0.conv3": 3, "layer2.0.conv3": 4, "layer3.0.conv3": 6, "layer4.0.conv3": 3}
    assert {unit: len(hidden) for unit, hidden in streams.items()} == {
        "conv1": 0,
        **{unit: 2 * blocks for unit, blocks in two_a_block.items()},
    }
    for unit, hidden in streams.items():
        assert all(name.startswith(unit.split(".")[0]) for name in hidden)


def test_a_network_without_additions_has_no_hidden_maps() -> None:
    of = units(sites(torchvision.models.vgg11_bn(num_classes=3)))
    assert len(of) > 7
    assert all(name == unit for name, unit in of.items())


@pytest.mark.parametrize("name", ["ghostnet_100", "ghostnetv2_100", "seedling"])
def test_every_layer_of_our_networks_that_writes_into_a_stream_is_a_producer_of_one_and_only_one(name: str) -> None:
    model = build(name, num_classes=3)
    found = [site for site in sites(model) if site.axis == "stream"]
    written = [path for site in found for path in site.producers]
    blocks = {path: block for path, block in model.named_modules() if isinstance(block, GhostBottleneck)}
    expected = {"conv_stem", f"blocks.{len(model.blocks) - 1}.0.conv"}
    expected |= {"conv_head"} if isinstance(model.conv_head, nn.Conv2d) else set()
    expected |= {f"{path}.ghost2" for path in blocks}
    expected |= {f"{path}.shortcut.2" for path, block in blocks.items() if len(block.shortcut)}
    assert sorted(written) == sorted(expected)
    for site in found:
        assert site.id == site.producers[0]
        together = {model.get_submodule(path).out_channels for path in site.producers}
        assert len(together) == 1, site.id
        assert site.consumers, site.id


def test_the_streams_of_a_seedling_are_its_stem_its_rows_and_its_neck() -> None:
    streams = {site.id: site for site in sites(build("seedling", num_classes=3)) if site.axis == "stream"}
    assert list(streams) == ["conv_stem", *(f"blocks.{i}.0.ghost2" for i in range(3)), "blocks.3.0.conv"]
    assert streams["blocks.0.0.ghost2"] == Site(
        "blocks.0.0.ghost2",
        "stream",
        producers=("blocks.0.0.ghost2", "blocks.0.0.shortcut.2"),
        through=("blocks.0.0.shortcut.3", "blocks.1.0.shortcut.0", "blocks.1.0.shortcut.1"),
        consumers=("blocks.1.0.ghost1", "blocks.1.0.shortcut.2"),
    )
    assert streams["blocks.3.0.conv"].consumers == ("classifier",)


def test_a_stream_of_a_users_own_network_has_every_layer_that_is_added_to_it(host: Callable) -> None:
    model, _, _ = host("odd")
    [stream] = [site for site in sites(model) if site.axis == "stream"]
    assert stream == Site("left", "stream", ("left", "right", "deep.0.ghost2"), (), ("deep.0.ghost1", "last"))


def test_an_ordinary_residual_network_has_streams_and_they_widen_and_narrow() -> None:
    model, images = Plain().double(), torch.randn(8, 3, 8, 8, dtype=torch.float64)
    assert sites(model, images) == [
        Site("stem", "stream", ("stem", "two"), ("norm", "norm_two"), ("one", "last", "short")),
        Site("one", "stream", ("one",), ("norm_one",), ("two",)),
        Site("last", "stream", ("last", "short"), (), ("head",)),
    ]
    for site, count in (("stem", 3), ("one", 1), ("last", 2), ("stem", 1)):
        for init in ("random", "split"):
            before, width = model(images), model.get_submodule(site).out_channels
            grow(model, WidenStage(site, count, init), probe=images)
            torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)
            assert {model.get_submodule(path).out_channels for path in find(model, site).producers} == {width + count}
    before = model(images)
    grow(model, [WidenStage("stem", 2), WidenStage("one", 2)], probe=images)
    assert undo(model, probe=images).max_logit_change < 1e-10
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)
    assert grow(model, NarrowStage("stem", (0, 3)), probe=images).max_logit_change > 1e-3
    assert torch.isfinite(model(images)).all()


@pytest.mark.parametrize(
    ("make", "edit", "words"),
    [
        (lambda: Joined(6, 3, 6, 2), WidenStage("one", 2), ["'two'", "(3, 1)", "'one'", "(2, 2)"]),
        (lambda: Joined(6, 2, 6, 1), NarrowStage("one", (0,)), ["'two'", "(6,)", "'one'", "(3, 1)"]),
        (lambda: Joined(6, 2, 6, 2), WidenStage("one", 3), ["channels=3", "multiple of 2"]),
        (lambda: Joined(6, 2, 6, 2), WidenStage("one", 8, "split"), ["only 3 maps"]),
        (lambda: Joined(6, 2, 6, 2), NarrowStage("one", (3,)), ["between 0 and 2"]),
        (lambda: Joined(6, 2, 6, 2), NarrowStage("one", (0, 1, 2)), ["one of them to be left"]),
        (lambda: Joined(5, 2, 5, 2), WidenStage("one", 2), ["'one'", "cuts its ghost maps off at 5 of 6"]),
        (lambda: Joined(6, 2, 6, 2), AddBranch("one"), ["'one'", "stream site"]),
        (lambda: Joined(6, 2, 6, 2), WidenStage("read", 2), ["'read'", "width site"]),
    ],
)
def test_a_stream_whose_producers_disagree_or_an_edit_that_does_not_fit_it_is_refused_by_name(
    make: Callable[[], nn.Module], edit: Edit, words: list[str]
) -> None:
    model = make()
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 2)
    with pytest.raises(GhostkitError) as refusal:
        grow(model, edit)
    for word in (str(edit), *words):
        assert word in str(refusal.value)


def test_a_stream_into_which_a_users_own_network_writes_ghosts_that_are_cut_off_is_refused_by_name(
    host: Callable,
) -> None:
    model, _, _ = host("odd")  # five channels of three intrinsic maps and their ghosts
    with pytest.raises(GhostkitError, match=r"WidenStage\(left, \+2\): 'right' cuts its ghost maps off at 5 of 6"):
        grow(model, WidenStage("left", 2))


def test_ids_stay_valid_when_blocks_are_added_before_them(host: Callable) -> None:
    model, images, _ = host("ghostnet_100")
    before = sites(model)
    for _ in range(2):
        grow(model, [AddBlock(site.id, site.blocks[0]) for site in before if site.axis == "depth"])
    after = {site.id: site for site in sites(model)}
    assert len(after) == len(before) + 18
    for site in before:
        assert site.id in after
        if site.axis == "width":
            assert after[site.id] == site
        if site.axis == "stream":
            assert set(after[site.id].producers) >= set(site.producers)
            grow(model, WidenStage(site.id, 2))
        else:
            grow(model, AddBranch(site.id) if site.axis == "width" else AddBlock(site.id, site.blocks[-1]))
    assert torch.isfinite(model(images)).all()


def test_an_example_that_the_network_does_not_accept_is_refused_and_the_mode_kept() -> None:
    model = Own().train()
    with pytest.raises(GhostkitError, match=r"Own does not accept images of shape \(2, 1, 6, 6\)"):
        sites(model, torch.zeros(2, 1, 6, 6))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("aux_in_training", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_what_either_mode_reads_is_widened_whichever_the_network_is_in(aux_in_training: bool, training: bool) -> None:
    model, images = TwoHeads(aux_in_training).double(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    model.train(training).head.train(not training)
    known = sites(model)
    assert (model.training, model.head.training) == (training, not training)
    assert known == [
        Site("hidden", "width", ("hidden",), (), ("one", "two", "aux_hidden")),
        Site("stem", "stream", ("stem",), (), ("hidden",)),
        Site("one", "stream", ("one", "two"), ("norm",), ("head",)),  # what the aux head makes, one mode lacks
    ]
    before = model.train(False)(images)
    model.train(training)
    grow(model, [AddBranch("hidden", 5), WidenStage("one", 2), WidenStage("stem", 3)], probe=images)
    for old, new in zip(before, model.train(False)(images), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-10, atol=1e-10)
    assert len(model.train(True)(images)) == 1 + aux_in_training


def test_a_row_takes_a_block_where_the_forward_would_call_it() -> None:
    model = ghostify(Rows())
    before = repr(model)
    known = sites(model)
    assert [site for site in known if site.axis == "depth"] == [
        Site(name, "depth", blocks=("0", "1")) for name in ("whole", "one_by_one", "but_last")
    ]
    assert repr(model) == before
    for site in known:
        if site.axis == "depth":
            grow(model, AddBlock(site.id, "1"))
    model(torch.randn(4, 3, 6, 6)).sum().backward()
    assert all(block.bn2.weight.grad is not None for block in (model.whole.g1, model.one_by_one.g1, model.but_last.g1))
    with pytest.raises(GhostkitError, match="no site 'by_number'"):
        grow(model, AddBlock("by_number", "1"))


def test_links_join_blocks_of_stages_that_are_called_as_a_whole() -> None:
    model = ghostify(Rows())
    assert all(isinstance(model.get_submodule(name), Stage) for name in ("whole", "one_by_one", "by_number"))
    assert link_places(model, sites(model)) == [("whole.0.conv1", "whole.1.conv1")]
    with pytest.raises(GhostkitError, match=r"AddLink\(.*which hands them on"):
        grow(model, AddLink("one_by_one.0.conv1", "one_by_one.1.conv1"))


@pytest.mark.parametrize(("inside", "rows"), [("", ["whole", "one_by_one", "but_last"]), ("whole.", ["whole"])])
def test_rows_outside_of_the_part_that_grows_do_not(inside: str, rows: list[str]) -> None:
    model = ghostify(Rows())
    model.grown_part = inside
    assert [site.id for site in sites(model) if site.axis == "depth"] == rows


def test_channels_of_which_a_part_is_broadcast_do_not_grow() -> None:
    assert [site.id for site in sites(Broadcast())] == ["last"]


@pytest.mark.parametrize(
    ("behind", "grows"),
    [
        (lambda x: torch.flatten(x, 1), True),
        (lambda x: torch.flatten(x, start_dim=-3, end_dim=3), True),
        (lambda x: F.relu(x.flatten(1)), True),
        (nn.Flatten(), True),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), True),
        (Pooled(), True),
        (lambda x: x, False),
        (F.relu, False),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.PReLU(4)), False),
        (lambda x: x + x, False),
        (lambda x: x.flatten(2), False),
        (lambda x: torch.flatten(x, 1, 2), False),
        (torch.flatten, False),
        (nn.Flatten(2), False),
    ],
)
def test_a_linear_layer_reads_channels_where_each_is_unrolled_whole_and_positions_anywhere_else(
    behind: Callable[[Tensor], Tensor], grows: bool
) -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.behind, self.head = nn.Conv2d(3, 4, 3, padding=1), behind, nn.LazyLinear(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.behind(self.stem(x)))

    model, images = Read(), torch.randn(4, 3, 4, 4)
    before = model(images)
    assert [site.id for site in sites(model)] == ["stem"] * grows
    if grows:
        grow(model, WidenStage("stem", 2))
        torch.testing.assert_close(model(images), before)


def test_a_site_that_does_not_exist_is_refused_with_those_that_do() -> None:
    assert find(Own(), "flat").consumers == ("head",)
    with pytest.raises(GhostkitError, match=r"no site 'two' in this network; its sites are read, sized, flat"):
        find(Own(), "two")
    with pytest.raises(GhostkitError, match="no ghost module that can grow"):
        find(nn.Sequential(nn.Conv2d(1, 1, 1)), "0")
