"""The policy: when to grow, where, how much, and when to stop. All of it is plain data, so a run can store it.

Nothing here touches a network. The functions look at numbers (progress, losses, a frame of candidates, what is left of
the budget) and say what to do; whoever trains does it. Each part is small and named after its source, so that the
methods of the literature can be put together and set against each other:

====================  ==========================================================================================
when                  ``interval``; ``plateau`` (AutoGrow, 1906.02909); ``gain-ratio`` (self-expanding networks,
                      2307.04526); ``never``, for growth by hand
where                 ``gain-per-mac``, ``-per-parameter``, ``-per-millisecond``; ``round-robin`` (AutoGrow);
                      ``random``; ``activation-rank`` (NORTH, 2202.08539); ``sprout``: grow too much, train it for a
                      window, and keep what earned its cost
how                   ``svd`` (TINY), ``gradmax`` (2201.05125), ``random``, ``split`` (Net2Net, 1511.05641), ``clone``
                      (FRAGrow): arguments of :func:`ghostkit.candidates`
how much              ``share`` of the budget's room for one event; several edits are chosen jointly; on demand no more
                      than a limited compute can train (:meth:`Budget.trainable`, after 2203.15556)
====================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ghostkit.costs import TRAINING_PASS
from ghostkit.errors import GhostkitError
from ghostkit.growth.together import marginal_shares

__all__ = ["Budget", "Choice", "Policy", "PolicyState", "choose", "due", "observe_event", "observe_loss", "side_share"]

When = Literal["interval", "plateau", "gain-ratio", "never"]
Where = Literal[
    "gain-per-mac",
    "gain-per-parameter",
    "gain-per-millisecond",
    "round-robin",
    "random",
    "activation-rank",
    "sprout",
]

# Shares of a run are summed up event by event; what is due at 0.15 must not wait for 0.15000000000000002.
ROUNDING = 1e-9

# The unit that each ranking divides the gain by, and the least cost it assumes: an edit may be free by a clock's noise.
COST_OF: dict[str, tuple[str, float]] = {
    "gain-per-mac": ("macs", 1.0),
    "gain-per-parameter": ("params", 1.0),
    "gain-per-millisecond": ("milliseconds", 1e-3),
    "sprout": ("macs", 1.0),
}
SPROUTS = 3.0  # how many times the event's allowance is grown at first, when the best are to be kept


@dataclass(frozen=True)
class Policy:
    """When, where and how much a network grows.

    Args:
        when: ``"interval"`` (every ``grow_every`` of the run), ``"plateau"`` (the training loss has stopped falling),
            ``"gain-ratio"`` (looked at every ``grow_every``: the best candidate's gain per new number exceeds ``ratio``
            times what the weights there have left to gain), or ``"never"``.
        where: how candidates are ranked: by gain per cost, in turn over the sites, at random, by how much of its
            channels a site uses, or by what they earn after sprouting.
        grow_every: interval, gain-ratio: share of the run between two looks.
        grow_from: no event before this share of the run.
        grow_until: no event after this share of the run.
        patience: plateau: evaluations without a better training loss.
        ratio: gain-ratio: the threshold.
        share: share of the whole room between seedling and budget that one event may spend.
        together: whether the channels of a unit, a stream and the hidden maps of the blocks that write into it, grow in
            one step, as one candidate.
        window: share of the run for which sprouts are trained, or an event is watched.
        roll_back: take an event back if the probe's loss, a window later, is higher than before it by more than this
            many nats; None never does.
        give_up: growth is over after this many looks in a row that brought nothing; None never gives up.
        images_per_parameter: where the compute is limited, training images that growth leaves for each parameter,
            about (:meth:`Budget.trainable`); None does not look.
        resolution: side of the training images at first, as a share of their full side.
        resolution_until: share of the run from which the images have their full side.
    """

    when: When = "interval"
    where: Where = "gain-per-mac"
    grow_every: float = 0.01
    grow_from: float = 0.01
    grow_until: float = 0.12
    patience: int = 3
    ratio: float = 1.0
    share: float = 0.2
    together: bool = True
    window: float = 0.02
    roll_back: float | None = None
    give_up: int | None = 4
    images_per_parameter: float | None = None
    resolution: float = 1.0
    resolution_until: float = 0.0

    @property
    def extras(self) -> tuple[str, ...]:
        """The further columns that the policy needs of the candidates."""
        ratio = ("gain_ratio",) if self.when == "gain-ratio" else ()
        return (*ratio, "saturation") if self.where == "activation-rank" else ratio


@dataclass
class PolicyState:
    """What a policy has to remember between two looks.

    Args:
        next_at: interval: share of the run at which the next event is due.
        best_loss: plateau: best training loss so far, in nats.
        stale: plateau: evaluations since then.
        last_site: round robin: the site that had its turn last.
        last_loss: the probe's loss at the last event that grew something, in nats.
        idle: looks in a row that brought nothing.
        settle_at: share of the run at which the last event is to be settled: sprouts kept or removed, or the event
            rolled back if it hurt.
        settling: number, from 1, of that event.
        resolution: side of the training images, in pixels, that the history knows of.
    """

    next_at: float | None = None
    best_loss: float | None = None
    stale: int = 0
    last_site: str | None = None
    last_loss: float | None = None
    idle: int = 0
    settle_at: float | None = None
    settling: int | None = None
    resolution: int | None = None

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
                    f"budget_{unit} (budget_factor, where no budget was set), start from a smaller model, or set "
                    "when='never'"
                )

    def trainable(self, costs: Mapping[str, float], compute: float | None, images_each: float | None) -> Budget:
        """Return this budget with no more MACs than ``compute`` can train.

        Of a compute C, a network of M MACs is trained on C / 3M images. Parameters are taken to grow as the MACs do
        (where they grow faster, some fewer images are left for each; a fifth fewer at the most that was seen), so
        that M² = (C / 3) (MACs now / parameters now) / ``images_each``: size and images each go with the root of the
        compute, as in Hoffmann et al. (2203.15556).

        Args:
            costs: of the network now.
            compute: training MACs that the run has left; None where they are not limited.
            images_each: training images for each parameter; None does not look.
        """
        if compute is None or images_each is None:
            return self
        macs = (compute / TRAINING_PASS * costs["macs"] / costs["params"] / images_each) ** 0.5
        return replace(self, macs=macs if self.macs is None else min(self.macs, macs))

    def room(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Return what is left of each limit at these costs."""
        return {unit: limit - costs[unit] for unit, limit in self.limits().items()}


