"""A comparison told: as text, as figures, and as files that anything else can read."""

from __future__ import annotations

import re
import subprocess

import pandas as pd
import pytest
from made_runs import make_run

from ghostkit.browser import find_browser
from ghostkit.comparing import UnknownGroupError
from ghostkit.errors import GhostkitError
from ghostkit.reporting import compare_all, comparison_figures, comparison_text, export_comparisons
from ghostkit.runs import find_runs


@pytest.fixture
def comparisons(tmp_path):
    """Two policies on digits, and one run of another task, which nothing can be compared with."""
    for where, start in (("random", 0.90), ("gain-per-mac", 0.93)):
        for seed in range(3):
            reached = start + seed / 100 + seed**2 / (400 if where == "random" else 500)
            make_run(tmp_path / f"{where}-{seed}", reached, where=where, seed=seed)
    make_run(tmp_path / "late", progress=0.4, where="sprout")
    make_run(tmp_path / "scenes", 0.4, metric="map50", task="detection", data="scenes")
    return compare_all(find_runs(tmp_path), "random")


def test_what_was_judged_on_different_things_is_compared_apart(comparisons):
    assert list(comparisons) == ["classification of digits", "detection of scenes"]
    assert [one.metric for one in comparisons.values()] == ["accuracy", "map50"]
    assert [one.reference for one in comparisons.values()] == ["random", "scenes"], "a reference of one is not of all"


def test_a_reference_that_nobody_has_is_refused(tmp_path):
    make_run(tmp_path / "a", share=0.1)
    make_run(tmp_path / "b", task="detection", data="scenes", metric="map50")
    with pytest.raises(UnknownGroupError, match="no one group is called 'c'"):
        compare_all(find_runs(tmp_path), "c")


def test_the_text_has_ranks_differences_and_notes(comparisons):
    text = comparison_text(comparisons["classification of digits"])
    ranks, differences, notes = text.split("\n\n")
    assert [line.split()[:2] for line in ranks.splitlines()[2:]] == [
        ["1", "gain-per-mac"],
        ["2", "random"],
        ["–", "late"],
    ]
    assert differences.startswith("points above random\n")
    assert "paired t, 3 pairs" in differences
    assert "* late is not over (40% done); it counts in no mean" in notes


def test_one_group_alone_has_no_differences_to_tell(comparisons):
    assert "points above" not in comparison_text(comparisons["detection of scenes"])


def test_there_are_four_figures_each_with_its_text(comparisons):
    figures = comparison_figures(comparisons["classification of digits"])
    assert len(figures) == 4
    assert all(figure.layout.meta["text"] for figure in figures.values())
    assert len(comparison_figures(comparisons["detection of scenes"])) == 4


@pytest.mark.parametrize("shown", ["Differences", "Which parameters led where"])
def test_a_figure_names_the_images_that_runs_were_judged_on(tmp_path, shown):
    runs = [make_run(tmp_path / where, where=where, validation_samples=60) for where in ("random", "sprout")]
    (held,) = compare_all(runs).values()
    drawn = comparison_figures(held)[shown].to_json().replace("<br>", "")
    assert "validation accuracy" in drawn
    assert "test accuracy" not in drawn


def test_csv_and_parquet_have_a_row_a_run_and_say_what_it_was_judged_on(comparisons, tmp_path):
    csv, parquet, _ = export_comparisons(comparisons, tmp_path / "new" / "folder")
    table, same = pd.read_csv(csv), pd.read_parquet(parquet)
    assert len(table) == len(same) == 8
    assert list(table.columns) == list(same.columns)
    assert set(table["judged_on"]) == set(comparisons)
    assert table.set_index("run").loc["gain-per-mac-1", "accuracy"] == pytest.approx(0.942)
    assert table["accuracy"].notna().sum() == 7
    assert table["map50"].notna().sum() == 1


def test_the_page_opens_offline_and_has_all_that_there_is(comparisons, tmp_path):
    page = export_comparisons(comparisons, tmp_path / "to")[2].read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert page.count("<figure ") == 8
    assert page.count("<summary>as text</summary>") == 8
    assert "default-src 'none'" in page
    for words in (
        "<h2>classification of digits</h2>",
        "<h2>detection of scenes</h2>",
        "late is not over",
        "gain-per-mac-2",
    ):
        assert words in page
    own = re.sub(r"<script>/\*\*\n\* plotly\.js.*?</script>", "", page, flags=re.DOTALL)
    assert len(own) < len(page) / 2
    assert not re.search(r"(src|href)=|@import|url\(", own)


@pytest.mark.skipif(find_browser() is None, reason="no Chromium found: apt-get install chromium")
def test_a_browser_draws_every_figure_of_the_page_without_a_complaint(comparisons, tmp_path):
    page = export_comparisons(comparisons, tmp_path / "to")[2]
    command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    drawn = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    for number in range(1, 9):
        assert re.search(rf'id="figure-{number}"[^>]*js-plotly-plot', drawn.stdout)
    assert "points of test accuracy above random" in drawn.stdout
    assert "CONSOLE" not in drawn.stderr


def test_a_name_that_looks_like_markup_is_only_a_name(tmp_path):
    make_run(tmp_path / "<b>a</b>-0", share=0.1)
    make_run(tmp_path / "<b>b</b>-0", share=0.2)
    page = export_comparisons(compare_all(find_runs(tmp_path)), tmp_path / "to")[2].read_text(encoding="utf-8")
    assert "<td><b>" not in page
    assert "&lt;b&gt;a" in page


def test_a_folder_that_cannot_be_written_is_named(comparisons, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GhostkitError, match=r"cannot write the comparison into .*file"):
        export_comparisons(comparisons, tmp_path / "file")
