"""A user's own boxes or masks train a growing network with one parameter changed; broken ones are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bit_for_bit import differences, latencies, tensors_of, timeless  # noqa: F401  (a fixture)
from own_data import coco_of, masks_of
from PIL import Image

import ghostkit
from ghostkit.errors import GhostkitError
from ghostkit.events import StepDone

OWN = {"detection": coco_of, "segmentation": masks_of}
METRIC = {"detection": "map50", "segmentation": "miou"}


def config(task: str, data: str, **changes: object) -> ghostkit.RunConfig:
    settings = {
        **{"task": task, "data": data, "epochs": 3, "batch_size": 8, "probe_samples": 8, "optimizer": "adamw"},
        **{"model_options": {"stem_stride": 2}, "head_options": {"channels": 8}, "learning_rate": 0.01},
        **{"grow_every": 0.2, "evaluate_every": 0.5, "share": 0.5, "augment": "crop+flip"},
    }
    return ghostkit.RunConfig(**{**settings, **changes})


@pytest.mark.parametrize("task", OWN)
def test_a_network_grows_on_data_of_ones_own(task, tmp_path):
    name = OWN[task](tmp_path / "own")
    run = ghostkit.train(config(task, name), tmp_path / "run")
    assert run.result["growth_events"] >= 1
    assert 0 <= run.result[METRIC[task]] <= 1
    assert METRIC[task] in run.metrics.columns
    assert "accuracy" not in run.metrics.columns
    grown = [event for event in run.history.events if event.edits]
    assert max(abs(event.loss_after - event.loss_before) for event in grown) < 1e-5, "nats"
    assert run.result["head_params"] < run.result["params"]
    assert ("head" if task == "detection" else "stem") in set(run.architecture()["block"])
    found = ghostkit.evaluate(tmp_path / "run")
    assert found.metrics[METRIC[task]] == pytest.approx(run.result[METRIC[task]], abs=1e-6)
    assert found.loss == pytest.approx(run.result["loss"], rel=1e-4)


@pytest.mark.parametrize("task", OWN)
@pytest.mark.usefixtures("latencies")
def test_a_run_that_was_cut_short_ends_bit_for_bit_like_one_that_was_not(task, tmp_path):
    settings = config(task, "scenes", train_samples=32, test_samples=8, epochs=2, grow_until=0.4)
    whole = ghostkit.Trainer(settings, tmp_path / "whole")
    expected = whole.train()
    assert expected["growth_events"]
    for event in ghostkit.Trainer(settings, tmp_path / "cut"):
        if isinstance(event, StepDone) and event.step == 5:
            break
    resumed = ghostkit.Trainer(settings, tmp_path / "cut")
    assert timeless(resumed.train()) == timeless(expected)
    assert differences(tensors_of(whole), tensors_of(resumed)) == []


def break_coco(folder: Path, **changes: object) -> str:
    name = coco_of(folder, 6)
    known = json.loads((folder / "boxes.json").read_text())
    known["annotations"][0] |= changes
    (folder / "boxes.json").write_text(json.dumps(known))
    return name


def break_masks(folder: Path, what: str) -> str:
    name = masks_of(folder, 6)
    path = folder / "masks" / "3.png"
    if what == "missing":
        path.unlink()
    elif what == "size":
        Image.fromarray(np.zeros((10, 10), np.uint8)).save(path)
    else:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    return name


@pytest.mark.parametrize(
    ("task", "broken", "culprit"),
    [
        ("detection", lambda folder: break_coco(folder, category_id=99), "99"),
        ("detection", lambda folder: break_coco(folder, image_id=1234), "1234"),
        ("detection", lambda folder: break_coco(folder, bbox="wide"), "wide"),
        ("segmentation", lambda folder: break_masks(folder, "missing"), "3.png"),
        ("segmentation", lambda folder: break_masks(folder, "size"), "3.png"),
        ("segmentation", lambda folder: break_masks(folder, "colour"), "3.png"),
        ("segmentation", coco_of, "offers detection, but no segmentation"),
        ("detection", lambda folder: "digits", "offers classification, but no detection"),
    ],
)
def test_what_is_broken_is_refused_before_anything_is_trained(task, broken, culprit, tmp_path):
    with pytest.raises(GhostkitError, match=culprit):
        ghostkit.Trainer(config(task, broken(tmp_path / "own")), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "lraspp"}, "head='lraspp' is none of task='detection'; expected fcos or retinanet"),
        ({"resolution": 0.5}, "resolution=0.5 with task='detection'"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 with task='detection'"),
        ({"weights": "a", "shape": "b"}, "weights='a' and shape='b'"),
        ({"task": "classification", "data": "digits"}, r"head_options=\{'channels': 8\} without a head"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(GhostkitError, match=message):
        config("detection", "scenes").changed(**changes)


def test_images_of_a_size_that_the_detector_cannot_take_are_refused_with_one_that_it_can(tmp_path):
    stages = [[[3, 4, 8, 0, 2]]] * 4
    settings = config("detection", coco_of(tmp_path / "own", 8), size=40, model_options={"stages": stages})
    with pytest.raises(GhostkitError, match=r"40 x 40 pixels do not fit.*stride 16.*take 48 x 48"):
        ghostkit.Trainer(settings)
