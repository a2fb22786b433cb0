"""A training on its own thread: what it does when asked, that it ends as any other run, and what an error leaves."""

from __future__ import annotations

import threading

import pytest
from bit_for_bit import config, differences, latencies, tensors_of  # noqa: F401

from ghostkit import Run, Trainer
from ghostkit.errors import GhostkitError
from ghostkit.events import Evaluated, StepDone
from ghostkit.growth.edits import AddBranch
from ghostkit.live import Live, Record, attended

LONG = {"epochs": 500, "evaluate_every": 0.002, "grow_from": 0.0, "grow_every": 0.002, "grow_until": 0.004}


class Watched(Live):
    """A training that says when it has seen something."""

    def __init__(self, trainer: Trainer) -> None:
        self.seen: list = []
        self.moved = threading.Condition()
        super().__init__(trainer, self._note)

    def _note(self, event) -> None:
        with self.moved:
            self.seen.append(event)
            self.moved.notify_all()

    def wait(self, what) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: what(self), timeout=60)


def train_to(live: Watched, step: int) -> None:
    """Train until ``step`` steps are taken at least, and stop."""
    live.start()
    live.wait(lambda live: live.trainer.progress.step >= step)
    live.stop()
    live.join(60)


def branch_of(live: Live) -> AddBranch:
    frame = live.candidates().result(60)
    return next(edit for edit in frame["edit"] if isinstance(edit, AddBranch))


@pytest.mark.usefixtures("latencies")
def test_a_run_on_a_thread_ends_on_the_same_bits_as_one_without(tmp_path):
    plain, live = Trainer(config(), tmp_path / "plain"), Watched(Trainer(config(), tmp_path / "live"))
    plain.train()
    live.start()
    live.wait(lambda live: len(live.seen) > 2)
    live.pause()
    live.wait(lambda live: live.state == "paused")
    live.start()
    live.join(60)
    assert live.state == "finished"
    assert differences(tensors_of(plain), tensors_of(live.trainer)) == []
    assert live.record.metrics_frame().equals(Run(tmp_path / "live").metrics)


@pytest.mark.usefixtures("latencies")
def test_what_was_recorded_is_what_the_folder_holds(tmp_path):
    live = Watched(Trainer(config(), tmp_path / "run"))
    live.start()
    live.join(60)
    run = Run(tmp_path / "run")
    assert live.record.events_frame().drop(columns="seconds").equals(run.events.drop(columns="seconds"))
    kept = list(live.record.blocks.columns)
    assert live.record.blocks.equals(run.architecture()[kept])
    again = Record.of(Trainer(config(), tmp_path / "run"))
    assert again.blocks[kept].equals(live.record.blocks)
    assert len(again.metrics) == len(live.record.metrics)


def test_a_paused_run_takes_no_step_and_answers_all_the_same():
    live = Watched(Trainer(config(**LONG)))
    live.start()
    live.wait(lambda live: any(isinstance(event, StepDone) for event in live.seen))
    live.pause()
    live.wait(lambda live: live.state == "paused")
    step = live.trainer.progress.step
    event = live.grow(branch_of(live)).result(60)
    assert (event.reason, live.trainer.progress.step) == ("by hand", step)
    assert live.record.events[-1]["kinds"] == "branch"
    live.stop()
    live.join(60)
    assert live.state == "stopped"


def test_growth_by_hand_is_seen_in_the_blocks_and_undone_again():
    live = Watched(Trainer(config(when="never")))
    before = live.record.blocks["branches"].sum()
    live.grow(branch_of(live)).result(60)
    assert live.record.blocks["branches"].sum() == before + 1
    assert live.record.blocks["grown"].max() == 1
    assert live.undo().result(60).undoes == 1
    assert live.record.blocks["branches"].sum() == before
    assert live.state == "ready"


def test_the_network_after_growth_by_hand_is_kept_as_after_any_other_event(tmp_path):
    live = Watched(Trainer(config(**LONG, when="never"), tmp_path / "run"))
    live.start()
    live.wait(lambda live: live.trainer.progress.step >= 2)
    live.grow(branch_of(live)).result(60)
    live.wait(lambda live: live.trainer.done > 0.01)  # some evaluations, and with them checkpoints, later
    live.stop()
    live.join(60)
    kept = Run(tmp_path / "run").model_at(1)
    assert (kept.event, kept.note) == (1, "")


def test_a_stopped_run_is_saved_and_goes_on_here_or_in_another_kernel(tmp_path):
    live = Watched(Trainer(config(**LONG, when="never"), tmp_path / "run"))
    train_to(live, 5)
    assert live.state == "stopped"
    train_to(live, live.trainer.progress.step + 1)
    assert live.state == "stopped"
    assert Trainer(live.trainer.config, tmp_path / "run").progress.step == live.trainer.progress.step
    live.start()
    live.join(60)
    assert live.state == "failed"
    assert "another Trainer has been at work" in live.failure


