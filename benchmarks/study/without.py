"""What growing goes without in the ablations that no configuration names, since nobody should want them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from ghostkit import Run, RunConfig, Trainer, train
from ghostkit.events import Grown

__all__ = ["WITHOUT"]


def state_carry(config: RunConfig, folder: str | Path) -> Run:
    """Train with an optimizer that forgets its momentum at each event, as one made anew would."""
    trainer = Trainer(config, folder)
    for event in trainer:
        if isinstance(event, Grown) and event.event.edits:
            trainer.optimizer.state.clear()
    return Run(folder)


def bn_measurement(config: RunConfig, folder: str | Path) -> Run:
    """Train with fresh BN channels that start at mean 0 and variance 1, whatever passes through them."""
    growing = import_module("ghostkit.growth.grow")  # the module; the package's `grow` is the function
    with patch.object(growing, "measure_fresh_statistics"):
        return train(config, folder)


WITHOUT: dict[str, Callable[[RunConfig, str | Path], Run]] = {
    "no state carry": state_carry,
    "no BN measurement": bn_measurement,
}
