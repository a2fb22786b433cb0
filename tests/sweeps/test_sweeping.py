"""A sweep does what is missing, once, and keeps what is done; nothing here starts a kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from misbehaving import alive, record_in, run_folder, wait_for

from ghostkit.errors import GhostkitError
from ghostkit.sweeps import RunBegan, RunEnded, SweepBegan, estimate, executing, plan_sweep, plan_table, run_sweep
from ghostkit.sweeps.folder import locked
from ghostkit.sweeps.kernels import end_leftovers, note_kernel


def test_every_run_is_a_row_of_the_table_and_a_line_of_the_index(here, write_sweep, ran):
    events: list[object] = []
    result = run_sweep(write_sweep(grid={"a": [1, 3, 2]}, workers=1), on_event=events.append)
    assert result.complete
    assert result.folder == here / "runs" / "sweep"
    assert events[0] == SweepBegan(3, 0, 1)
    assert events[1:3] == [RunBegan("001-a-1"), RunEnded("001-a-1", "done", 2.5)]
    table = pd.read_parquet(result.folder / "results.parquet")
    pd.testing.assert_frame_equal(table, result.table)
    parameters = [f"p.{name}" for name in ("a", "rate", "name", "flag", "mode", "seed")]
    assert list(table.columns) == [
        *("run", *parameters, "m.margins.grown", "m.sum", "growth_events", "edits", "params", "macs"),
        *("seconds", "peak_memory", "status", "error"),
    ]
    assert list(table["m.sum"]) == [1.5, 3.5, 2.5]
    assert list(table["peak_memory"]) == [1000] * 3
    page = (result.folder / "index.html").read_text()
    assert [page.index(f">{name}<") for name in ("002-a-3", "003-a-2", "001-a-1")] == sorted(
        page.index(f">{name}<") for name in ("001-a-1", "002-a-3", "003-a-2")
    ), "the largest sum stands first"
    assert 'href="runs/001-a-1/a.ipynb"' in page


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([0.25, 1, 2.5], pd.Series([0.25, 1, 2.5])),
        ([3, 1], pd.Series([3, 1], dtype="Int64")),
        ([True, 2, 0.5], pd.Series(["true", "2", "0.5"])),
    ],
    ids=str,
)
def test_whole_numbers_and_decimals_are_one_column_of_numbers(write_notebook, write_sweep, ran, values, column):
    write_notebook(parameters="x = None\nfolder = None")
    table = run_sweep(write_sweep(grid={"x": values})).table
    pd.testing.assert_series_equal(table["p.x"], column, check_names=False)


def test_a_second_time_nothing_is_run(write_sweep, ran):
    path = write_sweep(grid={"a": [1, 2]})
    first = run_sweep(path).table
    again = run_sweep(path).table
    assert len(ran) == 2
    pd.testing.assert_frame_equal(first, again)


def test_a_failed_run_is_a_row_with_its_error_and_is_tried_again(here, write_sweep, ran):
    path = write_sweep(list=[{"a": 1}, {"mode": "fail"}, {"a": 3}], workers=1)
    result = run_sweep(path)
    assert not result.complete
    assert list(result.table["status"]) == ["done", "failed", "done"]
    assert list(result.table["error"]) == ["", "ValueError: boom", ""]
    assert result.table["seconds"][1] == 1.5
    record = record_in(run_folder(here / "runs/sweep", 2))
    assert record["error"] == {"name": "ValueError", "message": "boom", "traceback": "line 1", "cell": "cell [2]"}
    run_sweep(path)
    assert [(values["a"], values["mode"]) for values in ran] == [(1, ""), (1, "fail"), (3, ""), (1, "fail")]


@pytest.mark.parametrize(("mode", "attempts"), [("", 1), ("once", 2), ("fail", 3)])
def test_retries_are_made_at_once_and_no_more_than_needed(here, write_sweep, ran, mode, attempts):
    path = write_sweep(parameters={"mode": mode}, retries=2)
    assert run_sweep(path).complete == (mode != "fail")
    assert record_in(here / "runs/sweep/runs/001")["attempts"] == len(ran) == attempts


@pytest.mark.parametrize(
    ("file", "content"),
    [("record.json", '{"key": "'), ("record.json", None), ("result.json", '{"half":'), ("result.json", None)],
)
def test_half_a_result_is_not_done(here, write_sweep, ran, file, content):
    path = write_sweep(grid={"a": [1, 2]})
    whole = run_sweep(path).table
    target = here / "runs/sweep/runs/001-a-1" / file
    target.unlink() if content is None else target.write_text(content)
    assert [run.name for run in plan_sweep(path)[1].todo] == ["001-a-1"]
    pd.testing.assert_frame_equal(run_sweep(path).table, whole)
    assert len(ran) == 3


def test_a_record_of_other_values_does_not_count(here, write_sweep, ran):
    path = write_sweep(grid={"a": [1, 2]})
    run_sweep(path)
    runs = here / "runs/sweep/runs"
    for file in ("record.json", "result.json"):
        (runs / "001-a-1" / file).write_bytes((runs / "002-a-2" / file).read_bytes())
    with pytest.raises(GhostkitError, match="give another --folder, or --redo"):
        run_sweep(path)
    assert run_sweep(path, redo=True).complete
    assert len(ran) == 3


def test_more_values_are_more_runs(here, write_sweep, ran):
    run_sweep(write_sweep(grid={"a": [1, 2]}))
    table = run_sweep(write_sweep(grid={"a": [0, 1, 2]})).table
    assert len(ran) == 3
    assert list(table["run"]) == ["003-a-0", "001-a-1", "002-a-2"]
    assert [run["name"] for run in json.loads((here / "runs/sweep/sweep.json").read_text())["runs"]] == [
        "001-a-1",
        "002-a-2",
        "003-a-0",
    ]


def test_finished_runs_of_other_values_stay_in_the_table_and_on_the_page(here, write_sweep, ran):
    run_sweep(write_sweep(list=[{"a": 1}, {"a": 2}, {"a": 3, "mode": "fail"}]))
    result = run_sweep(write_sweep(grid={"a": [2, 5]}))
    assert list(zip(result.table["run"], result.table["p.a"], strict=True)) == [
        ("002-a-2-mode", 2),
        ("004-a-5", 5),
        ("001-a-1-mode", 1),
    ]
    assert (result.complete, len(ran)) == (True, 4)
    assert 'href="runs/001-a-1-mode/a.ipynb"' in (result.folder / "index.html").read_text()
    once = run_sweep(write_sweep(parameters={"a": 5}))
    assert list(once.table["p.a"]) == [5, 1, 2]
    assert "a = 5" not in (result.folder / "index.html").read_text(), "not in all runs"


def test_finished_runs_of_other_values_and_other_code_are_not_beside_those_of_the_new(write_sweep, write_notebook, ran):
    run_sweep(write_sweep(grid={"a": [1, 2]}))
    write_notebook("a = 2")
    assert list(run_sweep(write_sweep(grid={"a": [5]})).table["p.a"]) == [5]


def test_finished_runs_of_other_code_are_not_overwritten_unasked(write_sweep, write_notebook, ran):
    path = write_sweep(grid={"a": [1, 2]})
    run_sweep(path)
    write_notebook("print('other code')")
    assert list(plan_table(plan_sweep(path)[1])["state"]) == ["outdated", "outdated"]
    with pytest.raises(GhostkitError, match=r"has changed since 2 runs in .* were done"):
        run_sweep(path)
    assert len(ran) == 2
    assert run_sweep(path, redo=True).complete
    assert len(ran) == 4


def test_one_sweep_at_a_time_works_in_a_folder(here, write_sweep, ran):
    path = write_sweep()
    with locked(here / "runs/sweep"), pytest.raises(GhostkitError, match="another sweep works in"):
        run_sweep(path)
    assert run_sweep(path).complete


def test_the_cores_are_divided_among_the_workers(write_sweep, ran, monkeypatch):
    monkeypatch.setattr("ghostkit.sweeps.sweeping.cores", lambda: 8)
    for variable in executing.THREADS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    run_sweep(write_sweep(), workers=2)
    assert ran[0]["environment"] == dict.fromkeys(executing.THREADS, "4") | {"MKL_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers = 0: expected one at least"),
        ({"processes": 0}, "processes = 0"),
        ({"workers": 2, "processes": 2}, "exclude each other"),
        ({"folder": "a.ipynb"}, "cannot use .* as the sweep's folder"),
        ({"folder": "a.ipynb/below"}, "cannot use .* as the sweep's folder"),
        ({"folder": "/proc/none"}, "cannot use '/proc/none' as the sweep's folder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_run(here, write_sweep, ran, options, message):
    path = write_sweep()
    with pytest.raises(GhostkitError, match=message):
        run_sweep(path, **options)
    assert ran == []
    assert sorted(entry.name for entry in here.iterdir()) == ["a.ipynb", "sweep.yaml"]


def test_a_name_that_leads_out_of_the_folder_is_not_taken_from_it(here, write_sweep, ran):
    path = write_sweep()
    (here / "runs/sweep").mkdir(parents=True)
    (here / "runs/sweep/sweep.json").write_text(json.dumps({"runs": [{"name": "../../out", "parameters": {}}]}))
    with pytest.raises(GhostkitError, match=r"names a run '../../out', which no sweep does"):
        run_sweep(path)
    assert ran == []


def test_a_run_whose_folder_cannot_be_made_fails_alone_and_says_what_to_do(here, write_sweep, ran):
    path = write_sweep(grid={"a": [1, 2]})
    (here / "runs/sweep/runs").mkdir(parents=True)
    (here / "runs/sweep/runs/001-a-1").write_text("in the way")
    result = run_sweep(path)
    assert list(result.table["status"]) == ["failed", "done"]
    assert "FileExistsError" in result.table["error"][0]
    assert "remove the file that stands where the run's folder should be" in result.table["error"][0]


def test_a_full_disk_is_named_in_its_row_and_the_others_go_on(write_sweep, ran):
    result = run_sweep(write_sweep(list=[{"mode": "disk"}, {"a": 2}]))
    assert list(result.table["status"]) == ["failed", "done"]
    assert result.table["error"][0].startswith("OSError: [Errno 28] No space left on device")
    assert "make room on the disk, then give the same command again" in result.table["error"][0]


@pytest.mark.parametrize("name", ["write_record", "write_results", "write_index"])
def test_what_cannot_be_written_down_is_not_taken_for_done(write_sweep, ran, monkeypatch, name):
    def full(*_: object) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise GhostkitError("cannot write 'x': No space left on device") from error

    path = write_sweep()
    with monkeypatch.context() as patch:
        patch.setattr(f"ghostkit.sweeps.{'executing' if name == 'write_record' else 'sweeping'}.{name}", full)
        result = run_sweep(path)
    assert not result.complete
    assert "No space left on device" in result.unwritten + result.table["error"][0]
    assert "the same command again" in result.unwritten + result.table["error"][0]
    assert run_sweep(path).complete


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="NOT TESTED HERE: a real full disk takes Linux and root, to mount a small tmpfs",
)
def test_a_disk_that_is_really_full_is_named_and_the_sweep_resumes_with_more_room(here, write_sweep, write_notebook):
    disk = here / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("NOT TESTED HERE: root may not mount a tmpfs in this container")
    try:
        write_notebook(
            "from ghostkit.notebooks import publish\nfrom pathlib import Path",
            "if name == 'large': (Path(folder) / 'blob').write_bytes(bytes(a * 1_000_000))\npublish({'sum': a})",
        )
        path = write_sweep(list=[{"name": "large", "a": 3}, {"a": 2}], workers=1)
        result = run_sweep(path, disk / "sweep")
        assert not result.complete
        assert result.table["status"][0] == "failed"
        assert "No space left on device" in result.table["error"][0]
        assert "make room" in result.table["error"][0]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run_sweep(path, disk / "sweep").complete
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# What a killed sweep leaves behind


@pytest.mark.skipif(os.name != "posix", reason="process groups as on POSIX")
def test_a_kernel_that_outlived_its_sweep_is_ended_with_what_it_started(here, write_sweep, ran):
    path = write_sweep()
    run_sweep(path)
    folder = here / "runs/sweep/runs/001"
    left = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $! > child; wait"], start_new_session=True)
    child = int(wait_for(lambda: Path("child").exists() and Path("child").read_text()))
    note_kernel(folder, left.pid)
    (folder / "record.json").unlink()
    assert run_sweep(path).complete
    assert left.wait() != 0
    wait_for(lambda: not alive(child))
    assert not (folder / "kernel.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="process groups as on POSIX")
def test_a_process_that_has_the_number_of_an_old_kernel_is_left_alone(here):
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    note_kernel(here, other.pid)
    fact = json.loads((here / "kernel.json").read_text())
    (here / "kernel.json").write_text(json.dumps({**fact, "born": fact["born"] - 100}))
    assert not end_leftovers(here)
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("content", ["", "{}", '{"pid": 1, "born": null, "host": ""}', '{"pid": "x"}'])
def test_what_is_no_note_of_a_kernel_ends_nothing(here, content):
    (here / "kernel.json").write_text(content)
    assert not end_leftovers(here)
    assert not (here / "kernel.json").exists()


# The plan


def test_the_plan_says_what_is_done_and_how_long_the_rest_may_take(write_sweep, ran):
    path = write_sweep(list=[{"a": 1}, {"mode": "fail"}])
    _, state = plan_sweep(path)
    assert "2 runs of a.ipynb, 0 done, 2 to do" in estimate(state, 1)
    assert "unknown until one has finished" in estimate(state, 1)
    run_sweep(path)
    _, state = plan_sweep(write_sweep(list=[{"a": 1}, {"mode": "fail"}, {"a": 3}]))
    assert list(plan_table(state)["state"]) == ["done", "failed", "to do"]
    assert "time needed: 5 s" in estimate(state, 1)
    assert "time needed: 2 s" in estimate(state, 2)
