"""Files that a stranger may have written: read as plain data, within bounds, and never run.

A run, a checkpoint or a sweep may come from anybody. Whoever reads one gets text and bytes of ordinary files alone, no
larger than what is sensible, and of JSON only what ghostkit itself would write: shallow, with numbers that a computer
counts with. Everything else is an ``OSError`` or a ``ValueError``, as if the file were damaged.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "MOST_BYTES",
    "MOST_TEXT",
    "POWER_OF_TEN",
    "UNFITTING",
    "PlainLoader",
    "checked_fields",
    "checked_plain",
    "file_bytes",
    "file_text",
    "parsed_json",
]

MOST_TEXT = 64 << 20  # bytes of JSON or of lines of it; a history of a thousand events has a tenth of that
MOST_BYTES = 4 << 30  # of tensors: a network of a hundred million parameters has 1.2 GB with its two moments
DEEPEST = 50  # lists and objects inside each other: what is deeper overflows the stack of whoever walks it
LARGEST = 2**64  # of whole numbers: no counter gets there, and all below are finite as floats

# What Python and PyTorch raise where a value is of another type, size or name than a function expects. Caught where a
# stranger's data is put to use, and nowhere else.
UNFITTING = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    MemoryError,
    RuntimeError,
)


# A number in YAML that PyYAML, which reads YAML 1.1, takes for text: 1e-3, where it wants 1.0e-3.
POWER_OF_TEN: Any = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class PlainLoader(yaml.SafeLoader):
    """YAML as plain data, without aliases: by a few of them, a small file unfolds to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node, which is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out where it is needed")
        return super().compose_node(parent, index)


PlainLoader.add_implicit_resolver(*POWER_OF_TEN)


def file_bytes(path: str | Path, most: int = MOST_BYTES, links: bool = False) -> bytes:
    """Return the content of an ordinary file.

    Args:
        path: of the file.
        most: bytes that are expected at most.
        links: whether the file itself may be a link; one inside a folder of a stranger's could lead out of it.

    Raises:
        OSError: if it cannot be read, is a link, or no ordinary file: a pipe would never end.
        ValueError: if it is larger, or its name cannot be one.
    """
    # Opened first and looked at then, so that what is looked at is what is read.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not links:
        if Path(path).is_symlink():
            raise OSError(errno.ELOOP, "it is a link, which may lead out of the folder", str(path))
        flags |= getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        if found.st_size > most:
            raise ValueError(f"{str(path)!r} has {found.st_size:,} bytes; expected {most:,} at most")
        return file.read(most)


def file_text(path: str | Path, most: int = MOST_TEXT, links: bool = False) -> str:
    """Return the content of an ordinary file of UTF-8; arguments and errors as for :func:`file_bytes`."""
    return file_bytes(path, most, links).decode("utf-8").replace("\r\n", "\n")


def parsed_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: if it is none, or holds what :func:`checked_plain` refuses.
    """
    try:
        return checked_plain(json.loads(text, parse_int=_whole))
    except RecursionError:
        raise ValueError(f"lists or objects lie more than {DEEPEST} deep in each other") from None


def checked_plain(value: Any) -> Any:
    """Return ``value`` if it is plain data: what JSON has, shallow, with numbers of sensible size.

    Raises:
        ValueError: if not.
    """
    level = [value]
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
                for name in item:
                    if not isinstance(name, str):
                        raise ValueError(f"a name is {type(name).__name__}; expected text")
                    _check_text(name)
            elif isinstance(item, list | tuple):
                deeper.extend(item)
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, int):
                if abs(item) > LARGEST:
                    raise ValueError(f"a number has {item.bit_length()} bits; expected 64 at most")
            elif item is not None and not isinstance(item, float):
                raise ValueError(f"it holds {type(item).__name__}; expected text, numbers, lists and objects")
        if not deeper:
            return value
        level = deeper
    raise ValueError(f"lists or objects lie more than {DEEPEST} deep in each other")


def checked_fields(values: Any, types: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return ``values`` if each is of the type that its name has.

    Args:
        values: plain data, an object of names and values; names may be missing.
        types: name -> the type in words, as a dataclass has it: ``"int | None"``. Other words than those of a single
            value are not looked at.
        what: what the values are, for the message.

    Raises:
        ValueError: if a name is unknown or a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{what} is {type(values).__name__}; expected names and values")
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{what} has unknown {name!r}")
        words = str(types[name]).split(" | ")
        kind = "None" if value is None else type(value).__name__
        if set(words) <= {"int", "float", "str", "bool", "None"} and kind not in words + ["int"] * ("float" in words):
            raise ValueError(f"{what} has {name} = {value!r:.60}; expected {' or '.join(words)}")
    return values


def _whole(digits: str) -> int:
    """Return a whole number; one of thousands of digits is not even read."""
    if len(digits) > len(str(LARGEST)) + 1:
        raise ValueError(f"a number has {len(digits)} digits; expected 64 bits at most")
    return int(digits)


def _check_text(text: str) -> None:
    """Raise unless ``text`` can be stored: half of a pair of surrogates, which JSON lets through, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a text is not Unicode: {text[:40]!a}") from None
