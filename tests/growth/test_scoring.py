"""Candidates that are attached together score what each of them would score alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.costs import LatencyTable
from ghostkit.growth import Edit, depth, layers, proposals, sites, width
from ghostkit.growth.candidates import candidates, scratch_copy
from ghostkit.growth.edits import KINDS
from ghostkit.growth.scoring import SCORES, Scored, score_attached


class Untimed(LatencyTable):
    """A table that times nothing."""

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        self.lines.setdefault(family, (0.0, 0.0))


def entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


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
