"""Candidates are scored by exact gradients and priced by the live network, and the model never notices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

from ghostkit import costs
from ghostkit.costs import LatencyTable
from ghostkit.errors import GhostkitError, ProbeError
from ghostkit.ghosting import ghostify
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, grow, sites
from ghostkit.growth.candidates import candidates
from ghostkit.growth.edits import ORDER
from ghostkit.growth.proposals import ends_of
from ghostkit.nn import GhostModule
from ghostkit.nn.zoo import build

COLUMNS = ["edit", "site", "kind", "init", "gain", "macs", "params", "milliseconds", "unit"]
HOSTS = ["seedling", "plain seedling", "cut-off ghosts", "odd", "grown"]


class Flat(LatencyTable):
    """A table that times nothing: a millisecond for a layer, and one more for every million MACs."""

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        self.lines.setdefault(family, (1.0, 1e-6))


def entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


def score(model: nn.Module, images: Tensor, targets: Tensor, **options: object) -> pd.DataFrame:
    return candidates(model, images, targets, entropy, latency=Flat(), **options)


@pytest.mark.parametrize(("name", "training"), [("cut-off ghosts", True), ("grown", True), ("grown", False)])
def test_the_model_is_left_as_it_was(
    host: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    snapshot: Callable,
    differences: Callable,
    name: str,
    training: bool,
) -> None:
    model, images, targets = host(name)
    model.dropout.p = 0.3
    model.blocks[0].requires_grad_(False)
    optimizer = make_optimizer("Adam", model)
    train_step(model, optimizer, images, targets)
    heard: list[str] = []
    for module in (model, model.blocks[1]):
        module.register_forward_hook(lambda *_: heard.append("forward"))
        module.register_forward_pre_hook(lambda *_: heard.append("before"))
        module.register_full_backward_pre_hook(lambda *_: heard.append("backward"))
    model.train(training)
    before, state, keys = snapshot(model, optimizer), torch.get_rng_state(), set(vars(model))
    frame = score(
        model,
        images,
        targets,
        how=("svd", "gradmax", "random", "split", "clone"),
        extras=("saturation", "gain_ratio"),
    )
    assert len(frame) > 20
    assert not differences(before, snapshot(model, optimizer))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(vars(model)) == keys
    assert [p.requires_grad for p in model.blocks[0].parameters()] == [False] * len(list(model.blocks[0].parameters()))
    assert model.dropout.p == 0.3
    assert not heard


@pytest.mark.parametrize("name", HOSTS)
def test_predicted_costs_are_those_of_the_network_that_grows(host: Callable, name: str) -> None:
    def milliseconds(network: nn.Module) -> float:
        return sum(1.0 + 1e-6 * layer.macs for layer in costs.layer_costs(network, images[:1]).values())

    model, images, targets = host(name)
    frame = score(model, images, targets)
    if len(frame) > 20:  # one of every kind is enough where there are many
        frame = frame.groupby("kind").sample(1, random_state=0)
    params, macs, before = costs.params(model), costs.macs(model, images), milliseconds(model)
    for row in frame.itertuples():
        grown = copy.deepcopy(model)
        grow(grown, row.edit)
        added = costs.params(grown) - params, costs.macs(grown, images) - macs
        assert (row.params, row.macs) == added, str(row.edit)
        assert row.milliseconds == pytest.approx(milliseconds(grown) - before), str(row.edit)


@pytest.mark.parametrize(
    ("name", "kinds", "kernel_sizes"),
    [
        ("small", ("branch",), (3, 5, 7)),
        ("plain seedling", ("branch", "intrinsic"), (5,)),
        ("odd", ("branch",), (3,)),  # one at a time: the first to be attached brings the cut-off ghosts into use
        ("odd", ("branch",), (5,)),
    ],
)
def test_the_raw_gain_is_the_squared_gradient_of_what_the_grown_network_could_learn(
    host: Callable,
    labelled: Callable,
    old_entries: Callable,
    name: str,
    kinds: tuple[str, ...],
    kernel_sizes: tuple[int, ...],
) -> None:
    model, images, targets = host(name)
    frame = score(model, images, targets, score="raw", kinds=kinds, kernel_sizes=kernel_sizes)
    for row in frame[~frame["site"].str.startswith("deep")].itertuples():  # there, SE opens new gates at random
        grown = copy.deepcopy(model)
        grow(grown, row.edit)
        entropy(grown, images, targets).backward()
        labels = dict(labelled(name, [row.edit]).named_parameters())
        # At birth, nothing but the zero columns has a gradient.
        fresh = [p.grad[~old_entries(labels[n].detach())[0]].square().sum() for n, p in grown.named_parameters()]
        assert row.gain == pytest.approx(float(sum(fresh)), rel=1e-6), str(row.edit)
    assert (frame["gain"] > 0).all()


@pytest.mark.parametrize("name", [*HOSTS, "ghostnetv2_100"])
def test_every_site_gets_every_kind_of_candidate_and_the_best_comes_first(
    host: Callable, edits_of: Callable, name: str
) -> None:
    model, images, targets = host(name)
    frame = score(model, images, targets)
    assert list(frame.columns) == COLUMNS
    assert frame["gain"].is_monotonic_decreasing
    assert frame["gain"].map(lambda gain: abs(gain) < float("inf")).all()
    assert (frame[["macs", "params", "milliseconds"]] > 0).all(axis=None)
    assert frame.attrs["macs"] > 2 * 2 * len(images) * costs.macs(model, images)  # looked once, scored at least once
    assert len(frame.attrs["responses"]) == len(frame)
    assert {len(response) for response in frame.attrs["responses"]} == {len(images)}
    assert all(edit.site == site for edit, site in zip(frame["edit"], frame["site"], strict=True))
    modules = [site.id for site in sites(model) if site.axis == "width"]
    expected = {
        "branch": modules * 2,  # of two kernel sizes
        "intrinsic": modules,
        "block": [site.id for site in sites(model) if site.axis == "depth" for _ in ends_of(model, site, modules)],
        "stage": [edit.site for edit in edits_of(model, "stage random")],
        "layer": [edit.site for edit in edits_of(model, "layer 3x3 random")],
        "link": [edit.site for edit in edits_of(model, "link")],
    }
    found = frame.groupby("kind")["site"].agg(sorted).to_dict()
    assert found == {kind: sorted(places) for kind, places in expected.items() if places}
    starts = {"branch": "svd", "intrinsic": "svd", "stage": "svd", "layer": "svd", "block": "random", "link": "zero"}
    assert frame["init"].tolist() == [starts[kind] for kind in frame["kind"]]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("seedling", how) for how in ("svd", "gradmax", "random", "split", "clone")),
        ("grown", "svd"),
        ("grown", "split"),
    ],
)
def test_candidates_can_be_grown_alone_and_the_best_of_every_site_in_one_event(
    host: Callable, name: str, how: str
) -> None:
    model, images, targets = host(name)
    frame = score(model, images, targets, how=how)
    for edit in frame.groupby("kind").head(3)["edit"]:
        assert grow(copy.deepcopy(model), edit, probe=images).max_logit_change <= 1e-10, str(edit)
    best = frame.drop_duplicates("site")["edit"]
    event = grow(model, sorted(best, key=lambda edit: ORDER.index(type(edit))), probe=images)
    assert event.max_logit_change <= 1e-10
    assert len(event.edits) > 5


def test_streams_of_an_ordinary_network_are_candidates() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    frame = score(model.double(), torch.randn(8, 3, 6, 6).double(), torch.arange(8) % 2)
    assert sorted(map(str, frame["edit"])) == ["WidenStage(0, +1)", "WidenStage(2, +1)"]


def test_saturation_and_the_ratio_of_gains_are_further_columns(host: Callable) -> None:
    model, images, targets = host("grown")
    plain = score(model, images, targets)
    frame = score(model, images, targets, extras=("saturation", "gain_ratio"))
    assert list(frame.columns) == [*COLUMNS, "saturation", "gain_ratio"]
    pd.testing.assert_frame_equal(frame[COLUMNS].drop(columns="edit"), plain.drop(columns="edit"))
    assert frame["saturation"].between(0, 1).all()
    assert (frame.groupby("site")["saturation"].nunique() == 1).all()
    assert ((frame["gain_ratio"] > 0) == (frame["gain"] > 0)).all()


def test_kinds_kernels_and_starts_can_be_chosen(host: Callable) -> None:
    model, images, targets = host("small")
    frame = score(model, images, targets, kinds=("branch",), kernel_sizes=(7,), how=("random", "svd"))
    assert {str(edit) for edit in frame["edit"]} == {f"AddBranch(blocks.{i}.0.ghost1, 7x7)" for i in range(3)}
    assert sorted(frame["init"]) == ["random"] * 3 + ["svd"] * 3
    split = score(model, images, targets, kinds=("branch",), kernel_sizes=(3, 7), how="split")
    assert {edit.kernel_size for edit in split["edit"]} == {3}  # there is no other branch to split


def test_the_same_generator_gives_the_same_candidates_and_another_one_others(host: Callable) -> None:
    model, images, targets = host("small")
    frames = [
        score(model, images, targets, how=("svd", "random", "split"), generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    pd.testing.assert_frame_equal(*(frame.drop(columns="edit") for frame in frames[:2]), check_exact=True)
    for one, other in zip(frames[0]["edit"], frames[1]["edit"], strict=True):
        assert one == other
        assert (one.tensors is None) == (other.tensors is None)
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in (one.tensors or {}).items())
    assert frames[0]["gain"].tolist() != frames[2]["gain"].tolist()


def test_the_candidates_do_not_disturb_each_other(host: Callable) -> None:
    model, images, targets = host("small")
    together = score(model, images, targets, kinds=("branch", "block"), kernel_sizes=(3, 5, 7), how=("svd", "random"))
    together = together[together["init"] == "svd"]  # random ones of the same kernel were put between them
    together = together.set_index(together["edit"].map(str))
    for side in (3, 5, 7):
        for row in score(model, images, targets, kinds=("branch",), kernel_sizes=(side,)).itertuples():
            assert row.gain == pytest.approx(together.loc[str(row.edit), "gain"], rel=1e-6)


def test_maps_that_the_consumer_could_make_already_gain_nothing() -> None:
    # Linear ghosts: a 1x1 branch scales intrinsic maps, which the consumer has already.
    ghost, head = GhostModule(3, 8, activation=nn.Identity), nn.Conv2d(8, 6, 1)
    model = nn.Sequential(ghost, head, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)).double()
    images, targets = torch.randn(64, 3, 6, 6).double(), torch.arange(64) % 2
    images[targets == 1, 0, 2:4] += 1
    gains = {}
    for name in ("fisher", "raw"):
        frame = score(model, images, targets, kinds=("branch",), kernel_sizes=(1, 5), score=name)
        gains[name] = dict(zip([edit.kernel_size for edit in frame["edit"]], frame["gain"], strict=True))
    assert min(gains["raw"].values()) > 0  # both have a gradient
    assert gains["fisher"][5] > 0.1
    assert abs(gains["fisher"][1]) < 1e-6


def test_found_kernels_promise_more_than_random_ones(host: Callable) -> None:
    model, images, targets = host("small")
    frame = score(model, images, targets, how=("svd", "random"), score="raw", kernel_sizes=(5,))
    means = frame.groupby(["kind", "init"])["gain"].mean()
    assert means["branch", "svd"] > means["branch", "random"]


def test_milliseconds_are_measured_once_per_kind_of_layer(host: Callable) -> None:
    model, images, targets = host("small", torch.float32)
    table = LatencyTable()
    frame = candidates(model, images, targets, entropy, latency=table, kinds=("branch",), kernel_sizes=(3,))
    assert frame["milliseconds"].map(lambda value: abs(value) < 1e3).all()
    measured = dict(table.lines)
    assert measured
    candidates(model, images, targets, entropy, latency=table, kinds=("branch",), kernel_sizes=(3,))
    assert table.lines == measured


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": "luck"}, ["score='luck'", "fisher, raw"]),
        ({"how": "magic"}, ["how='magic'", "svd, gradmax, random, split, clone"]),
        ({"how": ("svd", "magic"), "kinds": ("block",)}, ["how='magic'"]),
        ({"room": {"mac": 1e6}}, ["room='mac'", "macs, params, milliseconds"]),
        ({"kinds": ("branches",)}, ["kinds='branches'", "branch, intrinsic, stage, block, layer, link"]),
        ({"kernel_sizes": (3, 4)}, ["kernel_sizes=(3, 4)", "odd"]),
        ({"at": "stem.*"}, ["at='stem.*'", "its sites are blocks.0.0.ghost1"]),
        ({"at": ("stem.*", "no")}, ["at=('stem.*', 'no')"]),
    ],
)
def test_an_unknown_choice_is_refused_and_quoted(host: Callable, options: dict, words: list[str]) -> None:
    model, images, targets = host("small")
    with pytest.raises(GhostkitError) as refusal:
        score(model, images, targets, **options)
    for word in words:
        assert word in str(refusal.value)


def test_only_sites_that_match_a_pattern_are_considered_and_scored_as_among_all(host: Callable) -> None:
    model, images, targets = host("seedling")
    grow(model, AddIntrinsic("blocks.1.0.ghost1", 4))  # a block as wide inside as its stream: one more may follow it
    every = score(model, images, targets)
    for at in ("blocks.1*", ("blocks.0.0.ghost1", "blocks.1")):
        patterns = (at,) if isinstance(at, str) else at
        here = score(model, images, targets, at=at)
        expected = every[[any(fnmatchcase(site, pattern) for pattern in patterns) for site in every["site"]]]
        assert 0 < len(here) < len(every)
        assert set(here["kind"]) >= {"branch", "intrinsic", "block"}
        assert sorted(map(str, here["edit"])) == sorted(map(str, expected["edit"]))
        assert here.attrs["macs"] < every.attrs["macs"]
        alone = score(model, images, targets, at=at, kinds=("branch",)).set_index("site")["gain"]
        among = every[every["kind"] == "branch"].set_index("site")["gain"]
        for site in set(alone.index):
            assert sorted(alone[[site]]) == pytest.approx(sorted(among[[site]]), rel=1e-3)


def test_hidden_maps_of_ordinary_blocks_are_doubled_and_streams_widened_by_a_quarter() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    frame = score(model, torch.randn(4, 3, 32, 32), torch.arange(4) % 3, kinds=("stage",), how="random")
    added = {edit.site: edit.channels for edit in frame["edit"]}
    assert added["layer2.0.conv1"] == 128
    assert added["layer2.0.conv2"] == 32
    assert set(frame["unit"]) == {"conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}


@pytest.mark.parametrize("name", ["seedling", "ghost_resnet20"])
def test_everything_has_a_gain_right_after_a_block_was_added_which_nobody_feels_yet(name: str) -> None:
    model = build(name, 3, 1)
    images, targets = torch.randn(8, 1, 16, 16), torch.arange(8) % 3
    row = next(site for site in sites(model) if site.axis == "depth")
    grow(model, AddBlock(row.id, row.blocks[-1]), probe=images)
    frame = score(model, images, targets, extras=("gain_ratio",))
    assert bool(np.isfinite(frame[["gain", "gain_ratio"]].to_numpy()).all())
    new = frame["site"].str.startswith(f"{row.id}.g1.")
    assert bool((frame.loc[new & (frame["kind"] == "layer"), "gain"] == 0).all())
    assert bool((frame.loc[~new, "gain"] != 0).any())


class Dropping(nn.Sequential):
    """A network that drops features without a module of its own for it."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self
        x = F.dropout(first(x), 0.5, self.training)
        for layer in others:
            x = layer(x)
        return x


