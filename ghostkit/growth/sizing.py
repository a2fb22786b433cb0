"""How many channels a site is offered in one step: a share of those there, and no more than the budget has room for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import AddIntrinsic, WidenStage, take_down
from ghostkit.growth.ledger import Ledger
from ghostkit.growth.sites import Site, units
from ghostkit.growth.width import stream_at
from ghostkit.nn.ghost import GhostModule

__all__ = ["Size", "sizes_of", "sizes_within"]

# New maps as a share of those there. Blocks are born with thin middles, so hidden maps have some way to go.
HIDDEN_SHARE, STREAM_SHARE = 1.0, 0.25


@dataclass(frozen=True)
class Size:
    """What a width or stream site would grow by.

    Args:
        edit: the growth of so many channels, its weights not found yet.
        step: the least number of channels that it could grow by, of which ``edit`` has a multiple.
    """

    edit: AddIntrinsic | WidenStage
    step: int = 1

    def shrunk(self, share: float) -> Size:
        """Return the size with a share of the channels, in whole steps, and at least one."""
        steps = max(1, math.floor(self.edit.channels // self.step * share))
        return replace(self, edit=replace(self.edit, channels=steps * self.step))


def sizes_of(model: nn.Module, known: list[Site], grown: list[Site], kinds: Sequence[str]) -> dict[str, Size]:
    """Return what each width or stream site would usually grow by, where it can grow, by site id.

    Args:
        model: the host.
        known: its sites.
        grown: those of them that may grow.
        kinds: kinds of edit to consider.
    """
    return dict(_sizes(model, known, grown, kinds))


def _sizes(model: nn.Module, known: list[Site], grown: list[Site], kinds: Sequence[str]) -> Iterator[tuple[str, Size]]:
    unit_of = units(known)
    for site in grown:
        if site.axis == "width" and "intrinsic" in kinds:
            maps = cast(GhostModule, model.get_submodule(site.id)).intrinsic_channels
            yield site.id, Size(AddIntrinsic(site.id, max(1, round(maps * HIDDEN_SHARE))))
        if site.axis == "stream" and "stage" in kinds:
            share = STREAM_SHARE if unit_of[site.id] == site.id else HIDDEN_SHARE
            try:
                _, stream = stream_at(WidenStage(site.id, 1), model, known)
            except GhostkitError:  # its producers agree on no order of channels
                continue
            yield site.id, Size(WidenStage(site.id, max(1, round(stream.maps * share)) * stream.ratio), stream.ratio)


def sizes_within(
    room: Mapping[str, float],
    sizes: dict[str, Size],
    model: nn.Module,
    known: list[Site],
    ledger: Ledger,
    *,
    together: bool = True,
) -> dict[str, Size]:
    """Return ``sizes`` with those shrunk that would cost more than there is room for; one step may still be too much.

    Args:
        room: what may be added, by unit: ``"macs"``, ``"params"``, ``"milliseconds"``.
        sizes: what each site would usually grow by.
        model: the host.
        known: its sites.
        ledger: prices edits on it.
        together: whether the channels of a unit have to fit in together.
    """
    unit_of = units(known)
    generator = torch.Generator().manual_seed(0)  # weights are of no account here
    prices = {name: ledger.added(take_down(size.edit, model, known, generator)) for name, size in sizes.items()}
    shares: dict[str, float] = {}
    for name in sizes:
        with_it = [other for other in sizes if other == name or (together and unit_of[other] == unit_of[name])]
        costs = {unit: sum(float(getattr(prices[other], unit)) for other in with_it) for unit in room}
        shares[name] = min((room[unit] / cost for unit, cost in costs.items() if cost > 0), default=1.0)
    return {name: size.shrunk(shares[name]) if shares[name] < 1 else size for name, size in sizes.items()}
