"""What new numbers learn at: a warm-up of their own, and a rate of their own, both as options.

Every parameter remembers for each of its entries the step at which growth added it. Around an optimizer step, what the
step did to the newer entries is scaled down. That works for every optimizer alike (scaling their gradients would not:
Adam divides it out again) and costs nothing while there is nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ghostkit.growth.channels import remapped
from ghostkit.growth.surgery import Surgery

__all__ = ["NewcomerRates"]

SEEDLING = -1.0  # the birthday of entries that were there from the start
LEAST_RATE = 0.1  # new columns start at zero, where a rate in proportion to their norm would keep them


@dataclass(eq=False)
class NewcomerRates:
    """Scales down what optimizer steps do to entries that growth has added.

    Args:
        model: the host.
        warm_up: steps over which the rate of new entries rises to that of all others.
        variance_transfer: let the entries added at one event learn at the rate of all others times their norm over that
            of the entries from the start, both per entry, and a tenth at least (Yuan et al., 2306.12700, section 3.2).
        born: name of a parameter -> step at which each of its entries came, -1 for those of the seedling.
    """

    model: nn.Module
    warm_up: int = 0
    variance_transfer: bool = False
    born: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.born:
            self.born = {name: born_at(SEEDLING, parameter) for name, parameter in self.model.named_parameters()}

    @contextmanager
    def following(self, step: int) -> Iterator[Callable[[Surgery], None]]:
        """Give what has to be told of each surgery of an event at ``step``; an event that fails is forgotten."""
        kept = dict(self.born)

        def follow(surgery: Surgery) -> None:
            for remap in surgery.remaps:
                if remap.tensor in self.born:
                    self.born[remap.tensor] = remapped(self.born[remap.tensor], remap.channels, remap.dim, float(step))
            for insert in surgery.inserts:
                for name, parameter in self.model.get_submodule(insert.target).named_parameters(insert.target):
                    self.born[name] = born_at(step, parameter)
            there = dict(self.model.named_parameters())
            self.born = {name: born for name, born in self.born.items() if name in there}

        try:
            yield follow
        except BaseException:
            self.born = kept
            raise

    @contextmanager
    def around_step(self, step: int) -> Iterator[None]:
        """Scale down what the optimizer does to new entries inside the block, at ``step``."""
        parameters = dict(self.model.named_parameters())
        scales = {}
        for name, born in self.born.items():
            if not bool((born > SEEDLING).any()):
                continue
            scale = self._scale(parameters[name].detach(), born, step)
            if scale is not None:
                scales[name] = scale
        before = {name: parameters[name].detach().clone() for name in scales}
        yield
        with torch.no_grad():
            for name, scale in scales.items():
                parameter = parameters[name]
                parameter.copy_(torch.lerp(before[name], parameter, scale))  # where the scale is 1, to the last bit

    def _scale(self, weight: Tensor, born: Tensor, step: int) -> Tensor | None:
        """Return the factor of each entry's step; None if it is 1 for all of them."""
        new = born > SEEDLING
        scale = torch.ones_like(weight)
        if self.warm_up:
            age = (step - born + 1) / (self.warm_up + 1)
            scale = torch.where(new, age.clamp(max=1.0).to(weight), scale)
        if self.variance_transfer and not bool(new.all()):
            first = weight[~new].square().mean().sqrt().clamp(min=1e-12)
            for event in born[new].unique():
                stage = born == event
                ratio = float(weight[stage].square().mean().sqrt() / first)
                scale = torch.where(stage, scale * min(max(ratio, LEAST_RATE), 1.0), scale)
        return None if bool((scale == 1).all()) else scale


def born_at(step: float, parameter: Tensor) -> Tensor:
    """Return the birthdays of a ``parameter`` that came as a whole at ``step``.

    Single precision tells steps apart up to 2^24, whatever the parameter's own, which may not from 256 on.
    """
    return torch.full_like(parameter.detach(), step, dtype=torch.float32)
