"""The doctor tells what is here and how to get what is not, above all where the installation is broken."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ghostkit import doctor
from ghostkit.browser import find_browser
from ghostkit.doctor import Check, report

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def checked(name: str) -> Check:
    """Return the one check of that name."""
    (check,) = (check for check in report() if check.name == name)
    return check


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on the path, and a home of its own."""
    for name in ("PATH", "BROWSER_PATH", "PLAYWRIGHT_BROWSERS_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o755)
    return path


def test_a_check_that_fails_says_what_to_do():
    assert [check for check in report() if not check.ok and not check.fix] == []


def test_all_that_pyproject_asks_for_is_looked_for_and_here():
    found = {check.name: check for check in report()}
    for line in PROJECT["dependencies"]:
        assert found[Requirement(line).name].ok, line
    assert {f"extra {name}" for name in PROJECT["optional-dependencies"]} <= found.keys()
    assert {"python", "ghostkit", "device", "cpu threads", "data digits", "browser"} <= found.keys()


def test_a_missing_package_comes_with_the_command_that_gets_it(monkeypatch):
    def version(name: str) -> str:
        if name == "papermill":
            raise metadata.PackageNotFoundError(name)
        return "1000"

    monkeypatch.setattr(metadata, "version", version)
    check = checked("papermill")
    assert (check.ok, check.needed, check.value) == (False, True, "not installed")
    assert check.fix.startswith('pip install "papermill>=')


def test_a_package_that_is_too_old_comes_with_the_version_that_is_expected(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "0.1")
    check = checked("papermill")
    assert (check.ok, check.needed) == (False, True)
    assert check.value.startswith("0.1, expected >=")
    assert check.fix.startswith('pip install --upgrade "papermill>=')


def test_an_extra_names_what_it_lacks_and_is_not_needed(monkeypatch):
    def version(name: str) -> str:
        if name == "voila":
            raise metadata.PackageNotFoundError(name)
        return "1000"

    monkeypatch.setattr(metadata, "version", version)
    assert checked("extra app") == Check("extra app", False, "not installed: voila", 'pip install "ghostkit[app]"')
    assert checked("extra export").ok


def test_a_broken_torch_is_reported_and_the_rest_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = checked("device")
    assert (check.ok, check.needed) == (False, True)
    assert "pip install" in check.fix
    assert checked("browser")


def test_an_installation_without_metadata_is_reported(monkeypatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    monkeypatch.setattr(metadata, "metadata", requires)
    assert checked("ghostkit's metadata").fix == "pip install -e ."


def test_data_that_is_not_here_comes_with_the_way_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GHOSTKIT_DATA", str(tmp_path))
    assert checked("data digits").ok
    check = checked("data mnist")
    assert (check.ok, check.needed, check.value) == (False, False, "not found")
    assert "ghostkit data mnist --download" in check.fix


def test_the_browser_that_the_user_names_goes_first(bare, monkeypatch):
    monkeypatch.setenv("PATH", str(program(bare / "bin" / "chromium").parent))
    assert find_browser() == str(bare / "bin" / "chromium")
    monkeypatch.setenv("BROWSER_PATH", str(program(bare / "mine" / "chrome")))
    assert find_browser() == str(bare / "mine" / "chrome")


@pytest.mark.parametrize(
    "place",
    [
        ".cache/ms-playwright/chromium-1100/chrome-linux/chrome",
        ".cache/ms-playwright/chromium-1200/chrome-linux64/chrome",
        ".cache/ms-playwright/chromium_headless_shell-1200/chrome-headless-shell-linux64/chrome-headless-shell",
        "Library/Caches/ms-playwright/chromium-1100/chrome-mac/Chromium.app/Contents/MacOS/Chromium",
    ],
)
def test_a_browser_that_playwright_downloaded_is_found(bare, place):
    assert find_browser() is None
    program(bare / place)
    assert find_browser() == str(bare / place)


@pytest.mark.parametrize(
    ("tools", "user", "fix"),
    [
        (["apt-get"], 0, "apt-get install chromium"),
        (["apt-get"], 1000, "playwright install chromium"),
        ([], 0, "playwright install chromium"),
    ],
)
def test_a_missing_browser_comes_with_the_command_for_this_user(bare, monkeypatch, tools, user, fix):
    for tool in tools:
        program(bare / "bin" / tool)
    monkeypatch.setenv("PATH", str(bare / "bin"))
    monkeypatch.setattr(doctor.os, "geteuid", lambda: user)
    assert checked("browser").fix == fix
