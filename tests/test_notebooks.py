"""A notebook runs without a person: what is wrong is said before a kernel starts, and nothing that was done is lost."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rich.console import Console

from ghostkit import notebooks
from ghostkit.errors import GhostkitError
from ghostkit.notebooks import publish, run_notebook

PARAMETERS = "epochs = 3\nname: str = 'digits'\nfolder = None"


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook of code cells, and markdown cells where a source starts with #."""
    nodes = [new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell) for cell in cells]
    if parameters is not None:
        nodes.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(new_notebook(cells=nodes), path)
    return path


def record_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every notebook for executed as it is."""
    monkeypatch.setattr(notebooks, "_execute", lambda source, executed, *_: executed.write_text(source.read_text()))


# What is wrong from the start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": {"epohs": 3}}, "did you mean 'epochs'"),
        ({"parameters": {"epochs": "three"}}, "expected a whole number"),
        ({"timeout": 0}, "timeout = 0: expected a number of seconds above 0"),
        ({"kernel": "fortran"}, "unknown kernel 'fortran'; known are .*python3"),
        ({"folder": "."}, "folder '.' holds the notebook itself"),
        ({"folder": "a.ipynb"}, "cannot use 'a.ipynb' as the run folder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_executed_or_made(here, options, message):
    path = write_notebook(here / "a.ipynb", "open('trace', 'w').close()")
    with pytest.raises(GhostkitError, match=message):
        run_notebook(path, **options)
    assert [entry.name for entry in here.iterdir()] == ["a.ipynb"]


# A notebook that ends well


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[notebooks.NotebookResult, list[str]]]:
    """One run of a notebook with braces in its name, where the kernel spec named python3 leads elsewhere."""
    here, lines = tmp_path_factory.mktemp("good"), []
    spec = here / "share" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/nonexistent/python"], "display_name": "elsewhere", "language": "python"}))
    path = write_notebook(
        here / "a {b}.ipynb",
        "# First\nwords",
        "import sys, ipywidgets\nfor epoch in range(epochs): print(f'epoch {epoch}/{epochs}', flush=True)",
        "sys.stderr.write('\\r 10%')\nsys.stderr.write('\\r\\x1b[31m100%\\x1b[0m')\nipywidgets.IntSlider()",
        "from ghostkit.notebooks import publish\nimport numpy as np",
        "publish({'accuracy': 0.1})",
        "publish({'accuracy': np.float32(0.5), 'python': sys.executable, 'folder': folder, 'epochs': epochs,"
        " 'loss': float('nan'), 'curve': np.arange(3), 'table': [{'network': 'seedling', 'params': 10}]})",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(here / "share"))
        patch.chdir(here)
        yield run_notebook(path, parameters={"epochs": 2}, progress=False, on_line=lines.append), lines


def test_the_result_published_last_is_collected_as_plain_values(good):
    result, _ = good
    assert {**result.result, "python": ""} == {
        "accuracy": 0.5,
        "python": "",
        "folder": str(result.folder),
        "epochs": 2,
        "loss": None,
        "curve": [0, 1, 2],
        "table": [{"network": "seedling", "params": 10}],
    }


def test_the_kernel_is_this_very_python(good):
    assert good[0].result["python"] == sys.executable


def test_the_record_says_how_it_ended(good):
    record = record_in(good[0].folder)
    assert record["status"] == "done"
    assert record["error"] is None
    assert record["result"] == good[0].result
    assert record["parameters"] == {"epochs": 2, "name": "digits", "folder": str(good[0].folder)}
    assert record["seconds"] == good[0].seconds > 0


def test_the_run_folder_holds_the_executed_notebook_its_page_and_the_record(good):
    result, _ = good
    assert result.folder == Path("runs", "a {b}-1").resolve()
    assert sorted(path.name for path in result.folder.iterdir()) == ["a {b}.html", "a {b}.ipynb", "result.json"]
    assert "epoch 1/2" in result.report.read_text()


def test_the_executed_notebook_keeps_its_outputs_and_no_widget_state(good):
    executed = nbformat.read(good[0].executed, as_version=4)
    assert executed.cells[3].outputs[0].text == "epoch 0/2\nepoch 1/2\n"
    assert "widgets" not in executed.metadata


def test_the_kernel_is_told_and_gets_variables_of_its_own_and_its_peak_memory_is_noted(here):
    path = write_notebook(
        here / "a.ipynb",
        "from ghostkit.notebooks import publish\nimport os\nlarge = bytearray(200_000_000)",
        "publish({'pid': os.getpid(), 'threads': os.environ['MY_THREADS'], 'path': os.environ['PATH']})",
    )
    pids: list[int] = []
    done = run_notebook(path, progress=False, environment={"MY_THREADS": "3"}, on_kernel=pids.append)
    assert done.result == {"pid": pids[0], "threads": "3", "path": os.environ["PATH"]}
    assert done.peak_memory == record_in(done.folder)["peak_memory"]
    if sys.platform == "linux":
        assert 200_000_000 < done.peak_memory < 2_000_000_000


def test_each_line_that_a_cell_prints_is_passed_on_as_text(good):
    assert good[1] == ["epoch 0/2", "epoch 1/2", " 10%", "100%"]


# A notebook that does not


def failure_of(path: Path, **options: Any) -> tuple[str, dict[str, Any], Any]:
    """Return the message, the record and the executed notebook of a run that fails."""
    folder = path.parent / "failed"
    with pytest.raises(GhostkitError) as error:
        run_notebook(path, folder, progress=False, **options)
    return str(error.value), record_in(folder), nbformat.read(folder / path.name, as_version=4)


def test_a_failing_cell_is_named_and_what_came_before_it_is_kept(here):
    publishing = "from ghostkit.notebooks import publish\npublish({'epochs': epochs})"
    path = write_notebook(
        here / "a.ipynb", "# Start", publishing, "## Bang", "raise ValueError('boom')", "print('never')"
    )
    message, record, executed = failure_of(path)
    assert "'Bang': ValueError: boom" in message
    assert f"cell [{next(cell for cell in executed.cells if 'boom' in cell.source).execution_count}]" in message
    assert record["status"] == "failed"
    assert record["result"] == {"epochs": 3}
    assert record["error"].items() >= {"name": "ValueError", "message": "boom"}.items()
    assert "raise ValueError('boom')" in record["error"]["traceback"]
    assert "\x1b" not in record["error"]["traceback"]
    assert executed.cells[-1].outputs == []


def test_a_run_that_takes_too_long_is_given_up_with_what_it_printed_kept(here):
    path = write_notebook(here / "a.ipynb", "import time", "print('begun', flush=True)\nwhile True: time.sleep(0.1)")
    message, record, executed = failure_of(path, timeout=3)
    assert "TimeoutError: not done after 3 s" in message
    assert record["status"] == "failed"
    assert record["error"]["name"] == "TimeoutError"
    assert executed.cells[-1].outputs[0].text == "begun\n"


def test_a_kernel_that_dies_is_named(here):
    path = write_notebook(here / "a.ipynb", "import os\nos._exit(1)")
    message, record, _ = failure_of(path)
    assert "DeadKernelError: the kernel died" in message
    assert record["status"] == "failed"


# Run folders


@pytest.mark.usefixtures("no_kernel")
def test_run_folders_take_the_first_free_number(here):
    path = write_notebook(here / "a.ipynb")
    (here / "runs" / "a-2").mkdir(parents=True)
    assert [run_notebook(path, progress=False).folder.name for _ in range(2)] == ["a-1", "a-3"]


@pytest.mark.usefixtures("no_kernel")
def test_a_finished_run_is_never_written_over(here):
    path = write_notebook(here / "a.ipynb")
    run_notebook(path, "mine", progress=False)
    before = record_in(here / "mine")
    with pytest.raises(GhostkitError, match="folder 'mine' holds a finished run"):
        run_notebook(path, "mine", progress=False)
    assert record_in(here / "mine") == before


@pytest.mark.usefixtures("no_kernel")
def test_a_folder_whose_record_is_none_is_refused(here):
    path = write_notebook(here / "a.ipynb")
    (here / "mine").mkdir()
    (here / "mine" / "result.json").write_text("[]")
    with pytest.raises(
        GhostkitError, match=r"cannot use 'mine' as the run folder: .*result\.json' is no record of a run"
    ):
        run_notebook(path, "mine", progress=False)


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_failed_may_be_run_again_in_its_folder(here, status):
    path = write_notebook(here / "a.ipynb")
    (here / "mine").mkdir()
    (here / "mine" / "result.json").write_text(json.dumps({"status": status}))
    run_notebook(path, "mine", progress=False)
    assert record_in(here / "mine")["status"] == "done"


@pytest.mark.usefixtures("no_kernel")
def test_a_notebook_that_was_cut_short_after_it_had_trained_goes_on_and_a_trained_run_is_not_written_over(here):
    path = write_notebook(here / "a.ipynb")
    (here / "mine").mkdir()
    (here / "mine" / "result.json").write_text(json.dumps(TRAINED))
    with pytest.raises(GhostkitError, match="folder 'mine' holds a finished run"):
        run_notebook(path, "mine", progress=False)
    (here / "mine" / "a.ipynb").write_text("as far as it came")
    run_notebook(path, "mine", progress=False)
    assert record_in(here / "mine").items() >= {**TRAINED, "status": "done"}.items()


@pytest.mark.usefixtures("no_kernel")
def test_a_folder_that_is_given_as_a_parameter_stays_as_it_is(here):
    path = write_notebook(here / "a.ipynb")
    assert run_notebook(path, parameters={"folder": "mine"}, progress=False).parameters["folder"] == "mine"


def test_a_fault_of_ours_is_recorded_and_shows_itself(here, monkeypatch):
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(notebooks, "_execute", fail)
    with pytest.raises(ZeroDivisionError):
        run_notebook(write_notebook(here / "a.ipynb"), "mine", progress=False)
    assert record_in(here / "mine")["error"].items() >= {"name": "ZeroDivisionError", "message": "ours"}.items()


# A notebook that trains into its own folder

TRAINED = {"accuracy": 0.75, "params": 7, "macs": 9, "steps": 3, "seconds": 1.5}


@pytest.mark.parametrize("error", [None, OSError("full")])
def test_what_a_trainer_measured_in_the_run_folder_stands_beside_the_record(here, monkeypatch, error):
    def train(source: Path, executed: Path, *_: Any) -> None:
        (executed.parent / "result.json").write_text(json.dumps(TRAINED))
        executed.write_text(source.read_text())
        if error:
            raise error

    monkeypatch.setattr(notebooks, "_execute", train)
    with nullcontext() if error is None else pytest.raises(GhostkitError, match="full"):
        run_notebook(write_notebook(here / "a.ipynb"), "mine", progress=False)
    record = record_in(here / "mine")
    assert record.items() >= TRAINED.items()
    assert record["status"] == ("failed" if error else "done")
    assert record["parameters"]["epochs"] == 3


@pytest.mark.usefixtures("no_kernel")
def test_what_was_measured_before_a_failure_is_kept_when_the_notebook_is_run_again(here):
    path = write_notebook(here / "a.ipynb")
    (here / "mine").mkdir()
    failed = {"status": "failed", "error": {"name": "ValueError"}, "parameters": {}}
    (here / "mine" / "result.json").write_text(json.dumps({**failed, **TRAINED}))
    run_notebook(path, "mine", progress=False)
    record = record_in(here / "mine")
    assert record.items() >= {**TRAINED, "status": "done", "error": None}.items()
    assert record["parameters"]["name"] == "digits"


# Publishing


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_cannot_hold_is_not_published(value: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(GhostkitError, match="nothing that JSON can hold"):
        publish(value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("table", ["networks", [{"name": "seedling"}], [1]])
def test_a_table_of_something_else_is_refused_in_the_cell_that_publishes_it(table: Any):
    with pytest.raises(GhostkitError, match="expected rows with 'network'"):
        publish({"table": table})


# What a terminal shows


def told(monkeypatch: pytest.MonkeyPatch, terminal: bool, act: Callable[[Any], None]) -> str:
    """Return what a watch writes to standard error while it is acted on."""
    stream = io.StringIO()
    monkeypatch.setattr(
        notebooks, "Console", lambda **options: Console(file=stream, force_terminal=terminal, width=200, **options)
    )
    with notebooks._Watch("a", True, None) as watch:
        act(watch)
    return stream.getvalue()


def act_out(watch: Any) -> None:
    async def play() -> None:
        watch.notebook_started(new_notebook(cells=[new_markdown_cell("# Train [it]"), new_code_cell("train()")]))
        watch.cell_started(new_markdown_cell("# Train [it]"), 0)
        watch.cell_started(new_code_cell("train()"), 1)
        watch.write("epoch 1/2 lo")
        watch.write("ss [0.5]\n")
        watch._progress.refresh()

    with ThreadPoolExecutor(1) as pool:  # in this thread a browser of another test may have a loop running
        pool.submit(asyncio.run, play()).result()


def test_a_terminal_shows_cells_done_the_heading_and_the_last_line(monkeypatch):
    shown = told(monkeypatch, True, act_out)
    assert all(part in shown for part in ("1/2", "2/2", "Train [it]", "epoch 1/2 loss [0.5]"))


def test_a_log_gets_headings_and_a_line_now_and_then_but_no_bar(monkeypatch):
    assert told(monkeypatch, False, act_out) == "Train [it]\n"
