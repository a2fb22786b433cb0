"""Writes the tables of docs/study.md from the runs that are in the study.

    python -m benchmarks.study.tables [--of docs/study.md] [--study docs/study.parquet]

In the repository's folder. A line such as `<!-- confirming plain 100 to 110 -->` says which table follows it: the kind,
the host, and the first and the last seed that count; without `to`, all from the first on do. Of an arm with runs at
several learning rates, confirming runs are those at its best.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.study.arms import ABLATIONS
from ghostkit.studies import ENOUGH, OURS, OWN, SHARES, best_rates, declared_points, lead_over, read_study

__all__ = ["written"]

SAID = r"<!-- (?P<kind>\w+) (?P<host>\w+) (?P<first>\d+)(?: to (?P<last>\d+))? -->"
PLACE = re.compile(rf"(?P<place>{SAID}\n\n)(?:\|[^\n]*\n)*")
NOTHING = "–"


def written(text: str, runs: pd.DataFrame) -> str:
    """Return ``text`` with every table in it made anew.

    Args:
        text: Markdown, with the lines that say where tables are.
        runs: a study, see :func:`ghostkit.studies.read_study`.
    """

    def table(place: re.Match[str]) -> str:
        counted = runs[(runs["host"] == place["host"]) & (runs["seed"] <= int(place["last"] or runs["seed"].max()))]
        apart = "" if text[place.end() :][:1] in ("", "\n") else "\n"  # from what follows, where there was no table yet
        return f"{place['place']}{TABLES[place['kind']](counted, int(place['first']))}\n{apart}"

    return PLACE.sub(table, text)


def confirming(runs: pd.DataFrame, first: int) -> str:
    """Return the test accuracies on 60,000 images at each compute, and how far ghostkit is above each arm."""
    rows = best_rates(runs[(runs["track"] == "60k") & runs["test"].notna() & (runs["seed"] >= first)])
    shares = [share for share in sorted(SHARES) if share in set(rows["share"])]
    order = rows.groupby(["arm", "share"])["test"].mean().unstack().sort_index(axis=1, ascending=False)
    ranked = order.sort_values(list(order), ascending=False, kind="stable").index
    columns = [*(SHARES[share] for share in shares), *(f"to it, {SHARES[share]}" for share in shares)]
    lines = []
    for arm in ranked:
        own = rows[rows["arm"] == arm]
        at = [own[own["share"] == share] for share in shares]
        reached = [NOTHING if some.empty else f"{_percent(some['test'].mean())} ({len(some)})" for some in at]
        apart = ["" if arm == OURS else _above(rows[rows["share"] == share], arm) for share in shares]
        largest = own[own["share"] == own["share"].max()]
        lines.append([_bold(arm), *reached, *apart, _size(largest), f"{largest['params'].mean():,.0f}"])
    return _markdown([HOSTS[runs["host"].iloc[0]], *columns, "MMAC", "parameters"], lines)


def screening(runs: pd.DataFrame, first: int) -> str:
    """Return the validation accuracies on 10,000 images at each learning rate, and what the best one took."""
    rows = runs[(runs["track"] == "10k") & (runs["share"] == 1) & (runs["seed"] >= first)]
    rates = sorted(rows["learning_rate"].unique())
    several = rows.groupby("arm")["learning_rate"].nunique() > 1
    rows = rows[rows["arm"].isin(several[several].index)]
    means = rows.groupby(["arm", "learning_rate"])["validation"].agg(["mean", "count"])
    best = best_rates(rows)
    lines = []
    for arm in best.groupby("arm")["validation"].mean().sort_values(ascending=False, kind="stable").index:
        own = best[best["arm"] == arm]
        at = [_accuracy(means, arm, rate, rate == own["learning_rate"].iloc[0]) for rate in rates]
        lines.append([_bold(arm), *at, *_cost(own)])
    return _markdown([HOSTS[runs["host"].iloc[0]], *(f"{rate:g}" for rate in rates), *COSTS], lines)


def ablations(runs: pd.DataFrame, first: int) -> str:
    """Return the validation accuracies of ghostkit and its ablations on 10,000 images, and how far it is above each."""
    rows = runs[(runs["track"] == "10k") & (runs["share"] == 1) & (runs["seed"] >= first)]
    rows = rows[(rows["learning_rate"] == 0.1) & rows["arm"].isin((OURS, *ABLATIONS))]
    lines = []
    for arm in rows.groupby("arm")["validation"].mean().sort_values(ascending=False, kind="stable").index:
        own = rows[rows["arm"] == arm]
        reached = f"{_percent(own['validation'].mean())} ({len(own)})"
        apart = "" if arm == OURS else _above(rows, arm, "validation")
        lines.append([_bold(arm), reached, apart, *_cost(own), f"{own['output_change'].max():.0e}"])
    return _markdown([HOSTS[runs["host"].iloc[0]], "accuracy", "to it", *COSTS, "largest change of an output"], lines)


def points(runs: pd.DataFrame, first: int) -> str:
    """Return what the study set out to show on this host, and what of it is reached."""
    asked = runs[(runs["track"] == "60k") & runs["test"].notna()]
    fresh = best_rates(asked[asked["seed"] >= first])
    table = declared_points(pd.concat([asked[asked["seed"] < first], fresh]), "test", first)
    told = table[table["measured"] != NOTHING]
    return _markdown(list(told), told.astype(str).to_numpy().tolist())


TABLES: dict[str, Callable[[pd.DataFrame, int], str]] = {
    table.__name__: table for table in (confirming, screening, ablations, points)
}
HOSTS = {"seedling": "seedling", "plain": "plain host"}
COSTS = ("loss", "MMAC", "parameters", "steps", "seconds")


def _above(rows: pd.DataFrame, arm: str, metric: str = "test") -> str:
    """Return how many points ghostkit is above ``arm``, with the 95 % interval, where enough seeds are in both."""
    apart = lead_over(rows, arm, metric)
    if apart is None or apart["n"] < ENOUGH or apart["method"] == "Welch's t":
        return NOTHING
    return f"{100 * apart['difference']:+.2f} [{100 * apart['low']:+.2f}, {100 * apart['high']:+.2f}]"


def _accuracy(means: pd.DataFrame, arm: str, rate: float, best: bool) -> str:
    """Return an arm's mean at one learning rate, the best one in bold, with the number of its seeds where too few."""
    if (arm, rate) not in means.index:
        return NOTHING
    mean, count = means.loc[(arm, rate)]
    told = f"**{_percent(mean)}**" if best else _percent(mean)
    return told if count >= ENOUGH else f"{told} ({count:.0f})"


def _cost(own: pd.DataFrame) -> list[str]:
    """Return what ``COSTS`` names, in the mean over seeds."""
    return [
        f"{own['loss'].mean():.3f}",
        _size(own),
        f"{own['params'].mean():,.0f}",
        f"{own['steps'].mean():,.0f}",
        f"{own['seconds'].mean():.0f}",
    ]


def _size(own: pd.DataFrame) -> str:
    """Return the size of an image's pass, in millions of MACs."""
    return f"{own['macs'].mean() / 1e6:.2f}"


def _percent(accuracy: float) -> str:
    """Return an accuracy as per cent, without the sign."""
    return f"{100 * accuracy:.2f}"


def _bold(arm: str) -> str:
    """Return the name of an arm as the first column has it."""
    return f"**{arm}**" if arm == OURS else arm


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", type=Path, default=OWN.with_name("study.md"), help="the page to write them into")
    parser.add_argument("--study", type=Path, default=OWN, help="a table, or the folder of a sweep")
    arguments = parser.parse_args()
    before = arguments.of.read_text(encoding="utf-8")
    after = written(before, read_study(arguments.study))
    arguments.of.write_text(after, encoding="utf-8")
    print(f"{arguments.of}: {'as it was' if after == before else 'its tables are new'}")
