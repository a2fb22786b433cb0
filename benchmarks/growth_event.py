"""What a growth event costs, measured in one process.

    python benchmarks/growth_event.py [--threads 1] [--repeats 5] [--only parts|share|gromo] [--csv FOLDER]

Three tables. *Parts*: each part of an event in training steps of the same network on the same batch, with 1, 10 and 100
candidates; the ratio of MACs, unlike that of seconds, no clock can disturb. *Share*: what five events add to the
compute of a ten-epoch run. *Gromo*: one event of ours against one of gromo's (the extra ``bench``), on the same host,
images and number of added channels; ours looks at both of the host's sites unless told otherwise, gromo's at one.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostkit
from ghostkit.costs import TRAINING_PASS, LatencyTable, macs
from ghostkit.data import load
from ghostkit.engine import Engine
from ghostkit.growth.candidates import scratch_copy
from ghostkit.growth.edits import KINDS, take_down
from ghostkit.growth.grow import apply_edits
from ghostkit.growth.ledger import Ledger
from ghostkit.growth.policy import Budget, Policy
from ghostkit.growth.proposals import Proposal, observe, propose
from ghostkit.growth.scoring import score_attached
from ghostkit.growth.sites import sites
from ghostkit.growth.sizing import sizes_of

# host, arguments of build, (batch, channels, side) of the images
HOSTS: list[tuple[str, dict[str, int], tuple[int, int, int]]] = [
    ("seedling", {"in_channels": 1}, (128, 1, 28)),
    ("ghostnet_050", {}, (32, 3, 64)),
    ("ghostnet_100", {}, (32, 3, 64)),
]
COUNTS = (1, 10, 100)
# What is considered, from little to much: the first that holds enough candidates is taken.
PLANS: list[dict[str, Any]] = [
    {"kinds": KINDS, "kernel_sizes": (3, 5), "inits": ("svd",)},
    {"kinds": KINDS, "kernel_sizes": (3, 5, 7), "inits": ("svd",)},
    {"kinds": KINDS, "kernel_sizes": (3, 5, 7, 9), "inits": ("svd", "gradmax", *["random"] * 6)},
]

FASHION_IMAGES, EPOCHS, EVENTS, STEPS_BETWEEN = 60_000, 10, 5, 20

# The plain convolutional host: (batch, channels, side) of the images, channels between its two convolutions, and those
# that an event adds.
PLAIN_SHAPES = [((128, 3, 32), 32, 8), ((128, 16, 16), 64, 16)]
SCALES = (0.0, 0.1, 0.5, 1.0)  # gromo's line search, as in its container tutorial


def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(images), targets)


class Stopwatch:
    """Gathers the milliseconds of named parts over several runs.

    Args:
        times: name of a part -> its milliseconds, one a run.
    """

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, part: str, work: Callable[[], Any]) -> Any:
        """Return what ``work`` returns, and note how long it took."""
        start = time.perf_counter()
        result = work()
        self.times.setdefault(part, []).append(1e3 * (time.perf_counter() - start))
        return result

    def median(self, part: str, first: int = 1) -> float:
        """Return the median milliseconds of a part, without its ``first`` runs."""
        return median(self.times[part][first:])


# -- the parts of an event ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Trained:
    """A host after some steps, so that there is something to score.

    Args:
        model: the host.
        optimizer: SGD with momentum, whose state an event keeps in step.
        images: one batch, to train and to score on.
        targets: their labels.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    targets: Tensor

    @classmethod
    def build(cls, model: nn.Module, shape: tuple[int, int, int]) -> Trained:
        """Return ``model`` after a few steps on one batch of ``shape``, random but the same each time."""
        generator = torch.Generator().manual_seed(0)
        batch, channels, side = shape
        images = torch.randn(batch, channels, side, side, generator=generator)
        targets = torch.randint(10, (batch,), generator=generator)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        trained = cls(model, optimizer, images, targets)
        for _ in range(5):
            trained.step()
        return trained

    def step(self) -> None:
        """Take one training step."""
        self.model.train()
        self.optimizer.zero_grad()
        loss(self.model, self.images, self.targets).backward()
        self.optimizer.step()

    def twin(self) -> Trained:
        """Return an independent copy."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        return Trained(model, optimizer, self.images, self.targets)


def spread(items: list[Any], count: int) -> list[Any]:
    """Return ``count`` of ``items``, evenly spread, so that no site and kind is left out; all if there are fewer."""
    if count >= len(items):
        return items
    return [items[int((place + 0.5) * len(items) / count)] for place in range(count)]


def event(host: Trained, count: int, plan: dict[str, Any], latency: LatencyTable, watch: Stopwatch) -> dict[str, float]:
    """Go through one event with ``count`` of a plan's candidates, part by part, and return what it counted."""
    images, targets = host.images, host.targets

    def capture() -> tuple[Any, ...]:
        original = scratch_copy(host.model)
        known = sites(original)
        return original, known, observe(original, known, images, targets, loss)

    original, known, seen = watch("capture", capture)
    generator = torch.Generator().manual_seed(0)
    # Proposals are made lazily: each is timed for itself, and only those that are kept count.
    timed: list[tuple[Proposal, float]] = []
    sizes = sizes_of(original, known, known, plan["kinds"])
    proposals = propose(original, known, known, sizes, seen, generator=generator, **plan)
    start = time.perf_counter()
    for proposal in proposals:
        timed.append((proposal, 1e3 * (time.perf_counter() - start)))
        start = time.perf_counter()
    kept = spread(timed, count)
    watch.times.setdefault("propose", []).append(sum(milliseconds for _, milliseconds in kept))

    attached = [proposal.attached for proposal, _ in kept]
    found, forwards = watch(
        "score", lambda: score_attached(original, known, attached, images, targets, loss, "fisher", generator)
    )

    def price() -> None:
        ledger = Ledger(original, images[:1], latency)
        for proposal, _ in kept:
            ledger.added(take_down(proposal.edit, original, known, generator))

    watch("price", price)
    best = max(found, key=lambda number: found[number].gain)
    grown = host.twin()
    watch("surgery", lambda: apply_edits(grown.model, [kept[best][0].edit], grown.optimizer, images, None, generator))
    watch("first step", grown.step)
    for _ in range(3):
        watch("usual step", grown.step)
    return {"candidates": len(kept), "macs": 1 + forwards / len(images) / macs(original, images)}


