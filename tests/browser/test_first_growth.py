"""Notebook 01 in JupyterLab: it runs from top to bottom, and its training is steered with a mouse."""

from __future__ import annotations

import re

import nbformat
from playwright.sync_api import expect

CURVES = ".ghostkit-curves.js-plotly-plot, .ghostkit-curves .js-plotly-plot"
# Resolves to the milliseconds from a click on an element until another one says something.
TIMED = """([clicked, watched, word]) => {
    window.took = new Promise(resolve => {
        const [button, place] = [clicked, watched].map(name => document.querySelector(name));
        let begun;
        button.addEventListener('click', () => { begun = performance.now(); }, {capture: true, once: true});
        new MutationObserver((_changes, observer) => {
            if (begun === undefined || !place.textContent.includes(word)) return;
            observer.disconnect();
            resolve(performance.now() - begun);
        }).observe(place, {childList: true, characterData: true, subtree: true});
    });
}"""


def test_every_cell_runs_and_every_figure_is_drawn(open_notebook):
    notebook = open_notebook("01_first_growth.ipynb", smoke=True)
    notebook.run_all()
    assert notebook.errors() == []
    assert all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in notebook.prompts())
    drawn = notebook.marks()
    assert len(drawn) >= 5
    assert min(drawn) > 0
    expect(notebook.page.locator(".ghostkit-status")).to_contain_text("ready")
    saved = notebook.save()
    assert len(nbformat.writes(saved)) < 1_000_000
    assert "widgets" not in saved.metadata


def test_a_training_is_started_stopped_grown_and_taken_back_by_hand(open_notebook):
    # Only what makes the dashboard, with a run that lasts and grows when it is told to.
    wanted = ("ghostkit.RunConfig(", "widgets.Dashboard(")
    settings = {"epochs": 50_000.0, "train_samples": 256, "when": "never", "kinds": ["branch"]}
    notebook = open_notebook("01_first_growth.ipynb", only=wanted, **settings)
    notebook.run_all()
    assert notebook.errors() == []
    page = notebook.page
    status, message, architecture = (
        page.locator(f".ghostkit-{name}") for name in "status message architecture".split()
    )
    offered = page.locator(".ghostkit-candidates option")
    expect(architecture).to_contain_text("2+2 → 8")
    expect(architecture).not_to_contain_text("2+4 → 8")

    page.locator(".ghostkit-start").click()
    expect(status).to_contain_text("training")
    expect(status).to_contain_text(re.compile(r"step [1-9]"))
    first = status.inner_text()
    expect(status).not_to_have_text(first)
    page.wait_for_function(f"() => document.querySelector('{CURVES}').data[0].x.length > 1")

    page.evaluate(TIMED, [".ghostkit-stop", ".ghostkit-status", "stopped"])
    page.locator(".ghostkit-stop").click()
    assert page.evaluate("() => window.took") < 2_000  # milliseconds; the one deadline of the suite, and a promise
    stopped = status.inner_text()
    assert step_of(stopped) >= step_of(first) > 0

    page.locator(".ghostkit-look").click()
    expect(offered.first).to_be_attached()
    branch = next(option for option in offered.all_inner_texts() if option.startswith("AddBranch("))
    page.locator(".ghostkit-candidates select").select_option(branch)
    page.locator(".ghostkit-grow").click()
    expect(message).to_contain_text("by hand: AddBranch(")
    expect(architecture).to_contain_text("2+4 → 8")
    assert size_of(status.inner_text()) > size_of(stopped)

    page.locator(".ghostkit-undo").click()
    expect(message).to_contain_text("undo of event 1: RemoveBranch(")
    expect(architecture).not_to_contain_text("2+4 → 8")
    assert size_of(status.inner_text()) == size_of(stopped)

    page.get_by_role("button", name="resume").click()
    expect(status).to_contain_text("training")
    expect(status).not_to_contain_text(f"step {step_of(stopped):,} ")
    assert step_of(status.inner_text()) > step_of(stopped)
    page.locator(".ghostkit-pause").click()
    expect(status).to_contain_text("paused")
    assert notebook.errors() == []
    assert len(nbformat.writes(notebook.save())) < 100_000  # widgets leave nothing of what they showed


def test_a_run_that_is_over_is_shown_again_with_its_curves_and_its_knobs_leave_a_mark(open_notebook):
    wanted = ("ghostkit.RunConfig(", "widgets.Dashboard(")
    notebook = open_notebook("01_first_growth.ipynb", only=wanted, folder="kept", epochs=12.0, train_samples=256)
    notebook.run_all()
    page, curves = notebook.page, ".ghostkit-curves .mlayer path"
    status, message, share = (page.locator(f".ghostkit-{name}") for name in "status message share".split())
    share.locator("input").fill("0.3")
    share.locator("input").press("Enter")
    expect(message).to_contain_text("share from 0.2 to 0.3")
    page.locator(".ghostkit-start").click()
    expect(status).to_contain_text("finished")
    expect(message).not_to_contain_text("could not be drawn")
    assert "event without growth" in page.evaluate(f"() => document.querySelector('{CURVES}').data.map(d => d.name)")
    notebook.run_all()
    expect(page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").last).to_have_text("[6]:")
    expect(status).to_contain_text("ready: press start · 100%")
    page.wait_for_function(f"() => document.querySelectorAll('{curves}').length >= 5")  # two splits, twice, and MACs
    assert notebook.errors() == []


def step_of(status: str) -> int:
    """Return the step that a status tells of."""
    return int(re.search(r"step ([\d,]+)", status)[1].replace(",", ""))


def size_of(status: str) -> float:
    """Return the number of parameters that a status tells of."""
    number, thousand = re.search(r"([\d.]+) (k?) ?params", status).groups()
    return float(number) * (1000 if thousand else 1)
