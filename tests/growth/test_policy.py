"""When, where and how much: decisions over plain numbers, no network in sight."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
import pytest
import torch

from ghostkit.errors import GhostkitError
from ghostkit.growth.policy import Budget, Policy, PolicyState, choose, due, observe_loss

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
    policy, state = Policy(grow_every=0.2, grow_from=0.2), PolicyState()
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


def test_what_a_policy_remembers_is_plain_data():
    state = PolicyState()
    observe_loss(state, 1.5)
    due(Policy(), state, 0.2)
    pick(frame_of(("a", 1, 1)), state=state)
    assert PolicyState(**json.loads(json.dumps(asdict(state)))) == state
    assert state.last_site == "a"
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
    assert len(pick(frame, Policy(where="round-robin")).rows) == 1


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


@pytest.mark.parametrize("where", ["gain-per-mac", "round-robin", "random"])
@pytest.mark.parametrize("room", [10.0, 0.0, -5.0])
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
    taken = [pick(frame, policy, state).rows for _ in range(5)]
    assert [sites_of(frame, rows) for rows in taken] == [["a"], ["b"], ["c"], ["a"], ["b"]]
    assert [float(frame["gain"].iloc[rows[0]]) for rows in taken] == [-1.0, 9.0, 1.0, -1.0, 9.0]


def test_round_robin_passes_over_a_site_without_a_candidate_that_fits_and_lets_new_ones_in():
    policy, state = Policy(where="round-robin"), PolicyState(last_site="a")
    frame = frame_of(("a", 1.0, 1), ("b", 1.0, 50), ("b", 0.5, 60), ("c", 1.0, 1))
    assert sites_of(frame, pick(frame, policy, state, room={"macs": 10}).rows) == ["c"]
    grown = frame_of(("a", 1.0, 1), ("c.new", 1.0, 1), ("c", 1.0, 1))
    assert sites_of(grown, pick(grown, policy, state).rows) == ["c.new"]
    gone = frame_of(("a", 1.0, 1), ("b", 1.0, 1))
    assert sites_of(gone, pick(gone, policy, state).rows) == ["a"]


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
