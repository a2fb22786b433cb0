"""Do the scores rank what growth then really brings?

    python benchmarks/score_correlation.py [--quick] [--rows rows.csv] [--csv table.csv] [--variants]

Hosts are trained to several moments; there, larger edits than usual are scored by every score on one probe batch, and
each is then grown for real. Its *realised gain* is the loss on held-out images without it, less the loss with it, after
further steps on the same batches in the same order, averaged over orders.

*Noise floor*: ungrown twins that differ by a jitter of a thousandth of their weights are treated as if they were grown;
a candidate stands above the floor when its gain exceeds twice the standard deviation of theirs. *Reliability*: how well
the gains under one half of the orders rank those under the other, which bounds what any score can reach.

Every row is written as soon as it is measured; a run that was cut off goes on where it stopped (``--rows``).
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from realised_gain import HOSTS, Images, annealed, baseline, final_loss, larger_edits, load, loss, moments
from scipy.stats import rankdata
from score_variants import JOINT, VARIANTS, derived, gram_of_all
from torch import Tensor, nn

from ghostkit.costs import LatencyTable
from ghostkit.growth import scoring
from ghostkit.growth.candidates import scratch_copy
from ghostkit.growth.edits import Edit, take_down
from ghostkit.growth.ledger import Ledger
from ghostkit.growth.sites import sites

SCORE_NAMES = ("fisher", "raw", "scaled", "residual", "whitened")
CONTROLS = ("macs", "random")
NAMES = ("host", "moment", "number", "edit", "kind", "init")  # of a row; its scores and then its gains follow
GAIN = "gain "  # and the number of the order of batches
TWIN = "twin"  # the kind of a row that grew nothing
RESAMPLES = 2000
ENOUGH = 6  # candidates that a group needs to be ranked


# -- measuring ---------------------------------------------------------------------------------------------------------


def scored(model: nn.Module, edits: Sequence[Edit], images: Images) -> list[dict[str, float]]:
    """Return all scores, and the cost, of each of ``edits``."""
    functions = {name: scoring.SCORES[name] for name in SCORE_NAMES} | VARIANTS

    def every(part: scoring.Part, news: scoring.Part, gradients: Tensor) -> np.ndarray:
        values = [function(part, news, gradients) for function in functions.values()]
        return np.concatenate([values, (gradients @ gradients.mT).double().flatten().numpy()])

    # One pass for all scores: what adds up over the parts of a candidate may be a vector, and its Gram matrix, as well.
    scoring.SCORES["all"] = every
    original = scratch_copy(model)
    known = sites(original)
    ledger = Ledger(original, images.probe[0][:1], LatencyTable(batch=1))
    there = gram_of_all(original, *images.probe, loss)
    rows: list[dict[str, float]] = [{} for _ in edits]
    # Edits that write into the same row of blocks are scored one after the other, all else together.
    taken: Counter[str] = Counter()
    turns = []
    for edit in edits:
        turns.append(taken[edit.site] if edit.kind == "block" else 0)
        taken[edit.site] += edit.kind == "block"
    for turn in range(max(turns) + 1):
        here = [number for number in range(len(edits)) if turns[number] == turn]
        generator = torch.Generator().manual_seed(0)
        attached = [edits[number] for number in here]
        found, _ = scoring.score_attached(original, known, attached, *images.probe, loss, "all", generator)
        for place, number in enumerate(here):
            added = ledger.added(take_down(edits[number], original, known, generator))
            nothing = np.zeros(len(functions) + there.numel())
            values = found[place].gain if place in found else nothing
            gram = torch.from_numpy(values[len(functions) :]).view_as(there)
            rows[number] = {
                "macs": added.macs,
                "params": added.params,
                "numbers": found[place].numbers if place in found else 0,
                **dict(zip(functions, map(float, values), strict=False)),
                **{name: function(there, gram) for name, function in JOINT.items()},
            }
    return rows


class Rows:
    """The measured rows, in a file that grows by one line at a time.

    Args:
        path: of the file, which may hold the rows of an earlier sitting; None keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, object]] = []
        if path is not None and path.exists():
            self.rows = pd.read_csv(path).to_dict("records")
        self.known = {self.key(row): row for row in self.rows}

    @staticmethod
    def key(row: dict[str, object]) -> tuple[object, ...]:
        """Return what tells a row from all others."""
        return row["host"], row["moment"], row["number"]

    def add(self, row: dict[str, object]) -> None:
        """Keep ``row``, and write it."""
        self.rows.append(row)
        self.known[self.key(row)] = row
        if self.path is not None:
            fresh = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)

    def rescore(self, key: tuple[object, ...], edit: Edit, values: dict[str, float]) -> None:
        """Give a known row new scores; its gains stay as they were measured."""
        row = self.known[key]
        if row["edit"] != str(edit):
            raise SystemExit(f"{self.path}: {row['edit']} was measured as number {key[-1]}, which is now {edit}")
        gains = {name: value for name, value in row.items() if name.startswith(GAIN)}
        names = {name: row[name] for name in NAMES}
        row.clear()
        row.update({**names, **values, **gains})

    def rewrite(self) -> None:
        """Write all rows anew, with the columns of the first."""
        if self.path is not None and self.rows:
            pd.DataFrame(self.rows).reindex(columns=list(self.rows[0])).to_csv(self.path, index=False)


