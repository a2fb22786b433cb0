"""Networks by name, and published weights from safetensors files; pickles are not even opened."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostkit.checkpoint import stored
from ghostkit.errors import GhostkitError
from ghostkit.nn import build, zoo
from ghostkit.nn.zoo import names, read_weights

OPTIONS = {"num_classes": 3, "in_channels": 1}


@pytest.fixture
def published() -> nn.Module:
    model = build("seedling", **OPTIONS)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


class Bomb:
    """What a hostile file holds: an object that runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_every_name_builds_a_network_that_remembers_its_recipe() -> None:
    assert set(names()) >= {f"ghostnet{v}_{w}" for v, w in [("", "050"), ("", "100"), ("", "130")]} | {"seedling"}
    for name in names():
        model = build(name, num_classes=4, in_channels=2, cheap_kernel=5)
        assert model.recipe.items() >= {"name": name, "num_classes": 4, "in_channels": 2, "cheap_kernel": 5}.items()
        assert str(build(**json.loads(json.dumps(model.recipe)))) == str(model)
        assert model.eval()(torch.randn(1, 2, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize("name", ["ghostnet_100", "ghost_resnet20", "ghost_mobilenet_v2", "ghost_mobilenet_v3_small"])
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
@pytest.mark.parametrize("value", [0, -1, "10", 2.0, True])
def test_numbers_of_classes_and_channels_that_are_none_are_quoted(name: str, argument: str, value: Any) -> None:
    with pytest.raises(GhostkitError, match=rf"build\('{name}', {argument}={value!r}\): expected a whole number"):
        build(name, **{argument: value})


def test_options_override_the_numbers_of_a_variant() -> None:
    wide, narrow = (build("ghostnet_100", 3, **options) for options in ({}, {"width": 0.5}))
    assert str(narrow) == str(build("ghostnet_050", 3))
    assert str(narrow) != str(wide)


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("name", ["weights.safetensors", "WEIGHTS.SAFETENSORS"])
def test_weights_load_from_their_file_whatever_profilers_left_in_it(
    tmp_path: Path, published: nn.Module, prefix: str, name: str
) -> None:
    state = dict(published.state_dict())
    extra = {"total_ops": torch.zeros(1), "blocks.0.total_params": torch.zeros(1)}
    save_file(stored({f"{prefix}{key}": value for key, value in {**state, **extra}.items()}), tmp_path / name)
    model = build("seedling", **OPTIONS, weights=tmp_path / name)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert "weights" not in model.recipe


@pytest.mark.parametrize("hidden", ["alone", "beside the weights"])
@pytest.mark.parametrize("name", ["hostile.pth", "hostile.pt", "hostile.bin", "hostile.pth.tar", "hostile"])
def test_a_file_that_would_run_code_is_not_opened(
    tmp_path: Path, published: nn.Module, monkeypatch: pytest.MonkeyPatch, name: str, hidden: str
) -> None:
    bomb, path, opened = Bomb(tmp_path / "ran"), tmp_path / name, []
    if hidden == "alone":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({**published.state_dict(), "bomb": bomb}, path)
    monkeypatch.setattr(zoo, "file_bytes", lambda *words, **_: opened.append(words))
    with pytest.raises(GhostkitError) as refusal:
        build("seedling", **OPTIONS, weights=path)
    for word in [f"{str(path)!r} was not opened", "expected a .safetensors file", "pickle", "once: python -c"]:
        assert word in str(refusal.value)
    assert str(refusal.value).endswith(f" {path} {path.with_suffix('.safetensors')}")
    assert opened == []
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(bomb))  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_the_refusal_of_a_pickle_has_the_command_that_converts_it(tmp_path: Path, wrapper: str | None) -> None:
    model = build("seedling", num_classes=3, in_channels=3)  # whose first convolution is not in the plain layout
    state = model.state_dict()
    state["blocks.0.total_params"] = state["classifier.bias"][:]  # in memory that it shares
    path = tmp_path / "the author's $HOME.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    with pytest.raises(GhostkitError) as refusal:
        read_weights(path)
    command = str(refusal.value).partition("convert it once: python")[2]
    subprocess.run(f"{shlex.quote(sys.executable)}{command}", shell=True, check=True)
    converted = build("seedling", 3, 3, weights=path.with_suffix(".safetensors")).state_dict()
    assert all(torch.equal(value, converted[key]) for key, value in model.state_dict().items())


def change(state: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    """The state with one tensor changed, or left out when None."""
    return {k: v for k, v in {**state, key: value}.items() if v is not None}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classifier.weight", torch.zeros(10, 1), ["size mismatch", "classifier.weight"]),
        ("classifier.bias", None, ["Missing key", "classifier.bias"]),
        ("blocks.9.weight", torch.zeros(1), ["Unexpected key", "blocks.9.weight"]),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_file_and_the_tensor(
    tmp_path: Path, published: nn.Module, key: str, value: Tensor | None, words: list[str]
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(stored(change(dict(published.state_dict()), key, value)), path)
    with pytest.raises(GhostkitError) as refusal:
        build("seedling", **OPTIONS, weights=path)
    for word in [str(path), "do not fit 'seedling'", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.pth", None, "No such file"),
        ("gone.safetensors", None, "No such file"),
        ("text.safetensors", b"not weights at all", "header"),
        ("empty.safetensors", b"", "header"),
        ("pickle.safetensors", pickle.dumps({"x": 1}), "header"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GhostkitError, match=rf"cannot read weights from '.*{re.escape(name)}': .*{words}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ghostnet_051", {}, ["'ghostnet_051'", "did you mean 'ghostnet_050'", "seedling"]),
        ("resnet", {}, ["'resnet'", "known are"]),
        ("seedling", {"colour": "red"}, ["colour='red'", "build('seedling'"]),
        ("seedling", {"ratio": 0}, ["ratio=0"]),
    ],
)
def test_an_unknown_name_or_option_is_refused_and_quoted(name: str, options: dict, words: list[str]) -> None:
    with pytest.raises(GhostkitError) as refusal:
        build(name, **options)
    for word in words:
        assert word in str(refusal.value)
