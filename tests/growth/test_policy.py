"""When, where and how much: decisions over plain numbers, no network in sight."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from ghostkit.errors import GhostkitError
from ghostkit.growth.policy import (
    COST_OF,
    Budget,
    Policy,
    PolicyState,
    choose,
    due,
    due_to_settle,
    exceeded,
    observe_event,
    observe_loss,
    side_share,
)

EVERYTHING = 1e9


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def frame_of(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Candidates from (site, gain, MACs), best gain first, as scoring returns them."""
    frame = pd.DataFrame(rows, columns=["site", "gain", "macs"])
    frame["params"] = frame["macs"] * 2
    frame["milliseconds"] = frame["macs"] / 1000
    return frame.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def sites_of(frame: pd.DataFrame, rows: tuple[int, ...]) -> list[str]:
    return [frame["site"].iloc[row] for row in rows]


def pick(frame, policy=None, state=None, room=None, allowance=None, generator=None):
    room = {"macs": EVERYTHING} if room is None else room
    allowance = room if allowance is None else allowance
    return choose(frame, policy or Policy(), state or PolicyState(), room, allowance, generator or draw())


@pytest.mark.parametrize("policy", [Policy(), Policy(when="gain-ratio"), Policy(where="sprout")], ids=lambda p: p.when)
@pytest.mark.parametrize(("room", "words"), [({"macs": 5.0}, "fits into"), ({}, "can be added any more")])
def test_where_there_is_no_candidate_nothing_grows_and_the_reason_says_so(policy, room, words):
    frame = frame_of()
    frame.attrs["responses"] = []
    choice = pick(frame, policy, room=room)
    assert choice.rows == ()
    assert words in choice.reason


# When


@pytest.mark.parametrize(
    ("policy", "steps", "expected"),
    [
        (Policy(grow_every=0.25, grow_from=0.25, grow_until=0.75), 20, [5, 10, 15]),
        # 0.05 + 0.05 + 0.05 is a little more than 0.15, and still the third event is due at step 3.
        (Policy(grow_every=0.05, grow_from=0.05, grow_until=0.5), 20, [*range(1, 11)]),
        (Policy(grow_every=0.1, grow_from=0.1, grow_until=1.0), 10, [*range(1, 11)]),
        (Policy(grow_every=0.3, grow_from=0.15, grow_until=1.0), 10, [2, 5, 8]),
        (Policy(grow_every=0.05, grow_from=0.0, grow_until=1.0), 4, [1, 2, 3, 4]),  # one a step, and none to catch up
        (Policy(grow_every=1.0, grow_from=0.5, grow_until=0.5), 4, [2]),
        (Policy(when="never", grow_every=0.05, grow_from=0.0, grow_until=1.0), 20, []),
    ],
)
def test_events_are_due_at_fixed_shares_of_the_run(policy, steps, expected):
    state = PolicyState()
    assert [step for step in range(1, steps + 1) if due(policy, state, step / steps)] == expected


def test_an_event_is_due_once():
    policy, state = Policy(grow_every=0.2, grow_from=0.2, grow_until=0.4), PolicyState()
    assert [due(policy, state, 0.25) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([3, 2, 1, 0.5, 0.4, 0.3], 1, []),
        ([3, 2, 2, 2, 2, 2], 2, [3, 5]),  # equal is not better
        ([3, 2, 4, 4, 1, 4], 2, [3]),  # better starts the count again
        ([1, 2, 3, 4, 5, 6], 3, [3]),
        ([5, 5, 5, 5, 5, 5], 1, [1, 2, 3, 4, 5]),
    ],
)
def test_a_plateau_is_so_many_evaluations_without_a_better_loss(losses, patience, expected):
    policy = Policy(when="plateau", patience=patience, grow_from=0.0, grow_until=1.0)
    state, fired = PolicyState(), []
    for number, loss in enumerate(losses):
        observe_loss(state, loss)
        if due(policy, state, number / 10):
            fired.append(number)
        assert not due(policy, state, number / 10)
    assert fired == expected


