"""One growth event: scored, chosen within the budget, applied, measured, and noted; or nothing, and a reason."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ghostkit
from ghostkit import engine as engine_module
from ghostkit.averaging import moving_average
from ghostkit.engine import Engine
from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, History, RemoveBranch, history_of
from ghostkit.growth.edits import KINDS
from ghostkit.growth.grow import apply_edits
from ghostkit.growth.policy import Budget, Policy
from ghostkit.growth.undo import standing

STAGES = [[[3, 4, 8, 0, 2]], [[3, 6, 8, 0.5, 1]]]
SETTINGS = {"kinds": ("branch", "intrinsic", "block"), "kernel_sizes": (3, 5), "how": "svd"}


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


def make(seed: int = 0, stages: Any = STAGES, ratio: int = 2, **arguments: Any) -> Engine:
    """An engine around a network that was trained for a few steps."""
    torch.manual_seed(seed)
    model = ghostkit.build("seedling", num_classes=5, in_channels=1, stages=stages, dropout=0.3, ratio=ratio)
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
    if engine.average is not None:
        found |= {f"average {name}": tensor.clone() for name, tensor in engine.average.state_dict().items()}
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


@pytest.mark.parametrize("kind", KINDS)
def test_growth_draws_from_its_own_generator_only(kind):
    settings = {**SETTINGS, "how": "random", "kinds": (kind,)}
    engine = make(stages=[STAGES[0] + STAGES[1]], settings=settings, policy=Policy(where="random"))
    random, own = torch.get_rng_state(), engine.generator.get_state()
    assert {edit.kind for edit in engine.grow().edits} == {kind}
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
        together = {row["unit"] or row["site"] for row in event.candidates if row["chosen"]}
        assert sizes[-1] - sizes[-2] <= allowance * (1 + 1e-9) or len(together) == 1
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


# A probe that cannot tell


def endless(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model, images, targets) / 0


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_where_nothing_fits_nothing_is_scored_and_nothing_paid_for(unit):
    engine = make(policy=Policy(), settings={**SETTINGS, "kinds": KINDS})
    size = dict(zip(("params", "macs"), counted(engine), strict=True))[unit]
    engine.budget = Budget(**{unit: size + 1})
    event = engine.grow()
    assert event.reason == "no growth: nothing that could be added fits into what is left of the budget"
    spent = engine.spent
    assert len(engine.candidates())  # who asks by hand sees what does not fit, too
    engine.spent = spent
    engine.budget = Budget(**{unit: 2 * size})
    assert engine.grow().edits
    assert engine.spent > 5 * spent  # of the first look, the probe's loss alone


def test_a_network_that_is_frozen_does_not_grow_and_the_event_says_why():
    engine = make()
    engine.model.requires_grad_(False)
    event = engine.grow()
    assert event.edits == ()
    assert event.reason.startswith("no growth: all that could grow in GhostNet would join frozen parts")


IMAGES, TARGETS = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 5
BLIND: dict[str, tuple[dict[str, Any], str]] = {
    "one image": ({"probe": (IMAGES[:1], TARGETS[:1])}, r"holds 1 image\(s\)"),
    "labels all equal": ({"probe": (IMAGES, TARGETS * 0 + 3)}, "all labels of the probe batch are 3"),
    "images not finite": ({"probe": (IMAGES / (IMAGES > -2), TARGETS)}, "images of the probe batch hold values"),
    "loss not finite": ({"loss": endless}, "the loss on the probe batch is inf"),
}


@pytest.mark.parametrize("case", BLIND)
def test_a_probe_that_cannot_tell_what_should_grow_is_noted_and_changes_nothing(case):
    arguments, reason = BLIND[case]
    engine = make(policy=Policy(give_up=2))
    for name, value in arguments.items():
        setattr(engine, name, value)
    before, size, random = everything(engine), counted(engine), torch.get_rng_state()
    event = engine.grow(step=3, progress=0.1)
    after = everything(engine)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())
    assert event.edits == event.candidates == ()
    assert event.reason.startswith("no growth: ")
    assert re.search(reason, event.reason)
    assert (event.step, event.loss_before, event.params_after, event.macs_after) == (3, None, *size)
    assert history_of(engine.model).events == [event]
    json.dumps(event.to_json(), allow_nan=False)
    assert engine.grow().reason.endswith("; growth is over: 2 looks in a row brought nothing")
    engine.probe, engine.loss = (IMAGES, TARGETS), cross_entropy
    assert engine.grow().edits  # by hand, and with a probe that can, it still grows


@pytest.mark.parametrize("failing", ["loss", "latency"])
@pytest.mark.parametrize("by", ["the policy", "hand"])
def test_an_event_whose_measurement_fails_never_happened(failing, by, monkeypatch):
    engine = make()
    engine.costs()  # latencies are known from here on
    before, size, random = everything(engine), counted(engine), engine.generator.get_state()
    monkeypatch.setattr(engine, "_loss" if failing == "loss" else "_milliseconds", lambda *_: memory_runs_out(engine))
    monkeypatch.setattr(engine, "_probe_loss", lambda *_: 1.0)
    monkeypatch.setattr(engine, "costs", lambda: {"params": size[0], "macs": size[1], "milliseconds": 1.0})
    with pytest.raises(torch.OutOfMemoryError):
        engine.grow() if by == "the policy" else engine.apply([AddBlock("blocks.0", "0")])
    after = everything(engine)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (engine.params, engine.macs) == counted(engine) == size
    assert history_of(engine.model).events == []
    monkeypatch.undo()
    engine.generator.set_state(random)
    assert engine.grow().edits


def memory_runs_out(engine: Engine) -> float:
    assert sum(parameter.numel() for parameter in engine.model.parameters()) > engine.params  # it has grown
    raise torch.OutOfMemoryError("out of memory")


# Limited compute


@pytest.mark.parametrize("progress", [0.0, 0.2])
def test_growth_keeps_within_what_the_rest_of_the_compute_can_train(progress):
    engine = make(policy=Policy(share=1.0, images_per_parameter=10.0))
    engine.compute = 3 * 10 * 1.3 * engine.macs * 1.3 * engine.params
    costs = engine.costs()
    limit = Budget().trainable(costs, engine.compute * (1 - progress), 10.0).macs
    assert limit == pytest.approx(1.3 * costs["macs"] * (1 - progress) ** 0.5)
    event = engine.grow(progress=progress)
    assert event.edits
    assert costs["macs"] < counted(engine)[1] <= limit
    free = make(policy=Policy(share=1.0))
    free.compute = engine.compute
    free.grow(progress=progress)
    assert free.macs > limit


def test_where_the_compute_trains_no_larger_network_nothing_grows_and_the_event_says_why():
    engine = make(policy=Policy(images_per_parameter=10.0))
    engine.compute = 3 * 10 * engine.macs * engine.params  # all that the network needs which is there
    before, size = everything(engine), counted(engine)
    event = engine.grow(progress=0.2)
    assert event.edits == event.candidates == ()  # nothing is scored where nothing can be grown
    assert engine.spent == engine.macs * len(IMAGES)  # one look at the loss
    assert counted(engine) == size
    assert all(torch.equal(before[name], tensor) for name, tensor in everything(engine).items())
    assert event.reason.startswith("no growth: the network exceeds its budget by ")
    assert event.reason.endswith(" macs (at 10 training images for each parameter)")


# Joint choices


@pytest.mark.parametrize("together", [True, False])
def test_gains_are_chosen_jointly(together, monkeypatch):
    score = engine_module.candidates

    def crafted(*arguments: Any, **settings: Any) -> Any:
        frame = score(*arguments, **settings)
        frame["gain"], frame["macs"], response = -1.0, 10, torch.arange(40.0).tolist()
        first, second, third = (frame.index[frame["site"] == site][0] for site in frame["site"].unique()[:3])
        frame.loc[[first, second, third], "gain"] = 3.0, 2.9, 1.0
        responses = {first: response, second: response, third: response[::-1]}
        frame.attrs["responses"] = [responses.get(row, [0.0] * 40) for row in frame.index]
        if not together:
            del frame.attrs["responses"]
        return frame

    monkeypatch.setattr(engine_module, "candidates", crafted)
    engine = make()
    engine.budget = Budget(macs=engine.macs * 100)
    engine.seedling = {**engine.costs(), "macs": engine.budget.macs - 40}  # half of the room: 20, two of them
    event = engine.grow()
    assert sorted(row["gain"] for row in event.candidates if row["chosen"]) == ([1.0, 3.0] if together else [2.9, 3.0])


@pytest.mark.parametrize(
    ("unit", "where"), [("params", "random"), ("macs", "gain-per-mac"), ("macs", "sprout"), ("milliseconds", "sprout")]
)
def test_edits_that_cost_more_together_than_apart_stay_within_the_budget(unit, where, monkeypatch):
    score = engine_module.candidates

    def all_wanted(*arguments: Any, **settings: Any) -> Any:
        frame = score(*arguments, **settings)
        frame["gain"] = 1.0
        return frame

    monkeypatch.setattr(engine_module, "candidates", all_wanted)
    # Wider streams and wider modules between them: a layer's weights are rows times columns.
    engine = make(policy=Policy(share=1.0, where=where), settings={**SETTINGS, "kinds": ("intrinsic", "stage")})
    frame, before = engine.candidates(), engine.costs()[unit]
    apart = before + float(frame[unit].sum())
    together = copy.deepcopy(engine)
    together.apply([*engine_module.in_order(frame, frame.index)])
    assert together.costs()[unit] > apart
    engine.budget = Budget(**{unit: apart})  # as each for itself is priced, all fit
    event = engine.grow()
    assert 1 <= len(event.edits) < len(frame)
    assert before < engine.costs()[unit] <= apart
    assert {row["edit"] for row in event.candidates if row["chosen"]} == set(map(str, event.edits))


# Watched, and rolled back


def train(engine: Engine, rate: float, steps: int = 2) -> None:
    """Train for some steps; a negative rate climbs."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    for _ in range(steps):
        engine.optimizer.zero_grad()
        cross_entropy(engine.model, *engine.probe).backward()
        engine.optimizer.step()
        if engine.average is not None:
            engine.average.update_parameters(engine.model)


