"""Several runs at once end as they would have ended one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ghostkit
from ghostkit import GhostkitError, Run, RunConfig
from ghostkit.parallel import cores, usual_workers

TINY = RunConfig(epochs=1, train_samples=128, test_samples=64, grow_every=0.3, probe_samples=64)


def three(folder: Path) -> dict[Path, RunConfig]:
    return {folder / f"seed-{seed}": TINY.changed(seed=seed) for seed in (2, 0, 1)}


def measured(run: Run) -> list[dict]:
    return run.metrics.drop(columns="seconds").to_dict("records")


def test_runs_at_once_equal_runs_one_after_the_other(tmp_path):
    seen: list[str] = []
    together = ghostkit.train_all(
        three(tmp_path / "together"), workers=2, done=lambda run: seen.append(run.folder.name)
    )
    alone = ghostkit.train_all(three(tmp_path / "alone"), workers=1)
    assert [run.folder.name for run in together] == ["seed-2", "seed-0", "seed-1"]
    assert sorted(seen) == ["seed-0", "seed-1", "seed-2"]
    assert [measured(run) for run in together] == [measured(run) for run in alone]
    assert [run.result["edits"] for run in together] == [run.result["edits"] for run in alone]


def test_what_a_run_raises_arrives(tmp_path):
    runs = {tmp_path / "good": TINY, tmp_path / "bad": TINY.changed(data="no-such-data")}
    with pytest.raises(GhostkitError, match="no-such-data"):
        ghostkit.train_all(runs, workers=2)


@pytest.mark.parametrize(("count", "workers"), [(0, 2), (1, 0)])
def test_nothing_to_do_is_said(tmp_path, count, workers):
    runs = {tmp_path / str(number): TINY for number in range(count)}
    with pytest.raises(GhostkitError, match="at least one of both"):
        ghostkit.train_all(runs, workers=workers)


@pytest.mark.parametrize("gpu", [True, False])
def test_where_nobody_says_a_gpu_takes_one_run_at_a_time_and_cores_take_one_each(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert usual_workers() == (1 if gpu else cores())
