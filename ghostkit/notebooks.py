"""Run a notebook without a person in front of it.

Papermill executes; what stands here is what it leaves to its callers. Parameters are checked before a kernel starts
(papermill only warns), the kernel is this very Python reached over files instead of ports, a terminal shows what the
running cell says, and a record of our own tells how it ended, since papermill's metadata lie after a timeout.

A notebook declares its knobs as plain literals in one cell tagged `parameters`. One of them may be `folder = None`: it
receives the run folder, and may train into it. Its results leave by :func:`publish`, in its last cell. What a run
leaves behind:

    FOLDER/<notebook>.ipynb   executed, as far as it came
    FOLDER/<notebook>.html    the same as a page that opens offline, once the notebook has ended well
    FOLDER/result.json        parameters, status (done, failed, interrupted), result, seconds, peak memory, error; where
                              it trained into FOLDER, beside what the trainer wrote there, whose seconds stay
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from traitlets.config import Config

import ghostkit
from ghostkit.errors import GhostkitError
from ghostkit.files import free_folder, write_atomically
from ghostkit.parameters import check_parameters, declared_parameters, plain
from ghostkit.run_folder import result_noted

__all__ = ["NotebookError", "NotebookResult", "publish", "run_notebook"]

RESULT_TYPE = "application/vnd.ghostkit.result+json"

# Papermill's warnings go where the caller's logging sends them, and nowhere (not into the progress bar) without any.
logging.getLogger("papermill").addHandler(logging.NullHandler())

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


class NotebookError(GhostkitError):
    """A notebook was begun and did not end well.

    Args:
        message: what went wrong, and where to look.
        facts: what the run's record says, which a full disk may have kept from being written.
    """

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass(frozen=True)
class NotebookResult:
    """Where a notebook that ended well left what, what it published, and what it took.

    ``peak_memory`` is the most memory that its kernel held at a time, in bytes; None where the system does not tell.
    """

    folder: Path
    executed: Path
    record: Path
    report: Path
    parameters: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    peak_memory: int | None = None


# Results


def publish(result: Mapping[str, Any]) -> None:
    """Hand a notebook's results to whoever runs it; for the notebook's last cell.

    Args:
        result: names and plain values; numpy's and torch's numbers and arrays are turned into numbers and lists.
            `table`, a list of rows for :func:`ghostkit.views.closing_table`, and `summary`, a sentence, are what
            `ghostkit run` prints.

    Raises:
        GhostkitError: if a value is nothing that JSON can hold, or `table` is no list of rows that each name a network.
    """
    from IPython.display import display

    values = plain(dict(result))
    rows = values.get("table") or []
    if not (isinstance(rows, list) and all(isinstance(row, dict) and "network" in row for row in rows)):
        raise GhostkitError(f"table={rows!r:.200}: expected rows with 'network', as ghostkit.summary makes them")
    text = "\n".join(f"{name}: {value}" for name, value in values.items() if name != "table")
    display({RESULT_TYPE: values, "text/plain": text}, raw=True)


def _published(executed: Path) -> dict[str, Any]:
    """Return what the executed notebook published last."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return {}  # it failed before there was anything to save
    bundles = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return next((bundle[RESULT_TYPE] for bundle in reversed(bundles) if RESULT_TYPE in bundle), {})


# Running


