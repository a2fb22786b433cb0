"""Killed by SIGKILL at any moment, again and again, a run ends on the same bits: metrics, history, checkpoints, result.

A handful of kills here; with GHOSTKIT_SOAK in the environment, many at random over several kinds of run.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter

import pytest
from reliability.runs import RUNS
from reliability.victims import differing, left_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL, and no fork")

SOAK = bool(os.environ.get("GHOSTKIT_SOAK"))
KILLED = -signal.SIGKILL
RANDOM_KILLS = 25 if SOAK else 3  # of each kind of run
PLACES = {  # place, number of the call, and which side of it
    "before the first checkpoint is whole": ("write", 5, "half"),
    "inside a data file of a checkpoint": ("write", 14, "half"),
    "between data and manifest": ("rename", 11, "after"),
    "between manifest and pruning": ("prune", 3, "before"),
    "inside the pruning": ("rmtree", 1, "before"),
    "inside a line of metrics": ("metrics", 3, "before"),
    "between metrics and checkpoint": ("metrics", 3, "after"),
    "with a step half done": ("step", 5, "after"),
    "while candidates are scored": ("score", 1, "after"),
    "between two edits of an event": ("surgery", 20, "after"),
    "with an event applied and not yet noted": ("grow", 1, "after"),
    "with an event noted and not yet saved": ("history", 2, "after"),
    "while the result is written": ("rename", -1, "before"),
}
SETTLING = {
    "adamw": [("settle", 1, "before"), ("settle", 1, "after")],
    "rolled back": [("settle", 1, "after"), ("restore", 1, "before"), ("restore", 1, "after")],
}


def test_the_runs_come_through_what_must_survive_a_kill(unbroken):
    sgd, adamw, back = (unbroken(name) for name in ("sgd", "adamw", "rolled back"))
    assert sgd["calls"]["grow"] == 2
    assert adamw["calls"]["settle"] > 0
    assert back["calls"]["restore"] > 0
    assert any(event["undoes"] for event in back["left"]["history.jsonl"][1:])


@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_at_a_certain_place_ends_as_if_it_had_not_been(place, victims, unbroken, tmp_path):
    whole = unbroken("sgd")
    name, number, side = PLACES[place]
    at = (name, number if number > 0 else whole["calls"][name], side)
    assert victims.run(RUNS["sgd"], tmp_path / "run", at=at)["code"] == KILLED
    assert victims.run(RUNS["sgd"], tmp_path / "run")["code"] == 0
    assert differing(whole["left"], left_of(tmp_path / "run")) == []


@pytest.mark.parametrize(("name", "at"), [(name, at) for name in SETTLING for at in SETTLING[name]])
def test_a_run_killed_while_an_event_is_settled_ends_as_if_it_had_not_been(name, at, victims, unbroken, tmp_path):
    assert victims.run(RUNS[name], tmp_path / "run", at=at)["code"] == KILLED
    assert victims.run(RUNS[name], tmp_path / "run")["code"] == 0
    assert differing(unbroken(name)["left"], left_of(tmp_path / "run")) == []


@pytest.mark.parametrize("name", RUNS if SOAK else ["sgd"])
def test_a_run_killed_at_random_again_and_again_ends_as_if_it_had_not_been(name, victims, unbroken, tmp_path):
    whole, chance = unbroken(name), random.SystemRandom()
    told, kills, runs, ended = [], 0, 0, 0
    while kills < RANDOM_KILLS or told:
        folder = tmp_path / f"run-{ended}"
        if kills >= RANDOM_KILLS:
            how = {}
        elif chance.random() < 0.5:  # from outside, at a time; the clock of a busy machine is no matter
            how = {"after": chance.uniform(0.02, whole["seconds"])}
        else:
            place = chance.choice([*whole["calls"]])
            how = {"at": (place, chance.randint(1, whole["calls"][place]), chance.choice(["before", "after"]))}
        told.append(how)
        code = victims.run(RUNS[name], folder, **how)["code"]
        runs += 1
        assert code in (0, KILLED), told
        kills += code == KILLED
        if code == 0:
            assert differing(whole["left"], left_of(folder)) == [], told
            ended, told = ended + 1, []
    print(f"{name}: {kills} kills, {runs - kills} ends of {ended} runs, no differences")


@pytest.mark.skipif(not SOAK, reason="every place takes minutes")
@pytest.mark.parametrize("name", ["sgd", "rolled back"])
def test_a_run_killed_at_every_write_rename_and_surgery_ends_as_if_it_had_not_been(name, victims, unbroken, tmp_path):
    whole, kills = unbroken(name), Counter()
    for place, side in (("write", "half"), ("rename", "before"), ("rename", "after"), ("surgery", "after")):
        for number in range(1, whole["calls"][place] + 1, 1 if place != "surgery" else 5):
            folder = tmp_path / f"{place}-{number}-{side}"
            assert victims.run(RUNS[name], folder, at=(place, number, side))["code"] == KILLED
            assert victims.run(RUNS[name], folder)["code"] == 0
            assert differing(whole["left"], left_of(folder)) == [], (place, number, side)
            kills[place] += 1
    print(f"{name}: kills {dict(kills)}, no differences")
