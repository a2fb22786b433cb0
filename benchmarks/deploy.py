"""What deploying brings on the CPU: the training form in eval mode against the deployed copy, measured in one process.

    python benchmarks/deploy.py [--threads 2 1] [--repeats 15] [--hosts NAME ...] [--csv FILE]

The training form lies in memory as it was built, the deployed copy as :func:`ghostkit.deploy` leaves it; both get the
same images and no gradients. They take turns, so that a busy machine disturbs both alike; medians count. ``difference``
is the largest one of the outputs, relative to the largest output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn

import ghostkit

HOSTS: dict[str, Callable[[], nn.Module]] = {
    "ghostnet_100": lambda: ghostkit.build("ghostnet_100"),
    "ghostnetv2_100": lambda: ghostkit.build("ghostnetv2_100"),
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
}
SIDE = 224
BATCHES = {1: 5, 32: 1}  # images in a batch -> how many times as many repeats


def seasoned(model: nn.Module) -> nn.Module:
    """Return ``model`` in eval mode, its BNs with numbers and with the statistics of random images."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
        model.train()(torch.randn(16, 3, SIDE, SIDE))
    return model.eval()


def milliseconds(model: nn.Module, images: Tensor) -> float:
    """Return how long one forward takes."""
    start = time.perf_counter()
    model(images)
    return (time.perf_counter() - start) * 1e3


@torch.inference_mode()
def compared(trained: nn.Module, deployed: nn.Module, images: Tensor, repeats: int) -> dict[str, object]:
    """Return the medians of both forms, and by how much their outputs differ."""
    expected, found = trained(images), deployed(images)
    pairs = [(milliseconds(trained, images), milliseconds(deployed, images)) for _ in range(repeats)]
    before, after = (median(times) for times in zip(*pairs, strict=True))
    return {
        "trained ms": round(before, 1),
        "deployed ms": round(after, 1),
        "ratio": round(before / after, 2),
        "difference": f"{float((found - expected).abs().max() / expected.abs().max()):.1e}",
    }


def rows(hosts: list[str], threads: list[int], repeats: int) -> Iterator[dict[str, object]]:
    """Yield one line for each host, number of threads and batch."""
    for name in hosts:
        torch.manual_seed(0)
        trained = seasoned(HOSTS[name]())
        deployed = ghostkit.deploy(trained, torch.randn(2, 3, SIDE, SIDE))
        for count in threads:
            torch.set_num_threads(count)
            for batch, factor in BATCHES.items():
                line = compared(trained, deployed, torch.randn(batch, 3, SIDE, SIDE), repeats * factor)
                yield {"host": name, "threads": count, "batch": batch, **line}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads(), 1])
    parser.add_argument("--repeats", type=int, default=15, help="timed forwards of 32 images, five times as many of 1")
    parser.add_argument("--hosts", nargs="+", choices=tuple(HOSTS), default=list(HOSTS))
    parser.add_argument("--csv", type=Path, help="file to write the table into")
    arguments = parser.parse_args()
    frame = pd.DataFrame(list(rows(arguments.hosts, arguments.threads, arguments.repeats)))
    print(frame.to_string(index=False))
    if arguments.csv is not None:
        frame.to_csv(arguments.csv, index=False)
