"""What is exported computes what the network computes, for any number of images, or is not there."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghostkit
from ghostkit import exporting
from ghostkit.errors import GhostkitError
from ghostkit.exporting import export, image_shape_of, read_network
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    WidenStage,
    grow,
)
from ghostkit.growth.edits import EDITS as KINDS_OF_EDIT
from ghostkit.nn import build
from ghostkit.nn.ghostnet import Row

SHAPE = (1, 12, 12)
ROWS = ((Row(3, 8, 8, 0, 2), Row(3, 4, 8, 0, 1)), (Row(5, 8, 12, 0.5, 1), Row(3, 12, 12, 0, 1), Row(3, 8, 12, 0.5, 1)))
EDITS: tuple[Edit, ...] = (  # every kind, and edits on what the others made
    DeepenBranches("blocks.0.0.ghost1"),
    AddBranch("blocks.0.0.ghost1", 5),
    AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"),
    AddLink("blocks.1.0.ghost1", "blocks.1.2.ghost1"),
    AddBlock("blocks.1", "1", init="clone"),
    AddBlock("blocks.1", "0"),
    AddLink("blocks.1.g1.ghost1", "blocks.1.2.ghost1"),
    AddIntrinsic("blocks.1.g1.ghost1", 2),
    AddIntrinsic("blocks.1.0.ghost1", 2),
    DeepenBranches("blocks.1.g1.ghost1", 5),
    DeepenBranches("blocks.1.1.ghost1"),
    AddBranch("blocks.1.1.ghost1", 3),
    AddLink("blocks.1.0.ghost1", "blocks.1.1.ghost1"),
    WidenStage("blocks.0.0.ghost2", 4),
    WidenStage("blocks.2.0.conv", 3),
    RemoveLink("blocks.1.0.ghost1", "blocks.1.1.ghost1"),
    RemoveLayer("blocks.1.1.ghost1", "d1"),
    RemoveBranch("blocks.1.1.ghost1", 3, 0),
    RemoveIntrinsic("blocks.1.0.ghost1", (0,)),
    NarrowStage("blocks.0.0.ghost2", (1,)),
    RemoveBlock("blocks.1", "g2"),
)
FORMATS = pytest.mark.parametrize("ending", [".onnx", ".pt2"])


@cache
def grown() -> nn.Module:
    """A network grown and cut by every kind of edit, whose every number counts: nothing is zero, as it starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("seedling", 5, 1, stages=ROWS)
        for edit in EDITS:
            grow(model, edit)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def outputs(path: Path, images: Tensor) -> Tensor:
    """What the runtime of a file computes, asked for independently of the package."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    assert [one.name for one in session.get_inputs()] == ["images"]
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.fixture
def seedling() -> nn.Module:
    return build("seedling", 5, 1)


def test_the_edits_here_are_of_every_kind():
    assert {type(edit) for edit in EDITS} == set(KINDS_OF_EDIT.values())


@FORMATS
def test_a_network_grown_by_every_kind_of_edit_computes_the_same_elsewhere(tmp_path, ending):
    model, images = grown(), torch.randn(7, *SHAPE)
    mode = model.train().training
    path = tmp_path / f"model{ending}"
    difference = export(model, path, SHAPE)
    assert 0 <= difference < 1e-5
    assert model.training == mode
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with torch.no_grad():
        expected = model.eval()(images)
    for count in (1, 3, 7):
        torch.testing.assert_close(outputs(path, images[:count]), expected[:count], rtol=1e-4, atol=1e-5)


def test_published_networks_are_exported_too(tmp_path):
    model = build("ghostnetv2_100", 5, width=0.2, head_channels=16)
    assert export(model, tmp_path / "model.pt2", (3, 64, 64)) < 1e-5


@FORMATS
def test_what_computes_something_else_is_not_kept_and_what_was_there_stays(tmp_path, monkeypatch, seedling, ending):
    write, read, packages = exporting.FORMATS[ending]
    path = tmp_path / f"model{ending}"
    path.write_text("the old file")

    def wrong(data: bytes) -> exporting.Forward:
        again = read(data)
        return lambda images: again(images) * (1 if len(images) == 1 else 1.001)

    monkeypatch.setitem(exporting.FORMATS, ending, (write, wrong, packages))
    with pytest.raises(GhostkitError, match=r"not written: its outputs differ by 0\.001 .* expected at most 0\.0001"):
        export(seedling, path, (1, 8, 8))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {path.name: "the old file"}


def test_a_difference_that_is_no_number_is_refused(tmp_path, seedling):
    nn.init.constant_(seedling.classifier.bias, float("nan"))
    with pytest.raises(GhostkitError, match="differ by nan"):
        export(seedling, tmp_path / "model.pt2", (1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_a_difference_that_is_no_number_is_refused_in_whichever_batch_it_is(tmp_path):
    class Root(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).mean(1).sqrt()[:, None]

    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert [bool(Root()(images[:count]).isfinite().all()) for count in exporting.CHECKED] == [True, False]
    with pytest.raises(GhostkitError, match="differ by nan"):
        export(Root(), tmp_path / "model.pt2", (1, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(28, 28), (1, -2, 28), (1, 0, 28), "1x28x28", (1, 8.0, 8)])
def test_a_shape_that_is_none_of_an_image_is_quoted(tmp_path, seedling, shape):
    with pytest.raises(
        GhostkitError, match=f"image_shape is {re.escape(repr(shape))}, expected channels, height, width"
    ):
        export(seedling, tmp_path / "model.pt2", shape)


class Listing(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        (None, "model.pth", r"cannot export to '.*model\.pth'; expected a file that ends in \.onnx or \.pt2"),
        (None, "model", r"expected a file that ends in \.onnx or \.pt2"),
        (None, "nowhere/model.pt2", r"cannot write '.*nowhere/model\.pt2'"),
        (Listing(), "model.pt2", "returns list, expected one tensor"),
        (Stubborn(), "model.pt2", "Stubborn cannot be traced for batches of any size"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, seedling, model, path, message):
    with pytest.raises(GhostkitError, match=message):
        export(seedling if model is None else model, tmp_path / path, (1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_images_that_the_network_does_not_take_are_named(tmp_path, seedling):
    with pytest.raises(GhostkitError, match="does not take images of 3 x 8 x 8"):
        export(seedling, tmp_path / "model.onnx", (3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_precision_that_onnxruntime_does_not_take_is_refused_in_words(tmp_path, seedling, dtype):
    with pytest.raises(GhostkitError, match=r"onnxruntime does not take this network: .*A \.pt2 file holds every"):
        export(seedling.to(dtype), tmp_path / "model.onnx", (1, 8, 8))
    assert not list(tmp_path.iterdir())
    export(seedling.to(dtype), tmp_path / "model.pt2", (1, 8, 8))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_comes_with_the_command_that_gets_it(tmp_path, monkeypatch, seedling, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GhostkitError, match=rf"ONNX needs {package}: .*; pip install 'ghostkit\[export\]'"):
        export(seedling, tmp_path / "model.onnx", (1, 8, 8))


def test_a_checkpoint_is_read_and_says_for_which_images_it_is_if_it_knows(tmp_path, seedling):
    ghostkit.save(seedling, tmp_path)
    with pytest.raises(GhostkitError, match=r"history does not say .* give --image, as in 3x224x224"):
        image_shape_of(read_network(tmp_path))
    seedling.growth_history = ghostkit.growth.history.History(seedling.recipe, (1, 8, 8), [])
    ghostkit.save(seedling, tmp_path)
    assert image_shape_of(read_network(tmp_path)) == (1, 8, 8)


def test_the_public_name_is_the_function():
    assert ghostkit.export is export