def test_a_stopped_run_that_goes_on_holds_its_folder_again(tmp_path):
    live = Watched(Trainer(config(**LONG, when="never"), tmp_path / "run"))
    train_to(live, 2)
    step = live.trainer.progress.step
    live.start()
    live.wait(lambda live: live.trainer.progress.step > step)
    with pytest.raises(GhostkitError, match="is being trained in by another Trainer of this process"):
        Trainer(live.trainer.config, tmp_path / "run").train()
    live.stop()
    live.join(60)


@pytest.mark.usefixtures("latencies")
def test_a_run_that_was_stopped_and_went_on_ends_on_the_same_bits(tmp_path):
    plain, live = Trainer(config(), tmp_path / "plain"), Watched(Trainer(config(), tmp_path / "live"))
    plain.train()
    for step in (1, 3):
        train_to(live, step)
    live.start()
    live.join(60)
    assert live.state == "finished"
    assert differences(tensors_of(plain), tensors_of(live.trainer)) == []
    assert live.record.metrics_frame().equals(Run(tmp_path / "live").metrics)


def test_a_trainer_is_in_one_loop_and_one_training_at_a_time():
    live = Watched(Trainer(config(**LONG)))
    live.start()
    live.wait(lambda live: live.trainer.progress.step >= 2)
    assert Live.of(live.trainer) is live
    with pytest.raises(GhostkitError, match="this Trainer trains already"):
        live.trainer.train()
    live.stop().result(60)
    live.join(60)
    assert live.state == "stopped"
    next(iter(live.trainer))  # nobody is in it any more


def test_a_stop_that_cannot_be_saved_is_told_to_who_asked_and_the_run_is_paused(tmp_path, monkeypatch):
    live = Watched(Trainer(config(**LONG), tmp_path / "run"))

    def full():
        raise GhostkitError("cannot write: no space left on device")

    live.start()
    live.wait(lambda live: live.trainer.progress.step >= 2)
    with monkeypatch.context() as disk:
        disk.setattr(live.trainer, "save", full)
        with pytest.raises(GhostkitError, match="no space left"):
            live.stop().result(60)
    assert (live.state, live.failure) == ("paused", "")
    live.stop().result(60)
    live.join(60)
    assert Trainer(live.trainer.config, tmp_path / "run").progress.step == live.trainer.progress.step


def test_what_is_taken_back_after_the_end_is_measured_again(tmp_path):
    live = Watched(Trainer(config(), tmp_path / "run"))
    live.start()
    live.join(60)
    grown = Run(tmp_path / "run").result
    live.undo().result(60)
    live.join(60)
    run = Run(tmp_path / "run")
    assert run.result["params"] < grown["params"]
    assert run.result["params"] == sum(parameter.numel() for parameter in run.model().parameters())
    assert live.state == "finished"


def test_an_error_in_the_thread_is_kept_with_its_traceback_and_leaves_a_resumable_run(tmp_path, monkeypatch):
    live = Watched(Trainer(config(), tmp_path / "run"))
    calls = iter(range(100))
    step = live.trainer._step

    def breaks(*batch):
        if next(calls) == 3:
            raise RuntimeError("the third step was too many")
        return step(*batch)

    monkeypatch.setattr(live.trainer, "_step", breaks)
    live.start()
    live.join(60)
    assert live.state == "failed"
    assert "RuntimeError: the third step was too many" in live.failure
    for asked in (live.start, live.candidates):
        with pytest.raises(GhostkitError, match="make its Trainer again, which resumes"):
            asked()
    resumed = Trainer(config(), tmp_path / "run")
    assert resumed.progress.step == 2
    resumed.train()


def test_what_does_not_fit_is_told_to_who_asked_and_training_goes_on():
    live = Watched(Trainer(config(**LONG)))
    live.start()
    with pytest.raises(GhostkitError, match="parameter share = 7"):
        live.steer(share=7).result(60)
    step = live.trainer.progress.step
    live.wait(lambda live: live.trainer.progress.step > step)
    assert (live.state, live.failure) == ("training", "")
    live.stop()
    live.join(60)


def test_an_error_of_who_looks_on_stops_nothing():
    def breaks(event) -> None:
        raise ValueError("no picture today")

    live = Live(Trainer(config()), breaks)
    live.start()
    live.join(60)
    assert live.state == "finished"
    assert "ValueError: no picture today" in live.trouble


def test_a_run_that_is_over_does_not_start_again():
    live = Watched(Trainer(config()))
    live.start()
    live.join(60)
    with pytest.raises(GhostkitError, match="the run is over"):
        live.start()
    assert sum(isinstance(event, Evaluated) for event in live.seen) == 5


def test_nobody_sits_at_a_test():
    assert attended() is False