def parts(repeats: int) -> Iterator[dict[str, object]]:
    """Yield one line for each host and number of candidates."""
    for name, options, shape in HOSTS:
        torch.manual_seed(0)
        host = Trained.build(ghostkit.build(name, num_classes=10, **options), shape)
        latency = LatencyTable()  # measured once a device and kept with a run, so not a part of an event
        for count in COUNTS:
            watch, plans, counted = Stopwatch(), iter(PLANS), {"candidates": 0.0}
            while counted["candidates"] < count:  # also fills the latency table
                plan = next(plans)
                counted = event(host, count, plan, latency, Stopwatch())
            for _ in range(repeats + 1):
                watch("step", host.twin().step)
                counted = event(host, count, plan, latency, watch)
            step = watch.median("step")
            row: dict[str, object] = {
                "host": name,
                "candidates": int(counted["candidates"]),
                "step (ms)": round(step, 1),
            }
            total = 0.0
            for part in ("capture", "propose", "score", "price", "surgery"):
                row[part] = round(watch.median(part) / step, 2)
                total += watch.median(part)
            again = watch.median("first step") - watch.median("usual step", first=3)
            row["re-optimise"] = round(again / step, 2)
            row["event (steps)"] = round((total + again) / step, 1)
            row["scoring (MACs)"] = round(counted["macs"], 2)
            print(*row.values(), file=sys.stderr, flush=True)  # a run that is cut off loses nothing
            yield row


# -- what events add to a run ------------------------------------------------------------------------------------------


