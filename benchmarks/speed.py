"""How fast ghostkit is, as ratios measured in one process: one table, peers included.

    python benchmarks/speed.py [--only SECTION ...] [--threads 2] [--repeats 9] [--device cpu] [--csv FILE]

Needs the extra ``bench``. Whatever is compared takes turns, so that a busy machine disturbs both alike; ``ratio`` is
the median over the turns of ours / theirs, and ``at most`` what it is meant to stay below. Sections:

    networks    ours against timm's same network, torchvision's MobileNetV3-L and ResNet-18, in every mode
    branches    a ghost module's 1 to 8 branches in one convolution against as many convolutions
    grown       a grown network against the same shape built from scratch
    event       the parts of a growth event in training steps; one event against one of gromo's
    training    the trainer's steps against a bare PyTorch loop, the fused optimizer, bf16, channels-last
    data        a pass over images in memory against torch's DataLoader; images decoded from files
    compile     recompilation after an event against the first compilation, block by block and whole
    processes   two processes of one core each against one (a process of its own for each)
    figures     redraws of the dashboard
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import growth_event
import pandas as pd
import timm
import torch
import torch.nn.functional as F
import torchvision
from dashboard import redraws
from timm.models.ghostnet import GhostModule as TimmGhostModule
from torch import Tensor, nn

import ghostkit
from ghostkit import RunConfig, Trainer
from ghostkit.compiling import Regions
from ghostkit.costs import LatencyTable, synchronise
from ghostkit.data import batches, load
from ghostkit.events import StepDone
from ghostkit.growth.edits import AddBlock, AddBranch, AddIntrinsic
from ghostkit.nn.ghost import GhostModule
from ghostkit.nn.ghostnet import GhostNet

Row = dict[str, object]
Work = Callable[[], Any]


def turns(works: dict[str, Work], repeats: int, device: torch.device | None = None) -> dict[str, list[float]]:
    """Return the milliseconds of each of ``works``, done in turn ``repeats`` times after two that do not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 2):
        for name, work in works.items():
            synchronise(device or torch.device("cpu"))
            start = time.perf_counter()
            work()
            synchronise(device or torch.device("cpu"))
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def row(what: str, times: dict[str, list[float]], ours: str, theirs: str, bound: float | None = None) -> Row:
    """Return one line of the table: two of the things that were timed in turn, and their ratio."""
    ratio = median(one / other for one, other in zip(times[ours], times[theirs], strict=True))
    return {
        "what": what,
        "ours": ours,
        "ms": median(times[ours]),
        "against": theirs,
        "their ms": median(times[theirs]),
        "ratio": ratio,
        "at most": bound,
    }


def trained(model: nn.Module, images: Tensor, targets: Tensor) -> Work:
    """Return one forward and backward pass of ``model``."""

    def work() -> None:
        model.zero_grad()
        F.cross_entropy(model(images), targets).backward()

    return work


def looked_at(model: nn.Module, images: Tensor) -> Work:
    """Return one forward pass of ``model`` without gradients."""

    def work() -> None:
        with torch.inference_mode():
            model(images)

    return work


def summed(module: nn.Module, maps: Tensor) -> Work:
    """Return one forward and backward pass of a part of a network, back to its input."""
    maps = maps.detach().requires_grad_()
    return lambda: module(maps).sum().backward()


# -- whole networks and modules ----------------------------------------------------------------------------------------


