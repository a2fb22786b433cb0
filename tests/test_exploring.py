"""What is asked of a run is worked out once, agrees with the run, and follows a run that goes on."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import pytest
from bit_for_bit import config

import ghostkit
from ghostkit import GhostkitError, Run, Trainer, exploring
from ghostkit.data import load
from ghostkit.exploring import END, Exploration

LAYER = "blocks.0.0.ghost1"


@cache
def trained() -> Path:
    """Eight steps, grown after the second, fourth and sixth."""
    return ghostkit.train(config(grow_every=0.25), mkdtemp()).folder


@pytest.fixture
def seen(tmp_path: Path) -> Exploration:
    return Exploration(shutil.copytree(trained(), tmp_path / "run"))


def test_its_networks_are_those_of_the_run(seen):
    for event in (END, 0, 2, 1, 3):
        pd.testing.assert_frame_equal(seen.architecture(event), seen.run.architecture(event))
        assert seen.network(event).step == seen.run.model_at(event).step


def test_a_network_that_cannot_be_shown_says_why_whenever_it_is_asked_for(seen, monkeypatch):
    frames = [seen.run.architecture(event) for event in (0, 1)]

    def broken(history):
        yield from frames
        raise GhostkitError("event 2 fits no network")

    monkeypatch.setattr(exploring, "architectures", broken)
    seen.refresh()
    for _ in range(2):
        with pytest.raises(GhostkitError, match="event 2 fits no network"):
            seen.architecture(END)
        pd.testing.assert_frame_equal(seen.architecture(1).drop(columns="gain"), frames[1].drop(columns="gain"))


def test_a_weighed_architecture_has_a_number_for_each_block_that_can_be_switched_off(seen):
    frame = seen.architecture(END, weighed=True).set_index("block")
    assert list(frame.index) == list(seen.architecture(END)["block"])
    assert frame["importance"].isna().to_dict() == {block: block in ("stem", "head") for block in frame.index}


@pytest.mark.parametrize(("progress", "event"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.6, 2), (0.99, 3), (1.0, END)])
def test_an_event_is_found_by_the_share_of_the_run(progress, event, seen):
    assert seen.event_at(progress) == event
    assert seen.event_at(seen.progress(event)) == event


def test_scores_over_all_test_images_are_those_of_the_run(seen):
    assert seen.scores(END, None, 10_000)["accuracy"] == pytest.approx(seen.run.result["accuracy"])
    assert seen.scores(END, None, 10_000)["loss"] == pytest.approx(seen.run.result["loss"], rel=1e-5)


def test_a_run_with_images_held_out_is_explored_on_them_and_not_on_the_test_images(tmp_path):
    seen = Exploration(ghostkit.train(config(when="never", epochs=0.5, validation_samples=40), tmp_path))
    assert seen.scores(END, None, 10_000)["accuracy"] == pytest.approx(seen.run.result["accuracy"])
    assert seen.scores(END, None, 10_000)["loss"] == pytest.approx(seen.run.result["loss"], rel=1e-5)
    assert [one.truth for one in seen.predictions(END, None, [0, 1, 2])] == seen.data.validation.labels[:3].tolist()
    for ask in (seen.importance, lambda event: seen.similarity(event, LAYER)):
        assert len(ask(END))
    with pytest.raises(GhostkitError, match="there is no validation image 40; expected 0 to 39"):
        seen.maps(END, LAYER, 40)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_in_another_precision_is_explored_too(precision, tmp_path):
    seen = Exploration(ghostkit.train(config(when="never", epochs=0.5, precision=precision), tmp_path))
    assert seen.scores(END, None, 10_000)["accuracy"] == seen.run.result["accuracy"]
    assert len(seen.predictions(END, None, [0, 1])) == 2
    assert seen.maps(END, LAYER, 0)[0].shape == (4, 8, 8)
    assert seen.importance(END)["importance"].notna().all()


def test_the_same_question_is_answered_once(seen, monkeypatch):
    asked = [seen.similarity(1, LAYER), seen.importance(1), seen.scores(1, None, 20), seen.network(1)]
    for name in ("similarity", "importance", "TASKS"):
        monkeypatch.delattr(exploring, name)
    monkeypatch.delattr(Run, "model_at")
    again = [seen.similarity(1, LAYER), seen.importance(1), seen.scores(1, None, 20), seen.network(1)]
    assert all(one is other for one, other in zip(asked, again, strict=True))


def test_few_networks_are_kept_in_memory(seen):
    first = seen.network(0)
    for event in (1, 2, 3, END):
        seen.network(event)
    assert seen.network(0) is not first
    assert seen.network(END) is seen.network(END)


def test_images_are_loaded_as_the_run_had_them_unless_they_are_given(seen):
    assert len(seen.data.test) == 50
    given = load("digits", test_samples=20)
    assert Exploration(seen.run, given).data is given


@pytest.mark.parametrize("number", [-1, 50])
def test_an_image_that_is_not_there_is_refused(number, seen):
    with pytest.raises(GhostkitError, match=f"there is no test image {number}; expected 0 to 49"):
        seen.maps(END, LAYER, number)


def test_a_run_that_goes_on_is_read_again_when_asked(tmp_path):
    events = iter(Trainer(config(grow_every=0.25), tmp_path))
    next(events), next(events)
    seen = Exploration(tmp_path)
    assert (seen.events, seen.network(END).step) == (0, 0)
    for _ in events:
        pass
    assert seen.events == 0
    seen.refresh()
    assert (seen.events, seen.network(END).step) == (3, 8)
    pd.testing.assert_frame_equal(seen.architecture(END), Run(tmp_path).architecture())
