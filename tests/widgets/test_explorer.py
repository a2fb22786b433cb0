"""The explorer without a browser: what its controls change, what it says, and what it survives."""

from __future__ import annotations

import html
import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ipywidgets
import pytest
from bit_for_bit import config

import ghostkit
from ghostkit import Run, Trainer, views, widgets
from ghostkit.errors import GhostkitError
from ghostkit.exploring import END, Exploration
from ghostkit.views.report import PLOTLY

CONTROLS = (
    *(ipywidgets.Button, ipywidgets.Dropdown, ipywidgets.ToggleButtons),
    *(ipywidgets.IntSlider, ipywidgets.SelectionSlider),
)
LAYERS = ["blocks.0.0.ghost1", "blocks.0.0.ghost2", "blocks.1.0.ghost1", "blocks.1.0.ghost2"]
BLOCKS = {"kinds": ("block",), "share": 0.5, "budget_factor": 6}
SCENES: dict[str, Any] = {
    **{"data": "scenes", "size": 64, "train_samples": 16, "test_samples": 4, "model_options": {"stem_stride": 2}},
    **{"epochs": 1, "batch_size": 8, "when": "never", "evaluate_every": 1.0, "probe_samples": 8},
}


@cache
def trained() -> Path:
    """Two runs of one folder: three growth events of blocks, and one that never grew."""
    place = Path(mkdtemp())
    ghostkit.train(config(**BLOCKS, grow_every=0.25), place / "grown")
    ghostkit.train(config(when="never"), place / "still")
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained(), tmp_path / "runs"))


@pytest.fixture
def explorer(place: Path) -> widgets.Explorer:
    return widgets.Explorer(place / "grown", other=place / "still")


def everything(widget: Any) -> list[Any]:
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in everything(child))]


def find(explorer: widgets.Explorer, name: str) -> Any:
    """What carries the CSS class of that name, in any section."""
    widgets = [*everything(explorer), *(inner for part in explorer._sections.values() for inner in everything(part))]
    return next(widget for widget in widgets if f"ghostkit-{name}" in getattr(widget, "_dom_classes", ()))


def choose(explorer: widgets.Explorer, **values: Any) -> None:
    for name, value in values.items():
        find(explorer, name).value = value


def shown(explorer: widgets.Explorer, name: str) -> str:
    """The text twin of a picture; nothing where none is shown."""
    outputs = find(explorer, name).outputs
    assert all(PLOTLY in output["data"] for output in outputs)
    return "".join(output["data"]["text/plain"] for output in outputs)


def said(explorer: widgets.Explorer, name: str) -> str:
    return html.unescape(re.sub("<[^>]*>", " ", find(explorer, name).value))


# Controls


def test_every_control_says_what_it_is_and_what_it_does(explorer):
    sections = [inner for part in explorer._sections.values() for inner in everything(part)]
    kinds = (ipywidgets.Button, ipywidgets.Dropdown, ipywidgets.IntSlider, ipywidgets.SelectionSlider)
    controls = [
        one for one in {*everything(explorer), *sections} if isinstance(one, (*kinds, ipywidgets.ToggleButtons))
    ]
    assert len(controls) == 12
    for control in controls:
        assert len(control.tooltip) > 10
        if isinstance(control, ipywidgets.Dropdown):
            assert control.tooltip in control.description  # which alone is shown, of a dropdown
    assert len(find(explorer, "section").tooltips) == len(find(explorer, "section").options) == 4


def test_the_slider_stops_at_the_seedling_at_every_event_and_at_the_end(explorer):
    slider = find(explorer, "event")
    assert [word for word, _ in slider.options] == ["seedling", "event 1", "event 2", "event 3", "the end"]
    assert slider.value == END
    assert (find(explorer, "previous").disabled, find(explorer, "next").disabled) == (False, True)


def test_the_buttons_turn_and_are_off_at_the_ends(explorer):
    previous, forth, slider = (find(explorer, name) for name in ("previous", "next", "event"))
    for expected in (3, 2, 1, 0, 0):
        previous.click()
        assert slider.value == expected
    assert (previous.disabled, forth.disabled) == (True, False)
    forth.click()
    assert slider.value == 1


def test_only_the_open_section_is_there_and_outputs_stay(explorer):
    output = find(explorer, "architecture")
    for section in find(explorer, "section").options:
        choose(explorer, section=section)
        assert explorer._section.children == (explorer._sections[section],)
        assert said(explorer, "message").strip() == ""
    choose(explorer, section="growth", event=1)
    assert find(explorer, "architecture") is output
    assert len(output.outputs) == 1


# What grew