def networks(given: argparse.Namespace) -> Iterator[Row]:
    """Yield ours against timm's and torchvision's, for each mode, pass and batch."""
    device = torch.device(given.device)
    torch.manual_seed(0)
    ours, timms = ghostkit.build("ghostnet_100"), timm.create_model("ghostnet_100")
    timms.load_state_dict(ours.state_dict())
    others = {
        "MobileNetV3-L": torchvision.models.mobilenet_v3_large(),
        "ResNet-18": torchvision.models.resnet18(),
    }
    last = {"memory_format": torch.channels_last}
    pairs: dict[str, tuple[nn.Module, nn.Module, float | None]] = {
        # What `build` and `create_model` give, ours in channels-last.
        "as built": (ours, timms, 1 / 1.2),
        "contiguous": (copy.deepcopy(ours).to(memory_format=torch.contiguous_format), timms, 1.0),
        "channels-last": (ours, copy.deepcopy(timms).to(**last), 1.0),
    }
    with torch.no_grad():
        deployed = ghostkit.deploy(ours.eval())
    for batch in (1, 32):
        images = torch.randn(batch, 3, 224, 224, device=device)
        targets = torch.randint(1000, (batch,), device=device)
        repeats = given.repeats * (5 if batch == 1 else 1)
        for mode, (mine, theirs, bound) in pairs.items():
            mine, theirs = mine.to(device).eval(), theirs.to(device).eval()
            given_images = images.to(**last) if mode == "channels-last" else images
            works = {"ghostkit": looked_at(mine, given_images), "timm": looked_at(theirs, given_images)}
            yield row(f"forward, batch {batch}, {mode}", turns(works, repeats, device), "ghostkit", "timm", bound)
        works = {"ghostkit, deployed": looked_at(deployed.to(device), images), "timm": looked_at(timms, images)}
        works |= {"ghostkit": looked_at(ours, images)}
        works |= {name: looked_at(model.to(device).eval(), images) for name, model in others.items()}
        times = turns(works, repeats, device)
        yield row(f"forward, batch {batch}, deployed", times, "ghostkit, deployed", "timm", 1.0)
        for name in others:
            yield row(f"forward, batch {batch}, as built", times, "ghostkit", name)
        if not given.no_compile:
            # Each in its own form: theirs as created, ours as built.
            mine, theirs = (torch.compile(copy.deepcopy(model).eval()) for model in (ours, timms))
            works = {"ghostkit": looked_at(mine, images), "timm": looked_at(theirs, images)}
            times = turns(works, repeats, device)
            yield row(f"forward, batch {batch}, compiled", times, "ghostkit", "timm", 1.0)
        if batch == 1:
            continue  # BN cannot be trained on one image where a map has one pixel
        for mode, (mine, theirs, _) in pairs.items():
            mine, theirs = mine.to(device).train(), theirs.to(device).train()
            given_images = images.to(**last) if mode == "channels-last" else images
            works = {
                "ghostkit": trained(mine, given_images, targets),
                "timm": trained(theirs, given_images, targets),
            }
            times = turns(works, repeats, device)
            yield row(f"forward + backward, batch {batch}, {mode}", times, "ghostkit", "timm", 1.0)
    for batch in (1, 32):
        yield from modules(given, batch, device)


def modules(given: argparse.Namespace, batch: int, device: torch.device) -> Iterator[Row]:
    """Yield one ghost module against timm's."""
    ours, theirs = GhostModule(40, 120).to(device), TimmGhostModule(40, 120).to(device)
    theirs.load_state_dict(ours.state_dict())
    for name, format_ in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last)):
        pair = [copy.deepcopy(module).to(memory_format=format_) for module in (ours, theirs)]
        maps = torch.randn(batch, 40, 28, 28, device=device).to(memory_format=format_)
        works = {who: looked_at(module.eval(), maps) for who, module in zip(("ghostkit", "timm"), pair, strict=True)}
        times = turns(works, 10 * given.repeats, device)
        yield row(f"GhostModule, forward, batch {batch}, {name}", times, "ghostkit", "timm", 1.0)

        pair = [copy.deepcopy(module).train() for module in pair]
        works = {who: summed(module, maps) for who, module in zip(("ghostkit", "timm"), pair, strict=True)}
        times = turns(works, 10 * given.repeats, device)
        yield row(f"GhostModule, forward + backward, batch {batch}, {name}", times, "ghostkit", "timm", 1.0)


