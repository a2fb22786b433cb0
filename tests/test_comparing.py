"""Runs compared: grouped by what they are, ranked by what they reached, and never silently left out."""

from __future__ import annotations

import dataclasses
import json
import math

import pandas as pd
import pytest
from made_runs import make_run

import ghostkit
from ghostkit.comparing import alike, compare
from ghostkit.errors import GhostkitError
from ghostkit.runs import find_runs

REACHED = {"random": (0.90, 0.91, 0.92), "gain-per-mac": (0.93, 0.95, 0.94)}


@pytest.fixture
def runs(tmp_path):
    """Two policies, three seeds each, in folders whose names say nothing."""
    numbers = iter(range(100))
    return [
        make_run(tmp_path / f"task-{next(numbers):02}", value, where=where, seed=seed)
        for where, values in REACHED.items()
        for seed, value in enumerate(values)
    ]


def test_a_table_has_a_row_a_run_with_what_differs_and_what_it_took(runs):
    table = compare(runs).table
    assert list(table["run"]) == [run.folder.name for run in runs]
    assert list(table["where"]) == ["random"] * 3 + ["gain-per-mac"] * 3
    assert list(table["group"].unique()) == ["where=random", "where=gain-per-mac"]
    assert "how" not in table, "what is the same for all is no column"
    first = table.iloc[0]
    took = ["seed", "accuracy", "params", "macs", "milliseconds", "compute", "seconds", "growth_events", "progress"]
    assert list(first[took]) == [0, 0.90, 2000, 60_000, 1.5, 3e9, 60, 2, 1]


def test_groups_are_ranked_by_their_mean_with_spread_and_interval(runs):
    found = compare(runs)
    best, second = found.groups.to_dict("records")
    assert (best["rank"], best["group"], best["n"]) == (1, "where=gain-per-mac", 3)
    assert (best["mean"], best["sd"]) == pytest.approx((0.94, 0.01))
    half = 4.302652730 * 0.01 / math.sqrt(3)
    assert (best["low"], best["high"]) == pytest.approx((0.94 - half, 0.94 + half))
    assert (second["rank"], second["mean"]) == (2, pytest.approx(0.91))
    assert found.reference == "where=gain-per-mac"
    assert any("because it came out best" in note for note in found.notes) is False, "of two it does not matter"


def test_differences_are_taken_seed_by_seed(runs):
    (row,) = compare(runs, "where=random").differences.to_dict("records")
    assert (row["group"], row["reference"], row["method"]) == ("where=gain-per-mac", "where=random", "paired t")
    assert (row["n"], row["difference"], row["won"]) == (3, pytest.approx(0.03), 1.0)
    assert row["p"] == row["p_holm"] < 0.05


@pytest.mark.parametrize("name", ["where=random", "task-01", "path"])
def test_a_reference_is_named_by_its_group_or_by_a_run_in_it(runs, name):
    assert compare(runs, str(runs[1].folder) if name == "path" else name).reference == "where=random"


def test_an_unknown_reference_is_refused_with_those_there_are(runs):
    message = (
        "no one group is called 'never', nor has a run of that name; known are 'where=random', 'where=gain-per-mac'"
    )
    with pytest.raises(GhostkitError, match=message):
        compare(runs, "never")


def test_groups_are_called_what_their_maker_called_them_where_that_tells_them_apart(tmp_path):
    runs = [
        make_run(tmp_path / f"{name}-{seed}", when=when, seed=seed)
        for name, when in (("grown", "interval"), ("seedling", "never"))
        for seed in (0, 1)
    ]
    assert set(compare(runs).runs) == {"grown", "seedling"}
    alone = compare(runs[:2])
    assert (list(alone.runs), len(alone.differences), alone.parameters) == (["grown"], 0, [])


def test_of_several_groups_of_one_name_each_is_told_by_its_parameters_too(tmp_path):
    for task, where in enumerate(("random", "sprout")):
        for seed in (0, 1):
            make_run(tmp_path / f"{task}{seed}" / f"grown-{seed}", where=where, seed=seed)
            make_run(tmp_path / f"{task}{seed}" / f"seedling-{seed}", where=where, seed=seed, when="never")
    found = compare(find_runs(tmp_path), "seedling, where=random")
    assert set(found.runs) == {
        f"{name}, where={where}" for name in ("grown", "seedling") for where in ("random", "sprout")
    }
    assert found.parameters == ["when", "where"]


def test_an_interval_of_a_share_ends_at_all_and_at_nothing(tmp_path):
    runs = [
        make_run(tmp_path / f"{share}-{seed}", value, share=share, seed=seed)
        for share, values in ((0.1, (0.99, 0.89)), (0.2, (0.01, 0.11)))
        for seed, value in enumerate(values)
    ]
    best, worst = compare(runs).groups.to_dict("records")
    assert (best["high"], worst["low"]) == (1, 0)
    assert (best["low"], worst["high"]) == pytest.approx((0.94 - 0.6353, 0.06 + 0.6353), abs=1e-4)


