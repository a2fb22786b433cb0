"""The ledger's prices are what the network really costs more once it has grown."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from ghostkit import costs
from ghostkit.costs import LatencyTable
from ghostkit.growth import AddBlock, grow, sites
from ghostkit.growth.edits import take_down
from ghostkit.growth.ledger import Ledger

KINDS = {
    "branch": ("branch 3x3 random", "branch 5x5 random", "branch 3x3 split"),
    "intrinsic": ("intrinsic random", "intrinsic split"),
    "stage": ("stage random", "stage split"),
    "block": ("block last", "block narrow", "block clone"),
    "layer": ("layer 3x3 random", "layer 5x5 random"),
    "link": ("link",),
}
CASES = [
    *((name, kind) for name in ("small", "cut-off ghosts", "odd", "rows", "grown") for kind in KINDS),
    *(("ghostnetv2_100", kind) for kind in KINDS),
]
ABSENT = {("small", "link"), ("cut-off ghosts", "link"), ("odd", "link"), ("odd", "stage")}


class Counted(LatencyTable):
    """A table that times nothing: a millisecond for a layer, and one more for every million MACs."""

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        self.lines.setdefault(family, (1.0, 1e-6))


def measured(model: nn.Module, image: torch.Tensor) -> tuple[int, int, float]:
    layers = costs.layer_costs(model, image).values()
    return costs.params(model), costs.macs(model, image), sum(1.0 + 1e-6 * layer.macs for layer in layers)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case not in ABSENT])
def test_every_kind_of_growth_costs_what_the_ledger_says_at_every_site(
    host: Callable, edits_of: Callable, name: str, kind: str
) -> None:
    model, images, _ = host(name)
    image, known, draw = images[:1], sites(model), torch.Generator().manual_seed(0)
    ledger, before = Ledger(model, image, Counted(batch=1)), measured(model, image)
    edits = [edit for sort in KINDS[kind] for edit in edits_of(model, sort)]
    assert edits
    for edit in edits[:: 1 + len(edits) // (3 if name.startswith("ghostnet") else 6)]:  # some, where there are many
        added = ledger.added(take_down(edit, model, known, draw))
        grown = copy.deepcopy(model)
        grow(grown, edit)
        after = measured(grown, image)
        assert (added.params, added.macs) == (after[0] - before[0], after[1] - before[1]), str(edit)
        assert added.milliseconds == pytest.approx(after[2] - before[2]), str(edit)
        assert added.params > 0, str(edit)


def test_a_block_in_a_row_that_is_called_twice_is_paid_for_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.row, self.pool = nn.Conv2d(3, 4, 1), nn.Sequential(BasicBlock(4, 4)), nn.MaxPool2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.row(self.pool(self.row(self.stem(x))))

    model, image = Twice(), torch.randn(1, 3, 8, 8)
    surgery = take_down(AddBlock("row", "0"), model, sites(model), torch.Generator())
    before, added = measured(model, image), Ledger(model, image, Counted(batch=1)).added(surgery)
    grow(model, AddBlock("row", "0"))
    after = measured(model, image)
    assert (added.params, added.macs) == (after[0] - before[0], after[1] - before[1])
    assert added.milliseconds == pytest.approx(after[2] - before[2])


def test_pricing_leaves_the_network_as_it_was(
    host: Callable, edits_of: Callable, snapshot: Callable, differences: Callable
) -> None:
    model, images, _ = host("grown")
    before, keys = snapshot(model), set(vars(model))
    ledger, known, draw = Ledger(model, images[:1], Counted(batch=1)), sites(model), torch.Generator()
    for sorts in KINDS.values():
        for edit in (edit for sort in sorts for edit in edits_of(model, sort)):
            ledger.added(take_down(edit, model, known, draw))
    assert not differences(before, snapshot(model))
    assert set(vars(model)) == keys
