"""What is saved comes back bit for bit, in another process too, or not at all with a reason; nothing is unpickled."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ghostkit
from ghostkit import AddBlock, AddBranch, AddIntrinsic, GhostkitError, checkpoint
from ghostkit.checkpoint import load, load_state, save
from ghostkit.growth import history_of
from ghostkit.growth.policy import Policy, PolicyState, choose
from ghostkit.nn import GhostModule

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.8, 0.99), amsgrad=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
}
STAGES = [[[3, 4, 12, 0, 2]], [[3, 4, 16, 0.5, 2]], [[3, 4, 16, 0, 1]]]
EDITS = [
    AddBranch("blocks.0.0.ghost1", 5),
    AddIntrinsic("blocks.1.0.ghost1", 2),
    AddBlock("blocks.2", after="0"),
    AddBranch("blocks.2.g1.ghost1", 3),
]


def cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(images), targets)


def batch(dtype: torch.dtype, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(24, 2, 9, 9, generator=draw, dtype=torch.float64).to(dtype)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    return images, torch.randint(5, (24,), generator=draw)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    cross_entropy(model, images, targets).backward()
    optimizer.step()


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """Vectors are trained slower than kernels."""
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": vectors, "lr": 0.003, "weight_decay": 0.0}, {"params": kernels}]


@cache
def grown_once(name: str, dtype: torch.dtype, channels_last: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = ghostkit.build("seedling", num_classes=5, in_channels=2, stages=STAGES).to(dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer, (images, targets) = OPTIMIZERS[name](groups_of(model)), batch(dtype, channels_last)
    for _ in range(3):
        step(model, optimizer, images, targets)
    ghostkit.grow(model, EDITS[:2], optimizer, probe=images)
    ghostkit.grow(model, EDITS[2:], optimizer, probe=images)
    for _ in range(2):
        step(model, optimizer, images, targets)
    return model, optimizer


def grown(
    name: str = "AdamW", dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network that was trained, grown in every way, and trained on, with its optimizer."""
    return copy.deepcopy(grown_once(name, dtype, channels_last))


CASES = {
    "SGD": ("SGD", torch.float32, False),
    "Adam, float64": ("Adam", torch.float64, False),
    "AdamW, channels last": ("AdamW", torch.float32, True),
}


def contents(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that the next step depends on, under names that another process would use, too."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, Any] = dict(model.state_dict())
    for number, group in enumerate(optimizer.param_groups):
        found[f"group {number}"] = {k: v for k, v in group.items() if k != "params"}
        found[f"members {number}"] = [names[parameter] for parameter in group["params"]]
    for parameter, state in optimizer.state.items():
        found |= {f"{names[parameter]} {key}": value for key, value in state.items()}
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return type(a) is type(b) and a == b

    return [name for name in before | after if not same(before.get(name, "absent"), after.get(name, "absent"))]


# Round trips


@pytest.mark.parametrize("case", CASES)
def test_a_grown_network_and_its_optimizer_come_back_bit_for_bit(tmp_path, case):
    model, optimizer = grown(*CASES[case])
    assert save(model, tmp_path / "deep" / "saved", optimizer) == tmp_path / "deep" / "saved"
    loaded, remade = load(tmp_path / "deep" / "saved", OPTIMIZERS[CASES[case][0]])
    assert differences(contents(model, optimizer), contents(loaded, remade)) == []
    assert history_of(loaded) == history_of(model)
    assert history_of(loaded).edits == EDITS
    assert [weight.stride() for weight in loaded.parameters()] == [weight.stride() for weight in model.parameters()]
    for parameter, state in remade.state.items():  # a fused optimizer goes through both as they lie in memory
        for moment in state.values():
            assert moment.dim() == 0 or moment.stride() == parameter.stride()
    images, targets = batch(*CASES[case][1:])
    for _ in range(2):
        step(model, optimizer, images, targets)
        step(loaded, remade, images, targets)
    assert differences(contents(model, optimizer), contents(loaded, remade)) == []


def test_a_loaded_network_grows_and_is_saved_like_any_other(tmp_path):
    model, optimizer = grown()
    save(model, tmp_path, optimizer)
    loaded, remade = load(tmp_path, OPTIMIZERS["AdamW"])
    edit = AddBlock("blocks.2", after="g1")
    for network, its_optimizer in ((model, optimizer), (loaded, remade)):
        ghostkit.grow(network, edit, its_optimizer, probe=batch(torch.float32)[0])
    assert differences(contents(model, optimizer), contents(loaded, remade)) == []
    save(loaded, tmp_path, remade)
    assert differences(contents(loaded, remade), contents(*load(tmp_path, OPTIMIZERS["AdamW"]))) == []


def test_a_network_alone_comes_back_alone(tmp_path):
    model, _ = grown()
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, nn.Module)
    assert differences(dict(model.state_dict()), dict(loaded.state_dict())) == []


