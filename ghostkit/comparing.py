"""Runs against each other: which reached more, and whether that can be told from chance.

Runs that are equal in everything but their seed are one group; what was done in a run by hand is a part of what it is.
A comparison is plain data: a row a run, a row a group (ranked), a row a difference to the group that is the reference.
Numbers that were measured on different things are never ranked together: `compare` refuses them, and `alike` sorts them
apart before. Nothing here draws or trains.

A run that is not over is listed with what it has reached, and counts in no mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ghostkit.differences import DIFFERENCE_COLUMNS, difference, holm, mean_interval
from ghostkit.errors import GhostkitError
from ghostkit.metrics import metric_of
from ghostkit.run_folder import INERT, images_noted
from ghostkit.runs import Run

__all__ = ["MEASURED", "Comparison", "UnknownGroupError", "alike", "compare", "differences_to", "ranked"]

# What a run may take from a partner of the same seed: the compute that it spent, its shape, the weights it ended with.
FOLLOWING = ("compute", "shape", "weights")
SAME_COMPUTE = 1.25  # budgets of one group lie within this factor; others are budgets that somebody varied
UNEQUAL_COMPUTE = 1.05  # above this factor a ranking is not one at equal compute, and says so
COLUMNS = {"compute": "compute_limit"}  # parameters whose name is that of something measured
MEASURED = ("params", "macs", "milliseconds", "compute", "seconds", "growth_events")


class UnknownGroupError(GhostkitError):
    """No group of runs has the name of the reference; in another comparison, one may have it."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, compared.

    Args:
        metric: what they are judged by: "accuracy", "map50" or "miou", 0 to 1, more is better.
        parameters: the names of the parameters in which the groups differ; columns of both tables. ``by_hand`` is one
            where somebody steered a run, grew it or took growth back.
        table: one row a run: ``run``, ``group``, ``seed``, the parameters, the metric, ``params``, ``macs`` (per
            image), ``milliseconds``, ``compute`` (training MACs), ``seconds``, ``growth_events``, ``progress`` (1 for
            a run that is over), ``folder``.
        groups: one row a group, the best first: ``rank``, ``group``, the parameters, ``n`` (seeds that are over),
            ``mean``, ``sd`` (of the sample), ``low`` and ``high`` (95 %, t, cut at 0 and 1), means of what it took,
            ``unfinished``.
        differences: one row a group but the reference: ``difference``, its 95 % interval ``low`` to ``high``,
            ``method``, ``n`` (pairs, or runs of the smaller group), ``p``, ``p_holm``, ``p_wilcoxon``, ``won``.
        reference: the group that the others are measured against; None where there is nothing to measure.
        runs: group -> its runs.
        notes: what a reader of the numbers must know.
    """

    metric: str
    parameters: list[str]
    table: pd.DataFrame
    groups: pd.DataFrame
    differences: pd.DataFrame
    reference: str | None
    runs: dict[str, list[Run]]
    notes: list[str]

    @property
    def split(self) -> str:
        """Which images the runs were judged on: "test", or "validation" where some were held out."""
        held_out = any(run.config.validation_samples is not None for runs in self.runs.values() for run in runs)
        return "validation" if held_out else "test"

    def finished(self) -> dict[str, list[Run]]:
        """Return the runs that are over, by group, the best group first; a group without any has those under way."""
        over = {group: [run for run in runs if run.result] for group, runs in self.runs.items()}
        return {group: over[group] or self.runs[group] for group in self.groups["group"]}


def alike(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs by what they were judged on: the task, the data, and how much of it.

    An accuracy on one test split says nothing about one on another, so each of these is a comparison of its own; where
    images came or went between two runs, so are these.
    """
    kinds: dict[str, list[tuple[str, Run]]] = {}
    for run in runs:
        config = run.config
        some = "" if config.test_samples is None else f", the first {config.test_samples} test images"
        if config.validation_samples is not None:
            some = f", {config.validation_samples} images held out of the training images"
        noted = images_noted(run.folder)
        images = noted.get("validation", noted.get("test", ""))
        kinds.setdefault(f"{config.task} of {config.data}{some}", []).append((images, run))
    parts: dict[str, list[Run]] = {}
    for kind, members in kinds.items():
        changed = len({images for images, _ in members if images}) > 1
        for images, run in members:
            parts.setdefault(f"{kind}, {images or 'nobody noted which'}" if changed else kind, []).append(run)
    return parts


