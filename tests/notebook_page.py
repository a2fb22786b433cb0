"""A notebook that is open in JupyterLab, as a person sees and touches it."""

from __future__ import annotations

from pathlib import Path

import nbformat
from playwright.sync_api import Page

PROMPTS = "[...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].map(prompt => prompt.textContent)"
MARKS = ".mlayer path, .mlayer text, .mlayer image"  # of plotly: what the traces are drawn with
ERRORS = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'


class NotebookPage:
    """A notebook open in JupyterLab.

    Args:
        page: the browser's page.
        path: the notebook's file.
    """

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.path = page, path
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        # All three: one alone is already there while the kernel is about to start, which forgets what it is asked for.
        page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
        page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()

    def run_all(self) -> None:
        """Run all cells by the menu, and wait until none waits for its turn any more."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(f"() => {PROMPTS}.some(text => /[*0-9]/.test(text))")
        self.page.wait_for_function(f"() => !{PROMPTS}.some(text => text.includes('*'))")

    def errors(self) -> list[str]:
        """Return what cells wrote to standard error, tracebacks above all."""
        return self.page.locator(ERRORS).all_inner_texts()

    def prompts(self) -> list[str]:
        """Return what stands beside each cell with code: [3]: if it was the third to run, [ ]: if it was not."""
        return self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()

    def marks(self) -> list[int]:
        """Return how much is drawn in each figure that is no part of a widget."""
        figures = self.page.locator(".jp-Notebook .js-plotly-plot:not(.jupyter-widgets .js-plotly-plot)")
        return figures.evaluate_all(f"figures => figures.map(figure => figure.querySelectorAll('{MARKS}').length)")

    def save(self) -> nbformat.NotebookNode:
        """Save by the keyboard and return what is in the file, with the PNG that the renderer adds to each figure."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and self.path.name in answer.url):
            self.page.keyboard.press("ControlOrMeta+s")
        return nbformat.read(self.path, as_version=4)
