"""A network is traced in both modes, what stops a trace is told by its line, and the network is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
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
