"""A sweep file becomes a list of checked runs, each with a name that makes a safe folder."""

from __future__ import annotations

import re

import pytest

from ghostkit.errors import GhostkitError
from ghostkit.sweeps.definition import SweepFile
from ghostkit.sweeps.plan import make_plan, slug, told


@pytest.fixture
def planned(here, write_notebook):
    """Return the plan of a sweep over the notebook."""
    write_notebook()

    def plan(known=None, **said):
        return make_plan(SweepFile.model_validate({"notebook": "a.ipynb", **said}), here, known)

    return plan


def test_rows_times_grid_times_seeds_in_this_order(planned):
    plan = planned(
        parameters={"flag": True}, grid={"a": [1, 2]}, list=[{"name": "u"}, {"name": "v", "rate": 1}], seeds=2
    )
    values = [(run.parameters["name"], run.parameters["a"], run.parameters["seed"]) for run in plan.runs]
    assert values == [(name, a, seed) for name in "uv" for a in (1, 2) for seed in (0, 1)]
    assert all(run.parameters["flag"] is True for run in plan.runs)
    assert set(plan.varied) == {"a", "name", "rate", "seed"}
    assert plan.runs[4].parameters["rate"] == 1.0
    assert plan.runs[0].parameters["rate"] == 0.1, "the notebook's own"
    assert "folder" not in plan.runs[0].parameters


def test_without_values_there_is_one_run(planned):
    assert [run.name for run in planned().runs] == ["001"]


def test_names_are_number_and_what_is_special(planned):
    plan = planned(parameters={"name": "same"}, grid={"a": [1, 2], "rate": [0.5]}, seeds=[7])
    assert [run.name for run in plan.runs] == ["001-a-1", "002-a-2"]


@pytest.mark.parametrize(
    "text", ["../../etc", "/etc/passwd", "..", "a\\b", "con:x", "nul\0", "é/ü", "a\nb", "$(id)", "x" * 300, "~", "-rf"]
)
def test_no_text_leads_a_folder_anywhere(planned, text):
    names = [run.name for run in planned(grid={"name": [text, "plain"]}).runs]
    assert all(re.fullmatch(r"\d{3}-[a-z0-9.-]+", name) and ".." not in name and len(name) < 60 for name in names)
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("text", "word"),
    [("rate-0.001", "rate-0.001"), ("A b", "a-b"), ("a.b", "a-b"), ("..", ""), ("1e-05", "1e-05")],
)
def test_a_slug_keeps_letters_digits_and_decimal_points(text, word):
    assert slug(text) == word


def test_known_runs_keep_their_names_and_new_ones_get_further_numbers(planned):
    first = planned(grid={"a": [1, 2]})
    known = {told(run.parameters): run.name for run in first.runs}
    again = planned(known, grid={"a": [0, 1, 2], "rate": [0.1, 0.2]})  # 0.1 is what the first ones had by default
    assert [run.name[:3] for run in again.runs] == ["003", "004", "001", "005", "002", "006"]
    assert [run.key for run in again.runs][2::2] == [run.key for run in first.runs]


def test_the_key_follows_code_and_values_but_not_prose_or_outputs(planned, write_notebook):
    key = planned(parameters={"a": 2}).runs[0].key
    assert planned(parameters={"a": 2}).runs[0].key == key
    assert planned(parameters={"a": 3}).runs[0].key != key
    path = write_notebook()
    path.write_text(
        path.read_text().replace('"outputs": []', '"outputs": [{"output_type":"stream","name":"stdout","text":"x"}]')
    )
    assert planned(parameters={"a": 2}).runs[0].key == key
    write_notebook("print(a)")
    assert planned(parameters={"a": 2}).runs[0].key != key


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"grid": {"aa": [1]}}, "run 1 of 1: unknown parameter 'aa'; did you mean 'a'?"),
        ({"grid": {"a": [1, "few"]}}, "run 2 of 2: parameter 'a' = 'few': expected a whole number"),
        ({"grid": {"flag": [True, 1]}}, "run 2 of 2: parameter 'flag' = 1: expected true or false"),
        ({"list": [{"a": 1}, {"rate": "fast"}]}, "run 2 of 2: parameter 'rate' = 'fast': expected a finite number"),
        ({"grid": {"a": [1, 1]}}, "runs 1 and 2 of the sweep are the same: {'a': 1}"),
        ({"list": [{"a": 1}, {"rate": 0.1}]}, "runs 1 and 2 of the sweep are the same: {'rate': 0.1}"),
        ({"parameters": {"a": 1}, "grid": {"a": [2]}}, "parameter 'a' is given by parameters and by grid"),
        ({"grid": {"a": [1]}, "list": [{"a": 1}]}, "parameter 'a' is given by grid and by row 1 of list"),
        ({"grid": {"seed": [1]}, "seeds": 2}, "parameter 'seed' is given by grid and by seeds"),
        ({"parameters": {"folder": "/tmp/x"}}, "parameter 'folder' = '/tmp/x': a sweep file may not say where"),
        ({"grid": {"folder": [None]}}, "a sweep file may not say where a notebook writes"),
        ({"grid": {"a": list(range(200)), "rate": list(range(200))}}, "the sweep has 40,000 runs; expected 10,000"),
        ({"notebook": "none.ipynb"}, "cannot read the notebook"),
        ({"notebook": "a.py"}, "notebook 'a.py': expected the path of an .ipynb file"),
    ],
)
def test_what_cannot_be_run_is_quoted_with_its_run(planned, said, message):
    with pytest.raises(GhostkitError) as error:
        planned(**said)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["output", "output_path", "save_to", "log_dir", "out", "results_folder"])
def test_no_other_path_to_write_is_taken_from_a_sweep_file(here, write_notebook, name):
    write_notebook(parameters=f"{name} = ''\nfolder = None")
    with pytest.raises(GhostkitError, match="may not say where a notebook writes"):
        make_plan(SweepFile.model_validate({"notebook": "a.ipynb", "parameters": {name: "/tmp/x"}}), here)


def test_a_notebook_without_parameters_cell_is_refused(here, write_notebook):
    write_notebook(parameters=None)
    with pytest.raises(GhostkitError, match="has no cells tagged 'parameters'"):
        make_plan(SweepFile.model_validate({"notebook": "a.ipynb"}), here)
