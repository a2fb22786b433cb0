"""A study: several ways of growing, each given the same compute and the same seeds, as one tidy table.

A row is a run: its ``host``, ``arm``, ``track`` (how many images), ``share`` (of the full compute), ``learning_rate``
and ``seed``, and what came of it. What is chosen, such as a learning rate or the best of several sizes, is chosen on
the validation images; ``test``, where it was asked, is only ever reported. Nothing here trains or draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ghostkit.comparing import MEASURED, differences_to, ranked
from ghostkit.errors import GhostkitError

__all__ = ["arm_curves", "best_rates", "compare_arms", "declared_points", "lead_over", "one_part", "read_study"]

KEYS = ("host", "arm", "track", "share", "learning_rate", "seed")
OURS, STATIC, SCRATCH = "ghostkit", "static", "its shape from scratch"
BASELINES = ("random", "round robin", "Net2Wider")
GROMOS = ("gromo TINY", "gromo GradMax", "gromo GradMax, open ReLU")
ENOUGH, PLANNED = 3, 20  # seeds, below which nothing is called reached or missed; and those that the study set out with
SIZES = 5  # static ones, of which the best is what auto-sizing has to match
POINT = 0.001  # a tenth of a point of accuracy: what "level" allows
OWN = Path(__file__).parents[1] / "docs" / "study.parquet"
SHARES = {0.25: "F/4", 0.5: "F/2", 1.0: "F"}


def read_study(place: str | Path | None = None) -> pd.DataFrame:
    """Return the runs of a study that are over, one row each.

    Args:
        place: a parquet file, or the folder of the sweep that ran it; ghostkit's own study, which lies in a checkout of
            its repository, when None.

    Raises:
        GhostkitError: if there is no such table, or it lacks a column.
    """
    path = OWN if place is None else Path(place)
    path = path / "results.parquet" if path.is_dir() else path
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise GhostkitError(f"cannot read the study {str(path)!r}: {error}") from None
    if "status" in table:  # as a sweep writes it
        over = table[table["status"] == "done"]
        named = {name: name[2:] for name in over.columns if name.startswith(("p.", "m."))}
        table = over[list(named)].rename(columns=named)
        table = table.loc[:, ~table.columns.duplicated()]  # a row may repeat a parameter, which comes first
    missing = [name for name in (*KEYS, "validation") if name not in table]
    if missing:
        raise GhostkitError(f"{str(path)!r} is no table of a study: it has no column {', '.join(missing)}")
    return table.reset_index(drop=True)


def one_part(table: pd.DataFrame, host: str, track: str | None = None, share: float | None = None) -> pd.DataFrame:
    """Return the rows of one host, track and share, in which arms can be compared.

    Args:
        table: a study.
        host: whose rows.
        track: "10k" or "60k"; when None the one where most arms are, of those where the test images were asked, if any
            were.
        share: of the full compute; where most arms are when None, the larger one of equals.

    Raises:
        GhostkitError: if there is no such row.
    """
    asked = {"host": host, "track": track, "share": share}
    rows = table
    for name, value in asked.items():
        rows = rows if value is None else rows[rows[name] == value]
    if rows.empty:
        told = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None)
        raise GhostkitError(f"the study has no run of {told}")
    if track is None and "test" in rows and rows["test"].notna().any():  # what is confirmed counts for more
        rows = rows[rows["test"].notna()]
    arms = rows.groupby(["track", "share"])["arm"].nunique().sort_index()
    fullest = dict(zip(("track", "share"), arms[arms == arms.max()].index[-1], strict=True))
    return rows[(rows["track"] == fullest["track"]) & (rows["share"] == fullest["share"])].reset_index(drop=True)


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each arm at the learning rate that did best on the validation images, by the mean over seeds.

    Every arm is given the same rates to choose from, and chooses for each host, track and share of the compute, by the
    seeds that most of its rates were run with.
    """
    place = ["host", "arm", "track", "share"]
    rates = table.groupby([*place, "seed"])["learning_rate"].transform("nunique")
    shared = table[rates == rates.groupby([table[name] for name in place]).transform("max")]
    means = shared.groupby([*place, "learning_rate"], as_index=False)["validation"].mean()
    best = means.sort_values("validation", ascending=False, kind="stable").drop_duplicates(place)
    return table.merge(best[[*place, "learning_rate"]], on=[*place, "learning_rate"]).reset_index(drop=True)


