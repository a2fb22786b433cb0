"""One growth event: scored, chosen within the budget, applied, measured, and noted; or nothing, and a reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ghostkit
from ghostkit import engine as engine_module
from ghostkit.engine import Engine
from ghostkit.growth import History, history_of
from ghostkit.growth.policy import Budget, Policy

STAGES = [[[3, 4, 8, 0, 2]], [[3, 6, 8, 0.5, 1]]]
SETTINGS = {"kinds": ("branch", "intrinsic", "block"), "kernel_sizes": (3, 5), "how": "svd"}


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


def make(seed: int = 0, **arguments: Any) -> Engine:
    """An engine around a network that was trained for a few steps."""
    torch.manual_seed(seed)
    model = ghostkit.build("seedling", num_classes=5, in_channels=1, stages=STAGES, dropout=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, targets = torch.randn(40, 1, 8, 8), torch.randint(5, (40,))
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model, images, targets).backward()
        optimizer.step()
    defaults = {
        "policy": Policy(share=0.5),
        "budget": Budget(),
        "settings": SETTINGS,
        "generator": torch.Generator().manual_seed(seed),
    }
    return Engine(model, optimizer, cross_entropy, (images, targets), **{**defaults, **arguments})


def counted(engine: Engine) -> tuple[int, int]:
    """Parameters and MACs, counted afresh."""
    model = copy.deepcopy(engine.model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(engine.probe[0][:1])
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def everything(engine: Engine) -> dict[str, Tensor]:
    """All tensors that training goes on from."""
    found = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    found |= {f"gradient {name}": p.grad.clone() for name, p in engine.model.named_parameters() if p.grad is not None}
    states = enumerate(engine.optimizer.state.values())
    found |= {f"state {number} {key}": value.clone() for number, state in states for key, value in state.items()}
    return found


def test_an_event_notes_what_was_scored_chosen_and_measured():
    engine = make()
    before = counted(engine)
    event = engine.grow(step=7, epoch=1.5, progress=0.25, compute=1e6)
    assert (event.params_before, event.macs_before) == before
    assert (event.params_after, event.macs_after) == counted(engine) == (engine.params, engine.macs)
    assert event.params_after > event.params_before
    assert (event.step, event.epoch, event.progress, event.compute) == (7, 1.5, 0.25, 1e6)
    assert event.reason == "interval, by gain-per-mac"
    assert sorted(row["edit"] for row in event.candidates if row["chosen"]) == sorted(map(str, event.edits))
    assert len(event.candidates) > len(event.edits) > 1
    assert sum(row["macs"] for row in event.candidates if row["chosen"]) == event.macs_after - event.macs_before
    assert sum(row["params"] for row in event.candidates if row["chosen"]) == event.params_after - event.params_before
    assert event.loss_after == pytest.approx(event.loss_before, rel=1e-4)
    assert 0 <= event.max_logit_change < 1e-3
    assert set(event.clock) == {"seconds", "milliseconds_before", "milliseconds_after"}
    assert history_of(engine.model).events == [event]


def test_an_event_is_plain_data_that_json_keeps():
    engine = make()
    engine.grow()
    history = history_of(engine.model)
    parsed = History.parse(history.lines())
    assert parsed == history
    assert parsed.events[0].clock == history.events[0].clock
    json.dumps(history.events[0].to_json(), allow_nan=False)


@pytest.mark.parametrize("cause", ["no room", "no gain"])
def test_an_event_that_adds_nothing_changes_nothing_but_the_history(cause, monkeypatch):
    engine = make(policy=Policy(where="random" if cause == "no room" else "gain-per-mac"))
    if cause == "no room":
        engine.budget = Budget(macs=engine.macs + 1)
    else:
        score = engine_module.candidates

        def hopeless(*arguments: Any, **settings: Any) -> Any:
            frame = score(*arguments, **settings)
            frame["gain"] = -frame["gain"].abs()
            return frame

        monkeypatch.setattr(engine_module, "candidates", hopeless)
    before, size, random = everything(engine), counted(engine), torch.get_rng_state()
    event = engine.grow()
    after = everything(engine)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())
    assert event.edits == ()
    assert event.reason.startswith("no growth: ")
    assert ("fits" if cause == "no room" else "noise") in event.reason
    assert not any(row["chosen"] for row in event.candidates)
    assert (event.params_before, event.macs_before) == (event.params_after, event.macs_after) == size
    assert history_of(engine.model).events == [event]


def test_growth_draws_from_its_own_generator_only():
    engine = make(settings={**SETTINGS, "how": "random"}, policy=Policy(where="random"))
    random, own = torch.get_rng_state(), engine.generator.get_state()
    assert engine.grow().edits
    assert torch.equal(random, torch.get_rng_state())
    assert not torch.equal(own, engine.generator.get_state())


def test_the_same_generator_takes_the_same_decisions():
    first, second = (make(settings={**SETTINGS, "how": "random"}, policy=Policy(where="random")) for _ in range(2))
    other = make(settings={**SETTINGS, "how": "random"}, policy=Policy(where="random"))
    other.generator.manual_seed(99)
    for engine in (first, second, other):
        engine.latency = first.latency
        engine.grow()
    assert history_of(first.model) == history_of(second.model)
    assert history_of(first.model) != history_of(other.model)
    assert all(torch.equal(tensor, everything(second)[name]) for name, tensor in everything(first).items())


def test_what_scoring_takes_is_counted():
    engine = make()
    frame = engine.candidates()
    assert engine.spent == frame.attrs["macs"]
    passes = engine.spent / (3 * engine.macs * len(engine.probe[0]))
    assert passes > 2  # one pass to look at the network, and one a round with all candidates attached
    engine.spent = 0.0
    engine.grow()
    # Applying and measuring an event takes forward passes on top.
    assert engine.spent > frame.attrs["macs"] + 4 * engine.macs * len(engine.probe[0])


@pytest.mark.parametrize("unit", ["params", "macs", "milliseconds"])
def test_events_share_out_the_room_and_never_exceed_the_budget(unit):
    engine = make(policy=Policy(share=0.34))
    seedling = engine.costs()
    assert set(seedling) == {"params", "macs", "milliseconds"}
    engine.budget = Budget(**{unit: 2.5 * seedling[unit]})
    allowance = 0.34 * 1.5 * seedling[unit]
    sizes = [seedling[unit]]
    for _ in range(4):
        event = engine.grow()
        sizes.append(engine.costs()[unit])
        assert sizes[-1] <= 2.5 * seedling[unit]
        assert sizes[-1] - sizes[-2] <= allowance * (1 + 1e-9) or len(event.edits) == 1
    assert sizes[-1] > 1.5 * seedling[unit]  # most of the room was used


def test_without_a_limit_every_site_with_a_gain_grows():
    engine = make()
    event = engine.grow()
    hopeful = {row["site"] for row in event.candidates if row["gain"] > 0}
    assert {edit.site for edit in event.edits} == hopeful


def test_latency_is_measured_once_and_then_read_from_the_table():
    engine = make()
    first = engine.costs()
    table = engine_module.LatencyTable.from_json(json.loads(json.dumps(engine.latency.to_json())))
    assert engine.costs() == first
    assert first["milliseconds"] > 0
    other = make(latency=table)
    assert other.costs() == first
    assert other.latency.lines == engine.latency.lines
