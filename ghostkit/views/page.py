"""One HTML page of prose, tables and figures that opens without a network: a report that no notebook stands behind.

It looks like the reports of notebooks, and keeps to the same policy: plotly.js once, and nothing is loaded.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ghostkit.files import write_atomically
from ghostkit.views.report import POLICY, STYLE, figure_html

__all__ = ["Heading", "Part", "write_page"]


class Heading(str):
    """A text that opens a section."""


Part: TypeAlias = str | Heading | pd.DataFrame | go.Figure


def write_page(title: str, parts: Sequence[Part], path: str | Path) -> Path:
    """Write a page and return its path.

    Args:
        title: its title and first heading.
        parts: in order: a heading, a paragraph, a table (its cells already worded), or a figure of ours.
        path: the page; an older one is replaced, at once or not at all.

    Raises:
        GhostkitError: if the page cannot be written.
    """
    figures = 0
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        if isinstance(part, go.Figure):
            figures += 1
            body.append(figure_html(json.loads(part.to_json()), str(part.layout.meta["text"]), figures))
        elif isinstance(part, pd.DataFrame):
            body.append(f'<div style="overflow-x: auto">{part.to_html(index=False, border=0)}</div>')
        else:
            tag = "h2" if isinstance(part, Heading) else "p"
            body.append(f"<{tag}>{html.escape(part)}</{tag}>")
    script = f"<script>{get_plotlyjs()}</script>" if figures else ""
    target = Path(path)
    write_atomically(
        target,
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{STYLE}th, td {{ white-space: nowrap; }}</style>
<script>window.PlotlyConfig = {{MathJaxConfig: 'local'}};</script>
{script}
</head>
<body><main>
{"".join(body)}
</main></body>
</html>
""",
    )
    return target
