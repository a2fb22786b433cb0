"""A notebook that misbehaves as it is told, and what it takes to watch its process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARAMETERS = "a = 1\nrate = 0.1\nname = 'x'\nflag = False\nmode = ''\nseed = 0\nfolder = None"
PUBLISH = "from ghostkit.notebooks import publish\npublish({'sum': a + rate + seed, 'length': len(name)})"
MISBEHAVE = """
import os, pathlib, signal, time
print('begun', flush=True)
(pathlib.Path(folder) / 'pid').write_text(str(os.getpid()))
if mode == 'fail':
    raise ValueError('two\\nlines')
if mode == 'exit':
    os._exit(3)
if mode == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
while mode == 'hang' or (mode == 'wait' and not pathlib.Path(name).exists()):
    time.sleep(0.05)
"""


def record_in(folder: Path) -> dict[str, Any]:
    """Return the record of a sweep's run."""
    return json.loads((folder / "record.json").read_text())


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something is there, and return it; what never comes is the time-out of whoever runs the tests."""
    while not (found := condition()):
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not asked for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(folder: Path) -> int:
    """Wait for the process id that the notebook writes into its folder."""
    path = folder / "pid"
    return int(wait_for(lambda: path.exists() and path.read_text()))


def run_folder(sweep: Path, number: int) -> Path:
    """Wait for the folder of run ``number`` in a sweep's folder."""
    return wait_for(lambda: next(sweep.glob(f"runs/{number:03d}*"), None))
