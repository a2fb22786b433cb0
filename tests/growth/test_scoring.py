"""Candidates that are attached together score what each of them would score alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.costs import LatencyTable
from ghostkit.growth import (
    AddBranch,
    AddIntrinsic,
    Edit,
    WidenStage,
    depth,
    grow,
    layers,
    proposals,
    sites,
    undo,
    width,
)
from ghostkit.growth.candidates import candidates, scratch_copy
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.edits import KINDS
from ghostkit.growth.scoring import SCORES, Scored, score_attached
from ghostkit.growth.surgery import Surgery


class Untimed(LatencyTable):
    """A table that times nothing."""

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        self.lines.setdefault(family, (0.0, 0.0))


def entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


class Called(nn.Module):
    """A convolution of one's own: its weights have another name and order, and it says nothing of its widths."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(weight.detach().transpose(0, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.transpose(0, 1), padding=1)


class Sequence(Called):
    """The same in a layout that nobody knows: positions are in a row."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(2)


class Fickle(Called):
    """The same in a form that no gradient for each sample can be asked of."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if float(x.detach().sum()) < 1e9 else 0)


@layers.widen_in.register
def _(layer: Called, channels: ChannelMap, surgery: Surgery) -> None:
    surgery.remap(layer, "kernel", 0, channels, shared=True)


