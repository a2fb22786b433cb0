"""Run folders with made-up numbers, as a trainer would have written them, so that no test of a comparison trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ghostkit.config import RunConfig
from ghostkit.growth.history import GrowthEvent, History
from ghostkit.runs import Run


def make_run(
    folder: Path,
    reached: float = 0.9,
    *,
    metric: str = "accuracy",
    spent: float = 3e9,
    progress: float = 1.0,
    **config: Any,
) -> Run:
    """Make a run that has reached ``reached``; below a progress of 1, without a result."""
    folder.mkdir(parents=True)
    settings = RunConfig(**config)
    grows = settings.when != "never"
    moments = [0.1, 0.3] if grows else []
    events = [
        GrowthEvent((), progress=at, compute=at * spent, params_before=1000 + 500 * n, params_after=1500 + 500 * n,
                    macs_before=20_000 * (n + 1), macs_after=20_000 * (n + 2), reason="interval")
        for n, at in enumerate(moments)
    ]  # fmt: skip
    rows = []
    for at in (tenth / 10 for tenth in range(11)):
        if at <= progress:
            grown = sum(at > moment for moment in moments)
            common = {"step": int(100 * at), "epoch": 10 * at, "progress": at, "compute": at * spent}
            size = {
                "seconds": 60 * at,
                "learning_rate": 0.1,
                "params": 1000 + 500 * grown,
                "macs": 20_000 * (grown + 1),
            }
            now = float(reached * (1 - np.exp(-6 * at)) / (1 - np.exp(-6 * progress)))
            rows.append({**common, **size, "split": "test", "loss": 1 - now, metric: now})
    (folder / "config.json").write_text(settings.model_dump_json())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = History({"name": "seedling"}, (1, 8, 8), events).lines()
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    if progress == 1:
        size = {"params": rows[-1]["params"], "macs": rows[-1]["macs"], "milliseconds": 1.5, "compute": spent}
        rest = {"steps": 100, "growth_events": len(events), "seconds": 60.0}
        (folder / "result.json").write_text(json.dumps({metric: reached, **size, **rest}))
    return Run(folder)