def share() -> Iterator[dict[str, object]]:
    """Yield, for the seedling, what five events of a run with default settings add to the compute of ten epochs.

    The network trains a little between the events, on the probe alone, so that its gains are those of a trained one;
    the compute is counted as that of whole epochs.
    """
    config = ghostkit.RunConfig(data="fashion-mnist", epochs=EPOCHS)
    split = load("fashion-mnist", train_samples=config.probe_samples).train
    images, targets = split.images(torch.arange(len(split))), split.labels
    torch.manual_seed(0)
    model = ghostkit.build("seedling", num_classes=10, in_channels=1)
    host = Trained(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), images, targets)
    engine = Engine(
        model,
        host.optimizer,
        loss,
        (images, targets),
        Policy(**{name: getattr(config, name) for name in Policy.__dataclass_fields__}),
        Budget(None, round(config.budget_factor * macs(model, images)), None),
        {name: getattr(config, name) for name in ("kinds", "kernel_sizes", "how", "score")},
        torch.Generator().manual_seed(0),
    )
    whole = TRAINING_PASS * FASHION_IMAGES * EPOCHS  # times the MACs of an image
    seedling, trained, total, done = whole * engine.macs, 0.0, 0.0, 0.0
    for number in range(EVENTS):
        here = config.grow_from + number * config.grow_every
        trained, done = trained + whole * engine.macs * (here - done), here
        for _ in range(STEPS_BETWEEN):
            host.step()
        before, engine.spent = engine.macs, 0.0
        event = engine.grow(progress=here)
        total += engine.spent
        run = total + trained + whole * engine.macs * (1 - here)
        yield {
            "event": number + 1,
            "candidates": len(event.candidates),
            "edits": len(event.edits),
            "MACs before": before,
            "MACs after": engine.macs,
            "in training steps": round(engine.spent / (TRAINING_PASS * before * config.batch_size), 1),
            "so far, of the seedling's run (%)": round(100 * total / seedling, 2),
            "so far, of this run (%)": round(100 * total / run, 2),
        }


# -- against gromo -----------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A user's network: two plain convolutions with BN and ReLU between them, and a linear head.

    Args:
        channels: channels of the images.
        hidden: channels between the two convolutions, which is what grows.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, 32, 3, padding=1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, 10)."""
        return self.linear(self.flatten(self.pool(self.conv2(self.relu(self.bn(self.conv1(x)))))))


def gromo_host(host: Plain, kind: str) -> nn.Module:
    """Return the same network, weights included, built of gromo's modules as its own ResNet builds its blocks.

    Args:
        host: the network to copy.
        kind: of gromo's convolutions: ``"Restricted"``, its default, whose new columns have a centre tap only, or
            ``"Full"``, whose new columns are whole kernels, as ours are.
    """
    from gromo.modules import conv2d_growing_module
    from gromo.modules.growing_normalisation import GrowingBatchNorm2d

    convolution = getattr(conv2d_growing_module, f"{kind}Conv2dGrowingModule")

    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels, hidden = host.conv1.in_channels, host.conv1.out_channels
            between = nn.Sequential(GrowingBatchNorm2d(hidden), nn.ReLU())
            self.conv1 = convolution(channels, hidden, 3, padding=1, use_bias=False, post_layer_function=between)
            self.conv2 = convolution(hidden, 32, 3, padding=1, use_bias=False, previous_module=self.conv1)
            self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)

        def head(self, x: Tensor) -> Tensor:
            return self.linear(self.flatten(self.pool(x)))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv2(self.conv1(x)))

        def extended_forward(self, x: Tensor) -> Tensor:
            kept, new = self.conv1.extended_forward(x)
            return self.head(self.conv2.extended_forward(kept, new)[0])

    model = Growing()
    model.conv1.layer.load_state_dict(host.conv1.state_dict())
    model.conv1.post_layer_function[0].load_state_dict(host.bn.state_dict())
    model.conv2.layer.load_state_dict(host.conv2.state_dict())
    model.linear.load_state_dict(host.linear.state_dict())
    return model


def gromo_event(model: Any, images: Tensor, targets: Tensor, added: int, watch: Stopwatch) -> None:
    """Grow ``model`` once, as gromo's container tutorial does."""
    model.eval()

    def statistics() -> None:
        model.conv2.init_computation()
        model.zero_grad()
        F.cross_entropy(model(images), targets, reduction="sum").backward()
        model.conv2.update_computation()

    def updates() -> None:
        # No singular value is too small: ours adds as many channels as it is asked for, too.
        model.conv2.compute_optimal_updates(maximum_added_neurons=added, statistical_threshold=0.0)
        model.conv2.reset_computation()
        model.conv1.store_input = False

    def line_search() -> float:
        losses = {}
        with torch.no_grad():
            for scale in SCALES:
                model.conv2.scaling_factor = scale
                losses[scale] = float(F.cross_entropy(model.extended_forward(images), targets))
        return min(losses, key=lambda scale: losses[scale])

    def apply() -> None:
        model.conv2.scaling_factor = best or SCALES[1]  # nothing gained still grows, as ours does
        model.conv2.apply_change()
        model.conv2.delete_update()

    watch("statistics", statistics)
    watch("updates", updates)
    best = watch("line search", line_search)
    watch("apply", apply)