def test_dropout_by_a_function_draws_from_nobodys_generator_and_the_same_at_every_call() -> None:
    torch.manual_seed(0)
    parts = [GhostModule(1, 8), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)]
    model = Dropping(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, targets = torch.randn(8, 1, 10, 10), torch.arange(8) % 3
    before = torch.get_rng_state()
    first, second = (score(model, images, targets) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert list(first["gain"]) == list(second["gain"])


def tied(conv: nn.Conv2d) -> None:
    """Give a convolution the weight that another module holds."""
    conv.twin = nn.Module()
    conv.twin.weight = conv.weight


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda conv: prune.random_unstructured(conv, "weight", 0.5),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        tied,
    ],
)
def test_a_layer_whose_weight_is_computed_or_held_by_another_does_not_grow_and_all_others_do(change: Callable) -> None:
    row = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4))
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), row)
    model = model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(4, 2)).double()
    for layer in (model[2], row[1].conv1):
        change(layer)
    images, targets = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.arange(8) % 2
    F.cross_entropy(model(images), targets).backward()
    assert [site.id for site in sites(model)] == ["5.0.conv1", "5"]
    frame = score(model, images, targets)
    assert set(frame["site"]) == {"5.0.conv1", "5"}
    before = model.eval()(images)
    for edit in frame["edit"]:
        grow(model, edit, probe=images)
    torch.testing.assert_close(model(images), before)