class Separate(nn.Module):
    """As many depthwise convolutions as there are branches, each with its own BN and ReLU."""

    def __init__(self, maps: int, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(maps, maps, 3, padding=1, groups=maps, bias=False),
                nn.BatchNorm2d(maps),
                nn.ReLU(inplace=True),
            )
            for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def branches(given: argparse.Namespace) -> Iterator[Row]:
    """Yield what 1 to 8 branches cost in one convolution, and in as many."""
    device = torch.device(given.device)
    for maps, side, batch in ((8, 8, 64), (16, 14, 64), (60, 28, 1), (60, 28, 32)):
        images = torch.randn(batch, maps, side, side, device=device).to(memory_format=torch.channels_last)
        what = f"{batch} x {maps} maps of {side} px"
        for count in (1, 2, 4, 8):
            together = GhostModule(1, maps * (1 + count), ratio=1 + count).cheap_operation
            pair = {"together": together, "apart": Separate(maps, count)}
            pair = {who: module.to(device, memory_format=torch.channels_last) for who, module in pair.items()}
            bound = 0.5 if count == 8 else None
            works = {who: looked_at(module.eval(), images) for who, module in pair.items()}
            yield row(f"{count} branches, forward, {what}", turns(works, 5 * given.repeats, device), *pair, bound)
            works = {who: summed(module.train(), images) for who, module in pair.items()}
            yield row(f"{count} branches, forward + backward, {what}", turns(works, 3 * given.repeats, device), *pair)


# -- growing -----------------------------------------------------------------------------------------------------------

SEEDLING = [[[3, 16, 16, 0, 1]], [[3, 32, 24, 0, 2]], [[3, 64, 40, 0, 2]]]
# What the edits below make of it.
GROWN = [[[3, 24, 16, 0, 1]], [[3, 48, 24, 0, 2], [3, 48, 24, 0, 1]], [[3, 96, 40, 0, 2]]]


def grown(given: argparse.Namespace) -> Iterator[Row]:
    """Yield a network that was grown against the same shape built from scratch."""
    device = torch.device(given.device)
    options: dict[str, Any] = {"num_classes": 10, "head_channels": 0, "neck_channels": 96, "stem_stride": 1}
    images, targets = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    host = GhostNet(SEEDLING, **options).to(memory_format=torch.channels_last)
    built = GhostNet(GROWN, **options).to(memory_format=torch.channels_last)
    edits = [
        AddIntrinsic("blocks.0.0.ghost1", 4),
        AddIntrinsic("blocks.1.0.ghost1", 8),
        AddIntrinsic("blocks.2.0.ghost1", 16),
        AddBlock("blocks.1", "0", hidden=48),
    ]
    ghostkit.grow(host, edits, probe=images)
    shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in (host, built)]
    assert shapes[0] == shapes[1], "the same shape"
    images, targets, pair = images.to(device), targets.to(device), {"grown": host.to(device), "built": built.to(device)}
    for network in pair.values():
        network.eval()
    times = turns({who: looked_at(network, images) for who, network in pair.items()}, 5 * given.repeats, device)
    yield row("grown in width and depth, forward, batch 64", times, "grown", "built", 1.03)
    for network in pair.values():
        network.train()
    times = turns({who: trained(network, images, targets) for who, network in pair.items()}, 5 * given.repeats, device)
    yield row("grown in width and depth, forward + backward, batch 64", times, "grown", "built", 1.03)


PROBE = ghostkit.RunConfig().probe_samples