@pytest.mark.parametrize(("progress", "expected"), [(0.19, False), (0.2, True), (0.6, True), (0.61, False)])
@pytest.mark.parametrize("when", ["interval", "plateau"])
def test_nothing_is_due_outside_the_window(when, progress, expected):
    policy = Policy(when=when, patience=1, grow_from=0.2, grow_until=0.6)
    assert due(policy, PolicyState(stale=5), progress) is expected


def test_a_plateau_before_the_window_counts_when_it_opens():
    policy, state = Policy(when="plateau", patience=2, grow_from=0.5, grow_until=1.0), PolicyState()
    for loss in (1.0, 1.0, 1.0):
        observe_loss(state, loss)
        assert not due(policy, state, 0.2)
    assert due(policy, state, 0.5)


def test_gain_ratio_looks_as_often_as_interval_grows():
    policies = [
        Policy(when=when, grow_every=0.1, grow_from=0.05, grow_until=0.4) for when in ("interval", "gain-ratio")
    ]
    looks = [
        [step for step in range(1, 21) if due(policy, state, step / 20)]
        for policy, state in ((policy, PolicyState()) for policy in policies)
    ]
    assert looks[0] == looks[1] == [1, 3, 5, 7]


@pytest.mark.parametrize(("ratios", "grows"), [((0.5, 2.0), True), ((1.5, 0.2), False), ((1.4, 1.4), False)])
def test_gain_ratio_grows_where_the_best_candidate_is_above_the_threshold(ratios, grows):
    frame = frame_of(("a", 2.0, 1), ("b", 1.0, 1))
    frame["gain_ratio"] = ratios
    choice = pick(frame, Policy(when="gain-ratio", ratio=1.5))
    assert (choice.rows != ()) == grows
    if grows:
        assert choice.reason == "gain-ratio, by gain-per-mac"
    else:
        assert choice.reason == f"no growth: the best candidate's gain ratio is {max(ratios):.3g}, not above 1.5"


@pytest.mark.parametrize(
    ("policy", "extras"),
    [
        (Policy(), ()),
        (Policy(when="gain-ratio"), ("gain_ratio",)),
        (Policy(where="activation-rank"), ("saturation",)),
        (Policy(when="gain-ratio", where="activation-rank"), ("gain_ratio", "saturation")),
    ],
)
def test_a_policy_asks_for_the_columns_that_it_needs(policy, extras):
    assert policy.extras == extras


# Settling, giving up


@pytest.mark.parametrize(
    ("settle_at", "progress", "expected"),
    [(None, 0.5, False), (0.3, 0.29, False), (0.3, 0.3 - 1e-12, True), (0.3, 0.4, True), (1.0, 1.0, True)],
)
def test_an_event_is_settled_when_its_window_is_over(settle_at, progress, expected):
    assert due_to_settle(PolicyState(settle_at=settle_at), progress) is expected


@pytest.mark.parametrize("when", ["interval", "plateau", "gain-ratio"])
def test_nothing_is_due_while_an_event_waits_to_be_settled_and_it_is_made_up_for_after(when):
    policy, state = Policy(when=when, patience=2, grow_until=0.4), PolicyState(stale=5, settle_at=0.3)
    assert not due(policy, state, 0.2)
    assert not due(policy, state, 0.3)
    state.settle_at = None
    assert due(policy, state, 0.3)


