"""Growth steered by hand while a run goes on: what changes, what is refused, and that a resumed run knows of it."""

from __future__ import annotations

import pytest
from bit_for_bit import config, differences, latencies, tensors_of  # noqa: F401

from ghostkit import Run, RunConfig, Trainer
from ghostkit.errors import GhostkitError
from ghostkit.events import Grown
from ghostkit.steering import STEERED, steered


def steps(trainer: Trainer, count: int):
    """Go on with ``trainer`` until it has taken ``count`` steps."""
    for event in trainer:
        if trainer.progress.step >= count:
            return event
    raise AssertionError("the run is over")


def test_everything_that_can_be_steered_is_a_field_of_the_configuration():
    assert set(STEERED) <= set(RunConfig.model_fields)
    assert set(steered(Trainer(config()).engine)) == set(STEERED)


def test_growth_goes_by_what_was_changed_and_the_history_says_so():
    trainer = Trainer(config(share=0.2))
    steps(trainer, 1)
    trainer.steer(budget_macs=10_000_000)
    event = trainer.steer(when="never", share=0.2, budget_macs=20_000_000)
    assert event.reason == ("changed by hand: when from interval to never, budget_macs from 10000000 to 20000000")
    assert (trainer.engine.policy.when, trainer.engine.budget.macs) == ("never", 20_000_000)
    assert not [event for event in trainer if isinstance(event, Grown) and event.event.edits]


def test_a_plateau_may_be_waited_for_longer_unless_it_was_said_how_long():
    trainer = Trainer(config(grow_until=0.12, grow_from=0.0, patience=1, evaluate_every=0.1))
    event = trainer.steer(when="plateau")
    assert event.reason == "changed by hand: when from interval to plateau, grow_until from 0.12 to 0.4"
    assert trainer.engine.policy.grow_until == trainer.changed["grow_until"] == 0.4
    assert trainer.steer(when="interval").reason.endswith("grow_until from 0.4 to 0.12")
    assert trainer.steer(when="plateau", grow_until=0.8).reason.endswith("grow_until from 0.12 to 0.8")
    assert trainer.steer(when="interval").reason == "changed by hand: when from plateau to interval"


def test_what_is_as_it_was_is_no_event():
    trainer = Trainer(config())
    assert trainer.steer(share=trainer.config.share) is None


def test_a_shorter_interval_counts_from_now_on_and_grows_nothing_at_once():
    trainer = Trainer(config(grow_from=0.0, grow_every=0.9, grow_until=1.0))
    steps(trainer, 3)
    due = trainer.engine.state.next_at
    trainer.steer(grow_every=0.25)
    assert trainer.engine.state.next_at == pytest.approx(trainer.done + 0.25)
    assert trainer.done + 0.25 < due


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 3.0}, "'epochs' cannot be changed while a run goes on; expected when, where"),
        ({"share": 2.0}, "parameter share = 2.0"),
        ({"when": "sometimes"}, "parameter when = 'sometimes'"),
        ({"grow_from": 0.9, "grow_until": 0.5}, "growth could never happen"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_has_changed(values, message):
    trainer = Trainer(config())
    before = steered(trainer.engine)
    with pytest.raises(GhostkitError, match=message):
        trainer.steer(**values)
    assert steered(trainer.engine) == before
    assert trainer.changed == {}


@pytest.mark.usefixtures("latencies")
def test_a_steered_run_resumes_as_if_it_had_never_been_interrupted(tmp_path):
    whole, broken = (Trainer(config(), tmp_path / name) for name in ("whole", "broken"))
    for trainer in (whole, broken):
        steps(trainer, 3)
        trainer.steer(grow_every=0.2, share=0.4)
    assert broken.save() == tmp_path / "broken" / "checkpoints" / "step-00000003"
    whole.train()
    resumed = Trainer(config(), tmp_path / "broken")
    assert (resumed.engine.policy.grow_every, resumed.engine.policy.share) == (0.2, 0.4)
    resumed.train()
    assert differences(tensors_of(whole), tensors_of(resumed)) == []
    first, second = (Run(tmp_path / name) for name in ("whole", "broken"))
    assert list(first.events["reason"]) == list(second.events["reason"])
    assert "changed by hand: grow_every from 0.5 to 0.2, share from 0.1 to 0.4" in list(second.events["reason"])
