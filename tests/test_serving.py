"""The explorer as a page: what is served, to whom, and that nothing of it is left. Voila runs for real."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from typer.testing import CliRunner

from ghostkit import serving
from ghostkit.cli import app
from ghostkit.errors import GhostkitError
from ghostkit.serving import serve_runs

PUBLIC = ("/login", "/voila/static/voila-style.js")
CLOSED = ("/voila/files/ghostkit.ipynb", "/voila/files/places.json", "/voila/files/image.png")
GUARDED = ("/", "/api/kernels/00000000-0000-0000-0000-000000000000", "/voila/tree", "/voila/api/contents", "/anything")


def run_at(folder: Path) -> Path:
    """Make a folder that looks like a run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "history.jsonl").write_text("")
    return folder


# What is refused before anything is served


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "'runs' is no folder; expected a run, or a folder that holds runs"),
        (["empty"], "no run found in 'empty', up to 8 folders deep"),
        (["run", "missing"], "'missing' is no folder"),
    ],
)
def test_where_no_run_is_the_command_says_where_it_looked(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run_at(tmp_path / "run")
    result = CliRunner().invoke(app, ["app", "--no-browser", *words])
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_voila_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "voila.app", None)
    with pytest.raises(GhostkitError, match=r"voila, .*, is not installed; get it by pip install 'ghostkit\[app\]'"):
        serve_runs([run_at(tmp_path / "run")])


@pytest.mark.parametrize("port", ["taken", 70_000])
def test_a_port_that_cannot_be_had_is_refused(port, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1] if port == "taken" else port
        with pytest.raises(GhostkitError, match=rf"port {number} cannot be used \(.*\); choose another"):
            serve_runs([run_at(tmp_path / "run")], port=number)


def test_the_command_passes_on_what_it_was_told(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(serving, "serve_runs", lambda *given: seen.append(given[:3]))
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["app"])
    CliRunner().invoke(app, ["app", "a", "b", "--port", "8866", "--no-browser"])
    assert seen == [([Path("runs")], 0, True), ([Path("a"), Path("b")], 8866, False)]


# What is served


def test_names_from_disk_reach_the_notebook_as_data(tmp_path):
    place = tmp_path / '"))\nraise SystemExit("'
    notebook = nbformat.read(serving._write_notebook(tmp_path, [place]), as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == [serving.SOURCE]
    said = json.loads((tmp_path / "places.json").read_text())
    assert said == {"here": str(Path.cwd()), "places": [str(place)]}


def test_the_page_reads_where_the_app_was_started_so_that_relative_paths_of_data_hold(tmp_path, monkeypatch):
    started, served, looked = tmp_path / "project", tmp_path / "served", []
    for folder in (started, served):
        folder.mkdir()
    monkeypatch.chdir(started)
    serving._write_notebook(served, ["runs"])
    monkeypatch.chdir(served)
    monkeypatch.setattr("ghostkit.runs.find_runs", lambda places: looked.append((Path.cwd(), *places)) or [])
    monkeypatch.setattr("ghostkit.widgets.gallery", lambda runs: None)
    exec(serving.SOURCE, {})
    assert looked == [(started, str(started / "runs"))]


def test_the_file_that_a_browser_is_started_with_leads_to_the_page(tmp_path):
    address = "http://127.0.0.1:1/?token=a&b"
    assert serving._redirection(tmp_path, address) == (tmp_path / "open.html").as_uri()
    assert "url=http://127.0.0.1:1/?token=a&amp;b" in (tmp_path / "open.html").read_text()


@dataclass(frozen=True)
class Server:
    """A running ``ghostkit app``: its process, its address, and the folder where it makes its own."""

    process: subprocess.Popen[str]
    port: int
    token: str
    folder: Path

    def get(self, path: str, token: str | None = None, host: str = "127.0.0.1") -> HTTPResponse:
        """Return the answer to a request, its body read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Host": f"{host}:{self.port}"} | ({"Authorization": f"token {token}"} if token else {})
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer


def started(folder: Path) -> Server:
    """Start ``ghostkit app`` and wait until it says where it is."""
    run_at(folder / "runs" / "a run")
    (folder / "own").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "ghostkit", "app", str(folder / "runs"), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
        env=os.environ | {"TMPDIR": str(folder / "own")},
        # A suite that runs in the background was started with the signal ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    line = process.stdout.readline()
    assert line.startswith("the explorer is at http://127.0.0.1:"), line + (folder / "stderr").read_text()
    address = urlsplit(line.split()[-1])
    return Server(process, address.port, address.query.removeprefix("token="), folder / "own")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = started(tmp_path_factory.mktemp("app"))
    yield running
    running.process.kill()
    running.process.wait()


posix = pytest.mark.skipif(os.name != "posix", reason="signals and process ids as on POSIX")


@posix
@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_its_token_nothing_is_answered(server, path, token):
    answer = server.get(path, token)
    assert answer.status in {302, 403}
    assert answer.status == 403 or answer.headers["Location"].startswith("/login")


@posix
@pytest.mark.parametrize("path", CLOSED)
def test_no_file_is_served_even_with_the_token(server, path):
    (next(server.folder.glob("ghostkit-*")) / "image.png").touch()
    assert server.get(path, server.token).status == 403


@posix
@pytest.mark.parametrize("path", PUBLIC)
def test_what_the_page_is_made_of_is_there(server, path):
    assert server.get(path).status == 200


@posix
def test_another_host_name_that_means_this_machine_is_refused(server):
    assert server.get("/login", host="localhost").status == 200
    assert server.get("/login", host="example.org").status == 403


@pytest.mark.skipif(sys.platform != "linux", reason="where all of 127.0.0.0/8 is this machine")
def test_no_other_address_of_this_machine_is_listened_to(server):
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", server.port))


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_the_token_opens_the_page_and_a_signal_ends_it_all(name, tmp_path):
    server = started(tmp_path)
    try:
        assert len(server.token) >= 32
        answer = server.get("/", server.token)  # which starts a kernel
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "http" not in answer.headers["Content-Security-Policy"]
        assert str(server.folder) in commands()
        server.process.send_signal(getattr(signal, name))
        assert server.process.wait(timeout=120) == 0
    finally:
        server.process.kill()
    assert str(server.folder) not in commands()
    assert list(server.folder.glob("*")) == []


def commands() -> str:
    """Return the command of every process."""
    return subprocess.check_output(["ps", "-A", "-ww", "-o", "args"], text=True)
