"""What growth is for: it goes where something is missing, stops where nothing is, and heeds device and budget."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostkit
from ghostkit import Run, RunConfig, Trainer
from ghostkit import engine as engine_module
from ghostkit import trainer as trainer_module
from ghostkit.costs import LatencyTable, layer_costs
from ghostkit.engine import Engine
from ghostkit.growth import AddBranch, grow, history_of
from ghostkit.growth.policy import Budget, Policy

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
STAGES = [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]]


@dataclass
class Crafted(LatencyTable):
    """A device that was never measured.

    Args:
        slow: text in the names of the families that are slow.
        overhead: milliseconds that every layer of a slow family takes.
        slope: milliseconds that every MAC of a slow family takes.
    """

    slow: str = "nothing"
    overhead: float = 0.0
    slope: float = 0.0

    def measure(self, family: str, *_: Any, **__: Any) -> None:
        """Take the family's line from its name."""
        self.lines[family] = (self.overhead, self.slope) if self.slow in family else (1e-3, 1e-8)


def engine_of(model: nn.Module, loss: Loss, probe: tuple[Tensor, Tensor], seed: int = 0, **arguments: Any) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    settings = {"kinds": ("branch", "intrinsic"), "kernel_sizes": (3, 5), "how": "svd"}
    defaults = {"policy": Policy(), "budget": Budget(), "settings": settings, "latency": Crafted()}
    generator = torch.Generator().manual_seed(seed)
    return Engine(model, optimizer, loss, probe, **{**defaults, **arguments}, generator=generator)


def train(engine: Engine, steps: int, batch: int = 128) -> None:
    for _ in range(steps):
        chosen = torch.randperm(len(engine.probe[0]))[:batch]
        engine.optimizer.zero_grad()
        engine.loss(engine.model, *(part[chosen] for part in engine.probe)).backward()
        engine.optimizer.step()


# Where something is missing


def robbed(stage: int, seed: int, count: int = 256, side: int = 8) -> tuple[nn.Module, Loss, tuple[Tensor, Tensor]]:
    """A seedling that lacks two branches in one of its stages, and what it would answer if it had them.

    All else in it is right already, so that stage is the bottleneck; but for what it lacks, both stages are alike.
    """
    torch.manual_seed(seed)
    model = ghostkit.build("seedling", num_classes=4, in_channels=1, stages=STAGES, neck_channels=16)
    images = torch.randn(count, 1, side, side)
    whole = copy.deepcopy(model)
    grow(whole, [AddBranch(f"blocks.{stage}.0.ghost1", side) for side in (3, 5)], probe=images)
    consumer = whole.get_submodule(f"blocks.{stage}.0.ghost2").primary.weight
    with torch.no_grad():
        fresh = (consumer == 0).flatten(2).all(0).flatten()
        consumer[:, fresh] = 2 * consumer[:, ~fresh].std() * torch.randn(consumer[:, fresh].shape)
        answers = whole.train()(images)
        spread = float((answers - model.train()(images)).var())
    return model, lambda network, x, y: F.mse_loss(network(x), y) / spread, (images, answers)


def stages_grown(engine: Engine, events: int) -> list[int]:
    found = []
    for _ in range(events):
        found += [int(edit.site.split(".")[1]) for edit in engine.grow().edits]
        train(engine, steps=20)
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_the_engine_grows_the_stage_that_is_the_bottleneck_and_with_the_roles_changed_the_other(seed):
    for stage in (0, 1):
        model, loss, probe = robbed(stage, seed)
        # One edit an event; and by parameters, since these cost the same in both stages.
        engine = engine_of(model, loss, probe, seed, policy=Policy(where="gain-per-parameter", share=0.001))
        engine.budget = Budget(params=3 * engine.params)
        grown = stages_grown(engine, events=3)
        assert len(grown) == 3
        assert grown[0] == stage
        assert grown.count(stage) >= 2


# Where nothing is


def bright(count: int = 128) -> tuple[Tensor, Tensor]:
    """Two classes that anyone can tell apart: bright and dark."""
    labels = torch.arange(count) % 2
    return 0.3 * torch.randn(count, 1, 12, 12) + (2.0 * labels - 1)[:, None, None, None], labels


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