def watched(roll_back: float = 0.0, **arguments: Any) -> Engine:
    engine = make(policy=Policy(share=0.5, window=0.1, roll_back=roll_back), **arguments)
    engine.average = moving_average(engine.model, 0.5)
    return engine


def ruin(engine: Engine) -> None:
    with torch.no_grad():
        engine.model.classifier.bias.fill_(float("nan"))


@pytest.mark.parametrize("harm", [lambda engine: train(engine, -0.3), ruin], ids=["climbing", "not a number"])
def test_an_event_that_hurt_is_rolled_back_to_the_last_bit_and_what_it_took_stays_counted(harm):
    engine = watched()
    engine.optimizer.zero_grad()
    before, costs, groups = everything(engine), engine.costs(), copy.deepcopy(engine.optimizer.param_groups)
    grown = engine.grow(progress=0.2)
    assert grown.edits
    assert (engine.state.settle_at, engine.state.settling) == (pytest.approx(0.3), 1)
    harm(engine)
    engine.optimizer.zero_grad()
    spent = engine.spent
    event = engine.settle(step=12, progress=0.3)
    after = everything(engine)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    json.dumps(event.to_json(), allow_nan=False)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [group["lr"] for group in groups]
    assert {id(member) for group in engine.optimizer.param_groups for member in group["params"]} == set(
        map(id, engine.model.parameters())
    )
    assert engine.costs() == costs
    assert (event.undoes, event.step, event.edits) == (1, 12, grown.inverse)
    assert event.reason.startswith("rolled back: the loss of the probe went from ")
    assert event.loss_after == grown.loss_before
    assert engine.spent > spent > 0
    assert history_of(engine.model).events == [grown, event]
    assert standing(history_of(engine.model)) == []
    assert engine.snapshot is engine.state.settle_at is None
    assert ghostkit.cost(ghostkit.rebuild(history_of(engine.model)), IMAGES, measure=False).params == engine.params
    train(engine, 0.05)  # it trains on, with its optimizer


