"""The growth engine of a run: looks at the network through its probe batch, decides by its policy, and grows it.

It is what a trainer asks once a step and what a person asks by hand. It knows neither data sets nor files. Some events
are only decided a window later: sprouts are trained before the best of them are kept, and an event that is watched is
rolled back if it hurt. :meth:`Engine.settle` does both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import LatencyTable, evaluating, layer_costs, macs, params
from ghostkit.errors import FrozenError, ProbeError
from ghostkit.growth.blocks import copied
from ghostkit.growth.candidates import candidates
from ghostkit.growth.edits import ORDER, Edit
from ghostkit.growth.grow import apply_edits, note_event
from ghostkit.growth.history import GrowthEvent, history_of
from ghostkit.growth.policy import COST_OF, Budget, Choice, Policy, PolicyState, choose, exceeded, observe_event
from ghostkit.growth.rates import NewcomerRates
from ghostkit.growth.undo import inverse_of, numbered
from ghostkit.snapshot import Snapshot

__all__ = ["Engine"]

# Nats of loss over the whole probe batch below which there is nothing left to gain: an edit adds dozens of numbers, and
# each has to earn about one (Akaike's criterion). Gains do not show it, since they are free of the gradients' scale.
ENOUGH = 1.0


@dataclass(eq=False)
class Engine:
    """Grows one network as its policy and budget say.

    Args:
        model: the host.
        optimizer: kept in step.
        loss: ``loss(model, images, targets)`` -> mean loss.
        probe: images and targets that candidates are scored on, the same ones through the whole run.
        policy: when, where and how much.
        budget: what growth may not exceed.
        settings: further arguments of :func:`ghostkit.candidates`: kinds, kernel_sizes, how, score.
        generator: where growth draws from; its own, so that an event that adds nothing changes nothing.
        average: a moving average of the weights that is kept in step.
        rates: what new tensors learn at, where they do not learn like all others.
        state: what the policy remembers.
        latency: milliseconds by kind of layer.
        seedling: what the network cost before it grew; measured when None.
        snapshot: the network from before the event that is being watched.
        spent: MACs that scoring and measuring took since they were last collected.
        agree: what all processes take for a value that each of them has found.
        compute: training MACs of the whole run, where they are limited.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[nn.Module, Any, Any], Tensor]
    probe: tuple[Tensor, Tensor]
    policy: Policy
    budget: Budget
    settings: dict[str, Any]
    generator: torch.Generator
    average: nn.Module | None = None
    rates: NewcomerRates | None = None
    state: PolicyState = field(default_factory=PolicyState)
    latency: LatencyTable = field(default_factory=LatencyTable)
    seedling: dict[str, float] | None = None
    snapshot: Snapshot | None = None
    spent: float = 0.0
    agree: Callable[[Any], Any] = lambda value: value
    compute: float | None = None

    def __post_init__(self) -> None:
        self.params, self.macs = params(self.model), macs(self.model, self.probe[0])

    def costs(self) -> dict[str, float]:
        """Return what the network costs now, in the units of a budget, by the clock that all processes go by."""
        return self.agree({"params": self.params, "macs": self.macs, "milliseconds": self._milliseconds(self.model)})

    def _milliseconds(self, model: nn.Module) -> float:
        """Return the latency of the network, or of a copy, by the table."""
        image = self.probe[0][:1]
        return self.latency.total(layer_costs(model, image).values(), image.device)

    def candidates(self, room: Mapping[str, float] | None = None) -> pd.DataFrame:
        """Return what could be grown now, best first.

        Args:
            room: what is left of the budget, by unit; found here when None, for somebody who wants to see what does
                not fit, too.
        """
        frame = candidates(
            self.model,
            *self.probe,
            self.loss,
            latency=self.latency,
            generator=self.generator,
            extras=self.policy.extras,
            room=self.budget.room(self.costs()) if room is None else room,
            must_fit=room is not None,
            together=self.policy.together,
            **self.settings,
        )
        self.spent += frame.attrs["macs"]
        return frame

    def grow(self, progress: float = 0.0, **context: Any) -> GrowthEvent:
        """Score the candidates, choose among them, apply the choice, and note the event in the network's history.

        Args:
            progress: share of the run done.
            **context: further fields of the event: step, epoch, compute.
        """
        started = time.perf_counter()
        before = self.costs()
        if self.seedling is None:
            self.seedling = before
        frame, choice, loss = self._look(before, progress)
        rows = tuple(plain_rows(frame, choice.rows))
        edits = in_order(frame, choice.rows)
        edits, rows, choice, loss, self.state = self.agree((edits, rows, choice, loss, self.state))
        sprouting = self.policy.where == "sprout"
        if edits and (sprouting or self.policy.roll_back is not None):
            self.state.settle_at = min(progress + self.policy.window, 1.0)
            self.state.settling = 1 + len(history_of(self.model).events)
            self.snapshot = None if sprouting else Snapshot.of(self.model, self.optimizer, self.average)
        reason = choice.reason + observe_event(self.policy, self.state, bool(edits), loss)
        context |= {"progress": progress, "reason": reason, "candidates": rows, "loss_before": loss}
        return self._note(edits, before, started, **context)

    def _look(self, costs: Mapping[str, float], progress: float) -> tuple[pd.DataFrame, Choice, float | None]:
        """Return the candidates, those of them to grow, and the loss on the probe batch, None if it cannot tell.

        Where nothing could be grown, no candidate is scored: scoring is paid for.
        """
        loss, none = self._probe_loss(), pd.DataFrame({"edit": []})
        if loss * len(self.probe[0]) < ENOUGH:
            fits = f"the network fits the probe batch already: its loss is {loss:.2g} nats, too little to gain anything"
            return none, Choice((), f"no growth: {fits}"), loss
        budget = self._trainable(costs, progress)
        room, images_each = budget.room(costs), self.policy.images_per_parameter
        limited = "" if budget == self.budget else f" (at {images_each:g} training images for each parameter)"
        if over := exceeded(room):
            return none, Choice((), over + limited), loss if math.isfinite(loss) else None
        try:
            frame = self.candidates(room)
        except (FrozenError, ProbeError) as error:
            return none, Choice((), f"no growth: {error}"), None
        assert self.seedling is not None
        allowance = {unit: self.policy.share * size for unit, size in budget.room(self.seedling).items()}
        choice = choose(frame, self.policy, self.state, room, allowance, self.generator)
        if not choice.rows:
            return frame, Choice((), choice.reason + limited), loss
        return frame, self._affordable(frame, choice, budget), loss

    def _trainable(self, costs: Mapping[str, float], progress: float) -> Budget:
        """Return the budget, or the part of it that what is left of a limited compute can train."""
        left = None if self.compute is None else self.compute * (1 - progress)
        return self.budget.trainable(costs, left, self.policy.images_per_parameter)

    def _affordable(self, frame: pd.DataFrame, choice: Choice, budget: Budget) -> Choice:
        """Return ``choice`` without the last of its edits that together cost more than ``budget`` has left.

        Edits at both ends of one layer cost more together than apart: its weights are rows times columns.
        """
        rows, limits = list(choice.rows), budget.limits()
        while len(rows) > 1:
            grown = copied(self.model)
            apply_edits(grown, in_order(frame, rows), None, None, None, torch.Generator().manual_seed(0))
            cost = {"params": float(params(grown)), "macs": float(macs(grown, self.probe[0]))}
            if "milliseconds" in limits:
                cost["milliseconds"] = self._milliseconds(grown)
            if all(cost[unit] <= limit for unit, limit in limits.items()):
                break
            rows.pop()
        return replace(choice, rows=tuple(rows))

    def apply(self, edits: Sequence[Edit], **context: Any) -> GrowthEvent:
        """Apply ``edits``, as a person asked for by hand, and note the event; arguments as for :meth:`grow`.

        An event that is still being watched, or sprouts that are still being trained, stay as they are from now on.
        """
        event = self._note(edits, self.costs(), time.perf_counter(), loss_before=self._probe_loss(), **context)
        self.state.settle_at, self.snapshot = None, None
        return event

    def undo(self, event: int = -1, **context: Any) -> GrowthEvent:
        """Take an earlier event back and note that; arguments as for :func:`ghostkit.undo` and :meth:`grow`."""
        history = history_of(self.model)
        number = numbered(history, event)
        edits = inverse_of(history, number)
        return self.apply(edits, undoes=number, **{"reason": f"undo of event {number}", **context})

    def settle(self, **context: Any) -> GrowthEvent | None:
        """Keep or remove sprouts, or roll the last event back if it hurt; None if all stays as it is.

        Args:
            **context: fields of the event, as for :meth:`grow`.
        """
        self.state.settle_at = None
        if self.policy.where == "sprout":
            return self._thin_out(**context)
        snapshot, self.snapshot = self.snapshot, None
        number = int(self.state.settling or 0)
        last = history_of(self.model).events[number - 1]
        loss, limit = self.agree(self._probe_loss()), self.policy.roll_back
        if snapshot is None or limit is None or last.loss_before is None or loss <= last.loss_before + limit:
            return None
        started, before = time.perf_counter(), self.costs()
        reason = f"rolled back: the loss of the probe went from {last.loss_before:.4g} to {loss:.4g}"

        def restore() -> None:
            snapshot.restore(self.model, self.optimizer, self.average)

        edits = inverse_of(history_of(self.model), number)
        context |= {"undoes": number, "reason": reason, "loss_before": loss if math.isfinite(loss) else None}
        return self._note(edits, before, started, then=restore, loss_after=last.loss_before, **context)

    def note(self, reason: str, **context: Any) -> GrowthEvent:
        """Note in the history something that is no growth, and why; arguments as for :meth:`grow`."""
        return self._note((), self.costs(), time.perf_counter(), reason=reason, **context)

    def _thin_out(self, **context: Any) -> GrowthEvent | None:
        """Keep those sprouts of the last event that earned their cost, and remove the rest."""
        started, before = time.perf_counter(), self.costs()
        last = history_of(self.model).events[int(self.state.settling or 0) - 1]
        budget = self._trainable(before, float(context.get("progress", 0.0)))
        loss, unit = self._probe_loss(), next(iter(budget.limits()), COST_OF["sprout"][0])
        price = {row["edit"]: float(row[unit]) for row in last.candidates if row["chosen"]}
        earned = []
        for edit, inverse in zip(last.edits, reversed(last.inverse), strict=True):
            without = copied(self.model)
            apply_edits(without, [inverse], None, None, None, self.generator)
            earned.append((self._probe_loss(without) - loss, price[str(edit)], inverse))
        earned = self.agree(earned)
        assert self.seedling is not None
        allowance = self.policy.share * budget.room(self.seedling).get(unit, float("inf"))
        kept, paid, gone = 0, 0.0, []
        for brought, cost, inverse in sorted(earned, key=lambda one: -one[0] / max(one[1], 1e-9)):
            if brought > 0 and (not kept or paid + cost <= allowance):
                kept, paid = kept + 1, paid + cost
            else:
                gone.append(inverse)
        if not gone:
            return None
        reason = f"sprouts: {kept} of {len(earned)} earned their cost, the others are removed"
        return self._note(gone, before, started, loss_before=loss, **{**context, "reason": reason})

    def _note(
        self,
        edits: Sequence[Edit],
        before: dict[str, float],
        started: float,
        then: Callable[[], None] | None = None,
        **context: Any,
    ) -> GrowthEvent:
        """Apply ``edits``, and append the event with everything measured about it to the history.

        If any of it fails, memory that runs out while the loss is measured included, all is as it was before.

        Args:
            edits: may be none, where there is something to note all the same.
            before: what the network costs.
            started: when the event did, in seconds.
            then: is done last, when everything else has gone well.
            **context: fields of the event; what the loss is after ``then``, too.
        """
        if edits:
            measured: dict[str, float] = {}

            def finish() -> None:
                measured["loss"], measured["milliseconds"] = self._loss(), self._milliseconds(self.model)
                if then is not None:
                    then()

            following = nullcontext() if self.rates is None else self.rates.following(int(context.get("step", 0)))
            with following as follow:
                event = apply_edits(
                    *(self.model, edits, self.optimizer, self.probe[0], self.average, self.generator),
                    follow=follow,
                    then=finish,
                    **context,
                )
            if then is None:
                event = replace(event, loss_after=measured["loss"])
            self.params, self.macs = event.params_after, event.macs_after or self.macs
            # The measurements around an event are forward passes too: outputs before and after, BN, and the loss.
            self.spent += 4.0 * self.macs * len(self.probe[0])
            milliseconds = measured["milliseconds"]
        else:
            size = {"params_before": self.params, "params_after": self.params}
            event = GrowthEvent((), **{**size, "macs_before": self.macs, "macs_after": self.macs, **context})
            milliseconds = before["milliseconds"]
        clock = {
            "seconds": time.perf_counter() - started,
            "milliseconds_before": before["milliseconds"],
            "milliseconds_after": milliseconds,
        }
        event = replace(event, clock=clock)
        note_event(event, self.model, self.average)
        return event

    def _probe_loss(self, model: nn.Module | None = None) -> float:
        """Return the loss of the network, or of a copy, on the probe batch, in nats, and count what that takes."""
        self.spent += self.macs * len(self.probe[0])
        return self._loss(model)

    def _loss(self, model: nn.Module | None = None) -> float:
        model = self.model if model is None else model
        with evaluating(model):
            return float(self.loss(model, *self.probe))


def in_order(frame: pd.DataFrame, rows: Sequence[int]) -> list[Edit]:
    """Return the edits of these candidates in the order in which they fit beside each other."""
    edits = frame["edit"].tolist()  # once: pandas copies the frame's attrs at every look
    return sorted((edits[row] for row in rows), key=lambda edit: ORDER.index(type(edit)))


def plain_rows(frame: pd.DataFrame, chosen: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the candidates as plain rows, with those chosen marked."""
    for number, row in enumerate(frame.to_dict("records")):
        yield {**row, "edit": str(row["edit"]), "chosen": number in chosen}
