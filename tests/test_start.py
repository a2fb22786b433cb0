"""What a run starts from: fresh weights, a file of weights, a network that has grown before; images at hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import ghostkit
from ghostkit import GhostkitError, RunConfig, Trainer
from ghostkit import start as start_module
from ghostkit.data import ImageData, Split
from ghostkit.events import Finished, StepDone
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, WidenStage, grow, history_of
from ghostkit.start import starting_network
from ghostkit.tasks.classification import evaluate

STAGES = {"stages": [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]]}
GROWN = (AddBranch("blocks.0.0.ghost1", 5), AddBlock("blocks.1", "0"), AddIntrinsic("blocks.1.0.ghost1", 2))


def seedling(classes: int = 5, seed: int = 7) -> nn.Module:
    """A network other than that which ``start`` makes afresh."""
    torch.manual_seed(seed)
    return ghostkit.build("seedling", num_classes=classes, in_channels=1, **STAGES)


def start(classes: int = 5, weights: Any = None, name: str = "seedling", seed: int = 0, **options: Any) -> nn.Module:
    return starting_network(name, classes, 1, seed, None if weights is None else str(weights), {**STAGES, **options})


def differing(first: nn.Module, second: nn.Module) -> set[str]:
    one, two = first.state_dict(), second.state_dict()
    return {name for name in one | two if not (name in one and name in two and torch.equal(one[name], two[name]))}


def stored(model: nn.Module, path: Path, prefix: str = "") -> Path:
    save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


PREFIXES = ("", "module.")  # the latter by DataParallel
HEAD = {"classifier.weight", "classifier.bias"}


def test_fresh_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    first, before = start(seed=3), torch.get_rng_state()
    torch.rand(5)
    assert differing(first, start(seed=3)) == set()
    assert differing(first, start(seed=4)) >= {"conv_stem.weight", "classifier.weight"}
    torch.manual_seed(1)
    start(seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": "a.safetensors"},
            r"model_options = .*'weights': 'a\.safetensors'.*give it as 'weights' of the conf",
        ),
        ({"name": "seedling"}, "model_options = .*'name': 'seedling'.*give it as 'model' of the configuration"),
        ({"ratio": 1.5}, r"ratio=1\.5, .* must be whole numbers of at least 1"),
        ({"stem_stride": -1}, r"stem_stride=-1"),
        ({"depth": 3}, "build.*depth=3.*unexpected keyword argument 'depth'"),
    ],
)
def test_an_option_that_no_network_takes_is_refused_in_words(options, message):
    with pytest.raises(GhostkitError, match=message):
        starting_network("seedling", 5, 1, 0, options={**STAGES, **options})


@pytest.mark.parametrize("prefix", PREFIXES)
def test_weights_of_as_many_classes_are_taken_over_whole(prefix, tmp_path):
    model = seedling()
    assert differing(model, start(weights=stored(model, tmp_path / "weights.safetensors", prefix))) == set()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("classes", [2, 9])
def test_weights_of_other_classes_get_a_fresh_classifier_and_keep_all_else(prefix, classes, tmp_path):
    model = seedling(classes=5)
    started = start(classes, stored(model, tmp_path / "weights.safetensors", prefix))
    assert differing(model, started) == HEAD
    assert differing(start(classes), started) & HEAD == set()  # that of a fresh start from this seed
    assert started.recipe["num_classes"] == classes
    assert started(torch.zeros(2, 1, 8, 8)).shape == (2, classes)


@pytest.mark.parametrize("classes", [5, 3])
def test_a_grown_network_of_a_checkpoint_stays_grown(classes, tmp_path):
    model = seedling()
    grow(model, GROWN, probe=torch.randn(8, 1, 8, 8))
    ghostkit.save(model, tmp_path)
    started = start(classes, tmp_path, name="ghostnet_100", width=3.0)  # what the checkpoint holds decides
    assert differing(model, started) == (set() if classes == 5 else HEAD)
    history = history_of(started)
    assert history.events == history_of(model).events
    assert history.recipe == {**history_of(model).recipe, "num_classes": classes} == started.recipe
    grow(started, WidenStage("blocks.0.0.ghost2", 2))
    rebuilt = ghostkit.rebuild(history_of(started))
    assert [(name, p.shape) for name, p in rebuilt.named_parameters()] == [
        (name, p.shape) for name, p in started.named_parameters()
    ]
    ghostkit.save(started, tmp_path / "later")
    assert differing(started, ghostkit.load(tmp_path / "later")) == set()
    assert ghostkit.undo(started, 2).undoes == 2  # and what was taken over can be taken back


def test_two_starts_from_a_checkpoint_are_two_networks(tmp_path):
    model = seedling()
    grow(model, GROWN)
    ghostkit.save(model, tmp_path)
    first, second = start(weights=tmp_path), start(weights=tmp_path)
    grow(first, AddBranch("blocks.0.0.ghost1"))
    assert len(history_of(first).events) == 2
    assert len(history_of(second).events) == 1


class Own(nn.Module):
    """A network whose last layer has another name."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 5)


