"""Evaluating finished networks: the figures are those of an independent computation, and of the run itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

import ghostkit
from ghostkit import RunConfig, evaluate
from ghostkit.checkpoint import stored
from ghostkit.data import batches, load
from ghostkit.data.folders import ImageFiles
from ghostkit.errors import GhostkitError
from ghostkit.nn import build
from ghostkit.run_folder import checkpoints
from ghostkit.tasks import classification

CLASSES = ["apple", "bear", "cat", "Dog", "eel", "fox", "gnu"]  # more than five, so that top-5 can fail
SORTED = sorted(CLASSES)  # "Dog" comes first, as file names sort
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = {"image_size": 32, "batch_size": 4, "device": "cpu"}


@cache
def pictures() -> Path:
    """A folder of 21 images in 7 classes: colour and grey, JPEG and PNG, of odd sizes."""
    folder, draw = Path(mkdtemp()), np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for index in range(3):
            width, height = (int(side) for side in draw.integers(20, 90, 2))
            grey = index == 2
            pixels = draw.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
            pixels = (pixels * (number + 1) // len(CLASSES)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.{'png' if index else 'jpg'}")
    (folder / "apple" / "notes.txt").write_text("no image")
    return folder


@cache
def network() -> nn.Module:
    """A small published network with random weights, whose logits differ from image to image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build("ghostnet_050", len(CLASSES))
        model.train()
        for _ in range(3):  # BN statistics of something like images, or all logits come out alike
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures(), tmp_path / "pictures"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of :func:`network`, as they are published."""
    save_file(stored(network().state_dict()), tmp_path / "ghostnet_050.safetensors")
    return tmp_path / "ghostnet_050.safetensors"


def independent(
    files: list[tuple[Path, int]], resize: int, size: int, mode: str = "bilinear"
) -> tuple[float, float, float]:
    """Top-1, top-5 and loss, computed image by image."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    top1, top5, losses = 0, 0, []
    for file, label in files:
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        sides = [int(resize * side / short) for side in image.size]
        image = image.resize(sides, Image.Resampling[mode.upper()])
        left, top = (round((side - size) / 2) for side in image.size)
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size))))
        with torch.no_grad():
            logits = network()(((pixels.permute(2, 0, 1) / 255 - mean) / std)[None])[0]
        ranked = logits.argsort(descending=True).tolist()
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
        losses.append(F.cross_entropy(logits[None], torch.tensor([label])).item())
    return top1 / len(files), top5 / len(files), sum(losses) / len(losses)


def labelled(folder: Path) -> list[tuple[Path, int]]:
    endings = (".jpg", ".png")
    return [
        (file, label)
        for label, name in enumerate(SORTED)
        for file in sorted((folder / name).iterdir())
        if file.suffix in endings
    ]


# Weights


@pytest.mark.parametrize("name", ["ghostnet_050.safetensors", "GhostNet-050.in1k.safetensors", "mine.safetensors"])
@pytest.mark.parametrize(("resize", "interpolation"), [(None, None), (48, "bicubic")])
def test_weights_score_what_an_independent_computation_says(tmp_path, name, resize, interpolation):
    prefix, model = ("module.", "ghostnet_050") if name == "mine.safetensors" else ("", None)
    state = {f"{prefix}{key}": tensor for key, tensor in network().state_dict().items()}
    save_file(stored(state), tmp_path / name)
    options = {**SMALL, "model": model, "resize": resize, "interpolation": interpolation}
    found = evaluate(tmp_path / name, f"folder:{pictures()}", **options)
    top1, top5, loss = independent(labelled(pictures()), resize or 37, 32, interpolation or "bilinear")
    assert 0 < top1 < top5 < 1  # or the comparison would say little
    assert (found.accuracy, found.accuracy_top5) == (top1, top5)
    assert found.loss == pytest.approx(loss, rel=1e-3)
    assert (found.images, found.source) == (21, str(tmp_path / name))


def test_images_are_made_as_published_unless_something_else_is_asked_for(weights, monkeypatch):
    asked = []
    resize, crop = v2.Resize, v2.CenterCrop
    monkeypatch.setattr(v2, "Resize", lambda *words: asked.append(words) or resize(*words))
    monkeypatch.setattr(v2, "CenterCrop", lambda size: asked.append(size) or crop(size))
    evaluate(weights, f"folder:{pictures()}", samples=1, device="cpu")
    assert asked == [(256, v2.InterpolationMode.BILINEAR), 224]


