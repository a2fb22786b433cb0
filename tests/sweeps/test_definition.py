"""A sweep file says what may be said, and nothing else: it may come from a stranger."""

from __future__ import annotations

import pytest

from ghostkit.errors import GhostkitError
from ghostkit.sweeps import read_sweep


def test_a_sweep_file_is_read_with_its_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("notebook: a.ipynb\ngrid: {a: [1, 2]}\nlist: [{rate: 0.1}, {rate: 1}]\nseeds: 3\ntimeout: 60\n")
    sweep = read_sweep(path)
    assert (sweep.notebook, sweep.grid, sweep.rows) == ("a.ipynb", {"a": [1, 2]}, [{"rate": 0.1}, {"rate": 1}])
    assert (sweep.seeds, sweep.timeout, sweep.workers, sweep.retries) == (3, 60.0, None, 0)


@pytest.mark.parametrize(("written", "value"), [("1e-3", 0.001), ("-5E+2", -500.0), (".5e1", 5.0), ("'1e-3'", "1e-3")])
def test_a_number_is_one_however_it_is_written_as_in_a_configuration(tmp_path, written, value):
    (tmp_path / "a.yaml").write_text(f"notebook: a.ipynb\nparameters: {{a: {written}}}\ngrid: {{b: [{written}]}}\n")
    sweep = read_sweep(tmp_path / "a.yaml")
    assert (sweep.parameters, sweep.grid) == ({"a": value}, {"b": [value]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {a: [1]}", "no 'notebook'; it names the notebook to run"),
        ("notebook: a.ipynb\nworker: 2", "unknown key 'worker'; known are notebook, parameters, grid, list, seeds, wo"),
        ("notebook: a.ipynb\nworkers: 0", "workers = 0: input should be greater than or equal to 1"),
        ("notebook: a.ipynb\nworkers: true", "workers = True: input should be a valid integer"),
        ("notebook: a.ipynb\ntimeout: -1", "timeout = -1: input should be greater than 0"),
        ("notebook: a.ipynb\ntimeout: .inf", "timeout = inf: input should be a finite number"),
        ("notebook: a.ipynb\nretries: many", "retries = 'many': input should be a valid integer"),
        ("notebook: a.ipynb\ngrid: {a: 1}", "grid.a = 1: input should be a valid list"),
        ("notebook: a.ipynb\ngrid: {a: []}", r"grid.a = \[\]: list should have at least 1 item"),
        ("notebook: a.ipynb\ngrid: {1: [1]}", "grid.1 = 1: input should be a valid string"),
        ("notebook: a.ipynb\nlist: [1]", "list.0 = 1: input should be a valid dictionary"),
        ("notebook: a.ipynb\nseeds: 0", "seeds = 0: input should be greater than or equal to 1"),
        ("notebook: a.ipynb\nseeds: 100000", "seeds = 100000: input should be less than or equal to 10000"),
        ("notebook: [a, b]", r"notebook = \['a', 'b'\]: input should be a valid string"),
        ("notebook: a.ipynb\nnotebook: b.ipynb", "gives 'notebook' twice"),
        ("notebook: a.ipynb\ngrid: {a: [1], a: [2]}", "gives 'a' twice"),
        ("notebook: a.ipynb\ngrid: {a: &a [1], b: *a}", "has an alias"),
        ("just words", "holds 'just words'; expected names and values"),
        ("", "holds None"),
        ("a: [", "cannot read the sweep file"),
        ("notebook: !!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
        ("[" * 100_000, "cannot read the sweep file"),
        ("a: " + "x" * 1_000_000, "has 1,000,003 characters"),
    ],
)
def test_what_a_sweep_file_cannot_say_is_quoted(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(GhostkitError, match=message):
        read_sweep(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GhostkitError, match=r"cannot read the sweep file .*none\.yaml"):
        read_sweep(tmp_path / "none.yaml")
