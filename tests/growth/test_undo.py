"""Undo applies the inverse of an earlier event, in any order that makes sense, and refuses by name what does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    GrowthEvent,
    History,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    WidenStage,
    grow,
    history_of,
    rebuild,
    sites,
    undo,
)
from ghostkit.growth.undo import inverse_of, standing

A, B, C = "blocks.0.0.ghost1", "blocks.0.1.ghost1", "blocks.1.0.ghost1"  # width sites of the host "rows"
STREAM = "blocks.0.0.ghost2"
INVERSES = [
    (AddBranch(A, 3), RemoveBranch(A, 3, 1)),
    (AddBranch(A, 5), RemoveBranch(A, 5, 0)),
    (AddIntrinsic(A, 2), RemoveIntrinsic(A, (4, 5))),
    (WidenStage(STREAM, 4), NarrowStage(STREAM, (4, 5))),
    (AddBlock("blocks.1", "1"), RemoveBlock("blocks.1", "g1")),
    (AddBlock("blocks.1", "2", init="clone"), RemoveBlock("blocks.1", "g1")),
    (DeepenBranches(A), RemoveLayer(A, "d1")),
    (AddLink(A, B), RemoveLink(A, B)),
    (RemoveBranch(A, 3, 0), AddBranch(A, 3)),
    (RemoveIntrinsic(A, (0, 2)), AddIntrinsic(A, 2)),
    (NarrowStage(STREAM, (1,)), WidenStage(STREAM, 2)),
    (RemoveBlock("blocks.1", "2"), AddBlock("blocks.1", "1", 8)),
]


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def check_rebuilds(model: nn.Module) -> None:
    """Fail unless the history survives JSON and gives the architecture of ``model``."""
    parsed = History.parse(history_of(model).lines())
    assert parsed.events == history_of(model).events
    rebuilt = rebuild(parsed)
    assert shapes(rebuilt) == shapes(model)
    assert repr(rebuilt) == repr(model)


@pytest.mark.parametrize(("edit", "inverse"), INVERSES, ids=str)
def test_the_inverse_of_each_kind_is_noted_and_undo_applies_it(host: Callable, edit: Edit, inverse: Edit) -> None:
    model, images, _ = host("rows")
    before = model.eval()(images).detach()
    event = grow(model, edit, probe=images)
    assert event.inverse == (inverse,)
    undone = undo(model, probe=images)
    assert (undone.edits, undone.undoes, undone.inverse) == ((inverse,), 1, undone.inverse)
    assert type(undone.inverse[0]) is type(edit)
    assert history_of(model).events == [event, undone]
    assert standing(history_of(model)) == []
    if isinstance(edit, AddBranch | AddIntrinsic | WidenStage | AddBlock | DeepenBranches | AddLink):
        assert torch.equal(model(images), before)
        assert undone.params_after == event.params_before
    check_rebuilds(model)


def test_undoing_twice_takes_back_one_event_after_the_other_and_then_nothing_is_left(host: Callable) -> None:
    model, _, _ = host("rows")
    start, first = shapes(model), grow(model, AddBranch(A, 5))
    middle = shapes(model)
    grow(model, [AddIntrinsic(A, 1), AddBlock("blocks.0", "1"), AddBranch("blocks.0.g1.ghost1", 5)])
    assert [event.undoes for event in (undo(model), undo(model))] == [2, 1]
    assert shapes(model) == start != middle
    assert history_of(model).events[0] == first
    with pytest.raises(GhostkitError, match=r"undo\(-1\): only 0 growth event\(s\) still stand; nothing is left"):
        undo(model)
    check_rebuilds(model)


def test_an_undo_takes_something_back_and_is_itself_not_taken_back_but_the_edits_can_be_grown_again(
    host: Callable,
) -> None:
    model, images, _ = host("rows")
    event = grow(model, [AddBranch(A, 5), DeepenBranches(A)], probe=images)
    grown = shapes(model)
    undo(model)
    with pytest.raises(
        GhostkitError, match=r"undo\(2\): this event .*takes another one back; those that stand are \[\]"
    ):
        undo(model, 2)
    assert grow(model, event.edits, probe=images).max_logit_change <= 1e-10
    assert shapes(model) == grown
    assert standing(history_of(model)) == [3]
    assert undo(model).undoes == 3
    check_rebuilds(model)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (AddBlock("blocks.1", "1"), AddBranch("blocks.1.g1.ghost1", 5)),
        (AddBlock("blocks.1", "1"), AddIntrinsic("blocks.1.g1.ghost1", 1)),
        (AddBlock("blocks.1", "1"), DeepenBranches("blocks.1.g1.ghost1")),
        (AddBlock("blocks.1", "1"), AddLink(C, "blocks.1.g1.ghost1")),
        (AddBlock("blocks.1", "1"), AddLink("blocks.1.g1.ghost1", "blocks.1.2.ghost1")),
        (AddBlock("blocks.1", "1"), RemoveBranch("blocks.1.g1.ghost1", 3, 0)),
        (AddBlock("blocks.1", "1"), RemoveBlock("blocks.1", "g1")),
        (AddBranch(A, 3), RemoveBranch(A, 3, 0)),
        (AddBranch(A, 3), RemoveBranch(A, 3, 1)),
        (AddBranch(A, 3), AddBranch(A, 3, "split")),
        (AddIntrinsic(A, 2), RemoveIntrinsic(A, (0,))),
        (AddIntrinsic(A, 2), AddIntrinsic(A, 1, "split")),
        (WidenStage(STREAM, 2), NarrowStage(STREAM, (0,))),
        (WidenStage(STREAM, 2), WidenStage(STREAM, 2, "split")),
        (AddBranch("blocks.1.1.ghost1", 5), RemoveBlock("blocks.1", "1")),
    ],
    ids=str,
)
def test_an_event_that_a_later_one_rests_on_is_refused_by_name_until_that_one_is_undone(
    host: Callable, snapshot: Callable, differences: Callable, first: Edit, later: Edit
) -> None:
    model, images, _ = host("rows")
    start = shapes(model)
    grow(model, first)
    grow(model, later)
    before, events = snapshot(model), list(history_of(model).events)
    with pytest.raises(GhostkitError) as refusal:
        undo(model, 1, probe=images)
    assert str(refusal.value) == f"undo(1): event 2, {later}, rests on what this one grew; undo that first"
    assert not differences(before, snapshot(model))
    assert history_of(model).events == events
    undo(model, 2, probe=images)
    if not isinstance(later, RemoveBlock):  # a block comes back under another name
        undo(model, 1, probe=images)
        assert shapes(model) == start
    check_rebuilds(model)


INDEPENDENT = [
    (AddBranch(A, 3), AddBranch(A, 5)),
    (AddBranch(A, 5), AddBranch(A, 3)),
    (AddBranch(A, 5), AddIntrinsic(A, 2)),
    (AddIntrinsic(A, 2), AddBranch(A, 5)),
    (AddIntrinsic(A, 2), DeepenBranches(A)),
    (DeepenBranches(A), AddBranch(A, 3)),
    (DeepenBranches(A), DeepenBranches(A, 5)),
    (AddLink(A, B), AddIntrinsic(A, 1)),
    (AddLink(A, B), AddBranch(B, 5)),
    (WidenStage(STREAM, 2), AddIntrinsic(A, 1)),
    (WidenStage(STREAM, 2), AddBlock("blocks.0", "1")),
    (AddBlock("blocks.0", "1"), WidenStage(STREAM, 2)),
    (AddBlock("blocks.0", "0"), AddBlock("blocks.0", "0")),
    (AddBlock("blocks.0", "0"), AddBlock("blocks.0", "g1")),
    (AddBlock("blocks.1", "1"), AddLink(C, "blocks.1.2.ghost1")),
]


@pytest.mark.parametrize("latest_first", [True, False], ids=["latest first", "earliest first"])
@pytest.mark.parametrize(("first", "later"), INDEPENDENT, ids=str)
def test_events_that_do_not_rest_on_each_other_are_undone_in_any_order(
    host: Callable, first: Edit, later: Edit, latest_first: bool
) -> None:
    model, images, _ = host("rows")
    before, start = model.eval()(images).detach(), shapes(model)
    grow(model, first, probe=images)
    grow(model, later, probe=images)
    for number in (2, 1) if latest_first else (1, 2):
        assert undo(model, number, probe=images).max_logit_change <= 1e-10
    assert shapes(model) == start
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-12)
    check_rebuilds(model)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (AddBranch(A, 3), AddBranch(A, 3)),
        (AddIntrinsic(A, 2), AddIntrinsic(A, 1)),
        (WidenStage(STREAM, 4), WidenStage(STREAM, 2)),
    ],
    ids=str,
)
def test_what_a_later_event_of_the_same_kind_grew_is_still_found_when_the_earlier_one_is_gone(
    host: Callable, make_optimizer: Callable, train_step: Callable, first: Edit, later: Edit
) -> None:
    model, images, targets = host("rows")
    start, optimizer = shapes(model), make_optimizer("SGD", model)
    grow(model, first, optimizer)
    grow(model, later, optimizer)
    other = copy.deepcopy(model)
    for _ in range(2):  # so that it matters which of them goes
        train_step(model, optimizer, images, targets)
    other.load_state_dict(model.state_dict())
    undo(model, 1, optimizer)
    undo(model, 2, optimizer)  # the numbers of what it grew are others than they were
    undo(other, 2)
    undo(other, 1)
    assert shapes(model) == shapes(other) == start
    torch.testing.assert_close(model.eval()(images), other.eval()(images))
    check_rebuilds(model)


@pytest.mark.parametrize(
    ("grown", "removal"),
    [
        (AddBranch(A, 5), RemoveBranch(A, 5, 0)),
        (AddIntrinsic(A, 3), RemoveIntrinsic(A, (1, 4, 6))),
        (WidenStage(STREAM, 4), NarrowStage(STREAM, (0, 5))),
    ],
    ids=str,
)
def test_what_was_removed_by_hand_and_came_back_can_still_be_undone(host: Callable, grown: Edit, removal: Edit) -> None:
    model, images, _ = host("rows")
    start = shapes(model)
    grow(model, grown)
    grow(model, removal)
    assert [undo(model, probe=images).undoes for _ in range(2)] == [2, 1]
    assert shapes(model) == start
    check_rebuilds(model)


def test_what_was_removed_by_hand_and_stays_away_has_nothing_left_to_undo(host: Callable) -> None:
    model, _, _ = host("rows")
    grow(model, AddIntrinsic(A, 2))
    grow(model, AddBranch(B, 5))
    history_of(model).events.append(GrowthEvent((RemoveIntrinsic(A, (5,)),), undoes=2))  # as an older version wrote it
    with pytest.raises(GhostkitError, match=r"undo\(1\): RemoveIntrinsic.*removed what this event grew"):
        undo(model, 1)


def test_a_plain_branch_under_a_layer_is_undone_after_that_layer(host: Callable) -> None:
    model, images, _ = host("plain seedling")
    site = sites(model)[0].id
    start = shapes(model)
    grow(model, AddBranch(site, 3))
    grow(model, DeepenBranches(site))
    with pytest.raises(GhostkitError, match=rf"remove '{site}.deeper_layers.d1' first"):
        undo(model, 1)
    assert [undo(model, probe=images).undoes for _ in range(2)] == [2, 1]
    assert shapes(model) == start


def test_a_block_that_was_added_behind_an_undone_one_stays_where_it_is(host: Callable) -> None:
    model, images, _ = host("rows")
    grow(model, AddBlock("blocks.1", "1"))
    grow(model, AddBlock("blocks.1", "g1"))
    grow(model, AddBranch("blocks.1.g2.ghost1", 5))
    undo(model, 1, probe=images)
    assert [name for name, _ in model.blocks[1].named_children()] == ["0", "1", "g2", "2"]
    assert undo(model, -1, probe=images).undoes == 3
    assert undo(model, -1, probe=images).undoes == 2
    check_rebuilds(model)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (4, "undo(4): the history has 3 event(s), numbered from 1"),
        (0, "undo(0): the history has 3 event(s), numbered from 1"),
        (-2, "undo(-2): only 1 growth event(s) still stand"),
        (2, "undo(2): this event grew nothing; those that stand are [1]"),
    ],
)
def test_a_number_that_means_no_event_to_undo_is_refused_and_quoted(host: Callable, event: int, words: str) -> None:
    model, _, _ = host("rows")
    grow(model, AddBranch(A, 5))
    history_of(model).events += [GrowthEvent((), reason="no candidate fits the budget"), GrowthEvent((), reason="-")]
    with pytest.raises(GhostkitError) as refusal:
        undo(model, event)
    assert words in str(refusal.value)
    assert undo(model).undoes == 1  # events that grew nothing are passed over


def test_an_event_that_was_taken_back_is_refused_and_so_is_a_network_that_never_grew(host: Callable) -> None:
    model, _, _ = host("rows")
    with pytest.raises(GhostkitError, match="nothing is left to undo"):
        undo(model)
    grow(model, AddBranch(A, 5))
    undo(model)
    with pytest.raises(GhostkitError, match=r"undo\(1\): this event was taken back already.*stand are \[\]"):
        undo(model, 1)


def test_an_event_without_what_takes_it_back_is_refused() -> None:
    history = History(events=[GrowthEvent((AddBranch(A, 5),))])
    with pytest.raises(GhostkitError, match=r"undo\(1\): this event was written without what takes it back"):
        inverse_of(history, 1)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (
            [AddBlock("blocks.0", "1"), RemoveBlock("blocks.1", "1"), AddBranch("blocks.1.1.ghost1")],
            "no site 'blocks.1",
        ),
        ([RemoveBlock("blocks.1", "1"), AddBlock("blocks.1", "1")], "no block '1' in 'blocks.1'; it has 0, 2"),
        ([RemoveBlock("blocks.1", "2"), AddLink(C, "blocks.1.2.ghost1")], "no site 'blocks.1.2.ghost1'"),
        ([RemoveBranch(A, 3, 0), DeepenBranches(A)], "no branch that could get deeper"),
        ([RemoveBranch(B, 3, 0), AddLink(A, B)], "no ghost maps to add to"),
        ([RemoveIntrinsic(A, (3,)), RemoveIntrinsic(A, (3,))], "between 0 and 2"),
        ([NarrowStage(STREAM, (0,)), WidenStage(STREAM, 3)], "multiple of 2"),
        ([AddLink(A, B), DeepenBranches(A), RemoveLink(A, B), RemoveLink(A, B)], "no such link"),
        ([DeepenBranches(A), RemoveLayer(A, "d1"), RemoveLayer(A, "d1")], "no such layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_when_an_edit_of_several_meets_what_an_earlier_one_removed_nothing_has_happened(
    host: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    snapshot: Callable,
    differences: Callable,
    name: str,
    edits: list[Edit],
    words: str,
) -> None:
    model, images, targets = host("rows")
    optimizer, average = make_optimizer(name, model), copy.deepcopy(model)
    train_step(model, optimizer, images, targets)
    before = snapshot(model, optimizer, [average])
    with pytest.raises(GhostkitError) as refusal:
        grow(model, edits, optimizer, probe=images, ema=average)
    assert words in str(refusal.value)
    assert not differences(before, snapshot(model, optimizer, [average]))
    assert history_of(model).events == []
    train_step(model, optimizer, images, targets)


def test_an_undo_that_fails_leaves_everything_as_it_was(
    host: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    snapshot: Callable,
    differences: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images, targets = host("rows")
    optimizer, average = make_optimizer("Adam", model), copy.deepcopy(model)
    grow(model, [AddBranch(A, 5), AddBlock("blocks.1", "1")], optimizer, images, average)
    train_step(model, optimizer, images, targets)
    before, events = snapshot(model, optimizer, [average]), list(history_of(model).events)

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(import_module("ghostkit.growth.grow"), "measure_fresh_statistics", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):  # when all edits have been taken back
            undo(model, -1, optimizer, images, average)
    assert not differences(before, snapshot(model, optimizer, [average]))
    assert history_of(model).events == events
    undo(model, -1, optimizer, images, average)


def test_a_removal_on_a_probe_that_is_not_finite_has_no_change_to_tell(host: Callable) -> None:
    model, images, _ = host("rows")
    grow(model, AddBranch(A, 5))
    images[0, 0, 0, 0] = float("nan")
    assert undo(model, probe=images).max_logit_change is None
    check_rebuilds(model)