def test_workers_that_read_ahead_change_nothing(weights):
    together, ahead = (evaluate(weights, f"folder:{pictures()}", **{**SMALL, "batch_size": size}) for size in (64, 3))
    assert (together.accuracy, together.accuracy_top5) == (ahead.accuracy, ahead.accuracy_top5)
    assert together.loss == pytest.approx(ahead.loss, rel=1e-5)


def test_samples_are_spread_over_the_classes(weights):
    found = evaluate(weights, f"folder:{pictures()}", samples=7, **SMALL)
    top1, top5, loss = independent(labelled(pictures())[::3], 37, 32)
    assert (found.images, found.accuracy, found.accuracy_top5) == (7, top1, top5)
    assert found.loss == pytest.approx(loss, rel=1e-3)


def test_the_validation_part_of_a_folder_is_taken(tmp_path, weights):
    shutil.copytree(pictures(), tmp_path / "imagenet" / "val")
    (tmp_path / "imagenet" / "train").mkdir()
    for data in (f"folder:{tmp_path / 'imagenet'}", "imagenet"):
        assert evaluate(weights, data, root=tmp_path, **SMALL).images == 21


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("train", "val", "test")])
def test_the_test_part_of_a_folder_is_taken_where_there_are_parts(tmp_path, weights, names):
    for name in names:
        shutil.copytree(pictures(), tmp_path / "set" / name)
        if name not in ("test", "Testing"):
            (tmp_path / "set" / name / "fox" / "0.jpg").unlink()
    assert evaluate(weights, f"folder:{tmp_path / 'set'}", **SMALL).images == 21


def test_what_other_programs_leave_in_a_folder_is_neither_class_nor_image(folder, weights):
    for name in (".ipynb_checkpoints", "__MACOSX", "apple/.ipynb_checkpoints"):
        (folder / name).mkdir()
    for name in ("apple/._0.png", "__MACOSX/._0.png", "apple/.ipynb_checkpoints/0-checkpoint.png"):
        (folder / name).write_bytes(b"no image")
    clean, littered = (evaluate(weights, f"folder:{path}", **SMALL) for path in (pictures(), folder))
    assert (littered.images, littered.metrics, littered.loss) == (21, clean.metrics, clean.loss)