def chosen(edits: list[Edit], count: int, generator: torch.Generator) -> list[Edit]:
    """Return ``count`` of ``edits``, of each kind as large a share as the larger kinds leave."""
    order = torch.randperm(len(edits), generator=generator).tolist()
    kinds: dict[str, list[int]] = {}
    for number in order:
        kinds.setdefault(edits[number].kind, []).append(number)
    picked: list[int] = []
    while len(picked) < min(count, len(edits)):
        for numbers in kinds.values():
            if numbers and len(picked) < count:
                picked.append(numbers.pop())
    return [edits[number] for number in sorted(picked)]


def measure(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return one row for every candidate and twin."""
    images = load(arguments.data, arguments.size, arguments.train, arguments.probe, arguments.held_out)
    rows, rates = Rows(arguments.rows), annealed(arguments.horizon, arguments.rate)
    started = time.perf_counter()
    for host in arguments.hosts:
        number = list(HOSTS).index(host)
        for moment, model, optimizer in moments(host, images, arguments.moments, seed=number):
            generator = torch.Generator().manual_seed(number)
            edits = chosen(larger_edits(model, images, generator), arguments.candidates, generator)
            wanted = [(host, moment, place) for place in range(-arguments.twins, len(edits))]
            known = all(key in rows.known for key in wanted)
            if known and not arguments.rescore:
                continue
            twins = np.zeros((arguments.orders, arguments.twins))
            if not known:
                twins = baseline(model, optimizer, images, rates, arguments.orders, arguments.twins)
            blank: dict[str, object] = {}
            for place, (edit, values) in enumerate(zip(edits, scored(model, edits, images), strict=True)):
                blank = blank or dict.fromkeys(values, np.nan)
                if (host, moment, place) in rows.known:
                    if arguments.rescore:
                        rows.rescore((host, moment, place), edit, values)
                    continue
                finals = [final_loss(model, optimizer, images, rates, order, edit) for order in range(arguments.orders)]
                gains = twins.mean(1) - finals
                rows.add(
                    {
                        "host": host,
                        "moment": moment,
                        "number": place,
                        "edit": str(edit),
                        "kind": edit.kind,
                        "init": getattr(edit, "init", "zero"),
                        **values,
                        **{f"{GAIN}{order}": gain for order, gain in enumerate(gains)},
                    }
                )
            for twin in range(arguments.twins):
                if (host, moment, twin - arguments.twins) in rows.known:
                    continue
                gains = np.delete(twins, twin, axis=1).mean(1) - twins[:, twin]
                row: dict[str, object] = {"host": host, "moment": moment, "number": twin - arguments.twins}
                row |= {"edit": "nothing", "kind": TWIN, "init": "", **blank}
                rows.add(row | {f"{GAIN}{order}": gain for order, gain in enumerate(gains)})
            minutes = (time.perf_counter() - started) / 60
            print(f"{host} after {moment} steps: {len(edits)} candidates, {minutes:.1f} min", flush=True)
    if arguments.rescore:
        rows.rewrite()
    return pd.DataFrame(rows.rows)


# -- judging -----------------------------------------------------------------------------------------------------------


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation, ties sharing their rank; 0 where one side does not vary."""
    if not len(x):
        return float("nan")
    x, y = rankdata(x), rankdata(y)
    spread = x.std() * y.std()
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else 0.0


def within(predicted: np.ndarray, realised: np.ndarray, groups: Sequence[np.ndarray]) -> float:
    """Return the mean over ``groups`` (arrays of row numbers) of their rank correlations."""
    large = [rows for rows in groups if len(rows) >= ENOUGH]
    return float(np.mean([spearman(predicted[rows], realised[rows]) for rows in large])) if large else float("nan")


def interval(statistic: Callable[[Sequence[np.ndarray]], float], groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of ``statistic``, candidates being drawn anew within their groups."""
    draw = np.random.default_rng(0)
    values = np.array([statistic([draw.choice(rows, len(rows)) for rows in groups]) for _ in range(RESAMPLES)])
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def groups_of(frame: pd.DataFrame) -> list[np.ndarray]:
    """Return the row numbers of each host at each moment."""
    return list(frame.reset_index(drop=True).groupby(["host", "moment"]).indices.values())


def correlation(predicted: np.ndarray, realised: np.ndarray, groups: Sequence[np.ndarray]) -> dict[str, str]:
    """Return the correlation within hosts and moments and that of all together, each with its interval, as text."""

    def pooled(drawn: Sequence[np.ndarray]) -> float:
        rows = np.concatenate([*drawn, np.array([], dtype=int)])
        return spearman(predicted[rows], realised[rows])

    def averaged(drawn: Sequence[np.ndarray]) -> float:
        return within(predicted, realised, drawn)

    return {
        name: "{:.2f} [{:.2f}, {:.2f}]".format(statistic(groups), *interval(statistic, groups))
        for name, statistic in (("within", averaged), ("pooled", pooled))
    }


def prepared(frame: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the candidates with their mean gain and whether it stands above the noise floor, and the floor."""
    frame = frame.copy()
    orders = [column for column in frame if column.startswith(GAIN)]
    frame["gain"] = frame[orders].mean(axis=1)
    twins = frame[frame["kind"] == TWIN]
    floor = 2 * float(np.sqrt(twins["gain"].pow(2).mean()))
    frame = frame[frame["kind"] != TWIN].reset_index(drop=True)
    frame["above"] = frame["gain"] > floor
    frame["random"] = np.random.default_rng(0).random(len(frame))
    return frame, floor


def table(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return one line for each of the scores ``names``: rank correlations with the realised gain."""
    above = frame[frame["above"]].reset_index(drop=True)
    lines = []
    for name in names:
        line = {"score": name}
        for title, rows, per_mac in (
            ("", above, False),
            ("per MAC, ", above, True),
            ("all candidates, ", frame, False),
        ):
            cost = rows["macs"].clip(lower=1).to_numpy() if per_mac else 1.0
            # Of MACs themselves nothing is left per MAC: the control is then that the cheapest comes first.
            predicted = 1 / cost if per_mac and name == "macs" else rows[name].to_numpy() / cost
            found = correlation(predicted, rows["gain"].to_numpy() / cost, groups_of(rows))
            line |= {f"{title}{key}": value for key, value in found.items()}
        lines.append(line)
    return pd.DataFrame(lines)


def reliability(frame: pd.DataFrame) -> float:
    """Return how far the gains agree between two halves of the orders, stepped up to all of them (Spearman-Brown)."""
    orders = [column for column in frame if column.startswith(GAIN)]
    half = len(orders) // 2
    if not half:
        return float("nan")
    first, second = (frame[part].mean(axis=1).to_numpy() for part in (orders[:half], orders[half:]))
    r = within(first, second, groups_of(frame))
    return 2 * r / (1 + r)


def by_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """Return, for each kind of edit, what was predicted by the default score, what came, and how well that ranked."""
    lines = []
    for kind, rows in frame.groupby("kind"):
        groups = groups_of(rows)
        rows = rows.reset_index(drop=True)
        lines.append(
            {
                "kind": kind,
                "candidates": len(rows),
                "above": int(rows["above"].sum()),
                "mean gain": round(rows["gain"].mean(), 4),
                "mean fisher": round(rows["fisher"].mean(), 4),
                "realised / predicted": round(rows["gain"].mean() / rows["fisher"].mean(), 2),
                "fisher within": round(within(rows["fisher"].to_numpy(), rows["gain"].to_numpy(), groups), 2),
                "fisher pooled": round(spearman(rows["fisher"].to_numpy(), rows["gain"].to_numpy()), 2),
            }
        )
    return pd.DataFrame(lines)


def halves(frame: pd.DataFrame, names: Sequence[str], hosts: Sequence[str]) -> pd.DataFrame:
    """Return the correlations of ``names`` on the first half of the hosts, where one may choose, and on the second."""
    lines = []
    for name in names:
        line: dict[str, object] = {"score": name}
        for title, part in (("explored", hosts[::2]), ("confirmed", hosts[1::2])):
            for which, rows in (("above", frame[frame["above"]]), ("all", frame)):
                rows = rows[rows["host"].isin(part)].reset_index(drop=True)
                predicted, realised = rows[name].to_numpy(), rows["gain"].to_numpy()
                line[f"{title}, {which}, within"] = round(within(predicted, realised, groups_of(rows)), 2)
                line[f"{title}, {which}, pooled"] = round(spearman(predicted, realised), 2)
        lines.append(line)
    return pd.DataFrame(lines).sort_values("explored, above, within", ascending=False)


def report(frame: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """Print what was found, and write the table where asked."""
    frame, floor = prepared(frame)
    result = table(frame, (*SCORE_NAMES, *CONTROLS))
    above = frame[frame["above"]]
    print(
        f"\nSpearman's rho between predicted and realised gain, with bootstrap 95 % intervals\n"
        f"{arguments.data} at {arguments.size} pixels, {arguments.horizon} steps from {arguments.rate} to 0, "
        f"{arguments.orders} orders of batches, {frame.groupby(['host', 'moment']).ngroups} hosts at moments\n"
        f"{len(frame)} candidates, {len(above)} above the noise floor of {floor:.4f} nats; mean gain "
        f"{frame['gain'].mean():.4f}, of those above {above['gain'].mean():.4f}\n"
        f"reliability of the gains within hosts: {reliability(frame):.2f} of all, "
        f"{reliability(above):.2f} of those above\n"
    )
    print(result.to_string(index=False))
    if arguments.csv is not None:
        result.to_csv(arguments.csv, index=False)
    if arguments.variants:
        frame = derived(frame)
        print(f"\nBy kind of edit\n\n{by_kind(frame).to_string(index=False)}")
        names = [*SCORE_NAMES, *CONTROLS, *frame.attrs["derived"], *VARIANTS, *JOINT]
        both = halves(frame, names, arguments.hosts).to_string(index=False)
        print(f"\nVariants, on half of the hosts and on the other\n\n{both}")


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--size", type=int, default=14, help="pixels; images are average-pooled to it")
    parser.add_argument("--train", type=int, default=10_000, help="images to train on")
    parser.add_argument("--probe", type=int, default=512, help="of these, images to score on")
    parser.add_argument("--held-out", type=int, default=2_000, help="images to measure the loss on")
    parser.add_argument("--hosts", nargs="+", choices=tuple(HOSTS), default=list(HOSTS))
    parser.add_argument("--moments", nargs="+", type=int, default=[300, 1500], help="steps before the candidates")
    parser.add_argument("--candidates", type=int, default=36, help="for each host and moment")
    parser.add_argument("--horizon", type=int, default=200, help="steps after them")
    parser.add_argument("--rate", type=float, default=0.03, help="of the twins, before they are annealed")
    parser.add_argument("--orders", type=int, default=2, help="orders of the batches that gains are averaged over")
    parser.add_argument("--twins", type=int, default=4, help="ungrown twins for each order")
    parser.add_argument("--rows", type=Path, help="file that takes every measured row, and is continued if it exists")
    parser.add_argument("--rescore", action="store_true", help="score the rows of that file anew; their gains stay")
    parser.add_argument("--csv", type=Path, help="file to write the table into")
    parser.add_argument("--variants", action="store_true", help="look into the default score, and at corrections of it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute instead of half an hour, and no result")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"train": 2000, "held_out": 500, "probe": 128, "hosts": ["seedling", "wide"], "moments": [30]}
        vars(arguments).update(quick, candidates=12, horizon=100, twins=2)
    return arguments


if __name__ == "__main__":
    options = parsed()
    torch.set_num_threads(options.threads)
    report(measure(options), options)
