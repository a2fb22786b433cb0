"""A disk that is full, at whichever write, costs what was not saved yet and nothing else; a folder may be read only."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from bit_for_bit import config, latencies
from reliability.runs import RUNS
from reliability.victims import differing, left_of

import ghostkit
from ghostkit import AddBranch, GhostkitError, Run, Trainer
from ghostkit.checkpoint import load
from ghostkit.files import append_whole, write_atomically

posix = pytest.mark.skipif(os.name != "posix", reason="the runs are forked")
SOAK = bool(os.environ.get("GHOSTKIT_SOAK"))
STOPPED = 3


class Disk:
    """Stands for a disk: the n-th write puts half of what it was given, or the n-th flush fails, for want of space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full_at, self.calls, self.call = 0, 0, ""
        for name in ("write", "fsync"):
            monkeypatch.setattr(os, name, self.watching(name, getattr(os, name)))

    def fill(self, call: str, number: int) -> None:
        self.call, self.full_at, self.calls = call, number, 0

    def watching(self, name: str, call: Any) -> Any:
        def watched(file: int, *data: Any) -> Any:
            self.calls += name == self.call
            if name == self.call and self.calls == self.full_at:
                if data:
                    call(file, data[0][: len(data[0]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(file, *data)

        return watched


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Single files


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("write", [write_atomically, append_whole])
def test_a_file_stays_as_it_was_and_the_message_says_what_is_free(write, call, disk, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    disk.fill(call, 1)
    with pytest.raises(GhostkitError, match=r"cannot write '.*metrics\.jsonl': No space left .*\([\d,.]+ MB are free"):
        write(path, "new\n")
    assert files_in(tmp_path) == {"metrics.jsonl": b"old\n"}
    write(path, "new\n")
    assert path.read_text() == ("old\nnew\n" if write is append_whole else "new\n")


def test_what_a_disk_takes_in_pieces_is_put_together(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    write_atomically(tmp_path / "a", "one line\n")
    append_whole(tmp_path / "a", "another\n")
    assert (tmp_path / "a").read_text() == "one line\nanother\n"


# Checkpoints


@pytest.mark.parametrize("replacing", [True, False])
@pytest.mark.parametrize(("call", "number"), [("write", n) for n in range(1, 5)] + [("fsync", n) for n in range(1, 9)])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_nothing_else(call, number, replacing, disk, tmp_path):
    model = ghostkit.build("seedling", 3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    if replacing:
        ghostkit.save(model, tmp_path / "saved", optimizer)
    before = files_in(tmp_path)
    ghostkit.grow(model, AddBranch("blocks.0.0.ghost1", 5), optimizer)
    disk.fill(call, number)
    with pytest.raises(GhostkitError, match=r"cannot write '.*saved/.*': No space left"):
        ghostkit.save(model, tmp_path / "saved", optimizer)
    if (call, number) == ("fsync", 8):  # the folder's own flush, behind the manifest: all is written
        assert len(load(tmp_path / "saved").growth_history.events) == 1
    else:
        assert files_in(tmp_path) == before
        assert (tmp_path / "saved").exists() == replacing
    ghostkit.save(model, tmp_path / "saved", optimizer)
    assert disk.calls > number, "there are as many calls as are tried"
    assert len(load(tmp_path / "saved").growth_history.events) == 1
    assert len(files_in(tmp_path)) == 4


# Runs


@posix
def test_a_run_that_filled_the_disk_goes_on_once_there_is_space_and_ends_on_the_same_bits(victims, unbroken, tmp_path):
    whole = unbroken("sgd")
    for call in ("write", "fsync"):
        last = whole["calls"][call]
        for number in range(1, last + 1) if SOAK else {1, 6, last // 2, last // 2 + 1, last}:
            folder = tmp_path / f"{call}-{number}"
            ended = victims.run(RUNS["sgd"], folder, at=(call, number, "full"))
            assert ended["code"] == STOPPED
            assert re.match(rf"GhostkitError: cannot write '{folder}/.*': No space left on device", ended["error"])
            assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]
            assert victims.run(RUNS["sgd"], folder)["code"] == 0
            assert differing(whole["left"], left_of(folder)) == [], (call, number)


@posix
@pytest.mark.parametrize("limit", [50, 700, 2000, 4000, 6000])
def test_a_real_limit_on_the_size_of_files_is_met_as_well(limit, victims, unbroken, tmp_path):
    ended = victims.run(RUNS["sgd"], tmp_path / "run", limit=limit)
    assert ended["code"] == STOPPED
    assert "GhostkitError: cannot write" in ended["error"]
    assert "File too large" in ended["error"]
    assert victims.run(RUNS["sgd"], tmp_path / "run")["code"] == 0
    assert differing(unbroken("sgd")["left"], left_of(tmp_path / "run")) == []


@pytest.mark.usefixtures(latencies.__name__)
def test_a_trainer_that_could_not_write_says_to_make_it_again(disk, tmp_path):
    trainer = Trainer(config(), tmp_path)
    disk.fill("write", 4)
    with pytest.raises(GhostkitError, match="No space left"):
        trainer.train()
    before = files_in(tmp_path)
    for what in (trainer.train, trainer.save):
        with pytest.raises(GhostkitError, match=r"was interrupted in the middle of something; make its Trainer again"):
            what()
    assert files_in(tmp_path) == before
    assert Trainer(config(), tmp_path).train()["steps"] == 8


# Folders that may only be read


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses whatever would be written; who may do everything does not notice permissions."""
    opened, mkdir = os.open, Path.mkdir

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **named)

    def make(path: Path, *args: Any, **named: Any) -> None:
        if not path.is_dir():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *args, **named)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", make)


@pytest.mark.usefixtures(latencies.__name__)
def test_a_folder_that_is_read_only_is_refused_before_training_and_can_be_read(tmp_path, request):
    ghostkit.train(config(when="never"), tmp_path / "run")
    before = files_in(tmp_path)
    request.getfixturevalue(read_only.__name__)
    with pytest.raises(GhostkitError, match=r"cannot write in the folder '.*run': Read-only .*; choose another folder"):
        Trainer(config(when="never"), tmp_path / "run")
    with pytest.raises(GhostkitError, match=r"cannot make the run folder '.*other': Read-only"):
        Trainer(config(when="never"), tmp_path / "other")
    run = Run(tmp_path / "run")
    assert run.result["steps"] == 8
    assert len(run.metrics) == 9
    assert run.model("best") is not None
    assert files_in(tmp_path) == before


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures(latencies.__name__)
def test_a_folder_without_permission_is_refused_before_training(tmp_path):
    ghostkit.train(config(when="never"), tmp_path / "run")
    before = files_in(tmp_path)
    (tmp_path / "run" / ".trainer.lock").unlink()
    (tmp_path / "run").chmod(0o555)
    try:
        with pytest.raises(GhostkitError, match=r"cannot write in the folder '.*run': Permission denied"):
            Trainer(config(when="never"), tmp_path / "run")
        assert files_in(tmp_path) == {name: data for name, data in before.items() if not name.endswith(".lock")}
    finally:
        (tmp_path / "run").chmod(0o755)