def compare(runs: Sequence[Run], reference: str | None = None) -> Comparison:
    """Compare groups of runs that were judged on the same.

    Args:
        runs: any number, in any state; see :func:`ghostkit.runs.find_runs`.
        reference: the group that all others are measured against, by its name or by that of a run in it; the best one
            when None.

    Raises:
        GhostkitError: if there is no run, or if they were not judged on the same.
        UnknownGroupError: if no group is called ``reference``.

    >>> compare(find_runs("runs")).groups[["group", "n", "mean", "sd"]]
    """
    if not runs:
        raise GhostkitError("no runs to compare; expected one at least")
    parts = alike(runs)
    if len(parts) > 1:
        counted = "; ".join(f"{what} ({len(some)} runs)" for what, some in parts.items())
        raise GhostkitError(
            f"runs that were judged on different things cannot be ranked together: {counted}. "
            "Give those of one, or compare each part of ghostkit.comparing.alike(runs)"
        )
    configs = [{**run.config.model_dump(mode="json"), "by_hand": _by_hand(run)} for run in runs]
    members = _groups(configs)
    labels, parameters = _named(members, configs, runs)
    rows = [_row(run) for run in runs]
    metric = metric_of(name for row in rows for name, value in row.items() if value is not None)
    names = _run_names(runs)
    for label, indices in zip(labels, members, strict=True):
        for index in indices:
            told = {COLUMNS.get(name, name): _plain(configs[index][name]) for name in parameters}
            rows[index] = {
                "run": names[index],
                "group": label,
                "seed": configs[index]["seed"],
                **told,
                **rows[index],
                "folder": str(runs[index].folder),
            }
    parameters = [COLUMNS.get(name, name) for name in parameters]
    columns = ["run", "group", "seed", *parameters, metric, *MEASURED, "progress", "folder"]
    table = pd.DataFrame(rows, columns=columns)
    groups = ranked(table, metric, parameters)
    known = {label: [runs[index] for index in indices] for label, indices in zip(labels, members, strict=True)}
    chosen = _reference(reference, groups, known)
    differences = differences_to(table, metric, groups, chosen)
    notes = _notes(table, groups, chosen)
    if reference is None and len(differences) > 1:
        notes.append(
            f"{chosen} was made the reference because it came out best, which flatters it; name one beforehand"
        )
    return Comparison(metric, parameters, table, groups, differences, chosen, known, notes)


# One row a run


def _row(run: Run) -> dict[str, Any]:
    """Return what a run has reached, and what it took."""
    result = run.result
    if result:
        metric = metric_of(result)
        return {metric: result[metric], **{name: result.get(name) for name in MEASURED}, "progress": 1.0}
    metrics = run.metrics
    metric = metric_of(metrics)
    tested = metrics[metrics["split"] != "train"]
    if tested.empty:
        return {metric: None, **dict.fromkeys(MEASURED), "progress": 0.0}
    last = tested.iloc[-1]
    grown = int(run.events["edits"].astype(str).ne("").sum())
    reached = {name: last[name] for name in ("params", "macs", "compute", "seconds", "progress")}
    return {metric: last[metric], "milliseconds": None, "growth_events": grown, **reached}


