"""What is written is whole, or what was there before is."""

from __future__ import annotations

import os

import pytest

from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically


@pytest.mark.parametrize(("data", "stored"), [("grün\n", "grün\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_replace_what_was_there_and_leave_nothing_else(tmp_path, data, stored):
    path = tmp_path / "result.json"
    path.write_text("something older and longer")
    write_atomically(path, data)
    assert path.read_bytes() == stored
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "result.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(GhostkitError, match=r"cannot write .*result\.json.*No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(GhostkitError, match=r"cannot write .*nowhere/result\.json"):
        write_atomically(tmp_path / "nowhere" / "result.json", "new")
