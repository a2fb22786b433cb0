"""Every way to grow, in whole runs: each trains, keeps its promises, and resumes to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from bit_for_bit import EVERY_KIND, config, differences, latencies, tensors_of, timeless
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ghostkit
from ghostkit import AddBlock, AddBranch, GhostkitError, Run, RunConfig, Trainer
from ghostkit import engine as engine_module
from ghostkit.events import CheckpointSaved, Evaluated, Event, Finished, Grown, StepDone
from ghostkit.growth import History, history_of
from ghostkit.growth.undo import standing

pytestmark = pytest.mark.usefixtures(latencies.__name__)  # no test here waits for a clock, or depends on one


def fresh_count(model: nn.Module, side: int = 8) -> tuple[int, int]:
    """Parameters and MACs per image, counted here."""
    was = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 1, side, side))
    model.train(was)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


# Everything that can be chosen

WAYS = [
    ("interval", "gain-per-mac", "svd", "fisher"),
    ("gain-ratio", "gain-per-parameter", "gradmax", "raw"),
    ("plateau", "gain-per-millisecond", "random", "scaled"),
    ("interval", "round-robin", "split", "residual"),
    ("gain-ratio", "random", "clone", "whitened"),
    ("plateau", "activation-rank", "gradmax", "fisher"),
    ("interval", "sprout", "svd", "whitened"),
    ("interval", "round-robin", "random", "none"),
]
BESIDES: dict[str, dict[str, Any]] = {  # and some settings that are not about growth
    "round-robin": {"optimizer": "adam", "learning_rate": 0.01, "augment": "crop", "label_smoothing": 0.1},
    "gain-per-millisecond": {"kernel_sizes": (7,)},
    "random": {"model": "ghostnetv2_100", "model_options": {"stages": [[[3, 8, 8, 0, 2]] * 3], "head_channels": 8}},
}


@pytest.mark.parametrize(("when", "where", "how", "score"), WAYS, ids=[" ".join(way) for way in WAYS])
def test_every_way_to_grow_trains_and_grows(when, where, how, score, tmp_path):
    options = {"patience": 1, "ratio": 0.0, "grow_until": 0.9, "evaluate_every": 0.125, "kinds": EVERY_KIND}
    ways = {"when": when, "where": where, "how": how, "score": score}
    run = ghostkit.train(config(**ways, **options, train_samples=128, **BESIDES.get(where, {})), tmp_path)
    grew = [event for event in run.history.events if event.edits]
    assert grew
    assert grew[0].reason == f"{when}, by {where}"
    assert run.metrics["loss"].notna().all()
    assert fresh_count(run.model()) == (run.result["params"], run.result["macs"])
    assert fresh_count(ghostkit.rebuild(run.history)) == (run.result["params"], run.result["macs"])
    assert set(run.candidates["init"]) & {how}
    assert run.result["macs"] <= 4 * run.history.events[0].macs_before


def test_every_option_is_tried():
    for number, name in enumerate(("when", "where", "how", "score")):
        annotation = RunConfig.model_fields[name].annotation
        assert {way[number] for way in WAYS} == set(annotation.__args__) - {"never"}  # type: ignore[union-attr]


# Broken off in the middle, and resumed

OPTIONS: dict[str, dict[str, Any]] = {
    "moving average": {"ema": 0.7, "when": "gain-ratio", "ratio": 0.0, "where": "activation-rank", "kinds": EVERY_KIND},
    "small images first": {"resolution": 0.5, "resolution_until": 0.5},
    "warm-up": {"warm_up": 3, "optimizer": "adamw", "learning_rate": 0.02, "roll_back": 50.0, "window": 0.25},
    "variance transfer": {"newcomer_rate": "variance-transfer", "warm_up": 1},
    "rolled back": {"roll_back": 0.0, "window": 0.25, "ema": 0.7, "learning_rate": 8.0},
    "sprouts": {"where": "sprout", "window": 0.25, "share": 0.05},
}


@dataclass
class Outcome:
    """What is left of a run that is over."""

    files: dict[str, Any]
    tensors: dict[str, Tensor]
    history: History


def outcome(folder: Path, trainer: Trainer) -> Outcome:
    def rows(name: str) -> list[Any]:
        return timeless([json.loads(line) for line in (folder / name).read_text().splitlines()])

    files = {
        "metrics": rows("metrics.jsonl"),
        "history": rows("history.jsonl"),
        "result": timeless(json.loads((folder / "result.json").read_text())),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }
    return Outcome(files, tensors_of(trainer), Run(folder).history)


Hands = Callable[[Trainer, Event], None]


def idle(_trainer: Trainer, _event: Event) -> None:
    """Look on."""


def to_the_end(folder: Path, settings: RunConfig, hands: Hands = idle) -> Outcome:
    trainer = Trainer(settings, folder)
    for event in trainer:
        hands(trainer, event)
    return outcome(folder, trainer)


@cache
def unbroken(name: str) -> Outcome:
    return to_the_end(Path(mkdtemp()), config(**OPTIONS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_was_dropped_after_an_event_goes_on_to_the_same_end(name, tmp_path):
    whole = unbroken(name)
    trainer, looked = Trainer(config(**OPTIONS[name]), tmp_path), False
    for event in trainer:
        looked |= isinstance(event, Grown) and event.event.resolution is None
        if looked and isinstance(event, CheckpointSaved):
            break
    waits = trainer.engine.state.settle_at is not None
    assert waits == (name in ("rolled back", "warm-up", "sprouts"))
    assert (trainer.engine.snapshot is not None) == (waits and name != "sprouts")
    del trainer
    resumed = to_the_end(tmp_path, config(**OPTIONS[name]))
    assert resumed.files == whole.files
    assert differences(resumed.tensors, whole.tensors) == []


# An event takes as much compute as several steps: when it is over, the next one is due, and an evaluation, too.
CROWDED = {"compute": 1e8, "grow_from": 0.1, "grow_every": 0.02, "grow_until": 0.6, "evaluate_every": 0.03, "ema": 0.9}


@pytest.mark.parametrize("saved_by_hand", [False, True], ids=["behind its checkpoints", "anywhere"])
def test_a_run_of_limited_compute_ends_the_same_wherever_it_is_dropped(saved_by_hand, tmp_path):
    settings = config(**CROWDED)
    whole = to_the_end(tmp_path / "whole", settings)
    assert sum(bool(event.edits) for event in whole.history.events) > 3
    over, dropped = False, 0
    while not over:
        trainer = Trainer(settings, tmp_path / "dropped")
        for event in trainer:
            over = isinstance(event, Finished)
            if not over and (saved_by_hand or isinstance(event, CheckpointSaved)):
                trainer.save()
                dropped += 1
                break
    assert dropped > (20 if saved_by_hand else 3)
    resumed = outcome(tmp_path / "dropped", trainer)
    assert resumed.files == whole.files
    assert differences(resumed.tensors, whole.tensors) == []


def test_an_event_that_hurt_is_taken_back_and_what_it_took_stays_counted():
    history = unbroken("rolled back").history
    grown, back = history.events[:2]
    assert (grown.step, back.step, back.undoes) == (2, 4, 1)
    assert back.reason.startswith("rolled back: the loss of the probe went from")
    assert (back.params_after, back.macs_after) == (grown.params_before, grown.macs_before)
    assert back.loss_after == grown.loss_before
    rows = [row for row in unbroken("rolled back").files["metrics"] if row["split"] == "test"]
    assert [row["compute"] for row in rows] == sorted(row["compute"] for row in rows)
    assert rows[-1]["compute"] > back.compute > grown.compute > 0


def test_an_event_that_did_not_hurt_stays():
    history = unbroken("warm-up").history
    assert [event.undoes for event in history.events] == [None, None]
    assert standing(history) == [1, 2]


def test_sprouts_are_thinned_out_a_window_later():
    outcome = unbroken("sprouts")
    first, second = outcome.history.events[:2]
    assert (first.step, second.step) == (2, 4)
    assert second.reason.startswith("sprouts: ")
    assert set(second.edits) < set(first.inverse)
    assert first.macs_before <= second.macs_after < first.macs_after <= 4 * first.macs_before


def test_sprouts_of_the_last_step_are_not_left_standing(tmp_path):
    settings = config(where="sprout", grow_from=1.0, grow_until=1.0, evaluate_every=1.0)
    run = ghostkit.train(settings, tmp_path)
    grown, thinned = run.history.events
    assert (grown.step, thinned.step) == (8, 8)
    assert thinned.reason.startswith("sprouts: ")
    assert run.result["macs"] == thinned.macs_after < grown.macs_after


def test_growth_is_given_up_where_it_does_not_pay(tmp_path):
    events = ghostkit.train(config(give_up=1, budget_factor=1.001), tmp_path).history.events
    assert [event.step for event in events] == [2]  # and not again at the sixth
    assert events[0].reason.endswith("; growth is over: 1 looks in a row brought nothing")


# A moving average


def test_the_moving_average_is_what_is_evaluated_and_stays_in_step_with_growth():
    trainer = Trainer(config(ema=0.7, kinds=EVERY_KIND))
    assert trainer.average is not None
    images, rows, grew = trainer.engine.probe[0], [], 0
    mean, answers = trainer.average.module, torch.empty(0)
    for event in trainer:
        with torch.no_grad():
            if isinstance(event, Evaluated):
                rows.append(event.row)
                answers = mean(images)
            elif isinstance(event, Grown):
                assert event.event.edits
                torch.testing.assert_close(mean(images), answers, rtol=1e-3, atol=1e-4)
                grew += 1
    assert grew == 2
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (mean, trainer.model)]
    assert shapes[0] == shapes[1]
    split = trainer.data.test
    losses = []
    for network in (mean, trainer.model.eval()):
        with torch.no_grad():
            logits = network(split.images(torch.arange(len(split))))
        losses.append(float(nn.functional.cross_entropy(logits, split.labels)))
    assert rows[-1]["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert rows[-1]["loss"] != pytest.approx(losses[1], rel=1e-3)
    assert int(trainer.average.n_averaged) == 8


def test_an_average_of_the_weights_is_what_its_name_says():
    trainer = Trainer(config(ema=0.75, when="never"))
    assert trainer.average is not None
    expected = None
    for event in trainer:
        if isinstance(event, StepDone):
            now = trainer.model.classifier.bias.detach().clone()
            expected = now if expected is None else 0.75 * expected + 0.25 * now
            torch.testing.assert_close(trainer.average.module.classifier.bias, expected)


# Small images first


def test_the_first_images_are_small_and_cost_less_and_evaluation_is_at_full_size():
    trainer = Trainer(config(**OPTIONS["small images first"], label_smoothing=0.1))
    trained, looked_at, told, last = [], set(), [], 0.0

    def see(network: nn.Module, inputs: tuple[Tensor]) -> None:
        if network.training:
            trained.append(inputs[0].shape[-1])
        elif len(inputs[0]) > 1:  # one image alone is only counted
            looked_at.add(inputs[0].shape[-1])

    trainer.model.register_forward_pre_hook(see)
    for event in trainer:
        if isinstance(event, Grown) and event.event.resolution is not None:
            assert event.event.edits == ()
            told.append((event.event.step, event.event.resolution, event.event.reason))
        if isinstance(event, StepDone):
            assert trained[-1] == (4 if event.step <= 4 else 8)
            assert trainer.progress.compute - last == 3 * fresh_count(trainer.model, trained[-1])[1] * 64
        last = trainer.progress.compute
    assert len(trained) == 8
    assert looked_at == {8}
    assert told == [
        (0, 4, "training images are 4 of 8 pixels wide"),
        (4, 8, "training images are 8 of 8 pixels wide"),
    ]


def test_images_of_full_size_are_no_event(tmp_path):
    run = ghostkit.train(config(when="never", resolution=0.97, resolution_until=0.5), tmp_path)  # 7.8 pixels are 8
    assert run.history.events == []


def test_the_history_rebuilds_the_network_whatever_else_it_says():
    done = unbroken("small images first")
    assert [event.resolution for event in done.history.events] == [4, None, 8, None]
    rebuilt = ghostkit.rebuild(done.history)
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == {
        name: done.tensors[name].shape for name in rebuilt.state_dict()
    }


# New numbers' rates


@pytest.mark.parametrize("name", ["warm-up", "variance transfer"])
def test_rates_of_their_own_change_what_new_weights_become_and_nothing_before_they_came(name):
    changes = {**OPTIONS[name], "warm_up": 0, "newcomer_rate": "constant"}
    plain, rated = Trainer(config(**changes)), Trainer(config(**OPTIONS[name]))
    before = next((tensors_of(plain), tensors_of(rated)) for pair in zip(plain, rated, strict=True) if stops(pair))
    assert all(name.startswith("born ") for name in differences(*before))
    for trainer in (plain, rated):
        trainer.train()
    assert differences(tensors_of(plain), tensors_of(rated)) != []
    assert rated.engine.rates is not None
    born = torch.cat([born.flatten() for born in rated.engine.rates.born.values()])
    assert born.unique().tolist() == [-1.0, 2.0, 6.0]


def stops(pair: tuple[Event, Event]) -> bool:
    """Whether the first event of growth is there."""
    return all(isinstance(event, Grown) for event in pair)


# By hand

AT = {3: AddBranch("blocks.0.0.ghost1", 5), 5: AddBlock("blocks.1", "0")}


def busy(trainer: Trainer, event: Event) -> None:
    """Grow after two of the steps, and take the first of it back after a third."""
    if isinstance(event, StepDone) and event.step in AT:
        noted = trainer.grow(AT[event.step])
        assert (noted.step, noted.reason, noted.edits) == (event.step, "by hand", (AT[event.step],))
    if isinstance(event, StepDone) and event.step == 7:
        assert trainer.undo(number_of(AT[3], trainer)).step == 7


def number_of(edit: Any, trainer: Trainer) -> int:
    return 1 + next(number for number, event in enumerate(history_of(trainer.model).events) if edit in event.edits)


HANDY = {"ema": 0.5, "warm_up": 2}


@cache
def by_hand() -> Outcome:
    return to_the_end(Path(mkdtemp()), config(**HANDY), busy)


def test_what_a_person_grows_and_undoes_is_in_the_history_and_in_the_network():
    done = by_hand()
    assert [event.step for event in done.history.events] == [2, 3, 5, 6, 7]
    assert [event.reason for event in done.history.events if event.step in AT] == ["by hand"] * 2
    undone = done.history.events[-1]
    assert (undone.undoes, undone.reason) == (2, "undo of event 2")
    assert 2 not in standing(done.history)
    rebuilt = ghostkit.rebuild(done.history).state_dict()
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {
        name: done.tensors[name].shape for name in rebuilt
    }
    rows = [row for row in done.files["metrics"] if row["split"] == "test"]
    assert len({row["params"] for row in rows}) >= 4
    assert [row["compute"] for row in rows] == sorted({row["compute"] for row in rows})


@pytest.mark.parametrize("step", [3, 4, 7])
def test_what_was_done_by_hand_survives_a_run_that_is_dropped(step, tmp_path):
    trainer = Trainer(config(**HANDY), tmp_path)
    for event in trainer:
        busy(trainer, event)
        if isinstance(event, CheckpointSaved) and trainer.progress.step == step:
            break
    else:
        pytest.fail(f"nothing was saved after step {step}")
    del trainer
    resumed, whole = to_the_end(tmp_path, config(**HANDY), busy), by_hand()
    assert resumed.files == whole.files
    assert differences(resumed.tensors, whole.tensors) == []


def test_a_hand_that_slips_leaves_the_run_as_it_was():
    never = Trainer(config(when="never"))
    never.train()
    trainer = Trainer(config(when="never"))
    for event in trainer:
        if isinstance(event, StepDone):
            with pytest.raises(GhostkitError, match="nowhere"):
                trainer.grow([AddBranch("blocks.0.0.ghost1"), AddBranch("nowhere")])
            with pytest.raises(GhostkitError, match="nothing is left to undo"):
                trainer.undo()
    assert differences(tensors_of(never), tensors_of(trainer)) == []
    assert history_of(trainer.model).events == []


# When


def barren(**changes: Any) -> RunConfig:
    """A run whose events come and add nothing, since nothing fits its budget."""
    return config(epochs=5, kinds=("branch",), budget_factor=1.0001, where="random", give_up=None, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grow_from": 0.1, "grow_every": 0.15, "grow_until": 0.55}, [2, 5, 8, 11]),
        ({"grow_from": 0.05, "grow_every": 0.05, "grow_until": 0.3}, [1, 2, 3, 4, 5, 6]),  # of 20 steps, every one
        ({"grow_from": 0.9, "grow_every": 0.2, "grow_until": 1.0}, [18]),
        ({"when": "never", "grow_from": 0.1, "grow_every": 0.1, "grow_until": 1.0}, []),
    ],
)
def test_interval_events_come_at_their_shares_of_the_run(changes, expected):
    trainer = Trainer(barren(evaluate_every=1.0, **changes))
    assert [event.event.step for event in trainer if isinstance(event, Grown)] == expected


def test_plateau_events_come_when_the_training_loss_has_stopped_falling(tmp_path):
    changes = {"when": "plateau", "patience": 2, "grow_from": 0.2, "grow_until": 0.9, "evaluate_every": 0.05}
    run = ghostkit.train(barren(learning_rate=1e-9, **changes), tmp_path)
    expected, best, stale = [], float("inf"), 0
    for row in run.metrics.query("split == 'train'").itertuples():
        best, stale = (row.loss, 0) if row.loss < best else (best, stale + 1)
        if stale >= 2 and 0.2 <= row.progress <= 0.9:
            expected.append(row.step)
            stale = 0
    assert run.events["step"].tolist() == expected
    assert 2 <= len(expected) < 10


# Runs that do not grow


@pytest.mark.parametrize("cause", ["no room", "no gain"])
def test_events_that_add_nothing_leave_the_run_as_if_they_had_never_been(cause, tmp_path, monkeypatch):
    changes: dict[str, Any] = {"where": "gain-per-mac", "how": "random"}
    never = Trainer(config(when="never"), tmp_path / "never")
    if cause == "no room":
        changes = {"where": "random", "how": "random", "budget_macs": never.engine.macs + 1}
    else:
        score = engine_module.candidates

        def hopeless(*arguments: Any, **settings: Any) -> Any:
            frame = score(*arguments, **settings)
            frame["gain"] = -frame["gain"].abs()
            return frame

        monkeypatch.setattr(engine_module, "candidates", hopeless)
    never.train()
    barren = Trainer(config(**changes), tmp_path / "barren")
    events = [event.event for event in barren if isinstance(event, Grown)]
    assert [event.edits for event in events] == [(), ()]
    assert differences(tensors_of(never), tensors_of(barren)) == []
    without, with_events = (
        Run(tmp_path / name).metrics.drop(columns=["seconds", "compute"]) for name in ("never", "barren")
    )
    assert without.equals(with_events)
    assert barren.progress.compute > never.progress.compute  # looking was not free
