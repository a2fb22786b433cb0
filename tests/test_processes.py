"""Two processes grow one network: they end where one process ends that takes the same parts one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from bit_for_bit import TINY
from lightning_fabric import Fabric
from torch import nn

from ghostkit import GhostkitError, Run, RunConfig
from ghostkit.processes import agreed, average_statistics, check_shares, process_count

WORLD: dict[str, Any] = {**TINY, "precision": "64-true", "micro_batches": 4, "threads": 1, "batch_size": 62}

# (what is trained, what it adds to the configuration): everything that processes have to agree on comes up in one
CASES: dict[str, dict[str, Any]] = {
    "sgd, an average, rolled back": {"ema": 0.7, "roll_back": 0.0, "window": 0.25, "learning_rate": 8.0},
    "adamw, sprouts": {
        **{"optimizer": "adamw", "learning_rate": 0.01, "where": "sprout", "share": 0.05, "window": 0.25},
        **{"augment": "crop", "budget_milliseconds": 5.0},
    },
    "limited compute, milliseconds to the brim": {
        **{"compute": 2e8, "grow_from": 0.1, "grow_every": 0.1, "grow_until": 0.9, "share": 1.0},
        **{"budget_milliseconds": 0.6},
    },
}
# Each process finds other milliseconds, as it would by its clock, but the same ones each time.
SCRIPT = """
import os, sys
from ghostkit import RunConfig, costs, train
def measure(table, family, device="cpu", repeats=15):
    table.lines.setdefault(family, (0.02 * (1 + int(os.environ.get("RANK", 0))), 1e-6))
costs.LatencyTable.measure = measure
train(RunConfig.read(sys.argv[1]), sys.argv[2])
"""


def trained(folder: Path, settings: dict[str, Any], processes: int) -> Run:
    """Train in as many processes as `torchrun` starts."""
    RunConfig(**settings).write(folder / "run.json")
    (folder / "script.py").write_text(SCRIPT)
    place = folder / f"in-{processes}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [str(folder / "script.py"), str(folder / "run.json"), str(place)]
    start = torchrun if processes > 1 else [sys.executable]
    done = subprocess.run(
        [*start, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,  # processes that wait for each other never end
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(place)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_where_one_ends_that_takes_their_parts_one_after_the_other(name, tmp_path):
    settings = {**WORLD, **CASES[name]}
    alone, together = trained(tmp_path, settings, 1), trained(tmp_path, settings, 2)
    grown = [str(edit) for event in alone.history.events for edit in event.edits]
    assert grown
    assert [str(edit) for event in together.history.events for edit in event.edits] == grown
    for one, other in zip(alone.model().state_dict().items(), together.model().state_dict().items(), strict=True):
        assert one[0] == other[0]
        if not one[1].is_floating_point():
            continue  # BN counts the parts that its process saw
        torch.testing.assert_close(
            one[1], other[1], rtol=1e-8, atol=1e-10, msg=lambda text, one=one: f"{one[0]}: {text}"
        )
    exact = ["step", "epoch", "progress", "compute", "split", "params", "macs"]
    assert alone.metrics[exact].equals(together.metrics[exact])
    torch.testing.assert_close(*(torch.tensor(run.metrics["loss"].to_numpy()) for run in (alone, together)))


def test_a_batch_is_shared_by_the_processes_there_are_and_the_history_says_nothing_of_it(tmp_path):
    run = trained(tmp_path, {**WORLD, "micro_batches": 1, "epochs": 1}, 2)
    assert run.history.events
    assert not [event.reason for event in run.history.events if "memory" in event.reason]


def test_a_run_of_one_process_is_taken_on_by_two_and_by_one_again(tmp_path):
    settings = {**WORLD, "epochs": 2}
    whole = trained(tmp_path, settings, 1).result
    (tmp_path / "in-1").rename(tmp_path / "in-2")
    (tmp_path / "in-2" / "result.json").unlink()
    kept = sorted((tmp_path / "in-2" / "checkpoints").iterdir())
    (kept[-1] / "manifest.json").unlink()  # as if it had been stopped before its end
    assert trained(tmp_path, settings, 2).result["accuracy"] == pytest.approx(whole["accuracy"])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((256, 62, 4, 2), None),
        ((257, 64, 8, 8), None),  # a last batch of one image joins the one before it
        ((256, 51, 7, 1), None),
        ((256, 50, 1, 4), r"batches of 50 from 256 images leave one of 6, too few for 4 micro-batches of at least 2"),
        (
            (256, 50, 4, 2),
            r"leave one of 6, too few for 4 micro-batches of at least 2 in 2 processes; change batch_size",
        ),
        ((256, 64, 3, 2), r"micro_batches=3 cannot be shared by 2 processes; set it to a multiple of that"),
    ],
)
def test_batches_that_cannot_be_shared_equally_are_refused_before_anything_is_trained(shares, message):
    with nullcontext() if message is None else pytest.raises(GhostkitError, match=message):
        check_shares(*shares, least=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two' in the environment"),
        (
            {"WORLD_SIZE": "2"},
            r"WORLD_SIZE is 2 .* RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT .*torchrun --nproc-per-node 2",
        ),
    ],
)
def test_an_environment_that_does_not_say_who_is_who_is_refused(words, message, monkeypatch):
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GhostkitError, match=message):
        process_count()


def test_a_single_process_agrees_with_itself_and_averages_nothing():
    fabric, model = Fabric(accelerator="cpu", devices=1), nn.BatchNorm2d(2)
    before = model.running_mean
    average_statistics(fabric, model, None)
    assert agreed(fabric, before) is before
    assert model.running_mean is before


SHARDED = """
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
import ghostkit
from ghostkit.growth.edits import AddBranch

torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
edit, images = AddBranch("blocks.1.0.ghost1", 5), torch.randn(4, 1, 8, 8)
model = ghostkit.build("seedling", 10, 1)
for wrapped in (DistributedDataParallel(model), fully_shard(ghostkit.build("seedling", 10, 1))):
    try:
        ghostkit.grow(wrapped, edit)
    except ghostkit.GhostkitError as error:
        print(error)
print(len(ghostkit.grow(model, edit, probe=images).edits))
"""


def test_growth_of_a_sharded_or_wrapped_network_is_refused_with_the_reason():
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False)
    wrapped, sharded, grown = done.stdout.splitlines()[-3:]
    assert "wrap it again" in wrapped
    assert "is sharded over several processes (FSDP)" in sharded
    assert grown == "1"
