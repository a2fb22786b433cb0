"""A run folder reads back as frames, at any moment, and never mixes two runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from bit_for_bit import EVERY_KIND, config

import ghostkit
from ghostkit import AddBlock, AddBranch, AddIntrinsic, GhostkitError, GrowthEvent, Run, RunConfig
from ghostkit.events import Grown
from ghostkit.growth import History, RemoveBlock, RemoveBranch, RemoveIntrinsic, WidenStage
from ghostkit.holding import LOCK
from ghostkit.run_folder import RunFolder, checkpoints, step_of
from ghostkit.runs import find_runs, summary

METRICS = "step epoch progress compute seconds split loss accuracy learning_rate params macs".split()
EVENTS = (
    "event step epoch progress compute edits kinds params_before params_after macs_before macs_after "
    "milliseconds_before milliseconds_after loss_before loss_after max_logit_change reason seconds"
).split()
CANDIDATES = "event edit site kind init gain macs params milliseconds chosen".split()
BLOCKS = "block stage kind channels hidden intrinsic branches layers links stride params macs born grown gain".split()
STAGES = [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]]

CONFIG = RunConfig(
    model_options={"stages": STAGES},
    train_samples=256,
    test_samples=50,
    epochs=2,
    grow_from=0.25,
    grow_every=0.25,
    grow_until=0.75,
    share=0.4,
    budget_factor=2,
    probe_samples=32,
    evaluate_every=0.25,
    keep_checkpoints=1,
    kinds=EVERY_KIND,
    device="cpu",
)


@cache
def trained() -> Path:
    return ghostkit.train(CONFIG, mkdtemp()).folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a finished run: eight steps, with an event after the second, fourth and sixth."""
    return Path(shutil.copytree(trained(), tmp_path / "run"))


# Frames


def test_the_folder_holds_what_it_promises(folder):
    names = {path.name for path in folder.iterdir()}
    tables = {"metrics.jsonl", "history.jsonl"}
    assert names == {"config.json", "data.json", "checkpoints", "result.json", LOCK} | tables
    for path in folder.rglob("*"):
        assert path.is_dir() or path.name == LOCK or path.suffix in {".json", ".jsonl", ".safetensors"}


def test_metrics_are_a_row_for_each_measurement(folder):
    metrics = Run(folder).metrics
    assert list(metrics.columns) == METRICS
    assert list(zip(metrics["step"], metrics["split"], strict=True)) == [
        (0, "test"),
        *((step, split) for step in (2, 4, 6, 8) for split in ("train", "test")),
    ]
    assert metrics["progress"].tolist() == [0.0, *(p for p in (0.25, 0.5, 0.75, 1.0) for _ in range(2))]
    assert metrics["epoch"].iloc[-1] == 2.0
    assert metrics["accuracy"].between(0, 1).all()
    assert metrics["compute"].is_monotonic_increasing
    assert metrics["seconds"].is_monotonic_increasing
    for name, kind in (("step", "i"), ("params", "i"), ("macs", "i"), ("loss", "f"), ("compute", "f")):
        assert metrics[name].dtype.kind == kind


def test_events_are_a_row_each_with_readable_edits(folder):
    run = Run(folder)
    events = run.events
    assert list(events.columns) == EVENTS
    assert events["event"].tolist() == [1, 2, 3]
    assert events["step"].tolist() == [2, 4, 6]
    for number, event in enumerate(run.history.events):
        assert events["edits"][number] == ", ".join(map(str, event.edits))
        assert events["kinds"][number] == ", ".join(edit.kind for edit in event.edits)
        assert events["reason"][number] == event.reason
    assert events["edits"].str.contains(r"^Add(?:Branch|Intrinsic|Block)\(").any()
    assert (events["params_after"].iloc[:-1].to_numpy() == events["params_before"].iloc[1:].to_numpy()).all()
    clocks = ["seconds", "milliseconds_before", "milliseconds_after"]
    assert (events[clocks] > 0).all(axis=None)


