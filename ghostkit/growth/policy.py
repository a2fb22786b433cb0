"""The policy: when to grow, where, how much, and when to stop. All of it is plain data, so a run can store it.

Nothing here touches a network. The functions look at numbers (progress, losses, a frame of candidates, what is left of
the budget) and say what to do; whoever trains does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
import torch

from ghostkit.errors import GhostkitError

__all__ = ["Budget", "Choice", "Policy", "PolicyState", "choose", "due", "observe_loss"]

When = Literal["interval", "plateau", "never"]
Where = Literal["gain-per-mac", "gain-per-parameter", "gain-per-millisecond", "round-robin", "random"]

# Shares of a run are summed up event by event; what is due at 0.15 must not wait for 0.15000000000000002.
ROUNDING = 1e-9

# The unit that each ranking divides the gain by, and the least cost it assumes: an edit may be free by a clock's noise.
COST_OF: dict[str, tuple[str, float]] = {
    "gain-per-mac": ("macs", 1.0),
    "gain-per-parameter": ("params", 1.0),
    "gain-per-millisecond": ("milliseconds", 1e-3),
}


@dataclass(frozen=True)
class Policy:
    """When, where and how much a network grows.

    Args:
        when: ``"interval"`` (every ``grow_every`` of the run), ``"plateau"`` (the training loss has stopped falling),
            or ``"never"``.
        where: how candidates are ranked: by gain per cost, in turn over the sites (AutoGrow), or at random.
        grow_every: interval: share of the run between two events.
        grow_from: no event before this share of the run.
        grow_until: no event after this share of the run.
        patience: plateau: evaluations without a better training loss.
        share: share of the whole room between seedling and budget that one event may spend.
    """

    when: When = "interval"
    where: Where = "gain-per-mac"
    grow_every: float = 0.05
    grow_from: float = 0.05
    grow_until: float = 0.4
    patience: int = 3
    share: float = 0.2


@dataclass
class PolicyState:
    """What a policy has to remember between two looks.

    Args:
        next_at: interval: share of the run at which the next event is due.
        best_loss: plateau: best training loss so far, in nats.
        stale: plateau: evaluations since then.
        last_site: round robin: the site that had its turn last.
    """

    next_at: float | None = None
    best_loss: float | None = None
    stale: int = 0
    last_site: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """What growth may not exceed; None is no limit.

    Args:
        params: parameters of the network.
        macs: multiply-accumulates per image.
        milliseconds: latency, in the units of the latency table.
    """

    params: float | None = None
    macs: float | None = None
    milliseconds: float | None = None

    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by unit."""
        return {unit: limit for unit, limit in asdict(self).items() if limit is not None}

    def check(self, costs: Mapping[str, float]) -> None:
        """Raise unless a seedling of these costs leaves room to grow.

        Raises:
            GhostkitError: if a limit is not above the seedling.
        """
        for unit, limit in self.limits().items():
            if costs[unit] >= limit:
                raise GhostkitError(
                    f"the budget of {limit:,.6g} {unit} is not above the seedling, which has {costs[unit]:,.6g}; raise "
                    f"budget_{unit}, start from a smaller model, or set when='never'"
                )

    def room(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Return what is left of each limit at these costs."""
        return {unit: limit - costs[unit] for unit, limit in self.limits().items()}


def observe_loss(state: PolicyState, loss: float) -> None:
    """Let a plateau policy see the training loss of one evaluation, in nats."""
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.stale = loss, 0
    else:
        state.stale += 1


def due(policy: Policy, state: PolicyState, progress: float) -> bool:
    """Return whether a growth event is due at ``progress`` (share of the run), and remember that it was."""
    if policy.when == "never" or not policy.grow_from <= progress <= policy.grow_until:
        return False
    if policy.when == "plateau":
        if state.stale < policy.patience:
            return False
        state.stale = 0
        return True
    if state.next_at is None:
        state.next_at = policy.grow_from
    if progress < state.next_at - ROUNDING:
        return False
    while state.next_at - ROUNDING <= progress:
        state.next_at += policy.grow_every
    return True


@dataclass(frozen=True)
class Choice:
    """The rows of the candidates' frame to grow, in order, and why these, or why none."""

    rows: tuple[int, ...]
    reason: str


def choose(
    frame: pd.DataFrame,
    policy: Policy,
    state: PolicyState,
    room: Mapping[str, float],
    allowance: Mapping[str, float],
    generator: torch.Generator,
) -> Choice:
    """Return which candidates one event takes.

    At most one edit a site: the second one's gain would no longer be what was predicted. The first edit may exceed the
    event's allowance, so that a small share never stops growth, but nothing ever exceeds the budget.

    Args:
        frame: the candidates.
        policy: how to rank them.
        state: remembers whose turn it is.
        room: what is left of the budget, by unit.
        allowance: what this event may spend, by unit.
        generator: where random placement draws from.
    """
    by_gain = policy.where in COST_OF
    chosen: list[int] = []
    touched: set[str] = set()
    spent = dict.fromkeys(room, 0.0)
    hopeful = 0
    for row in ranking(frame, policy, state, generator):
        site, gain = frame["site"].iloc[row], float(frame["gain"].iloc[row])
        if site in touched or (by_gain and not gain > 0):  # nor where it is not a number
            continue
        hopeful += 1
        after = {unit: spent[unit] + float(frame[unit].iloc[row]) for unit in spent}
        if any(after[unit] > room[unit] for unit in after):
            continue
        if chosen and any(after[unit] > allowance[unit] for unit in after):
            continue
        chosen.append(row)
        touched.add(site)
        spent = after
        state.last_site = site
        if policy.where == "round-robin":
            break
    if chosen:
        return Choice(tuple(chosen), f"{policy.when}, by {policy.where}")
    if not hopeful:
        return Choice((), "no growth: no candidate's gain stands above the noise of the probe batch")
    return Choice((), "no growth: no candidate fits into what is left of the budget")


def ranking(frame: pd.DataFrame, policy: Policy, state: PolicyState, generator: torch.Generator) -> list[int]:
    """Return the rows of ``frame`` in the order in which ``policy`` would take them."""
    if policy.where in COST_OF:
        unit, least = COST_OF[policy.where]
        value = frame["gain"] / frame[unit].clip(lower=least)
        return [int(row) for row in (-value).to_numpy().argsort(kind="stable")]
    if policy.where == "random":
        return torch.randperm(len(frame), generator=generator).tolist()
    # Round robin: the sites in a fixed order, behind the one that had its turn last; at a site, the best candidate.
    order = sorted(set(frame["site"]))
    if state.last_site is not None:
        later = [site for site in order if site > state.last_site]
        order = later + [site for site in order if site <= state.last_site]
    return [row for site in order for row in range(len(frame)) if frame["site"].iloc[row] == site]
