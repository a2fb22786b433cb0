"""Several runs to choose from: what they are called, and that the chosen one is explored; no browser is needed."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import pytest

from ghostkit import GhostkitError, Run, widgets
from ghostkit.widgets import choosing
from ghostkit.widgets.choosing import run_names


def run_at(folder: Path) -> Run:
    """Make a folder that looks like a run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "history.jsonl").write_text("")
    return Run(folder)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that explorers were made for; that of a run called `broken` cannot be."""
    names = []

    def explorer(run: Run) -> ipywidgets.Widget:
        names.append(run.folder.name)
        if run.folder.name == "broken":
            raise GhostkitError("it cannot be read")
        return ipywidgets.HTML(f"explores {run.folder.name}")

    monkeypatch.setattr(choosing, "Explorer", explorer)
    return names


def shown(widget: ipywidgets.VBox) -> str:
    """What stands below the list."""
    (inner,) = widget.children[-1].children
    return inner.value


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/b", "runs/a"], ["b", "a"]),
        (["sweep/1/grown-0", "sweep/2/grown-0"], ["1/grown-0", "2/grown-0"]),
        (["alone", "sweep/1/grown-0"], ["alone", "sweep/1/grown-0"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(folders, names, tmp_path):
    assert run_names([run_at(tmp_path / folder) for folder in folders]) == names


def test_the_first_run_is_explored_until_another_one_is_chosen(made, tmp_path):
    widget = widgets.gallery([run_at(tmp_path / name) for name in ("b", "a")])
    (chooser,) = widget.children[0].children[0].children
    assert [label for label, _ in chooser.options] == ["b", "a"]
    assert "ghostkit-run" in chooser._dom_classes
    assert shown(widget) == "explores b"
    chooser.label = "a"
    assert shown(widget) == "explores a"
    chooser.label = "b"
    assert shown(widget) == "explores b"
    assert made == ["b", "a"], "an explorer is made once, and only when it is wanted"


def test_a_run_that_cannot_be_explored_says_why_and_the_others_can(made, tmp_path):
    widget = widgets.gallery([run_at(tmp_path / name) for name in ("broken", "whole")])
    assert shown(widget) == "it cannot be read"
    chooser = widget.children[0].children[0].children[0]
    chooser.label = "whole"
    assert shown(widget) == "explores whole"
    chooser.label = "broken"
    assert made == ["broken", "whole", "broken"], "what could not be read is read again"


def test_without_a_run_there_is_nothing_to_choose():
    with pytest.raises(GhostkitError, match="no run to explore; expected at least one"):
        widgets.gallery([])
