"""What a run still holds after many growth events: 500 events, grown and taken back by hand, checkpoints included.

    python benchmarks/soak.py [--events 500] [--every 50] [--seed 0] [--threads 1] [--csv FILE]

One trainer grows a seedling on `digits`: random candidates of every kind, taken back by undoing or by edits that
remove, so that its size goes up and down. Between two events it trains, and after each it saves. The moving average and
the warm-up of new numbers are on, since both follow growth. ``RSS`` is what the process holds of the memory;
``history (KB)`` is what it rightly holds more of, as JSON. ``tensors`` are all that Python holds; ``in the network``
those that it should: what a network of this size takes for itself, its gradients, its optimizer, its average and its
newcomers' rates. A table with a line every so many events.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pandas as pd
import psutil
import torch

import ghostkit
from ghostkit.errors import GhostkitError
from ghostkit.events import StepDone
from ghostkit.growth import history_of
from ghostkit.growth.edits import GROWTH
from ghostkit.growth.undo import inverse_of, standing
from ghostkit.trainer import Trainer

STEPS = 3  # of training between two events
LARGEST = 3  # above so many times the parameters of the seedling, something is taken back
WARM_UP = 100  # events after which caches, of PyTorch's and of the allocator, have their size


def live_tensors() -> int:
    """Return how many tensors Python holds."""
    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def rightly_held(trainer: Trainer) -> int:
    """Return how many tensors the network, its gradients, its optimizer, its average and its rates are made of."""
    networks = [trainer.model] + ([trainer.average] if trainer.average is not None else [])
    count = sum(len(list(net.parameters())) + len(list(net.buffers())) for net in networks)
    count += sum(1 for parameter in trainer.model.parameters() if parameter.grad is not None)
    count += sum(
        isinstance(value, torch.Tensor) for state in trainer.optimizer.state.values() for value in state.values()
    )
    return count + (len(trainer.engine.rates.born) if trainer.engine.rates is not None else 0)


def change(trainer: Trainer, draw: random.Random, start: int, gone: set[int]) -> str:
    """Grow something or take something back, and return the kind of what was done; ``gone`` are the events removed."""
    history = history_of(trainer.model)
    while True:
        large = trainer.engine.params > LARGEST * start
        # What grew and is still there: undoing a removal would bring back what it took away.
        grew = [number for number in standing(history) if isinstance(history.events[number - 1].edits[0], GROWTH)]
        stands = [number for number in grew if number not in gone]
        try:
            if stands and draw.random() < (0.8 if large else 0.4):
                number = draw.choice(stands[-5:])
                if draw.random() < 0.5:
                    trainer.undo(number)
                    return "undo"
                removals = inverse_of(history, number)
                trainer.grow(list(removals))
                gone.add(number)
                return removals[0].kind
            frame = trainer.candidates()
            kind = draw.choice(sorted(set(frame["kind"])))
            edit = draw.choice(list(frame.loc[frame["kind"] == kind, "edit"]))
            trainer.grow(edit)
            return kind
        except GhostkitError:  # something later rests on it, or it is there no more
            continue


def soak(events: int, seed: int, every: int, threads: int, folder: Path) -> Iterator[dict[str, object]]:
    """Yield a line at the start and every so many events."""
    config = ghostkit.RunConfig(
        data="digits",
        epochs=10 * events,
        when="never",
        optimizer="adamw",
        learning_rate=1e-3,
        ema=0.99,
        warm_up=2,
        evaluate_every=1.0,
        probe_samples=64,
        budget_factor=100,
        threads=threads,
        seed=seed,
    )
    trainer = Trainer(config, folder)
    start, draw, process = trainer.engine.params, random.Random(seed), psutil.Process()
    done: Counter[str] = Counter()
    gone: set[int] = set()
    seconds: dict[str, list[float]] = {"event": [], "save": [], "step": []}
    last, steps, began = 0, 0, time.perf_counter()
    path = folder / "history.jsonl"

    def line(count: int) -> dict[str, object]:
        nonlocal last
        held, rss = live_tensors(), process.memory_info().rss // 1024
        grown, last = rss - last, rss
        times = {f"{what} (ms)": round(1000 * median(taken), 1) if taken else None for what, taken in seconds.items()}
        for taken in seconds.values():
            taken.clear()
        return {
            "events": count,
            "RSS (MB)": round(rss / 1024, 1),
            "KB/event": round(grown / every, 1) if count else None,
            "history (KB)": path.stat().st_size // 1024,
            "params": trainer.engine.params,
            "tensors": held,
            "in the network": rightly_held(trainer),
            **times,
            "kinds": len(done),
        }

    for event in trainer:
        if not isinstance(event, StepDone):
            continue
        seconds["step"].append(time.perf_counter() - began)
        steps += 1
        count = sum(done.values())
        if steps % STEPS == 0:
            if count % every == 0 and (count == 0 or seconds["event"]):
                yield line(count)
            if count == events:
                break
            began = time.perf_counter()
            done[change(trainer, draw, start, gone)] += 1
            seconds["event"].append(time.perf_counter() - began)
            began = time.perf_counter()
            trainer.save()
            seconds["save"].append(time.perf_counter() - began)
        began = time.perf_counter()
    trainer.close()
    print(f"events by kind: {dict(done.most_common())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--every", type=int, default=50, help="events between two lines of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="file to write the table into")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        lines = []
        for row in soak(arguments.events, arguments.seed, arguments.every, arguments.threads, Path(place, "run")):
            print(*row.values(), flush=True)
            lines.append(row)
    table = pd.DataFrame(lines)
    print(table.to_string(index=False))
    late = table[table["events"] >= WARM_UP]
    if len(late) > 1:
        grown = 1024 * (late["RSS (MB)"].iloc[-1] - late["RSS (MB)"].iloc[0])
        told = late["history (KB)"].iloc[-1] - late["history (KB)"].iloc[0]
        count = late["events"].iloc[-1] - late["events"].iloc[0]
        print(f"after {late['events'].iloc[0]} events: {grown / count:.1f} KB an event, history {told / count:.1f} KB")
    print(f"load while it ran: {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    if arguments.csv is not None:
        table.to_csv(arguments.csv, index=False)
