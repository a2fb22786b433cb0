"""Files that are whole or not there.

What a run writes must outlive the moment at which the run is killed: a reader finds the old content or the new one, and
never half of either. Nothing here knows what the files hold.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from uuid import uuid4

from ghostkit.errors import GhostkitError

__all__ = ["free_folder", "write_atomically"]


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
        GhostkitError: if the file cannot be written; the old one is then untouched.
    """
    path = Path(path)
    # Beside the target, since a file can be renamed atomically within one file system only.
    draft = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        try:
            with draft.open("xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
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
        raise GhostkitError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