@cache
def fitted() -> tuple[Engine, Engine]:
    """A seedling before and after it was trained to next to no loss."""
    torch.manual_seed(0)
    model = ghostkit.build("seedling", num_classes=2, in_channels=1)
    engine = engine_of(model, cross_entropy, bright())
    engine.optimizer.param_groups[0]["lr"] = 0.1
    before = copy.deepcopy(engine)
    train(engine, steps=100)
    return before, engine


@pytest.mark.parametrize("where", ["gain-per-mac", "random", "sprout"])
def test_a_seedling_that_fits_its_data_does_not_grow_and_the_reason_is_said(where):
    early, engine = (copy.deepcopy(one) for one in fitted())
    early.policy = engine.policy = Policy(where=where, give_up=2)
    assert early.grow().edits  # as long as it does not fit, it grows
    assert engine._probe_loss() < 1e-3
    before, engine.spent = copy.deepcopy(engine.model.state_dict()), 0.0
    event = engine.grow()
    assert event.edits == event.candidates == ()
    assert event.reason.startswith("no growth: the network fits the probe batch already: its loss is ")
    assert 0 < event.loss_before < 1e-3
    assert all(torch.equal(before[name], tensor) for name, tensor in engine.model.state_dict().items())
    assert engine.spent == engine.macs * 128  # and nothing was scored in vain
    assert engine.grow().reason.endswith("growth is over: 2 looks in a row brought nothing")


# What the device says


def choice_of(
    where: str, budget: dict[str, float], latency: LatencyTable, share: float = 1.0, **settings: Any
) -> tuple[Engine, list[Any]]:
    model, loss, probe = robbed(0, 0, count=64, side=28)
    settings = {"kinds": ("branch", "intrinsic"), "kernel_sizes": (3, 5), "how": "svd", **settings}
    engine = engine_of(model, loss, probe, policy=Policy(where=where, share=share), latency=latency, settings=settings)
    costs = engine.costs()
    engine.budget = Budget(**{unit: costs[unit] + room * costs[unit] for unit, room in budget.items()})
    event = engine.grow()
    assert event.edits
    for unit, limit in engine.budget.limits().items():
        assert engine.costs()[unit] <= limit
    measured = latency.total(layer_costs(model, probe[0][:1]).values())
    assert event.clock["milliseconds_after"] == engine.costs()["milliseconds"] == pytest.approx(measured)
    return engine, list(event.edits)


def test_a_latency_budget_grows_elsewhere_than_a_budget_of_macs_where_the_device_says_so():
    # The first stage is made of maps of 28 x 28 and hands on 14 x 14; the second, of 14 x 14, hands on 7 x 7.
    grown = {"macs": choice_of("gain-per-mac", {"macs": 0.15}, Crafted())[1]}
    for slow in ("28x28", "7x7"):
        latency = Crafted(slow=slow, overhead=1.0, slope=1e-2)
        grown[slow] = choice_of("gain-per-millisecond", {"milliseconds": 0.02}, latency)[1]
    found = {name: {edit.site for edit in edits} for name, edits in grown.items()}
    assert found["macs"] == {"blocks.1.0.ghost1"}  # maps are small there, so a MAC buys more
    assert found["7x7"] == {"blocks.0.0.ghost1"}  # but if small maps are what takes long, it grows where they are large
    assert found["28x28"] == {"blocks.1.0.ghost1"}


def test_where_every_layer_takes_its_time_layers_are_widened_and_none_is_added():
    only_fives = {"kernel_sizes": (5,)}
    counted = choice_of("gain-per-mac", {"macs": 1.0}, Crafted(), **only_fives)[1]
    dear = Crafted(slow="cheap 5x5", overhead=1.0)  # to start one costs as much as a thousand others
    timed = choice_of("gain-per-millisecond", {"milliseconds": 1.0}, dear, **only_fives)[1]
    assert "branch" in {edit.kind for edit in counted}
    assert {edit.kind for edit in timed} == {"intrinsic"}


