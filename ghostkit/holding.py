"""One folder, one writer: a lock of the operating system, which goes away with its process however that ends.

Whoever writes into a run's folder holds it meanwhile. The file of the lock says who does, and who did last; it stays
when the lock is let go, and means nothing by itself. ``filelock`` would take a file for a lock where the operating
system offers none, and such a lock would outlive a process that is killed; here, the user is warned instead. Inside one
process, a trainer is in one loop at a time.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from ghostkit.errors import GhostkitError
from ghostkit.files import unwritable

__all__ = ["LOCK", "Alone", "Hold"]

LOCK = ".trainer.lock"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


class Hold:
    """The lock on a folder, held from here on.

    Args:
        folder: it must exist.

    Raises:
        GhostkitError: if somebody holds it already, in this process or another, or nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise GhostkitError(
                f"cannot write in the folder {str(folder)!r}: {error.strerror or error}; choose another folder to "
                "train in. Run(folder) reads what is there"
            ) from error
        try:
            _lock(self.file)
        except OSError as error:
            if error.errno in TAKEN:
                holder = self.signed()
                os.close(self.file)
                raise GhostkitError(f"{str(folder)!r} is being trained in by {_told(holder)}") from None
            warnings.warn(
                f"the file system of {str(folder)!r} cannot lock ({error.strerror or error}); see to it that nobody "
                "else trains there",
                stacklevel=2,
            )
        self.path = path

    def signed(self) -> dict[str, Any]:
        """Return what the last holder said of itself: ``pid``, ``host``, ``since`` and ``name``; empty if nothing."""
        try:
            os.lseek(self.file, 0, os.SEEK_SET)
            said = json.loads(os.read(self.file, 4096))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}

    def sign(self, name: str) -> None:
        """Say who holds the folder.

        Args:
            name: of the holder, which nobody else has.

        Raises:
            GhostkitError: if it cannot be written.
        """
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        said = {"pid": os.getpid(), "host": platform.node(), "since": since, "name": name}
        try:
            os.lseek(self.file, 0, os.SEEK_SET)
            os.truncate(self.file, 0)
            os.write(self.file, json.dumps(said).encode())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def release(self) -> None:
        """Let the folder go."""
        os.close(self.file)  # and with it the lock


class Alone:
    """A block that is entered by one at a time, whichever thread it is in.

    Args:
        refusal: what the second one is told.

    Raises:
        GhostkitError: if somebody is inside already.
    """

    def __init__(self, refusal: str) -> None:
        self.refusal, self._lock = refusal, threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise GhostkitError(self.refusal)

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


def _told(holder: dict[str, Any]) -> str:
    """Return who holds a folder, since when, and what to do about it."""
    if not holder:
        return "another process; wait until it has ended, or choose another folder"
    since = holder.get("since")
    if (holder.get("pid"), holder.get("host")) == (os.getpid(), platform.node()):
        return f"another Trainer of this process since {since}; let that one end, close() it, or choose another folder"
    return (
        f"process {holder.get('pid')} on {holder.get('host')} since {since}; wait until it has ended, stop it, or "
        "choose another folder"
    )


def _lock(file: int) -> None:
    """Lock an open file, at once or not at all.

    Raises:
        OSError: if it is locked, or cannot be.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)  # behind what is written, which others may then read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
