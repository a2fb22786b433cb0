"""A study's table says what was chosen on validation images, how far arms are apart by seed, and what was reached."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError
from ghostkit.studies import arm_curves, best_rates, compare_arms, declared_points, one_part, read_study

SEEDS = range(5)
SMALLER = [f"static 0.{size}" for size in (10, 17, 28, 38)]
# host, arm -> what a seed's luck is added to, at F; half a point less at F/2, one point less at F/4
LEVELS = {
    **{("seedling", size): 0.85 - 0.001 * place for place, size in enumerate(SMALLER)},
    ("seedling", "static 0.48"): 0.90,
    ("seedling", "ghostkit"): 0.9005,
    ("seedling", "random"): 0.88,
    ("plain", "ghostkit"): 0.87,
    ("plain", "gromo TINY"): 0.87,
}
SECONDS = {"ghostkit": 0.4, "gromo TINY": 2.0}


def study(**levels: float) -> pd.DataFrame:
    """A made-up study: every arm at every share and at two rates, of which 0.1 is the better one."""
    luck, rows = np.random.default_rng(0), []
    for (host, arm), level in {**LEVELS, **{("seedling", arm): level for arm, level in levels.items()}}.items():
        for share in (0.25, 0.5, 1.0):
            for rate in (0.1, 0.2):
                for seed in SEEDS:
                    reached = level + 0.002 * seed + 1e-4 * luck.normal() + 0.01 * np.log2(share) / 2
                    rows.append(
                        {
                            **{"host": host, "arm": arm, "track": "60k", "share": share, "learning_rate": rate},
                            **{"seed": seed, "validation": reached - 0.05 * (rate == 0.2), "compute": share * 5e11},
                            **{"macs": 484_000 if "0.48" in arm else 100_000, "params": 6000, "seconds": 100.0 * share},
                            **{"milliseconds": 1.0, "events": 3, "event_seconds": SECONDS.get(arm, 0.0)},
                        }
                    )
    return pd.DataFrame(rows)


def test_every_arm_keeps_the_rate_that_did_best_on_the_validation_images():
    table = study()
    table.loc[table.eval("arm == 'random' and share == 0.5 and learning_rate == 0.2"), "validation"] += 0.2
    best = best_rates(table)
    assert len(best) == len(table) / 2
    odd = (best["arm"] == "random") & (best["share"] == 0.5)
    assert set(best.loc[odd, "learning_rate"]) == {0.2}
    assert set(best.loc[~odd, "learning_rate"]) == {0.1}


def test_a_rate_is_chosen_by_the_seeds_that_were_run_at_every_rate():
    table = study()
    luck = table.eval("arm == 'random' and learning_rate == 0.2 and seed == 4")
    table.loc[luck, "validation"] += 0.048  # the best seed's, just below what it reaches at 0.1
    table = table[(table["learning_rate"] == 0.1) | (table["arm"] != "random") | luck]
    assert set(best_rates(table).query("arm == 'random'")["learning_rate"]) == {0.1}


def test_arms_are_compared_by_the_seeds_that_they_share():
    table = best_rates(study()).query("host == 'seedling' and share == 1")
    groups, differences = compare_arms(table)
    assert list(groups["group"]) == ["ghostkit", "static 0.48", "random", *SMALLER]
    row = differences.set_index("group").loc["random"]
    assert (row["method"], row["n"]) == ("paired t", 5)
    assert row["difference"] == pytest.approx(-0.0205, abs=3e-4)
    assert row["high"] - row["low"] < 1e-3  # the luck of a seed, 0.2 points, is the same on both sides
    figure = views.difference_forest(differences, split="validation")
    assert figure.layout.xaxis.title.text == "points of validation accuracy above ghostkit"
    assert "validation accuracy" in views.ranking_table(groups, split="validation")


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [
        ("host == 'seedling'", "ghostkit", "several values of 'share', .0.25, 0.5, 1.0."),
        ("share == 1", "ghostkit", "several values of 'host'"),
        ("share == 1 and host == 'plain'", "random", "no row of the arm 'random'; known are 'ghostkit', 'gromo TINY'"),
    ],
)
def test_what_cannot_be_compared_is_refused(rows, reference, message):
    with pytest.raises(GhostkitError, match=message):
        compare_arms(best_rates(study()).query(rows), reference=reference)


def test_curves_hold_what_each_seed_reached_at_each_compute():
    curves = arm_curves(best_rates(study()).query("host == 'seedling'"))
    assert list(curves) == ["ghostkit", "static 0.48", "random", *SMALLER]
    assert [len(frames) for frames in curves.values()] == [5] * 7
    assert all(list(frame["share"]) == [0.25, 0.5, 1.0] for frames in curves.values() for frame in frames)
    figure = views.compute_accuracy(curves, spread=True)
    assert figure.layout.yaxis.title.text == "validation accuracy (%)"


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    return declared_points(best_rates(table)).set_index("point")["verdict"].to_dict()


def test_the_declared_points_are_reached_missed_or_not_measured_yet():
    points = declared_points(best_rates(study())).set_index("point")
    assert points["verdict"].to_dict() == {
        "1 auto-sizing at F": "reached",
        **{f"2 anytime, {share}": "reached" for share in ("F", "F/2", "F/4")},
        "3 compute to the accuracy of the largest static size": "missed",
        "3 compute to the accuracy of its shape from scratch": "not measured yet",
        **{f"4 above random, {share}": "reached" for share in ("F", "F/2")},
        **{
            f"4 above {arm}, {share}": "not measured yet"
            for arm in ("round robin", "Net2Wider")
            for share in ("F", "F/2")
        },
        **{f"4 above gromo TINY, {share}": "missed" for share in ("F", "F/2")},
        **{
            f"4 above gromo GradMax{more}, {share}": "not measured yet"
            for more in ("", ", open ReLU")
            for share in ("F", "F/2")
        },
        "5 seconds of an event": "reached",
    }
    assert points.loc["1 auto-sizing at F", "measured"].startswith("+0.05 points [")
    assert points.loc["1 auto-sizing at F", "measured"].endswith("] to static 0.48, the best of 5 sizes, 5 of 20 seeds")
    assert (
        points.loc["3 compute to the accuracy of the largest static size", "measured"] == "0.93 F, 0.93 of its seconds"
    )
    assert points.loc["5 seconds of an event", "measured"] == "0.20 of gromo TINY, the fastest"


def test_a_difference_between_arms_of_other_seeds_says_that_it_is_not_paired():
    table = best_rates(study())
    table.loc[table["arm"] == "random", "seed"] += 100
    points = declared_points(table).set_index("point")["measured"]
    assert points["4 above random, F"].endswith(" to random, 5 of 20 seeds, not paired")
    assert points["4 above gromo TINY, F"].endswith("5 of 20 seeds")


@pytest.mark.parametrize(
    ("level", "needed"), [(0.9045, "0.53 F"), (0.906, "0.43 F"), (0.95, "0.25 F"), (0.89, "more than F")]
)
def test_compute_to_a_target_is_read_between_the_computes_that_were_run(level, needed):
    table = best_rates(study(**{"ghostkit": level, "its shape from scratch": 0.9}))
    points = declared_points(table).set_index("point").loc["3 compute to the accuracy of its shape from scratch"]
    assert points["measured"] == (needed if "more" in needed else f"{needed}, {needed[:4]} of its seconds")
    assert points["verdict"] == ("reached" if needed < "0.50" else "missed")


@pytest.mark.parametrize(("level", "verdict"), [(0.8993, "reached"), (0.898, "missed")])
def test_level_allows_a_tenth_of_a_point_where_a_sweep_is_replaced_nothing(level, verdict):
    found = verdicts(study(ghostkit=level))
    assert (found["2 anytime, F"], found["1 auto-sizing at F"]) == (verdict, "missed")


def test_earlier_seeds_choose_the_best_size_and_count_in_nothing_else():
    table = best_rates(study())
    early = table["seed"] < 2
    table = table[early | ~table["arm"].isin(SMALLER)]  # the smaller sizes were tried by two seeds alone
    table.loc[early & (table["arm"] == "ghostkit"), "validation"] -= 0.5
    points = declared_points(table, first_seed=2).set_index("point")
    assert points.loc["1 auto-sizing at F", "measured"].endswith(" static 0.48, the best of 5 sizes, 3 of 20 seeds")
    assert points.loc["1 auto-sizing at F", "verdict"] == "reached"
    assert declared_points(table).set_index("point").loc["1 auto-sizing at F", "verdict"] == "missed"


def test_an_empty_study_has_measured_nothing():
    assert set(verdicts(study().iloc[:0])) == set(verdicts(study()))
    assert set(verdicts(study().iloc[:0]).values()) == {"not measured yet"}


def test_a_study_is_read_from_its_file_or_from_its_sweep(tmp_path):
    table = study()
    table.to_parquet(tmp_path / "study.parquet")
    pd.testing.assert_frame_equal(read_study(tmp_path / "study.parquet"), table)
    asked = ("host", "arm", "track", "share", "learning_rate", "seed")
    swept = table.rename(columns={name: f"{'p' if name in asked else 'm'}.{name}" for name in table})
    swept = swept.assign(status=["done", "failed"] * (len(table) // 2), seconds=1.0)
    swept["m.seed"] = swept["p.seed"]  # an arm's row repeats what it was asked
    swept.to_parquet(tmp_path / "results.parquet")
    read = read_study(tmp_path)
    assert len(read) == len(table) / 2
    assert sorted(table.columns) == sorted(read.columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the study"),
        (b"no parquet", "cannot read the study"),
        ("other", "no column host, arm, track"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path, content, message):
    path = tmp_path / "study.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pd.DataFrame({"other": [1]}).to_parquet(path)
    with pytest.raises(GhostkitError, match=message):
        read_study(path)


def test_two_seeds_are_too_few_for_a_verdict_on_accuracy():
    assert set(verdicts(study().query("seed < 2")).values()) == {"not measured yet"}


@pytest.mark.parametrize("missing", SMALLER)
def test_the_best_of_five_sizes_is_known_when_all_five_were_run(missing):
    points = declared_points(best_rates(study().query("arm != @missing"))).set_index("point")
    for point in ("1 auto-sizing at F", "2 anytime, F/4"):
        assert points.loc[point, "verdict"] == "not measured yet"
        assert points.loc[point, "measured"].endswith(" to static 0.48, the best of 4 sizes, 5 of 20 seeds")


def test_the_seconds_of_events_are_compared_within_a_seed():
    table = study()
    slow = table.eval("host == 'plain' and seed >= 3")  # runs of a sitting in which the machine was busy
    table.loc[slow, "event_seconds"] *= 10
    table = table[~(slow & (table["arm"] == "ghostkit"))]
    points = declared_points(best_rates(table)).set_index("point")
    assert points.loc["5 seconds of an event", "measured"] == "0.20 of gromo TINY, the fastest"


def test_where_most_arms_are_is_compared_unless_something_else_is_asked_for():
    table = study()
    part = one_part(table[(table["share"] < 1) | (table["arm"] != "random")], "seedling")
    assert set(zip(part["track"], part["share"], strict=True)) == {("60k", 0.5)}
    assert set(one_part(table, "seedling")["share"]) == {1.0}
    assert set(one_part(table, "plain", "60k", 0.25)["share"]) == {0.25}
    with pytest.raises(GhostkitError, match="the study has no run of host='plain', track='10k'"):
        one_part(table, "plain", "10k")


def test_what_is_confirmed_on_the_test_images_is_compared_before_what_was_screened():
    confirmed = study().query("arm != 'random'").assign(test=0.9)
    table = pd.concat([confirmed, study().assign(track="10k")], ignore_index=True)
    assert set(one_part(table, "seedling")["track"]) == {"60k"}
    assert set(one_part(table.drop(columns="test"), "seedling")["track"]) == {"10k"}
    assert set(one_part(table, "seedling", "10k")["arm"]) == set(study().query("host == 'seedling'")["arm"])


def test_runs_that_were_never_asked_for_the_test_images_do_not_count():
    table = study().assign(test=lambda rows: rows["validation"])
    unasked = table[table["seed"] == 0].assign(seed=9, test=float("nan"))
    with_them = pd.concat([table, unasked], ignore_index=True)
    pd.testing.assert_frame_equal(declared_points(with_them, "test"), declared_points(table, "test"))
    assert all(frame["accuracy"].notna().all() for frames in arm_curves(with_them, "test").values() for frame in frames)