def test_ghosts_that_were_cut_off_are_cut_off_again_when_an_event_is_rolled_back():
    engine = watched(ratio=3, settings={"kinds": ("intrinsic",), "at": "blocks.1.0.ghost1"})
    engine.policy = replace(engine.policy, where="random")
    engine.optimizer.zero_grad()
    before = everything(engine)
    assert engine.grow(progress=0.2).edits
    train(engine, -0.3)
    engine.optimizer.zero_grad()
    event = engine.settle(progress=0.3)
    assert event.edits[0].out_channels == 8  # of three intrinsic maps and six ghost maps
    after = everything(engine)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("failing", ["moments", "average"])
def test_rolling_back_that_fails_never_happened(failing):
    engine = watched()
    grown = engine.grow(progress=0.2)
    train(engine, -0.3)
    tensors, prefix = engine.snapshot.tensors, {"moments": "optimizer/", "average": "average/"}[failing]
    name = [name for name in tensors if name.startswith(prefix)][-1]
    tensors[name] = torch.zeros(3, 3, 3, 3, 3)
    before, size, events = everything(engine), counted(engine), list(history_of(engine.model).events)
    groups = [(group["lr"], list(map(id, group["params"]))) for group in engine.optimizer.param_groups]
    with pytest.raises((GhostkitError, RuntimeError), match="3, 3, 3, 3"):
        engine.settle(progress=0.3)
    after = everything(engine)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert (engine.params, engine.macs) == counted(engine) == size
    assert [(group["lr"], list(map(id, group["params"]))) for group in engine.optimizer.param_groups] == groups
    assert history_of(engine.model).events == events == [grown]
    train(engine, 0.05)  # it trains on, with its optimizer