def run_notebook(
    notebook: str | Path,
    folder: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    kernel: str = "python3",
    progress: bool = True,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    on_kernel: Callable[[int], None] | None = None,
    place: str | Path | None = None,
) -> NotebookResult:
    """Execute a notebook in a kernel of its own and return where its results are.

    Args:
        notebook: path of an .ipynb file; it is left as it is.
        folder: the run folder, made if missing; by default the first free `runs/<notebook>-<n>`.
        parameters: values for names that the notebook declares.
        timeout: seconds after the kernel's start at which the run is given up.
        kernel: a Jupyter kernel; `python3` is always the Python that runs this.
        progress: whether standard error shows the cell that runs and what it says last.
        on_line: called with each line that a cell prints.
        environment: variables that the kernel `python3` gets beside those of this process.
        on_kernel: called with the process id of the kernel `python3` as soon as it is started.
        place: the folder that it works in; the current one when None. Relative paths in parameters start there.

    Raises:
        GhostkitError: before anything runs, if a parameter, the folder or the kernel cannot be used.
        NotebookError: if a cell failed, the kernel died or the time is over. The record and the notebook as far as
            it came are kept.
    """
    from papermill.exceptions import PapermillException

    from ghostkit.views.report import write_report

    source = Path(notebook)
    declared = declared_parameters(source)
    given = check_parameters(declared, parameters or {})
    if timeout is not None and not timeout > 0:
        raise GhostkitError(f"timeout = {timeout!r}: expected a number of seconds above 0")
    if kernel != _OwnKernel.NAME and kernel not in (known := KernelSpecManager().find_kernel_specs()):
        raise GhostkitError(f"unknown kernel {kernel!r}; known are {', '.join(sorted({*known, _OwnKernel.NAME}))}")
    folder = _make_folder(source, folder)
    if "folder" in declared:
        given.setdefault("folder", str(folder))

    executed, record = folder / f"{source.stem}.ipynb", folder / "result.json"
    watch = _Watch(source.stem, progress, on_line)
    process = _Process(dict(environment or {}), on_kernel, place)
    started = time.perf_counter()

    def close(status: str, error: dict[str, Any] | None = None) -> dict[str, Any]:
        facts = {
            "notebook": str(source),
            "ghostkit": ghostkit.__version__,
            "parameters": {**plain(declared), **given},
            "status": status,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory": process.peak_memory,
            "result": _published(executed),
            "error": error,
        }
        noted = result_noted(record)
        measured = {name: value for name, value in noted.items() if name not in facts or name == "seconds"}
        try:
            write_atomically(record, json.dumps({**facts, **measured}, indent=2) + "\n")
        except GhostkitError:
            if not error:
                raise
        return facts

    try:
        with watch:
            _execute(source, executed, given, timeout, kernel, watch, process)
    except BaseException as failure:
        error = {**_described(failure, timeout), "cell": watch.place}
        facts = close("failed" if isinstance(failure, Exception) else "interrupted", error)
        if not isinstance(failure, PapermillException | RuntimeError | OSError):
            raise  # a Ctrl-C, or a fault of ours
        raise NotebookError(
            f"notebook {str(source)!r} failed in {watch.place}: {error['name']}: {error['message']} "
            f"(as far as it came: {str(executed)!r}; traceback: {str(record)!r})",
            facts,
        ) from failure
    facts = close("done")
    report = folder / f"{source.stem}.html"
    write_report(executed, report)
    ended = (facts[name] for name in ("parameters", "result", "seconds", "peak_memory"))
    return NotebookResult(folder, executed, record, report, *ended)


def _make_folder(source: Path, folder: str | Path | None) -> Path:
    """Return the absolute path of a folder that is there and holds no finished run."""
    try:
        if folder is None:
            return free_folder("runs", source.stem)
        path = Path(folder).expanduser().resolve()
        if (path / f"{source.stem}.ipynb").resolve() == source.resolve():
            raise GhostkitError(f"folder {str(folder)!r} holds the notebook itself; give a folder for what it makes")
        record = path / "result.json"
        # A trainer's result has no status; beside the executed notebook, it is that of one that was cut short.
        unsaid = "cut short" if (path / f"{source.stem}.ipynb").exists() else "done"
        if record.exists():
            noted = json.loads(record.read_text())
            if not isinstance(noted, dict):
                raise ValueError(f"{str(record)!r} is no record of a run")
            if noted.get("status", unsaid) == "done":
                raise GhostkitError(f"folder {str(folder)!r} holds a finished run; give another, or remove it first")
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise GhostkitError(f"cannot use {str(folder or 'runs')!r} as the run folder: {error}") from error
    return path


@dataclass
class _Process:
    """The kernel's process: what it is given, whom its start is told, and the most memory that it held, in bytes."""

    environment: dict[str, str]
    started: Callable[[int], None] | None
    place: str | Path | None
    peak_memory: int | None = None


class _OwnKernel(AsyncKernelManager):
    """The kernel of the Python that runs ghostkit, wherever an installed kernel named python3 may lead."""

    NAME = "python3"
    process: _Process  # of a subclass for each run, since papermill wants a class

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    @property
    def pid(self) -> int:
        return getattr(self.provisioner, "pid", None) or 0

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        if self.process.place is not None:
            options["cwd"] = str(self.process.place)  # of the kernel alone; papermill's would be that of all threads
        await super().start_kernel(**options, env={**os.environ, **self.process.environment})
        if self.process.started:
            self.process.started(self.pid)

    async def shutdown_kernel(self, *args: Any, **options: Any) -> None:  # type: ignore[override]
        self.process.peak_memory = _peak_memory(self.pid) or self.process.peak_memory
        await super().shutdown_kernel(*args, **options)


