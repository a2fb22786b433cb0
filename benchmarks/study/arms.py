"""The arms of the growth study, as data: what each changes in the configuration that all share.

An arm is a way to spend a compute. All get the same images in the same order (a seed is a draw of weights and of that
order), the same optimizer, and the same learning rates to choose from. Compute is counted in training MACs, three
times a forward pass, scoring and measuring included; the learning rate follows the compute spent.
"""

from __future__ import annotations

from typing import Any

from ghostkit.growth.edits import KINDS

__all__ = [
    "ABLATIONS",
    "BASELINES",
    "BUDGET",
    "PLAIN",
    "SCRATCH",
    "SHARED",
    "STATIC",
    "TRACKS",
    "compute_of",
    "settings_of",
]


def shape(neck: int, *rows: tuple[int, int, int]) -> dict[str, Any]:
    """Return the options of ``build("seedling")`` for stages of (hidden, out, blocks)."""
    stages = [[[3, hidden, out, 0, 1 if n else 2] for n in range(blocks)] for hidden, out, blocks in rows]
    return {"stages": stages, "neck_channels": neck}


# Five sizes between the seedling and the budget; MACs an image of 28 pixels. The largest is the best shape that a
# search by hand found, see docs/study.md.
STATIC: dict[str, dict[str, Any]] = {
    "static 0.10": shape(8, (4, 8, 1), (4, 8, 1), (4, 8, 1)),
    "static 0.17": shape(16, (8, 8, 1), (8, 16, 1), (16, 16, 1)),
    "static 0.28": shape(32, (12, 12, 1), (16, 20, 1), (24, 28, 1)),
    "static 0.38": shape(32, (16, 16, 1), (24, 24, 1), (32, 32, 1)),
    "static 0.48": shape(64, (16, 16, 1), (24, 24, 2), (56, 40, 1)),
}
BUDGET = 484_808  # MACs, those of the largest
SCRATCH = "its shape from scratch"  # the network that ghostkit's run of the same seed grows, trained from the start

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
CHANNELS = ["intrinsic", "stage"]

# They grow at the same moments as ghostkit. Random placement and round robin differ from it in the place alone; the
# others grow channels one site at a time, as their papers do.
BASELINES: dict[str, dict[str, Any]] = {
    "random": {"where": "random", "score": "none"},
    "round robin": {"where": "round-robin", "score": "none"},
    "Net2Wider": {"where": "random", "how": "split", "score": "none", "together": False, "kinds": CHANNELS},
    "GradMax": {"score": "raw", "how": "gradmax", "together": False, "kinds": CHANNELS},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "site by site": {"together": False},
    "random, site by site": {"where": "random", "how": "random", "score": "none", "together": False},
    "score raw": {"score": "raw"},
    "score residual": {"score": "residual"},
    "per parameter": {"where": "gain-per-parameter"},
    "activation rank": {"where": "activation-rank"},
    "sprouting": {"where": "sprout"},
    "every kind": {"kinds": list(KINDS)},
    "with links": {"kinds": [*CHANNELS, "block", "link"]},
    "no depth": {"kinds": CHANNELS},
    "random weights": {"how": "random"},
    "cosine throughout": {"anneal_from": 0.0},
    "one event": {"grow_from": 0.1, "grow_until": 0.12, "grow_every": 1.0, "share": 1.0},
    "over by 0.4": {"grow_every": 0.05, "grow_from": 0.05, "grow_until": 0.4},
    "512 images": {"probe_samples": 512},
    "25 images a parameter": {"images_per_parameter": 25.0},
    "warm-up": {"warm_up": 50},
    "variance transfer": {"newcomer_rate": "variance-transfer"},
    "small images first": {"resolution": 0.5, "resolution_until": 0.3},
    "no state carry": {},  # what these two go without is in without.py
    "no BN measurement": {},
}


# The plain host, a ResNet that gromo can grow too: channels inside its blocks, or what grows them and how.
PLAIN_BUDGET = 746_528  # MACs, those of the largest
PLAIN: dict[str, dict[str, Any]] = {
    **{f"static {hidden}": {"hidden": (hidden,) * 3} for hidden in (2, 3, 4, 6, 8)},
    "ghostkit": {},
    "random": {"where": "random", "score": "none"},
    "round robin": {"where": "round-robin", "score": "none"},
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
    if arm == SCRATCH:
        return {"when": "never"}
    if arm in STATIC:
        return {"when": "never", "model_options": STATIC[arm]}
    grown = {} if arm == "ghostkit" else {**BASELINES, **ABLATIONS}[arm]
    return {"budget_macs": BUDGET, **grown}
