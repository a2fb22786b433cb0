"""Files that are whole or not there.

What a run writes must outlive the moment at which the run is killed, or the disk is full: a reader finds the old
content or the new one, and never half of either. Nothing here knows what the files hold.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ghostkit.errors import GhostkitError

__all__ = ["append_whole", "free_folder", "remove_drafts", "unwritable", "write_atomically"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def free_folder(parent: str | Path, stem: str) -> Path:
    """Make and return the first folder ``parent/stem-1``, ``parent/stem-2``, ... that is not there yet.

    Raises:
        GhostkitError: if it cannot be made.
    """
    for number in itertools.count(1):
        path = Path(parent, f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise GhostkitError(f"cannot make the folder {str(path)!r}: {error.strerror or error}") from error
        return path.resolve()
    raise AssertionError("the numbers do not end")


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` so that a crash at any moment leaves the old file or the new one.

    Args:
        path: the file to write; its folder must exist.
        data: text, stored as UTF-8, or bytes.

    Raises:
        GhostkitError: if the file cannot be written; it is then whole, the old one or the new one.
    """
    path = Path(path)
    # Beside the target, since a file can be renamed atomically within one file system only.
    draft = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        try:
            with draft.open("xb", buffering=0) as file:
                _write(file.fileno(), data)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def append_whole(path: str | Path, data: str) -> None:
    """Append ``data`` to ``path``, or nothing where not all of it can be written.

    Raises:
        GhostkitError: if the file cannot be written; it is then as it was.
    """
    try:
        with Path(path).open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                _write(file.fileno(), data)
            except BaseException:  # what came next would be appended to half a line
                with suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def remove_drafts(folder: Path) -> None:
    """Remove what a process that was killed has left of :func:`write_atomically` in ``folder``."""
    for path in folder.glob(".*.tmp"):
        if DRAFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def unwritable(path: str | Path, error: OSError) -> GhostkitError:
    """Return what to raise where ``path`` cannot be written; where the disk is full, it says what is free."""
    told = f"cannot write {str(path)!r}: {error.strerror or error}"
    if error.errno in FULL:
        with suppress(OSError):
            free = shutil.disk_usage(Path(path).parent).free
            told += f" ({free / 1e6:,.1f} MB are free there)"
        told += "; make room and try again: what was written before is kept"
    return GhostkitError(told)


def _write(file: int, data: str | bytes) -> None:
    """Write all of ``data`` to an open file, down to the disk."""
    rest = memoryview(data.encode() if isinstance(data, str) else data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)
