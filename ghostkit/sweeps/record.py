"""How a run of a sweep ended: one small file, written last and whole.

A run is done when its record says so, for the key that is asked for (the notebook's code and the parameters), and when
the result beside it is the very one that the record was written for. Anything else, half a result or another's, is
not done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ghostkit.files import write_atomically
from ghostkit.reading import checked_fields, file_bytes, file_text, parsed_json

__all__ = ["Record", "read_record", "write_record"]

FILE = "record.json"
RESULT = "result.json"


@dataclass(frozen=True)
class Record:
    """How a run ended.

    Args:
        key: checksum of the notebook's code and the parameters.
        status: "done", "failed" or "interrupted".
        seconds: what its last attempt took.
        attempts: how often it was tried in its last sitting.
        peak_memory: the most bytes that its kernel held; None where nobody could tell.
        metrics: the numbers that the notebook published, by name.
        history: what grew: ``growth_events``, ``edits``, ``params``, ``macs``; empty where nothing was trained.
        error: name, message, cell and traceback of what went wrong; empty if nothing did.
        result: checksum of the result file; empty where there is none.
    """

    key: str
    status: str
    seconds: float = 0.0
    attempts: int = 1
    peak_memory: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: dict[str, float] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    result: str = ""

    @property
    def told(self) -> str:
        """The error in one line."""
        return " ".join(f"{self.error['name']}: {self.error['message']}".split()) if self.error else ""


def write_record(folder: Path, record: Record) -> None:
    """Replace the record in ``folder``; the last thing that is written of a run."""
    write_atomically(folder / FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_record(folder: Path) -> Record | None:
    """Return the record in ``folder``, or None if there is none that holds."""
    try:
        record = Record(**checked_record(parsed_json(file_text(folder / FILE))))
        if record.status == "done" and record.result != checksum(folder / RESULT):
            return None
    except (OSError, ValueError, TypeError):
        return None
    return record


def checked_record(said: Any) -> dict[str, Any]:
    """Return what a record says, if it is one.

    Raises:
        ValueError: if not.
    """
    said = checked_fields(said, {name: kept.type for name, kept in Record.__dataclass_fields__.items()}, "a record")
    for name, kind in (("metrics", "float | bool"), ("history", "float"), ("error", "str")):
        checked_fields(inner := said.get(name, {}), dict.fromkeys(inner, kind), name)
    if said.get("error") and not said["error"].keys() >= {"name", "message"}:
        raise ValueError("an error has a name and a message")
    return said


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content; empty if it is not there."""
    try:
        return hashlib.sha256(file_bytes(path, links=True)).hexdigest()
    except (OSError, ValueError):
        return ""


def numbers_in(published: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers in what a notebook published, those inside a mapping as ``outer.inner``."""
    found: dict[str, float] = {}
    for name, value in published.items():
        if isinstance(value, bool | int | float):
            found[name] = float(value)
        elif isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in numbers_in(value).items()}
    return found
