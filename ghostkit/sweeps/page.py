"""The index of a sweep: one page that opens without a network and links every notebook and report.

Whatever comes from a sweep file or a notebook is escaped, and a content security policy keeps the page from loading
anything. The run with the largest first score stands first; a click on a heading sorts by that column.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ghostkit.files import write_atomically
from ghostkit.metrics import METRICS
from ghostkit.sweeps.folder import State

__all__ = ["ranked", "write_index"]

FILE = "index.html"
MARKS = {"done": "✓", "failed": "✗", "interrupted": "◌", "missing": "·"}


def ranked(table: pd.DataFrame) -> tuple[str | None, pd.DataFrame]:
    """Return the metric that runs are sorted by, and the table so sorted, the largest value first.

    Args:
        table: as :func:`ghostkit.sweeps.table.results_table` returns it. What networks are judged by comes first among
            its metrics, then what varies.
    """
    metrics = [name for name in table.columns if name.startswith("m.")]
    known = [name for name in metrics if name.removeprefix("m.") in METRICS]
    varied = [name for name in metrics if table[name].nunique() > 1]
    metric = next(iter([*known, *varied, *metrics]), None)
    if metric is None:
        return None, table
    return metric, table.sort_values(metric, ascending=False, kind="stable", na_position="last")


def write_index(state: State, table: pd.DataFrame) -> Path:
    """Write the index into the sweep's folder, and return its path.

    Args:
        state: what the folder holds.
        table: the results.

    Raises:
        GhostkitError: if it cannot be written.
    """
    metric, table = ranked(table)
    constant = [name for name in table.columns if name.startswith("p.") and table[name].nunique(dropna=False) == 1]
    empty = [name for name in table.columns if table[name].isna().all() or (table[name] == "").all()]
    columns = [name for name in table.columns if name not in {"run", "status", "error", *constant, *empty}]
    if metric in columns:
        columns = [metric, *(name for name in columns if name != metric)]
    counts = table["status"].value_counts()
    summary = ", ".join(f"{counts[status]} {status}" for status in MARKS if status in counts)
    same = "; ".join(f"{name[2:]} = {table[name].iloc[0]}" for name in constant)
    title = f"Sweep of {state.plan.notebook.stem}"
    order = f"Sorted by {metric[2:]}, the largest first." if metric else "No run has published a number yet."
    words = [name.removeprefix("p.").removeprefix("m.") for name in columns]
    kinds = ["value" if pd.api.types.is_numeric_dtype(table[name]) else "word" for name in columns]
    heads = zip(["run", "status", *words, "links", "error"], ["word", "word", *kinds, "word", "word"], strict=True)
    body = "\n".join(_row(state, row, columns, kinds) for row in table.to_dict("records"))
    page = _PAGE.format(
        title=html.escape(title),
        summary=html.escape(f"{len(table)} runs: {summary}. {order}"),
        same=f"<p>In all runs: {html.escape(same)}</p>" if same else "",
        heads="".join(
            f'<th class="{kind}"><button type="button">{html.escape(head)}</button></th>' for head, kind in heads
        ),
        body=body,
        script=_SCRIPT,
        style=_STYLE,
    )
    path = state.folder / FILE
    write_atomically(path, page)
    return path


def _row(state: State, row: dict[Any, Any], columns: Sequence[str], kinds: Sequence[str]) -> str:
    """Return one run as a row of the table."""
    name, status, stem = str(row["run"]), str(row["status"]), state.plan.notebook.stem
    links = []
    for file, word in ((f"{stem}.html", "report"), (f"{stem}.ipynb", "notebook"), ("record.json", "record")):
        if (state.run_folder(name) / file).exists():
            links.append(f'<a href="{html.escape(quote(f"runs/{name}/{file}"))}">{word}</a>')
    cells = [
        f"<td>{html.escape(name)}</td>",
        f'<td class="{status}">{MARKS[status]} {status}</td>',
        *(
            f'<td class="{kind}">{html.escape(_worded(column, row[column]))}</td>'
            for column, kind in zip(columns, kinds, strict=True)
        ),
        f"<td>{' '.join(links)}</td>",
        f'<td class="error">{html.escape(str(row["error"] or ""))}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _worded(column: str, value: Any) -> str:
    """Return a cell as text."""
    if pd.isna(value):
        return "–"
    if column == "peak_memory":
        return f"{int(value) / 1e6:.0f} MB"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


_STYLE = """
body { margin: 0 auto; padding: 24px; color: #22272e; background: white;
       font: 15px/1.5 Inter, "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 26px; margin: 8px 0; } a { color: #0072b2; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; border-bottom: 1px solid #e8ebef; white-space: nowrap; }
th { border-color: #b4bcc6; } .value { text-align: right; } td.error { white-space: normal; max-width: 46em; }
th button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0; cursor: pointer; color: inherit; }
.done { color: #00704f; } .failed { color: #b23b00; } .interrupted { color: #7a5b00; } .missing { color: #66707c; }
"""

_SCRIPT = """
document.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
  const body = document.querySelector("tbody"), up = head.getAttribute("aria-sort") === "descending";
  const value = row => { const text = row.cells[column].textContent; const number = parseFloat(text);
                         return isNaN(number) ? text : number; };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? 1 : -1;
  const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)) * (up ? 1 : -1));
  document.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}));
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{same}
<div class="wide"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<script>{script}</script>
</body>
</html>
"""