def test_evaluating_takes_nothing_from_the_random_state(weights):
    trained()
    before = torch.get_rng_state()
    evaluate(weights, f"folder:{pictures()}", **SMALL)
    evaluate(trained(), device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_network_runs_on_one_thread_and_the_others_come_back(monkeypatch):
    seen = []
    evaluate_batch = classification.evaluate

    def watched(*words: object) -> object:
        seen.append(torch.get_num_threads())
        return evaluate_batch(*words)

    monkeypatch.setattr(classification, "evaluate", watched)
    trained()
    torch.set_num_threads(2)
    try:
        evaluate(trained(), samples=100, device="cpu")
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(1)


def test_a_grey_network_sees_grey_images(tmp_path):
    path = tmp_path / "ghostnet_050.safetensors"
    save_file(stored(build("ghostnet_050", len(CLASSES), 1).state_dict()), path)
    grey = evaluate(path, f"folder:{pictures()}", mean=[0.5], std=[0.25], **SMALL)
    assert grey.images == 21
    with pytest.raises(GhostkitError, match=r"cannot take the images of 'folder:.*', 3 x 32 x 32"):
        evaluate(path, f"folder:{pictures()}", **SMALL)


def test_images_of_16_bits_and_those_taken_sideways_are_read_as_the_data_layer_reads_them(tmp_path):
    draw, sideways = np.random.default_rng(0), Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(draw.integers(0, 65536, (32, 32), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "turned.png", exif=sideways)
    read = ghostkit.evaluation.Reader(32, 32, "bilinear", [0.0] * 3, [1.0] * 3)
    for file in map(str, tmp_path.iterdir()):
        expected = ImageFiles([file], 3, 32)[torch.tensor([0])][0]
        assert torch.equal((read(file) * 255).round().byte(), expected)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_images_that_cannot_be_read_are_named(folder, weights, batch_size):
    (folder / "bear" / "0.jpg").write_bytes(b"no image")
    whole = (folder / "bear" / "1.png").read_bytes()
    (folder / "bear" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GhostkitError, match=r"cannot read '.*bear/0\.jpg' \(.+\), '.*bear/1\.png' \(.+\); repair"):
        evaluate(weights, f"folder:{folder}", **{**SMALL, "batch_size": batch_size})


def test_a_class_without_an_image_keeps_its_number(folder, weights):
    for file in (folder / "bear").iterdir():
        file.unlink()
    found = evaluate(weights, f"folder:{folder}", **SMALL)
    top1, top5, _ = independent([(file, label) for file, label in labelled(pictures()) if label != 2], 37, 32)
    assert (found.images, found.accuracy, found.accuracy_top5) == (18, top1, top5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "does not say what to evaluate it on; give data, such as folder:PATH"),
        ({"data": "folder:"}, "data is 'folder:', expected folder:PATH"),
        ({"data": "digits"}, "data is 'digits', expected folder:PATH with a folder per class, or imagenet"),
        ({"data": "folder:/no/where"}, "'/no/where' is no folder with a folder of images per class"),
        ({"data": "imagenet", "root": "/no/where"}, "the data root '/no/where' is no folder"),
        ({"model": "ghostnet_5"}, "unknown model 'ghostnet_5'; did you mean 'ghostnet_"),
        ({"model": "ghostnet_100"}, "do not fit 'ghostnet_100'"),
        ({"resize": 20}, "resize is 20, expected at least image_size, 32"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number, at least 1"),
        ({"image_size": "big"}, "image_size is 'big', expected a whole number"),
        ({"samples": 22}, "samples is 22, but there are 21 images"),
        ({"samples": 1.5}, r"samples is 1\.5, expected a whole number"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; known are bilinear, bicubic"),
        ({"mean": "grey"}, "mean is 'grey', expected a list with a number per channel"),
        ({"std": [0.0, 1.0, 1.0]}, r"std is \[0\.0, 1\.0, 1\.0\], expected a list with a positive number per channel"),
        ({"std": [1.0, -0.5, 1.0]}, r"std is \[1\.0, -0\.5, 1\.0\], expected a list with a positive"),
        ({"std": [float("nan")] * 3}, r"std is \[nan, nan, nan\], expected a list with a positive"),
        ({"mean": [float("inf")] * 3}, r"mean is \[inf, inf, inf\], expected a list with a number per channel"),
        ({"mean": []}, r"mean is \[\], expected a list with a number per channel"),
        ({"mean": [0.5]}, r"mean is \[0\.5\] and std .*, expected one number each"),
        ({"device": "abacus"}, "device='abacus' .* cannot be used"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(weights, options, message):
    with pytest.raises(GhostkitError, match=message):
        evaluate(weights, **{"data": f"folder:{pictures()}", **SMALL, **options})


def test_other_numbers_of_classes_are_refused(folder, weights):
    shutil.rmtree(folder / "cat")
    with pytest.raises(GhostkitError, match=r"has 6 classes, but the network in '.*_050\.safetensors' tells 7 apart"):
        evaluate(weights, f"folder:{folder}", **SMALL)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("state.safetensors", save_file, r"'state\.safetensors' contains no name of a network; give model, one of "),
        ("ghostnet_050.safetensors", save_file, r"do not fit 'ghostnet_050': no classifier\.weight"),
        ("ghostnet_050.pth", torch.save, r"ghostnet_050\.pth' was not opened: expected a \.safetensors file"),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, name, write, message):
    write({}, tmp_path / name)
    with pytest.raises(GhostkitError, match=message):
        evaluate(tmp_path / name, f"folder:{pictures()}")


def test_what_is_not_there_or_nothing_of_ours_is_refused(tmp_path):
    with pytest.raises(GhostkitError, match=r"'.*nothing' is not there; expected"):
        evaluate(tmp_path / "nothing")
    with pytest.raises(GhostkitError, match=r"holds neither a run \(config\.json\) nor a checkpoint"):
        evaluate(tmp_path)


# Runs and checkpoints

CONFIG = RunConfig(
    train_samples=256,
    test_samples=150,
    epochs=2,
    grow_from=0.25,
    grow_every=0.25,
    grow_until=0.75,
    budget_factor=2,
    probe_samples=32,
    evaluate_every=0.5,
    device="cpu",
)


@cache
def trained(ema: float | None = None) -> Path:
    return ghostkit.train(CONFIG.changed(ema=ema), mkdtemp()).folder


def scores(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        logits = model.eval()(images)
    return (logits.argmax(1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()


@pytest.mark.parametrize("ema", [None, 0.7])
def test_a_run_evaluated_again_says_what_its_own_metrics_say(ema):
    run = ghostkit.Run(trained(ema))
    last = run.metrics.query("split == 'test'").iloc[-1]
    found = evaluate(run.folder, device="cpu")
    assert (found.images, found.data) == (150, "digits")
    assert found.accuracy == pytest.approx(last["accuracy"], abs=1e-7)
    assert found.loss == pytest.approx(last["loss"], rel=1e-5)
    assert found.accuracy_top5 == pytest.approx(run.result["accuracy_top5"], abs=1e-7)
    images = next(batches(load("digits", test_samples=150).test, 150, shuffle=False))
    assert scores(run.model(), *images) == pytest.approx((found.accuracy, found.loss), rel=1e-4)
    if ema is not None:  # the moving average is another network than the one that trains
        trained_one = ghostkit.load(checkpoints(run.folder)[-1])
        assert scores(trained_one, *images)[1] != pytest.approx(found.loss, rel=1e-3)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_in_another_precision_is_evaluated_as_it_evaluated_itself(precision, tmp_path):
    run = ghostkit.train(CONFIG.changed(precision=precision, when="never", epochs=0.5), tmp_path)
    assert evaluate(run.folder, device="cpu").accuracy == pytest.approx(run.result["accuracy"], abs=1e-7)


def test_a_detector_in_another_precision_is_evaluated_as_it_evaluated_itself(tmp_path):
    head = {"model_options": {"stem_stride": 2}, "head_options": {"channels": 16, "convolutions": 1}}
    samples = {"train_samples": 8, "test_samples": 8, "batch_size": 4}
    config = RunConfig(data="scenes", task="detection", when="never", epochs=1, precision="64-true", **head, **samples)
    run = ghostkit.train(config, tmp_path)
    found = evaluate(run.folder, device="cpu")
    assert (found.images, found.metrics["map50"]) == (8, pytest.approx(run.result["map50"]))


def test_other_data_reach_the_network_of_a_run_normalised_as_in_its_training():
    run, whole = ghostkit.Run(trained()), load("digits")
    own = load("digits", train_samples=256)
    test = dataclasses.replace(whole.test, mean=own.train.mean, std=own.train.std)
    expected = scores(run.model(), test.images(torch.arange(len(test))), test.labels)
    found = evaluate(run.folder, "digits", device="cpu")
    assert found.images == len(whole.test)
    assert (found.accuracy, found.loss) == pytest.approx(expected, rel=1e-5)
    given = evaluate(run.folder, "digits", mean=[0.4], std=[0.1], samples=100, device="cpu")
    assert given.images == 100
    assert given.loss != pytest.approx(found.loss, rel=1e-3)


def test_a_checkpoint_is_evaluated_on_the_data_that_is_given(tmp_path):
    run = ghostkit.Run(trained())
    ghostkit.save(run.model(), tmp_path / "checkpoint")
    found = evaluate(tmp_path / "checkpoint", "digits", batch_size=100, device="cpu")
    test = load("digits").test
    expected = scores(run.model(), test.images(torch.arange(len(test))), test.labels)
    assert (found.accuracy, found.loss) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(GhostkitError, match="does not say what to evaluate it on"):
        evaluate(tmp_path / "checkpoint")


def test_a_checkpoint_of_a_published_network_may_be_evaluated_as_published(tmp_path):
    ghostkit.save(network(), tmp_path / "checkpoint")
    found = evaluate(tmp_path / "checkpoint", f"folder:{pictures()}", **SMALL)
    top1, top5, _ = independent(labelled(pictures()), 37, 32)
    assert (found.accuracy, found.accuracy_top5) == (top1, top5)


def of_classes(folder: Path, names: list[str]) -> str:
    """Data of one's own: a folder per name, with five grey images in each."""
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (8, 8), 40 * number + level).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def test_a_run_is_evaluated_on_classes_of_its_own_names_alone(tmp_path):
    own = of_classes(tmp_path / "own", ["cat", "dog"])
    run = ghostkit.train(RunConfig(data=own, size=8, when="never", epochs=1, device="cpu"), tmp_path / "run")
    assert evaluate(run.folder, of_classes(tmp_path / "capitals", ["Cat", "Dog"]), device="cpu").images == 2
    with pytest.raises(GhostkitError, match=r"has 'Dog', 'cat' where the network learned 'cat', 'dog' from 'folder:"):
        evaluate(run.folder, of_classes(tmp_path / "sorted", ["cat", "Dog"]), device="cpu")
    with pytest.raises(GhostkitError, match=r"has 'cow' where the network learned 'dog' from .*; expected the same"):
        evaluate(run.folder, of_classes(tmp_path / "other", ["cat", "cow"]), device="cpu")
    with pytest.raises(GhostkitError, match=r"has 3 classes, but the network in .* tells 2 apart"):
        evaluate(run.folder, of_classes(tmp_path / "more", ["cat", "cow", "dog"]), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "seedling"}, "model='seedling', but '.*' is a folder and knows its network"),
        ({"resize": 9}, "is a run, which knows its images; leave image_size, resize and interpolation out"),
        ({"samples": 151}, "samples is 151, but there are 150 images"),
        (
            {"mean": [0.5] * 3},
            r"mean is \[0\.5, 0\.5, 0\.5\], expected 1 number\(s\): one for each channel of 'dig",
        ),
        ({"std": [0.5] * 2}, r"std is \[0\.5, 0\.5\], expected 1 number\(s\)"),
        ({"data": f"folder:{pictures()}"}, "has images of 3 x 8 x 8, but the network grew on 1 x 8 x 8"),
        ({"data": "mnits"}, "unknown data 'mnits'; did you mean 'mnist'"),
    ],
)
def test_what_does_not_fit_a_run_is_refused_in_words(options, message):
    with pytest.raises(GhostkitError, match=message):
        evaluate(trained(), **options)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images_that_a_network_with_a_head_does_not_take_are_refused_in_words(tmp_path, monkeypatch, task):
    monkeypatch.setattr(ghostkit.evaluation, "load_data", partial(load, train_samples=8, test_samples=4))
    classes = 10 if task == "detection" else 11
    ghostkit.save(build("seedling", classes, 1, task=task, stem_stride=2), tmp_path / "grey")
    with pytest.raises(GhostkitError, match=r"grey' cannot take the images of 'scenes-colour', 3 x 64 x 64: "):
        evaluate(tmp_path / "grey", "scenes-colour", device="cpu")
    with pytest.raises(GhostkitError, match=rf"grey' is a network for {task}, .* leave image_size, resize and"):
        evaluate(tmp_path / "grey", f"folder:{pictures()}", image_size=32, device="cpu")


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.model_dump(mode="json")))
    with pytest.raises(GhostkitError, match="no checkpoint"):
        evaluate(tmp_path)


def test_the_figures_read_as_a_person_writes_them():
    found = ghostkit.evaluation.Evaluation(
        "a", "b", {"accuracy": 0.7398, "accuracy_top5": 0.9146}, 1.03456, 50_000, 1.0
    )
    assert str(found) == "top-1   73.98 %\ntop-5   91.46 %\nloss    1.0346\nimages  50,000"
    boxes = ghostkit.evaluation.Evaluation("a", "b", {"map50": 0.5, "map": 0.25}, 1.0, 9, 1.0)
    assert str(boxes) == "mAP50   50.00 %\nmAP     25.00 %\nloss    1.0000\nimages  9"


def test_a_run_with_images_held_out_is_judged_on_them_and_evaluated_on_the_test_images(tmp_path):
    config = CONFIG.changed(when="never", validation_samples=100, epochs=0.5)
    trainer = ghostkit.Trainer(config, tmp_path / "run")
    result = trainer.train()
    data = load("digits", train_samples=256, validation_samples=100)
    held = scores(trainer.model, *next(batches(data.validation, 100, shuffle=False)))
    assert (result["accuracy"], result["loss"]) == (pytest.approx(held[0]), pytest.approx(held[1], rel=1e-5))
    found = evaluate(tmp_path / "run", device="cpu")
    tested = scores(
        trainer.model, *next(batches(dataclasses.replace(data.test, mean=data.mean, std=data.std), 150, shuffle=False))
    )
    assert found.images == 150
    assert (found.accuracy, found.loss) == (pytest.approx(tested[0]), pytest.approx(tested[1], rel=1e-5))
    assert found.loss != pytest.approx(result["loss"], rel=1e-3)