def our_event(host: Trained, grown: Trained, watch: Stopwatch, latency: LatencyTable, site: str | None) -> None:
    """Grow ``grown``, a copy of ``host``, by the best of all widened streams, or of those at ``site`` alone."""
    images, targets = host.images, host.targets

    def everywhere() -> Any:
        return ghostkit.candidates(host.model, images, targets, loss, kinds=("stage",), latency=latency)["edit"].iloc[0]

    def here() -> Any:
        original, generator = scratch_copy(host.model), torch.Generator().manual_seed(0)
        known = [place for place in sites(original) if place.id == site]
        seen = observe(original, known, images, targets, loss)
        sizes = sizes_of(original, known, known, ("stage",))
        found_here = propose(original, known, known, sizes, seen, ("stage",), (), ("svd",), generator)
        edits = [proposal.attached for proposal in found_here]
        found, _ = score_attached(original, known, edits, images, targets, loss, "fisher", generator)
        Ledger(original, images[:1], latency).added(take_down(edits[0], original, known, generator))
        return edits[max(found, key=lambda number: found[number].gain)]

    edit = watch("candidates", everywhere if site is None else here)
    watch("grow", lambda: ghostkit.grow(grown.model, edit, grown.optimizer, probe=images))


def against_gromo(repeats: int) -> Iterator[dict[str, object]]:
    """Yield one line for each size of the plain host and sort of gromo's convolutions; milliseconds of one event."""
    for shape, hidden, added in PLAIN_SHAPES:
        torch.manual_seed(0)
        host = Trained.build(Plain(shape[1], hidden), shape)
        latency, both, ours, step = LatencyTable(), Stopwatch(), Stopwatch(), Stopwatch()
        theirs = {kind: Stopwatch() for kind in ("Restricted", "Full")}
        for _ in range(repeats + 1):  # taking turns, so that a busy machine disturbs all alike
            step("step", host.twin().step)
            our_event(host, host.twin(), both, latency, site=None)
            grown = host.twin()
            our_event(host, grown, ours, latency, site="conv1")
            for kind, watch in theirs.items():
                twin = gromo_host(host.model, kind)
                gromo_event(twin, host.images, host.targets, added, watch)
                assert twin.conv1.out_channels == grown.model.conv1.out_channels == hidden + added
        one, all_sites = (sum(watch.median(part) for part in ("candidates", "grow")) for watch in (ours, both))
        for kind, watch in theirs.items():
            taken = {part: watch.median(part) for part in ("statistics", "updates", "line search", "apply")}
            total = sum(taken.values())
            yield {
                "images": "x".join(map(str, shape)),
                "channels": f"{hidden} + {added}",
                "step": round(step.median("step")),
                "ours, both sites": round(all_sites),
                "ours, same site": round(one),
                "(candidates": round(ours.median("candidates")),
                "grow)": round(ours.median("grow")),
                "gromo's": kind,
                "event": round(total),
                **{f"({part})": round(value) for part, value in taken.items()},
                "same site / gromo": round(one / total, 2),
                "both sites / gromo": round(all_sites / total, 2),
            }


TABLES: dict[str, tuple[str, Callable[[int], Iterator[dict[str, object]]]]] = {
    "parts": ("Parts of an event, in training steps of the same network and batch", parts),
    "share": ("Five events of a ten-epoch Fashion-MNIST run, counted MACs", lambda _: share()),
    "gromo": ("One event against gromo's, milliseconds", against_gromo),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="timed events; their median counts")
    parser.add_argument("--only", choices=tuple(TABLES), nargs="+", default=tuple(TABLES))
    parser.add_argument("--csv", type=Path, help="folder to write the tables into")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="Warning: The input matrix S", module="gromo")
    for table in arguments.only:
        title, lines = TABLES[table]
        frame = pd.DataFrame(list(lines(arguments.repeats)))
        print(f"\n{title}\n\n{frame.to_string(index=False)}", flush=True)
        if arguments.csv is not None:
            arguments.csv.mkdir(parents=True, exist_ok=True)
            frame.to_csv(arguments.csv / f"growth_event_{table}.csv", index=False)