@pytest.mark.parametrize(("roll_back", "rate"), [(0.0, 0.02), (100.0, -0.1)], ids=["did not hurt", "hurt a little"])
def test_an_event_that_did_not_hurt_stays(roll_back, rate):
    engine = watched(roll_back)
    grown = engine.grow(progress=0.2)
    train(engine, rate)
    before = everything(engine)
    assert engine.settle(progress=0.3) is None
    assert [name for name, tensor in everything(engine).items() if not torch.equal(before[name], tensor)] == []
    assert history_of(engine.model).events == [grown]
    assert engine.params == grown.params_after
    assert engine.snapshot is engine.state.settle_at is None


def test_what_is_noted_while_an_event_is_watched_does_not_confuse_it():
    engine = watched()
    engine.grow(progress=0.2)
    engine.note("training images are 8 of 8 pixels wide", resolution=8)
    train(engine, -0.3)
    assert engine.settle(progress=0.3).undoes == 1


def test_a_look_that_grew_nothing_is_not_watched():
    engine = watched()
    engine.budget = Budget(macs=engine.macs + 1)
    assert not engine.grow(progress=0.2).edits
    assert engine.state.settle_at is None
    assert engine.snapshot is None


# Sprouts


def sprouted(share: float = 0.2) -> tuple[Engine, Any]:
    engine = make(policy=Policy(where="sprout", share=share, window=0.1))
    engine.budget = Budget(macs=3 * engine.macs)
    return engine, engine.grow(progress=0.2)


