"""A run goes on with the images that it began with, or not at all: others would draw another split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bit_for_bit import config
from PIL import Image

from ghostkit import GhostkitError, Run, RunConfig, Trainer, evaluate
from ghostkit.events import CheckpointSaved
from ghostkit.exploring import Exploration


def paint(folder: Path, numbers: range) -> None:
    for name, level in (("bright", 150), ("dark", 0)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            noise = np.random.default_rng(number).integers(level, level + 100, (12, 12), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number:02}.png")


@pytest.fixture
def settings(tmp_path: Path) -> RunConfig:
    """A run on twenty images of each of two classes."""
    paint(tmp_path / "images", range(20))
    lengths = {"train_samples": None, "test_samples": None, "batch_size": 8, "epochs": 1, "size": 8}
    return config(data=f"folder:{tmp_path / 'images'}", when="never", **lengths)


@pytest.fixture
def folder(settings: RunConfig, tmp_path: Path) -> Path:
    """The run, dropped after its second checkpoint."""
    trainer = Trainer(settings, tmp_path / "run")
    next(event for event in trainer if isinstance(event, CheckpointSaved) and trainer.progress.step)
    trainer.close()
    return tmp_path / "run"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_does_not_go_on_once_images_were_added_and_nothing_is_touched(settings, folder):
    paint(folder.parent / "images", range(20, 30))
    before = files_in(folder)
    with pytest.raises(GhostkitError, match=r"have changed since .*train='32 images.* there, '48 images.* now; test="):
        Trainer(settings, folder)
    assert files_in(folder) == before
    for path in (folder.parent / "images").rglob("2*.png"):
        path.unlink()
    assert Trainer(settings, folder).train()["steps"] == 4


def test_a_run_from_before_images_were_noted_goes_on(settings, folder):
    (folder / "data.json").unlink()
    paint(folder.parent / "images", range(20, 30))
    assert Trainer(settings, folder).train()["split"] == "test"


def test_evaluating_a_run_warns_where_its_images_have_changed(settings, folder, recwarn):
    assert evaluate(folder, device="cpu").images == 8
    assert not recwarn.list
    paint(folder.parent / "images", range(20, 30))
    with pytest.warns(UserWarning, match="may have learned from what it is tested on now"):
        assert evaluate(folder, device="cpu").images == 12


def test_exploring_a_run_warns_where_its_images_have_changed(settings, folder, recwarn):
    assert len(Exploration(folder).data.judged) == 8
    assert not recwarn.list
    paint(folder.parent / "images", range(20, 30))
    with pytest.warns(UserWarning, match="may have learned from what it is tested on now"):
        assert len(Exploration(folder).data.judged) == 12


def test_a_run_goes_on_where_its_data_lie_elsewhere_and_says_so_from_then_on(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    trainer = Trainer(config(), tmp_path / "run")
    next(event for event in trainer if isinstance(event, CheckpointSaved) and trainer.progress.step)
    trainer.close()
    elsewhere = str(tmp_path / "elsewhere")
    assert Trainer(config(data_root=elsewhere), tmp_path / "run").progress.step
    assert Run(tmp_path / "run").config.data_root == elsewhere
