"""What it is worth to start ghost modules from the trained convolutions whose places they take.

    python benchmarks/decompose.py [--seeds 3] [--images 12000] [--epochs 3] [--ratio 2] [--rates 0.01 0.1] [--csv FILE]

Trains a plain ResNet-20 (or, with ``--hosts``, a MobileNetV2) on Fashion-MNIST on this machine, ghosts it twice, with
``init="random"`` and with ``init="decompose"``, and fine-tunes both for one epoch on the same batches at each of the
learning rates. One table: test accuracy of the plain network, right after ghosting, and after the epoch, as mean ±
deviation over the seeds; the margin is of the best rate of either, seed by seed.
"""

from __future__ import annotations

import argparse
import copy
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torchvision.models import MobileNetV2

import ghostkit
from ghostkit.data import ImageData, batch_count, batches, load
from ghostkit.nn.hybrids import ResNet, with_stem
from ghostkit.tasks.classification import cross_entropy, evaluate

BATCH, MOMENTUM, DECAY, RATE = 64, 0.9, 5e-4, 0.1
FITTED = 256  # images that least squares see
HOSTS = {
    "ResNet-20": lambda: ResNet("basic", (3, 3, 3), 10, 1, width=16, small_images=True),
    "MobileNetV2": lambda: with_stem(MobileNetV2(10, 0.5), 1, 1),
}


def train(model: nn.Module, data: ImageData, rates: list[float], seed: int) -> None:
    """Train ``model`` for whole epochs, at the learning rates from and to which each of them anneals in a line."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=MOMENTUM, weight_decay=DECAY)
    loss, steps = cross_entropy(), batch_count(len(data.train), BATCH)
    model.train()
    for epoch, (start, end) in enumerate(pairwise(rates)):
        for number, (images, targets) in enumerate(batches(data.train, BATCH, seed=seed, epoch=epoch)):
            optimizer.param_groups[0]["lr"] = start + (end - start) * number / steps
            optimizer.zero_grad()
            loss(model, images, targets).backward()
            optimizer.step()


def accuracy(model: nn.Module, data: ImageData) -> float:
    """Return the accuracy on the test images, in per cent."""
    return 100 * evaluate(model, batches(data.test, 256, shuffle=False), len(data.classes)).accuracy


def measured(host: str, seed: int, data: ImageData, epochs: int, ratio: int, rates: list[float]) -> list[dict]:
    """Return one row for each way to start and learning rate."""
    torch.manual_seed(seed)
    plain = HOSTS[host]()
    train(plain, data, [RATE * (epochs - done) / epochs for done in range(epochs + 1)], seed)
    trained = accuracy(plain, data)
    seen = data.train.images(torch.arange(FITTED))
    rows = []
    for init in ("random", "decompose"):
        torch.manual_seed(seed)
        ghost = ghostkit.ghostify(plain, ratio, init=init, images=seen)
        missed = ghost.ghost_report.layers["missed"].mean()
        for rate in rates:
            tuned = copy.deepcopy(ghost)
            train(tuned, data, [rate, 0.0], seed=1000 + seed)
            row = {"host": host, "seed": seed, "plain": trained, "init": init, "missed": missed, "rate": rate}
            rows.append({**row, "at once": accuracy(ghost, data), "after one epoch": accuracy(tuned, data)})
            print(
                *(f"{key} {value:.4g}" if isinstance(value, float) else value for key, value in rows[-1].items()),
                flush=True,
            )
    return rows


def spread(values: pd.Series) -> str:
    """Return mean and deviation in words."""
    return f"{values.mean():.2f} ± {values.std():.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=12_000, help="training images")
    parser.add_argument("--epochs", type=int, default=3, help="of training the plain network")
    parser.add_argument("--ratio", type=int, default=2)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1], help="learning rates of fine-tuning"
    )
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=["ResNet-20"])
    parser.add_argument("--csv", type=Path, help="where the rows go")
    asked = parser.parse_args()
    data = load("fashion-mnist", train_samples=asked.images)
    rows = [
        row
        for host in asked.hosts
        for seed in range(asked.seeds)
        for row in measured(host, seed, data, asked.epochs, asked.ratio, asked.rates)
    ]
    frame = pd.DataFrame(rows)
    if asked.csv:
        frame.to_csv(asked.csv, index=False)
    print()
    columns = ["plain", "missed", "at once", "after one epoch"]
    print(frame.groupby(["host", "init", "rate"], sort=False)[columns].agg(spread).to_string())
    best = frame.groupby(["host", "seed", "init"])["after one epoch"].max().unstack()
    for host, margin in (best["decompose"] - best["random"]).groupby(level="host"):
        print(f"\n{host}: decompose over random after one epoch, best rate of each: {spread(margin)} points")


if __name__ == "__main__":
    main()
