"""A damaged last checkpoint costs the steps since the one before it, is told of, and is replaced in its time."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bit_for_bit import config, differences, latencies, tensors_of

from ghostkit import GhostkitError, Run, Trainer
from ghostkit.checkpoint import load, sealed
from ghostkit.events import CheckpointSaved
from ghostkit.run_folder import checkpoints

pytestmark = pytest.mark.usefixtures(latencies.__name__)

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was dropped right after its checkpoint at step 6, the last of four."""
    folder = tmp_path_factory.mktemp("dropped") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        latencies.__wrapped__(monkeypatch)  # type: ignore[attr-defined]  # for a whole module
        trainer = Trainer(config(), folder)
        next(event for event in trainer if isinstance(event, CheckpointSaved) and trainer.progress.step == 6)
    return folder


@pytest.fixture
def folder(dropped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dropped, tmp_path / "run"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = next(checkpoint.glob(f"{name}*"))
        path.write_bytes(path.read_bytes()[:-20])

    return damage


def flipped(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = next(checkpoint.glob(f"{name}*"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return damage


def gone(name: str) -> Damage:
    return lambda checkpoint: next(checkpoint.glob(f"{name}*")).unlink()


def empty_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("")


def other_number(checkpoint: Path) -> None:
    """One digit of what the trainer remembers is another; it is still JSON, and fits."""
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"images": 0', '"images": 1'))


def newer(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "format": 2, "more": []})))


DAMAGE: dict[str, Damage] = {
    **{f"{name} cut short": cut(name) for name in ("model", "optimizer", "state", "history", "manifest")},
    **{f"{name} with a byte altered": flipped(name) for name in ("model", "optimizer", "state", "history", "manifest")},
    **{f"{name} gone": gone(name) for name in ("model", "optimizer", "state", "history")},
    "an empty manifest": empty_manifest,
    "a manifest with another number": other_number,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_from_the_last_checkpoint_that_is_whole_and_says_so(damage, folder):
    last = checkpoints(folder)[-1]
    before = files_in(last)
    DAMAGE[damage](last)
    damaged = files_in(last)
    assert damaged != before
    with pytest.warns(UserWarning, match=r"step-00000006.*The run goes on from step 4, whose checkpoint is whole"):
        trainer = Trainer(config(), folder)
    assert trainer.progress.step == 4
    assert files_in(last) == damaged, "nothing is deleted, nothing is repaired by chance"
    assert Run(folder).metrics["step"].max() == 4


@pytest.mark.parametrize("damage", ["model with a byte altered", "an empty manifest", "state gone"])
def test_what_is_damaged_is_replaced_when_the_run_gets_there_and_it_ends_on_the_same_bits(damage, dropped, tmp_path):
    whole = Trainer(config(), shutil.copytree(dropped, tmp_path / "whole"))
    whole.train()
    folder = Path(shutil.copytree(dropped, tmp_path / "run"))
    DAMAGE[damage](checkpoints(folder)[-1])
    with pytest.warns(UserWarning, match="goes on from step 4"):
        trainer = Trainer(config(), folder)
    trainer.train()
    assert differences(tensors_of(trainer), tensors_of(whole)) == []
    kept = [path.name for path in checkpoints(folder)]
    assert kept == [path.name for path in checkpoints(tmp_path / "whole")]
    for checkpoint in checkpoints(folder):
        assert all(bool(torch.isfinite(weight).all()) for weight in load(checkpoint).parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Trainer(config(), folder).train()["steps"] == 8, "and it is told of no more"


def test_several_damaged_checkpoints_are_passed_over_and_all_are_named(folder):
    for checkpoint in checkpoints(folder)[-2:]:
        flipped("model")(checkpoint)
    with pytest.warns(UserWarning, match=r"step-00000006.*step-00000004.*goes on from step 2"):
        assert Trainer(config(), folder).progress.step == 2


def test_a_checkpoint_without_its_manifest_was_never_finished_and_is_passed_over_in_silence(folder):
    gone("manifest")(checkpoints(folder)[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Trainer(config(), folder).progress.step == 4


@pytest.mark.parametrize("damage", [flipped("model"), empty_manifest, gone("manifest")])
def test_where_no_checkpoint_is_whole_the_run_is_refused_and_not_touched(damage, folder):
    for checkpoint in checkpoints(folder):
        damage(checkpoint)
    before = files_in(folder)
    with pytest.raises(GhostkitError, match=r"no checkpoint of the run in '.*run' is whole, .*step-00000006"):
        Trainer(config(), folder)
    assert files_in(folder) == before


def test_a_checkpoint_by_a_newer_version_asks_for_that_and_nothing_is_touched(folder):
    newer(checkpoints(folder)[-1])
    before = files_in(folder)
    with pytest.raises(GhostkitError, match=r"step-00000006' was written by a newer ghostkit.*; upgrade ghostkit"):
        Trainer(config(), folder)
    assert files_in(folder) == before


def test_a_run_whose_checkpoints_were_all_removed_is_not_replaced(folder):
    shutil.rmtree(folder / "checkpoints")
    metrics = (folder / "metrics.jsonl").read_bytes()
    for settings in (config(), config(learning_rate=0.01)):
        with pytest.raises(GhostkitError, match=r"measured up to step \d+, but no checkpoint of it"):
            Trainer(settings, folder)
    assert (folder / "metrics.jsonl").read_bytes() == metrics