def test_the_same_gains_are_ranked_by_what_the_device_takes():
    latency, room = Crafted(slow="7x7", overhead=1.0, slope=1e-2), {"macs": 9.0, "milliseconds": 9.0}
    (by_macs, first), (by_clock, second) = (  # room for everything, and one edit an event
        choice_of(where, room, copy.deepcopy(latency), share=1e-6) for where in ("gain-per-mac", "gain-per-millisecond")
    )
    gains = [
        {row["edit"]: row["gain"] for row in history_of(engine.model).events[0].candidates}
        for engine in (by_macs, by_clock)
    ]
    assert gains[0] == gains[1]
    assert [edit.site for edit in first] == ["blocks.1.0.ghost1"]
    assert [edit.site for edit in second] == ["blocks.0.0.ghost1"]


# Whole runs


@pytest.fixture
def latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a layer's latency for what its name says: no test here waits for a clock, or depends on one."""

    def measure(table: Any, family: str, *_: Any) -> None:
        table.lines.setdefault(family, (crc32(family.encode()) % 7 / 100, 1e-5))

    monkeypatch.setattr(engine_module.LatencyTable, "measure", measure)
    monkeypatch.setattr(trainer_module, "latency", lambda *_: 1.0)


def config(**changes: Any) -> RunConfig:
    tiny: dict[str, Any] = {
        "model_options": {"stages": STAGES, "dropout": 0.2},
        "train_samples": 256,
        "test_samples": 50,
        "epochs": 2,
        "probe_samples": 32,
        "evaluate_every": 1.0,
        "kinds": ("branch", "intrinsic", "block"),
        "device": "cpu",
    }
    return RunConfig(**{**tiny, **changes})


GROWING = {"grow_from": 0.25, "grow_every": 0.25, "grow_until": 1.0, "share": 0.6, "kernel_sizes": (5,)}


@pytest.mark.parametrize(
    ("unit", "where"),
    [("params", "gain-per-parameter"), ("macs", "random"), ("milliseconds", "random")],
)
def test_growth_never_exceeds_its_budget(unit, where, tmp_path, latencies):
    seedling = Trainer(config()).engine.seedling
    assert seedling is not None
    limit = 1.8 * seedling[unit]
    budget = {f"budget_{unit}": limit if unit == "milliseconds" else int(limit)}
    trainer = Trainer(config(**GROWING, **budget, where=where, how="random"), tmp_path)
    trainer.train()
    events = Run(tmp_path).events
    assert len(events) == 4
    assert (events[f"{unit}_after"] <= limit).all()
    assert events[f"{unit}_after"].iloc[-1] > 1.3 * seedling[unit]
    count = ghostkit.cost(trainer.model, torch.zeros(1, 1, 8, 8), measure=False)
    actual = {"params": count.params, "macs": count.macs, "milliseconds": trainer.engine.costs()["milliseconds"]}
    assert actual[unit] <= limit


def test_the_budget_is_a_multiple_of_the_seedling_where_none_is_given(latencies):
    trainer = Trainer(config(**GROWING, budget_factor=1.5, how="random"))
    limit = 1.5 * trainer.engine.macs
    assert trainer.engine.budget.limits() == {"macs": limit}
    trainer.train()
    macs = ghostkit.cost(trainer.model, torch.zeros(1, 1, 8, 8), measure=False).macs
    assert 1.2 * limit / 1.5 < macs <= limit


def test_a_run_learns_and_growth_does_not_disturb_it(tmp_path, latencies):
    changes = {"train_samples": 512, "epochs": 6, "optimizer": "adamw", "learning_rate": 0.02, "evaluate_every": 0.25}
    growing = {"grow_from": 0.25, "grow_every": 0.5, "grow_until": 0.75}
    run = ghostkit.train(config(**changes, **growing), tmp_path)
    train_loss = run.metrics.query("split == 'train'")["loss"]
    assert train_loss.iloc[-1] < 0.7 * train_loss.iloc[0]
    assert run.result["accuracy"] > 0.3  # of ten classes
    assert run.result["growth_events"] == 2
    assert (run.events["loss_before"] - run.events["loss_after"]).abs().max() < 1e-4