@pytest.mark.parametrize(
    ("field", "values", "groups"),
    [
        ("compute", {0: [1.00e9], 1: [1.05e9], 2: [0.98e9]}, 1),
        ("shape", {0: ["runs/grown-0"], 1: ["runs/grown-1"]}, 1),
        ("weights", {0: ["a"], 1: ["b"], 2: ["c"]}, 1),
        ("compute", {0: [1e9, 2e9], 1: [1e9, 2e9]}, 2),
        ("compute", {0: [1e9], 1: [2e9]}, 2),
        ("shape", {0: ["a", "b"]}, 2),
        ("shape", {0: [None], 1: ["a"]}, 2),
        ("data_root", {0: ["here"], 1: ["there"]}, 1),
        ("share", {0: [0.1], 1: [0.2]}, 2),
    ],
)
def test_what_follows_the_seed_makes_no_group_but_what_was_varied_does(field, values, groups, tmp_path):
    runs = [
        make_run(tmp_path / f"{seed}{number}", seed=seed, **{field: value})
        for seed, given in values.items()
        for number, value in enumerate(given)
    ]
    assert len(compare(runs).runs) == groups


def test_a_compute_that_was_varied_stands_beside_the_compute_that_was_spent(tmp_path):
    runs = [make_run(tmp_path / f"{c:.0f}", compute=c, spent=c + 1) for c in (1e9, 2e9)]
    table = compare(runs).table
    assert list(table["compute_limit"]) == [1e9, 2e9]
    assert list(table["compute"]) == [1e9 + 1, 2e9 + 1]
    assert table.columns.is_unique


def test_a_run_that_is_not_over_is_listed_and_counts_in_no_mean(runs, tmp_path):
    late = make_run(tmp_path / "late", 0.5, progress=0.4, where="random", seed=3)
    empty = make_run(tmp_path / "empty", progress=-1, where="random", seed=4)
    found = compare([*runs, late, empty], "where=random")
    assert list(found.table["progress"]) == [1.0] * 6 + [0.4, 0.0]
    assert found.table["accuracy"].iloc[6] == pytest.approx(0.5)
    row = found.groups.set_index("group").loc["where=random"]
    assert (row["n"], row["mean"], row["unfinished"]) == (3, pytest.approx(0.91), 2)
    assert [note for note in found.notes if "not over" in note] == [
        "late is not over (40% done); it counts in no mean",
        "empty is not over (0% done); it counts in no mean",
    ]
    assert len(found.finished()["where=random"]) == 3


def test_a_group_of_which_nothing_is_over_comes_last_without_a_rank(runs, tmp_path):
    late = make_run(tmp_path / "late", 0.99, progress=0.4, where="sprout")
    found = compare([late, *runs])
    last = found.groups.iloc[-1]
    assert (last["group"], last["n"], last["unfinished"]) == ("where=sprout", 0, 1)
    assert pd.isna(last["rank"])
    assert pd.isna(last["mean"])
    assert found.finished()["where=sprout"] == [late]
    alone = compare([late])
    assert (alone.reference, len(alone.differences)) == (None, 0)
    named = compare([late, *runs], "where=sprout")
    assert named.differences["difference"].isna().all()
    assert any("no run of the reference where=sprout is over" in note for note in named.notes)


def test_of_one_seed_no_spread_is_told_and_it_says_so(tmp_path):
    runs = [make_run(tmp_path / where, reached, where=where) for where, reached in (("random", 0.9), ("sprout", 0.8))]
    found = compare(runs)
    assert found.groups[["sd", "low", "high"]].isna().all(axis=None)
    (row,) = found.differences.to_dict("records")
    assert (row["method"], row["difference"]) == ("no test", pytest.approx(-0.1))
    assert "one seed only, so no spread and no interval: random; sprout" in found.notes


def test_a_repeated_seed_is_not_a_second_sample(tmp_path):
    runs = [
        make_run(tmp_path / f"{n}", value, seed=seed) for n, (seed, value) in enumerate([(0, 0.8), (0, 0.9), (1, 0.7)])
    ]
    found = compare(runs)
    assert (found.groups["n"].iloc[0], found.groups["mean"].iloc[0]) == (2, pytest.approx((0.85 + 0.7) / 2))
    assert any("1 runs repeat a seed" in note for note in found.notes)


def test_ranks_at_unequal_compute_say_so(tmp_path):
    runs = [make_run(tmp_path / f"{share}", share=share, spent=2e9 * share) for share in (0.2, 0.5)]
    assert any("2.50 times as much compute" in note for note in compare(runs).notes)


