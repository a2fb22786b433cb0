"""Sweeps with kernels: whatever a notebook does, its row says so, and whatever is killed, nothing finished is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from misbehaving import MISBEHAVE, PARAMETERS, PUBLISH, alive, pid_in, record_in, run_folder, wait_for
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner, Result

from ghostkit.cli import app
from ghostkit.comparing import compare
from ghostkit.runs import find_runs
from ghostkit.sweeps import SweepResult, run_sweep
from ghostkit.sweeps.table import CLOCK

KILLS = 20 if os.environ.get("GHOSTKIT_SOAK") else 3
posix = pytest.mark.skipif(os.name != "posix", reason="signals and process ids as on POSIX")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SweepResult]:
    """One sweep, two runs at a time, in which every kind of misfortune happens to somebody."""
    here = tmp_path_factory.mktemp("mixed")
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, (MISBEHAVE, PUBLISH))]
    nbformat.write(new_notebook(cells=cells), here / "a.ipynb")
    modes = [{"mode": mode} for mode in ("fail", "exit", "killed")]
    sweep = {"notebook": "a.ipynb", "list": [*modes, {"a": 2}], "workers": 2}
    (here / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        yield run_sweep("sweep.yaml")


@pytest.mark.parametrize(
    ("row", "status", "error"),
    [
        (0, "failed", "ValueError: two lines"),
        (1, "failed", "DeadKernelError: the kernel died, maybe for want of memory; more memory, or fewer runs"),
        (2, "failed", "DeadKernelError: the kernel died, maybe for want of memory; more memory, or fewer runs"),
        (3, "done", ""),
    ],
)
def test_each_misfortune_is_named_in_its_row_and_the_others_go_on(mixed, row, status, error):
    found = mixed.table.iloc[row]
    assert found["status"] == status
    assert found["error"].startswith(error)
    assert found["seconds"] > 0


def printed(folder: Path) -> list[str]:
    """What the executed notebook in ``folder`` printed."""
    cells = nbformat.read(folder / "a.ipynb", as_version=4).cells
    return [output["text"] for cell in cells for output in cell.get("outputs", []) if "text" in output]


def test_output_traceback_and_cell_of_a_failure_are_kept(mixed):
    assert printed(run_folder(mixed.folder, 1)) == ["begun\n"]
    error = record_in(run_folder(mixed.folder, 1))["error"]
    assert "raise ValueError" in error["traceback"]
    assert error["cell"].startswith("cell [")


def test_results_and_peak_memory_come_from_the_kernels(mixed):
    assert mixed.table["m.sum"][3] == 2.1
    if Path("/proc/self/status").exists():
        assert mixed.table["peak_memory"][[0, 3]].between(20e6, 2e9).all()


def test_no_kernel_is_left(mixed):
    for folder in (mixed.folder / "runs").iterdir():
        assert not alive(pid_in(folder))
        assert not (folder / "kernel.json").exists()


def test_a_run_that_hangs_is_given_up_and_what_it_printed_is_kept(here, write_sweep):
    result = run_sweep(write_sweep(parameters={"mode": "hang"}, timeout=3))
    assert list(result.table["error"]) == ["TimeoutError: not done after 3 s; a larger timeout gives it longer"]
    assert printed(result.folder / "runs/001") == ["begun\n"]
    assert not alive(pid_in(result.folder / "runs/001"))


# A notebook that trains into its own folder

TRAIN = """
import ghostkit
stages = [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]]
config = ghostkit.RunConfig(
    model_options={'stages': stages}, train_samples=128, test_samples=50, epochs=1, grow_from=0.2, grow_every=0.5,
    grow_until=0.9, share=0.4, budget_factor=3, probe_samples=32, seed=seed, device='cpu',
)
run = ghostkit.train(config, folder)
if mode == 'fail':
    raise ValueError('trained, and failed')
