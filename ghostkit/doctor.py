"""What this machine offers to ghostkit, what it lacks, and the command that gets it.

Reads and asks, changes nothing, and answers even where an installation is broken: that is when it is needed. Nothing
heavy is imported before it is asked about.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ghostkit
from ghostkit.browser import find_browser

__all__ = ["Check", "report"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Args:
        name: what was looked for.
        ok: whether it is there and fit for use.
        value: what was found, in words.
        fix: the command that gets it, or what else to do; empty where there is nothing to do.
        needed: whether ghostkit cannot do its main work without it.
    """

    name: str
    ok: bool
    value: str
    fix: str = ""
    needed: bool = False


def report() -> list[Check]:
    """Return everything that was looked for on this machine: versions, hardware, data, browser, extras."""
    return [*_versions(), *_hardware(), *_data(), _browser(), *_extras()]


def _requirements(extra: str = "") -> list[Requirement]:
    """Return what pyproject.toml asks for: always, or for an extra alone."""
    asked = [Requirement(line) for line in metadata.requires("ghostkit") or []]
    if not extra:
        return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [one for one in asked if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra})]


def _installed(wanted: Requirement) -> str | None:
    """Return the installed version of a requirement, or None."""
    try:
        return metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})", needed=True)
    yield Check("ghostkit", True, f"{ghostkit.__version__} ({Path(ghostkit.__file__).parent})", needed=True)
    try:
        wanted = _requirements()
    except metadata.PackageNotFoundError:
        yield Check("ghostkit's metadata", False, "imported without being installed", "pip install -e .", needed=True)
        return
    for one in wanted:
        version = _installed(one)
        if version is None:
            yield Check(one.name, False, "not installed", f'pip install "{one.name}{one.specifier}"', needed=True)
        elif not one.specifier.contains(version, prereleases=True):
            value = f"{version}, expected {one.specifier}"
            yield Check(one.name, False, value, f'pip install --upgrade "{one.name}{one.specifier}"', needed=True)
        else:
            yield Check(one.name, True, version, needed=True)


def _hardware() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # a broken installation raises anything; it is what we are here to tell
        fix = "pip install --force-reinstall torch torchvision"
        yield Check("device", False, f"torch cannot be imported: {error}", fix, needed=True)
        return
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        more = f", and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        yield Check("device", True, f"cuda: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB{more}")
    elif torch.backends.mps.is_available():
        yield Check("device", True, "cpu; this Mac's own GPU is taken by device=mps alone, never by auto")
    elif shutil.which("nvidia-smi"):
        value = f"cpu; an NVIDIA driver is here, but torch {torch.__version__} cannot use it"
        yield Check("device", False, value, "install the torch that fits the driver: https://pytorch.org/get-started")
    else:
        yield Check("device", True, "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu threads", True, f"torch uses {torch.get_num_threads()} of {cores}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Check("memory", True, f"{size / 2**30:.1f} GiB")


def _data() -> Iterator[Check]:
    try:
        from ghostkit.data import sources

        found = sources()
    except Exception as error:  # such as a torch that cannot be imported
        yield Check("data", False, f"cannot be looked for: {error}", needed=True)
        return
    for row in found[~found["name"].str.contains(":")].itertuples():  # folder:PATH is wherever the user says
        value = str(row.where) if row.found else "not found"
        yield Check(f"data {row.name}", bool(row.found), value, "" if row.found else str(row.get))


def _browser() -> Check:
    path = find_browser()
    if path:
        return Check("browser", True, path)
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        fix = "apt-get install chromium"
    elif _installed(Requirement("playwright")):
        fix = "playwright install chromium"
    else:
        fix = "pip install playwright && playwright install chromium"
    return Check("browser", False, "no Chromium; only static images and browser tests need one", fix)


def _extras() -> Iterator[Check]:
    try:
        extras = metadata.metadata("ghostkit").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in extras:
        wanted = [one for one in _requirements(extra) if canonicalize_name(one.name) != "ghostkit"]
        missing = [one.name for one in wanted if _installed(one) is None]
        present = ", ".join(f"{one.name} {_installed(one)}" for one in wanted)
        value = f"not installed: {', '.join(missing)}" if missing else present
        yield Check(f"extra {extra}", not missing, value, f'pip install "ghostkit[{extra}]"' if missing else "")
