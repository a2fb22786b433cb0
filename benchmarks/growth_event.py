"""What a growth event costs, in training steps of the same network, measured in one process.

    python benchmarks/growth_event.py [threads]

One line for each host: milliseconds of a training step on a batch, of scoring all candidates on the same batch, and of
applying the best one, with the ratios that a clock cannot disturb.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn

import ghostkit
from ghostkit.costs import LatencyTable

# host, arguments of build, (batch, channels, side) of the images
HOSTS = [
    ("seedling", {"in_channels": 1}, (128, 1, 28)),
    ("ghostnet_050", {}, (32, 3, 64)),
    ("ghostnet_100", {}, (32, 3, 64)),
]


def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return nn.functional.cross_entropy(model(images), targets)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median milliseconds of ``work``, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def measure(name: str, options: dict[str, int], shape: tuple[int, int, int]) -> dict[str, object]:
    """Return one line of the table."""
    torch.manual_seed(0)
    batch, channels, side = shape
    model = ghostkit.build(name, num_classes=10, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, targets = torch.randn(batch, channels, side, side), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        loss(model, images, targets).backward()
        optimizer.step()

    latency = LatencyTable()  # measured once a device and kept with a run, so not a part of an event

    def score() -> pd.DataFrame:
        return ghostkit.candidates(model, images, targets, loss, latency=latency)

    frame = score()
    step_ms, score_ms = milliseconds(step, 20), milliseconds(score, 5)
    hosts = iter([copy.deepcopy(model) for _ in range(6)])
    grow_ms = milliseconds(lambda: ghostkit.grow(next(hosts), frame.edit[0], probe=images), 5)
    forward = ghostkit.cost(model, images, measure=False).macs * batch
    return {
        "host": name,
        "candidates": len(frame),
        "step (ms)": round(step_ms, 1),
        "score all (ms)": round(score_ms, 1),
        "grow one (ms)": round(grow_ms, 1),
        "score / step (time)": round(score_ms / step_ms, 2),
        "score / step (MACs)": round(frame.attrs["macs"] / (3 * forward), 2),
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    print(pd.DataFrame([measure(*host) for host in HOSTS]).to_string(index=False))
