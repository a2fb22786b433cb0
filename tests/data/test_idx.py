"""The idx reader gives back what was written, and refuses everything else by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ghostkit.data.idx import read_idx, read_labelled_idx
from ghostkit.errors import GhostkitError

VALUES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
HEADER = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in VALUES.shape)
WHOLE = HEADER + VALUES.tobytes()


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_values_come_back_as_written_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(WHOLE) if name.endswith(".gz") else WHOLE)
    assert torch.equal(read_idx(path, 3), torch.from_numpy(VALUES))


@pytest.mark.parametrize(
    ("content", "dimensions", "complaint"),
    [
        (b"", 3, "starts with"),
        (b"\x89PNG....", 3, "starts with"),
        (bytes((0, 0, 13, 3)) + WHOLE[4:], 3, "starts with"),  # floating-point values
        (WHOLE, 1, "starts with"),
        (HEADER[:10], 3, "header has 10 bytes"),
        (WHOLE[:-1], 3, r"holds 23 values, expected 24 \(2 x 3 x 4\)"),
        (WHOLE + b"\0", 3, "holds 25 values"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 0)), 1, "no values"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, dimensions: int, complaint: str) -> None:
    path = tmp_path / "broken-ubyte"
    path.write_bytes(content)
    with pytest.raises(GhostkitError, match=rf"broken-ubyte.*{complaint}"):
        read_idx(path, dimensions)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(WHOLE, mtime=0)[:-12], gzip.compress(WHOLE, mtime=0)[:5], b"no gzip at all", b"\x1f\x8b"],
    ids=["cut short", "cut in the header", "text", "magic alone"],
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(GhostkitError, match=r"broken\.gz.*damaged"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [((0, 1, 0), "3 labels for the 2 images"), ((0, 7), "label 7, expected 0 to 1")],
)
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path, labels: tuple[int, ...], complaint: str) -> None:
    (tmp_path / "images").write_bytes(WHOLE)
    (tmp_path / "labels").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, len(labels))) + bytes(labels))
    with pytest.raises(GhostkitError, match=complaint):
        read_labelled_idx(tmp_path, "images", "labels", classes=2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(WHOLE)
    with pytest.raises(GhostkitError, match=r"'labels' \(or labels\.gz\)"):
        read_labelled_idx(tmp_path, "images", "labels", classes=2)