def wrong(case: str, folder: Path) -> Path:
    path = folder / f"{case}.safetensors"
    if case == "another network":
        stored(Own(), path)
    elif case == "a grown one":
        model = seedling()
        grow(model, GROWN)
        stored(model, path)
    elif case == "a pickle":
        path = path.with_suffix(".pt")
        path.write_bytes(pickle.dumps({"code": print}, protocol=2))
    elif case == "no weights at all":
        path.write_text("these are no weights")
    elif case == "an empty folder":
        path = folder / case
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("another network", "do not fit 'seedling'"),
        ("a grown one", "do not fit 'seedling'"),
        ("a pickle", r"a pickle\.pt' was not opened: expected a \.safetensors file.* convert it once: python -c"),
        ("no weights at all", "cannot read weights from .*no weights at all"),
        ("missing", r"cannot read weights from .*missing\.safetensors': .*No such file"),
        ("an empty folder", "an empty folder' is no checkpoint"),
    ],
)
def test_a_wrong_file_is_named(case, message, tmp_path):
    path = wrong(case, tmp_path)
    with pytest.raises(GhostkitError, match=message) as caught:
        start(weights=path)
    assert case in str(caught.value)


# Pretrained


def batches(seed: int, classes: int, count: int = 48) -> tuple[Tensor, Tensor]:
    """Images whose class is how bright they are, in noise."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.randn(count, 1, 32, 32, generator=draw) + labels[:, None, None, None].float(), labels


def test_a_pretrained_ghostnet_grows_on_other_data_and_answers_as_before(tmp_path):
    torch.manual_seed(0)
    options = {"width": 0.2, "head_channels": 16, "dropout": 0.1}
    model = ghostkit.build("ghostnet_050", num_classes=3, in_channels=1, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(4):
        images, targets = batches(step, 3)
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
    path = stored(model, tmp_path / "pretrained.safetensors")

    started = starting_network("ghostnet_050", 4, 1, 0, str(path), options)
    assert differing(model, started) == HEAD
    optimizer = torch.optim.SGD(started.parameters(), lr=0.05, momentum=0.9)
    images, targets = batches(99, 4)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(started(images), targets).backward()
        optimizer.step()
    found = ghostkit.candidates(started, images, targets, lambda m, x, y: F.cross_entropy(m(x), y), kinds=("branch",))
    edits = [*found.drop_duplicates("site")["edit"][:4], AddBlock("blocks.6", "1"), WidenStage("conv_stem", 2)]
    before, size = evaluate(started, [(images, targets)], 4), sum(p.numel() for p in started.parameters())
    with torch.no_grad():
        logits = started.eval()(images)
    event = grow(started, edits, optimizer, probe=images)
    with torch.no_grad():
        torch.testing.assert_close(started(images), logits, rtol=1e-3, atol=1e-4)
    after = evaluate(started, [(images, targets)], 4)
    assert sum(p.numel() for p in started.parameters()) > size
    assert event.max_logit_change < 1e-3
    assert after.accuracy == before.accuracy
    assert torch.equal(after.confusion, before.confusion)
    started.train()
    optimizer.zero_grad()
    F.cross_entropy(started(images), targets).backward()
    optimizer.step()
    assert differing(model, started) > HEAD


def test_a_run_goes_on_growing_from_the_checkpoint_of_another_on_other_classes(tmp_path):
    model = seedling(classes=3)
    grow(model, GROWN, probe=torch.randn(8, 1, 8, 8))
    ghostkit.save(model, tmp_path / "earlier")
    config = RunConfig(
        weights=str(tmp_path / "earlier"),
        train_samples=128,
        test_samples=40,
        epochs=2,
        grow_from=0.5,
        grow_every=1.0,
        grow_until=0.5,
        kinds=("branch",),
        probe_samples=32,
        evaluate_every=0.5,
        device="cpu",
    )
    trainer = Trainer(config, tmp_path / "run")
    assert trainer.engine.seedling["params"] == sum(p.numel() for p in trainer.model.parameters())
    assert trainer.engine.budget.macs == config.budget_factor * trainer.engine.seedling["macs"]
    trainer.train()
    run = ghostkit.Run(tmp_path / "run")
    assert len(run.history.events) == 2
    assert run.history.recipe["num_classes"] == 10
    assert run.history.image == (1, 8, 8)
    assert run.history.events[0].edits == GROWN
    assert run.history.events[1].edits
    assert run.model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert ghostkit.rebuild(run.history)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


# Images


@pytest.fixture
def colours() -> ImageData:
    """Three classes of 10 x 6 colour images, each class bright in a channel of its own."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 3
        pixels = torch.randint(80, (count, 3, 10, 6), generator=draw)
        pixels[torch.arange(count), labels] += 120
        return Split(pixels.to(torch.uint8), labels, (0.3,) * 3, (0.2,) * 3)

    return ImageData("colours", split(60), split(31), ("r", "g", "b"), 3, 10, 6, (0.3,) * 3, (0.2,) * 3, "here")


