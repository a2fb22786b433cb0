"""Trackers are told what a run measures, and are nowhere in the way of it."""

from __future__ import annotations

import sys
import types

import pandas as pd
import pytest
import torch
from lightning_fabric.loggers import CSVLogger

from ghostkit import GhostkitError, GrowthEvent, RunConfig, Trainer
from ghostkit.events import CheckpointSaved, Evaluated, Finished, Grown, StepDone
from ghostkit.tracking import close_loggers, log_event, make_logger

TINY = RunConfig(
    epochs=2, train_samples=128, test_samples=64, probe_samples=32, grow_every=0.4, grow_until=0.4, device="cpu"
)


class Listed:
    """A tracker of one's own: anything with log_metrics."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step):
        self.told.append((step, dict(metrics)))


ROW = {
    "step": 7,
    "split": "test",
    "progress": 0.5,
    "params": 10,
    "macs": 20,
    "loss": 0.25,
    "map50": 0.5,
    "seconds": 1.5,
}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (StepDone(20, 0.1, torch.tensor(1.5)), [(20, {"train/loss": 1.5})]),
        (StepDone(21, 0.1, torch.tensor(1.5)), []),
        (
            Evaluated(ROW, None),
            [(7, {"progress": 0.5, "params": 10, "macs": 20, "test/loss": 0.25, "test/map50": 0.5, "seconds": 1.5})],
        ),
        (
            Grown(GrowthEvent((), step=9, params_after=5, macs_after=6)),
            [(9, {"growth/params": 5, "growth/macs": 6, "growth/edits": 0})],
        ),
        (Finished({"steps": 30, "miou": 0.5, "edits": ["a"]}), [(30, {"result/steps": 30, "result/miou": 0.5})]),
        (CheckpointSaved("folder"), []),
    ],
    ids=["a tenth step", "another step", "evaluated", "grown", "finished", "saved"],
)
def test_each_event_is_told_as_numbers_with_its_step(event, told):
    first, second = Listed(), Listed()
    log_event(event, [first, second])
    assert first.told == second.told == told


def test_every_so_many_losses_can_be_told():
    listed = Listed()
    for step in range(1, 7):
        log_event(StepDone(step, 0.1, torch.tensor(1.0)), [listed], every=3)
    assert [step for step, _ in listed.told] == [3, 6]


def test_a_csv_of_lightnings_has_what_the_run_folder_has(tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    rows = []
    for event in Trainer(TINY):
        log_event(event, [logger], every=1)
        if isinstance(event, Evaluated):
            rows.append(event.row)
    close_loggers([logger])
    table = pd.read_csv(tmp_path / "csv" / "version_0" / "metrics.csv")
    tested = table[table["test/accuracy"].notna()]
    assert list(tested["step"]) == [row["step"] for row in rows]
    assert list(tested["test/accuracy"]) == pytest.approx([row["accuracy"] for row in rows])
    assert table["train/loss"].notna().sum() == rows[-1]["step"]
    assert table["growth/edits"].sum() > 0
    assert table["result/accuracy"].dropna().tolist() == pytest.approx([rows[-1]["accuracy"]])


def test_a_run_is_the_same_with_trackers_as_without():
    with_tracker = Trainer(TINY)
    for event in with_tracker:
        log_event(event, [Listed()], every=1)
    alone = Trainer(TINY)
    alone.train()
    for (name, one), (_, other) in zip(*(t.model.state_dict().items() for t in (with_tracker, alone)), strict=True):
        assert torch.equal(one, other), name


def test_a_tracker_that_holds_nothing_back_need_not_be_closed():
    close_loggers([Listed()])


def test_each_sitting_has_a_version_of_its_own(tmp_path):
    for _ in range(2):
        logger = make_logger("csv", tmp_path)
        logger.log_metrics({"a": 1.0}, step=1)
        close_loggers([logger])
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == ["version_0", "version_1"]


def test_mlflow_is_told_by_its_own_module(tmp_path, monkeypatch):
    module = types.ModuleType("mlflow")
    told = []
    module.log_metrics = lambda metrics, step: told.append((step, metrics))  # the signature that MLflow documents
    monkeypatch.setitem(sys.modules, "mlflow", module)
    log_event(StepDone(10, 0.1, torch.tensor(2.0)), [make_logger("mlflow", tmp_path)])
    assert told == [(10, {"train/loss": 2.0})]


def test_an_unknown_tracker_is_refused_with_those_known(tmp_path):
    with pytest.raises(GhostkitError, match="unknown tracker 'tensorbord'; known are tensorboard, csv, mlflow"):
        make_logger("tensorbord", tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_says_what_to_install(name, tmp_path, monkeypatch):
    for module in ("tensorboard", "tensorboardX", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    if name == "tensorboard":
        monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
        monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(GhostkitError, match=f"tracker '{name}' needs the package {name}.*pip install {name}"):
        make_logger(name, tmp_path)