def test_what_was_frozen_comes_back_frozen(tmp_path):
    model, _ = grown()
    model.blocks[:2].requires_grad_(False)
    loaded = load(save(model, tmp_path))
    flags = [{name: p.requires_grad for name, p in network.named_parameters()} for network in (model, loaded)]
    assert flags[0] == flags[1]
    assert {*flags[0].values()} == {True, False}


def test_a_network_that_is_frozen_throughout_comes_back_to_be_trained(tmp_path):
    loaded = load(save(grown()[0].requires_grad_(False), tmp_path))
    assert all(p.requires_grad for p in loaded.parameters())


def test_saving_and_loading_leave_the_network_the_optimizer_and_the_random_state_alone(tmp_path):
    model, optimizer = grown()
    before, random = copy.deepcopy(contents(model, optimizer)), torch.get_rng_state()
    save(model, tmp_path, optimizer)
    assert differences(before, contents(model, optimizer)) == []
    assert torch.equal(random, torch.get_rng_state())


def test_further_state_comes_back_as_it_was_given(tmp_path):
    state = {"step": 3, "loss": 0.1 + 0.2, "nothing": None, "lines": {"dense 3x3": [1e-300, 2.0]}}
    tensors = {"random": torch.get_rng_state(), "transposed": torch.arange(6.0).view(2, 3).T}
    save(grown()[0], tmp_path, state=state, tensors=tensors)
    plain, read = load_state(tmp_path)
    assert plain == state
    assert differences(tensors, read) == []
    save(grown()[0], tmp_path / "without")
    assert load_state(tmp_path / "without") == ({}, {})


# Another process


def write_report(folder: str, report: str, *, loaded: tuple[nn.Module, torch.optim.Optimizer] | None = None) -> None:
    """Write logits, optimizer state and the next growth decision of a checkpoint, or of what was saved into it."""
    name, dtype, channels_last = CASES[Path(folder).name]
    model, optimizer = loaded or load(folder, OPTIMIZERS[name])
    images, targets = batch(dtype, channels_last)
    logits = copy.deepcopy(model).eval()(images).detach()
    found = contents(model, optimizer)
    draw = torch.Generator().manual_seed(5)
    frame = ghostkit.candidates(model, images, targets, cross_entropy, how=("svd", "random"), generator=draw)
    choice = choose(frame, Policy(where="gain-per-mac"), PolicyState(), {"macs": 1e5}, {"macs": 5e3}, draw)
    kernels = [tensor for edit in frame["edit"] for tensor in (getattr(edit, "tensors", None) or {}).values()]
    plain = {
        "candidates": frame.drop(columns="milliseconds").assign(edit=frame["edit"].map(str)).to_dict("list"),
        "chosen": choice.rows,
        "plain": {key: value for key, value in found.items() if not isinstance(value, Tensor)},
    }
    tensors = {key: value.contiguous() for key, value in found.items() if isinstance(value, Tensor)}
    tensors |= {f"kernel {number}": kernel.contiguous() for number, kernel in enumerate(kernels)}
    save_file({**tensors, "logits": logits}, f"{report}.safetensors")
    Path(f"{report}.json").write_text(json.dumps(plain))


