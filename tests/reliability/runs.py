"""Runs that come through everything that must survive a kill, and take a second."""

from __future__ import annotations

from typing import Any

from bit_for_bit import EVERY_KIND, TINY

RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"augment": "crop+flip", "ema": 0.9, "warm_up": 3, "where": "random", "how": "random", "share": 0.2},
    "adamw": {
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "where": "sprout",
        "window": 0.25,
        "share": 0.05,
        "kinds": EVERY_KIND,
        "keep_checkpoints": 1,
    },
    "rolled back": {"roll_back": 0.0, "window": 0.25, "ema": 0.7, "learning_rate": 8.0},
    "plateau": {
        "when": "plateau",
        "patience": 1,
        "epochs": 4,
        "grow_from": 0.1,
        "grow_until": 0.9,
        "evaluate_every": 0.125,
        "learning_rate": 0.3,
        "resolution": 0.75,
        "resolution_until": 0.5,
    },
    "detector": {
        "task": "detection",
        "data": "scenes",
        "size": 64,
        "train_samples": 24,
        "test_samples": 8,
        "batch_size": 4,
        "epochs": 1,
        "probe_samples": 8,
        "augment": "crop+flip",
        "model_options": {"dropout": 0.0},
        "head_options": {"channels": 16},
        "learning_rate": 0.01,
        "budget_factor": 2,
        "grow_every": 0.4,
        "grow_from": 0.3,
        "threads": 1,  # of a child that was forked, PyTorch's other threads are not there
    },
    "resnet": {  # whose dense convolutions lie in channels-last
        "model": "ghost_resnet20",
        "model_options": {},
        "train_samples": 128,
        "kinds": ("branch", "intrinsic", "block", "stage"),
        "budget_factor": 2,
        "threads": 1,
    },
}
RUNS = {name: {**TINY, **changes} for name, changes in RUNS.items()}