def test_the_time_slider_moves_the_architecture_and_tells_what_happened(explorer, place):
    run = Run(place / "grown")
    assert "the end" in shown(explorer, "architecture")
    assert shown(explorer, "candidates") == ""
    for event in (1, 3):
        choose(explorer, event=event)
        before, after = run.architecture(event - 1), run.architecture(event)
        named = f"event {event - 1}" if event > 1 else "seedling"
        assert shown(explorer, "architecture") == views.architecture_text(before, after, (named, f"event {event}"))
        told = said(explorer, "told")
        assert run.events["edits"][event - 1] in told
        assert run.events["reason"][event - 1] in told
        assert shown(explorer, "candidates") == views.candidate_scores_text(run.candidates, event)
    choose(explorer, event=0)
    assert shown(explorer, "candidates") == ""
    assert "The seedling" in said(explorer, "told")


@pytest.mark.parametrize(
    ("beside", "titles"),
    [
        ("before", ("event 1  ", "event 2  ")),
        ("seedling", ("seedling  ", "event 2  ")),
        ("end", ("event 2  ", "the end  ")),
        ("other", ("event 2, this run  ", "seedling, other  ")),
    ],
)
def test_the_network_is_shown_beside_what_is_chosen(beside, titles, explorer):
    choose(explorer, event=2, beside=beside)
    text = shown(explorer, "architecture")
    assert text.startswith(titles[0])
    assert f"\n\n{titles[1]}" in text


@pytest.mark.parametrize("colour", ["gain", "importance"])
def test_blocks_are_coloured_by_nats(colour, explorer):
    choose(explorer, colour=colour)
    assert f"{colour} (nats)" in shown(explorer, "architecture")


# Feature maps


def test_sliders_move_the_mosaic_and_the_similarity(explorer, place):
    seen = Exploration(place / "grown")
    choose(explorer, section="feature maps")
    for event, layer, image in ((END, LAYERS[0], 0), (END, LAYERS[2], 0), (END, LAYERS[2], 5), (1, LAYERS[2], 5)):
        choose(explorer, event=event, layer=layer, image=image)
        assert shown(explorer, "mosaic") == views.feature_mosaic_text(*seen.maps(event, layer, image))
        assert shown(explorer, "similarity") == views.branch_similarity_text(seen.similarity(event, layer))
        assert shown(explorer, "predicted").startswith(f"image {image}:")


def test_a_layer_that_is_not_there_yet_is_remembered(explorer):
    choose(explorer, section="feature maps")
    layers = find(explorer, "layer")
    assert layers.value == LAYERS[0]
    new = next(path for _, path in layers.options if path not in LAYERS)
    choose(explorer, layer=new, event=0)
    assert layers.value == LAYERS[0]
    assert f"{new} is not there yet" in said(explorer, "message")
    choose(explorer, event=END)
    assert layers.value == new
    assert said(explorer, "message") == ""


def test_a_network_that_is_not_exactly_the_one_of_the_event_says_so(explorer, place):
    step = Run(place / "grown").events["step"][1]
    shutil.rmtree(place / "grown" / "checkpoints" / f"step-{step:08d}")
    choose(explorer, section="feature maps", event=2)
    assert "Note: the nearest that was kept, of step" in said(explorer, "message")


# A part switched off


def test_a_part_that_is_off_changes_scores_and_predictions(explorer, place):
    seen = Exploration(place / "grown")
    choose(explorer, section="switch off")
    assert "difference" not in said(explorer, "table")
    assert shown(explorer, "after") == ""
    part = find(explorer, "part").options[1][1]
    assert part.label == "block blocks.0.0"
    choose(explorer, part=part)
    whole, without = (seen.scores(END, off, 50) for off in (None, part))
    assert f"{100 * whole['accuracy']:.2f} %" in said(explorer, "table")
    assert f"{100 * without['accuracy']:.2f} %" in said(explorer, "table")
    assert f"{100 * (without['accuracy'] - whole['accuracy']):+.2f} points" in said(explorer, "table")
    pictures = [re.findall(r"image (\d+):", shown(explorer, name)) for name in ("before", "after")]
    assert pictures[0] == pictures[1]
    assert shown(explorer, "before") != shown(explorer, "after")
    choose(explorer, part=None)
    assert shown(explorer, "after") == ""


def test_the_images_that_change_most_are_shown(explorer, place):
    seen = Exploration(place / "grown")
    choose(explorer, section="switch off")
    part = find(explorer, "part").options[2][1]
    choose(explorer, part=part)
    numbers = range(50)
    pairs = zip(seen.predictions(END, None, numbers), seen.predictions(END, part, numbers), strict=True)
    change = [abs(one.loss - other.loss) for one, other in pairs]
    expected = sorted(numbers, key=lambda number: -change[number])[:3]
    assert [int(number) for number in re.findall(r"image (\d+):", shown(explorer, "after"))] == expected


# Two runs


def test_two_runs_are_laid_side_by_side_at_equal_progress(explorer, place):
    choose(explorer, section="two runs", event=2)
    runs = {"this run": Run(place / "grown"), "still": Run(place / "still")}
    assert shown(explorer, "curves") == views.compute_accuracy_text({name: run.metrics for name, run in runs.items()})
    assert "still" in shown(explorer, "histories")
    assert shown(explorer, "both").startswith("this run, event 2  ")
    assert "still, seedling  " in shown(explorer, "both") or "still, event 1  " in shown(explorer, "both")


