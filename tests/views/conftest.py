"""Frames as a run gives them, small and made up, so that no test of a picture has to train."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

EDITS = (
    ("AddBranch(blocks.1.0.ghost1, 5x5)", "branch"),
    ("AddBlock(blocks.1, after=blocks.1.0)", "block"),
    ("", ""),
    ("AddIntrinsic(blocks.0.0.ghost1, 4), AddBranch(blocks.1.g1.ghost1, 3x3)", "intrinsic, branch"),
)


def seedling() -> pd.DataFrame:
    columns = "block stage kind channels hidden intrinsic branches stride params macs born grown".split()
    rows = [
        ("stem", "stem", "stem", 8, 0, 0, 0, 1, 88, 56_000, 0, 0),
        ("blocks.0.0", "blocks.0", "bottleneck", 8, 16, 8, 1, 1, 420, 80_000, 0, 0),
        ("blocks.1.0", "blocks.1", "bottleneck", 16, 24, 12, 1, 2, 900, 52_000, 0, 0),
        ("head", "head", "head", 32, 0, 0, 0, 1, 1_200, 12_544, 0, 0),
    ]
    return pd.DataFrame(rows, columns=columns)


def grown() -> pd.DataFrame:
    frame = seedling()
    frame.loc[1, ["hidden", "intrinsic", "params", "macs", "grown"]] = [24, 12, 640, 118_000, 4]
    frame.loc[2, ["hidden", "branches", "params", "macs", "grown"]] = [36, 2, 1_300, 71_000, 1]
    new = ("blocks.1.g1", "blocks.1", "bottleneck", 16, 36, 12, 2, 1, 980, 60_000, 2, 4)
    new = pd.DataFrame([new], columns=frame.columns)
    return pd.concat([frame.iloc[:3], new, frame.iloc[3:]], ignore_index=True)


def make_events() -> pd.DataFrame:
    rows, params, macs = [], 2_608, 200_544
    for number, (edits, kinds) in enumerate(EDITS, start=1):
        after = (params + 400, macs + 19_000) if edits else (params, macs)
        rows.append(
            {
                "event": number,
                "step": 40 * number,
                "epoch": 0.9 * number,
                "progress": 0.09 * number,
                "compute": 2.1e9 * number,
                "edits": edits,
                "kinds": kinds,
                "params_before": params,
                "params_after": after[0],
                "macs_before": macs,
                "macs_after": after[1],
                "reason": "interval" if edits else "no growth: no candidate fits the budget's room",
            }
        )
        params, macs = after
    return pd.DataFrame(rows)


def make_metrics(seed: int = 0, ceiling: float = 0.97, rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    epochs = np.linspace(10 / rows, 10, rows)
    macs = 200_544 + 19_000 * sum((epochs > 0.9 * number).astype(int) for number in (1, 2, 4))
    frames = []
    for split, shift in (("train", 0.01), ("test", 0.0)):
        accuracy = (ceiling + shift) * (1 - 0.8 * np.exp(-epochs / 1.5)) + rng.normal(0, 0.006, rows)
        frames.append(
            pd.DataFrame(
                {
                    "step": np.round(epochs * 44).astype(int),
                    "epoch": epochs,
                    "progress": epochs / 10,
                    "compute": np.cumsum(macs) * 3.0 * 1_437 * 10 / rows,
                    "seconds": epochs * 4,
                    "split": split,
                    "loss": 2.3 * np.exp(-epochs / 1.6) + 0.12 + rng.normal(0, 0.012, rows),
                    "accuracy": np.clip(accuracy, 0, 1),
                    "learning_rate": 0.1,
                    "params": 2_608 + (macs - 200_544) // 47,
                    "macs": macs,
                }
            )
        )
    frame = pd.concat(frames).sort_values("step", kind="stable").reset_index(drop=True)
    return frame[(frame["split"] == "train") | (frame.index % 6 == 1)].reset_index(drop=True)


def make_candidates() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for event in (1, 2, 4):
        for site in ("blocks.0.0.ghost1", "blocks.1.0.ghost1", "blocks.1.g1.ghost1"):
            for edit, kind, macs in (
                (f"AddBranch({site}, 3x3)", "branch", 14_000),
                (f"AddBranch({site}, 5x5)", "branch", 22_000),
                (f"AddIntrinsic({site}, 4)", "intrinsic", 38_000),
                (f"AddBlock({site[:8]}, after={site[:-7]})", "block", 60_000),
            ):
                gain = float(rng.gamma(2, 0.004))
                rows.append((event, edit, site, kind, "svd", gain, macs, macs // 40, macs / 1e6, False))
    columns = "event edit site kind init gain macs params milliseconds chosen".split()
    frame = pd.DataFrame(rows, columns=columns)
    best = (
        frame.assign(rate=frame["gain"] / frame["macs"]).groupby("event")["rate"].nlargest(2).index.get_level_values(1)
    )
    frame.loc[best, "chosen"] = True
    return frame


@pytest.fixture
def metrics() -> pd.DataFrame:
    return make_metrics()


@pytest.fixture
def curves() -> dict[str, pd.DataFrame | list[pd.DataFrame]]:
    return {"grown": [make_metrics(seed) for seed in range(3)], "seedling": make_metrics(1, ceiling=0.9)}


@pytest.fixture
def events() -> pd.DataFrame:
    return make_events()


@pytest.fixture
def candidates() -> pd.DataFrame:
    return make_candidates()


@pytest.fixture
def before() -> pd.DataFrame:
    return seedling()


@pytest.fixture
def after() -> pd.DataFrame:
    return grown()


@pytest.fixture
def maps() -> np.ndarray:
    """Twelve maps of 8 x 10: four intrinsic ones, and ghosts that are blurred copies of them."""
    rng = np.random.default_rng(2)
    intrinsic = rng.normal(size=(4, 8, 10))
    return np.concatenate([intrinsic, np.roll(intrinsic, 1, axis=2) * 0.5, np.abs(intrinsic)]).astype(np.float32)
