"""The growth engine of a run: looks at the network through its probe batch, decides by its policy, and grows it.

It is what a trainer asks once a step and what a person asks by hand. It knows neither data sets nor files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import LatencyTable, evaluating, layer_costs, macs, params
from ghostkit.growth.candidates import candidates
from ghostkit.growth.grow import apply_edits
from ghostkit.growth.history import GrowthEvent, history_of
from ghostkit.growth.policy import Budget, Policy, PolicyState, choose

__all__ = ["Engine"]


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
        settings: further arguments of :func:`ghostkit.candidates`: kinds, kernel_sizes, how.
        generator: where growth draws from; its own, so that an event that adds nothing changes nothing.
        state: what the policy remembers.
        latency: milliseconds by kind of layer.
        seedling: what the network cost before it grew; measured when None.
        spent: MACs that scoring and measuring took since they were last collected.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[nn.Module, Any, Any], Tensor]
    probe: tuple[Tensor, Tensor]
    policy: Policy
    budget: Budget
    settings: dict[str, Any]
    generator: torch.Generator
    state: PolicyState = field(default_factory=PolicyState)
    latency: LatencyTable = field(default_factory=LatencyTable)
    seedling: dict[str, float] | None = None
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.params, self.macs = params(self.model), macs(self.model, self.probe[0])

    def costs(self) -> dict[str, float]:
        """Return what the network costs now, in the units of a budget."""
        image = self.probe[0][:1]
        milliseconds = self.latency.total(layer_costs(self.model, image).values(), image.device)
        return {"params": self.params, "macs": self.macs, "milliseconds": milliseconds}

    def candidates(self) -> pd.DataFrame:
        """Return what could be grown now, best first."""
        frame = candidates(
            self.model, *self.probe, self.loss, latency=self.latency, generator=self.generator, **self.settings
        )
        self.spent += frame.attrs["macs"]
        return frame

    def grow(self, **context: Any) -> GrowthEvent:
        """Score the candidates, choose among them, apply the choice, and note the event in the network's history.

        Args:
            **context: further fields of the event: step, epoch, progress, compute.
        """
        before = self.costs()
        if self.seedling is None:
            self.seedling = before
        frame = self.candidates()
        allowance = {unit: self.policy.share * size for unit, size in self.budget.room(self.seedling).items()}
        choice = choose(frame, self.policy, self.state, self.budget.room(before), allowance, self.generator)
        context |= {"reason": choice.reason, "candidates": tuple(plain_rows(frame, choice.rows))}
        started = time.perf_counter()
        edits = [frame["edit"].iloc[row] for row in choice.rows]
        if edits:
            images = self.probe[0]
            loss_before = self._probe_loss()
            event = apply_edits(self.model, edits, self.optimizer, images, None, self.generator, **context)
            event = replace(event, loss_before=loss_before, loss_after=self._probe_loss())
            self.params, self.macs = event.params_after, event.macs_after or self.macs
            # The measurements around an event are forward passes too: outputs and loss, before and after, and BN.
            self.spent += 5.0 * self.macs * len(images)
        else:
            size = {"params_before": self.params, "params_after": self.params}
            event = GrowthEvent((), **{**size, "macs_before": self.macs, "macs_after": self.macs, **context})
        clock = {
            "seconds": time.perf_counter() - started,
            "milliseconds_before": before["milliseconds"],
            "milliseconds_after": self.costs()["milliseconds"],
        }
        event = replace(event, clock=clock)
        history_of(self.model).events.append(event)
        return event

    def _probe_loss(self) -> float:
        with evaluating(self.model):
            return float(self.loss(self.model, *self.probe))


def plain_rows(frame: pd.DataFrame, chosen: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the candidates as plain rows, with those chosen marked."""
    for number, row in enumerate(frame.to_dict("records")):
        yield {**row, "edit": str(row["edit"]), "chosen": number in chosen}
