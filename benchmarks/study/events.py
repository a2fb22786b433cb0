"""How long a growth event takes on the plain host: ours beside gromo's, on equal images and as its tutorial does.

    python -m benchmarks.study.events [--repeats 5]

In the repository's folder; takes six minutes. Prints seconds, medians over the events of a run that trains between
them, and the ratio of ours to each. The tutorial takes its statistics and its line search over the whole training set.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from statistics import median
from typing import Any

import torch

from benchmarks.study.arms import PLAIN_BUDGET, SHARED, compute_of
from benchmarks.study.plain import PlainResNet, gromo_twin
from benchmarks.study.plain_run import PROBE, Grower, gromos, loss, ours, sgd
from ghostkit.data import ImageData, batches, load
from ghostkit.growth.policy import Budget, Policy

WARM_UP, BETWEEN = 100, 10  # training steps before the first event, and between two


def event_times(data: ImageData, method: str | None, images: int, repeats: int) -> Iterator[float]:
    """Yield the seconds of each event of one run.

    Args:
        data: the images.
        method: gromo's, or None for ours.
        images: that an event looks at.
        repeats: events.
    """
    torch.manual_seed(0)
    model: Any = PlainResNet() if method is None else gromo_twin(PlainResNet())
    probe = data.train.images(torch.arange(images)), data.train.labels[:images]
    stream = batches(data.train, 64, seed=0, epoch=0)
    optimizer = sgd(model, 0.05)
    grow: Grower
    budget, compute = Budget(macs=PLAIN_BUDGET), compute_of("60k", 1.0, PLAIN_BUDGET)
    if method is None:
        grow = ours(model, optimizer, probe, budget, compute, {}, 0, Policy())
    else:
        grow = gromos(model, probe, budget, compute, method, Policy())
    for event in range(repeats):
        model.train()
        for pictures, targets in islice(stream, WARM_UP if event == 0 else BETWEEN):
            optimizer.zero_grad()
            loss(model, pictures, targets).backward()
            optimizer.step()
        began = time.perf_counter()
        grow((event + 1) / 100)
        yield time.perf_counter() - began
        if method is not None:
            optimizer = sgd(model, 0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(SHARED["threads"])
    data = load(SHARED["data"], validation_samples=SHARED["validation_samples"])
    own = median(event_times(data, None, PROBE, repeats))
    print(f"{'ghostkit':16}{PROBE:7,} images{own:9.3f} s")
    for images in (PROBE, len(data.train)):
        for method in ("TINY", "GradMax"):
            theirs = median(event_times(data, method, images, repeats if images == PROBE else 1))
            print(f"{'gromo ' + method:16}{images:7,} images{theirs:9.3f} s   ours takes {own / theirs:.3f} of it")