def test_images_can_be_handed_over_instead_of_a_name(colours, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr(start_module, "load_data", refuse)
    options = {"epochs": 2, "grow_from": 0.25, "grow_until": 0.75, "grow_every": 0.5, "evaluate_every": 0.25}
    settings = RunConfig(data="never looked at", batch_size=20, probe_samples=32, device="cpu", **options)
    events = list(Trainer(settings, tmp_path, data=colours))
    assert sum(isinstance(event, StepDone) for event in events) == 6
    run = ghostkit.Run(tmp_path)
    assert run.history.image == (3, 10, 6)
    assert run.model()(torch.zeros(1, 3, 10, 6)).shape == (1, 3)
    assert [type(event) for event in Trainer(settings, tmp_path, data=colours)] == [Finished]


def test_a_run_starts_from_the_shape_that_another_grew_to_with_weights_of_its_own(tmp_path):
    grown = seedling()
    for edit in GROWN:
        grow(grown, edit)
    (tmp_path / "history.jsonl").write_text("\n".join(history_of(grown).lines()) + "\n")
    started = starting_network("seedling", 5, 1, 0, shape=str(tmp_path))
    assert {name: value.shape for name, value in started.state_dict().items()} == {
        name: value.shape for name, value in grown.state_dict().items()
    }
    for path, layer in started.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all()), f"{path} is awake"
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert bool(layer.weight.flatten(1).any(1).all()), f"{path} has no filter of zeros"
            assert bool(layer.weight.transpose(0, 1).flatten(1).any(1).all()), f"{path} has no column of zeros"
    again = starting_network("seedling", 5, 1, 0, shape=str(tmp_path))
    assert not differing(started, again), "one seed, one network"
    assert differing(started, starting_network("seedling", 5, 1, 1, shape=str(tmp_path)))


def test_a_shape_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ghostkit.GhostkitError, match=r"shape='.*' is no folder of a run: it has no history\.jsonl"):
        starting_network("seedling", 5, 1, 0, shape=str(tmp_path))
