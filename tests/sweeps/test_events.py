"""Displays are fed events: what is counted, how long is left, and what a terminal makes of it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ghostkit.sweeps import RunBegan, RunEnded, SweepBegan, Tally, terminal
from ghostkit.sweeps.events import duration

EVENTS = [
    SweepBegan(5, 1, 2, 8.0),
    RunBegan("002-b"),
    RunBegan("003-[c]"),
    RunEnded("003-[c]", "failed", 1.0, "ValueError: <b>boom</b> [red]"),
    RunBegan("004-d"),
    RunEnded("002-b", "done", 12.0),
]


def test_runs_are_counted():
    tally = Tally()
    for event in EVENTS:
        tally.take(event)
    assert (tally.runs, tally.done, tally.failed, tally.left, list(tally.running)) == (5, 2, 1, 2, ["004-d"])
    assert str(tally).startswith("2 of 5 done, 1 running, 1 failed, time left ")


def test_a_tally_that_is_used_again_begins_anew():
    tally = Tally()
    for event in [*EVENTS, SweepBegan(5, 2, 2, 8.0)]:
        tally.take(event)
    assert (tally.done, tally.failed, tally.left, list(tally.running)) == (2, 0, 3, [])
    assert tally.seconds_left() == 12.0


def test_time_left_is_that_of_finished_runs_and_of_this_sitting_first():
    now = [0.0]
    tally = Tally(clock=lambda: now[0])
    assert tally.seconds_left() is None
    tally.take(SweepBegan(5, 1, 2, 8.0))
    assert tally.seconds_left() == 16.0
    tally.take(RunBegan("a"))
    now[0] = 4.0
    assert tally.seconds_left() == 14.0
    now[0] = 100.0  # a run that takes longer than others is taken for nearly done
    assert tally.seconds_left() == 12.0
    tally.take(RunEnded("a", "done", 20.0))
    assert tally.seconds_left() == 30.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown until one has finished"), (5.2, "5 s"), (600, "10 min"), (36000, "10.0 h")],
)
def test_a_duration_is_worded(seconds, words):
    assert duration(seconds) == words


def shown(monkeypatch: pytest.MonkeyPatch, moving: bool) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(
        terminal, "Console", lambda **options: Console(file=stream, force_terminal=moving, width=150, **options)
    )
    with terminal.TerminalProgress() as progress:
        for event in EVENTS:
            progress(event)
    return stream.getvalue()


def test_a_terminal_shows_counts_names_and_each_failure(monkeypatch):
    text = shown(monkeypatch, True)
    for part in ("2 of 5 done, 1 running, 1 failed", "004-d", "003-[c]: failed after 1.0 s: ValueError: <b>boom</b>"):
        assert part in text


def test_a_log_gets_a_line_a_run_and_no_bar(monkeypatch):
    lines = shown(monkeypatch, False).splitlines()
    assert len(lines) == 3
    assert lines[1] == "003-[c]: failed after 1.0 s: ValueError: <b>boom</b> [red]"


def test_a_quiet_sweep_shows_nothing(capsys):
    with terminal.TerminalProgress(shown=False) as progress:
        for event in EVENTS:
            progress(event)
    assert capsys.readouterr() == ("", "")
