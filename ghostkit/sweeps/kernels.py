"""The kernels' processes: written down when they start, and ended for certain.

A kernel ends by itself when its parent dies (ipykernel looks once a second), but one that holds on to a long
computation, or what a notebook has started itself, may stay. So the run's folder names its kernel's process while it
runs, and whoever runs there next ends what is left. A process is known by its number and its time of birth, since
numbers are used again. A kernel leads a process group of its own, which is ended with it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically

__all__ = ["Kernels", "end_leftovers", "note_kernel"]

FILE = "kernel.json"


def note_kernel(folder: Path, pid: int) -> None:
    """Write down that process ``pid`` works in ``folder``."""
    fact = {"pid": pid, "born": _born(pid), "host": platform.node()}
    write_atomically(folder / FILE, json.dumps(fact) + "\n")


def end_leftovers(folder: Path) -> bool:
    """End the kernel that is noted in ``folder``, if it still runs on this machine; return whether one did."""
    path = folder / FILE
    try:
        fact = json.loads(path.read_text())
        pid, born, host = int(fact["pid"]), fact["born"], fact["host"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        pid, born, host = 0, None, ""
    found = host == platform.node() and pid > 1 and _end_group(pid, born)
    path.unlink(missing_ok=True)
    return found


def _born(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _end_group(pid: int, born: float | None) -> bool:
    """Kill the group that process ``pid`` leads or led, unless the number belongs to another process by now."""
    now = _born(pid)
    if now is not None and (born is None or abs(now - born) > 1):
        return False
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            psutil.Process(pid).kill()
    except (OSError, psutil.Error):
        return False
    return True


class Kernels:
    """The kernels that this process has started for its sweeps, so that they can be stopped from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}
        self._stopped: set[str] = set()

    def add(self, folder: Path, pid: int) -> None:
        """Know the kernel of the run in ``folder``, and stop it at once if its sweep was stopped meanwhile."""
        with self._lock:
            self._running[str(folder)] = pid
        if self.stopped(folder):
            _signal(pid, signal.SIGINT)
        with suppress(GhostkitError):  # a full disk; the notebook will say so itself if it minds
            note_kernel(folder, pid)

    def remove(self, folder: Path) -> None:
        """Forget the kernel of the run in ``folder``, and end what is left of it."""
        with self._lock:
            self._running.pop(str(folder), None)
        end_leftovers(folder)

    def stopped(self, folder: Path) -> bool:
        """Return whether the sweep that the run in ``folder`` belongs to was stopped."""
        with self._lock:
            return any(folder.is_relative_to(place) for place in self._stopped)

    def stop(self, place: str | Path, hard: bool = False) -> None:
        """Interrupt all kernels of runs below the folder ``place``, and those to come; ``hard`` kills them."""
        with self._lock:
            if str(place) in self._stopped and not hard:
                return  # a second interrupt would disturb what the first one began
            self._stopped.add(str(place))
            pids = [pid for folder, pid in self._running.items() if Path(folder).is_relative_to(place)]
        for pid in pids:
            _signal(pid, signal.SIGKILL if hard and hasattr(signal, "SIGKILL") else signal.SIGINT)

    def busy(self, place: str | Path) -> bool:
        """Return whether a kernel of a run below ``place`` is known."""
        with self._lock:
            return any(Path(folder).is_relative_to(place) for folder in self._running)

    def allow(self, place: str | Path) -> None:
        """Let runs below ``place`` start again."""
        with self._lock:
            self._stopped.discard(str(place))


def _signal(pid: int, number: int) -> None:
    """Send a signal to the group that process ``pid`` leads."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except OSError:
        pass  # it has ended meanwhile
