"""The explorer, in notebook 02 and as a page of its own: its time slider moves what is shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import nbformat
from playwright.sync_api import expect

TWIN = "() => document.querySelector('.ghostkit-mosaic .js-plotly-plot').layout.meta.text"


def test_every_cell_runs_and_the_explorer_follows_its_slider(open_notebook):
    notebook = open_notebook("02_growth_explorer.ipynb", smoke=True)
    notebook.run_all()
    assert notebook.errors() == []
    assert all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in notebook.prompts())
    drawn = notebook.marks()
    assert len(drawn) >= 6
    assert min(drawn) > 0
    move_through_time(notebook.page)
    assert notebook.errors() == []
    saved = notebook.save()
    assert len(nbformat.writes(saved)) < 1_000_000
    assert "widgets" not in saved.metadata


def test_the_app_wants_its_token_and_explores_the_run_that_is_chosen(app, page):
    page.goto(f"http://{urlsplit(app).netloc}/")
    assert urlsplit(page.url).path == "/login"
    page.goto(app)
    told, architecture = page.locator(".ghostkit-told"), page.locator(".ghostkit-architecture .mlayer path")
    expect(told).to_contain_text("first: test accuracy")
    expect(architecture.first).to_be_attached()
    page.locator(".ghostkit-run select").select_option("second")
    expect(told).to_contain_text("second: test accuracy")
    expect(architecture.first).to_be_attached()
    move_through_time(page)


def move_through_time(page) -> None:
    """Look at feature maps, and pull the slider over the events from the end to the seedling."""
    event, mosaic = page.locator(".ghostkit-event"), page.locator(".ghostkit-mosaic")
    expect(event).to_contain_text("the end")
    page.get_by_role("button", name="feature maps").click()
    expect(mosaic).to_contain_text("the end")
    expect(mosaic.locator(".mlayer image").first).to_be_attached()
    at_the_end = page.evaluate(TWIN)
    handle, slider = event.locator(".noUi-handle"), event.locator(".noUi-base")
    handle.drag_to(slider, target_position={"x": 1, "y": 2}, force=True)
    expect(event).to_contain_text("seedling")
    expect(mosaic).to_contain_text("seedling")
    expect(mosaic).not_to_contain_text("the end")
    assert page.evaluate(TWIN) != at_the_end
    page.get_by_role("button", name="next").click()
    expect(event).to_contain_text("event 1")
    expect(mosaic).to_contain_text("event 1")
