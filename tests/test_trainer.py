"""A run is its configuration: again, resumed, or killed on the way, it ends on the same bits, within its budget."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from bit_for_bit import EVERY_KIND, TINY, config, differences, latencies, tensors_of, timeless
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ghostkit
from ghostkit import GhostkitError, Run, Trainer
from ghostkit import engine as engine_module
from ghostkit import trainer as trainer_module
from ghostkit.events import CheckpointSaved, Evaluated, Event, Finished, Grown, StepDone
from ghostkit.growth import history_of

pytestmark = pytest.mark.usefixtures(latencies.__name__)  # no test here waits for a clock, or depends on one

RUNS: dict[str, dict[str, Any]] = {
    "sgd, at random": {"augment": "crop+flip", "where": "random", "how": "random", "share": 0.2},
    "adamw, by gain": {"optimizer": "adamw", "learning_rate": 0.01, "keep_checkpoints": 1, "kinds": EVERY_KIND},
}
SEQUENCE = "E C  S S E G C  S S E C  S S E G C  S S E C  F".split()


def letter(event: Event) -> str:
    return type(event).__name__[0]


@dataclass
class Outcome:
    """What is left of a run that is over."""

    folder: Path
    files: dict[str, Any]
    tensors: dict[str, Tensor]
    letters: list[str]


def outcome(folder: Path, trainer: Trainer, letters: list[str]) -> Outcome:
    def rows(name: str) -> list[Any]:
        return timeless([json.loads(line) for line in (folder / name).read_text().splitlines()])

    files = {
        "metrics": rows("metrics.jsonl"),
        "history": rows("history.jsonl"),
        "result": timeless(json.loads((folder / "result.json").read_text())),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }
    return Outcome(folder, files, tensors_of(trainer), letters)


@cache
def unbroken(name: str) -> Outcome:
    """A run from beginning to end."""
    folder = Path(mkdtemp())
    trainer = Trainer(config(**RUNS[name]), folder)
    return outcome(folder, trainer, [letter(event) for event in trainer])


def same(first: Outcome, second: Outcome) -> bool:
    assert first.files == second.files
    assert differences(first.tensors, second.tensors) == []
    return True


# One seed, one result


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_gives_the_same_run_whatever_else_draws_random_numbers(name, tmp_path):
    torch.manual_seed(1234)
    trainer = Trainer(config(**RUNS[name]), tmp_path)
    letters = []
    for event in trainer:
        letters.append(letter(event))
        torch.rand(3)
    assert same(unbroken(name), outcome(tmp_path, trainer, letters))
    assert len(unbroken(name).files["history"]) == 3
    assert all(line["edits"] for line in unbroken(name).files["history"][1:])


def test_another_seed_gives_another_run(tmp_path):
    first = unbroken("adamw, by gain")
    trainer = Trainer(config(**RUNS["adamw, by gain"], seed=1), tmp_path)
    second = outcome(tmp_path, trainer, [letter(event) for event in trainer])
    assert first.files["metrics"][0]["loss"] != second.files["metrics"][0]["loss"]  # of the untrained seedling
    assert first.files["metrics"][-1]["loss"] != second.files["metrics"][-1]["loss"]
    assert "conv_stem.weight" in differences(first.tensors, second.tensors)


def test_a_run_without_a_folder_is_the_same_and_writes_nothing_and_draws_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    trainer = Trainer(config(**RUNS["sgd, at random"]))
    letters = [letter(event) for event in trainer]
    assert letters == [kind for kind in SEQUENCE if kind != "C"]
    assert differences(unbroken("sgd, at random").tensors, tensors_of(trainer)) == []
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before, torch.get_rng_state())


# Broken off and resumed

PLACES = {
    "after the first evaluation": 1,
    "after the first checkpoint": 2,
    "in mid-epoch": 3,
    "after an event": 6,
    "after the checkpoint of an event": 7,
    "between two checkpoints": 13,
    "after the last checkpoint": 20,
    "after the end": 21,
}


@pytest.mark.parametrize(
    ("name", "place"),
    [("adamw, by gain", "after the checkpoint of an event"), *(("sgd, at random", place) for place in PLACES)],
)
def test_a_run_that_was_dropped_goes_on_to_the_same_end(name, place, tmp_path):
    events = iter(Trainer(config(**RUNS[name]), tmp_path))
    seen = [letter(next(events)) for _ in range(PLACES[place])]
    assert seen == SEQUENCE[: PLACES[place]]
    del events
    trainer = Trainer(config(**RUNS[name]), tmp_path)
    assert same(unbroken(name), outcome(tmp_path, trainer, [letter(event) for event in trainer]))


@pytest.mark.parametrize("place", range(2, len(SEQUENCE)))
def test_a_run_that_was_saved_by_hand_at_any_event_and_dropped_goes_on_to_the_same_end(place, tmp_path):
    first = Trainer(config(**RUNS["sgd, at random"]), tmp_path)
    events = iter(first)
    assert [letter(next(events)) for _ in range(place)] == SEQUENCE[:place]
    first.save()
    first.close()
    del events
    trainer = Trainer(config(**RUNS["sgd, at random"]), tmp_path)
    ended, whole = outcome(tmp_path, trainer, [letter(event) for event in trainer]), unbroken("sgd, at random")
    assert set(ended.files.pop("checkpoints")) >= set(whole.files["checkpoints"])
    assert ended.files == {name: rows for name, rows in whole.files.items() if name != "checkpoints"}
    assert differences(ended.tensors, whole.tensors) == []


def test_what_watching_an_event_takes_is_counted_by_a_run_that_resumes_too(tmp_path):
    watched = config(roll_back=1e9, window=0.25, epochs=4)
    whole = Trainer(watched).train()
    events = iter(Trainer(watched, tmp_path))
    while not isinstance(next(events), Finished) and Run(tmp_path).metrics["step"].max() < 8:
        pass
    del events
    assert Trainer(watched, tmp_path).train()["compute"] == whole["compute"]


@pytest.mark.parametrize("source", ["weights", "shape"])
def test_a_run_that_started_from_another_one_resumes_after_that_is_gone(source, tmp_path):
    start = tmp_path / "start"
    Trainer(config(epochs=0.5), start).train()
    place = start if source == "shape" else max((start / "checkpoints").iterdir())
    settings = config(**{source: str(place)}, threads=None, when="never")
    events = iter(Trainer(settings, tmp_path / "run"))
    assert [letter(next(events)) for _ in range(2)] == ["E", "C"]
    del events
    shutil.rmtree(start)
    assert Trainer(settings, tmp_path / "run").train()["steps"] == 8


def test_a_run_can_be_dropped_again_and_again(tmp_path):
    settings = config(**RUNS["sgd, at random"])
    for stop in (5, 7, 4):
        for number, _ in enumerate(Trainer(settings, tmp_path), start=1):
            if number == stop:
                break
    trainer = Trainer(settings, tmp_path)
    assert same(unbroken("sgd, at random"), outcome(tmp_path, trainer, [letter(event) for event in trainer]))


def test_a_run_that_is_over_is_measured_again_and_keeps_what_a_notebook_noted(tmp_path):
    run = ghostkit.train(config(), tmp_path)
    first, path = run.result, tmp_path / "result.json"
    path.write_text(json.dumps({"notebook": "a.ipynb", "status": "done", **first, "accuracy": -1.0}))
    again = ghostkit.train(config(), tmp_path).result
    assert (again["notebook"], again["status"]) == ("a.ipynb", "done")
    assert timeless(again) == timeless({"notebook": "a.ipynb", "status": "done", **first})


def test_a_resumed_run_counts_its_room_from_its_seedling_and_measures_no_latency_again(tmp_path, monkeypatch):
    first = Trainer(config(), tmp_path)
    events = iter(first)
    assert [letter(next(events)) for _ in range(7)] == SEQUENCE[:7]
    latencies = dict(first.engine.latency.lines)
    del events  # and with it the hold on the folder
    monkeypatch.setattr(engine_module.LatencyTable, "measure", lambda *_: None)
    second = Trainer(config(), tmp_path)
    assert second.engine.macs > first.engine.seedling["macs"]
    assert second.engine.seedling == first.engine.seedling
    assert second.engine.budget == first.engine.budget
    assert second.engine.latency.lines == latencies


def test_the_same_trainer_goes_on_where_a_checkpoint_left_it(tmp_path):
    trainer = Trainer(config(**RUNS["sgd, at random"]), tmp_path)
    for event in trainer:
        if isinstance(event, CheckpointSaved) and trainer.progress.step == 2:
            break
    assert same(unbroken("sgd, at random"), outcome(tmp_path, trainer, [letter(event) for event in trainer]))


LOCKSTEP = """
import sys
from ghostkit import RunConfig, Trainer
for event in Trainer(RunConfig.read(sys.argv[1]), sys.argv[2]):
    print(type(event).__name__[0], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_run_that_was_killed_at_any_moment_resumes_and_ends_the_same(tmp_path):
    (tmp_path / "config").write_text(config(**RUNS["sgd, at random"]).model_dump_json())
    chance = random.SystemRandom()
    place, moment = chance.randrange(2, len(SEQUENCE) - 1), chance.uniform(0, 0.05)
    command = [sys.executable, "-c", LOCKSTEP, str(tmp_path / "config"), str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for expected in SEQUENCE[:place]:
            assert process.stdout.readline().strip() == expected
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(moment)  # it is at work on the next event
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    trainer = Trainer(config(**RUNS["sgd, at random"]), tmp_path / "run")
    resumed = outcome(tmp_path / "run", trainer, [letter(event) for event in trainer])
    assert same(unbroken("sgd, at random"), resumed), f"killed {moment} s after event {place}"


def test_a_finished_run_is_returned_and_not_trained_again(tmp_path):
    first = ghostkit.train(config(), tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert [letter(event) for event in Trainer(config(), tmp_path)] == ["F"]
    second = ghostkit.train(config(), tmp_path)
    assert timeless(first.result) == timeless(second.result)
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_a_resumed_optimizer_state_lies_beside_its_parameters():
    parameter = nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.Adam([parameter])
    optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}
    trainer_module.move_state(optimizer, torch.device("cpu"))
    devices = {name: value.device.type for name, value in optimizer.state[parameter].items()}
    assert devices == {"step": "cpu", "exp_avg": "meta"}


# What happens, and when


@pytest.mark.parametrize("name", RUNS)
def test_events_come_in_order(name):
    assert unbroken(name).letters == SEQUENCE


def test_each_event_tells_what_happened(tmp_path):
    trainer = Trainer(config(), tmp_path)
    events = list(trainer)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(event.step, event.progress) for event in steps] == [(n, n / 8) for n in range(1, 9)]
    assert all(isinstance(event.loss, float) for event in steps)
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.row["step"] for event in evaluated] == [0, 2, 4, 6, 8]
    assert all(event.row["loss"] == event.scores.loss for event in evaluated)
    assert all(int(event.scores.confusion.sum()) == 50 for event in evaluated)
    grown = [event.event for event in events if isinstance(event, Grown)]
    assert [event.step for event in grown] == [2, 6]
    assert grown == Run(tmp_path).history.events
    assert all(
        event.folder.is_dir() for event in events if isinstance(event, CheckpointSaved) and "2" in event.folder.name
    )
    assert isinstance(events[-1], Finished)
    assert events[-1].result == Run(tmp_path).result
    train = Run(tmp_path).metrics.query("split == 'train' and step == 2")
    assert float(train["loss"].iloc[0]) == pytest.approx((steps[0].loss + steps[1].loss) / 2, rel=1e-6)


