"""The explorer as a page of its own: voila, on this machine alone, behind a token.

One notebook is served and nothing beside it. It is made in a folder that goes when the server ends, its code is always
the same, and the folders to look in reach it as data. What the user has configured for Jupyter or voila is not read, so
that no old setting opens the page to others, and the page loads nothing from the network.
"""

from __future__ import annotations

import html
import json
import os
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from ghostkit.errors import GhostkitError
from ghostkit.runs import find_runs

__all__ = ["serve_runs"]

HOST = "127.0.0.1"
PLACES = "places.json"
NOTEBOOK = "ghostkit.ipynb"  # its name is the title of the page
SOURCE = f"""\
import json
import os
from pathlib import Path

from ghostkit import widgets
from ghostkit.runs import find_runs

said = json.loads(Path("{PLACES}").read_text())
os.chdir(said["here"])
widgets.gallery(find_runs(said["places"]))"""
# Widgets come as scripts made in the page; what is not of this server is refused at once, icons by a CDN too.
POLICY = (
    "default-src 'self'; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'"
)
SHORT = 35  # letters of a folder below which voila's names still make the path of a Unix socket
LEFT_ALONE = 600  # seconds after which the kernel of a page that nobody looks at any more is ended


def serve_runs(
    places: Sequence[str | Path], port: int = 0, open_browser: bool = True, tell: Callable[[str], Any] = print
) -> None:
    """Serve a page that explores the runs in some folders and below them, until Ctrl-C or SIGTERM.

    Args:
        places: run folders, or folders that hold runs; they are looked through again whenever the page is loaded.
        port: on 127.0.0.1; 0 takes a free one.
        open_browser: whether to show the page in the user's browser.
        tell: is given the page's address, with its token, once it can be opened.

    Raises:
        GhostkitError: if voila is not installed, there is no run, or the port is taken.
    """
    try:
        from tornado.ioloop import IOLoop
        from voila.app import Voila  # type: ignore[import-untyped]
    except ImportError:
        raise GhostkitError(
            "voila, which serves the page, is not installed; get it by pip install 'ghostkit[app]'"
        ) from None
    find_runs(places)
    port = _free_port(port)
    token = secrets.token_urlsafe(24)
    with TemporaryDirectory(prefix="ghostkit-") as name:
        folder = Path(name)
        server = Voila(config=_configuration(folder, port, token))
        server.initialize([_write_notebook(folder, places)])
        address = f"http://{HOST}:{port}/?token={token}"

        def ready() -> None:
            tell(address)
            if open_browser:
                webbrowser.open(_redirection(folder, address))

        IOLoop.current().add_callback(ready)
        if hasattr(signal, "SIGHUP"):  # the terminal was closed
            signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        server.start()


def _configuration(folder: Path, port: int, token: str) -> Any:
    """Return what voila is told: this machine, this notebook, this token, this Python."""
    from traitlets.config import Config

    # Files reach a kernel only from this folder; where their path would be too long for a socket, ports do.
    transport = "ipc" if os.name == "posix" and len(str(folder)) <= SHORT else "tcp"
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    return Config(
        {
            "Voila": {
                "ip": HOST,
                "port": port,
                "port_retries": 0,
                "token": token,
                "open_browser": False,  # voila's own way leaves out the token
                "config_file_paths": [],
                "root_dir": str(folder),
                "connection_dir_root": str(folder),
                # Any host name would do otherwise, also one that a web page has made to mean this machine.
                "tornado_settings": {"allow_remote_access": False, "headers": headers},
                # The default one would let whoever has the token set a password in the user's configuration.
                "identity_provider_class": "jupyter_server.auth.identity.IdentityProvider",
                "log_level": "ERROR",
            },
            "VoilaConfiguration": {
                "allow_template_override": "NO",
                "allow_theme_override": "NO",
                "file_allowlist": [],
                "show_tracebacks": True,
            },
            # The one kernel is the Python that runs ghostkit, wherever an installed one named python3 may lead.
            "KernelSpecManager": {"kernel_dirs": []},
            "KernelManager": {"transport": transport},
            "MappingKernelManager": {"cull_idle_timeout": LEFT_ALONE, "cull_interval": LEFT_ALONE // 10},
        }
    )


def _write_notebook(folder: Path, places: Sequence[str | Path]) -> str:
    """Write the notebook and, as data, the places that it looks in, and from where; return the notebook's path."""
    said = {"here": str(Path.cwd()), "places": [str(Path(place).resolve()) for place in places]}
    (folder / PLACES).write_text(json.dumps(said))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell(SOURCE)], metadata={"kernelspec": kernel}), folder / NOTEBOOK)
    return str(folder / NOTEBOOK)


def _free_port(port: int) -> int:
    """Return ``port``, or a free one for 0.

    Raises:
        GhostkitError: if it cannot be had.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: one just given up is free
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise GhostkitError(f"port {port} cannot be used ({error}); choose another, or 0 for a free one") from None
        return probe.getsockname()[1]


def _redirection(folder: Path, address: str) -> str:
    """Return the address of a file that leads to ``address``: what a browser is started with, any user can read."""
    path = folder / "open.html"
    path.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(address)}">')
    return path.as_uri()
