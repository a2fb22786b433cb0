"""A notebook's knobs: read from the cell that declares them, and given other values.

A notebook declares its parameters as plain literals in one cell tagged `parameters`. Nothing in it is executed to read
them, and a value is of the kind that its default has, whoever gives it: a command line, a sweep, or Python.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ghostkit.errors import GhostkitError
from ghostkit.reading import UNFITTING, checked_plain, file_text

__all__ = ["check_parameters", "declared_parameters", "parse_parameters", "plain"]


def declared_parameters(notebook: str | Path) -> dict[str, Any]:
    """Return names and default values of the notebook's cell tagged ``parameters``.

    Args:
        notebook: path of an .ipynb file; nothing in it is executed.

    Raises:
        GhostkitError: if the notebook cannot be read, if it has no such cell or several, or if the cell holds anything
            but assignments of plain literals.
    """
    import nbformat

    try:
        cells = nbformat.reads(file_text(notebook, links=True), as_version=4).cells
        cells = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        sources = [str(cell.source) for cell in cells]
    except (OSError, nbformat.ValidationError, *UNFITTING) as error:  # nbformat upgrades what it has not validated
        raise GhostkitError(f"cannot read the notebook {str(notebook)!r}: {error!r:.500}") from None
    if len(cells) != 1:
        raise GhostkitError(
            f"notebook {str(notebook)!r} has {len(cells) or 'no'} cells tagged 'parameters', expected one; "
            "give the tag to the cell that assigns the defaults, such as epochs = 3"
        )
    try:
        statements = ast.parse(sources[0]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GhostkitError(f"the parameters cell of {str(notebook)!r} is not Python: {error}") from None
    declared = {}
    for statement in statements:
        try:
            match statement:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                    declared[name] = ast.literal_eval(value)
                    checked_plain(plain(declared[name]))
                case _:
                    raise ValueError
        except (ValueError, TypeError, RecursionError, MemoryError, GhostkitError):
            shown = sources[0].splitlines()[statement.lineno - 1].strip()
            raise GhostkitError(
                f"the parameters cell of {str(notebook)!r} holds {shown[:200]!r}, expected "
                "assignments of plain literals, such as epochs = 3; move everything else to the next cell"
            ) from None
    return declared


def check_parameters(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` as plain values of the kinds that their declared defaults have.

    Args:
        declared: names and defaults, as :func:`declared_parameters` returns them. A default of None accepts anything
            that JSON can hold, a float accepts whole numbers too.
        given: names and values.

    Raises:
        GhostkitError: if a name is not declared or a value is of another kind.
    """
    return {name: _fitted(name, _default(declared, name), value) for name, value in given.items()}


def parse_parameters(declared: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the values that a command line spells out, read as their declared defaults ask.

    Args:
        declared: names and defaults, as :func:`declared_parameters` returns them.
        pairs: name and text; true or false for a bool, JSON or a Python literal for a list or a dict. Where the
            default is None, what is no literal is text.

    Raises:
        GhostkitError: if a name is not declared or given twice, or if a text does not read as its default asks.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        default = _default(declared, name)
        if name in values:
            raise GhostkitError(f"parameter {name!r} is given twice: {values[name]!r} and {text!r}")
        try:
            value = _parsed(default, text)
        except (ValueError, RecursionError):
            value = text
        values[name] = _fitted(name, default, value)
    return values


def _default(declared: Mapping[str, Any], name: str) -> Any:
    """Return the declared default of ``name``, or say what it may have been meant to be."""
    if name in declared:
        return declared[name]
    near = difflib.get_close_matches(name, declared, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the notebook declares {', '.join(declared) or 'none'}"
    raise GhostkitError(f"unknown parameter {name!r}; {hint}")


def _parsed(default: Any, text: str) -> Any:
    """Return the value that ``text`` spells out for a parameter with this default."""
    if isinstance(default, str):
        return text
    if isinstance(default, int | float) and not isinstance(default, bool):
        return type(default)(text)
    spoken = {"true": True, "false": False, "null": None}
    if text.strip().lower() in spoken:
        return spoken[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return json.loads(text)


def _fitted(name: str, default: Any, value: Any) -> Any:
    """Return ``value`` as a plain value of the default's kind."""
    expected = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        list: "a list",
        dict: "a mapping from names to values",
    }
    kind = type(plain(default))
    try:
        fitted = plain(value)
        if kind is float and type(fitted) is int:
            fitted = float(fitted)
        if kind in (type(None), type(fitted)) and (fitted is None) == (value is None):
            return fitted
    except (GhostkitError, OverflowError):
        pass
    raise GhostkitError(
        f"parameter {name!r} = {value!r}: expected {expected.get(kind, 'a value that JSON can hold')}, "
        f"as in its default {default!r}"
    )


def plain(value: Any) -> Any:
    """Return ``value`` as JSON holds it: tuples as lists, numpy's and torch's numbers as numbers, NaN as None.

    Raises:
        GhostkitError: if it is nothing that JSON can hold.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | os.PathLike):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise GhostkitError(f"{value!r} ({type(value).__name__}) is nothing that JSON can hold; give numbers, text, lists")