def test_evaluations_come_at_their_shares_of_the_run():
    trainer = Trainer(config(epochs=5, when="never", evaluate_every=0.05))
    assert [event.row["step"] for event in trainer if isinstance(event, Evaluated)] == [*range(21)]


def test_a_run_that_never_grows_has_no_events_and_stays_a_seedling(tmp_path):
    trainer = Trainer(config(when="never"), tmp_path)
    size = trainer.engine.params
    assert not [event for event in trainer if isinstance(event, Grown)]
    run = Run(tmp_path)
    assert len(run.events) == len(run.candidates) == 0
    assert set(run.metrics["params"]) == {size} == {run.result["params"]}
    assert run.result["growth_events"] == 0


def test_the_learning_rate_is_held_and_then_falls_to_zero():
    trainer = Trainer(config(epochs=5, anneal_from=0.5, learning_rate=0.03))
    rates = [trainer.optimizer.param_groups[0]["lr"] for event in trainer if isinstance(event, StepDone)]
    assert rates[:11] == [0.03] * 11  # through the step that begins at one half
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.03 * 0.03
    assert rates[15] == pytest.approx(0.03 / 2)  # half a cosine, half way


def test_every_group_follows_the_learning_rate_and_new_parameters_join_one():
    trainer = Trainer(config(kinds=("block",)))
    trainer.train()
    members = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in members} == {id(parameter) for parameter in trainer.model.parameters()}
    assert any(".g1." in name for name, _ in trainer.model.named_parameters())