def side_share(policy: Policy, progress: float) -> float:
    """Return the side of the training images at ``progress``, as a share of their full side."""
    return policy.resolution if progress < policy.resolution_until - ROUNDING else 1.0


def observe_loss(state: PolicyState, loss: float) -> None:
    """Let a plateau policy see the training loss of one evaluation, in nats."""
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.stale = loss, 0
    else:
        state.stale += 1


def observe_event(policy: Policy, state: PolicyState, grew: bool, loss: float | None) -> str:
    """Let the policy see what came of a look, and return what there is to say if growth is over.

    Args:
        policy: says when to give up.
        state: counts the looks that brought nothing: none grown, or no lower loss since the event before.
        grew: whether something grew now.
        loss: the probe's loss right before, in nats; None if it could not be measured.
    """
    brought = state.last_loss is None or (loss is not None and loss < state.last_loss)
    state.idle = 0 if grew and brought else state.idle + 1
    if grew:
        state.last_loss = loss
    return f"; growth is over: {state.idle} looks in a row brought nothing" if gave_up(policy, state) else ""


def gave_up(policy: Policy, state: PolicyState) -> bool:
    """Return whether growth is over because it no longer pays."""
    return policy.give_up is not None and state.idle >= policy.give_up


def due(policy: Policy, state: PolicyState, progress: float) -> bool:
    """Return whether a growth event is due at ``progress`` (share of the run), and remember that it was."""
    if policy.when == "never" or not policy.grow_from <= progress <= policy.grow_until:
        return False
    if state.settle_at is not None or gave_up(policy, state):  # one thing after the other
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


def due_to_settle(state: PolicyState, progress: float) -> bool:
    """Return whether the last event is to be settled at ``progress``."""
    return state.settle_at is not None and (progress >= state.settle_at - ROUNDING or progress >= 1)