def test_what_a_forward_keeps_does_not_stand_in_the_way_of_a_copy_unless_it_is_out_of_sight() -> None:
    class Keeping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    model = Keeping(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, targets = torch.randn(4, 3, 6, 6), torch.arange(4)
    last = model(images)
    assert set(score(model, images, targets)["site"]) == {"0"}
    assert model.last is last
    model.several = [model(images) + 1]
    with pytest.raises(GhostkitError, match=r"Keeping cannot be copied: Only Tensors.*keep it detached"):
        score(model, images, targets)


def test_a_network_without_a_site_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(GhostkitError, match="Sequential has no site: nothing in it can grow"):
        score(model, torch.randn(4, 3, 4, 4), torch.arange(4) % 2)


def test_images_that_are_not_finite_are_refused_and_the_model_left_as_it_was(
    host: Callable, snapshot: Callable, differences: Callable
) -> None:
    model, images, targets = host("small")
    before = snapshot(model)
    images = images.clone()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ProbeError, match="the images of the probe batch hold values that are not finite"):
        score(model, images, targets)
    assert not differences(before, snapshot(model))


def test_a_host_whose_candidates_are_grown_keeps_its_function_and_promises_less(
    host: Callable, make_optimizer: Callable, train_step: Callable
) -> None:
    model, images, targets = host("small")
    optimizer = make_optimizer("SGD", model)
    best = score(model, images, targets, kinds=("branch",))["edit"][0]
    assert isinstance(best, AddBranch)
    event = grow(model, best, optimizer, probe=images)
    assert event.max_logit_change < 1e-10
    losses = [train_step(model, optimizer, images, targets) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_candidates_without_a_score_are_the_same_ones_in_random_order_and_cost_no_pass(host: Callable) -> None:
    model, images, targets = host("seedling")

    def not_to_be_called(*_: object) -> Tensor:
        raise AssertionError("the loss was asked for")

    scored = score(model, images, targets, how="random")
    orders = []
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        frame = candidates(
            model, images, targets, not_to_be_called, score="none", how="random", latency=Flat(), generator=draw
        )
        assert frame.attrs["macs"] == 0
        assert set(frame["gain"]) == {0}
        assert set(zip(frame["edit"].map(str), frame["macs"], strict=True)) == set(
            zip(scored["edit"].map(str), scored["macs"], strict=True)
        )
        orders.append(list(frame["edit"].map(str)))
    assert orders[0] != orders[1]
    grow(model, frame["edit"].iloc[0], probe=images)


def test_without_a_score_weights_that_are_searched_for_still_are(host: Callable) -> None:
    model, images, targets = host("seedling")
    frame = score(model, images, targets, score="none", kinds=("branch",))
    best = score(model, images, targets, kinds=("branch",))
    found, expected = ({str(edit): edit.tensors["rows"] for edit in table["edit"]} for table in (frame, best))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert 0 < frame.attrs["macs"] < best.attrs["macs"]


@pytest.mark.parametrize("kinds", [("layer",), ("branch", "intrinsic", "stage")])
def test_weights_that_start_in_their_usual_way_are_searched_for_without_a_score_too(
    host: Callable, kinds: tuple[str, ...]
) -> None:
    model, images, targets = host("seedling")
    usual, cloned = (score(model, images, targets, score="none", how=how, kinds=kinds) for how in ("svd", "clone"))
    assert set(cloned["init"]) == {"svd"}
    found, expected = ({str(edit): edit.tensors for edit in table["edit"]} for table in (cloned, usual))
    assert found.keys() == expected.keys()
    for name, tensors in found.items():
        assert all(torch.equal(tensor, expected[name][key]) for key, tensor in tensors.items()), name


@pytest.mark.parametrize("kind", ["fisher", "raw", "scaled", "residual", "whitened"])
def test_a_gain_ratio_does_not_depend_on_the_units_of_the_loss(host: Callable, kind: str) -> None:
    model, images, targets = host("grown")

    def tenfold(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return 10 * entropy(model, images, targets)

    ratios = [
        candidates(model, images, targets, loss, score=kind, extras=("gain_ratio",), latency=Flat())["gain_ratio"]
        for loss in (entropy, tenfold)
    ]
    assert float(ratios[0].max()) > 0
    assert np.allclose(*ratios, rtol=1e-4)


class Forked(nn.Module):
    """Two layers read one convolution at different resolutions, and put out maps of one size (as ResNet-D does)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.AvgPool2d(2)
        self.short, self.conv = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.last, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        beside = self.short(self.pool(x))
        return self.head(F.relu(self.last(self.conv(x) + beside)).mean((2, 3)))


def test_gain_ratios_of_a_site_that_is_read_at_two_resolutions() -> None:
    torch.manual_seed(0)
    frame = score(Forked(), torch.randn(16, 1, 8, 8), torch.arange(16) % 4, extras=("gain_ratio",))
    assert "stem" in set(frame["site"])
    assert np.isfinite(frame["gain_ratio"]).all()


@pytest.mark.parametrize("room", [{"macs": 0.0}, {"params": 3.0}, {"macs": 1e9, "params": 1.0}])
def test_where_nothing_fits_no_pass_is_made(host: Callable, room: dict[str, float]) -> None:
    model, images, _ = host("seedling")

    def not_to_be_called(*_: object) -> Tensor:
        raise AssertionError

    frame = candidates(model, images, None, not_to_be_called, room=room, must_fit=True, latency=Flat())
    assert list(frame.columns) == COLUMNS
    assert frame.empty
    assert frame.attrs == {"macs": 0.0, "responses": []}


def test_what_would_join_frozen_parts_is_not_offered(host: Callable) -> None:
    model, images, targets = host("seedling")
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    known = {site.id: site for site in sites(model)}
    frame = score(model, images, targets)
    assert len(frame)
    assert set(frame["kind"]) <= {"branch", "intrinsic", "stage"}
    assert all("classifier" in known[site].consumers for site in frame["site"])
    grow(model, frame["edit"][0])
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())

    model.classifier.requires_grad_(False)
    with pytest.raises(GhostkitError, match="all that could grow in GhostNet would join frozen parts"):
        score(model, images, targets)


class Parts(nn.Module):
    """A network of which a loss may ask for a part: a trunk, a row behind it, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.row = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.last, self.head, self.other = nn.Conv2d(8, 6, 1), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.adaptive_avg_pool2d(self.last(self.row(self.trunk(x))), 1).flatten(1)
        return self.head(x), self.other(x)


@pytest.mark.parametrize("how", ["svd", "gradmax", "split"])
def test_what_a_loss_does_not_feel_gains_nothing_and_all_else_is_scored(how: str) -> None:
    model = ghostify(Parts())
    images, targets = torch.randn(8, 3, 10, 10), torch.arange(8) % 3

    def of_one_head(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(images)[0], targets)

    def of_the_trunk(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model.trunk(images).mean((2, 3)), targets)

    extras = ("saturation", "gain_ratio")
    whole = candidates(model, images, targets, of_one_head, latency=Flat(), how=how, extras=extras)
    assert set(whole["site"]) == {site.id for site in sites(model)}
    assert bool(np.isfinite(whole[["gain", "gain_ratio"]].to_numpy()).all())
    part = candidates(model, images, targets, of_the_trunk, latency=Flat(), how=how, extras=extras)
    gains = part.groupby("site")["gain"].max()
    assert set(gains.index) == {"trunk.0", "row"}
    assert gains["trunk.0"] != 0
    assert gains["row"] == 0
    none = candidates(model, images, targets, of_the_trunk, latency=Flat(), how=how, at="row.*.conv1")
    assert len(none) == 0


def test_a_loss_that_asks_another_network_is_refused_and_leaves_no_gradients_there() -> None:
    model, other = build("seedling", 3, 3), build("seedling", 3, 3)
    images, targets = torch.randn(8, 3, 10, 10), torch.arange(8) % 3
    with pytest.raises(GhostkitError, match="the loss did not use the model that it was given"):
        candidates(model, images, targets, lambda *_: entropy(other, images, targets))
    assert all(parameter.grad is None for parameter in other.parameters())