def test_candidates_are_a_row_for_each_event_and_candidate(folder):
    run = Run(folder)
    candidates = run.candidates
    assert list(candidates.columns) == CANDIDATES
    assert set(candidates["event"]) == {1, 2, 3}
    assert candidates["chosen"].dtype == bool
    for number, event in enumerate(run.history.events, start=1):
        chosen = candidates[(candidates["event"] == number) & candidates["chosen"]]
        assert sorted(chosen["edit"]) == sorted(map(str, event.edits))
        # Edits at both ends of one layer cost more together than apart.
        assert 0 < chosen["macs"].sum() <= event.macs_after - event.macs_before
    # No link: no row has two blocks of one resolution yet.
    assert set(candidates["kind"]) == {"branch", "intrinsic", "block", "stage", "layer"}


def test_the_result_is_what_the_run_ended_with(folder):
    run = Run(folder)
    result, last = run.result, run.metrics.iloc[-1]
    assert (result["params"], result["macs"], result["steps"]) == (last["params"], last["macs"], 8)
    assert (result["accuracy"], result["loss"]) == (last["accuracy"], last["loss"])
    assert result["compute"] == last["compute"]
    assert result["edits"] == [str(edit) for edit in run.history.edits]
    assert result["growth_events"] == (run.events["edits"] != "").sum()
    assert 0 <= result["accuracy"] <= result["accuracy_top5"] <= 1
    assert result["milliseconds"] > 0


def test_a_run_can_be_read_while_it_goes_on(tmp_path):
    events = iter(ghostkit.Trainer(CONFIG, tmp_path))
    next(events)
    run = Run(tmp_path)
    assert len(run.metrics) == 1
    assert (len(run.events), len(run.candidates), run.result) == (0, 0, {})
    assert (list(run.events.columns), list(run.candidates.columns)) == (EVENTS, CANDIDATES)
    assert run.config == CONFIG
    assert run.architecture().equals(run.architecture(0))
    with pytest.raises(GhostkitError, match=r"no checkpoint at step None .*; kept are none"):
        run.model()
    next(events)
    next(events)
    assert run.model() is not None
    while len(run.metrics) < 3:
        next(events)  # the same object sees what was written since


@pytest.mark.parametrize("torn", ['{"step": 8, "epoch": 2.0, "progr', "{", '{"step": 8}'[:-1]])
def test_a_last_line_that_a_crash_cut_short_is_left_out(folder, torn):
    before = Run(folder).metrics
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with (folder / "history.jsonl").open("a") as file:
        file.write(torn)
    assert Run(folder).metrics.equals(before)
    assert len(Run(folder).events) == 3