# Compute and budgets


def fresh_count(model: nn.Module) -> tuple[int, int]:
    """Parameters and MACs per 8 x 8 image, counted here."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 1, 8, 8))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def test_a_step_costs_three_times_its_images_macs_and_scoring_is_added():
    trainer = Trainer(config(train_samples=200))  # batches of 64, 64, 64 and 8
    spent, macs, last, images = 0.0, trainer.engine.macs, 0.0, [64, 64, 64, 8] * 2
    for event in trainer:
        now = trainer.progress.compute
        if isinstance(event, StepDone):
            assert now - last == 3 * macs * images[event.step - 1]
        elif isinstance(event, Grown):
            assert event.event.compute == last
            assert now - last > 2 * 3 * macs * 32  # at least two passes over the probe, with candidates attached
            assert event.event.macs_after > macs
            spent, macs = spent + now - last, event.event.macs_after
        else:
            assert now == last
        last = now
    assert trainer.engine.spent == 0
    assert spent > 0


def test_candidates_can_be_looked_at_by_hand_and_looking_is_counted():
    trainer = Trainer(config(when="never"))
    before = tensors_of(trainer)
    frame = trainer.candidates()
    assert {"edit", "site", "kind", "init", "gain", "macs", "params", "milliseconds", "unit"} == set(frame.columns)
    assert trainer.progress.compute == frame.attrs["macs"] > 0
    assert differences(before, tensors_of(trainer)) == []


@pytest.mark.parametrize("when", ["never", "interval"])
def test_a_run_of_limited_compute_stops_there_whatever_its_epochs(when, tmp_path):
    macs = Trainer(config()).engine.macs
    limit = 3.0 * macs * 64 * 10.5  # ten and a half steps of the seedling
    trainer = Trainer(config(compute=limit, epochs=1000, when=when), tmp_path)
    before = 0.0
    for event in trainer:
        if isinstance(event, StepDone):
            assert before < limit
        before = trainer.progress.compute
    run = Run(tmp_path)
    assert limit <= run.result["compute"] <= limit + 3 * run.result["macs"] * 64
    assert run.result["steps"] == 11 if when == "never" else run.result["steps"] < 11
    assert run.metrics["progress"].iloc[-1] == 1
    assert run.metrics["compute"].iloc[-1] == run.result["compute"]
    assert (len(run.events) > 0) == (when == "interval")


def test_a_run_of_limited_compute_says_when_it_can_never_grow():
    trainer = Trainer(config(compute=1e9, grow_from=0.3331, grow_until=0.3332))
    (said,) = history_of(trainer.model).events
    assert "no growth: none of the run's" in said.reason
    assert not history_of(Trainer(config(compute=1e9)).model).events


@pytest.mark.parametrize("name", RUNS)
def test_the_sizes_in_the_files_equal_a_fresh_count(name):
    run = Run(unbroken(name).folder)
    history, metrics = run.history, run.metrics
    for number in range(len(history.events) + 1):
        rebuilt = ghostkit.rebuild(type(history)(history.recipe, history.image, history.events[:number]))
        count = fresh_count(rebuilt)
        frame = run.architecture(number)
        assert (frame["params"].sum(), frame["macs"].sum()) == count
        first = history.events[number - 1].step if number else -1
        last = history.events[number].step if number < len(history.events) else 8
        rows = metrics[(metrics["step"] > first) & (metrics["step"] <= last)]
        assert len(rows) > 0
        assert set(zip(rows["params"], rows["macs"], strict=True)) == {count}
        if number:
            assert (run.events["params_after"][number - 1], run.events["macs_after"][number - 1]) == count
    assert (run.result["params"], run.result["macs"]) == fresh_count(run.model()) == count


# Other settings


def test_every_epoch_comes_in_an_order_of_its_own():
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "model_options": {"stages": TINY["model_options"]["stages"]}}
    losses = [float(event.loss) for event in Trainer(config(when="never", **still)) if isinstance(event, StepDone)]
    assert len(set(losses)) == 8  # the network stays as it is, but no batch comes twice


def test_augmentation_reaches_the_network():
    losses = []
    for augment in ("none", "crop", "crop+flip"):
        trainer = Trainer(config(augment=augment, when="never"))
        losses.append(next(float(event.loss) for event in trainer if isinstance(event, StepDone)))
    assert len(set(losses)) == 3


# What goes wrong


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    trainer = Trainer(config(learning_rate=1e30, evaluate_every=0.5, when="never"), tmp_path)
    with pytest.raises(
        GhostkitError, match=r"the loss became (nan|inf) at step \d+ with learning_rate=1e\+30.*Try"
    ) as caught:
        trainer.train()
    assert "last checkpoint is kept" in str(caught.value)
    model = Run(tmp_path).model()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    assert fresh_count(model) == (trainer.engine.params, trainer.engine.macs)
    assert not (tmp_path / "result.json").exists()


def test_a_run_of_another_configuration_is_not_touched(tmp_path):
    events = iter(Trainer(config(), tmp_path))
    for _ in range(2):
        next(events)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        GhostkitError, match=r"another configuration \(epochs=2.0 there, 3.0 now; seed=0 there, 4 now\)"
    ):
        Trainer(config(epochs=3, seed=4), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def cut_short(folder: Path) -> None:
    path = next(folder.glob("model-*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])


def foreign(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["state"]["policy"], manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut_short, "step-00000000.*was cut short"), (foreign, "step-00000000.*was not saved by a trainer.*policy")],
)
def test_a_damaged_checkpoint_is_named_before_anything_is_written(damage: Callable[[Path], None], message, tmp_path):
    events = iter(Trainer(config(), tmp_path))
    for _ in range(4):
        next(events)
    del events
    damage(tmp_path / "checkpoints" / "step-00000000")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(GhostkitError, match=message):
        Trainer(config(), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
