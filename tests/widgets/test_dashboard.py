"""The dashboard without a browser: what its controls ask for, what it says, what it draws, and how often."""

from __future__ import annotations

import re
import time

import pytest
from bit_for_bit import config

from ghostkit import Trainer, train, widgets
from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import AddBranch
from ghostkit.views.curves import training_curves
from ghostkit.views.report import PLOTLY, Shown

LONG = {"epochs": 500, "when": "never"}


@pytest.fixture
def dashboard():
    made = widgets.Dashboard(Trainer(config(**LONG)))
    yield made
    made.live.stop()
    made.live.join(60)


def control(dashboard, name):
    """What carries the CSS class of that name."""

    def search(widget):
        if f"ghostkit-{name}" in widget._dom_classes:
            return widget
        return next(filter(None, map(search, getattr(widget, "children", ()))), None)

    return search(dashboard)


def until(what) -> None:
    """Wait until something is so; a minute is more than any machine needs."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def status(dashboard) -> str:
    return re.sub("<[^>]*>", "", control(dashboard, "status").value)


def message(dashboard) -> str:
    return re.sub("<[^>]*>", "", control(dashboard, "message").value)


def architecture(dashboard) -> str:
    (output,) = control(dashboard, "architecture").outputs
    assert PLOTLY in output["data"]
    return output["data"]["text/plain"]


def branches(dashboard) -> int:
    """Ghost maps of all blocks over their intrinsic ones, as the picture says: ``2+4`` is two branches."""
    drawn = architecture(dashboard).rpartition("now")[2]
    return sum(int(ghost) // int(intrinsic) for intrinsic, ghost in re.findall(r"(\d+)\+(\d+) → ", drawn))


def look(dashboard) -> list[str]:
    control(dashboard, "look").click()
    until(lambda: control(dashboard, "candidates").options)
    return [label for label, _ in control(dashboard, "candidates").options]


CONTROLS = "start pause stop look candidates grow undo when where grow-every grow-until share budget-macs".split()


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_says_what_it_does(dashboard, name):
    found = control(dashboard, name)
    assert found.tooltip
    assert name in ("start", "pause", "stop", "look", "grow", "undo") or found.tooltip in found.description


def test_start_pause_and_stop_are_on_when_they_mean_something(dashboard):
    def on() -> list[str]:
        return [name for name in ("start", "pause", "stop") if not control(dashboard, name).disabled]

    assert (on(), status(dashboard).split(" · ")[0]) == (["start"], "ready: press start")
    control(dashboard, "start").click()
    until(lambda: status(dashboard).startswith("training"))
    assert on() == ["pause", "stop"]
    control(dashboard, "pause").click()
    until(lambda: status(dashboard).startswith("paused"))
    assert (on(), control(dashboard, "start").description) == (["start", "stop"], "resume")
    control(dashboard, "stop").click()
    until(lambda: status(dashboard).startswith("stopped"))
    assert on() == ["start"]


def test_the_curves_move_while_it_trains(dashboard):
    curves = control(dashboard, "curves")
    control(dashboard, "start").click()
    until(lambda: len(curves.data[0].x) > 3)
    until(lambda: len(next(trace for trace in curves.data if trace.name == "test").x) > 0)
    assert not curves.layout.annotations  # which said that nothing had been measured


def test_the_curves_say_what_was_measured_and_in_which_unit():
    dashboard = widgets.Dashboard(Trainer(config(validation_samples=32)))
    dashboard.train()
    drawn, curves = training_curves(*dashboard._frames()), control(dashboard, "curves")
    assert curves.data[2].name == "validation"
    for seen, expected in zip(curves.data, drawn.data, strict=True):
        for name in ("name", "legendgroup", "hovertemplate", "showlegend"):
            assert seen[name] == expected[name]
    unit = curves.layout.yaxis4.title.text.partition("<br>")[0]
    assert f" {unit} per image" in curves.data[5].hovertemplate
    aged = curves.data[7].marker
    assert list(aged.color) == list(drawn.data[7].marker.color)
    assert aged.cmax == drawn.data[7].marker.cmax


def test_a_dashboard_of_a_run_that_is_over_is_made_with_its_curves(tmp_path):
    train(config(), tmp_path)
    curves = control(widgets.Dashboard(Trainer(config(), tmp_path)), "curves")
    assert len(curves.data[2].x) > 1
    assert not curves.layout.annotations


def test_what_a_browser_sends_back_for_what_was_never_said_is_drawn_over(dashboard):
    dashboard._curves.data[8].text = ""  # plotly.js's default for the text of marks without one
    dashboard._drawn = (-1, -1)
    dashboard.draw()
    assert dashboard.live.trouble == ""


def test_a_picture_that_failed_once_is_not_complained_of_for_ever(dashboard, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(dashboard, "_steps", lambda: 1 / 0)
        control(dashboard, "start").click()
        until(lambda: "ZeroDivisionError" in message(dashboard))
    until(lambda: message(dashboard) == "")
    assert dashboard.live.trouble == ""


def test_grow_now_adds_a_branch_that_the_architecture_shows_and_undo_removes_it(dashboard):
    assert "now" not in architecture(dashboard)  # nothing has grown that could be compared
    before = branches(dashboard)
    offered = look(dashboard)
    assert re.fullmatch(r"Add\w+\(.+\)  [+-][\d.e-]+ nats, [\d.]+ k?MAC", offered[0])
    chosen = next(n for n, edit in enumerate(dashboard.candidates["edit"]) if isinstance(edit, AddBranch))
    control(dashboard, "candidates").value = chosen
    control(dashboard, "grow").click()
    until(lambda: "by hand: AddBranch" in message(dashboard))
    until(lambda: branches(dashboard) == before + 1)
    assert control(dashboard, "candidates").options == ()
    control(dashboard, "undo").click()
    until(lambda: "undo of event 1: RemoveBranch" in message(dashboard))
    until(lambda: branches(dashboard) == before)


def test_grow_now_without_a_choice_says_what_to_do_first(dashboard):
    control(dashboard, "grow").click()
    assert message(dashboard).startswith("press look first")


def test_undo_of_nothing_is_an_error_that_is_shown(dashboard):
    control(dashboard, "undo").click()
    until(lambda: "nothing is left to undo" in message(dashboard))


def test_the_knobs_stand_at_what_the_run_goes_by_and_change_it(dashboard):
    assert control(dashboard, "share").value == 0.1
    control(dashboard, "share").value = 0.3
    until(lambda: message(dashboard) == "changed by hand: share from 0.1 to 0.3")
    control(dashboard, "budget-macs").value = 2.5
    until(lambda: dashboard.live.trainer.engine.budget.macs == 2_500_000)
    control(dashboard, "when").value = "interval"
    until(lambda: dashboard.live.trainer.engine.policy.when == "interval")


def test_a_knob_that_does_not_fit_says_so_and_changes_nothing(dashboard):
    control(dashboard, "share").value = 3.0
    until(lambda: "parameter share = 3.0" in message(dashboard))
    assert dashboard.live.trainer.engine.policy.share == 0.1


def test_the_knobs_stand_at_what_the_run_goes_by_after_a_refusal_and_after_what_follows_another():
    settings = {"when": "interval", "grow_from": 0.05, "grow_until": 0.12, "evaluate_every": 0.03}
    dashboard = widgets.Dashboard(Trainer(config(**settings)))
    control(dashboard, "share").value = 3.0
    until(lambda: control(dashboard, "share").value == 0.1)
    assert "parameter share = 3.0" in message(dashboard)
    control(dashboard, "when").value = "plateau"
    until(lambda: control(dashboard, "grow-until").value == 0.4)
    control(dashboard, "grow-until").value = 0.12
    until(lambda: dashboard.live.trainer.engine.policy.grow_until == 0.12)


def test_a_look_chooses_the_best_candidate(dashboard):
    look(dashboard)
    assert control(dashboard, "candidates").value == 0
    until(lambda: "the best of them in the list" in message(dashboard))
    control(dashboard, "grow").click()
    until(lambda: message(dashboard).startswith("by hand"))


def test_another_dashboard_of_a_trainer_shows_the_same_training(dashboard):
    control(dashboard, "start").click()
    until(lambda: status(dashboard).startswith("training"))
    again = widgets.Dashboard(dashboard.live.trainer)
    assert again.live is dashboard.live
    until(lambda: "step 0" not in status(again))
    control(again, "stop").click()
    until(lambda: status(again).startswith("stopped"))


def test_after_the_end_growth_is_taken_back_but_nothing_is_steered(tmp_path):
    dashboard = widgets.Dashboard(Trainer(config(), tmp_path))
    dashboard.train()
    assert control(dashboard, "share").disabled
    assert not control(dashboard, "undo").disabled


def test_a_failed_run_shows_its_traceback(monkeypatch):
    dashboard = widgets.Dashboard(Trainer(config()))

    def breaks(*_batch):
        raise RuntimeError("out of <luck>")

    monkeypatch.setattr(dashboard.live.trainer, "_step", breaks)
    control(dashboard, "start").click()
    until(lambda: status(dashboard).startswith("failed"))
    assert "RuntimeError: out of &lt;luck&gt;" in message(dashboard)
    assert control(dashboard, "start").disabled
    assert control(dashboard, "grow").disabled


def test_where_nobody_is_there_it_trains_to_the_end_and_leaves_a_figure(tmp_path):
    dashboard = widgets.Dashboard(Trainer(config(), tmp_path / "run"))
    shown = dashboard.run_unattended()
    assert isinstance(shown, Shown)
    assert "growth event" not in shown.text.splitlines()[0]
    assert status(dashboard).startswith("finished · 100%")
    assert (tmp_path / "run" / "result.json").exists()


def test_where_somebody_is_there_it_waits_for_them(monkeypatch):
    monkeypatch.setattr("ghostkit.widgets.dashboard.attended", lambda: True)
    dashboard = widgets.Dashboard(Trainer(config()))
    assert dashboard.run_unattended() is None
    assert status(dashboard).startswith("ready")


def test_a_run_that_fails_with_nobody_there_is_an_error(monkeypatch):
    dashboard = widgets.Dashboard(Trainer(config()))
    monkeypatch.setattr(dashboard.live.trainer, "_step", lambda *_: 1 / 0)
    with pytest.raises(GhostkitError, match="the run failed: ZeroDivisionError"):
        dashboard.train()


def test_what_takes_long_to_draw_is_drawn_less_often(dashboard, monkeypatch):
    drawn = []
    monkeypatch.setattr(dashboard, "draw", lambda: drawn.append(1))
    monkeypatch.setattr(dashboard.live, "state", "training")
    dashboard._drawn_at, dashboard._drawn_for = time.perf_counter(), 3600.0
    dashboard._told(None)
    assert drawn == []
    dashboard._drawn_for = 0.0
    dashboard._drawn_at -= 1
    dashboard._told(None)
    assert drawn == [1]
    monkeypatch.setattr(dashboard.live, "state", "ready")