def test_a_broken_line_in_the_middle_is_named(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[3] = lines[3][:20]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(GhostkitError, match=r"metrics\.jsonl, line 4"):
        _ = Run(folder).metrics


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_a_run_is_named(tmp_path, make):
    make(tmp_path / "empty")
    with pytest.raises(GhostkitError, match=r"empty' holds no run: it has no config\.json"):
        Run(tmp_path / "empty")


def test_a_run_without_a_history_is_named(folder):
    (folder / "history.jsonl").unlink()
    with pytest.raises(GhostkitError, match=r"cannot read the history .*history\.jsonl"):
        _ = Run(folder).events


# The network, then and now


def grown_by_hand(folder: Path) -> Run:
    """A run of four events: width; nothing; a new block and width elsewhere; width in the new block."""
    recipe = {"name": "seedling", "num_classes": 10, "in_channels": 1, "stages": STAGES}
    events = [
        GrowthEvent((AddBranch("blocks.0.0.ghost1", 5),)),
        GrowthEvent((), reason="no growth: for once"),
        GrowthEvent((AddBlock("blocks.1", after="0"), AddIntrinsic("blocks.0.0.ghost1", 1))),
        GrowthEvent((AddBranch("blocks.1.g1.ghost1", 3),)),
    ]
    writer = RunFolder(folder)
    writer.begin(CONFIG)
    writer.write_history(History(recipe, (1, 8, 8), events))
    return Run(folder)


BORN_AND_GROWN: dict[int, dict[str, tuple[int, int]]] = {
    0: {"stem": (0, 0), "blocks.0.0": (0, 0), "blocks.1.0": (0, 0), "head": (0, 0)},
    1: {"stem": (0, 0), "blocks.0.0": (0, 1), "blocks.1.0": (0, 0), "head": (0, 0)},
    2: {"stem": (0, 0), "blocks.0.0": (0, 1), "blocks.1.0": (0, 0), "head": (0, 0)},
    3: {"stem": (0, 0), "blocks.0.0": (0, 3), "blocks.1.0": (0, 0), "blocks.1.g1": (3, 0), "head": (0, 0)},
    4: {"stem": (0, 0), "blocks.0.0": (0, 3), "blocks.1.0": (0, 0), "blocks.1.g1": (3, 4), "head": (0, 0)},
}


@pytest.mark.parametrize("event", [*BORN_AND_GROWN, -1])
def test_the_architecture_tells_when_each_block_came_and_last_changed(event, tmp_path):
    frame = grown_by_hand(tmp_path).architecture(event)
    assert list(frame.columns) == BLOCKS
    told = zip(frame["born"], frame["grown"], strict=True)
    expected = BORN_AND_GROWN[4 if event == -1 else event]
    assert list(zip(frame["block"], told, strict=True)) == list(expected.items())


def test_the_architecture_tells_widths_at_the_time(tmp_path):
    run = grown_by_hand(tmp_path)
    then, now = (run.architecture(event).set_index("block").loc["blocks.0.0"] for event in (0, -1))
    assert (then["intrinsic"], then["branches"], then["hidden"]) == (2, 1, 4)
    assert (now["intrinsic"], now["branches"], now["hidden"]) == (3, 2, 9)
    assert run.architecture(-1).equals(run.architecture(4))
    assert run.architecture().equals(run.architecture(4))
    assert run.events["edits"].tolist()[1] == ""
    assert run.events["kinds"].tolist()[2] == "block, intrinsic"


@pytest.mark.parametrize("event", [5, -2, 100])
def test_an_event_that_never_was_is_refused(event, tmp_path):
    with pytest.raises(GhostkitError, match=f"no growth event {event} in .*; it has 0 .the seedling. to 4"):
        grown_by_hand(tmp_path).architecture(event)


def row(edit: str, gain: float, chosen: bool = True) -> dict[str, Any]:
    return {"edit": edit, "gain": gain, "chosen": chosen}


def test_a_block_has_the_gains_of_all_that_was_grown_in_it(tmp_path):
    grown_by_hand(tmp_path)
    history = Run(tmp_path).history
    scored = {
        0: [row("AddBranch(blocks.0.0.ghost1, 5x5)", 0.5), row("AddBranch(blocks.1.0.ghost1, 3x3)", 9.0, chosen=False)],
        2: [row("AddBlock(blocks.1, after 0)", 0.25), row("AddIntrinsic(blocks.0.0.ghost1, +1)", 0.125)],
        3: [row("AddBranch(blocks.1.g1.ghost1, 3x3)", 0.0625)],
    }
    for number, rows in scored.items():
        history.events[number] = replace(history.events[number], candidates=tuple(rows))
    history.events[2] = replace(
        history.events[2], inverse=(RemoveIntrinsic("blocks.0.0.ghost1", (2,)), RemoveBlock("blocks.1", "g1"))
    )
    RunFolder(tmp_path).write_history(history)
    gains = [
        dict(zip(*Run(tmp_path).architecture(event)[["block", "gain"]].to_numpy().T, strict=True)) for event in range(5)
    ]
    assert gains[0] == {"stem": 0, "blocks.0.0": 0, "blocks.1.0": 0, "head": 0}
    assert gains[1]["blocks.0.0"] == gains[2]["blocks.0.0"] == 0.5
    assert (gains[3]["blocks.0.0"], gains[3]["blocks.1.g1"]) == (0.625, 0.25)
    assert gains[4] == {"stem": 0, "blocks.0.0": 0.625, "blocks.1.0": 0, "blocks.1.g1": 0.3125, "head": 0}


def test_what_was_taken_back_brings_no_gain_and_stem_and_head_have_theirs(tmp_path):
    recipe = {"name": "seedling", "num_classes": 10, "in_channels": 1, "stages": STAGES}
    widened = {site: WidenStage(site, 2) for site in ("conv_stem", "blocks.2.0.conv")}
    branch = AddBranch("blocks.0.0.ghost1", 5)
    events = [
        *(GrowthEvent((edit,), candidates=(row(str(edit), 0.5),)) for edit in widened.values()),
        GrowthEvent((branch,), candidates=(row(str(branch), 0.25),)),
        GrowthEvent((RemoveBranch("blocks.0.0.ghost1", 5, 0),), undoes=3),
    ]
    writer = RunFolder(tmp_path)
    writer.begin(CONFIG)
    writer.write_history(History(recipe, (1, 8, 8), events))
    assert Run(tmp_path).architecture(3)["gain"].tolist() == [0.5, 0.25, 0, 0.5]
    assert Run(tmp_path).architecture(4)["gain"].tolist() == [0.5, 0, 0, 0.5]


SITE = "blocks.0.0.ghost1"
LATER = GrowthEvent((AddIntrinsic(SITE, 4),), (RemoveIntrinsic(SITE, (2, 3, 4, 5)),))


@pytest.mark.parametrize(
    ("later", "gains"),
    [
        ([], {"blocks.0.0": 0.75, "blocks.1.0": 0, "blocks.1.g1": 0.125}),
        # What thins sprouts out undoes no event, and removes some of its edits.
        ([GrowthEvent((RemoveBranch(SITE, 5, 0),))], {"blocks.0.0": 0.25, "blocks.1.0": 0, "blocks.1.g1": 0.125}),
        ([GrowthEvent((RemoveBlock("blocks.1", "g1"),))], {"blocks.0.0": 0.75, "blocks.1.0": 0}),
        # The number of a branch is another by now; some of the maps that were grown are there yet.
        ([GrowthEvent((RemoveBranch(SITE, 3, 0), RemoveBranch(SITE, 3, 0)))], {"blocks.0.0": 0.5}),
        ([LATER, GrowthEvent((RemoveIntrinsic(SITE, (3, 5)),))], {"blocks.0.0": 0.75}),
        # What stands inside a block goes with it, and is not there again when another gets its name.
        (
            [
                GrowthEvent(
                    (AddBranch("blocks.1.g1.ghost1", 5),),
                    (RemoveBranch("blocks.1.g1.ghost1", 5, 0),),
                    candidates=(row("AddBranch(blocks.1.g1.ghost1, 5x5)", 0.0625),),
                ),
                GrowthEvent((RemoveBlock("blocks.1", "g1"),)),
                GrowthEvent((AddBlock("blocks.1", "0"),), (RemoveBlock("blocks.1", "g1"),)),
            ],
            {"blocks.0.0": 0.75, "blocks.1.0": 0, "blocks.1.g1": 0},
        ),
        # What was removed by mistake, and brought back, is there.
        (
            [
                GrowthEvent((RemoveBranch(SITE, 5, 0),), (AddBranch(SITE, 5),)),
                GrowthEvent((AddBranch(SITE, 5),), (RemoveBranch(SITE, 5, 0),), undoes=3),
            ],
            {"blocks.0.0": 0.75, "blocks.1.g1": 0.125},
        ),
    ],
    ids=["nothing", "branch", "block", "renumbered", "maps", "inside a block", "brought back"],
)
def test_what_a_later_event_removed_brings_no_gain_to_any_block(tmp_path, later, gains):
    recipe = {"name": "seedling", "num_classes": 10, "in_channels": 1, "stages": STAGES}
    sprouted = GrowthEvent(
        (AddBranch(SITE, 5), AddBlock("blocks.1", "0")),
        (RemoveBlock("blocks.1", "g1"), RemoveBranch(SITE, 5, 0)),
        candidates=(row(f"AddBranch({SITE}, 5x5)", 0.5), row("AddBlock(blocks.1, after 0)", 0.125)),
    )
    branched = GrowthEvent(
        (AddBranch(SITE, 3),), (RemoveBranch(SITE, 3, 1),), candidates=(row(f"AddBranch({SITE}, 3x3)", 0.25),)
    )
    writer = RunFolder(tmp_path)
    writer.begin(CONFIG)
    writer.write_history(History(recipe, (1, 8, 8), [sprouted, branched, *later]))
    found = dict(zip(*Run(tmp_path).architecture()[["block", "gain"]].to_numpy().T, strict=True))
    assert found.items() >= gains.items()
    assert (found["stem"], found["head"]) == (0, 0)
    assert Run(tmp_path).architecture(2)["gain"].sum() == 0.875, "at that event, all of it was there"


def test_the_gains_of_sprouts_are_those_of_the_ones_that_were_kept(tmp_path):
    run = ghostkit.train(CONFIG.changed(where="sprout", window=0.1, kinds=("branch", "intrinsic")), tmp_path)
    kept, events = 0.0, run.history.events
    thinned = {edit for event in events if event.reason.startswith("sprouts") for edit in event.edits}
    assert thinned
    for event in events:
        predicted = {row["edit"]: row["gain"] for row in event.candidates if row["chosen"]}
        for edit, inverse in zip(event.edits, reversed(event.inverse), strict=True):
            kept += predicted.get(str(edit), 0.0) if inverse not in thinned else 0.0
    assert run.architecture()["gain"].sum() == pytest.approx(kept)


def test_the_gains_of_a_run_add_up_to_those_of_its_chosen_candidates(folder):
    run = Run(folder)
    chosen = run.candidates[run.candidates["chosen"]]
    assert run.architecture()["gain"].sum() == pytest.approx(chosen["gain"].sum())


def test_the_record_of_a_notebook_is_no_result_until_a_trainer_has_written_its_own(folder):
    record = {"notebook": "a.ipynb", "status": "failed", "seconds": 9.0, "result": {"accuracy": 0.5}}
    result = Run(folder).result
    (folder / "result.json").write_text(json.dumps(record))
    assert Run(folder).result == {}
    assert str(Run(folder)) == "run: not over yet"
    (folder / "result.json").write_text(json.dumps({**record, **result}))
    assert Run(folder).result.items() >= result.items()
    assert str(Run(folder)).startswith("run: test accuracy ")


# Checkpoints


def test_checkpoints_at_growth_events_and_at_the_start_are_kept_besides_the_last(folder):
    assert [step_of(checkpoint) for checkpoint in checkpoints(folder)] == [0, 2, 4, 6, 8]
    run = Run(folder)
    assert run.result["growth_events"] == 3
    for step, size in zip((0, 2, 4, 6), [run.events["params_before"][0], *run.events["params_after"]], strict=True):
        assert sum(parameter.numel() for parameter in run.model(step).parameters()) == size
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(run.model().eval()(images), run.model(8).eval()(images))


@pytest.mark.parametrize(("event", "step"), [(0, 0), (1, 2), (2, 4), (3, 6), (-1, 8)])
def test_the_network_at_an_event_is_the_one_that_was_saved_right_after_it(event, step, folder):
    run = Run(folder)
    kept = run.model_at(event)
    assert (kept.step, kept.note, kept.event) == (step, "", 3 if event == -1 else event)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(kept.model.eval()(images), run.model(step).eval()(images))
    assert len(kept.model.growth_history.events) == kept.event


def test_where_no_checkpoint_was_kept_the_nearest_before_is_given_and_what_it_lacks(folder):
    run = Run(folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    kept = run.model_at(2)
    assert kept.step == 2
    assert kept.note == f"the nearest that was kept, of step 2, lacks {run.events['edits'][1]}"
    assert len(kept.model.growth_history.events) == 1


def test_the_network_as_saved_last_says_which_events_came_after_it(tmp_path):
    trainer = ghostkit.Trainer(config(), tmp_path)
    next(event for event in trainer if isinstance(event, Grown) and event.event.edits)
    trainer.close()
    kept = Run(tmp_path).model_at()
    assert (kept.event, kept.note[:30]) == (1, "the nearest that was kept, of ")


def test_a_later_checkpoint_of_the_same_network_says_when_it_was_saved(folder):
    run = Run(folder)
    for step in (0, 2, 4, 6):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    kept = run.model_at(3)
    assert (kept.step, kept.note) == (8, "the nearest that was kept is of step 8; the event was at step 6")
    with pytest.raises(GhostkitError, match="no checkpoint from before growth event 2 was kept"):
        run.model_at(2)
    with pytest.raises(GhostkitError, match=r"no growth event 4 in .*; it has 0 .the seedling. to 3"):
        run.model_at(4)


def test_a_checkpoint_that_is_just_being_removed_is_passed_over(folder):
    for file in (folder / "checkpoints" / "step-00000004").glob("history-*"):
        file.unlink()
    assert Run(folder).model_at(2).step == 2


def rows(*accuracies: float | None) -> list[dict[str, Any]]:
    """Metrics at steps 0, 10, 20, ..., none where the accuracy is None."""
    return [
        {"step": 10 * number, "split": split, "accuracy": accuracy if split == "test" else 1.0}
        for number, accuracy in enumerate(accuracies)
        if accuracy is not None
        for split in ("train", "test")
    ]


GROWN, NOTHING = GrowthEvent((AddBranch("a", 3),), step=20), GrowthEvent((), step=20)
SHRUNK, UNDONE = GrowthEvent((RemoveBranch("a", 3, branch=0),), step=20), GrowthEvent((), step=20, undoes=1)
NAN = float("nan")


@pytest.mark.parametrize(
    ("keep", "events", "accuracies", "left", "best"),
    [
        (1, [], [], [0, 40], None),
        (2, [], [], [0, 30, 40], None),
        (9, [], [], [0, 10, 20, 30, 40], None),
        (1, [GROWN], [], [0, 20, 40], None),
        (1, [NOTHING], [], [0, 40], None),
        (1, [], [0.1, 0.9, 0.2, 0.3, 0.4], [0, 10, 40], 10),
        (1, [], [0.1, 0.9, 0.9, 0.3, 0.4], [0, 20, 40], 20),
        (1, [], [0.9, 0.1, 0.2, 0.3, 0.4], [0, 40], 0),
        (1, [], [0.1, NAN, 0.2, None, 0.1], [0, 20, 40], 20),
        (1, [NOTHING], [0.1, 0.2, 0.9, 0.3, 0.4], [0, 20, 40], 20),
        (1, [UNDONE], [0.1, 0.2, 0.9, 0.3, 0.1], [0, 30, 40], 30),
        (1, [SHRUNK], [0.1, 0.2, 0.9, 0.3, 0.1], [0, 20, 30, 40], 30),
    ],
)
def test_pruning_keeps_the_first_the_last_those_at_growth_events_and_the_best(
    keep, events, accuracies, left, best, tmp_path
):
    writer, history = RunFolder(tmp_path), History(None, None, events)
    writer.begin(CONFIG)
    writer.write_history(history)
    writer.add_metrics(rows(*accuracies))
    for step in range(0, 60, 10):
        writer.checkpoint_folder(step).mkdir()
        if step != 50:
            (writer.checkpoint_folder(step) / "manifest.json").write_text("{}")
    writer.prune_checkpoints(keep, history, step=40)
    assert [step_of(checkpoint) for checkpoint in checkpoints(tmp_path)] == left
    assert writer.checkpoint_folder(50).exists(), "the run was not there yet"
    assert Run(tmp_path).best_step == best


def test_the_best_network_is_found_by_its_name(folder):
    run = Run(folder)
    measured = run.metrics.query("split == 'test'")
    best = int(measured[measured["accuracy"] == measured["accuracy"].max()]["step"].iloc[-1])
    assert run.best_step == best
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(run.model("best").eval()(images), run.model(best).eval()(images))
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(GhostkitError, match=r"no checkpoint in .* was measured yet, so none is the best"):
        Run(folder).model("best")


def test_a_checkpoint_that_was_never_finished_does_not_count(tmp_path):
    writer = RunFolder(tmp_path)
    writer.checkpoint_folder(0).mkdir()
    (writer.checkpoint_folder(0) / "model-0123456789ab.safetensors").write_bytes(b"half of")
    assert checkpoints(tmp_path) == []
    assert writer.begin(CONFIG) is None


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(folder):
    with pytest.raises(GhostkitError, match=r"no checkpoint at step 5 in .*; kept are 0, 2, 4, 6, 8"):
        Run(folder).model(5)


# One folder, one run


def changed_to(**values: Any) -> RunConfig:
    return CONFIG.changed(**values)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed_to(seed=3), r"another configuration \(seed=0 there, 3 now\); choose another folder"),
        (
            changed_to(kinds=("block",), epochs=9),
            r"epochs=2.0 there, 9.0 now; kinds=\['branch', .*\] there, \['block'\] now",
        ),
        (changed_to(model_options={}), r"model_options=\{'stages': .*\} there, \{\} now"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(folder, other, message):
    with pytest.raises(GhostkitError, match=message):
        RunFolder(folder).begin(other)
    assert Run(folder).config == CONFIG
    assert len(Run(folder).metrics) == 9


def test_the_same_configuration_resumes_from_the_last_checkpoint(folder):
    assert RunFolder(folder).begin(CONFIG) == checkpoints(folder)[-1]
    with_tuples = changed_to(model_options={"stages": (((3, 4, 8, 0, 2),), ((3, 4, 8, 0, 2),))})
    assert RunFolder(folder).begin(with_tuples) == checkpoints(folder)[-1]  # as JSON has it, it is the same


IMAGES = {"classes": "cat, dog", "train": "96 images, names 5e1c0a7f9b12", "test": "24 images, names 3f0c52a91b7e"}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"train": "128 images, names 0a1b2c3d4e5f"},
            r"\(train='96 images, names 5e1c0a7f9b12' there, '128 images, names 0a1b2c3d4e5f' now\)",
        ),
        (
            {"classes": "cat, cow", "validation": "9 images"},
            "classes='cat, dog' there, 'cat, cow' now; validation=None there, '9 images' now",
        ),
    ],
)
def test_a_run_on_other_images_is_refused_with_what_differs(folder, now, message):
    (folder / "data.json").write_text(json.dumps(IMAGES))
    with pytest.raises(GhostkitError, match=f"the images of 'digits' have changed since .*{message}"):
        RunFolder(folder).begin(CONFIG, {**IMAGES, **now})
    assert RunFolder(folder).begin(CONFIG, IMAGES) == checkpoints(folder)[-1]