ghostkit.notebooks.publish({'accuracy': run.result['accuracy'], 'steps': -1})
"""


def test_runs_of_a_sweep_that_train_into_their_folders_are_runs_like_any_other(here, write_sweep, write_notebook):
    write_notebook("import ghostkit.notebooks", TRAIN)
    path = write_sweep(list=[{"seed": 0}, {"seed": 1}, {"seed": 2, "mode": "fail"}], workers=1)
    table = run_sweep(path).table
    assert list(table["status"]) == ["done", "done", "failed"]
    assert (table[["growth_events", "edits", "params", "macs"]] > 0).all(axis=None)
    runs = find_runs(here / "runs/sweep")
    assert [run.result["steps"] for run in runs] == [2] * 3, "what was published wins nothing that was measured"
    assert list(compare(runs).table["accuracy"])[:2] == list(table["m.accuracy"])[:2]
    compared = CliRunner().invoke(app, ["compare", str(here / "runs/sweep")])
    assert compared.exit_code == 0, compared.output
    assert "unfinished" not in compared.output


CORRECTED = TRAIN.replace("raise ValueError", "print").replace("RunConfig(", "RunConfig(learning_rate=0.05, ")


def test_a_run_that_failed_begins_anew_once_its_notebook_is_corrected(here, write_sweep, write_notebook):
    write_notebook("import ghostkit.notebooks", TRAIN)
    path = write_sweep(list=[{"seed": 2, "mode": "fail"}], workers=1)
    assert list(run_sweep(path).table["status"]) == ["failed"]
    assert CORRECTED.count("0.05") == 1
    write_notebook("import ghostkit.notebooks", CORRECTED)
    assert list(run_sweep(path).table["status"]) == ["done"]
    (run,) = find_runs(here / "runs/sweep")
    assert run.config.learning_rate == 0.05


# A file from a stranger


def test_a_hostile_sweep_writes_nothing_outside_its_folder_and_runs_nothing_but_its_notebook(here, write_sweep):
    texts = [
        "'); open('pwned', 'w').close() #",
        '"\nopen("pwned", "w").close()\n"',
        "$(touch pwned)`touch pwned`; touch pwned",
        "../../pwned\\",
        "{folder}/{0}/%s\u2028open('pwned','w')",
    ]
    before = sorted(path.name for path in here.iterdir())
    path = write_sweep("<img src=x onerror=alert(1)>.yaml", grid={"name": texts}, workers=2)
    result = run_sweep(path)
    assert list(result.table["p.name"]) == texts
    assert list(result.table["m.length"]) == [len(text) for text in texts]
    assert result.folder == here / "runs/img-src-x-onerror-alert-1"
    assert sorted(entry.name for entry in here.iterdir()) == sorted([*before, "a.ipynb", path.name, "runs"])
    assert not list(here.rglob("pwned"))
    page = (result.folder / "index.html").read_text()
    assert "<img" not in page
    assert "&#x27;); open(&#x27;pwned&#x27;" in page


# Interrupted and killed


@posix
def test_ctrl_c_ends_the_kernels_and_leaves_a_sweep_that_resumes(here, write_sweep, start):
    go = here / "go"
    path = write_sweep(list=[{"a": 2}, {"mode": "wait", "name": str(go)}, {"a": 4}], workers=1)
    command = start(path)
    folder = run_folder(here / "runs/sweep", 2)
    pid = pid_in(folder)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate()
    assert command.returncode == 130
    assert "Traceback" not in errors
    assert not alive(pid)
    assert record_in(folder)["status"] == "interrupted"
    table = pd.read_parquet(here / "runs/sweep/results.parquet")
    assert list(table["status"]) == ["done", "interrupted", "missing"]
    result = run_folder(here / "runs/sweep", 1) / "result.json"
    finished = result.stat().st_mtime_ns
    go.touch()
    assert start(path, "--quiet").wait() == 0
    assert result.stat().st_mtime_ns == finished
    assert list(pd.read_parquet(here / "runs/sweep/results.parquet")["status"]) == ["done"] * 3


@posix
def test_a_killed_sweep_takes_its_kernels_along(here, write_sweep, start):
    command = start(write_sweep(parameters={"mode": "hang"}))
    pid = pid_in(run_folder(here / "runs/sweep", 1))
    command.kill()
    command.wait()
    wait_for(lambda: not alive(pid))


@posix
def test_after_kills_at_random_moments_the_results_are_those_of_a_quiet_sweep(here, write_sweep, start):
    chance = random.Random(KILLS)
    said = {"grid": {"a": [1, 2, 3], "rate": [0.5, 1]}, "workers": 2}
    quiet = run_sweep(write_sweep(**said), "quiet").table
    path, folder = write_sweep(**said), here / "chaos"
    command, kills = start(path, "--folder", folder, "--quiet"), 0
    finished: dict[Path, int] = {}
    while kills < KILLS:
        wait_for(lambda command=command: any(folder.glob("runs/*/kernel.json")) or command.poll() is not None)
        time.sleep(chance.uniform(0, 1.5))
        kernels = [pid for note in folder.glob("runs/*/kernel.json") if (pid := noted(note))]
        if command.poll() is not None:  # it was over before the blow fell: some of it is to be done again
            for record in chance.sample(sorted(folder.glob("runs/*/record.json")), 3):
                record.unlink()
                finished.pop(record, None)
        elif kernels and chance.random() < 0.4:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(kernels), signal.SIGKILL)
                kills += 1
        else:
            command.kill()
            command.wait()
            kills += 1
        if command.poll() is not None:
            command = start(path, "--folder", folder, "--quiet")
        for record in folder.glob("runs/*/record.json"):
            if record_in(record.parent)["status"] == "done":
                written = record.stat().st_mtime_ns
                assert finished.setdefault(record, written) == written, "a finished run was run again"
    command.communicate()
    last = start(path, "--folder", folder)
    assert "6 of 6 runs are done" in last.communicate()[0]
    assert last.returncode == 0
    resumed = pd.read_parquet(folder / "results.parquet")
    pd.testing.assert_frame_equal(resumed.drop(columns=list(CLOCK)), quiet.drop(columns=list(CLOCK)))


def noted(note: Path) -> int:
    """The process that a run's folder names at this moment; 0 if none."""
    try:
        return int(json.loads(note.read_text())["pid"])
    except FileNotFoundError:
        return 0


