"""Runs that are killed: a process that imports ghostkit once and forks a child for each run, which is killed as told.

Forking saves the imports, which take longer than a run. It is safe since the process itself has never trained: it has
no threads, and autograd has not begun. A child computes on one thread and takes latencies from names, so that two runs
of one configuration end on the same bits.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from bit_for_bit import by_name, timeless


class Victims:
    """The process that forks.

    >>> with Victims() as victims:
    ...     victims.run(config, folder, at=("write", 3, "half"))["code"]  # -9
    """

    def __enter__(self) -> Victims:
        tests = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reliability.victims"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, config: dict[str, Any], folder: Path, **how: Any) -> dict[str, Any]:
        """Train, from where the folder's run is, and return how that ended.

        Args:
            config: parameters of the run.
            folder: the run folder.
            **how: ``after``: seconds after which it is killed from outside; ``at``: the name of a place, the number of
                the call there, from 1, and what happens: it is killed "before", "half" (of what is written) or "after"
                it, the disk is "full", or somebody presses Ctrl-C ("interrupt"); ``limit``: bytes that no file may
                exceed.

        Returns:
            ``code``: the exit code, 0 at the end of a run, 3 after an error, -9 after a kill; ``seconds`` that it took;
            ``calls``: at the end of a run, how often each place was passed; ``error``: its name and message.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"config": config, "folder": str(folder), **how}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def left_of(folder: Path) -> dict[str, Any]:
    """Everything that a run has left in its folder, without what a clock said: files, checkpoints, all tensors."""
    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for name in ("config.json", "metrics.jsonl", "history.jsonl", "result.json"):
        found[name] = parsed(folder / name) if (folder / name).exists() else None
    for checkpoint in sorted((folder / "checkpoints").iterdir()):
        manifest = parsed(checkpoint / "manifest.json")[0]
        files = manifest.pop("files")
        manifest.pop("sha256")
        found[checkpoint.name] = {
            **manifest,
            "tensors": {name: entry["sha256"] for name, entry in files.items() if name != "history.jsonl"},
            "history": parsed(checkpoint / files["history.jsonl"]["file"]),
            "number of files": len(list(checkpoint.iterdir())),
        }
    return found


def parsed(path: Path) -> list[Any]:
    """The JSON values in a file, one or one a line, without what a clock said."""
    text = path.read_text()
    return [timeless(json.loads(line)) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of what differs between two folders, as :func:`left_of` returns them."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


# -- in the process that forks ---------------------------------------------------------------------------------------


def places() -> dict[str, tuple[Any, str]]:
    """Where a run may be killed: functions whose calls are counted."""
    from ghostkit.engine import Engine
    from ghostkit.growth.surgery import Surgery
    from ghostkit.run_folder import RunFolder
    from ghostkit.snapshot import Snapshot
    from ghostkit.stepping import Stepper

    return {
        "write": (os, "write"),
        "fsync": (os, "fsync"),
        "rename": (Path, "replace"),
        "unlink": (Path, "unlink"),
        "rmtree": (shutil, "rmtree"),
        "step": (Stepper, "update"),
        "score": (Engine, "candidates"),
        "grow": (Engine, "grow"),
        "settle": (Engine, "settle"),
        "restore": (Snapshot, "restore"),
        "surgery": (Surgery, "apply"),
        "statistics": (sys.modules["ghostkit.growth.grow"], "measure_fresh_statistics"),
        "metrics": (RunFolder, "add_metrics"),
        "history": (RunFolder, "write_history"),
        "prune": (RunFolder, "prune_checkpoints"),
    }


def counted(calls: dict[str, int], at: list[Any] | None) -> None:
    """Count the calls at every place, and be killed at one of them."""

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watching(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            moment = at[2] if at and at[:2] == [name, calls[name]] else ""
            if moment in ("half", "full") and name == "write":
                call(args[0], args[1][: len(args[1]) // 2])
            if moment == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            if moment == "interrupt":
                raise KeyboardInterrupt
            if moment in ("before", "half"):
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if moment == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return watching

    for name, (owner, attribute) in places().items():
        setattr(owner, attribute, watched(name, getattr(owner, attribute)))


def train(order: dict[str, Any]) -> dict[str, int]:
    from ghostkit import RunConfig, Trainer, costs, trainer

    costs.LatencyTable.measure = by_name  # type: ignore[method-assign]
    trainer.latency = lambda *_: 1.0  # type: ignore[assignment]
    if "limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
    calls: dict[str, int] = {}
    counted(calls, order.get("at"))
    Trainer(RunConfig(**order["config"]), order["folder"]).train()
    return calls


@contextmanager
def child(order: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Fork a child that trains, and yield its id and where it tells what it counted."""
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        write, code = os.write, 0
        try:
            said: dict[str, Any] = {"calls": train(order)}
        except BaseException as error:
            code, said = 3, {"error": f"{type(error).__name__}: {error}"}
        write(telling, json.dumps(said).encode())
        os._exit(code)
    os.close(telling)
    try:
        yield pid, told
    finally:
        os.close(told)


def serve() -> None:
    import torch

    from ghostkit import RunConfig, Trainer

    torch.set_num_threads(1)
    Trainer(RunConfig(device="cpu", train_samples=64, test_samples=16))  # what it imports, the children need not
    for line in sys.stdin:
        order, begun = json.loads(line), time.monotonic()
        with child(order) as (pid, told):
            if "after" in order:
                time.sleep(order["after"])
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            answer = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}
            if answer["code"] >= 0:
                answer |= json.loads(os.read(told, 65536))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
