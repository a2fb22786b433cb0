"""A network is traced in both modes, what stops a trace is told by its line, and the network is left as it was."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import WidenStage, grow, sites
from ghostkit.nn import GhostModule


class Branching(nn.Module):
    """A forward that looks at values cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.ghost = GhostModule(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.ghost(x) if x.sum() > 0 else x


class Remembering(nn.Module):
    """A forward that keeps its maps, and counts its calls in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("passes", torch.zeros(()))
        self.calls, self.maps, self.by_name = 0, [], {}

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1  # in place
        self.passes = self.passes + 1
        self.calls += 1
        self.kept = self.stem(x)
        self.maps.append(self.kept)
        self.by_name[str(self.calls)] = self.kept
        return self.last(self.kept) if self.training else self.last(self.kept) * 2


class Dropping(nn.Module):
    """Stochastic depth in plain Python."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw
        self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            if not self.training or self.draw() < 0.5:
                x = x + part(x)
        return x


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(GhostkitError, match=r"Branching cannot be traced.*control flow") as caught:
        sites(Branching())
    line = "'return self.ghost(x) if x.sum() > 0 else x' (test_tracing.py, line "
    assert f"It stopped at {line}" in str(caught.value), "the line is the user's own"
    assert "write the line with tensor operations alone" in str(caught.value)


def test_the_mode_that_cannot_be_traced_is_named() -> None:
    class Deciding(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return self.ghost(x) if self.training else super().forward(x)

    with pytest.raises(GhostkitError, match="Deciding cannot be traced in eval mode"):
        sites(Deciding())


def test_what_a_forward_keeps_and_counts_is_not_touched_by_a_trace() -> None:
    model = Remembering()
    model(torch.randn(2, 3, 4, 4))
    before, steps = dict(vars(model)), model.steps
    value = (model.kept * model.steps).sum()
    assert [site.id for site in sites(model)] == ["stem"]
    assert vars(model) == before
    assert model.steps is steps
    assert (float(model.steps), float(model.passes), model.calls) == (1.0, 1.0, 1)
    assert model.maps == [model.kept]
    assert model.by_name == {"1": model.kept}
    value.backward()  # nothing that a gradient needs was written into
    grow(model, WidenStage("stem", 2))
    assert (float(model.steps), model.calls) == (1.0, 1)


def test_what_a_forward_keeps_is_put_back_where_a_trace_fails() -> None:
    class Failing(Remembering):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if super().forward(x).sum() > 0 else x

    model = Failing()
    before = set(vars(model))
    with pytest.raises(GhostkitError, match="cannot be traced"):
        sites(model)
    assert (set(vars(model)), model.calls, float(model.steps), model.maps) == (before, 0, 0.0, [])


@pytest.mark.parametrize("draw", [random.random, lambda: torch.rand(1).item()])
def test_a_forward_that_draws_has_the_same_sites_each_time_and_is_heard_by_nobody(draw: Callable[[], float]) -> None:
    model = Dropping(draw)
    states = torch.get_rng_state(), random.getstate()
    found = sites(model)
    assert 0 < len(found) < len(model.parts), "some are dropped"
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    for _ in range(3):
        draw()
        assert sites(model) == found


def test_hooks_are_not_run_by_a_trace_and_are_still_there_after(host: Callable) -> None:
    model, images, _ = host("ghost_resnet20")
    means: list[float] = []
    block = model.layer1[1]
    handles = [
        block.register_forward_hook(lambda layer, inputs, output: means.append(float(output.detach().mean()))),
        block.register_forward_pre_hook(lambda layer, inputs: means.append(float(inputs[0].detach().mean()))),
    ]
    known = sites(model)
    assert not means
    model(images)
    assert len(means) == 2
    grow(model, WidenStage(next(site.id for site in known if site.axis == "stream"), 2))
    assert len(means) == 2
    for handle in handles:
        handle.remove()
    model(images)
    assert len(means) == 2