def _by_hand(run: Run) -> str:
    """Return what a person did in a run, which its configuration does not know; "no" where nobody did anything."""
    if not (run.folder / "history.jsonl").exists():
        return "no"
    done = [event for event in run.history.events if event.by_hand]
    words = [" ".join([event.reason, *map(str, event.edits)]) + f" at {event.progress:.1%}" for event in done]
    return "; ".join(words) or "no"


def _run_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs' folders, with as much of the path as tells them apart."""
    names = [run.folder.name for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = [run.folder.resolve() for run in runs]
    above = os.path.commonpath(folders)
    return [folder.relative_to(above).as_posix() for folder in folders]


def _plain(value: Any) -> Any:
    """Return a parameter's value as a table holds it: a list as one text, a mapping as JSON."""
    if isinstance(value, list):
        return "+".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value


# Groups and their names


def _groups(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return which configurations are equal in everything but the seed, and in what follows the seed."""
    alike_but: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        key = {name: value for name, value in config.items() if name not in ("seed", *INERT, *FOLLOWING)}
        alike_but.setdefault(json.dumps(key), []).append(index)
    groups = []
    for indices in alike_but.values():
        if all(_follows(name, [(configs[i]["seed"], configs[i][name]) for i in indices]) for name in FOLLOWING):
            groups.append(indices)
            continue
        apart: dict[str, list[int]] = {}
        for index in indices:
            apart.setdefault(json.dumps([configs[index][name] for name in FOLLOWING]), []).append(index)
        groups.extend(apart.values())
    return groups


def _follows(name: str, pairs: Sequence[tuple[int, Any]]) -> bool:
    """Return whether a parameter is the same for all seeds, or is one of its own for each."""
    values = {value for _, value in pairs}
    if len(values) == 1:
        return True
    if None in values or len(set(pairs)) != len({seed for seed, _ in pairs}):
        return False
    return name != "compute" or max(values) <= SAME_COMPUTE * min(values)


def _named(
    members: Sequence[Sequence[int]], configs: Sequence[Mapping[str, Any]], runs: Sequence[Run]
) -> tuple[list[str], list[str]]:
    """Return a name for every group, and the parameters in which groups differ.

    Runs are usually called NAME-SEED, so a group is called NAME as its maker did, with the parameters that tell it from
    others of that name. Where names tell nothing, the parameters alone do.
    """

    def told(index: int, name: str) -> str:
        return json.dumps(configs[index][name])

    constant = {  # a value that follows the seed says nothing about its group
        name for name in configs[0] if all(len({told(i, name) for i in indices}) == 1 for indices in members)
    }
    parameters = [
        name
        for name in configs[0]
        if name in constant - {"seed"} and len({told(group[0], name) for group in members}) > 1
    ]
    stems = [{re.sub(rf"[-_]{configs[i]['seed']}$", "", runs[i].folder.name) for i in indices} for indices in members]
    names = ["".join(found) if len(found) == 1 else "" for found in stems]
    if "" in names:
        names = [""] * len(members)
    labels = []
    for name, group in zip(names, members, strict=True):
        kin = [other[0] for other, its_name in zip(members, names, strict=True) if its_name == name]
        differing = [parameter for parameter in parameters if len({told(i, parameter) for i in kin}) > 1]
        words = [f"{parameter}={_plain(configs[group[0]][parameter])}" for parameter in differing]
        shown = [name] if name and (len(set(names)) > 1 or len(members) == 1) else []
        labels.append(", ".join([*shown, *words]) or "all runs")
    if len(set(labels)) < len(labels):  # told apart by what follows the seed in some groups only
        labels = [f"{label} ({number})" for number, label in enumerate(labels, start=1)]
    return labels, parameters


# One row a group


def _by_seed(table: pd.DataFrame, metric: str, group: str) -> pd.Series:
    """Return one value a seed, of the runs that are over; runs of one seed are one by their mean, not several."""
    over = table[(table["group"] == group) & (table["progress"] == 1)]
    return over.groupby("seed")[metric].mean().astype(float)


def ranked(table: pd.DataFrame, metric: str, parameters: Sequence[str]) -> pd.DataFrame:
    """Return one row a group, the best mean first: ``groups`` of a :class:`Comparison`.

    Args:
        table: one row a run, as in a :class:`Comparison`; ``parameters`` and ``MEASURED`` are among its columns.
        metric: the column that the groups are ranked by, 0 to 1.
        parameters: columns that are the same for all runs of a group.
    """
    rows = []
    for group, runs in table.groupby("group", sort=False):
        over = runs[runs["progress"] == 1]
        values = _by_seed(table, metric, str(group))
        mean, sd, low, high = mean_interval(values.to_numpy())  # a share is no less than 0 and no more than 1
        rows.append(
            {
                "group": group,
                **{name: runs[name].iloc[0] for name in parameters},
                "n": len(values),
                **{"mean": mean, "sd": sd, "low": np.maximum(low, 0), "high": np.minimum(high, 1)},
                **{name: over[name].astype(float).mean() for name in MEASURED},
                "unfinished": len(runs) - len(over),
            }
        )
    frame = pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    frame.insert(0, "rank", frame["mean"].rank(ascending=False, method="min").astype("Int64"))
    return frame


def _reference(asked: str | None, groups: pd.DataFrame, runs: Mapping[str, Sequence[Run]]) -> str | None:
    """Return the group that the others are measured against."""
    if asked is None:
        return str(groups["group"].iloc[0]) if groups["n"].iloc[0] else None
    if asked in runs:
        return asked
    place = Path(asked).resolve()
    holding = [group for group, some in runs.items() for run in some if run.folder.resolve() == place]
    named = [group for group, some in runs.items() if any(run.folder.name == asked for run in some)]
    for found in (holding, named):
        if len(found) == 1:
            return found[0]
    listed = ", ".join(map(repr, runs))
    raise UnknownGroupError(f"no one group is called {asked!r}, nor has a run of that name; known are {listed}")


def differences_to(table: pd.DataFrame, metric: str, groups: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """Return how far every group is from the reference, in the order of their ranks: ``differences`` likewise."""
    rows: list[dict[str, Any]] = []
    if reference is not None:
        base = _by_seed(table, metric, reference)
        for group in groups["group"]:
            if group != reference:
                row = difference(_by_seed(table, metric, group).to_dict(), base.to_dict())
                rows.append({"group": group, "reference": reference, **row})
    frame = pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)
    return frame.assign(p_holm=holm(frame["p"].to_numpy(dtype=float)))


def _notes(table: pd.DataFrame, groups: pd.DataFrame, reference: str | None) -> list[str]:
    """Return what the numbers alone do not say."""
    notes = [
        f"{run.run} is not over ({run.progress:.0%} done); it counts in no mean"
        for run in table[table["progress"] < 1].itertuples()
    ]
    single = list(groups.loc[groups["n"] == 1, "group"])
    if single:
        named = "; ".join(single[:3]) + (f"; and {len(single) - 3} more groups" if len(single) > 3 else "")
        notes.append(f"one seed only, so no spread and no interval: {named}")
    over = table[table["progress"] == 1]
    repeated = over[over.duplicated(["group", "seed"])]
    if len(repeated):
        notes.append(f"{len(repeated)} runs repeat a seed of their group; runs of one seed count once, by their mean")
    spent = groups["compute"].dropna()
    if len(spent) > 1 and spent.min() > 0 and spent.max() > UNEQUAL_COMPUTE * spent.min():
        ratio = spent.max() / spent.min()
        notes.append(
            f"the groups spent up to {ratio:.2f} times as much compute as each other; the ranks do not allow for it"
        )
    if reference is not None and not groups.loc[groups["group"] == reference, "n"].iloc[0]:
        notes.append(f"no run of the reference {reference} is over, so nothing can be measured against it")
    return notes