def test_what_settling_sprouts_takes_is_counted_once():
    engine, event = sprouted()
    passes, loss = [], engine.loss
    engine.spent, engine.loss = 0.0, lambda *arguments: passes.append(1) or loss(*arguments)
    grown = engine.macs
    settled = engine.settle()
    removed = 0 if settled is None else 1
    assert len(passes) == 1 + len(event.edits) + removed  # the loss with all of them, and without each
    assert engine.spent == (1 + len(event.edits)) * grown * 40 + 4 * removed * engine.macs * 40


def test_sprouts_stay_within_what_the_compute_can_train():
    kept = {}
    for images_each in (None, 10.0):
        engine = make(policy=Policy(where="sprout", share=0.1, window=0.1, images_per_parameter=images_each))
        seedling = engine.macs
        engine.budget, engine.compute = Budget(macs=10 * seedling), 3 * 10 * 1.3 * seedling * 1.3 * engine.params
        event = engine.grow()
        price = {row["edit"]: row["macs"] for row in event.candidates if row["chosen"]}
        engine._probe_loss = lambda model=None: float(model is not None)  # all of them earn the same
        engine.settle()
        kept[images_each] = engine.macs - seedling, min(price.values())
    assert kept[10.0][0] <= max(0.1 * 0.3 * seedling, kept[10.0][1]) < kept[None][0]


def test_three_times_as_much_sprouts_as_stays():
    engine, event = sprouted()
    plain = make()
    plain.budget, plain.policy = engine.budget, Policy(share=0.2)
    assert event.macs_after - event.macs_before > 1.5 * (plain.grow().macs_after - event.macs_before)
    assert engine.macs <= engine.budget.macs
    assert engine.snapshot is None
    assert (engine.state.settle_at, engine.state.settling) == (pytest.approx(0.3), 1)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_sprouts_that_did_not_earn_their_cost_are_removed(share):
    engine, grown = sprouted(share)
    train(engine, 0.05, steps=10)
    loss = engine._probe_loss()
    price = {row["edit"]: row["macs"] for row in grown.candidates if row["chosen"]}
    earned = {}
    for edit, inverse in zip(grown.edits, reversed(grown.inverse), strict=True):
        without = copy.deepcopy(engine.model)
        apply_edits(without, [inverse], None, None, None, torch.Generator())
        earned[inverse] = (engine._probe_loss(without) - loss, price[str(edit)])
    assert any(brought > 0 for brought, _ in earned.values())
    allowance, paid, stay = share * (engine.budget.macs - grown.macs_before), 0, []
    for inverse in sorted(earned, key=lambda one: -earned[one][0] / earned[one][1]):
        brought, cost = earned[inverse]
        if brought > 0 and (not stay or paid + cost <= allowance):
            stay.append(inverse)
            paid += cost
    spent = engine.spent
    event = engine.settle(step=9, progress=0.3)
    assert event.step == 9
    assert set(event.edits) == set(earned) - set(stay)
    assert event.reason == f"sprouts: {len(stay)} of {len(earned)} earned their cost, the others are removed"
    assert engine.spent > spent
    assert engine.macs == counted(engine)[1] <= engine.budget.macs
    assert engine.state.settle_at is None
    train(engine, 0.05)


def test_sprouts_that_only_hurt_are_all_removed_and_the_seedling_is_left():
    engine, grown = sprouted()
    seedling = grown.params_before, grown.macs_before
    reads = engine.model.blocks[0][0].ghost2.primary
    with torch.no_grad():  # whatever is new makes noise: a loss so crafted that nothing has earned anything
        engine.loss = lambda model, images, targets: (
            cross_entropy(model, images, targets) * 0 + sum(parameter.numel() for parameter in model.parameters())
        )
    assert reads.weight.isfinite().all()
    event = engine.settle(progress=0.3)
    assert event.reason.startswith(f"sprouts: 0 of {len(grown.edits)}")
    assert counted(engine) == seedling == (engine.params, engine.macs)