def test_a_fresh_process_finds_the_same_logits_optimizer_state_and_next_growth_decision(tmp_path):
    script = "import runpy, sys; write = runpy.run_path(sys.argv[1])['write_report']\n"
    for case in CASES:
        model, optimizer = grown(*CASES[case])
        save(model, tmp_path / case, optimizer)
        write_report(str(tmp_path / case), str(tmp_path / f"{case} here"), loaded=(model, optimizer))
        script += f"write({str(tmp_path / case)!r}, {str(tmp_path / f'{case} there')!r})\n"
    subprocess.run([sys.executable, "-c", script, __file__], check=True, cwd=tmp_path)
    for case in CASES:
        here, there = (json.loads((tmp_path / f"{case} {place}.json").read_text()) for place in ("here", "there"))
        assert here == there
        assert len(here["chosen"]) > 1
        here, there = (load_file(tmp_path / f"{case} {place}.safetensors") for place in ("here", "there"))
        assert differences(here, there) == []


# Nothing is unpickled


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    model, optimizer = grown()
    for owner, name in ((pickle, "Unpickler"), (pickle, "load"), (pickle, "loads"), (torch, "load"), (torch, "save")):
        monkeypatch.setattr(owner, name, refuse)
    save(model, tmp_path, optimizer, tensors={"random": torch.get_rng_state()})
    loaded, remade = load(tmp_path, OPTIMIZERS["AdamW"])
    load_state(tmp_path)
    assert differences(contents(model, optimizer), contents(loaded, remade)) == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_pickle_in_place_of_tensors_is_refused_and_never_run(tmp_path, name):
    folder = tmp_path / "saved"
    save(*(lambda model, optimizer: (model, folder, optimizer))(*grown()))
    replace_file(folder, name, pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(GhostkitError, match=r"saved/.* holds no tensors that can be read"):
        load(folder, OPTIMIZERS["AdamW"])
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()  # it would have been


# Damage


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def file_of(folder: Path, name: str) -> Path:
    return folder / manifest_of(folder)["files"][name]["file"]


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Put other data into a checkpoint, with a checksum that is right."""
    file_of(folder, name).write_bytes(data)
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(sha256=hashlib.sha256(data).hexdigest()))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = manifest_of(folder)
    change(manifest)
    manifest.pop("sha256", None)  # or else that is what would be wrong with it
    (folder / "manifest.json").write_text(json.dumps(manifest))


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def outside(folder: Path) -> None:
    target = folder.parent / "outside.safetensors"
    target.write_bytes(file_of(folder, "model.safetensors").read_bytes())
    edit_manifest(folder, lambda manifest: manifest["files"]["model.safetensors"].update(file="../outside.safetensors"))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        "is no checkpoint: cannot read its manifest.json",
    ),
    "empty manifest": (lambda folder: (folder / "manifest.json").write_text(""), "is no checkpoint"),
    "truncated manifest": (lambda folder: truncate(folder / "manifest.json"), "is no checkpoint"),
    "binary manifest": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "is no checkpoint"),
    "a list": (
        lambda folder: (folder / "manifest.json").write_text("[1]"),
        "has format None; this version reads format 1",
    ),
    "a newer format": (
        lambda folder: edit_manifest(folder, lambda m: m.update(format=2)),
        "was written by a newer ghostkit: it has format 2, and this version reads format 1; upgrade",
    ),
    "no list of files": (lambda folder: edit_manifest(folder, lambda m: m.pop("files")), "is not as save"),
    "files as a list": (lambda folder: edit_manifest(folder, lambda m: m.update(files=["a"])), "is not as save"),
    "a file without sum": (
        lambda folder: edit_manifest(folder, lambda m: m["files"]["history.jsonl"].pop("sha256")),
        "is not as save",
    ),
    "a file elsewhere": (outside, "names a file outside itself: '../outside.safetensors'"),
    "a file that is a folder": (
        lambda folder: edit_manifest(folder, lambda m: m["files"]["model.safetensors"].update(file="..")),
        "lacks a file",
    ),
    "no weights named": (
        lambda folder: edit_manifest(folder, lambda m: m["files"].pop("model.safetensors")),
        "names no model.safetensors",
    ),
    "no history named": (
        lambda folder: edit_manifest(folder, lambda m: m["files"].pop("history.jsonl")),
        "names no history.jsonl",
    ),
    "no moments named": (
        lambda folder: edit_manifest(folder, lambda m: m["files"].pop("optimizer.safetensors")),
        "holds no optimizer",
    ),
    **{
        f"{name} missing": (lambda folder, name=name: file_of(folder, name).unlink(), f"lacks a file: .*{stem}-")
        for name, stem in [
            ("history.jsonl", "history"),
            ("model.safetensors", "model"),
            ("optimizer.safetensors", "opt.*"),
        ]
    },
    **{
        f"{name} {what}": (
            lambda folder, name=name, how=how: how(file_of(folder, name)),
            "was cut short or altered.*; use an earlier checkpoint",
        )
        for name in ("history.jsonl", "model.safetensors", "optimizer.safetensors")
        for what, how in (("altered", alter), ("cut short", truncate))
    },
    "another network's weights": (
        lambda folder: replace_file(folder, "model.safetensors", checkpoint.tensor_bytes({"weight": torch.zeros(3)})),
        "do not fit the network of its history",
    ),
    "no recipe": (lambda folder: replace_file(folder, "history.jsonl", b"{}\n"), "does not begin with a recipe line"),
    "moments of no parameter": (
        lambda folder: replace_file(
            folder, "optimizer.safetensors", checkpoint.tensor_bytes({"nowhere|step": torch.zeros(())})
        ),
        "the optimizer stored in .* does not fit: .*nowhere",
    ),
    "the layout of no parameter": (
        lambda folder: edit_manifest(folder, lambda m: m.update(channels_last=["nowhere"])),
        "do not fit the network of its history: .*nowhere",
    ),
    "groups of no parameter": (
        lambda folder: edit_manifest(folder, lambda m: m["optimizer"]["groups"][0]["params"].append("nowhere")),
        "the optimizer stored in .* does not fit: .*nowhere",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, case):
    damage, message = DAMAGE[case]
    folder = tmp_path / "saved"
    model, optimizer = grown()
    save(model, folder, optimizer)
    damage(folder)
    with pytest.raises(GhostkitError, match=f"(?s){message}") as caught:
        load(folder, OPTIMIZERS["AdamW"])
    assert str(folder) in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GhostkitError, match=r"nowhere' is no checkpoint"):
        load(tmp_path / "nowhere")
    with pytest.raises(GhostkitError, match=r"nowhere' is no checkpoint"):
        load_state(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GhostkitError, match=r"cannot make the folder .*file/saved"):
        save(grown()[0], tmp_path / "file" / "saved")


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    model, optimizer = grown("AdamW")
    save(model, tmp_path, optimizer)
    with pytest.raises(GhostkitError, match=f"{tmp_path}' holds the state of AdamW, not of SGD"):
        load(tmp_path, OPTIMIZERS["SGD"])


def test_an_optimizer_that_was_never_saved_is_asked_for_in_vain(tmp_path):
    save(grown()[0], tmp_path)
    with pytest.raises(GhostkitError, match=f"{tmp_path}' holds no optimizer; it was saved without one"):
        load(tmp_path, OPTIMIZERS["SGD"])


# Saving again


def test_a_checkpoint_is_replaced_whole_and_nothing_of_the_old_one_stays(tmp_path):
    model, optimizer = grown()
    save(model, tmp_path, optimizer, tensors={"random": torch.get_rng_state()})
    step(model, optimizer, *batch(torch.float32))
    (tmp_path / "notes.txt").write_text("a person's own")
    for _ in range(2):
        save(model, tmp_path, optimizer)
        named = {entry["file"] for entry in manifest_of(tmp_path)["files"].values()}
        assert {path.name for path in tmp_path.iterdir()} == named | {"manifest.json", "notes.txt"}
        assert differences(contents(model, optimizer), contents(*load(tmp_path, OPTIMIZERS["AdamW"]))) == []
    assert load_state(tmp_path) == ({}, {})


class Killed(BaseException):
    """Stands for a crash."""


@pytest.mark.parametrize("survived", range(4))
def test_a_crash_between_any_two_files_leaves_the_old_checkpoint(tmp_path, monkeypatch, survived):
    model, optimizer = grown()
    save(model, tmp_path, optimizer, state={"step": 1})
    old, newer = copy.deepcopy(contents(model, optimizer)), copy.deepcopy((model, optimizer))
    ghostkit.grow(newer[0], AddBranch("blocks.1.0.ghost1", 7), newer[1], probe=batch(torch.float32)[0])
    step(*newer, *batch(torch.float32))
    written: list[str] = []

    def crash(path: Path, data: bytes | str) -> None:
        if len(written) == survived:
            raise Killed
        written.append(Path(path).name)
        write(path, data)

    write = checkpoint.write_atomically
    monkeypatch.setattr(checkpoint, "write_atomically", crash)
    with pytest.raises(Killed):
        save(newer[0], tmp_path, newer[1], state={"step": 2})
    assert len(written) == survived  # the manifest is the fourth
    assert "manifest.json" not in written
    assert differences(old, contents(*load(tmp_path, OPTIMIZERS["AdamW"]))) == []
    assert load_state(tmp_path)[0] == {"step": 1}
    monkeypatch.undo()
    save(newer[0], tmp_path, newer[1], state={"step": 2})
    assert differences(contents(*newer), contents(*load(tmp_path, OPTIMIZERS["AdamW"]))) == []
    assert len(list(tmp_path.iterdir())) == 4


# A network of one's own


class Own(nn.Module):
    """A user's own host, which no recipe can build."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.ghost = GhostModule(2, channels)
        self.body = nn.Conv2d(channels, 4, 3, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.ghost(x)).mean((2, 3)))


