"""What a sweep file says, checked in form.

A sweep file is YAML and comes, perhaps, from a stranger: it is read as plain data, and names one notebook and values
for its parameters, nothing else. A key given twice, an alias (by which a small file can unfold to gigabytes) and
whatever has no meaning here are refused. Whether the values fit the notebook is the plan's to check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghostkit.errors import GhostkitError
from ghostkit.reading import PlainLoader

__all__ = ["SweepFile", "read_sweep"]

LARGEST = 1_000_000  # characters

Values = Annotated[list[Any], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class SweepFile(BaseModel):
    """One notebook and the values that it is to be run with.

    The runs are every row of ``list``, with every combination of ``grid``, with every seed; ``parameters`` are the same
    in all of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    notebook: str = Field(description="path of an .ipynb file, as seen from the sweep file")
    parameters: dict[str, Any] = Field({}, description="name -> the value that all runs have")
    grid: dict[str, Values] = Field({}, description="name -> values, each combined with each of the others")
    rows: list[dict[str, Any]] = Field([], alias="list", description="rows of names and values that belong together")
    seeds: Count | Values = Field([], description="values of the parameter `seed`; a number n stands for 0 to n - 1")
    workers: Count | None = Field(None, description="runs at a time; when None, one a core, or one with a GPU to share")
    timeout: float | None = Field(None, gt=0, description="seconds after which a run is given up")
    retries: int = Field(0, ge=0, le=100, description="how often a run that failed is tried again at once")


def read_sweep(path: str | Path) -> SweepFile:
    """Return what a sweep file says.

    Args:
        path: a YAML file.

    Raises:
        GhostkitError: if it cannot be read, or says what a sweep file cannot say.
    """
    shown = f"the sweep file {str(path)!r}"
    try:
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > LARGEST:
            raise GhostkitError(f"{shown} has {len(text):,} characters; expected {LARGEST:,} at most")
        _refuse_twice(yaml.compose(text, Loader=PlainLoader), shown)
        said = yaml.load(text, PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise GhostkitError(f"cannot read {shown}: {error or type(error).__name__}") from None
    if not isinstance(said, dict):
        raise GhostkitError(f"{shown} holds {said!r:.60}; expected names and values, such as notebook: first.ipynb")
    try:
        return SweepFile.model_validate(said)
    except ValidationError as error:
        known = ", ".join(field.alias or name for name, field in SweepFile.model_fields.items())
        lines = []
        for fault in error.errors():
            place = _place(said, fault["loc"])
            if fault["type"] == "extra_forbidden":
                lines.append(f"unknown key {place!r}; known are {known}")
            elif fault["type"] == "missing":
                lines.append(f"no {place!r}; it names the notebook to run, as seen from the sweep file")
            else:
                lines.append(f"{place} = {fault['input']!r:.60}: {fault['msg'][:1].lower()}{fault['msg'][1:]}")
        raise GhostkitError(f"{shown}: {'; '.join(dict.fromkeys(lines))}") from None


def _place(said: Any, loc: tuple[int | str, ...]) -> str:
    """Return where in the file a fault is; pydantic's words for the kinds of a union are left out."""
    path: list[str] = []
    for part in loc:
        try:
            said = said[part]
        except (KeyError, IndexError, TypeError):
            if path:
                break
        path.append(str(part))
    return ".".join(path)


def _refuse_twice(node: yaml.Node | None, shown: str) -> None:
    """Refuse a mapping that gives a key twice, which YAML allows."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, shown)
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise GhostkitError(f"{shown} gives {twice[0]!r} twice; once is expected")
        for pair in node.value:
            for item in pair:
                _refuse_twice(item, shown)