def _peak_memory(pid: int) -> int | None:
    """Return the most memory that a process has held so far, in bytes, where the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None


def _execute(
    source: Path,
    executed: Path,
    given: dict[str, Any],
    timeout: float | None,
    kernel: str,
    watch: _Watch,
    process: _Process,
) -> None:
    """Have papermill execute ``source``; the notebook is saved after every cell, so a failure loses nothing."""
    import papermill

    options: dict[str, Any] = {}
    if timeout is not None:  # nbclient's is the time of one cell
        options["timeout_func"] = lambda cell: max(0.001, timeout - (time.monotonic() - watch.began))
    if kernel == _OwnKernel.NAME:
        # What a kernel logs about its own end is no news; what a cell raises comes by another way.
        manager = type("_Kernel", (_OwnKernel,), {"process": process})
        options |= {"kernel_manager_class": manager, "extra_arguments": ["--log-level=50"]}
    with tempfile.TemporaryDirectory(prefix="ghostkit-") as folder:
        # Ports are drawn by lot, and kernels that start together draw the same ones; files in a folder of one's own
        # collide with nobody. The path of a socket may have some hundred characters.
        if os.name == "posix" and len(folder) < 90:
            options["config"] = Config(
                KernelManager={"transport": "ipc", "ip": f"{folder}/s", "connection_file": f"{folder}/kernel.json"}
            )
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, executed)),  # papermill formats them
            parameters=given,
            kernel_name=kernel,
            language="python",
            progress_bar=False,
            stdout_file=watch,
            stderr_file=watch,
            coalesce_streams=True,  # a thousand printed lines are one output
            iopub_timeout=60,  # seconds that a busy machine may need to pass on what a finished cell printed
            store_widget_state=False,  # megabytes that nobody can click on
            on_notebook_start=watch.notebook_started,
            on_cell_start=watch.cell_started,
            **options,
        )


def _described(failure: BaseException, timeout: float | None) -> dict[str, str]:
    """Return name, message and traceback of what ended a notebook, as plain text."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    match failure:
        case PapermillExecutionError():
            name, message, trace = failure.ename, failure.evalue, "\n".join(failure.traceback)
        case CellTimeoutError() if timeout is not None:
            name, message, trace = "TimeoutError", f"not done after {timeout:g} s; a larger timeout gives it longer", ""
        case DeadKernelError():
            message = "the kernel died, maybe for want of memory; more memory, or fewer runs at a time, would help then"
            name, trace = "DeadKernelError", ""
        case KeyboardInterrupt():
            name, message, trace = "KeyboardInterrupt", "stopped by hand", ""
        case _:
            name, message, trace = type(failure).__name__, str(failure), "".join(traceback.format_exception(failure))
    return {"name": name, "message": _ANSI.sub("", message), "traceback": _ANSI.sub("", trace)}


class _Watch:
    """What goes on in the kernel, told to a terminal and to whoever listens; a file to papermill, hooks to nbclient."""

    def __init__(self, title: str, shown: bool, on_line: Callable[[str], None] | None) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[line]}", style="dim", markup=False, table_column=Column(no_wrap=True)),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
        )
        self._bar = self._progress.add_task("starting a kernel", total=None, line="")
        self._on_line = on_line
        self._title, self._heading = title, ""
        self._cell: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._text = ""
        self._told = self.began = 0.0

    def __enter__(self) -> _Watch:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.write("\n")
        if self._task and self._task.done() and not self._task.cancelled():
            self._task.exception()  # after a Ctrl-C nobody else asks, and asyncio would complain about that
        if kind is None:
            self._progress.update(self._bar, completed=self._progress.tasks[0].total, line="")
        self._progress.stop()

    @property
    def place(self) -> str:
        """Where the notebook is, in the words that a reader of it would use."""
        if self._cell is None:
            return "the start of its kernel"
        under = f" under {self._heading!r}" if self._heading else ""
        return f"cell [{self._cell.execution_count or ' '}]{under}"

    def notebook_started(self, notebook: Any) -> None:
        self.began = time.monotonic()
        self._progress.update(self._bar, total=len(notebook.cells))

    def cell_started(self, cell: Any, cell_index: int) -> None:
        self.write("\n")
        self._task = asyncio.current_task()
        if cell.cell_type == "code":
            self._cell = cell
        elif headings := _HEADING.findall(cell.source):
            self._heading = headings[-1]
            if self._progress.disable:
                self._tell(self._heading)
        self._progress.update(self._bar, completed=cell_index, description=self._heading or self._title, line="")

    def write(self, text: str) -> None:
        """Take what a cell prints, a line of which may come in several parts; \\r ends a line, as for tqdm's bars."""
        *lines, self._text = re.split(r"[\r\n]+", self._text + _ANSI.sub("", text))
        for line in filter(str.strip, lines):
            self._said(line)
        if self._text.strip():
            self._progress.update(self._bar, line=self._text.strip())

    def flush(self) -> None:
        """Do nothing, since nothing is held back: papermill flushes what it takes for a file."""

    def _said(self, line: str) -> None:
        self._progress.update(self._bar, line=line.strip())
        if self._progress.disable and time.monotonic() - self._told > 10:
            self._tell(f"  {line}")
        if self._on_line:
            self._on_line(line)

    def _tell(self, line: str) -> None:
        """Print a line where no bar can move, such as in a log."""
        self._told = time.monotonic()
        self._console.print(line, markup=False, highlight=False)
