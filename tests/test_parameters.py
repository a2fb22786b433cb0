"""A notebook's parameters are read without running it, and a value that does not fit is named before anything runs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ghostkit.errors import GhostkitError
from ghostkit.parameters import check_parameters, declared_parameters, parse_parameters

DECLARED = {
    "smoke": False,
    "epochs": 3,
    "rate": 0.1,
    "data": "digits",
    "kinds": ("branch", "block"),
    "options": {"width": 8},
    "folder": None,
}


def write_notebook(path: Path, parameters: str | None) -> Path:
    """Write a notebook with a parameters cell, unless that is None, and a cell that must not be executed."""
    nodes = [new_code_cell("import nothing_of_the_kind")]
    if parameters is not None:
        nodes.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(new_notebook(cells=nodes), path)
    return path


# Declared parameters


def test_declared_parameters_are_the_literals_of_the_tagged_cell(tmp_path):
    source = "# how long\nepochs = 3\nrate: float = -1e-3  # a = b\nkinds = ('branch', 'block')\noptions = {'a': [1]}"
    path = write_notebook(tmp_path / "a.ipynb", f"{source}\nno = None")
    assert declared_parameters(path) == {
        "epochs": 3,
        "rate": -1e-3,
        "kinds": ("branch", "block"),
        "options": {"a": [1]},
        "no": None,
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "has no cells tagged 'parameters', expected one"),
        ("epochs = 2 * 3", r"holds 'epochs = 2 \* 3', expected assignments of plain literals"),
        ("from os import path", "holds 'from os import path'"),
        ("rate = float('nan')", "expected assignments of plain literals"),
        ("a = b = 3", "holds 'a = b = 3'"),
        ("epochs: int", "holds 'epochs: int'"),
        ("blob = b'bytes'", "expected assignments of plain literals"),
        ("options = {1: 2}", "expected assignments of plain literals"),
        ("epochs = ", "is not Python"),
    ],
)
def test_a_parameters_cell_of_anything_else_is_refused(tmp_path, parameters, message):
    with pytest.raises(GhostkitError, match=message):
        declared_parameters(write_notebook(tmp_path / "a.ipynb", parameters))


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"nbformat": 4, "nbformat_minor": 5}'])
def test_what_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(GhostkitError, match=r"cannot read the notebook '.*a\.ipynb'"):
        declared_parameters(path)


# Values for them


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("smoke", "true", True),
        ("smoke", "False", False),
        ("epochs", "12", 12),
        ("epochs", "-1", -1),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("data", "12", "12"),
        ("data", "None", "None"),
        ("kinds", '["branch"]', ["branch"]),
        ("kinds", "('branch',)", ["branch"]),
        ("options", '{"width": null}', {"width": None}),
        ("options", "{'width': None}", {"width": None}),
        ("folder", "None", None),
        ("folder", "null", None),
        ("folder", "2.5", 2.5),
        ("folder", "true", True),
        ("folder", "runs/a = b", "runs/a = b"),
        ("folder", "((((", "(((("),
    ],
)
def test_text_reads_as_the_default_asks(name, text, value):
    parsed = parse_parameters(DECLARED, [(name, text)])[name]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("smoke", "yes", "true or false"),
        ("smoke", "1", "true or false"),
        ("epochs", "3.5", "a whole number"),
        ("epochs", "true", "a whole number"),
        ("rate", "fast", "a finite number"),
        ("rate", "nan", "a finite number"),
        ("kinds", "branch", "a list"),
        ("options", "[1]", "a mapping"),
        ("folder", "{1: 2}", "a value that JSON can hold"),
    ],
)
def test_an_ill_typed_text_is_quoted_with_its_name_and_what_was_expected(name, text, expected):
    with pytest.raises(GhostkitError) as error:
        parse_parameters(DECLARED, [(name, text)])
    assert all(part in str(error.value) for part in (f"{name!r} = ", text, f"expected {expected}"))


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("epochs", np.int64(4), 4),
        ("rate", 1, 1.0),
        ("rate", np.float32(0.5), 0.5),
        ("kinds", ("branch",), ["branch"]),
        ("folder", Path("runs"), "runs"),
    ],
)
def test_values_from_python_become_plain(name, value, kept):
    checked = check_parameters(DECLARED, {name: value})[name]
    assert checked == kept
    assert type(checked) is type(kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True),
        ("epochs", 3.0),
        ("epochs", None),
        ("smoke", 1),
        ("rate", float("inf")),
        ("folder", {1, 2}),
        ("folder", float("inf")),
        ("folder", float("nan")),
    ],
)
def test_values_of_another_kind_are_refused(name, value):
    with pytest.raises(GhostkitError, match=f"parameter '{name}' = "):
        check_parameters(DECLARED, {name: value})


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("epohs", "3")], "unknown parameter 'epohs'; did you mean 'epochs'?"),
        ([("zzz", "3")], "unknown parameter 'zzz'; the notebook declares smoke, epochs, rate"),
        ([("epochs", "3"), ("epochs", "4")], "parameter 'epochs' is given twice: 3 and '4'"),
    ],
)
def test_a_name_is_known_and_given_once(pairs, message):
    with pytest.raises(GhostkitError) as error:
        parse_parameters(DECLARED, pairs)
    assert message in str(error.value)
