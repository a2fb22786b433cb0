"""The arms of the growth study, as data: what each changes in the configuration that all share.

An arm is a way to spend a compute. All get the same images in the same order (a seed is a draw of weights and of that
order), the same optimizer, and the same learning rates to choose from. Compute is counted in training MACs, three
times a forward pass, scoring and measuring included; the learning rate follows the compute spent.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ABLATIONS", "BASELINES", "BUDGET", "PLAIN", "SHARED", "STATIC", "TRACKS", "compute_of", "settings_of"]


def shape(stem: int, rows: tuple[tuple[int, int], tuple[int, int]], neck: int) -> dict[str, Any]:
    """Return the options of ``build("seedling")`` for one block a stage: channels of the stem, (hidden, out), neck."""
    stages = [[[3, hidden, out, 0, 2]] for hidden, out in rows]
    return {"stages": stages, "stem_channels": stem, "neck_channels": neck}


# Five sizes between the seedling and the budget; MACs an image of 28 pixels.
STATIC: dict[str, dict[str, Any]] = {
    "static 0.10": shape(4, ((4, 8), (4, 8)), 8),
    "static 0.16": shape(4, ((8, 8), (8, 16)), 16),
    "static 0.26": shape(4, ((12, 12), (16, 24)), 32),
    "static 0.35": shape(4, ((16, 16), (24, 24)), 32),
    "static 0.48": shape(4, ((16, 16), (40, 32)), 64),
}
BUDGET = 484_000  # MACs, those of the largest

TRACKS = {"10k": 10_000, "60k": None}  # training images, of the 55,000 that the validation split leaves
IMAGES = {"10k": 10_000, "60k": 60_000}
EPOCHS = {"10k": 12, "60k": 6}  # of the largest static size: what F buys it
TRAINING_PASS = 3

SHARED: dict[str, Any] = {
    "data": "fashion-mnist",
    "validation_samples": 5000,
    "model": "seedling",
    "device": "cpu",
    "threads": 1,
    "evaluate_every": 0.25,
    "keep_checkpoints": 1,
}
WIDTH = ["branch", "intrinsic", "stage"]

BASELINES: dict[str, dict[str, Any]] = {
    "random": {"where": "random", "how": "random", "score": "none"},
    "round robin": {"where": "round-robin", "how": "random", "score": "none"},
    "Net2Wider": {"where": "random", "how": "split", "score": "none", "kinds": WIDTH},
    "GradMax": {"score": "raw", "how": "gradmax", "kinds": WIDTH},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "score raw": {"score": "raw"},
    "score residual": {"score": "residual"},
    "per parameter": {"where": "gain-per-parameter"},
    "activation rank": {"where": "activation-rank"},
    "sprouting": {"where": "sprout"},
    "no links": {"kinds": ["branch", "intrinsic", "stage", "block", "layer"]},
    "width only": {"kinds": WIDTH},
    "random weights": {"how": "random"},
    "cosine throughout": {"anneal_from": 0.0},
    "one event": {"grow_from": 0.1, "grow_until": 0.1, "share": 1.0},
    "over by 0.2": {"grow_every": 0.025, "grow_from": 0.025, "grow_until": 0.2},
    "warm-up": {"warm_up": 50},
    "variance transfer": {"newcomer_rate": "variance-transfer"},
    "small images first": {"resolution": 0.5, "resolution_until": 0.3},
}


# The plain host, a ResNet that gromo can grow too: channels inside its blocks, or what grows them and how.
PLAIN_BUDGET = 746_528  # MACs, those of the largest
PLAIN: dict[str, dict[str, Any]] = {
    **{f"static {hidden}": {"hidden": (hidden,) * 3} for hidden in (2, 3, 4, 6, 8)},
    "ghostkit": {},
    "random": {"where": "random", "how": "random", "score": "none"},
    "round robin": {"where": "round-robin", "how": "random", "score": "none"},
    "Net2Wider": {"where": "random", "how": "split", "score": "none"},
    "GradMax": {"score": "raw", "how": "gradmax"},
    "gromo TINY": {"gromo": "TINY"},
    "gromo GradMax": {"gromo": "GradMax"},
    "gromo GradMax, open ReLU": {"gromo": "GradMax", "open_relu": True},
}


def compute_of(track: str, share: float, budget: float = BUDGET) -> float:
    """Return ``share`` of F, in training MACs: what so many epochs of the largest static size, ``budget``, take."""
    return share * EPOCHS[track] * TRAINING_PASS * budget * IMAGES[track]


def settings_of(arm: str) -> dict[str, Any]:
    """Return what ``arm`` changes in the configuration that all share."""
    if arm in STATIC:
        return {"when": "never", "model_options": STATIC[arm]}
    grown = {} if arm == "ghostkit" else {**BASELINES, **ABLATIONS}[arm]
    return {"budget_macs": BUDGET, **grown}
