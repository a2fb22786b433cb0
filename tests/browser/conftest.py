"""A real Chromium, a JupyterLab server and pages in it, all of their own: nothing of the user's is read or touched.

Every test leaves a screenshot in ``test-results/browser``, where the servers' logs are too, and fails if the page's
console tells of an error that is not among those known of JupyterLab and voila. Without a Chromium the tests are
skipped; ``GHOSTKIT_BROWSER=required`` makes that an error.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat
import pytest
from notebook_page import NotebookPage
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ghostkit import RunConfig, train
from ghostkit.browser import find_browser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "test-results" / "browser"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
PATIENCE = 300  # seconds for whatever a slow and busy machine is slow at

SWITCHES = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What JupyterLab and voila say in a healthy page; whatever else is said as an error counts as ours.
NOISE = [
    r"cdn\.jsdelivr\.net/npm/@fortawesome",  # voila's template asks for icons that its widgets bring anyway
]
# Settings of JupyterLab: all cells are in the page, no news, no toasts before the buttons.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        reason = "no Chromium was found; `make test` tries to get one, `ghostkit doctor` says how"
        if os.environ.get("GHOSTKIT_BROWSER") == "required":
            pytest.fail(f"{reason}, and GHOSTKIT_BROWSER=required")
        pytest.skip(f"NO BROWSER TEST IS RUN: {reason}")
    expect.set_options(timeout=PATIENCE * 1000)
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        switches = [*SWITCHES, *(["--no-sandbox"] if as_root else [])]
        browser = playwright.chromium.launch(executable_path=path, args=switches, timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page, whose screenshot is kept and whose console must be free of errors."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(PATIENCE * 1000)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    RESULTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=RESULTS / (re.sub(r"\W+", "-", request.node.name) + ".png"))
    context.close()
    assert [error for error in errors if not any(re.search(noise, error) for noise in NOISE)] == []


@pytest.fixture(scope="session")
def lab(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab server with a folder, a token and settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    server = Lab(home / "notebooks", free_port(), secrets.token_urlsafe(24))
    server.folder.mkdir()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={server.port}", "--ServerApp.port_retries=0"),
        f"--ServerApp.root_dir={server.folder}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--KernelSpecManager.kernel_dirs=[]",  # the one kernel is the Python that runs the tests
    ]
    environment = own_environment(home) | {"JUPYTER_TOKEN": server.token}
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"jupyterlab-{WORKER}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=server.folder)
        try:
            wait_until(server.is_up, process, log)
            yield server
        finally:
            ended(process)


class Lab:
    """A running JupyterLab server."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.folder, self.port, self.token = folder, port, token

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the answer to a request to the server's own interface."""
        headers = {"Authorization": f"token {self.token}"}
        request = Request(f"http://127.0.0.1:{self.port}/api/{path}", method=method, headers=headers)
        with urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def is_up(self) -> bool:
        """Return whether the server answers."""
        try:
            return bool(self.ask("status"))
        except (URLError, ConnectionError):
            return False

    def address(self, name: str) -> str:
        """Return the address of a notebook in a fresh workspace."""
        return f"http://127.0.0.1:{self.port}/lab/tree/{name}?reset&token={self.token}"


@pytest.fixture
def open_notebook(lab: Lab, page: Page) -> Iterator[Callable[..., NotebookPage]]:
    """Open a copy of a notebook, with other parameters, in JupyterLab; its kernel ends with the test."""

    def opened(name: str, only: Sequence[str] = (), **parameters: Any) -> NotebookPage:
        notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        (given,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        given.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
        if only:
            kept = [cell for cell in notebook.cells if cell is given or any(word in cell.source for word in only)]
            notebook.cells = [cell for cell in kept if cell.cell_type == "code"]
        nbformat.write(notebook, lab.folder / name)
        page.goto(lab.address(name))
        return NotebookPage(page, lab.folder / name)

    yield opened
    for session in lab.ask("sessions"):
        lab.ask(f"sessions/{session['id']}", "DELETE")


@pytest.fixture(scope="session")
def runs(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs, `first` and `second`, that grew alike."""
    folder = tmp_path_factory.mktemp("runs")
    config = RunConfig(epochs=3, train_samples=256, test_samples=128, grow_every=0.25, probe_samples=64, device="cpu")
    train(config, folder / "first")
    shutil.copytree(folder / "first", folder / "second")
    return folder


@pytest.fixture
def app(chromium: Browser, runs: Path, tmp_path: Path) -> Iterator[str]:
    """The address, with its token, of a running ``ghostkit app`` over those runs."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ghostkit", "app", str(runs), "--no-browser"]
    with (RESULTS / f"app-{WORKER}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=own_environment(tmp_path)
        )
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            ended(process)


def own_environment(home: Path) -> dict[str, str]:
    """Return this environment with Jupyter's and IPython's folders in ``home``."""
    jupyter = {name: f"JUPYTER_{name.upper()}_DIR" for name in ("config", "data", "runtime")}
    lab = {name: f"JUPYTERLAB_{name.upper()}_DIR" for name in ("settings", "workspaces")}
    places = {**jupyter, **lab, "ipython": "IPYTHONDIR"}
    return {**os.environ, **{variable: str(home / folder) for folder, variable in places.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(is_up: Callable[[], bool], process: subprocess.Popen[Any], log: Path) -> None:
    """Wait until a server answers; fail with its log if it ends, or is not up in time."""
    until = time.monotonic() + PATIENCE
    while not is_up():
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"the server did not come up:\n{log.read_text()}")
        time.sleep(0.2)


def ended(process: subprocess.Popen[Any]) -> None:
    """End a server, which ends its kernels."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
