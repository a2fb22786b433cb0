"""How a figure reaches its reader: in a notebook, in a terminal, and in a page that opens without a network.

``show`` wraps a figure so that a notebook stores it as plotly's MIME type and as text. ``write_report`` turns an
executed notebook into one HTML file: plotly.js once, every figure live, its text twin folded beneath it, code folded.
The page loads nothing, and a content security policy in it forbids it to. Nothing is executed here but what the
figures need to draw themselves in the reader's browser.
"""

from __future__ import annotations

import base64
import html
import json
import os
import warnings
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import plotly.io
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from plotly.offline import get_plotlyjs

from ghostkit.browser import find_browser
from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically

__all__ = ["PLOTLY", "POLICY", "STYLE", "Shown", "figure_html", "show", "write_report"]

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
# Newer plotly.js has a button that uploads the chart; a run's figures stay where they are.
CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}


class Shown:
    """A figure with its text twin, as a notebook, a report and a terminal each want it."""

    def __init__(self, figure: go.Figure, text: str) -> None:
        self.figure = figure
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # Plotly's own encoder turns arrays into compact base64; the MIME bundle has to be plain JSON.
        bundle = {PLOTLY: {**json.loads(self.figure.to_json()), "config": CONFIG}, "text/plain": self.text}
        image = _png(self.figure) if os.environ.get("GHOSTKIT_STATIC_IMAGES") == "1" and find_browser() else None
        return bundle | ({"image/png": image} if image else {})


def show(figure: go.Figure, text: str | None = None) -> Shown:
    """Return ``figure`` as an object that a notebook cell displays, with its text twin for where plotly cannot draw.

    With ``GHOSTKIT_STATIC_IMAGES=1`` in the environment, and a Chromium found, a PNG is stored too.

    Args:
        figure: any plotly figure.
        text: the twin; a figure of ``ghostkit.views`` brings its own.

    Example:
        >>> show(training_curves(run.metrics, run.events))  # doctest: +SKIP
    """
    meta = figure.layout.meta
    own = meta.get("text", "") if isinstance(meta, dict) else ""
    return Shown(figure, own if text is None else text)


def _png(figure: go.Figure) -> str | None:
    import kaleido  # type: ignore[import-untyped]

    try:
        # One browser for all images of the process; MathJax would be fetched from the network.
        kaleido.start_sync_server(silence_warnings=True, mathjax=False)
        options = {"format": "png", "width": 1000, "height": figure.layout.height or 450, "scale": 2}
        image = kaleido.calc_fig_sync(figure, opts=options)
    except Exception as error:  # a picture that cannot be drawn must not stop a run that took hours
        warnings.warn(f"no static image: {error}", stacklevel=2)
        return None
    return base64.b64encode(image).decode()


def write_report(notebook_path: str | Path, html_path: str | Path) -> Path:
    """Write an executed notebook as one HTML page that needs no network, and return the page's path.

    Args:
        notebook_path: the executed ``.ipynb``. It is read, never run.
        html_path: the page; an older one is replaced, at once or not at all.

    Raises:
        GhostkitError: if the notebook cannot be read or the page not be written.
    """
    source, target = Path(notebook_path), Path(html_path)
    try:
        notebook = nbformat.read(source, as_version=4)
    except (OSError, ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise GhostkitError(
            f"cannot read the notebook {str(source)!r}: {error}; expected an executed .ipynb, as `ghostkit run` writes"
        ) from None
    figures = 0
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data:
                figures += 1
                output["data"] = {"text/html": figure_html(data[PLOTLY], data.get("text/plain", ""), figures)}
            elif data.pop(WIDGET, None) is not None and not set(data) - {"text/plain"}:
                continue  # a live widget: nothing of it is left once the kernel is gone
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    exporter = HTMLExporter(raw_template=_TEMPLATE, embed_images=True, exclude_anchor_links=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    script = get_plotlyjs() if figures else ""
    resources = {
        "metadata": {"name": _title(notebook, source.stem), "path": str(source.parent)},
        **{"plotlyjs": script, "style": STYLE, "policy": POLICY},
    }
    page, _ = exporter.from_notebook_node(notebook, resources)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page)
    return target


def figure_html(figure: dict[str, Any], text: str | list[str], number: int) -> str:
    """Return a figure as a part of a page that has plotly.js, with its text twin folded beneath it.

    Args:
        figure: as plotly's JSON: ``data``, ``layout``, perhaps ``frames`` and ``config``.
        text: the twin; none is shown where it is empty.
        number: of the figure on its page, from 1.
    """
    text = "".join(text)
    config = {**figure.get("config", {}), **CONFIG}
    parts = {key: figure[key] for key in ("data", "layout", "frames") if figure.get(key)}
    drawn = plotly.io.to_html(
        parts,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        auto_play=False,
        validate=False,
        default_height=f"{figure.get('layout', {}).get('height', 450)}px",
        div_id=f"figure-{number}",
    )
    twin = f"<details><summary>as text</summary><pre>{html.escape(text)}</pre></details>" if text.strip() else ""
    return f'<figure aria-label="figure {number}">{drawn}{twin}</figure>'


def _title(notebook: nbformat.NotebookNode, fallback: str) -> str:
    headings = (
        line.lstrip("# ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    )
    return next(headings, fallback)


# What a page may do: show itself, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
STYLE = """
body { margin: 0; background: white; color: #22272e;
       font: 15px/1.55 Inter, "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 24px 24px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 16px 0; } h2 { font-size: 21px; margin: 36px 0 8px; }
h3 { font-size: 17px; margin: 28px 0 6px; } p { max-width: 46em; } a { color: #0072b2; }
figure { margin: 12px 0 20px; }
pre, code { font: 12.5px/1.45 "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { margin: 6px 0; padding: 10px 12px; overflow-x: auto; background: #f5f6f8; border-radius: 4px; }
details { margin: 4px 0; } summary { cursor: pointer; font-size: 12.5px; color: #66707c; }
table, table.dataframe { border-collapse: collapse; border: 0; margin: 10px 0; font-size: 13.5px;
                         font-variant-numeric: tabular-nums; }
main th, main td { padding: 4px 12px; text-align: right; border: 0; border-bottom: 1px solid #e8ebef; }
main thead th { border-color: #b4bcc6; }
img { max-width: 100%; }
[data-mime-type="application/vnd.jupyter.stderr"] pre { background: #fdf3ec; border-left: 3px solid #d55e00; }
.ansi-red-fg, .ansi-red-intense-fg { color: #b23b00; } .ansi-green-fg { color: #00704f; }
.ansi-blue-fg, .ansi-cyan-fg { color: #0072b2; } .ansi-bold { font-weight: bold; }
@media print { details, summary { display: none; } }
"""

_TEMPLATE = """
{%- extends 'base.html.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ resources.policy }}">
<title>{{ resources.metadata.name | escape_html }}</title>
{% for css in resources.inlining.css -%}<style>{{ css }}</style>{% endfor %}
<style>
{{ resources.style }}
</style>
{% if resources.plotlyjs %}<script>window.PlotlyConfig = {MathJaxConfig: 'local'};</script>
<script>{{ resources.plotlyjs }}</script>{% endif %}
</head>
{%- endblock header -%}
{%- block body_header %}<body><main>{% endblock body_header -%}
{%- block body_footer %}</main></body>{% endblock body_footer -%}
{%- block footer %}</html>{% endblock footer -%}
{%- block input -%}
<details{% if 'injected-parameters' in cell.metadata.get('tags', []) %} open{% endif %}><summary>code</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) }}
</details>
{%- endblock input -%}
"""
