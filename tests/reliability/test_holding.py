"""One trainer at a time writes into a run's folder, and whoever is gone holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bit_for_bit import config

from ghostkit import GhostkitError, Run, Trainer
from ghostkit import holding as holding_module
from ghostkit.events import Evaluated, StepDone
from ghostkit.holding import Hold

HOLDER = """
import sys, time
from pathlib import Path
from ghostkit.holding import Hold
hold = Hold(Path(sys.argv[1]))
hold.sign("another")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def another(tmp_path):
    """Another process that holds the folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def left_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_another_process_holds_is_refused_by_name_and_not_touched(another, tmp_path):
    before = left_in(tmp_path)
    with pytest.raises(GhostkitError, match=rf"being trained in by process {another.pid} on .* since .*; wait until"):
        Trainer(config(), tmp_path)
    assert left_in(tmp_path) == before


def test_a_process_that_was_killed_holds_nothing(another, tmp_path):
    os.kill(another.pid, signal.SIGKILL)
    another.wait()
    assert Trainer(config(when="never", epochs=1), tmp_path).train()["steps"] == 4


def test_two_trainers_of_one_process_do_not_train_in_one_folder_at_once(tmp_path):
    first = iter(Trainer(config(), tmp_path))
    next(event for event in first if isinstance(event, StepDone))
    with pytest.raises(GhostkitError, match=r"by another Trainer of this process since .*close\(\) it"):
        Trainer(config(), tmp_path)
    assert Run(tmp_path).config == config()  # reading needs no lock
    assert [type(event).__name__ for event in first][-1] == "Finished"
    Trainer(config(), tmp_path)


def test_a_trainer_that_was_dropped_in_the_middle_lets_go(tmp_path):
    events = iter(Trainer(config(), tmp_path))
    next(event for event in events if isinstance(event, Evaluated))
    del events
    assert Trainer(config(), tmp_path).train()["steps"] == 8


def test_a_trainer_that_another_one_has_overtaken_says_so_and_writes_nothing(tmp_path):
    late = Trainer(config(), tmp_path)
    Trainer(config(), tmp_path).train()
    before = left_in(tmp_path)
    with pytest.raises(GhostkitError, match="another Trainer has been at work in"):
        late.train()
    assert left_in(tmp_path) == before


def test_where_the_file_system_cannot_lock_a_warning_says_so_and_the_run_goes_on(tmp_path, monkeypatch):
    def cannot(_file: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(holding_module, "_lock", cannot)
    with pytest.warns(UserWarning, match=r"cannot lock \(Operation not supported\)"):
        Hold(tmp_path).release()


TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bit_for_bit import config
from ghostkit.parallel import train_all
if __name__ == "__main__":
    train_all({Path(sys.argv[1], str(n)): config(epochs=100_000, when="never", seed=n) for n in range(2)}, workers=2)
"""


def test_workers_whose_parent_was_killed_end_and_let_go(tmp_path):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    words = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parents[1])]
    parent = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folders, deadline = [tmp_path / "0", tmp_path / "1"], time.monotonic() + 120
    while not all((folder / "checkpoints" / "step-00000000" / "manifest.json").exists() for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    for folder in folders:  # a deadline for being alive
        while True:
            try:
                Hold(folder).release()
                break
            except GhostkitError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