@pytest.mark.parametrize(
    ("looks", "idle"),  # each look: whether it grew, and the loss right before it
    [
        ([(False, 1.0)], [1]),
        ([(True, 1.0)], [0]),  # the first event has no one to be compared with
        ([(True, 1.0), (True, 0.9), (True, 0.8)], [0, 0, 0]),
        ([(True, 1.0), (True, 1.0), (True, 1.1)], [0, 1, 2]),
        ([(True, 1.0), (True, 1.2), (True, 1.1)], [0, 1, 0]),  # better than at the event before
        ([(True, 1.0), (False, 0.5), (True, 0.9)], [0, 1, 0]),
        ([(True, 1.0), (False, None), (True, 0.9), (True, None)], [0, 1, 0, 1]),
        ([(True, 1.0), (True, math.nan)], [0, 1]),
    ],
)
def test_a_look_brought_nothing_if_it_grew_nothing_or_the_event_before_did_not_lower_the_loss(looks, idle):
    policy, state, counts = Policy(give_up=3), PolicyState(), []
    for grew, loss in looks:
        assert observe_event(policy, state, grew, loss) == ""
        counts.append(state.idle)
    assert counts == idle


@pytest.mark.parametrize("when", ["interval", "plateau", "gain-ratio"])
def test_growth_is_over_after_so_many_looks_that_brought_nothing_and_stays_over(when):
    policy, state = Policy(when=when, give_up=2, grow_until=1.0), PolicyState(stale=99)
    assert due(policy, state, 0.1)
    assert observe_event(policy, state, False, 1.0) == ""
    state.stale = 99
    assert due(policy, state, 0.2)
    assert observe_event(policy, state, False, 1.0) == "; growth is over: 2 looks in a row brought nothing"
    for progress in (0.3, 0.5, 1.0):
        state.stale = 99
        assert not due(policy, state, progress)


def test_a_policy_that_never_gives_up_goes_on_looking():
    policy, state = Policy(give_up=None, grow_until=1.0), PolicyState()
    for look in range(1, 20):
        assert due(policy, state, look / 20)
        assert observe_event(policy, state, False, 1.0) == ""


