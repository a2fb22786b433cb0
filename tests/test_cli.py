"""The command: words in, calls of the package out, and one line on standard error for what the user can mend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner, Result

import ghostkit
from ghostkit import doctor, notebooks
from ghostkit.cli import app
from ghostkit.doctor import Check

PARAMETERS = "epochs = 3\ndata = 'digits'\nfolder = None"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_notebook(path: Path, *cells: str) -> Path:
    nodes = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=nodes), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What run_notebook is called with, in place of running anything."""
    seen: list[tuple[Any, ...]] = []

    def run(notebook: Path, folder: Path | None, parameters: dict[str, Any], **options: Any) -> Any:
        seen.append((notebook, folder, parameters, options))
        return notebooks.NotebookResult(here, here / "a.ipynb", here / "b", Path("/c"), parameters, {}, 1.0)

    monkeypatch.setattr(notebooks, "run_notebook", run)
    return seen


def test_version_and_help():
    assert invoke("--version").stdout == f"ghostkit {ghostkit.__version__}\n"
    shown = invoke("--help").stdout
    assert all(command in shown for command in ("run", "data", "doctor"))


def test_help_comes_without_importing_anything_heavy():
    heavy = "{'torch', 'torchvision', 'pandas', 'plotly', 'papermill', 'nbformat', 'jupyter_client'}"
    script = f"import sys, ghostkit.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_the_package_runs_as_a_module():
    shown = subprocess.check_output([sys.executable, "-m", "ghostkit", "--version"], text=True)
    assert shown == f"ghostkit {ghostkit.__version__}\n"


# run


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ([], {}),
        (["-p", "epochs", "5"], {"epochs": 5}),
        (["-p", "epochs", "-1", "-p", "data", "folder:a b"], {"epochs": -1, "data": "folder:a b"}),
        (["-p", "data", "a=b"], {"data": "a=b"}),
        (["-p", "data=a=b", "-p", "epochs", "5"], {"data": "a=b", "epochs": 5}),
        (["-p", "data", "-p"], {"data": "-p"}),
        (["-p", "data", ""], {"data": ""}),
    ],
)
def test_parameters_come_as_pairs_and_are_read_as_declared(here, calls, words, parameters):
    path = write_notebook(here / "a.ipynb")
    assert invoke("run", *words, path).exit_code == 0
    assert calls == [(path, None, parameters, {"timeout": None, "progress": True})]


def test_the_other_options_are_passed_on(here, calls):
    path = write_notebook(here / "a.ipynb")
    result = invoke("run", path, "--folder", "mine", "--timeout", "2.5", "--quiet")
    assert calls == [(path, Path("mine"), {}, {"timeout": 2.5, "progress": False})]
    assert result.stdout == "notebook  a.ipynb\nresult    b\nreport    /c\n"


def test_run_prints_where_the_results_are_and_the_closing_table(here):
    rows = [{"network": "seedling", "params": 1000, "accuracy": 0.5}, {"network": "grown", "accuracy": 0.75}]
    source = f"from ghostkit.notebooks import publish\npublish({{'table': {rows}, 'summary': 'it was worth it'}})"
    path = write_notebook(here / "a.ipynb", source)
    result = invoke("run", path, "-p", "epochs", "1")
    assert result.exit_code == 0
    for line in ("notebook  runs/a-1/a.ipynb", "result    runs/a-1/result.json", "report    runs/a-1/a.html"):
        assert line in result.stdout.splitlines()
        assert (here / line.split()[-1]).is_file()
    assert "seedling" in result.stdout
    assert "75.00 %" in result.stdout
    assert result.stdout.endswith("it was worth it\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "a.ipynb", "-p", "epohs", "3"], "ghostkit: unknown parameter 'epohs'; did you mean 'epochs'?"),
        (["run", "a.ipynb", "-p", "epochs", "few"], "ghostkit: parameter 'epochs' = 'few': expected a whole number"),
        (["run", "a.ipynb", "-p", "epochs"], "ghostkit: parameter 'epochs' has no value; expected -p epochs VALUE"),
        (["run", "b.ipynb"], "ghostkit: cannot read the notebook 'b.ipynb'"),
        (["run", "a.ipynb", "--folder", "."], "ghostkit: folder '.' holds the notebook itself"),
        (["data", "mnits"], "ghostkit: unknown data 'mnits'; did you mean 'mnist'?"),
        (["data", "--download"], "ghostkit: --download without a name"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(here, words, message):
    write_notebook(here / "a.ipynb")
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_failing_notebook_is_one_line_and_status_2(here):
    path = write_notebook(here / "a.ipynb", "raise ValueError('two\\nlines')")
    result = invoke("run", path, "--quiet")
    assert result.exit_code == 2
    assert "ValueError: two lines" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_fault_of_ours_shows_itself(here, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(notebooks, "run_notebook", fail)
    assert isinstance(invoke("run", write_notebook(here / "a.ipynb")).exception, ZeroDivisionError)


@pytest.mark.skipif(os.name != "posix", reason="signals and process ids as on POSIX")
def test_ctrl_c_ends_the_kernel_and_leaves_a_record(here):
    busy = "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\nwhile True: time.sleep(0.1)"
    path = write_notebook(here / "a.ipynb", busy)
    command = subprocess.Popen(
        [sys.executable, "-m", "ghostkit", "run", path, "--folder", "mine"],
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background was started with the signal ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not (here / "pid").exists() or not (here / "pid").read_text():
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate()
    assert command.returncode == 130
    assert "stopped by hand" in errors
    assert "Traceback" not in errors
    record = json.loads((here / "mine" / "result.json").read_text())
    assert (record["status"], record["error"]["name"]) == ("interrupted", "KeyboardInterrupt")
    with pytest.raises(ProcessLookupError):
        os.kill(int((here / "pid").read_text()), 0)


# data and doctor


def test_data_lists_what_is_here_and_how_to_get_the_rest(here):
    lines = invoke("data", "--root", here).stdout.splitlines()
    (digits,) = (line for line in lines if line.startswith("digits"))
    (mnist,) = (line for line in lines if line.startswith("mnist"))
    (imagenet,) = (line for line in lines if line.startswith("imagenet "))
    assert "scikit-learn" in digits
    assert "ghostkit data mnist" in mnist
    assert "--download" in mnist
    assert imagenet.endswith("ghostkit data imagenet tells")


def test_data_looks_into_one_of_them():
    shown = invoke("data", "digits").stdout
    assert "images of 1 x 8 x 8, from scikit-learn" in shown
    assert "10 classes: 0, 1, 2" in shown


@pytest.mark.parametrize(
    ("check", "status", "line"),
    [
        (Check("device", True, "cpu"), 0, "✓ device  cpu\n"),
        (
            Check("extra app", False, "no voila", "pip it"),
            0,
            "- extra app  no voila  ->  pip it\n",
        ),
        (Check("torch", False, "not installed", "pip it", needed=True), 1, "✗ torch  not installed  ->  pip it\n"),
    ],
)
def test_doctor_prints_a_line_a_check_and_fails_for_what_is_needed(monkeypatch, check, status, line):
    monkeypatch.setattr(doctor, "report", lambda: [check])
    result = invoke("doctor")
    assert (result.stdout, result.exit_code) == (line, status)
