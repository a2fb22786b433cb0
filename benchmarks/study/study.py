"""One run of the growth study: an arm, a track, a compute, a learning rate and a seed become one row of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.study.arms import PLAIN, PLAIN_BUDGET, SCRATCH, SHARED, TRACKS, compute_of, settings_of
from benchmarks.study.plain_run import run_plain
from benchmarks.study.without import WITHOUT
from ghostkit import Run, RunConfig, Trainer, evaluate, train
from ghostkit.data import load
from ghostkit.growth.policy import Policy

__all__ = ["run_arm"]


def run_arm(
    arm: str,
    folder: str | Path,
    *,
    host: str = "seedling",
    track: str = "10k",
    share: float = 1.0,
    learning_rate: float = 0.1,
    seed: int = 0,
    judged: str = "validation",
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one arm in ``folder``, or go on there, and return its row.

    Args:
        arm: on the seedling "ghostkit", ``SCRATCH``, or one of ``STATIC``, ``BASELINES`` or ``ABLATIONS``; on the plain
            host, one of ``PLAIN``.
        folder: the run's folder; the plain host writes none.
        host: "seedling" or "plain".
        track: "10k" or "60k" training images.
        share: of F.
        learning_rate: of all weights.
        seed: of the weights, the order of the images, and growth.
        judged: "validation", or "test" to ask the test images as well, once, when all is decided.
        changes: further values of the configuration, to explore with; on the plain host, of the policy.
    """
    told = {"host": host, "arm": arm, "track": track, "share": share, "learning_rate": learning_rate, "seed": seed}
    if host == "plain":
        torch.set_num_threads(SHARED["threads"])
        data = load(SHARED["data"], validation_samples=SHARED["validation_samples"], train_samples=TRACKS[track])
        compute = compute_of(track, share, PLAIN_BUDGET)
        spent = {"budget": PLAIN_BUDGET, "compute": compute, "learning_rate": learning_rate}
        policy = Policy(**(changes or {}))
        return {**told, **run_plain(PLAIN[arm], data, **spent, seed=seed, judged=judged, policy=policy)}
    shared = {
        **SHARED,
        "train_samples": TRACKS[track],
        "compute": compute_of(track, share),
        "learning_rate": learning_rate,
        "seed": seed,
        **(changes or {}),
    }
    if arm == SCRATCH:
        shared["shape"] = str(grown_shape(RunConfig(**{**settings_of("ghostkit"), **shared}), Path(folder) / "grown"))
        folder = Path(folder) / "scratch"
    run = WITHOUT.get(arm, train)(RunConfig(**{**settings_of(arm), **shared}), folder)
    row = {**told, **measured(run)}
    if arm == SCRATCH:
        row |= {"events": 0, "event_seconds": 0.0, "output_change": 0.0}  # its history is that of the shape
    if judged == "test":
        row["test"] = evaluate(run.folder, device="cpu").accuracy
    return row


def grown_shape(config: RunConfig, folder: Path) -> Path:
    """Train as far as growth goes, and return the folder whose history tells the shape."""
    trainer = Trainer(config, folder)
    try:
        for _ in trainer:
            if trainer.done > config.grow_until:
                break
    finally:
        trainer.close()
    return folder


def measured(run: Run) -> dict[str, Any]:
    """Return what a run that is over comes to."""
    result, grown = run.result, [event for event in run.history.events if event.edits]
    asked = [event for event in run.history.events if event.candidates]
    changes = [event.max_logit_change for event in grown if event.max_logit_change is not None]
    return {
        "validation": result["accuracy"],
        "loss": result["loss"],
        "compute": result["compute"],
        "seconds": result["seconds"],
        "steps": result["steps"],
        "params": result["params"],
        "macs": result["macs"],
        "milliseconds": result["milliseconds"],
        "events": len(grown),
        "event_seconds": sum(event.clock.get("seconds", 0.0) for event in asked) / max(len(asked), 1),
        "output_change": max(changes, default=0.0),
        "edits": "; ".join(str(edit) for event in grown for edit in event.edits),
    }
