"""What the tests of whole runs share: runs that no clock disturbs, and what is compared of them bit for bit."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

from ghostkit import RunConfig, Trainer
from ghostkit import engine as engine_module
from ghostkit import trainer as trainer_module

# Eight steps of 64 images; evaluated after every second one; grown after the second and the sixth.
TINY: dict[str, Any] = {
    "model_options": {"stages": [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]], "dropout": 0.2},
    "train_samples": 256,
    "test_samples": 50,
    "epochs": 2,
    "batch_size": 64,
    "anneal_from": 0.5,
    "grow_from": 0.25,
    "grow_every": 0.5,
    "grow_until": 0.75,
    "share": 0.1,
    "budget_factor": 4,
    "probe_samples": 32,
    "evaluate_every": 0.25,
    "kinds": ("branch", "intrinsic", "block"),
    "device": "cpu",
}
EVERY_KIND = ("branch", "intrinsic", "stage", "block", "layer", "link")
CLOCK = {"seconds", "clock", "milliseconds"}


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{**TINY, **changes})


def by_name(table: Any, family: str, *_: Any) -> None:
    """Take a layer's latency for what its name says, in the place of ``LatencyTable.measure``."""
    table.lines.setdefault(family, (crc32(family.encode()) % 7 / 100, 1e-5))


@pytest.fixture
def latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here waits for a clock, or depends on one."""
    monkeypatch.setattr(engine_module.LatencyTable, "measure", by_name)
    monkeypatch.setattr(trainer_module, "latency", lambda *_: 1.0)


def timeless(value: Any) -> Any:
    """What a file says, without what a clock said."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in CLOCK}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    names: dict[Any, str] = {parameter: name for name, parameter in trainer.model.named_parameters()}
    found = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    for parameter, state in trainer.optimizer.state.items():
        found |= {f"{names[parameter]} {key}": value.clone() for key, value in state.items()}
    if trainer.average is not None:
        found |= {f"average {name}": tensor.clone() for name, tensor in trainer.average.state_dict().items()}
    if trainer.engine.rates is not None:
        found |= {f"born {name}": tensor.clone() for name, tensor in trainer.engine.rates.born.items()}
    return found


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    names = first.keys() | second.keys()
    return sorted(
        name for name in names if not (name in first and name in second and torch.equal(first[name], second[name]))
    )
