"""Where a Chromium is found on this machine: static images and browser tests need one, nothing else does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["find_browser"]

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
# What Playwright downloads, for Linux and for macOS.
PLAYWRIGHT_FOLDERS = ("~/.cache/ms-playwright", "~/Library/Caches/ms-playwright")
PLAYWRIGHT_BROWSERS = (
    "chromium-*/chrome-linux*/chrome",
    "chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
    "chromium_headless_shell-*/chrome-*/*headless*shell",
)


def find_browser() -> str | None:
    """Return the path of a Chromium, ``BROWSER_PATH`` before any other, or None where there is none."""
    installed = map(shutil.which, (os.environ.get("BROWSER_PATH") or "", *CHROMIUMS))
    folders = (os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "", *PLAYWRIGHT_FOLDERS)
    downloaded = (
        str(path)
        for folder in folders
        if folder
        for pattern in PLAYWRIGHT_BROWSERS
        for path in sorted(Path(folder).expanduser().glob(pattern), reverse=True)
        if os.access(path, os.X_OK)
    )
    return next(filter(None, installed), None) or next(downloaded, None)