def compare_arms(
    table: pd.DataFrame, metric: str = "validation", reference: str = OURS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the arms, the best first, and how far each is from the reference, paired by seed.

    Args:
        table: rows of one host, track and share.
        metric: "validation" or "test".
        reference: the arm that the others are measured against.

    Returns:
        ``groups`` and ``differences``, as :class:`ghostkit.comparing.Comparison` has them.

    Raises:
        GhostkitError: if the rows are of several hosts, tracks or shares, or the reference is not among them.
    """
    for name in ("host", "track", "share"):
        if table[name].nunique() > 1:
            raise GhostkitError(f"compare_arms: the rows have several values of {name!r}, {sorted(set(table[name]))}")
    if reference not in set(table["arm"]):
        known = ", ".join(map(repr, sorted(set(table["arm"]))))
        raise GhostkitError(f"compare_arms: no row of the arm {reference!r}; known are {known}")
    rows = table.rename(columns={"arm": "group", "events": "growth_events"}).assign(progress=1.0)
    rows = rows.reindex(columns=[*rows.columns, *(name for name in MEASURED if name not in rows)])
    groups = ranked(rows, metric, ())
    return groups, differences_to(rows, metric, groups, reference)


def arm_curves(table: pd.DataFrame, metric: str = "validation") -> dict[str, list[pd.DataFrame]]:
    """Return what each arm reached at each compute, a frame for every seed, the best arm at the largest compute first.

    The frames are such as :func:`ghostkit.views.compute_accuracy` draws; each point of one is a run of its own.
    """
    table = table[table[metric].notna()]
    last = table[table["share"] == table["share"].max()]
    order = last.groupby("arm")[metric].mean().sort_values(ascending=False, kind="stable").index
    curves = {}
    for arm in order:
        rows = table[table["arm"] == arm].sort_values("share")
        frames = (
            seed.assign(split=metric, progress=seed["share"], accuracy=seed[metric]) for _, seed in rows.groupby("seed")
        )
        curves[str(arm)] = [frame.reset_index(drop=True) for frame in frames]
    return curves


def declared_points(table: pd.DataFrame, metric: str = "validation", first_seed: int = 0) -> pd.DataFrame:
    """Return what the study set out to show, declared before it ran, with its figures, and whether it is reached.

    Args:
        table: one learning rate an arm, see :func:`best_rates`.
        metric: what is reported: "validation", or "test" of the confirming runs.
        first_seed: runs of earlier seeds only choose the best of the static sizes, on the validation images.
    """
    best = {share: _best_static(table[(table["host"] == "seedling") & (table["share"] == share)]) for share in SHARES}
    fresh = table[table["seed"] >= first_seed]
    fresh = fresh[fresh[metric].notna()] if metric in fresh else fresh  # others were never asked for it
    seedling, plain = (fresh[fresh["host"] == host] for host in ("seedling", "plain"))
    rows = [*_against_static(seedling, best, metric), *_against_growers(seedling, plain, metric), _event_time(plain)]
    return pd.DataFrame(rows, columns=["point", "wanted", "measured", "verdict"])


def _row(point: str, wanted: str, measured: str, reached: bool | None) -> dict[str, str]:
    """Return one row of the table of points."""
    verdict = "not measured yet" if reached is None else "reached" if reached else "missed"
    return {"point": point, "wanted": wanted, "measured": measured or "–", "verdict": verdict}


def _best_static(table: pd.DataFrame) -> tuple[str | None, int]:
    """Return the static size that is best on the validation images, and of how many."""
    static = table[table["arm"].str.startswith(STATIC)]
    means = static.groupby("arm")["validation"].mean()
    return None if means.empty else str(means.idxmax()), len(means)


def lead_over(table: pd.DataFrame, other: str | None, metric: str) -> dict[str, Any] | None:
    """Return how far ghostkit's arm is above another one, or None where one of them has no run."""
    arms = set(table["arm"])
    if other not in arms or OURS not in arms or metric not in table or table[metric].isna().all():
        return None
    _, apart = compare_arms(table[table["arm"].isin((OURS, other))], metric, str(other))
    return dict(apart.iloc[0])


def _verdict(apart: dict[str, Any] | None, reached: Callable[[dict[str, Any]], bool]) -> bool | None:
    """Return whether a difference is what was wanted; None where too few seeds say so."""
    return None if apart is None or apart["n"] < ENOUGH else bool(reached(apart))


def _worded(apart: dict[str, Any] | None, other: str | None) -> str:
    """Return a difference in points, with its interval where there is one."""
    if apart is None:
        return ""
    interval = "" if pd.isna(apart["low"]) else f" [{100 * apart['low']:+.2f}, {100 * apart['high']:+.2f}]"
    seeds = f"{apart['n']} of {PLANNED} seeds"
    pairing = ", not paired" if apart["method"] == "Welch's t" else ""
    return f"{100 * apart['difference']:+.2f} points{interval} to {other}, {seeds}{pairing}"


def _against_static(
    table: pd.DataFrame, best: dict[float, tuple[str | None, int]], metric: str
) -> Iterator[dict[str, str]]:
    """Yield the points about static sizes: the best of them, at each compute, and the compute to reach the largest."""
    for share, name in reversed(SHARES.items()):
        size, count = best[share]
        apart = lead_over(table[table["share"] == share], size, metric)
        told = _worded(apart, f"{size}, the best of {count} sizes")
        asked = apart if count >= SIZES else None
        if share == 1:
            reached = _verdict(asked, lambda apart: apart["difference"] >= 0)
            yield _row("1 auto-sizing at F", "at least the best of five sizes", told, reached)
        reached = _verdict(asked, lambda apart: apart["difference"] >= -POINT)
        yield _row(f"2 anytime, {name}", "within 0.1 points of the best of five sizes", told, reached)
    full = table[table["share"] == 1]
    static = full[full["arm"].str.startswith(STATIC)]
    targets = {
        "the largest static size": static[static["macs"] == static["macs"].max()],
        SCRATCH: full[full["arm"] == SCRATCH],
    }
    for name, target in targets.items():
        needed = _compute_to(table[table["arm"] == OURS], target, metric)
        told, reached = "", None
        if needed is not None:
            share, clock = needed
            told = f"{share:.2f} F, {clock:.2f} of its seconds" if share <= 1 else "more than F"
            reached = share <= 0.5
        yield _row(f"3 compute to the accuracy of {name}", "at most 0.5 F", told, reached)


def _compute_to(ours: pd.DataFrame, target: pd.DataFrame, metric: str) -> tuple[float, float] | None:
    """Return the share of F, and of the target's seconds, at which ours has the target's accuracy at F.

    Means over the seeds that both have, linear over the logarithm of the compute between the shares that were run; the
    least share where that one will do, and infinity if not even F will. None where too few seeds say so.
    """
    seeds = set(ours["seed"]) & set(target["seed"])
    if len(seeds) < ENOUGH or metric not in ours:
        return None
    wanted, seconds = target.loc[target["seed"].isin(seeds), [metric, "seconds"]].mean()
    means = ours[ours["seed"].isin(seeds)].groupby("share")[[metric, "seconds"]].mean().dropna().sort_index()
    if means.empty or math.isnan(wanted):
        return None
    enough = means[means[metric] >= wanted]
    if enough.empty:
        return math.inf, math.inf
    share, last = float(enough.index[0]), enough.iloc[0]
    before = means[means.index < share]
    if before.empty:
        return share, float(last["seconds"] / seconds)
    first = before.iloc[-1]
    rise = float((wanted - first[metric]) / (last[metric] - first[metric]))
    clock = first["seconds"] * (last["seconds"] / first["seconds"]) ** rise
    return float(before.index[-1] * (share / before.index[-1]) ** rise), float(clock / seconds)


def _against_growers(seedling: pd.DataFrame, plain: pd.DataFrame, metric: str) -> Iterator[dict[str, str]]:
    """Yield the points about other ways of growing: the baselines on the seedling, gromo's on the plain host."""
    for host, arms in ((seedling, BASELINES), (plain, GROMOS)):
        for other in arms:
            for share in (1.0, 0.5):
                apart = lead_over(host[host["share"] == share], other, metric)
                point = f"4 above {other}, {SHARES[share]}"
                yield _row(
                    point,
                    "95 % interval above 0",
                    _worded(apart, other),
                    _verdict(apart, lambda apart: apart["low"] > 0),
                )


def _event_time(plain: pd.DataFrame) -> dict[str, str]:
    """Return the point about the seconds of an event: ratios within a seed, whose runs were made side by side."""
    point, wanted = "5 seconds of an event", "at most 0.25 of gromo's"
    timed = plain[plain["event_seconds"] > 0] if "event_seconds" in plain else plain[:0].assign(event_seconds=0.0)
    seconds = timed.pivot_table(index=["seed", "share"], columns="arm", values="event_seconds")
    gromos = [arm for arm in GROMOS if arm in seconds]
    if OURS not in seconds or not gromos:
        return _row(point, wanted, "", None)
    ratios = (seconds[OURS] / seconds[gromos].min(axis=1)).dropna()
    if ratios.index.get_level_values("seed").nunique() < ENOUGH:
        return _row(point, wanted, "", None)
    ratio = float(ratios.median())
    return _row(point, wanted, f"{ratio:.2f} of {' or '.join(gromos)}, the fastest", ratio <= 0.25)
