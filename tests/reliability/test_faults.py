"""What goes wrong while a run trains is told in words, and the run goes on once it is put right."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch
from bit_for_bit import config, differences, latencies, tensors_of
from PIL import Image

from ghostkit import GhostkitError, Run, RunConfig, Trainer
from ghostkit.checkpoint import load_state, save
from ghostkit.events import StepDone
from ghostkit.run_folder import checkpoints

pytestmark = pytest.mark.usefixtures(latencies.__name__)


def ended(folder: Path, settings: RunConfig) -> dict[str, torch.Tensor]:
    trainer = Trainer(settings, folder)
    trainer.train()
    return tensors_of(trainer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_run_whose_loss_was_not_finite_goes_on_from_before_and_ends_on_the_same_bits(value, step, tmp_path):
    whole = ended(tmp_path / "whole", config())
    trainer = Trainer(config(), tmp_path / "run")
    usual = trainer.stepper.gradients
    spoilt = lambda images, targets, number: value if number == step else usual(images, targets, number)  # noqa: E731
    trainer.stepper.gradients = spoilt  # type: ignore[method-assign]
    with pytest.raises(GhostkitError, match=rf"the loss became {value} at step {step + 1}"):
        trainer.train()
    for checkpoint in checkpoints(tmp_path / "run"):
        assert all(bool(torch.isfinite(x).all()) for x in load_state(checkpoint)[1].values() if x.is_floating_point())
    assert differences(ended(tmp_path / "run", config()), whole) == []


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = Trainer(config(when="never"), tmp_path)
    for event in trainer:
        if isinstance(event, StepDone) and event.step == 1:
            kept = {path.name for path in checkpoints(tmp_path)}
            with torch.no_grad():
                next(trainer.model.parameters()).view(-1)[0] = float("nan")
            with pytest.raises(GhostkitError, match="holds values that are not finite, so no checkpoint is written"):
                save(trainer.model, tmp_path / "checkpoints" / "step-00000001", trainer.optimizer)
            break
    assert {path.name for path in checkpoints(tmp_path)} == kept
    assert all(bool(torch.isfinite(weight).all()) for weight in Run(tmp_path).model().parameters())


def test_a_run_that_was_interrupted_from_the_keyboard_goes_on_and_ends_on_the_same_bits(tmp_path):
    whole = ended(tmp_path / "whole", config())
    trainer = Trainer(config(), tmp_path / "run")
    usual = trainer.stepper.update

    def interrupted() -> None:
        usual()
        if trainer.progress.step == 5:
            raise KeyboardInterrupt

    trainer.stepper.update = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(GhostkitError, match="was interrupted in the middle of something; make its Trainer again"):
        trainer.train()
    assert differences(ended(tmp_path / "run", config()), whole) == []


@pytest.mark.parametrize("fault", ["gone", "no image"])
def test_an_image_that_can_no_longer_be_read_is_named_and_the_run_goes_on_once_it_is_back(fault, tmp_path, monkeypatch):
    monkeypatch.setattr("ghostkit.data.folders.KEPT_BYTES", 0)  # as of images that are too many to be kept
    place = tmp_path / "images"
    draw = torch.Generator().manual_seed(0)
    for number in range(40):
        path = place / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 255, (8, 8), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    settings = config(
        data=f"folder:{place}", size=8, train_samples=None, test_samples=None, batch_size=8, when="never", epochs=3
    )
    whole = ended(tmp_path / "whole", settings)
    trainer = Trainer(settings, tmp_path / "run")
    events = iter(trainer)
    next(event for event in events if isinstance(event, StepDone) and event.step == 5)
    shutil.copytree(place, tmp_path / "kept")
    for path in place.rglob("*.png"):
        path.unlink() if fault == "gone" else path.write_bytes(b"no image")
    with pytest.raises(GhostkitError, match=r"[ab]/\d+\.png"):
        list(events)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ghostkit-data")]
    shutil.rmtree(place)
    shutil.move(tmp_path / "kept", place)
    assert differences(ended(tmp_path / "run", settings), whole) == []