@pytest.mark.parametrize(
    ("policy", "shares"),
    [
        (Policy(), [1.0, 1.0, 1.0, 1.0, 1.0]),
        (Policy(resolution=0.5, resolution_until=0.5), [0.5, 0.5, 1.0, 1.0, 1.0]),
        (Policy(resolution=0.5, resolution_until=0.4), [0.5, 0.5, 1.0, 1.0, 1.0]),
        (Policy(resolution=0.25, resolution_until=1.0), [0.25, 0.25, 0.25, 0.25, 1.0]),
        (Policy(resolution=0.5), [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_images_are_small_until_their_share_of_the_run(policy, shares):
    assert [side_share(policy, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == shares
    assert side_share(Policy(resolution=0.5, resolution_until=0.3), 0.1 + 0.2 - 1e-16) == 1.0  # 0.3, but for rounding


def test_what_a_policy_remembers_is_plain_data():
    state = PolicyState(resolution=14)
    observe_loss(state, 1.5)
    due(Policy(grow_until=0.4), state, 0.2)
    observe_event(Policy(), state, True, 0.75)
    state.settle_at, state.settling = 0.25, 3
    pick(frame_of(("a", 1, 1)), state=state)
    assert PolicyState(**json.loads(json.dumps(state.to_json()))) == state
    assert state.to_json() == asdict(state)
    assert state.last_site == "a"
    assert state.last_loss == 0.75
    assert state.next_at > 0.2


# Where, and how much

UNEVEN = frame_of(("a", 8.0, 800), ("b", 6.0, 100), ("a", 5.0, 10), ("c", 4.0, 400), ("d", 0.0, 1), ("e", -1.0, 1))


@pytest.mark.parametrize(
    ("where", "expected"),
    [("gain-per-mac", ["a", "b", "c"]), ("gain-per-parameter", ["a", "b", "c"])],
)
def test_the_best_gain_for_the_cost_comes_first_and_one_edit_a_site(where, expected):
    choice = pick(UNEVEN, Policy(where=where))
    assert sites_of(UNEVEN, choice.rows) == expected
    assert choice.rows[0] == 2  # a's cheap edit, not its dear one with the larger gain
    assert choice.reason == f"interval, by {where}"


@pytest.mark.parametrize(
    ("where", "column"),
    [("gain-per-mac", "macs"), ("gain-per-parameter", "params"), ("gain-per-millisecond", "milliseconds")],
)
def test_each_ranking_divides_by_its_own_cost(where, column):
    frame = frame_of(("a", 3.0, 10), ("b", 2.0, 10))
    for other in ("macs", "params", "milliseconds"):
        frame[other] = [10.0, 1.0] if other == column else [1.0, 10.0]
    assert sites_of(frame, pick(frame, Policy(where=where)).rows) == ["b", "a"]


@pytest.mark.parametrize("cost", [0.0, -0.2])
def test_an_edit_that_a_clock_calls_free_does_not_win_by_dividing_by_nothing(cost):
    frame = frame_of(("a", 5.0, 1), ("b", 1.0, 1), ("c", -1.0, 1))
    frame["milliseconds"] = [0.002, cost, cost]
    choice = pick(frame, Policy(where="gain-per-millisecond"))
    assert sites_of(frame, choice.rows) == ["a", "b"]


@pytest.mark.parametrize("gain", [0.0, -2.0, float("nan")])
@pytest.mark.parametrize("where", ["gain-per-mac", "gain-per-parameter", "gain-per-millisecond"])
def test_what_brings_nothing_is_not_grown(where, gain):
    choice = pick(frame_of(("a", gain, 1), ("b", gain, 5)), Policy(where=where))
    assert choice.rows == ()
    assert choice.reason == "no growth: no candidate's gain stands above the noise of the probe batch"


def test_placement_that_ignores_gains_grows_what_brings_nothing_too():
    frame = frame_of(("a", -1.0, 1), ("b", -2.0, 1))
    assert len(pick(frame, Policy(where="random")).rows) == 2
    assert len(pick(frame, Policy(where="round-robin")).rows) == 2


EVEN = frame_of(("a", 9.3, 90), ("b", 6.1, 60), ("c", 3.0, 30), ("d", 1.0, 10.5))  # a gains most per MAC, d least


@pytest.mark.parametrize(
    ("room", "allowance", "expected"),
    [
        ({}, {}, ["a", "b", "c", "d"]),  # no limit at all
        ({"macs": 190.5}, {"macs": 190.5}, ["a", "b", "c", "d"]),  # exactly
        ({"macs": 180}, {"macs": 180}, ["a", "b", "c"]),
        ({"macs": 179}, {"macs": 179}, ["a", "b", "d"]),  # what does not fit is passed over for what does
        ({"macs": 500}, {"macs": 100.5}, ["a", "d"]),
        ({"macs": 500}, {"macs": 5}, ["a"]),  # the first may exceed the allowance
        ({"macs": 80}, {"macs": 5}, ["b"]),  # but never the budget
        ({"macs": 500, "params": 130}, {"macs": 500, "params": 130}, ["b"]),  # every limit counts
        ({"macs": 500, "milliseconds": 0.045}, {"macs": 500, "milliseconds": 0.045}, ["c", "d"]),
    ],
)
def test_an_event_spends_its_allowance_and_never_more_than_is_left(room, allowance, expected):
    assert sites_of(EVEN, pick(EVEN, room=room, allowance=allowance).rows) == expected


def test_the_fullest_site_comes_first_and_at_a_site_the_best_candidate():
    frame = frame_of(("a", 5.0, 10), ("b", 4.0, 10), ("b", 3.0, 10), ("c", -1.0, 10), ("d", 2.0, 10))
    frame["saturation"] = frame["site"].map({"a": 0.2, "b": 0.9, "c": 0.9, "d": 0.5})
    choice = pick(frame, Policy(where="activation-rank"))
    assert sites_of(frame, choice.rows) == ["b", "c", "d", "a"]
    assert float(frame["gain"].iloc[choice.rows[0]]) == 4.0
    assert sites_of(frame, pick(frame, Policy(where="activation-rank"), allowance={"macs": 20}).rows) == ["b", "c"]


@pytest.mark.parametrize(("allowance", "room", "expected"), [(10, 900, 3), (20, 900, 6), (20, 45, 4), (1, 900, 1)])
def test_sprouts_take_three_times_an_events_allowance_and_never_more_than_is_left(allowance, room, expected):
    frame = frame_of(*[(f"s{number}", 1.0, 10) for number in range(8)])
    choice = pick(frame, Policy(where="sprout"), room={"macs": room}, allowance={"macs": allowance})
    assert len(choice.rows) == expected
    assert len(pick(frame, room={"macs": room}, allowance={"macs": allowance}).rows) < expected or expected == 1


# Units

# A stream s with the hidden maps g and h, a stream t with the hidden maps u, and a row of blocks r.
UNITS = frame_of(("s", 6, 60), ("h", 5, 10), ("g", 4, 10), ("t", 3.5, 10), ("h", 3, 1), ("r", 2, 10), ("u", -1, 10))
UNITS["unit"] = ["s", "s", "s", "t", "s", "", "t"]


@pytest.mark.parametrize(
    ("where", "together", "expected"),
    [
        ("gain-per-mac", True, [5, 0, 1, 2, 3, 6]),  # 2 for 10, 15 for 80, 2.5 for 20
        ("gain-per-mac", False, [4, 2, 3, 5, 0]),
        ("round-robin", True, [0, 1, 2]),
        ("round-robin", False, [0]),
    ],
)
def test_a_unit_is_one_candidate_with_the_best_of_each_of_its_sites(where, together, expected):
    policy, state = Policy(where=where, together=together), PolicyState(last_site="r")
    allowance = {"macs": 0.0} if where == "round-robin" else None  # for the first in any case, and for no other
    assert list(pick(UNITS, policy, state, allowance=allowance).rows) == expected
    if where == "round-robin":
        assert state.last_site == "s"
        assert list(pick(UNITS, policy, state, allowance=allowance).rows) == ([3, 6] if together else [3])


@pytest.mark.parametrize(("macs", "expected"), [(100, "rshg"), (89.9, "rtu"), (110, "rshgtu"), (9.9, "")])
def test_a_unit_costs_what_its_edits_cost_and_is_grown_whole_or_not_at_all(macs, expected):
    assert "".join(sites_of(UNITS, pick(UNITS, room={"macs": macs}).rows)) == expected


def test_a_unit_with_a_gain_that_is_no_number_is_not_grown():
    frame = UNITS.assign(gain=[6, float("nan"), *UNITS["gain"][2:]])
    assert sites_of(frame, pick(frame).rows) == ["r", "t", "u"]


# Several at once

ALIKE = np.array([1.0, 3.0, -1.0, 2.0])
OTHER = np.array([2.0, 1.0, 4.0, -1.0])  # neither the one nor the other is explained by its neighbour


def jointly(gains: dict[str, float], responses: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = frame_of(*[(site, gain, 10.0) for site, gain in gains.items()])
    frame.attrs["responses"] = [responses[site].tolist() for site in frame["site"]]
    return frame


@pytest.mark.parametrize("where", [*COST_OF])
def test_what_mends_the_same_mistakes_as_one_chosen_before_comes_last(where):
    frame = jointly({"a": 3.0, "b": 2.9, "c": 1.0}, {"a": ALIKE, "b": 2 * ALIKE, "c": OTHER})
    room = {"macs": EVERYTHING}
    allowance = {"macs": 20.0 / (3 if where == "sprout" else 1)}
    policy = Policy(where=where)
    assert sites_of(frame, pick(frame, policy, room=room, allowance=allowance).rows) == ["a", "c"]
    frame.attrs.clear()  # each for itself, b is worth nearly as much as a
    assert sites_of(frame, pick(frame, policy, room=room, allowance=allowance).rows) == ["a", "b"]


def test_what_mends_other_mistakes_keeps_its_gain():
    across = np.array([1.0, -1.0, 1.0, -1.0])  # times ALIKE, these sum up to zero
    first, second = np.concatenate([ALIKE, ALIKE]), np.concatenate([across, -across]) + 1e-9
    frame = jointly({"a": 3.0, "b": 2.0, "c": 1.9}, {"a": first, "b": second, "c": np.zeros(8)})
    assert sites_of(frame, pick(frame, allowance={"macs": 20.0}).rows) == ["a", "b"]


@pytest.mark.parametrize("where", ["round-robin", "random", "activation-rank"])
def test_placement_that_ignores_gains_ignores_what_they_share(where):
    frame = jointly({"a": 3.0, "b": 2.9, "c": 1.0}, {"a": ALIKE, "b": ALIKE, "c": OTHER})
    frame["saturation"] = [0.3, 0.2, 0.1]
    alone = frame.copy()
    alone.attrs.clear()
    policy, allowance = Policy(where=where), {"macs": 20.0}
    assert pick(frame, policy, allowance=allowance) == pick(alone, policy, allowance=allowance)


def test_choosing_leaves_the_candidates_as_they_are():
    frame = jointly({"a": 3.0, "b": 2.9}, {"a": ALIKE, "b": OTHER})
    before = frame.copy()
    assert pick(frame).rows
    assert frame.attrs == before.attrs
    assert frame.equals(before)


def test_a_budget_that_is_exceeded_already_is_said():
    assert exceeded({"params": 10.0, "macs": 0.0}) == exceeded({}) == ""
    assert exceeded({"params": 10.0, "macs": -1234.5}) == "no growth: the network exceeds its budget by 1,234.5 macs"
    assert exceeded({"params": -3.0, "macs": -1.0}).endswith(" by 3 params and 1 macs")


@pytest.mark.parametrize("where", ["gain-per-mac", "round-robin", "random"])
@pytest.mark.parametrize("room", [10.0, 0.0])
def test_when_nothing_fits_nothing_grows_and_the_reason_is_said(where, room):
    state = PolicyState(last_site="b")
    choice = pick(EVEN, Policy(where=where), state, room={"macs": room})
    assert choice.rows == ()
    assert choice.reason == "no growth: no candidate fits into what is left of the budget"
    assert state.last_site == "b"


def test_no_candidates_no_growth():
    assert pick(EVEN.iloc[:0]).rows == ()


def test_round_robin_takes_the_sites_in_turn_and_at_each_its_best_candidate():
    frame = frame_of(("c", 1.0, 1), ("a", -5.0, 1), ("b", 9.0, 1), ("b", 2.0, 1), ("a", -1.0, 1))
    policy, state = Policy(where="round-robin"), PolicyState()
    taken = [pick(frame, policy, state, allowance={"macs": 1.0}).rows for _ in range(5)]
    assert [sites_of(frame, rows) for rows in taken] == [["a"], ["b"], ["c"], ["a"], ["b"]]
    assert [float(frame["gain"].iloc[rows[0]]) for rows in taken] == [-1.0, 9.0, 1.0, -1.0, 9.0]
    assert sites_of(frame, pick(frame, policy, state, allowance={"macs": 9.0}).rows) == ["c", "a", "b"]


def test_round_robin_goes_on_until_the_allowance_is_spent_and_then_the_next_one_keeps_its_turn():
    frame = frame_of(("a", 1.0, 4), ("b", 1.0, 4), ("c", 1.0, 6), ("d", 1.0, 1))
    policy, state, allowance = Policy(where="round-robin"), PolicyState(), {"macs": 10.0}
    taken = [sites_of(frame, pick(frame, policy, state, allowance=allowance).rows) for _ in range(3)]
    assert taken == [["a", "b"], ["c", "d"], ["a", "b"]]  # d would have fitted beside a and b; it was not its turn


def test_round_robin_passes_over_a_site_without_a_candidate_that_fits_and_lets_new_ones_in():
    policy, state, allowance = Policy(where="round-robin"), PolicyState(last_site="a"), {"macs": 1.0}
    frame = frame_of(("a", 1.0, 1), ("b", 1.0, 50), ("b", 0.5, 60), ("c", 1.0, 1))
    assert sites_of(frame, pick(frame, policy, state, room={"macs": 10}, allowance=allowance).rows) == ["c"]
    grown = frame_of(("a", 1.0, 1), ("c.new", 1.0, 1), ("c", 1.0, 1))
    assert sites_of(grown, pick(grown, policy, state, allowance=allowance).rows) == ["c.new"]
    gone = frame_of(("a", 1.0, 1), ("b", 1.0, 1))
    assert sites_of(gone, pick(gone, policy, state, allowance=allowance).rows) == ["a"]


def test_random_placement_draws_from_the_generator_and_from_nothing_else():
    frame = frame_of(*[(f"s{number}", 1.0, 1.0) for number in range(12)])
    policy, allowance = Policy(where="random"), {"macs": 4.0}

    def drawn(seed: int) -> tuple[int, ...]:
        torch.manual_seed(seed * 7)
        generator = torch.Generator().manual_seed(seed)
        return pick(frame, policy, allowance=allowance, room={"macs": 100.0}, generator=generator).rows

    before = torch.get_rng_state()
    pick(frame, policy)
    assert torch.equal(before, torch.get_rng_state())
    assert len(drawn(0)) == 4
    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(5)}) == 5
    generator = draw()
    assert pick(frame, policy, generator=generator).rows != pick(frame, policy, generator=generator).rows


@pytest.mark.parametrize("where", ["gain-per-mac", "round-robin"])
def test_other_placement_draws_nothing(where):
    generator = draw()
    before = generator.get_state()
    pick(UNEVEN, Policy(where=where), generator=generator)
    assert torch.equal(before, generator.get_state())


# Budgets

SEEDLING = {"params": 1578, "macs": 11368, "milliseconds": 0.25}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(params=1578),
            "the budget of 1,578 params is not above the seedling, which has 1,578; raise budget_params",
        ),
        (Budget(macs=9000), "the budget of 9,000 macs is not above the seedling, which has 11,368; raise budget_macs"),
        (Budget(milliseconds=0.125), "0.125 milliseconds .* has 0.25; raise budget_milliseconds"),
        (Budget(params=10**6, macs=1), "the budget of 1 macs"),
    ],
)
def test_a_budget_below_the_seedling_is_quoted_with_what_to_raise(budget, message):
    with pytest.raises(GhostkitError, match=message):
        budget.check(SEEDLING)


def test_a_budget_above_the_seedling_knows_what_is_left_of_each_limit():
    budget = Budget(params=2000, milliseconds=0.5)
    budget.check(SEEDLING)
    assert budget.limits() == {"params": 2000, "milliseconds": 0.5}
    assert budget.room(SEEDLING) == {"params": 422, "milliseconds": 0.25}
    Budget().check(SEEDLING)
    assert Budget().room(SEEDLING) == {}


@pytest.mark.parametrize("compute", [1e9, 4e9])
@pytest.mark.parametrize("images_each", [5.0, 20.0])
def test_a_compute_trains_a_network_with_so_many_images_for_each_parameter(compute, images_each):
    budget = Budget(params=2000).trainable(SEEDLING, compute, images_each)
    assert budget.macs is not None
    parameters = SEEDLING["params"] * budget.macs / SEEDLING["macs"]
    assert compute / 3 / budget.macs / parameters == pytest.approx(images_each)
    assert budget.params == 2000
    double = Budget().trainable(SEEDLING, 4 * compute, images_each)
    assert double.macs == pytest.approx(2 * budget.macs)  # the root of the compute
    assert Budget(macs=0.9 * budget.macs).trainable(SEEDLING, compute, images_each).macs == 0.9 * budget.macs
    assert Budget(macs=1.1 * budget.macs).trainable(SEEDLING, compute, images_each).macs == budget.macs