def test_a_run_that_says_nothing_of_its_images_goes_on(folder):
    (folder / "data.json").unlink()
    assert RunFolder(folder).begin(CONFIG, IMAGES) == checkpoints(folder)[-1]


@pytest.mark.parametrize("text", ["", "[3]", '{"train": 3}', '{"train": ', '{"more": "3"}'])
def test_what_is_no_note_of_images_is_refused_in_words(folder, text):
    (folder / "data.json").write_text(text)
    with pytest.raises(GhostkitError, match=r"cannot read '.*data\.json'"):
        RunFolder(folder).begin(CONFIG, IMAGES)


def test_checkpoints_without_their_configuration_are_not_written_over(folder):
    (folder / "config.json").unlink()
    with pytest.raises(GhostkitError, match=r"cannot read the configuration .*config\.json"):
        RunFolder(folder).begin(CONFIG)
    assert len(checkpoints(folder)) == 5


def test_metrics_after_the_checkpoint_are_cut_and_appended_to(tmp_path):
    writer = RunFolder(tmp_path)
    writer.begin(CONFIG)
    writer.add_metrics([{"step": 0}, {"step": 1}])
    writer.add_metrics([{"step": 2}])
    assert writer.metrics_written == 3
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"st')
    again = RunFolder(tmp_path)
    again.cut_metrics(2)
    again.add_metrics([{"step": 3}])
    assert again.metrics_written == 3
    assert Run(tmp_path).metrics["step"].tolist() == [0, 1, 3]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GhostkitError, match=r"cannot make the run folder .*file/run"):
        RunFolder(tmp_path / "file" / "run")


