"""From a sweep file to the list of runs, each checked against what the notebook declares.

A planned run is plain data: a name that makes a safe folder, its parameters, and a key, which is the checksum of both
the notebook's code and the parameters. What is done is known by its key, so results of other code, or of other values,
never pass for it. Text from the file reaches a folder's name only as letters, digits, hyphens and decimal points.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostkit.errors import GhostkitError
from ghostkit.parameters import check_parameters, declared_parameters, plain
from ghostkit.reading import file_text
from ghostkit.sweeps.definition import SweepFile

__all__ = ["Plan", "PlannedRun", "make_plan", "slug"]

MOST = 10_000  # runs
NAME = 48  # characters of a slug
# What a parameter is called that says where a notebook writes. The sweep itself says where: in the run's folder.
WRITTEN = re.compile(r"(^|_)(folder|directory|dir|output|outputs|out|save|destination)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Args:
        name: number and slug; the name of its folder.
        parameters: all values, those of the notebook's own defaults too, but for its folder.
        key: checksum of the notebook's code and the parameters.
    """

    name: str
    parameters: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, in order.

    Args:
        notebook: the notebook that they run.
        code: checksum of its code.
        runs: at least one.
        varied: names of the parameters that differ between runs.
    """

    notebook: Path
    code: str
    runs: tuple[PlannedRun, ...]
    varied: tuple[str, ...]


def make_plan(sweep: SweepFile, beside: str | Path, known: Mapping[str, str] | None = None) -> Plan:
    """Return the runs that a sweep file asks for.

    Args:
        sweep: what the file says.
        beside: the folder that the file is in.
        known: parameters as text (:func:`told`) -> name, of runs that have one already and keep it.

    Raises:
        GhostkitError: if the notebook cannot be read or has no parameters cell, if a parameter is unknown, ill-typed,
            given twice or none of the sweep's to give, if there are too many runs, or two of them are the same.
    """
    notebook = Path(beside, sweep.notebook)
    if notebook.suffix != ".ipynb":
        raise GhostkitError(f"notebook {sweep.notebook!r}: expected the path of an .ipynb file")
    declared = declared_parameters(notebook)
    combinations = _combinations(sweep)
    defaults = {name: value for name, value in plain(declared).items() if name != "folder"}
    filled = [
        {**defaults, **_checked(declared, values, f"run {n} of {len(combinations)}")}
        for n, values in enumerate(combinations, 1)
    ]
    texts = [told(values) for values in filled]
    for place, text in enumerate(texts):
        if (first := texts.index(text)) < place:
            raise GhostkitError(f"runs {first + 1} and {place + 1} of the sweep are the same: {combinations[place]}")
    code = _code(notebook)
    varied = tuple(name for name in filled[0] if len({json.dumps(values[name]) for values in filled}) > 1)
    names = _names(filled, texts, varied, dict(known or {}))
    runs = [
        PlannedRun(name, values, key_of(code, text)) for name, values, text in zip(names, filled, texts, strict=True)
    ]
    return Plan(notebook, code, tuple(runs), varied)


def told(parameters: Mapping[str, Any]) -> str:
    """Return parameters as text that is the same for the same values."""
    return json.dumps(parameters, sort_keys=True)


def key_of(code: str, text: str) -> str:
    """Return the key of a run: the checksum of its notebook's code (a checksum) and of its parameters as text."""
    return hashlib.sha256(f"{code}\n{text}".encode()).hexdigest()


def slug(text: str, most: int = NAME) -> str:
    """Return ``text`` as letters, digits and single hyphens, ``most`` characters at most."""
    words = re.findall(r"[a-z0-9]+(?:\.\d+)*", text.lower())
    return "-".join(words)[:most].strip("-.")


def _combinations(sweep: SweepFile) -> list[dict[str, Any]]:
    """Return the parameters of every run: rows of the list, each with all of the grid, each with all seeds."""
    seeds = list(range(sweep.seeds)) if isinstance(sweep.seeds, int) else sweep.seeds
    parts: list[tuple[str, Iterable[str]]] = [("parameters", sweep.parameters), ("grid", sweep.grid)]
    parts += [(f"row {n} of list", row) for n, row in enumerate(sweep.rows, 1)]
    parts += [("seeds", ["seed"])] if seeds else []
    for (one, names), (other, others) in itertools.combinations(parts, 2):
        both = set(names) & set(others) if not (one.startswith("row") and other.startswith("row")) else set()
        if both:
            raise GhostkitError(f"parameter {min(both)!r} is given by {one} and by {other} of the sweep; give it once")
    count = max(1, len(sweep.rows)) * max(1, len(seeds))
    for values in sweep.grid.values():
        count *= len(values)
    if count > MOST:
        raise GhostkitError(f"the sweep has {count:,} runs; expected {MOST:,} at most: split it")
    return [
        {**sweep.parameters, **row, **dict(zip(sweep.grid, chosen, strict=True)), **seeded}
        for row in sweep.rows or [{}]
        for chosen in itertools.product(*sweep.grid.values())
        for seeded in ([{"seed": seed} for seed in seeds] or [{}])
    ]


def _checked(declared: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``values`` as the notebook wants them."""
    try:
        for name, value in values.items():
            if name == "folder" or (WRITTEN.search(name) and isinstance(value, str)):
                raise GhostkitError(
                    f"parameter {name!r} = {value!r}: a sweep file may not say where a notebook writes; leave it out, "
                    "each run gets a folder of its own"
                )
        return check_parameters(declared, values)
    except GhostkitError as error:
        raise GhostkitError(f"{where}: {error}") from None


def _code(notebook: Path) -> str:
    """Return the checksum of what a notebook executes; prose and outputs change nothing in it."""
    try:
        cells = json.loads(file_text(notebook, links=True)).get("cells", [])
        sources = ["".join(cell.get("source", "")) for cell in cells if cell.get("cell_type") == "code"]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GhostkitError(f"cannot read the notebook {str(notebook)!r}: {error}") from None
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _names(filled: list[dict[str, Any]], texts: list[str], varied: tuple[str, ...], known: dict[str, str]) -> list[str]:
    """Return a name for each run: the one that it has, or the next number with what is special about the run."""
    numbers = itertools.count(1 + max((int(name.partition("-")[0]) for name in known.values()), default=0))
    for values, text in zip(filled, texts, strict=True):
        if text not in known:
            words = "-".join(f"{name}-{values[name]}" for name in varied)
            known[text] = f"{next(numbers):03d}-{slug(words)}".rstrip("-")
    return [known[text] for text in texts]