def event(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the parts of an event of the seedling in training steps, all candidates scored; and gromo's event."""
    torch.set_num_threads(1)  # as the trainer has it for a small network
    for batch in (64, PROBE):
        torch.manual_seed(0)
        model = ghostkit.build("seedling", num_classes=10, in_channels=1)
        host = growth_event.Trained.build(model, (batch, 1, 28))
        latency, watch = LatencyTable(), growth_event.Stopwatch()

        def candidates(host: growth_event.Trained = host, latency: LatencyTable = latency) -> None:
            ghostkit.candidates(host.model, host.images, host.targets, growth_event.loss, latency=latency)

        for _ in range(given.repeats + 1):
            watch("a training step", host.twin().step)
            watch("all candidates", candidates)
            growth_event.event(host, 1000, growth_event.PLANS[0], latency, watch)
        times = {part: numbers[1:] for part, numbers in watch.times.items()}
        what = f"growth of the seedling, {batch} images of 28 px"
        yield row(what, times, "all candidates", "a training step", 4.0 if batch == PROBE else None)
        for part in ("capture", "propose", "score", "price", "surgery"):
            yield row(what, times, part, "a training step")
        again = [first - usual for first, usual in zip(times["first step"], times["usual step"][::3], strict=False)]
        yield row(what, {**times, "re-optimise": again}, "re-optimise", "a training step")
    for line in growth_event.against_gromo(max(2, given.repeats // 3)):
        if line["gromo's"] == "Restricted":
            where = f"an event of {line['channels']} channels, images {line['images']}"
            numbers = {"ghostkit": [float(str(line["ours, same site"]))], "gromo": [float(str(line["event"]))]}
            yield row(where, numbers, "ghostkit", "gromo", 0.25)


# -- training ----------------------------------------------------------------------------------------------------------


def training(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the trainer's steps against a bare loop over the same images in memory, in chunks of steps."""
    for data in ("digits", "fashion-mnist"):
        trainer = Trainer(
            RunConfig(data=data, train_samples=1344, test_samples=64, epochs=10_000, when="never", evaluate_every=1.0)
        )
        torch.set_num_threads(1)  # as the trainer has it for a small network
        events, split = iter(trainer), trainer.data.train
        images, labels = split.images(torch.arange(len(split))), split.labels

        def steps(count: int, events: Any = events) -> None:
            while count:
                count -= isinstance(next(events), StepDone)

        def bare(fused: bool, trainer: Trainer = trainer, images: Tensor = images, labels: Tensor = labels) -> Work:
            model = copy.deepcopy(trainer.model)
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, fused=fused)

            def endless() -> Iterator[Tensor]:
                while True:
                    yield from torch.randperm(len(labels)).split(64)

            chosen = endless()

            def work() -> None:
                for _ in range(21):
                    these = next(chosen)
                    loss = F.cross_entropy(model(images[these]), labels[these])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    float(loss)

            return work

        works = {"trainer": lambda: steps(21), "bare loop": bare(False), "bare loop, fused optimizer": bare(True)}
        times = turns(works, 3 * given.repeats)
        yield row(f"21 steps of the seedling on {data}", times, "trainer", "bare loop", 1.05)
        yield row(f"21 steps of the seedling on {data}", times, "trainer", "bare loop, fused optimizer")
    torch.set_num_threads(given.threads)
    yield from forms(given)


def forms(given: argparse.Namespace) -> Iterator[Row]:
    """Yield a training pass of some networks in other forms: contiguous against channels-last, and bf16."""
    device = torch.device(given.device)
    for name, shape in (("seedling", (64, 1, 28)), ("ghost_resnet20", (64, 3, 32)), ("ghostnet_100", (32, 3, 64))):
        batch, channels, side = shape
        model = ghostkit.build(name, num_classes=10, in_channels=channels).to(device)
        images = torch.randn(batch, channels, side, side, device=device)
        targets = torch.randint(10, (batch,), device=device)

        def half(model: nn.Module = model, images: Tensor = images, targets: Tensor = targets) -> None:
            model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(model(images), targets)
            loss.backward()

        works = {
            "channels-last": trained(model, images, targets),
            "contiguous": trained(copy.deepcopy(model).to(memory_format=torch.contiguous_format), images, targets),
            "bf16": half,
        }
        times = turns(works, given.repeats, device)
        what = f"forward + backward of {name}, {batch} images of {side} px"
        yield row(what, times, "channels-last", "contiguous")
        yield row(what, times, "bf16", "channels-last")


def data(given: argparse.Namespace) -> Iterator[Row]:
    """Yield one pass over images in memory, against torch's own loader of the same tensors."""
    images = load("fashion-mnist", train_samples=10_000, test_samples=100).train
    whole = torch.utils.data.TensorDataset(images.images(torch.arange(len(images))), images.labels)
    loader = torch.utils.data.DataLoader(whole, 64, shuffle=True)
    passes: dict[str, Work] = {
        "ghostkit": lambda: sum(len(labels) for _, labels in batches(images, 64)),
        "ghostkit, crop+flip": lambda: sum(len(labels) for _, labels in batches(images, 64, augment="crop+flip")),
        "DataLoader": lambda: sum(len(labels) for _, labels in loader),
    }
    times = turns(passes, max(3, given.repeats // 2))
    yield row("a pass over 10,000 images of 28 px in batches of 64", times, "ghostkit", "DataLoader", 1.0)
    yield row("a pass over 10,000 images of 28 px in batches of 64", times, "ghostkit, crop+flip", "DataLoader")


# -- compilation and processes -----------------------------------------------------------------------------------------


def compile_(given: argparse.Namespace) -> Iterator[Row]:
    """Yield what the first step after an event takes, against the very first; each edit compiles what is new alone."""
    for way in ("block by block", "whole"):
        torch._dynamo.reset()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="inductor-")  # nothing is known beforehand
        torch.manual_seed(0)
        model = ghostkit.build("ghost_resnet20", num_classes=10)
        images, targets = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
        regions = Regions(model)
        if way == "whole":
            regions._compiled = {model: torch.compile(model._call_impl, dynamic=False)}

        def step(
            regions: Regions = regions, model: nn.Module = model, images: Tensor = images, targets: Tensor = targets
        ) -> float:
            start = time.perf_counter()
            with regions.used():
                loss = F.cross_entropy(model(images), targets)
            loss.backward()
            return 1e3 * (time.perf_counter() - start)

        first = step()
        usual = median(step() for _ in range(5))
        eager = median(turns({"eager": trained(model, images, targets)}, 5)["eager"])
        yield row(f"step of ghost_resnet20, compiled {way}", {"c": [usual], "eager": [eager]}, "c", "eager")
        for edit in (AddBranch("layer3.2.conv1", 5), AddIntrinsic("layer3.2.conv1", 8), AddBlock("layer3", "2")):
            ghostkit.grow(model, edit, probe=images)
            if way != "whole":
                regions.renew()
            times = {f"after {edit.kind}": [step()], "first": [first]}
            what = f"compilation of ghost_resnet20 {way}"
            yield row(what, times, f"after {edit.kind}", "first", 0.25 if way != "whole" else None)


PROCESSES = {
    **{
        "model": "ghost_resnet20",
        "data": "fashion-mnist",
        "train_samples": 4096,
        "test_samples": 64,
        "batch_size": 128,
    },
    **{"epochs": 100.0, "when": "never", "evaluate_every": 1.0, "threads": 1, "probe_samples": 16, "micro_batches": 2},
}


def worker(steps: int) -> None:
    """Train on one core, and print the milliseconds of a step."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ.get("LOCAL_RANK", "0"))]})
    events = iter(Trainer(RunConfig(**PROCESSES)))
    for counted in (3, steps):  # the first ones do not count
        left, start = counted, time.perf_counter()
        while left:
            left -= isinstance(next(events), StepDone)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(1e3 * (time.perf_counter() - start) / steps))


def processes(given: argparse.Namespace) -> Iterator[Row]:
    """Yield a step by two processes, each on a core of its own, against one on one core that takes both parts."""
    words = [str(Path(__file__)), "--worker", str(2 * given.repeats)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    times: dict[str, list[float]] = {"two processes": [], "one process": []}
    for _ in range(3):
        for name, start in (("two processes", torchrun), ("one process", [])):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, *start, *words], capture_output=True, text=True, check=True, env=environment
            )
            times[name].append(float(done.stdout.split()[-1]))
    yield row("a step of ghost_resnet20, 128 images of 28 px", times, "two processes", "one process", 1 / 1.6)


def figures(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the redraws of a dashboard with 1,000 events and 50 blocks."""
    for line in redraws(1000, 50).to_dict("records"):
        yield {"what": f"redraw of the dashboard, {line['redraw']}", "ours": "", "ms": line["median (ms)"]}


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    **{"networks": networks, "branches": branches, "grown": grown, "event": event, "training": training},
    **{"data": data, "compile": compile_, "processes": processes, "figures": figures},
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9, help="turns of the longest works; shorter ones get more")
    parser.add_argument("--device", default="cpu", help="of networks, branches and training passes")
    parser.add_argument("--no-compile", action="store_true", help="leave compiled networks out, which take minutes")
    parser.add_argument("--csv", type=Path, help="file to write the table into")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker)
        return
    rows: list[Row] = []
    for section in given.only:
        torch.set_num_threads(given.threads)
        for line in SECTIONS[section](given):
            rows.append({"section": section, **line})
            told = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in rows[-1].values()]
            print(" | ".join(told), file=sys.stderr, flush=True)  # a table that is cut off loses nothing
    frame = pd.DataFrame(rows)
    print(frame.round(3).to_string(index=False, na_rep=""))
    if given.csv is not None:
        frame.to_csv(given.csv, index=False)


if __name__ == "__main__":
    main()
