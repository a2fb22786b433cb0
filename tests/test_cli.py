"""The command: words in, calls of the package out, and one line on standard error for what the user can mend."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import nbformat
import pytest
import torch
from made_runs import make_run
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import ghostkit
from ghostkit import doctor, notebooks
from ghostkit.checkpoint import stored
from ghostkit.cli import app
from ghostkit.doctor import Check
from ghostkit.nn import build

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
    assert all(command in shown for command in ("run", "train", "compare", "data", "evaluate", "export", "doctor"))


def test_help_comes_without_importing_anything_heavy():
    heavy = "{'torch', 'torchvision', 'pandas', 'plotly', 'papermill', 'nbformat', 'jupyter_client'}"
    script = f"import sys, ghostkit.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_signs_that_a_code_page_lacks_do_not_end_a_command(tmp_path):
    make_run(tmp_path / "a-0")
    command = [sys.executable, "-m", "ghostkit", "compare", str(tmp_path)]
    shown = subprocess.check_output(command, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert b"1 seed" in shown or b"90.00 %" in shown
    assert b"???" in shown, "the line below the heading, in signs that are not known there"


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
        (["evaluate", "b"], "ghostkit: 'b' is not there; expected a run's or a checkpoint's folder, or weights"),
        (["evaluate", "."], "ghostkit: '.' holds neither a run (config.json) nor a checkpoint (manifest.json)"),
        (["evaluate", "b", "-p", "size", "3"], "ghostkit: unknown parameter 'size'; known are data, model, root, "),
        (["evaluate", "b", "-p", "batch_size", "few"], "ghostkit: parameter 'batch_size' = 'few': expected a whole"),
        (["export", "b", "--to", "b.onnx"], "ghostkit: 'b' is not there; expected"),
        (["train", "b.yaml"], "ghostkit: cannot read the configuration 'b.yaml'"),
        (["train", "a.yaml", "-p", "sede", "3"], "ghostkit: unknown parameter 'sede'; did you mean 'seed'?"),
        (
            ["train", "a.yaml", "--tracker", "board"],
            "ghostkit: unknown tracker 'board'; known are tensorboard, csv, mlflow",
        ),
        (["compare", "b"], "ghostkit: 'b' is no folder; expected a run, or a folder that holds runs"),
        (["compare", "."], "ghostkit: no run found in '.', up to 8 folders deep"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(here, words, message):
    write_notebook(here / "a.ipynb")
    (here / "a.yaml").write_text("epochs: 1")
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


# train and compare

SMALL = "train_samples: 64\ntest_samples: 40\nepochs: 1\nprobe_samples: 16\ndevice: cpu\n"


def test_train_makes_a_run_of_a_file_and_of_what_is_said_otherwise(here):
    (here / "first.yaml").write_text(SMALL)
    shown = invoke("train", "first.yaml", "-p", "when", "never", "-p", "seed", "2", "--tracker", "csv")
    assert shown.exit_code == 0, shown.output
    run = ghostkit.Run("runs/first-2")
    assert (run.config.when, run.config.seed, run.config.train_samples) == ("never", 2, 64)
    assert shown.stdout == f"{run}\nrun       runs/first-2\n"
    assert shown.stderr == "", "nobody looks"
    assert (here / "runs/first-2/csv/version_0/metrics.csv").is_file()


def test_train_takes_a_runs_own_configuration_and_goes_on_in_its_folder(here):
    shutil.copytree(trained(), here / "first")
    assert "run       first\n" in invoke("train", "first/config.json").stdout
    other = invoke("train", "first/config.json", "-p", "epochs", "2")
    assert (other.exit_code, other.stdout) == (2, "")
    assert "holds a run of another configuration (epochs=1.0 there, 2.0 now)" in other.stderr
    assert invoke("train", "first/config.json", "-p", "epochs", "2", "--folder", "second").exit_code == 0
    assert ghostkit.Run("second").config.epochs == 2


def test_train_leaves_a_persons_own_config_json_as_it_is(here):
    text = json.dumps({"train_samples": 64, "test_samples": 40, "epochs": 1, "when": "never", "device": "cpu"})
    (here / "config.json").write_text(text)
    assert "run       runs/config-0\n" in invoke("train", "config.json").stdout
    assert (here / "config.json").read_text() == text
    assert sorted(path.name for path in here.iterdir()) == ["config.json", "runs"]


def test_a_run_stopped_by_hand_goes_on_by_the_same_command(here, monkeypatch):
    (here / "first.yaml").write_text(SMALL + "evaluate_every: 0.5\nbatch_size: 8\n")
    step = ghostkit.Trainer._step
    monkeypatch.setattr(ghostkit.Trainer, "_step", lambda self, *batch: stop(self) or step(self, *batch))

    def stop(trainer: Any) -> None:
        if trainer.progress.step == 6:
            raise KeyboardInterrupt

    first = invoke("train", "first.yaml")
    assert (first.exit_code, first.stdout) == (130, ""), first.exception
    assert "stopped by hand; the same command goes on from the last checkpoint in runs/first-0" in first.stderr
    monkeypatch.setattr(ghostkit.Trainer, "_step", step)
    assert invoke("train", "first.yaml").exit_code == 0
    assert ghostkit.Run("runs/first-0").result["steps"] == 8


def test_two_processes_train_one_run_and_those_that_do_not_know_their_place_are_refused(here):
    (here / "first.yaml").write_text(SMALL)
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "ghostkit",
        "train",
        "first.yaml",
    ]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("run       runs/first-0") == 1  # the first process tells
    several = {**os.environ, "WORLD_SIZE": "2"}
    shown = subprocess.run([*words[:1], *words[6:]], capture_output=True, text=True, check=False, env=several)
    assert shown.returncode == 2
    assert shown.stderr.startswith("ghostkit: WORLD_SIZE is 2 in the environment, but RANK, LOCAL_RANK,")


def test_compare_ranks_the_runs_below_some_folders_and_writes_what_it_found(here):
    for when, start in (("interval", 0.93), ("never", 0.90)):
        for seed in range(3):
            make_run(here / "some" / when / f"{when}-{seed}", start + seed**2 / 100, when=when, seed=seed)
    shown = invoke("compare", "some/interval", "some/never", "--reference", "never", "--to", "out")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == "classification of digits"
    assert [line.split()[:3] for line in lines[4:6]] == [["1", "interval", "3"], ["2", "never", "3"]]
    assert "points above never" in lines
    assert lines[-3:] == [f"{kind.ljust(9)} out/comparison.{kind}" for kind in ("csv", "parquet", "html")]
    assert all((here / line.split()[-1]).is_file() for line in lines[-3:])
    assert "out/" not in invoke("compare", "some").stdout


# evaluate and export


@cache
def trained() -> Path:
    """A seedling trained for a moment; where it is copied to, commands find it."""
    config = ghostkit.RunConfig(train_samples=64, test_samples=40, epochs=1, when="never", device="cpu")
    return ghostkit.train(config, mkdtemp()).folder


def test_evaluate_prints_the_figures_of_a_run_and_its_speed_beside_them(here):
    shutil.copytree(trained(), here / "first")
    accuracy = ghostkit.Run("first").result["accuracy"]
    shown = invoke("evaluate", "first", "-p", "batch_size", "16", "-p", "device", "cpu")
    assert shown.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert rows.keys() == {"top-1", "top-5", "loss", "images"}
    assert (rows["top-1"], rows["images"]) == (f"{100 * accuracy:.2f} %", "40")
    assert "40/40" in shown.stderr
    assert "images/s" in shown.stderr
    assert invoke("evaluate", "first", "--quiet").stderr == ""


def test_evaluate_reads_published_weights_and_a_folder_per_class(here):
    save_file(stored(build("ghostnet_050", 2).state_dict()), "mine.safetensors")
    for name in ("cat", "dog"):
        (here / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), "red" if name == "cat" else "blue").save(here / "val" / name / "1.png")
    pairs = {"model": "ghostnet_050", "data": "folder:val", "image_size": 32, "mean": "[0.5, 0.5, 0.5]", "samples": 2}
    words = [word for name, value in pairs.items() for word in ("-p", name, value)]
    shown = invoke("evaluate", "mine.safetensors", *words)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[1:2] == ["top-5   100.00 %"]
    unnamed = invoke("evaluate", "mine.safetensors", "-p", "data", "folder:val")
    assert "give model, one of ghostnet_050" in unnamed.stderr


def test_evaluate_refuses_a_pickle_with_the_command_that_converts_it(here):
    torch.save({}, "my ghostnet_050.pth")
    shown = invoke("evaluate", "my ghostnet_050.pth", "-p", "data", "folder:val")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("ghostkit: 'my ghostnet_050.pth' was not opened: expected a .safetensors file")
    assert shown.stderr.endswith(""" 'my ghostnet_050.pth' 'my ghostnet_050.safetensors'\n""")


@pytest.mark.parametrize("words", [[], ["--image", "1x16x16"], ["--deployed"]])
def test_export_writes_the_network_of_a_run_and_says_how_well(here, words):
    shutil.copytree(trained(), here / "first")
    shown = invoke("export", "first", "--to", "model.pt2", *words)
    assert shown.exit_code == 0, shown.stderr
    side = 16 if "--image" in words else 8
    first, second = shown.stdout.splitlines()
    assert first == f"model.pt2: images of 1 x {side} x {side}, any number of them"
    assert float(second.rpartition(" ")[2]) < 1e-4
    program = torch.export.load("model.pt2")
    assert program.module()(torch.zeros(3, 1, side, side)).shape == (3, 10)
    assert any("running_mean" in name for name in program.state_dict) == ("--deployed" not in words), "BN is folded"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "model.pth"], "ghostkit: cannot export to 'model.pth'; expected a file that ends in .onnx or .pt2"),
        (
            ["--to", "model.pt2", "--image", "28x28"],
            "ghostkit: --image is '28x28', expected channels, height and width",
        ),
        (["--to", "model.pt2", "--image", "3x8x8"], "ghostkit: the network does not take images of 3 x 8 x 8"),
    ],
)
def test_what_export_cannot_do_is_one_line_and_status_2(here, words, message):
    shutil.copytree(trained(), here / "first")
    result = invoke("export", "first", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert not list(here.glob("model*"))


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