def exceeded(room: Mapping[str, float]) -> str:
    """Return why nothing can grow where a limit of the budget is exceeded already, and nothing where none is."""
    over = [f"{-left:,.6g} {unit}" for unit, left in room.items() if left < 0]
    return f"no growth: the network exceeds its budget by {' and '.join(over)}" if over else ""


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

    At most one edit a site, or one growth of a unit: the second one's gain would no longer be what was predicted. Where
    candidates are ranked by gain, each further one counts for what it would add to those chosen before. The first edit
    may exceed the event's allowance, so that a small share never stops growth, but nothing ever exceeds the budget.

    Args:
        frame: the candidates.
        policy: how to rank them.
        state: remembers whose turn it is.
        room: what is left of the budget, by unit.
        allowance: what this event may spend, by unit.
        generator: where random placement draws from.
    """
    if frame.empty:
        left = "that could be added fits into what is left of the budget" if room else "can be added any more"
        return Choice((), f"no growth: nothing {left}")
    if policy.when == "gain-ratio" and (best := float(frame["gain_ratio"].max())) <= policy.ratio:
        return Choice((), f"no growth: the best candidate's gain ratio is {best:.3g}, not above {policy.ratio:g}")
    by_gain = policy.where in COST_OF
    responses = np.asarray(frame.attrs["responses"]) if "responses" in frame.attrs else None
    frame = frame.copy(deep=False)
    frame.attrs = {}  # pandas copies them, all responses, at every look into the frame
    pools = pooled(frame) if policy.together and "unit" in frame else [[row] for row in range(len(frame))]
    sites = [set(frame["site"].iloc[rows]) for rows in pools]
    frame = joined(frame, pools)
    responses = responses if responses is None else np.stack([responses[rows].sum(0) for rows in pools])
    if policy.where == "sprout":
        allowance = {unit: SPROUTS * size for unit, size in allowance.items()}
    chosen: list[int] = []
    touched: set[str] = set()
    spent = dict.fromkeys(room, 0.0)
    hopeful = 0
    waiting = ranking(frame, policy, state, generator)
    while waiting:
        row = waiting.pop(0)
        gain = float(frame["gain"].iloc[row])
        if sites[row] & touched or (by_gain and not gain > 0):  # nor where it is not a number
            continue
        hopeful += 1
        after = {unit: spent[unit] + float(frame[unit].iloc[row]) for unit in spent}
        if any(after[unit] > room[unit] for unit in after):
            continue
        if chosen and any(after[unit] > allowance[unit] for unit in after):
            if policy.where == "round-robin":  # whoever's turn it is keeps it
                break
            continue
        chosen.append(row)
        touched |= sites[row]
        spent = after
        state.last_site = frame["site"].iloc[row]
        if by_gain:  # what is left is worth what it would add to those chosen
            order = ranking(frame, policy, state, generator, chosen, responses)
            waiting = [left for left in order if left in set(waiting)]
    if chosen:
        rows = tuple(row for pool in chosen for row in pools[pool])
        return Choice(rows, f"{policy.when}, by {policy.where}")
    if not hopeful:
        return Choice((), "no growth: no candidate's gain stands above the noise of the probe batch")
    return Choice((), "no growth: no candidate fits into what is left of the budget")


def pooled(frame: pd.DataFrame) -> list[list[int]]:
    """Return the rows of ``frame`` that are chosen together: of a unit the best of each site, all others alone."""
    pools: dict[Any, list[int]] = {}
    for row, (site, unit) in enumerate(zip(frame["site"], frame["unit"], strict=True)):
        rows = pools.setdefault(unit or row, [])
        if site not in set(frame["site"].iloc[rows]):
            rows.append(row)
    return list(pools.values())


def joined(frame: pd.DataFrame, pools: list[list[int]]) -> pd.DataFrame:
    """Return one row for each of ``pools``: what its rows bring and cost together, at the place of their unit."""
    sites, units = frame["site"], frame.get("unit", frame["site"])
    together = {"site": [(sites if len(rows) == 1 else units).iloc[rows[0]] for rows in pools]}
    for name in frame.columns.intersection(["gain", "macs", "params", "milliseconds", "saturation"]):
        values, join = frame[name].to_numpy(), np.max if name == "saturation" else np.sum
        together[name] = [join(values[rows]) for rows in pools]
    return pd.DataFrame(together)


def ranking(
    frame: pd.DataFrame,
    policy: Policy,
    state: PolicyState,
    generator: torch.Generator,
    chosen: list[int] | None = None,
    responses: np.ndarray | None = None,
) -> list[int]:
    """Return the rows of ``frame`` in the order in which ``policy`` would take them, beside those ``chosen``."""
    if policy.where in COST_OF:
        unit, least = COST_OF[policy.where]
        gain = frame["gain"].to_numpy()
        if chosen and responses is not None:
            gain = gain * marginal_shares(responses, chosen)
        value = gain / frame[unit].clip(lower=least).to_numpy()
        return [int(row) for row in (-value).argsort(kind="stable")]
    if policy.where == "random":
        return torch.randperm(len(frame), generator=generator).tolist()
    if policy.where == "activation-rank":  # the fullest site first; at a site, the best candidate
        return list(frame.sort_values(["saturation", "gain"], ascending=False, kind="stable").index)
    # Round robin: the sites in a fixed order, behind the one that had its turn last; at a site, the best candidate.
    order = sorted(set(frame["site"]))
    if state.last_site is not None:
        later = [site for site in order if site > state.last_site]
        order = later + [site for site in order if site <= state.last_site]
    return [row for site in order for row in range(len(frame)) if frame["site"].iloc[row] == site]
