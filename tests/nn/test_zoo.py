"""Networks by name, and published weights from files that are read without running anything in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import build
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


def test_options_override_the_numbers_of_a_variant() -> None:
    wide, narrow = (build("ghostnet_100", 3, **options) for options in ({}, {"width": 0.5}))
    assert str(narrow) == str(build("ghostnet_050", 3))
    assert str(narrow) != str(wide)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (save_file, "weights.safetensors"),
        (torch.save, "weights.pth"),
        (lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path), "checkpoint.pth"),
        (lambda state, path: torch.save({"model": state}, path), "model.pt"),
        (lambda state, path: torch.save({f"module.{key}": value for key, value in state.items()}, path), "ddp.pth"),
    ],
    ids=["safetensors", "plain", "state_dict", "model", "DataParallel"],
)
def test_weights_load_from_their_file_whatever_profilers_left_in_it(
    tmp_path: Path, published: nn.Module, write: Callable, name: str
) -> None:
    state = dict(published.state_dict())
    extra = {"total_ops": torch.zeros(1), "blocks.0.total_params": torch.zeros(1)}
    write({**state, **extra}, tmp_path / name)
    model = build("seedling", **OPTIONS, weights=tmp_path / name)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert "weights" not in model.recipe


@pytest.mark.parametrize("hidden", ["alone", "beside the weights"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, published: nn.Module, hidden: str
) -> None:
    bomb, path = Bomb(tmp_path / "ran"), tmp_path / "hostile.pth"
    if hidden == "alone":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({**published.state_dict(), "bomb": bomb}, path)
    with pytest.raises(GhostkitError, match=r"hostile\.pth.* was not read"):
        build("seedling", **OPTIONS, weights=path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(bomb))  # it would have
    assert (tmp_path / "ran").exists()


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
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_that_do_not_fit_are_refused_with_the_file_and_the_tensor(
    tmp_path: Path, published: nn.Module, ending: str, key: str, value: Tensor | None, words: list[str]
) -> None:
    path = tmp_path / f"other.{ending}"
    state = change(dict(published.state_dict()), key, value)
    if ending == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(GhostkitError) as refusal:
        build("seedling", **OPTIONS, weights=path)
    for word in [str(path), "do not fit 'seedling'", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gone.pth", None),
        ("gone.safetensors", None),
        ("text.pth", b"not weights at all"),
        ("text.safetensors", b"not weights at all"),
        ("empty.pth", b""),
        ("empty.safetensors", b""),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GhostkitError, match=name.replace(".", r"\.")):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)], ids=["a list", "numbers", "a tensor"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(GhostkitError, match=r"other\.pth.*no state dict"):
        read_weights(tmp_path / "other.pth")


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