@layers.widen_out.register
def _(layer: Called, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    fresh = layers.default_rows(layer.kernel.transpose(0, 1), int(channels.fresh.sum()), surgery.generator)
    surgery.remap(layer, "kernel", 1, channels, fresh.transpose(0, 1))


for rules in (layers.widen_in, layers.widen_out):
    for kind in (Sequence, Fickle):
        rules.register(kind)(rules.dispatch(Called))


def with_middle(make: Callable[[Tensor], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with a layer in its middle that is made of a convolution's weights, and a batch for it."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    stem, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(6, 5, 3)
    end = [nn.ReLU(), last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
    images = torch.randn(12, 3, 7, 7, dtype=torch.float64)
    model = nn.Sequential(stem, nn.BatchNorm2d(4), nn.ReLU(), make(conv.weight), *end)
    return model.double(), images, torch.arange(12) % 4


def plain(weight: Tensor) -> nn.Module:
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    conv.weight.data = weight.detach().clone()
    return conv


@pytest.fixture
def no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are drawn depend on their shape alone, and no longer on what was drawn before."""

    def rows(weight: Tensor, count: int, _generator: torch.Generator) -> Tensor:
        draw = torch.Generator().manual_seed(weight[0].numel())
        return torch.rand(count, *weight.shape[1:], generator=draw, dtype=torch.float64) - 0.5

    @contextmanager
    def drawing(_generator: torch.Generator) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield

    for module in (depth, layers, proposals, width):
        for name, replacement in (("default_rows", rows), ("drawing_from", drawing)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, replacement)


def gains(model: nn.Module, images: Tensor, targets: Tensor, **options: object) -> dict[tuple[str, str], float]:
    frame = candidates(model, images, targets, entropy, latency=Untimed(), **options)
    return {(str(row.edit), row.init): row.gain for row in frame.itertuples()}


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize(
    ("name", "waiting"),
    [  # one more block waits until the thin one that it would be like has the channels offered beside it
        ("seedling", {f"AddBlock(blocks.{stage}, after 0)" for stage in range(3)}),
        ("grown", {"AddBlock(blocks.0, after 1)", "AddBlock(blocks.1, after 2)"}),
    ],
)
def test_a_candidate_gains_as_much_beside_all_other_kinds_as_beside_its_own(
    host: Callable, name: str, waiting: set[str]
) -> None:
    model, images, targets = host(name)
    together = gains(model, images, targets)
    alone = {
        candidate: gain for kind in KINDS for candidate, gain in gains(model, images, targets, kinds=(kind,)).items()
    }
    assert {edit for edit, _ in set(alone) - set(together)} == waiting
    for candidate, gain in together.items():
        assert gain == pytest.approx(alone[candidate], rel=1e-6, abs=1e-12), candidate


def scores(model: nn.Module, edits: list[Edit], images: Tensor, targets: Tensor, score: str) -> list[Scored]:
    original = scratch_copy(model)
    draw = torch.Generator().manual_seed(0)
    found, _ = score_attached(original, sites(original), edits, images, targets, entropy, score, draw)
    return [found[number] for number in range(len(edits))]


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize(
    ("name", "score"),
    [
        *(("seedling", score) for score in SCORES),
        *((name, "fisher") for name in ("plain seedling", "rows", "grown", "ghostnetv2_100")),
    ],
)
def test_a_candidate_gains_as_much_beside_all_others_as_alone(host: Callable, name: str, score: str) -> None:
    model, images, targets = host(name)
    edits = list(candidates(model, images, targets, entropy, latency=Untimed())["edit"])
    few = edits if len(edits) < 20 else random.Random(0).sample(edits, 8)
    found = dict(zip(map(str, edits), scores(model, edits, images, targets, score), strict=True))
    for edit in few:
        [alone], beside = scores(model, [edit], images, targets, score), found[str(edit)]
        assert beside.gain == pytest.approx(alone.gain, rel=1e-6, abs=1e-12), str(edit)
        assert torch.allclose(beside.response, alone.response, rtol=1e-6, atol=1e-9), str(edit)


@pytest.mark.parametrize("how", ["svd", "gradmax", "random"])
@pytest.mark.parametrize("name", ["seedling", "odd", "grown", "ghostnetv2_100"])
def test_what_is_grown_is_what_was_scored_whatever_is_drawn(host: Callable, name: str, how: str) -> None:
    model, images, targets = host(name)
    edits = list(candidates(model, images, targets, entropy, how=how, latency=Untimed())["edit"])
    for edit in random.Random(0).sample(edits, 8):
        original, scored, grown = scratch_copy(model), [], []
        for seed in (0, 1):
            draw = torch.Generator().manual_seed(seed)
            found, _ = score_attached(original, sites(original), [edit], images, targets, entropy, "fisher", draw)
            twin = copy.deepcopy(model)
            grow(twin, edit, generator=torch.Generator().manual_seed(seed))
            scored.append(found[0])
            grown.append(twin.state_dict())
        assert scored[0].gain == scored[1].gain, str(edit)
        assert torch.equal(scored[0].response, scored[1].response), str(edit)
        assert [key for key in grown[0] if not torch.equal(grown[0][key], grown[1][key])] == [], str(edit)


@pytest.mark.parametrize("first", [AddIntrinsic, AddBranch])
@pytest.mark.parametrize("name", ["seedling", "odd"])
def test_a_new_branch_of_new_maps_has_a_kernel_that_can_learn(host: Callable, name: str, first: type) -> None:
    model, images, targets = host(name)
    frame = candidates(model, images, targets, entropy, kinds=("branch", "intrinsic"), latency=Untimed())
    for _, offered in frame.groupby("site"):
        edits = sorted(offered["edit"], key=lambda edit: not isinstance(edit, first))
        twin = copy.deepcopy(model)
        grow(twin, edits, probe=images)
        for _, operation in twin.get_submodule(edits[0].site).operations():
            assert bool((operation.conv.weight.flatten(1).norm(dim=1) > 1e-3).all())


@pytest.mark.parametrize("score", [score for score in SCORES if score != "whitened"])
def test_columns_of_a_layer_of_ones_own_gain_what_those_of_the_same_convolution_would(score: str) -> None:
    own, expected = (gains(*with_middle(make), score=score, extras=("gain_ratio",)) for make in (Called, plain))
    assert len(own) == 3
    read = ("WidenStage(0, +1)", "svd")  # what its columns read
    assert own[read] == pytest.approx(expected[read], rel=1e-6)
    assert own[read] != 0


@pytest.mark.parametrize("how", ["svd", "random", "split"])
@pytest.mark.parametrize("kind", [Called, Fickle])
def test_a_layer_of_ones_own_grows_on_both_sides_whatever_its_weights_are_called(kind: type, how: str) -> None:
    model, images, targets = with_middle(kind)
    before = model.eval()(images)
    for score in ("fisher", "whitened"):
        frame = candidates(model, images, targets, entropy, how=how, score=score, latency=Untimed())
        assert sorted(frame["site"]) == ["0", "3", "5"]
    for edit in frame["edit"]:
        assert grow(model, edit, probe=images).max_logit_change < 1e-10
    torch.testing.assert_close(model(images), before)
    undo(model, probe=images)
    model.train()(images)


def test_what_a_layer_reads_that_cannot_be_asked_gains_nothing_and_all_else_is_scored() -> None:
    found = gains(*with_middle(Fickle))
    assert {edit: gain != 0 for (edit, _), gain in found.items()} == {
        "WidenStage(0, +1)": False,
        "WidenStage(3, +2)": True,
        "WidenStage(5, +1)": True,
    }


def test_gradients_in_a_layout_of_ones_own_do_not_stop_the_search_for_weights() -> None:
    model, images, targets = with_middle(Sequence)
    model = nn.Sequential(*model[:4], nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4)).double()
    assert {edit: gain != 0 for (edit, _), gain in gains(model, images, targets).items()} == {"WidenStage(0, +1)": True}
    grow(model, WidenStage("0", 2), probe=images)