def test_sprouts_that_all_earned_their_cost_stay():
    engine, grown = sprouted(share=1.0)
    engine.loss = lambda model, images, targets: -torch.tensor(float(sum(p.numel() for p in model.parameters())))
    assert engine.settle(progress=0.3) is None
    assert engine.params == grown.params_after
    assert len(history_of(engine.model).events) == 1


# By hand


def test_what_is_applied_by_hand_is_an_event_and_can_be_taken_back():
    engine = make()
    before, size = everything(engine), counted(engine)
    first = engine.apply([AddBranch("blocks.0.0.ghost1", 5)], step=3, progress=0.1)
    second = engine.apply([AddBlock("blocks.1", "0")], reason="it looked thin")
    assert (first.reason, second.reason, first.step) == ("by hand", "it looked thin", 3)
    assert (first.params_after, first.macs_after) == (second.params_before, second.macs_before)
    assert first.loss_after == pytest.approx(first.loss_before, rel=1e-4)
    assert (engine.params, engine.macs) == counted(engine) != size
    assert engine.spent > 0
    undone = engine.undo(1, step=5)
    assert (undone.undoes, undone.reason, undone.step) == (1, "undo of event 1", 5)
    assert undone.edits == (RemoveBranch("blocks.0.0.ghost1", 5, 0),)
    assert engine.undo().undoes == 2
    assert counted(engine) == size == (engine.params, engine.macs)
    after = everything(engine)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)  # nothing was trained in between
    assert [event.undoes for event in history_of(engine.model).events] == [None, None, 1, 2]


def test_an_undo_that_later_events_rest_on_is_refused_and_nothing_happens():
    engine = make()
    engine.apply([AddBlock("blocks.1", "0")])
    engine.apply([AddBranch("blocks.1.g1.ghost1", 5)])
    before, events = everything(engine), list(history_of(engine.model).events)
    with pytest.raises(GhostkitError, match=r"undo\(1\): event 2, AddBranch\(blocks.1.g1.ghost1, 5x5\), rests on"):
        engine.undo(1)
    with pytest.raises(GhostkitError, match=r"undo\(7\): the history has 2"):
        engine.undo(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in everything(engine).items())
    assert history_of(engine.model).events == events
    engine.undo()
    engine.undo()
    with pytest.raises(GhostkitError, match="nothing is left to undo"):
        engine.undo()


def test_a_hand_that_slips_changes_nothing_and_one_that_grows_ends_the_watch_over_the_event_before():
    engine = watched()
    engine.grow(progress=0.2)
    before, snapshot = everything(engine), engine.snapshot
    with pytest.raises(GhostkitError, match="nowhere"):
        engine.apply([AddBlock("blocks.1", "0"), AddBranch("nowhere")])
    assert all(torch.equal(before[name], tensor) for name, tensor in everything(engine).items())
    assert engine.state.settle_at == pytest.approx(0.3)
    assert engine.snapshot is snapshot is not None
    assert len(history_of(engine.model).events) == 1
    engine.apply([AddBlock("blocks.1", "0")])
    assert engine.state.settle_at is engine.snapshot is None


def test_the_last_of_the_budget_is_spent_by_a_growth_that_is_smaller_than_usual():
    """Doubled hidden maps would not fit any more, and a tenth of the budget used to be left."""
    settings = {"kinds": ("intrinsic",), "how": "random", "score": "none", "at": "blocks.0.0.ghost1"}
    engine = make(policy=Policy(share=1.0, where="random"), settings=settings)
    before = engine.costs()["macs"]
    engine.grow()
    grown = engine.costs()["macs"] - before  # two maps more
    engine.budget = Budget(macs=engine.costs()["macs"] + 1.9 * grown)  # the next would be four
    event = engine.grow()
    assert [str(edit) for edit in event.edits] == ["AddIntrinsic(blocks.0.0.ghost1, +3)"]
    assert engine.costs()["macs"] <= engine.budget.macs