def test_a_summary_lists_accuracies_and_averages_the_rest(tmp_path, folder):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    result = json.loads((other / "result.json").read_text())
    changed = {name: 2 * result[name] for name in ("params", "macs", "milliseconds", "compute")}
    (other / "result.json").write_text(json.dumps({**result, **changed, "accuracy": 0.25}))
    row = summary("grown", [Run(folder), Run(other)])
    assert row["network"] == "grown"
    assert row["accuracy"] == [result["accuracy"], 0.25]
    assert {name: row[name] for name in changed} == {name: pytest.approx(1.5 * result[name]) for name in changed}


def test_runs_that_cannot_be_summed_up_are_refused_in_words(tmp_path, folder):
    unfinished = Path(shutil.copytree(folder, tmp_path / "unfinished"))
    (unfinished / "result.json").unlink()
    with pytest.raises(GhostkitError, match=r"unfinished.*; expected finished runs to sum up as 'grown': train it to"):
        summary("grown", [Run(folder), Run(unfinished)])
    with pytest.raises(GhostkitError, match="there is no run to sum up as 'grown'; expected one at least"):
        summary("grown", [])
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps({**result, "miou": result.pop("accuracy")}))
    text = (other / "result.json").read_text().replace('"accuracy":', '"pixels":')
    (other / "result.json").write_text(text)
    with pytest.raises(GhostkitError, match="runs judged by accuracy, mIoU cannot be summed up as one 'grown'"):
        summary("grown", [Run(folder), Run(other)])


