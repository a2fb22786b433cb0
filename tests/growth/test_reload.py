"""A grown network that is saved and loaded by another process computes, learns and grows on as it would have here."""

from __future__ import annotations

import copy
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghostkit.checkpoint import load, save
from ghostkit.costs import LatencyTable
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    History,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    WidenStage,
    grow,
    history_of,
    rebuild,
    undo,
)
from ghostkit.growth.candidates import candidates
from ghostkit.growth.grow import tensors_in
from ghostkit.tasks import TASKS

EVENTS = [
    [AddBranch("blocks.0.0.ghost1", 7), AddBranch("blocks.0.1.ghost1", 3)],
    [AddBlock("blocks.0", "1", init="clone"), AddLink("blocks.0.g1.ghost1", "blocks.0.g2.ghost1")],
    [WidenStage("blocks.1.0.ghost2", 4), DeepenBranches("blocks.1.1.ghost1", 5)],
    [RemoveBranch("blocks.1.0.ghost1", 3, 0), RemoveIntrinsic("blocks.1.0.ghost1", (1,))],
    [RemoveLink("blocks.1.0.ghost1", "blocks.1.2.ghost1"), NarrowStage("blocks.0.0.ghost2", (0, 4))],
    [RemoveLayer("blocks.1.g1.ghost1", "d1"), RemoveBlock("blocks.1", "1")],
    [AddIntrinsic("blocks.1.g1.ghost1", 2, "split"), AddLink("blocks.1.0.ghost1", "blocks.1.g1.ghost1")],
]
EVENTS[1].insert(1, AddBlock("blocks.0", "g1", 6))


class Untimed(LatencyTable):
    """A table that times nothing."""

    def measure(self, family: str, device: torch.device | str = "cpu", repeats: int = 15) -> None:
        self.lines.setdefault(family, (0.0, 0.0))


def loss_of(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    task = (history_of(model).recipe or {}).get("task", "classification")
    return TASKS[task].loss(0.0)(model, images, targets)


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors_in(model(images))])


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(16, 1, 12, 12, generator=draw, dtype=torch.float64)
    return images, torch.randint(5, (16,), generator=draw)


def next_candidates(model: nn.Module, images: Tensor, targets: Tensor) -> pd.DataFrame:
    return candidates(
        copy.deepcopy(model), images, targets, loss_of, latency=Untimed(), how=("svd", "split"), extras=("saturation",)
    )


def write_report(folder: str, name: str) -> None:
    """Load what was saved in ``folder`` of the host ``name``, and write down all that it goes on with."""
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())  # whatever another process drew before
    hosts = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["HOSTS"]
    host = hosts[name][0]() if name == "own" else None
    model, optimizer = load(f"{folder}/saved", torch.optim.AdamW, host=host)
    batch = load_file(f"{folder}/batch.safetensors")
    write_down(model, optimizer, batch["images"], batch["targets"], f"{folder}/there")


def write_down(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor, report: str
) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {"logits": outputs(model.eval(), images)}
    for parameter, state in optimizer.state.items():
        tensors |= {f"{names[parameter]} {key}": value for key, value in state.items()}
    frame = next_candidates(model, images, targets)
    for number, edit in enumerate(frame["edit"]):
        tensors |= {f"{number} {key}": value for key, value in (getattr(edit, "tensors", None) or {}).items()}
    model.train()
    loss_of(model, images, targets).backward()
    optimizer.step()
    tensors["logits after a step"] = outputs(model, images)
    save_file({key: value.contiguous() for key, value in tensors.items()}, f"{report}.safetensors")
    rows = json.loads(frame.assign(edit=frame["edit"].map(str)).to_json(orient="records", double_precision=15))
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    history = history_of(model).lines()
    Path(f"{report}.json").write_text(json.dumps({"frame": rows, "groups": groups, "history": history}))


def reports_of(
    folder: Path, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor
) -> None:
    """Save a network, and write down what it goes on with, here and in a process of its own."""
    save(model, folder / "saved", optimizer)
    save_file({"images": images, "targets": targets}, folder / "batch.safetensors")
    write_down(model, optimizer, images, targets, str(folder / "here"))
    script = "import runpy, sys; runpy.run_path(sys.argv[1])['write_report'](sys.argv[2], sys.argv[3])"
    subprocess.run([sys.executable, "-c", script, __file__, str(folder), name], check=True, cwd=folder)


def check_alike(folder: Path) -> None:
    """Fail unless both processes wrote down the same."""
    one, other = (json.loads((folder / f"{place}.json").read_text()) for place in ("here", "there"))
    assert one == other
    assert len(one["frame"]) > 20
    here, there = (load_file(folder / f"{place}.safetensors") for place in ("here", "there"))
    assert here.keys() == there.keys()
    assert [key for key, tensor in here.items() if not torch.equal(tensor, there[key])] == []
    assert any("exp_avg_sq" in key for key in here)


@pytest.fixture
def grown_on(host: Callable, make_optimizer: Callable, train_step: Callable) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A host grown, trained, undone and pruned on from "grown", by every kind of edit and removal."""
    model, _, _ = host("grown")
    images, targets = batch()
    optimizer = make_optimizer("AdamW", model)
    for number, edits in enumerate(EVENTS):
        grow(model, edits, optimizer, probe=images if number % 2 else None)
        train_step(model, optimizer, images, targets)
        if number == 2:
            undo(model, -1, optimizer, probe=images)
            grow(model, edits, optimizer)
            train_step(model, optimizer, images, targets)
    optimizer.zero_grad()
    return model, optimizer


def test_a_fresh_process_finds_the_same_logits_optimizer_state_next_candidates_and_next_step(
    grown_on: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path
) -> None:
    model, optimizer = grown_on
    reports_of(tmp_path, "grown", model, optimizer, *batch())
    check_alike(tmp_path)


HOSTS = [
    "ghost_resnet18",
    "ghost_resnet50",
    "ghost_resnet20",
    "ghost_mobilenet_v2",
    "ghost_mobilenet_v3_large",
    "own",
    "fcos",
    "retinanet",
    "lraspp",
    "deeplabv3",
]
MIXED = ["layer 3x3 random", "intrinsic random", "branch 5x5 random", "branch 3x3 split", "stage random", "block last"]


@pytest.mark.parametrize("name", HOSTS)
def test_a_fresh_process_goes_on_with_a_grown_network_as_this_one(
    host: Callable, edits_of: Callable, make_optimizer: Callable, train_step: Callable, tmp_path: Path, name: str
) -> None:
    model, images, targets = host(name)
    optimizer = make_optimizer("AdamW", model)
    for kind in MIXED:
        grow(model, edits_of(model, kind)[-3:], optimizer, probe=images)
        train_step(model, optimizer, images, targets)
    optimizer.zero_grad()
    torch.set_num_threads(1)
    reports_of(tmp_path, name, model, optimizer, images, targets)
    check_alike(tmp_path)


def test_its_history_alone_rebuilds_its_architecture(
    grown_on: tuple[nn.Module, torch.optim.Optimizer],
) -> None:
    model, _ = grown_on
    history = History.parse(history_of(model).lines())
    assert history.events == history_of(model).events
    rebuilt = rebuild(history)
    assert repr(rebuilt) == repr(model)
    assert [(name, t.shape) for name, t in rebuilt.state_dict().items()] == [
        (name, t.shape) for name, t in model.state_dict().items()
    ]
