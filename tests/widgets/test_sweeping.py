"""A sweep as a widget: the counts of its events, and what went wrong, as plain text."""

from __future__ import annotations

from ghostkit.sweeps import RunBegan, RunEnded, SweepBegan
from ghostkit.widgets.sweeping import SHOWN, SweepProgress

EVENTS = [
    SweepBegan(5, 1, 2, 8.0),
    RunBegan("002-b"),
    RunBegan("003-c"),
    RunEnded("003-c", "failed", 1.0, "ValueError: <b>boom</b>"),
    RunBegan("004-d"),
    RunEnded("002-b", "done", 12.0),
]


def test_a_widget_shows_the_same_and_escapes_it():
    progress = SweepProgress()
    for event in EVENTS:
        progress(event)
    assert (progress.bar.value, progress.bar.max, progress.bar.bar_style) == (3, 5, "danger")
    assert progress.counts.value == str(progress.tally)
    assert progress.running.value == "running: 004-d"
    assert "ValueError: &lt;b&gt;boom" in progress.trouble.value
    assert repr(progress).startswith("2 of 5 done")


def test_a_sweep_that_goes_on_is_shown_without_the_troubles_of_before():
    progress = SweepProgress()
    for event in [*EVENTS, SweepBegan(5, 2, 2, 8.0)]:
        progress(event)
    assert (progress.bar.value, progress.bar.bar_style, progress.trouble.value) == (2, "", "")


def test_it_ends_green_and_idle():
    progress = SweepProgress()
    for event in (SweepBegan(1, 0, 1), RunBegan("001"), RunEnded("001", "done", 1.0)):
        progress(event)
    assert (progress.bar.bar_style, progress.running.value, progress.trouble.value) == ("success", "", "")


def test_of_many_failures_the_last_ones_are_shown():
    progress = SweepProgress()
    progress(SweepBegan(20, 0, 1))
    for number in range(SHOWN + 2):
        progress(RunEnded(f"run {number}", "failed", 1.0, "boom"))
    assert "run 0:" not in progress.trouble.value
    assert f"run {SHOWN + 1}:" in progress.trouble.value
    assert "and 2 before these" in progress.trouble.value