def run_at(folder: Path) -> Path:
    """Make a folder that looks like a run."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "history.jsonl").write_text("")
    return folder


def found(*paths: Path, below: Path) -> list[str]:
    return [str(run.folder.relative_to(below)) for run in find_runs(paths)]


def test_runs_are_found_wherever_they_lie_below_and_come_by_name(tmp_path):
    for name in ("sweep/tasks/b/grown-0", "sweep/tasks/a/grown-1", "sweep/tasks/a/grown-0", "alone"):
        run_at(tmp_path / name)
    (tmp_path / "sweep" / "config.json").write_text("{}")  # of a sweep, perhaps; no run without a history
    inside = ["sweep/tasks/a/grown-0", "sweep/tasks/a/grown-1", "sweep/tasks/b/grown-0"]
    assert found(tmp_path, below=tmp_path) == ["alone", *inside]
    assert found(tmp_path / "sweep", tmp_path / "alone", below=tmp_path) == [*inside, "alone"]
    assert [run.folder for run in find_runs(str(tmp_path / "alone"))] == [tmp_path / "alone"]


def test_a_run_in_several_folders_comes_once_and_nothing_inside_it_is_one(tmp_path):
    run_at(run_at(tmp_path / "a" / "run") / "inner")
    run_at(tmp_path / "a" / "checkpoints" / "step-1")
    assert found(tmp_path, tmp_path / "a", tmp_path / "a" / "run", below=tmp_path) == ["a/run"]


def test_links_are_not_followed_and_the_search_has_an_end(tmp_path):
    run_at(tmp_path / "elsewhere" / "run")
    here = tmp_path / "here"
    run_at(here / "1/2/3/4/5/6/7/8")
    run_at(here / "a/2/3/4/5/6/7/8/9")
    (here / "link").symlink_to(tmp_path / "elsewhere")
    (here / "round").symlink_to(here)
    assert found(here, below=here) == ["1/2/3/4/5/6/7/8"]
    assert len(find_runs(here / "link")) == 1, "a link that is given is meant"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], r"no run found in '.*a', '.*b', up to 8 folders deep; a run is a folder with config.json and"),
        ([], "no run found in no folder at all"),
        (["a", "missing"], "'.*missing' is no folder; expected a run, or a folder that holds runs"),
    ],
)
def test_where_no_run_is_it_says_where_it_looked(names, message, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(GhostkitError, match=message):
        find_runs([tmp_path / name for name in names])
