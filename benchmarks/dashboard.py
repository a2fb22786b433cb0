"""What looking costs: a training with the dashboard attached against the same without it, and one redraw of a long run.

    python benchmarks/dashboard.py [--epochs 12] [--repeats 5] [--events 1000] [--blocks 50]

Both trainings run on a thread of their own and take turns. They have the same seed and so take the same steps; medians
count. No browser is connected, as Python's share of the work does not depend on one. A redraw is timed on a run made up
of so many growth events, measurements (two for each event) and blocks: ``between`` two measurements only the loss goes
on; after a ``measurement`` all curves are poured; after an ``event`` the architecture is drawn too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pandas as pd

from ghostkit import RunConfig, Trainer, widgets
from ghostkit.data import load
from ghostkit.live import Live


def seconds(what: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def trained(live: Live) -> None:
    """Train to the end."""
    live.start()
    live.join()
    assert live.state == "finished", live.failure


def trainings(config: RunConfig, repeats: int) -> pd.DataFrame:
    """Return the seconds of a training without and with a dashboard, and their ratio."""
    data = load(config.data)
    trained(Live(Trainer(config, data=data)))  # whatever is done once in a process
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeats):
        plain, watched = Live(Trainer(config, data=data)), widgets.Dashboard(Trainer(config, data=data)).live
        times["without"].append(seconds(lambda live=plain: trained(live)))
        times["with"].append(seconds(lambda live=watched: trained(live)))
    ratios = [attached / alone for alone, attached in zip(times["without"], times["with"], strict=True)]
    row = {f"{name} (s)": median(values) for name, values in times.items()}
    return pd.DataFrame([row | {"ratio": median(ratios), "least": min(ratios), "most": max(ratios)}])


def long_run(dashboard: widgets.Dashboard, events: int, blocks: int) -> None:
    """Give a dashboard the record of a run that never was."""
    record = dashboard.live.record
    sizes = {"params": 1000, "macs": 10_000}
    record.metrics = [
        {"step": n, "epoch": n / 20, "progress": n / 2 / events, "compute": 1e9 * n, "seconds": n}
        | {"split": split, "loss": 1 / (n + 1), "accuracy": 0.5, "learning_rate": 0.1}
        | {name: size + n for name, size in sizes.items()}
        for n in range(events)
        for split in ("train", "test")
    ]
    record.events = [
        {"event": n, "epoch": n / 20, "reason": "interval, by gain-per-mac", "kinds": "branch"}
        | {"edits": f"AddBranch(blocks.{n % 7}.0.ghost1, 5x5)" if n % 3 else "", "step": n}
        | {f"{name}_{when}": size + n for name, size in sizes.items() for when in ("before", "after")}
        for n in range(1, events + 1)
    ]
    record.steps = [(n * events / 20 / 400, 1 / (n + 1)) for n in range(400)]
    middle = {"channels": 16, "hidden": 24, "intrinsic": 12, "branches": 1, "layers": 0, "links": 0, "stride": 1}
    record.blocks = pd.DataFrame(
        [
            {"block": f"blocks.{n // 8}.{n % 8}", "stage": f"blocks.{n // 8}", "kind": "bottleneck", **middle, **sizes}
            | {"born": n * events // blocks, "grown": n * events // blocks}
            for n in range(blocks)
        ]
    )
    record.seedling = record.blocks.iloc[: blocks // 8].assign(born=0, grown=0)


def redraws(events: int, blocks: int, repeats: int = 15) -> pd.DataFrame:
    """Return the milliseconds of Python that one redraw takes, by what has happened since the one before."""
    dashboard = widgets.Dashboard(Trainer(RunConfig(train_samples=64, test_samples=64, probe_samples=8)))
    long_run(dashboard, events, blocks)
    dashboard.draw()
    record = dashboard.live.record

    def measured() -> None:
        record.metrics.append(dict(record.metrics[-1]))

    def grown() -> None:
        measured()
        record.events.append({**record.events[-1], "event": len(record.events) + 1})

    rows = {}
    for name, happens in {"between": lambda: None, "measurement": measured, "event": grown}.items():
        times = []
        for _ in range(repeats):
            happens()
            times.append(1e3 * seconds(dashboard.draw))
        rows[name] = {"median (ms)": median(times), "most (ms)": max(times)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("redraw").reset_index()


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=float, default=12.0, help="of each training, on digits")
    parser.add_argument("--repeats", type=int, default=5, help="trainings of each kind")
    parser.add_argument("--events", type=int, default=1000, help="growth events of the redrawn run")
    parser.add_argument("--blocks", type=int, default=50, help="blocks of the redrawn network")
    given = parser.parse_args()
    print(redraws(given.events, given.blocks).round(1).to_string(index=False), flush=True)
    config = RunConfig(data="digits", augment="crop", epochs=given.epochs, threads=1)
    print(trainings(config, given.repeats).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