@pytest.fixture
def own_folder(tmp_path: Path) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    model = Own()
    optimizer, pair = OPTIMIZERS["Adam"](groups_of(model)), batch(torch.float32)
    ghostkit.grow(model, [AddBranch("ghost", 5), AddIntrinsic("ghost", 2)], optimizer, probe=pair[0])
    step(model, optimizer, *pair)
    model.head.requires_grad_(False)
    return save(model, tmp_path / "own", optimizer), model, optimizer


def test_a_network_of_ones_own_is_loaded_into_its_seedling(own_folder):
    folder, model, optimizer = own_folder
    host = Own()
    loaded, remade = load(folder, OPTIMIZERS["Adam"], host=host)
    assert loaded is host
    assert differences(contents(model, optimizer), contents(loaded, remade)) == []
    assert history_of(host).edits == history_of(model).edits
    images, _ = batch(torch.float32)
    assert torch.equal(host(images), model(images))


def test_a_network_of_ones_own_cannot_be_built_and_the_error_says_how(own_folder):
    with pytest.raises(GhostkitError, match=r"load\(folder, host=\.\.\.\)"):
        load(own_folder[0])


@pytest.mark.parametrize("cause", ["another head", "another optimizer", "another shape"])
def test_what_does_not_fit_leaves_the_seedling_as_it_was(own_folder, cause):
    host = Own(channels=8 if cause == "another shape" else 6)
    if cause == "another head":
        host.head = nn.Linear(4, 3)
    before, attributes = contents(host, OPTIMIZERS["Adam"](groups_of(host))), set(vars(host))
    words = "holds the state of Adam" if cause == "another optimizer" else "do not fit the network of its history"
    with pytest.raises(GhostkitError, match=words):
        load(own_folder[0], OPTIMIZERS["SGD" if cause == "another optimizer" else "Adam"], host=host)
    assert differences(before, contents(host, OPTIMIZERS["Adam"](groups_of(host)))) == []
    assert host.ghost.out_channels == (8 if cause == "another shape" else 6)
    assert set(vars(host)) == attributes
    assert all(parameter.requires_grad for parameter in host.parameters())


def test_a_host_that_has_grown_already_is_refused(own_folder):
    folder, model, _ = own_folder
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(GhostkitError, match=r"Own has a history of 1 event\(s\); expected the seedling"):
        load(folder, host=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_every_tensor_comes_back_in_its_own_precision(tmp_path):
    model, host = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)) for _ in range(2))
    model.half()[1].float()
    model[1].weight.data.fill_(1 / 3)
    loaded = load(save(model, tmp_path), host=host)
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_an_optimizer_that_holds_more_than_the_network_is_refused_in_words(tmp_path):
    model, temperature = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Parameter(torch.ones(1, 7))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    with pytest.raises(GhostkitError, match=r"a parameter of shape \(1, 7\) that is no part of Sequential"):
        save(model, tmp_path, optimizer)
