"""Notebooks and sweep files that take no time, and the sweep's command as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from misbehaving import MISBEHAVE, PARAMETERS, PUBLISH
from nbformat.v4 import new_code_cell, new_notebook

from ghostkit.notebooks import NotebookError, NotebookResult
from ghostkit.sweeps import executing


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write_notebook(here: Path) -> Callable[..., Path]:
    """Write a notebook of a parameters cell and code cells."""

    def write(*cells: str, path: str = "a.ipynb", parameters: str | None = PARAMETERS) -> Path:
        nodes = [new_code_cell(cell) for cell in cells or (PUBLISH,)]
        if parameters is not None:
            nodes.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        nbformat.write(new_notebook(cells=nodes), here / path)
        return here / path

    return write


@pytest.fixture
def write_sweep(here: Path, write_notebook: Callable[..., Path]) -> Callable[..., Path]:
    """Write a sweep file over a notebook that misbehaves as its parameter `mode` says, and publishes numbers."""

    def write(path: str = "sweep.yaml", **said: Any) -> Path:
        if not (here / "a.ipynb").exists():
            write_notebook(MISBEHAVE, PUBLISH)
        (here / path).write_text(yaml.safe_dump({"notebook": "a.ipynb", **said}))
        return here / path

    return write


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The parameters of runs that were executed, in place of executing them; mode "fail" fails, "disk" is full."""
    seen: list[dict[str, Any]] = []

    def run(notebook: str, folder: Path, parameters: dict[str, Any], **options: Any) -> NotebookResult:
        seen.append(parameters | {"environment": options["environment"]})
        result = {"sum": parameters.get("a", 1) + 0.5, "network": "seedling", "margins": {"grown": 1}}
        if parameters.get("mode") == "disk":
            raise OSError(28, "No space left on device", str(folder))
        (folder / "result.json").write_text(json.dumps(parameters))
        if parameters.get("mode") == "fail" or (parameters.get("mode") == "once" and len(seen) == 1):
            error = {"name": "ValueError", "message": "boom", "traceback": "line 1", "cell": "cell [2]"}
            raise NotebookError("it failed", {"error": error, "seconds": 1.5, "result": result, "peak_memory": 7})
        executed = folder / Path(notebook).name
        executed.write_text("{}")
        return NotebookResult(folder, executed, executed, executed, parameters, result, 2.5, 1000)

    monkeypatch.setattr(executing, "run_notebook", run)
    return seen


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `ghostkit sweep` as a process of its own; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: object) -> subprocess.Popen[str]:
        command = subprocess.Popen(
            [sys.executable, "-m", "ghostkit", "sweep", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite that runs in the background was started with the signal ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(command)
        return command

    yield begin
    for command in started:
        if command.poll() is None:
            command.kill()
        command.communicate()