def test_runs_of_the_same_folder_are_offered_without_being_given(place):
    explorer = widgets.Explorer(str(place / "still"))
    choose(explorer, section="two runs")
    assert [word for word, _ in find(explorer, "other").options] == ["grown"]
    assert shown(explorer, "both").startswith("this run, the end  ")
    assert "grown, the end  " in shown(explorer, "both")


def test_runs_of_other_tasks_and_folders_that_cannot_be_read_are_not_offered(place):
    for name, text in (("other-task", '{"task": "detection", "data": "scenes"}'), ("broken", "{")):
        shutil.copytree(place / "grown", place / name)
        (place / name / "config.json").write_text(text)
    explorer = widgets.Explorer(place / "still")
    assert [word for word, _ in find(explorer, "other").options] == ["grown"]


def test_after_an_error_nothing_of_what_was_shown_before_is_left(explorer, monkeypatch):
    choose(explorer, section="two runs")
    assert find(explorer, "curves").outputs
    monkeypatch.setattr(Exploration, "progress", lambda *_: 1 / 0)
    choose(explorer, event=1)
    assert "ZeroDivisionError" in said(explorer, "message")
    assert [find(explorer, name).outputs for name in ("curves", "histories", "both")] == [(), (), ()]


def test_a_section_that_is_opened_again_is_drawn_anew(explorer):
    pictures = []
    find(explorer, "architecture").observe(lambda change: pictures.append(len(change["new"])), "outputs")
    choose(explorer, section="two runs")
    choose(explorer, section="growth")
    assert pictures == [0, 1]  # the same picture again would not be sent to the browser


def test_a_run_alone_says_what_to_give(tmp_path, place):
    alone = widgets.Explorer(shutil.copytree(place / "grown", tmp_path / "alone" / "grown"))
    choose(alone, section="two runs")
    assert "there is no other run beside this one; give one: Explorer(run, other)" in said(alone, "message")


# What it survives


def test_an_error_is_told_in_a_line_and_the_controls_go_on(explorer, place):
    shutil.rmtree(place / "grown" / "checkpoints")
    choose(explorer, section="feature maps")
    assert "This could not be shown." in said(explorer, "message")
    assert "no checkpoint from before growth event 3" in said(explorer, "message")
    assert said(explorer, "busy") == ""
    choose(explorer, section="growth", event=1)
    assert said(explorer, "message") == ""
    assert "event 1  " in shown(explorer, "architecture")


def test_what_nobody_foresaw_is_told_too(explorer, monkeypatch):
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by <nothing>")

    monkeypatch.setattr(Exploration, "maps", fail)
    choose(explorer, section="feature maps")
    assert "ZeroDivisionError: by &lt;nothing&gt;" in find(explorer, "message").value


def test_a_run_that_goes_on_can_be_followed(tmp_path):
    events = iter(Trainer(config(**BLOCKS), tmp_path))
    next(events), next(events)
    explorer = widgets.Explorer(tmp_path)
    assert [word for word, _ in find(explorer, "event").options] == ["seedling", "the end"]
    for _ in events:
        pass
    find(explorer, "refresh").click()
    assert len(find(explorer, "event").options) == len(Run(tmp_path).events) + 2
    assert find(explorer, "event").value == END
    assert f"after {len(Run(tmp_path).events)} growth events" in said(explorer, "told")


def test_a_refresh_that_fails_says_why_and_shows_nothing_old(tmp_path):
    ghostkit.train(config(**BLOCKS), tmp_path)
    explorer = widgets.Explorer(tmp_path)
    (tmp_path / "history.jsonl").write_text("no history")
    find(explorer, "refresh").click()
    assert "does not begin with a recipe line" in find(explorer, "message").value
    assert shown(explorer, "architecture") == ""


def test_no_run_is_refused_at_once(tmp_path):
    with pytest.raises(GhostkitError, match="holds no run"):
        widgets.Explorer(tmp_path)


def test_without_a_browser_the_text_of_what_is_open_is_left(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert shown(explorer, "architecture") in bundle["text/plain"]


@pytest.mark.parametrize(("task", "metric"), [("detection", "mAP50"), ("segmentation", "mIoU")])
def test_other_tasks_are_explored_like_classification(task, metric, tmp_path):
    small = {"channels": 8}
    run = ghostkit.train(ghostkit.RunConfig(task=task, head_options=small, **SCENES), tmp_path / task)
    explorer = widgets.Explorer(run)
    choose(explorer, colour="importance")
    assert "backbone.blocks.0.0" in shown(explorer, "architecture")
    choose(explorer, section="feature maps")
    assert find(explorer, "layer").value.startswith("backbone.")
    choose(explorer, section="switch off")
    choose(explorer, part=find(explorer, "part").options[1][1])
    assert metric in said(explorer, "table")
    assert shown(explorer, "after").startswith("image ")
    assert said(explorer, "message") == ""
