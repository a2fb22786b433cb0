"""The growth study's harness: every arm is a valid run, all spend the same, and gromo's twin is the same network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import ghostkit
from ghostkit import RunConfig, Trainer
from ghostkit.costs import macs, params
from ghostkit.data import load
from ghostkit.growth.history import history_of
from ghostkit.growth.policy import Budget, Policy, PolicyState, due
from ghostkit.studies import OWN, read_study

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks.study.arms import (
    ABLATIONS,
    BASELINES,
    BUDGET,
    PLAIN,
    PLAIN_BUDGET,
    SCRATCH,
    SHARED,
    STATIC,
    compute_of,
    settings_of,
)
from benchmarks.study.explore import key_of, runs_of
from benchmarks.study.plain import OpenReLU, PlainResNet, gromo_twin
from benchmarks.study.plain_run import hidden_of, run_plain
from benchmarks.study.study import run_arm
from benchmarks.study.tables import written
from benchmarks.study.without import WITHOUT

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"
ARMS = [*STATIC, SCRATCH, "ghostkit", *BASELINES, *ABLATIONS]
IMAGE = torch.zeros(1, 1, 28, 28)
SEEDLING = macs(ghostkit.build("seedling", 10, 1), IMAGE)
DIGITS = {"data": "digits", "validation_samples": 200, "train_samples": 400, "probe_samples": 64, "threads": None}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_configuration(arm: str) -> None:
    config = RunConfig(**{**SHARED, "compute": compute_of("10k", 1.0), **settings_of(arm)})
    assert (config.when == "never") == (arm in (*STATIC, SCRATCH))


@pytest.mark.parametrize("arm", ["ghostkit", *BASELINES, *ABLATIONS])
def test_every_arm_that_grows_has_a_moment_to(arm: str) -> None:
    config = RunConfig(**{**SHARED, "compute": compute_of("10k", 1.0), **settings_of(arm)})
    policy = Policy(**{name: getattr(config, name) for name in Policy.__dataclass_fields__})
    step, state = 3 * SEEDLING * 64 / config.compute, PolicyState()  # as the seedling goes on, batch by batch
    moments = sum(due(policy, state, number * step) for number in range(1, int(1 / step)))
    assert moments == {"one event": 1, "over by 0.4": 7}.get(arm, 11)


def test_the_budgets_are_the_sizes_of_the_largest_static_networks() -> None:
    largest = ghostkit.build("seedling", 10, 1, **STATIC["static 0.48"])
    assert pytest.approx(macs(largest, IMAGE), rel=1e-3) == BUDGET
    for name, options in STATIC.items():
        size = macs(ghostkit.build("seedling", 10, 1, **options), IMAGE)
        assert f"static {size / 1e6:.2f}" == name
    assert macs(PlainResNet(PLAIN["static 8"]["hidden"]), IMAGE) == PLAIN_BUDGET


def test_an_arm_spends_its_compute_and_says_what_it_came_to(tmp_path: Path) -> None:
    changes = {**DIGITS, "compute": 2e9, "grow_until": 0.3}
    grown = run_arm("ghostkit", tmp_path / "grown", judged="test", changes=changes)
    still = run_arm("static 0.10", tmp_path / "still", changes={**DIGITS, "compute": 2e9})
    for row in (grown, still):
        assert row["compute"] == pytest.approx(2e9, rel=0.05)
        assert 0 < row["validation"] <= 1
    assert (grown["events"] > 0, still["events"]) == (True, 0)
    assert 0 < grown["test"] <= 1
    assert "test" not in still  # which are asked when all is decided, and not before
    again = run_arm("ghostkit", tmp_path / "grown", judged="test", changes=changes)
    assert again == grown | {"milliseconds": again["milliseconds"]}  # read, not trained again


def test_the_shape_that_a_run_grows_to_is_trained_from_scratch(tmp_path: Path) -> None:
    changes = {**DIGITS, "compute": 1e9}
    grown = run_arm("ghostkit", tmp_path / "grown", changes=changes)
    scratch = run_arm(SCRATCH, tmp_path / "scratch", changes=changes)
    assert (grown["events"] > 0, scratch["events"]) == (True, 0)
    assert (scratch["macs"], scratch["params"]) == (grown["macs"], grown["params"])
    assert scratch["compute"] == pytest.approx(grown["compute"], rel=0.05)
    again = run_arm(SCRATCH, tmp_path / "scratch", changes=changes)
    assert again == scratch | {"milliseconds": again["milliseconds"]}


def test_each_list_of_runs_names_arms_that_are_there() -> None:
    lists = {path.stem: yaml.safe_load(path.read_text()) for path in STUDY.glob("*.yaml")}
    assert set(lists) == {"screening", "screening_plain", "ablations", "confirming", "confirming_plain"}
    for told in lists.values():
        known = PLAIN if told["parameters"].get("host") == "plain" else ARMS
        assert set(told["grid"]["arm"]) <= {*known}
    assert set(lists["ablations"]["grid"]["arm"]) == {"ghostkit", *ABLATIONS}
    assert set(lists["screening"]["grid"]["arm"]) == {*ARMS} - {*ABLATIONS}
    assert set(lists["screening_plain"]["grid"]["arm"]) == {*PLAIN}


def test_what_is_explored_is_made_again_where_anything_but_its_rows_is_another() -> None:
    first, second = runs_of([{"label": "a", "changes": {"share": 0.1}}])
    assert (first["seed"], second["seed"], first["arm"], first["host"]) == (0, 1, "ghostkit", "seedling")
    others = [{"changes": {"share": 0.2}}, {"host": "plain"}, {"arm": "random"}, {"share": 0.5}]
    assert len({key_of(run) for run in (first, second, *({**first, **other} for other in others))}) == 6
    assert key_of({**first, "validation": 0.9}) == key_of(first)


@pytest.mark.parametrize("arm", ["ghostkit", *WITHOUT])
def test_what_an_arm_goes_without_is_missing_after_each_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    forgotten, unmeasured = [], []
    step = Trainer._step

    def watched(trainer: Trainer, images: torch.Tensor, targets: torch.Tensor) -> float:
        events = [event for event in history_of(trainer.model).events if event.edits]
        if events and events[-1].step == trainer.progress.step:
            forgotten.append(not trainer.optimizer.state)
            norms = [layer for layer in trainer.model.modules() if isinstance(layer, nn.BatchNorm2d)]
            unmeasured.append(any(bool(((bn.running_mean == 0) & (bn.running_var == 1)).any()) for bn in norms))
        return step(trainer, images, targets)

    monkeypatch.setattr(Trainer, "_step", watched)
    row = run_arm(arm, tmp_path / "run", changes={**DIGITS, "compute": 1e9, "grow_until": 0.3})
    assert len(forgotten) == row["events"] > 0
    assert set(forgotten) == {arm == "no state carry"}
    assert set(unmeasured) == {arm == "no BN measurement"}


def plain_run(arm: str, **changes: Any) -> dict[str, Any]:
    data = load("digits", train_samples=400, validation_samples=100)
    host = PlainResNet()
    image = data.train.images(torch.arange(1))
    settings = {"budget": 3 * macs(host, image), "compute": 4e8, "learning_rate": 0.05}
    settings |= {"seed": 0, "judged": "validation"}
    return run_plain(PLAIN[arm], data, **{**settings, **changes})


@pytest.mark.parametrize("arm", ["static 2", "ghostkit", "random", "Net2Wider"])
def test_a_plain_run_grows_inside_the_blocks_and_stays_within_its_budget(arm: str) -> None:
    row, budget = plain_run(arm), 3 * macs(PlainResNet(), torch.zeros(1, 1, 8, 8))
    assert row["compute"] == pytest.approx(4e8, rel=0.1)
    assert row["macs"] <= budget
    assert (row["edits"] != "(2, 2, 2)") == ("static" not in arm) == (row["events"] > 0)
    assert row["output_change"] < 1e-4  # ours leaves what the network computes as it is
    assert row == plain_run(arm) | {name: row[name] for name in ("seconds", "event_seconds", "milliseconds")}


@pytest.mark.parametrize("arm", [arm for arm in PLAIN if arm.startswith("gromo")])
def test_gromo_grows_the_same_host_within_the_same_budget(arm: str) -> None:
    pytest.importorskip("gromo")
    row, budget = plain_run(arm, judged="test"), 3 * macs(PlainResNet(), torch.zeros(1, 1, 8, 8))
    assert row["edits"] != "(2, 2, 2)"
    assert (row["events"] > 0, row["output_change"] > 0, row["loss"] > 0) == (True, True, True)
    assert row["macs"] <= budget
    assert row["compute"] == pytest.approx(4e8, rel=0.1)
    assert 0 <= row["test"] <= 1


@pytest.mark.parametrize("arm", ["ghostkit", "gromo TINY"])
def test_whoever_grows_the_plain_host_keeps_to_what_the_compute_can_train(arm: str) -> None:
    if "gromo" in arm:
        pytest.importorskip("gromo")
    free, bound = plain_run(arm), plain_run(arm, policy=Policy(images_per_parameter=1.0))
    host, image = PlainResNet(), torch.zeros(1, 1, 8, 8)
    assert macs(host, image) <= bound["macs"] < free["macs"]
    start = {"macs": macs(host, image), "params": params(host)}
    assert bound["macs"] <= Budget().trainable(start, 4e8, 1.0).macs


def test_gromos_twin_computes_the_same() -> None:
    pytest.importorskip("gromo")
    host = PlainResNet((3, 2, 5)).eval()
    twin = gromo_twin(host).eval()
    images = torch.randn(4, 1, 28, 28)
    assert torch.equal(twin(images), host(images))
    assert (macs(twin, IMAGE), params(twin), hidden_of(twin)) == (macs(host, IMAGE), params(host), (3, 2, 5))


def test_an_open_relu_lets_what_starts_at_zero_have_a_gradient() -> None:
    for relu, expected in ((nn.ReLU(), [0.0, 0.0, 1.0]), (OpenReLU(), [0.0, 1.0, 1.0])):
        x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        relu(x).sum().backward()
        assert torch.equal(relu(x), torch.tensor([0.0, 0.0, 2.0]))
        assert x.grad.tolist() == expected


def test_the_tables_of_the_page_are_those_of_the_runs():
    page = OWN.with_name("study.md").read_text(encoding="utf-8")
    assert written(page, read_study()) == page
    fewer = read_study().query("track == '60k' and seed != 109")
    assert written(page, fewer) != page


def test_a_table_says_how_many_seeds_there_are_and_how_sure_a_difference_is():
    rows = [
        {"host": "seedling", "arm": arm, "track": "60k", "share": share, "learning_rate": 0.1, "seed": seed}
        | {"validation": level, "test": level + slope * seed, "macs": 480_000, "params": 12_000, "event_seconds": 0.1}
        for arm, level, slope, seeds in (
            ("static 0.48", 0.90, 0.001, 4),
            ("ghostkit", 0.91, 0.002, 3),
            ("random", 0.89, 0.0, 1),
        )
        for share in (0.5, 1.0)
        for seed in range(seeds)
    ]
    told = written("<!-- confirming seedling 0 -->\n\n| old |\n\nAfter it.\n", pd.DataFrame(rows))
    fresh = written("<!-- confirming seedling 0 -->\n\nAfter it.\n", pd.DataFrame(rows))
    assert fresh == told  # a table that is not there yet is put apart from what follows
    *table, after = told.splitlines()[2:]
    assert [line.split(" | ")[1:5] for line in table[2:-1]] == [
        ["91.20 (3)", "91.20 (3)", "", ""],
        ["90.15 (4)", "90.15 (4)", *["+1.10 [+0.85, +1.35]"] * 2],
        ["89.00 (1)", "89.00 (1)", "–", "–"],
    ]
    assert (table[-1], after) == ("", "After it.")


def test_a_table_counts_the_seeds_that_it_names_at_the_rate_that_these_chose():
    rows = [
        {"host": "plain", "arm": "ghostkit", "track": "60k", "share": 1.0, "learning_rate": rate, "seed": seed}
        | {"validation": level, "test": level, "macs": 750_000, "params": 11_000, "event_seconds": 0.1}
        for rate, level, seeds in ((0.1, 0.88, (100, 101)), (0.2, 0.89, (101, 111, 112)))
        for seed in seeds
    ]
    for said, expected in (("100 to 100", "88.00 (1)"), ("100", "89.00 (3)"), ("111 to 111", "89.00 (1)")):
        told = written(f"<!-- confirming plain {said} -->\n\n", pd.DataFrame(rows)).splitlines()
        assert told[-1].split(" | ")[1] == expected
