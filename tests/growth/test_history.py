"""The history is plain JSON lines that outlive a crash, and two runs of one seed have equal ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    GrowthEvent,
    History,
    RemoveBlock,
    RemoveBranch,
    grow,
    history_of,
)
from ghostkit.growth.candidates import candidates

EVENTS = [
    GrowthEvent(
        (AddBranch("a", 5, "svd"), AddBlock("b", "0", 7)),
        (RemoveBlock("b", "g1"), RemoveBranch("a", 5, 0)),
        None,
        "plateau",
        10,
        0.5,
        0.1,
        1e9,
        5,
        9,
        50,
        90,
        2.0,
        2.0,
    ),
    GrowthEvent(
        (),
        reason="no candidate fits the budget",
        candidates=({"edit": "AddBranch(a, 3x3)", "gain": 0.125, "chosen": True},),
    ),
    GrowthEvent((AddIntrinsic("a", 2),), max_logit_change=1.5e-17, clock={"seconds": 0.25}),
]
RECIPE = {"name": "seedling", "num_classes": 10, "in_channels": 1}


@pytest.fixture
def lines() -> list[str]:
    return History(RECIPE, events=EVENTS).lines()


def test_a_history_survives_json_whole(lines: list[str]) -> None:
    history = History.parse(lines)
    assert (history.recipe, history.events) == (RECIPE, EVENTS)
    assert [event.clock for event in history.events] == [event.clock for event in EVENTS]
    assert history.lines() == lines
    assert [str(edit) for edit in history.edits] == ["AddBranch(a, 5x5)", "AddBlock(b, after 0)", "AddIntrinsic(a, +2)"]


def test_the_first_line_is_the_recipe_and_every_line_is_json(lines: list[str]) -> None:
    assert json.loads(lines[0])["recipe"] == RECIPE
    assert [json.loads(line)["reason"] for line in lines[1:]] == [event.reason for event in EVENTS]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_last_line_that_was_cut_short_is_left_out(lines: list[str], cut: int) -> None:
    assert History.parse([*lines[:-1], lines[-1][:cut]]).events == EVENTS[:-1]


def test_what_a_clock_said_makes_no_two_histories_differ() -> None:
    assert replace(EVENTS[2], clock={"seconds": 99.0}) == EVENTS[2]
    assert replace(EVENTS[2], step=1) != EVENTS[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], lines[1][:30], *lines[2:]], ["my history, line 2", "{"]),
        (lambda lines: [], ["my history does not begin with a recipe"]),
        (lambda lines: lines[1:], ["my history does not begin with a recipe"]),
        (lambda lines: ["[1, 2]", *lines[1:]], ["my history does not begin with a recipe"]),
        (lambda lines: [lines[0].replace('"format": 1', '"format": 99'), *lines[1:]], ["format 99", "reads format 1"]),
        (lambda lines: [lines[0], lines[1].replace('"step"', '"stride"'), lines[2]], ["'stride'"]),
        (lambda lines: [lines[0], "[1]", lines[2]], ["my history"]),
        (lambda lines: [lines[0], '{"step": 3}', lines[2]], ["no list of edits"]),
        (lambda lines: [lines[0], lines[1].replace("AddBranch", "AddMagic"), lines[2]], ["'AddMagic'"]),
    ],
    ids=[
        "broken middle",
        "empty",
        "no recipe",
        "a list",
        "newer format",
        "unknown field",
        "no event",
        "no edits",
        "edit",
    ],
)
def test_a_history_that_cannot_be_read_is_refused_and_quoted(lines: list[str], change: Callable, words: list) -> None:
    with pytest.raises(GhostkitError) as refusal:
        History.parse(change(lines), "my history")
    for word in words:
        assert word in str(refusal.value)


def test_a_history_is_read_from_its_file(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert History.read(path).events == EVENTS
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GhostkitError, match=r"cannot read the history '.*history\.jsonl'"):
        History.read(path)
    with pytest.raises(GhostkitError, match=r"cannot read the history '.*gone\.jsonl'"):
        History.read(tmp_path / "gone.jsonl")


def test_a_network_carries_its_recipe_and_its_history(host: Callable) -> None:
    model, _, _ = host("small")
    assert (history_of(model).recipe["name"], history_of(model).events) == ("seedling", [])
    event = grow(model, AddBranch("blocks.0.0.ghost1"))
    assert history_of(model).events == [event]
    assert history_of(model) is history_of(model)


def test_a_history_holds_no_weights_whatever_a_candidate_found(host: Callable) -> None:
    model, images, targets = host("seedling")
    table = candidates(model, images, targets, lambda net, x, y: torch.nn.functional.cross_entropy(net(x), y))
    edit = next(edit for edit in table["edit"] if getattr(edit, "tensors", None) is not None)
    event = grow(model, edit)
    assert event.edits == (edit,)
    kept = [*event.edits, *event.inverse, *history_of(model).edits]
    assert all(getattr(each, "tensors", None) is None for each in kept)
    assert edit.tensors is not None  # a person's own edit is left as it was
