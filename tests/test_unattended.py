"""Training without a notebook: the same run as in one, told line by line where somebody looks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ghostkit import GhostkitError, Run, RunConfig, Trainer
from ghostkit.events import Evaluated
from ghostkit.unattended import configured, folder_for, train_and_tell, words_of

TINY = RunConfig(
    epochs=2, train_samples=128, test_samples=64, probe_samples=32, grow_every=0.4, grow_until=0.4, device="cpu"
)


def told(folder, *, terminal=True, **options):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    run = train_and_tell(TINY, folder, console=console, **options)
    return run, console.file.getvalue()


def test_the_run_is_what_a_trainer_would_have_made(tmp_path):
    run, _ = told(tmp_path / "here", terminal=False)
    Trainer(TINY, tmp_path / "there").train()
    other = Run(tmp_path / "there")
    clocks = ["seconds"]
    assert run.metrics.drop(columns=clocks).equals(other.metrics.drop(columns=clocks))
    assert run.history.edits == other.history.edits != []
    assert run.result["accuracy"] == other.result["accuracy"]


def test_a_terminal_gets_a_line_for_each_evaluation_and_event_and_the_end(tmp_path):
    run, text = told(tmp_path)
    assert text.count("test accuracy") == len(run.metrics.query("split == 'test'")) + 1
    assert text.count("grew: ") == len(run.events.query("edits != ''")) > 0
    assert "done  test accuracy" in text


@pytest.mark.parametrize("options", [{"terminal": False}, {"quiet": True}])
def test_nobody_who_does_not_look_is_told(options, tmp_path):
    assert told(tmp_path, **options)[1] == ""


def test_a_run_that_was_cut_short_goes_on_and_says_from_where(tmp_path):
    for event in (trainer := Trainer(TINY, tmp_path)):
        if isinstance(event, Evaluated) and trainer.done >= 0.5:
            break
    run, text = told(tmp_path)
    assert "goes on after" in text
    assert run.result
    assert run.metrics.query("split == 'test'")["progress"].is_unique


def test_trackers_are_closed_even_if_the_run_fails(tmp_path, monkeypatch):
    class Held:
        closed = False

        def log_metrics(self, metrics, step):
            raise KeyboardInterrupt

        def finalize(self, status):
            self.closed = True

    with pytest.raises(KeyboardInterrupt):
        train_and_tell(TINY, tmp_path, loggers=[held := Held()])
    assert held.closed


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_a_file_is_changed_by_the_command_line(name, tmp_path):
    TINY.write(tmp_path / name)
    pairs = [("epochs", "3"), ("kinds", "['block']"), ("give_up", "null"), ("data", "digits"), ("compute", "1e9")]
    expected = TINY.changed(epochs=3.0, kinds=("block",), give_up=None, compute=1e9)
    assert configured(tmp_path / name, pairs) == expected


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("epoch", "3")], "unknown parameter 'epoch'; did you mean 'epochs'"),
        ([("xyz", "3")], "unknown parameter 'xyz'; known are task, "),
        ([("epochs", "few")], "parameter 'epochs' = 'few': expected a finite number"),
        ([("epochs", "-1")], "parameter epochs = -1"),
        ([("seed", "1"), ("seed", "2")], "parameter 'seed' is given twice"),
    ],
)
def test_what_does_not_fit_is_named(pairs, message, tmp_path):
    TINY.write(tmp_path / "run.yaml")
    with pytest.raises(GhostkitError, match=message):
        configured(tmp_path / "run.yaml", pairs)


@pytest.mark.parametrize(
    ("path", "folder"),
    [("grow.yaml", "runs/grow-5"), ("far/away/grow.v2.json", "runs/grow.v2-5"), ("old/config.json", "runs/config-5")],
)
def test_a_file_has_one_folder_for_each_seed_so_that_the_same_command_goes_on(path, folder):
    assert str(folder_for(path, RunConfig(seed=5))) == folder


@pytest.mark.parametrize("written", ["history.jsonl", "checkpoints", ".trainer.lock"])
def test_a_config_json_is_a_runs_own_where_something_of_a_run_lies_beside_it(written, tmp_path):
    (tmp_path / written).mkdir()
    assert folder_for(tmp_path / "config.json", RunConfig()) == tmp_path


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"data_root": "data"}, "data"),
        ({"data_root": "12"}, '"12"'),
        ({"data": "12"}, "12"),
        ({"data_root": None}, "null"),
        ({"data_root": "null"}, '"null"'),
        ({"kernel_sizes": (3,)}, "[3]"),
        ({"model_options": {"width": 2, "on": True}}, '{"width": 2, "on": true}'),
    ],
)
def test_words_are_quoted_only_where_they_would_be_read_as_something_else(value, word):
    (name,) = value
    words = words_of(RunConfig(**value))
    assert words[words.index(name) + 1] == word
