import json
import re
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ghostkit import views
from ghostkit.browser import find_browser
from ghostkit.errors import GhostkitError
from ghostkit.views.report import PLOTLY, WIDGET


def display(data):
    return new_output("display_data", data=data)


@pytest.fixture
def notebook(metrics, events, before, after, tmp_path):
    """An executed notebook: two figures, a table, text, a widget, a progress line, injected parameters."""
    figures = [views.training_curves(metrics, events), views.architecture_replay({0: before, 1: after})]
    shown = [display(views.show(figure)._repr_mimebundle_()) for figure in figures]
    table = display({"text/html": "<table><tr><td>a table</td></tr></table>", "text/plain": "a table"})
    widget = display({WIDGET: {"model_id": "0"}, "text/plain": "IntProgress(value=3)"})
    progress = new_output("stream", text="step 1\rstep 2\n")
    parameters = new_code_cell("epochs = 3", metadata={"tags": ["injected-parameters"]})
    cells = [
        new_markdown_cell("# A network grows\n\nLook at the *next* picture."),
        parameters,
        new_code_cell("secret_sauce = 1", outputs=[shown[0]]),
        new_code_cell("replay()", outputs=[shown[1], table, widget, progress]),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def page(notebook, tmp_path):
    return views.write_report(notebook, tmp_path / "reports" / "report.html")


def without_plotly(page):
    """The page without plotly.js itself."""
    return re.sub(r"<script>/\*\*\n\* plotly\.js.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_a_shown_figure_is_plotly_and_text(metrics, events):
    shown = views.show(views.training_curves(metrics, events))
    bundle = shown._repr_mimebundle_()
    assert list(bundle) == [PLOTLY, "text/plain"]
    assert bundle["text/plain"] == repr(shown) == views.training_curves_text(metrics, events)
    assert json.loads(json.dumps(bundle[PLOTLY]))["config"]["showSendToCloud"] is False


def test_a_text_of_ones_own_goes_before_the_twin(metrics):
    assert repr(views.show(views.training_curves(metrics), "my words")) == "my words"


def test_static_images_are_off_without_a_browser(metrics, monkeypatch):
    monkeypatch.setenv("GHOSTKIT_STATIC_IMAGES", "1")
    monkeypatch.setattr("ghostkit.views.report.find_browser", lambda: None)
    assert "image/png" not in views.show(views.training_curves(metrics))._repr_mimebundle_()


def test_an_image_that_cannot_be_drawn_is_a_warning(metrics, monkeypatch):
    monkeypatch.setenv("GHOSTKIT_STATIC_IMAGES", "1")
    monkeypatch.setattr("ghostkit.views.report.find_browser", lambda: "/a/browser")
    monkeypatch.setattr("kaleido.start_sync_server", lambda **options: 1 / 0)
    with pytest.warns(UserWarning, match="no static image"):
        bundle = views.show(views.training_curves(metrics))._repr_mimebundle_()
    assert list(bundle) == [PLOTLY, "text/plain"]


def test_a_report_loads_nothing_from_anywhere(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", without_plotly(page))
    assert 'src="http' not in text
    assert "default-src 'none'" in text


def test_a_report_holds_plotly_once_and_every_figure(page):
    text = page.read_text()
    assert text.count("* plotly.js v") == 1
    assert re.findall(r'id="(figure-\d)"', text) == ["figure-1", "figure-2"]
    assert "Plotly.addFrames" in without_plotly(page)


def test_a_report_has_the_notebooks_title_tables_and_last_progress_line(page):
    text = without_plotly(page)
    assert "<title>A network grows</title>" in text
    assert "<td>a table</td>" in text
    assert "step 2" in text
    assert "step 1" not in text
    assert "IntProgress" not in text


def test_code_is_folded_and_the_parameters_of_the_run_are_open(page):
    text = without_plotly(page)
    assert text.count('<details open=""><summary>code') == 1
    assert text.count("<details><summary>code") == 2
    assert "secret_sauce" in text


def test_each_figure_has_its_text_folded_beneath(page):
    text = without_plotly(page)
    assert text.count("<summary>as text</summary>") == 2
    assert "10.00 epochs, 10.6 GMAC spent" in text


def test_a_figure_cannot_break_out_of_its_script(metrics, tmp_path):
    figure = views.training_curves(metrics).update_layout(title="</script><b id='out'>")
    cell = new_code_cell("", outputs=[display(views.show(figure, "<b id='out'>")._repr_mimebundle_())])
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "odd.ipynb")
    assert "<b id='out'>" not in views.write_report(tmp_path / "odd.ipynb", tmp_path / "odd.html").read_text()


def test_a_notebook_without_figures_carries_no_plotly(tmp_path):
    nbformat.write(new_notebook(cells=[new_markdown_cell("words")]), tmp_path / "words.ipynb")
    page = views.write_report(tmp_path / "words.ipynb", tmp_path / "words.html")
    assert len(page.read_text()) < 20_000
    assert "<title>words</title>" in page.read_text()


@pytest.mark.parametrize("content", [None, "not json", "{}", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}'])
def test_what_is_no_notebook_is_refused_and_an_older_report_stays(tmp_path, content):
    path, older = tmp_path / "broken.ipynb", tmp_path / "report.html"
    older.write_text("older")
    if content is not None:
        path.write_text(content)
    with pytest.raises(GhostkitError, match=r"broken\.ipynb.*expected an executed \.ipynb"):
        views.write_report(path, older)
    assert older.read_text() == "older"


@pytest.mark.skipif(find_browser() is None, reason="no Chromium found: apt-get install chromium")
def test_a_browser_draws_every_figure_of_a_report_without_a_complaint(page, tmp_path):
    command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    result = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    for number in (1, 2):
        assert re.search(rf'js-plotly-plot[^>]*id="figure-{number}"', result.stdout)
    assert "last grown at event" in result.stdout
    assert "CONSOLE" not in result.stderr