# The command


def invoke(*words: object) -> Result:
    """`ghostkit sweep`, in this process, which has imported everything already."""
    return CliRunner().invoke(app, ["sweep", *map(str, words)])


def test_the_dry_run_prints_the_plan_and_runs_nothing(here, write_sweep):
    result = invoke(write_sweep(grid={"a": [1, 2]}), "--dry-run")
    assert result.exit_code == 0
    assert "001-a-1" in result.stdout
    assert "2 runs of a.ipynb, 0 done, 2 to do" in result.stdout
    assert "time needed: unknown until one has finished" in result.stdout
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"grid": {"epochs": [1]}}, "unknown parameter 'epochs'"),
        ({"grid": {"a": ["x"]}}, "parameter 'a' = 'x': expected a whole number"),
        ({"notebook": "b.ipynb"}, "has no cells tagged 'parameters'"),
        ({"parameters": {"folder": "/tmp"}}, "may not say where a notebook writes"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(here, write_sweep, write_notebook, said, message):
    write_notebook(path="b.ipynb", parameters=None)
    result = invoke(write_sweep(**said))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert message in result.stderr
    assert not (here / "runs").exists()


def test_a_failed_run_makes_the_status_1_and_tells_its_error(write_sweep):
    result = invoke(write_sweep(list=[{"a": 1}, {"mode": "fail"}], workers=2))
    assert result.exit_code == 1
    assert "1 of 2 runs are done" in result.stdout
    assert "-mode-fail: failed: ValueError: two lines" in result.stderr
    assert "the same command runs again what is not done" in result.stderr
    assert "0 of 2 done" in result.stderr