def test_the_best_of_many_is_a_flattered_reference_and_it_says_so(tmp_path):
    runs = [make_run(tmp_path / f"{share}", share, share=share) for share in (0.2, 0.5, 0.3)]
    assert any(note.startswith("0.5 was made the reference because it came out best") for note in compare(runs).notes)
    assert not any("came out best" in note for note in compare(runs, "0.2").notes)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"task": "detection", "data": "scenes", "metric": "map50"}, r"detection of scenes \(1 runs\)"),
        ({"data": "fashion-mnist"}, r"classification of fashion-mnist \(1 runs\)"),
        ({"test_samples": 100}, r"classification of digits, the first 100 test images \(1 runs\)"),
    ],
)
def test_what_was_judged_on_different_things_is_refused_and_can_be_sorted_apart(other, what, runs, tmp_path):
    more = [*runs, make_run(tmp_path / "other", **other)]
    with pytest.raises(GhostkitError, match=rf"cannot be ranked together: classification of digits \(6 runs\); {what}"):
        compare(more)
    assert [len(part) for part in alike(more).values()] == [6, 1]
    metrics = [compare(part).metric for part in alike(more).values()]
    assert metrics == ["accuracy", other.get("metric", "accuracy")]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for task, where in enumerate(("random", "sprout")):
        for seed in (0, 1):
            make_run(tmp_path / "sweep" / f"task-{task}" / f"grown-{seed}", where=where, seed=seed)
    found = compare(find_runs(tmp_path))
    assert list(found.table["run"]) == ["task-0/grown-0", "task-0/grown-1", "task-1/grown-0", "task-1/grown-1"]
    assert set(found.runs) == {"where=random", "where=sprout"}


def test_lists_and_options_can_be_columns_and_go_into_any_file(tmp_path):
    for number, options in enumerate([{}, {"width": 2}]):
        make_run(
            tmp_path / f"{number}",
            model_options=options,
            kinds=("block", "link")[: number + 1],
            size=[None, 16][number],
        )
    found = compare(find_runs(tmp_path))
    assert list(found.table["kinds"]) == ["block", "block+link"]
    assert list(found.table["model_options"]) == ["{}", '{"width": 2}']
    found.table.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), found.table)


def test_nothing_to_compare_is_refused():
    with pytest.raises(GhostkitError, match="no runs to compare"):
        compare([])


def test_runs_that_were_judged_on_images_held_out_are_compared_by_those(tmp_path):
    settings = {"when": "never", "epochs": 0.3, "train_samples": 128, "test_samples": 40, "device": "cpu"}
    for seed in (0, 1):
        ghostkit.train(ghostkit.RunConfig(validation_samples=60, seed=seed, **settings), tmp_path / f"held-{seed}")
    ghostkit.train(ghostkit.RunConfig(**settings), tmp_path / "tested")
    runs = find_runs(tmp_path)
    assert set(alike(runs)) == {
        "classification of digits, 60 images held out of the training images",
        "classification of digits, the first 40 test images",
    }
    found = compare([run for run in runs if run.config.validation_samples])
    assert found.split == "validation"
    assert len(found.table) == 2


def test_the_metric_is_that_of_the_runs_that_have_one_whichever_comes_first(tmp_path):
    over = make_run(tmp_path / "b-1", 0.6, metric="miou", task="segmentation", data="scenes", seed=1)
    begun = make_run(tmp_path / "b-0", 0.5, metric="miou", task="segmentation", data="scenes", seed=0, progress=0.1)
    (begun.folder / "metrics.jsonl").write_text("")
    for runs in ([begun, over], [over, begun]):
        found = compare(runs)
        assert found.metric == "miou"
        assert found.groups["mean"].tolist() == [0.6]


def test_runs_on_images_that_have_changed_are_apart(tmp_path):
    counts = {"a-0": 24, "a-1": 24, "b-0": 36, "c-0": None}
    runs = [make_run(tmp_path / name, data="folder:photos") for name in counts]
    for run, count in zip(runs, counts.values(), strict=True):
        if count:
            noted = {"classes": "cat, dog", "train": "96 images", "test": f"{count} images"}
            (run.folder / "data.json").write_text(json.dumps(noted))
    kind = "classification of folder:photos"
    assert alike([runs[0], runs[1], runs[3]]) == {kind: [runs[0], runs[1], runs[3]]}
    assert alike(runs) == {
        f"{kind}, 24 images": runs[:2],
        f"{kind}, 36 images": [runs[2]],
        f"{kind}, nobody noted which": [runs[3]],
    }


def test_a_run_that_was_steered_by_hand_is_no_seed_of_its_configuration(tmp_path):
    runs = [make_run(tmp_path / f"a-{seed}", 0.9 + seed / 100, seed=seed) for seed in range(3)]
    history = runs[2].history
    steered = dataclasses.replace(history.events[0], reason="changed by hand: share from 0.2 to 0.5", progress=0.25)
    changed = dataclasses.replace(history, events=[*history.events, steered])
    (runs[2].folder / "history.jsonl").write_text("\n".join(changed.lines()) + "\n")
    found = compare(runs)
    assert found.parameters == ["by_hand"]
    assert dict(zip(found.groups["n"], found.groups["by_hand"], strict=True)) == {
        1: "changed by hand: share from 0.2 to 0.5 at 25.0%",
        2: "no",
    }
