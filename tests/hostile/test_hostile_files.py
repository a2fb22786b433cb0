"""Whatever a stranger's file holds, it is read or refused in words: nothing else is raised, run or touched."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from bit_for_bit import config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ghostkit
from ghostkit import GhostkitError, Run, RunConfig, Trainer
from ghostkit.checkpoint import load_state
from ghostkit.exporting import read_network
from ghostkit.growth.history import History
from ghostkit.nn.zoo import read_weights
from ghostkit.runs import find_runs
from ghostkit.sweeps.definition import read_sweep
from ghostkit.sweeps.folder import known_names

CASES = 1000 if os.environ.get("GHOSTKIT_SOAK") else 60
MANY = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

# -- who looks on ------------------------------------------------------------------------------------------------------

SEEN: list[str] = []
OPENED: list[Path] = []
LOOKED_AFTER: list[Path] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not LOOKED_AFTER:
        return
    if event in ("os.system", "subprocess.Popen", "pickle.find_class", "os.exec", "os.posix_spawn"):
        SEEN.append(f"{event}{arguments!r:.200}")
    if event == "open" and isinstance(arguments[0], str | Path) and isinstance(arguments[2], int):
        written = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        path = Path(arguments[0])
        OPENED.append(path)
        if written and path.is_absolute() and LOOKED_AFTER[0] not in path.parents and path != Path(os.devnull):
            SEEN.append(f"wrote {path}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Let nothing but a GhostkitError out, and see to it that nothing is run, or written outside the folder."""
    SEEN.clear()
    LOOKED_AFTER[:] = [folder]
    try:
        with warnings.catch_warnings(), contextlib.suppress(GhostkitError):
            warnings.simplefilter("ignore")
            yield
    finally:
        LOOKED_AFTER.clear()
    assert SEEN == []


# -- real files, and what a stranger may make of them ------------------------------------------------------------------


@cache
def real_run() -> Path:
    """A small run that is over."""
    folder = Path(tempfile.mkdtemp(prefix="real-")) / "run"
    Trainer(config(ema=0.9, optimizer="adamw", learning_rate=0.01, test_samples=20, probe_samples=16), folder).train()
    return folder


DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]

HOSTILE = st.sampled_from(
    [
        *(None, True, "", "x", "../..", "/etc/passwd", "\ud800", "\x00", "a" * 5000, [], {}, [[]], {"": None}, DEEP),
        *(0, -1, 1, 7, 10**9, 10**18, 2**63, -(2**63), 10**400, 1.5, -0.0, 1e308, float("inf"), float("nan")),
        *([1, 2, 3], ["x"] * 3, {"name": "seedling"}, {"kind": "branch"}, "AddBranch(x, 3x3)", "model/x"),
    ]
)


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(item, (*before, key))


@st.composite
def other_json(draw: Callable[..., Any], values: Any) -> Any:
    """The same data with one to three values replaced, taken out, or put in beside."""
    for _ in range(draw(st.integers(1, 3))):
        values = copy.deepcopy(values)
        places = [*paths_in(values)]
        *way, last = draw(st.sampled_from(places)) or (None,)
        if last is None:
            return draw(HOSTILE)
        holder = values
        for key in way:
            holder = holder[key]
        what = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if what == "remove":
            del holder[last]
        elif what == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(("x", "weights", "__class__", "seed", "params")))] = draw(HOSTILE)
        else:
            holder[last] = draw(HOSTILE)
    return values


@st.composite
def other_bytes(draw: Callable[..., Any], data: bytes) -> bytes:
    """The same bytes cut short, overwritten, doubled in part, or others."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        what = draw(st.sampled_from(("cut", "write", "splice", "digits")))
        if what == "cut":
            del changed[place:]
        elif what == "write":
            changed[place : place + 4] = draw(st.binary(min_size=1, max_size=8))
        elif what == "splice":
            changed[place:place] = changed[place // 2 : place // 2 + draw(st.integers(1, 200))]
        else:
            changed[place:place] = b"9" * draw(st.integers(1, 6000))
    return bytes(changed)


@st.composite
def other_lines(draw: Callable[..., Any], text: str) -> bytes:
    """The same lines of JSON, one of them changed, doubled or gone; or other bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(other_bytes(text.encode()))
    lines = text.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(("change", "change", "change", "double", "remove")))
    if what == "change":
        lines[place] = json.dumps(draw(other_json(json.loads(lines[place]))))
    elif what == "double":
        lines.insert(place, lines[place])
    else:
        del lines[place]
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


@contextlib.contextmanager
def scratch(source: Path | None = None) -> Iterator[Path]:
    """A folder to read from, a copy of ``source`` perhaps, beside a file that nobody may touch."""
    with tempfile.TemporaryDirectory() as place:
        canary = Path(place, "canary")
        canary.write_text("alive")
        folder = Path(place, "inside")
        shutil.copytree(source, folder) if source is not None else folder.mkdir()
        yield folder
        assert canary.read_text() == "alive"
        assert sorted(path.name for path in Path(place).iterdir()) == ["canary", "inside"]


def read_all(run: Run) -> None:
    """Ask a run for everything, one thing after the other."""
    for ask in (
        lambda: run.config,
        lambda: run.metrics,
        lambda: run.events,
        lambda: run.candidates,
        lambda: run.result,
        lambda: str(run),
        run.architecture,
        run.model,
        lambda: run.model("best"),
        lambda: run.model_at(1),
    ):
        with contextlib.suppress(GhostkitError):
            ask()


# -- what is read ------------------------------------------------------------------------------------------------------


@MANY
@given(st.data())
def test_a_history_is_read_and_rebuilt_or_refused(data):
    text = data.draw(other_lines((real_run() / "history.jsonl").read_text()))
    with scratch() as folder:
        (folder / "history.jsonl").write_bytes(text)
        with watched(folder):
            ghostkit.rebuild(History.read(folder / "history.jsonl"))


@MANY
@given(st.data())
def test_a_configuration_is_read_or_refused(data):
    known = json.loads((real_run() / "config.json").read_text())
    changed = json.dumps(data.draw(other_json(known))).encode("utf-8", "surrogatepass")
    text = data.draw(st.one_of(st.just(changed), other_bytes(changed), other_bytes(RunConfig().to_yaml().encode())))
    with scratch() as folder:
        for name in ("config.json", "config.yaml"):
            (folder / name).write_bytes(text)
            with watched(folder):
                RunConfig.read(folder / name)


@pytest.mark.parametrize("name", ["metrics.jsonl", "history.jsonl", "result.json", "config.json"])
@MANY
@given(st.data())
def test_a_run_with_such_a_file_is_read_or_refused(name, data):
    text = data.draw(other_lines((real_run() / name).read_text().replace("\n ", "").replace("\n}", "}")))
    with scratch(real_run()) as folder:
        (folder / name).write_bytes(text)
        with watched(folder):
            read_all(Run(folder))
        with watched(folder):
            find_runs(folder)


@MANY
@given(st.data())
def test_a_checkpoint_whose_checksums_are_right_is_loaded_or_refused(data):
    source = max((real_run() / "checkpoints").iterdir())
    manifest = json.loads((source / "manifest.json").read_text())
    del manifest["sha256"]  # the seal, which whoever alters a manifest leaves out: it may be missing
    name = data.draw(st.sampled_from(("manifest", *sorted(manifest["files"]))))
    with scratch(source) as folder:
        if name == "manifest":
            manifest = data.draw(other_json(manifest))
        else:
            entry = manifest["files"][name]
            content = (source / entry["file"]).read_bytes()
            lines = other_lines(content.decode()) if name.endswith("jsonl") else other_bytes(content)
            changed = data.draw(lines)
            entry["sha256"] = hashlib.sha256(changed).hexdigest()
            (folder / entry["file"]).write_bytes(changed)
        (folder / "manifest.json").write_bytes(json.dumps(manifest).encode("utf-8", "surrogatepass"))
        for read in (ghostkit.load, lambda place: ghostkit.load(place, torch.optim.AdamW), load_state, read_network):
            with watched(folder):
                read(folder)


@MANY
@given(st.data())
def test_a_run_is_resumed_from_such_a_checkpoint_or_refused(data):
    settings_ = RunConfig.read(real_run() / "config.json")
    with scratch(real_run()) as folder:
        last = max((folder / "checkpoints").iterdir()) / "manifest.json"
        manifest = json.loads(last.read_text())
        del manifest["sha256"]  # the seal, as above
        manifest["state"] = data.draw(other_json(manifest["state"]))
        last.write_bytes(json.dumps(manifest).encode("utf-8", "surrogatepass"))
        with watched(folder):
            Trainer(settings_, folder)


@MANY
@given(st.data())
def test_weights_are_read_or_refused(data):
    real = next(real_run().glob("checkpoints/*/model-*.safetensors")).read_bytes()
    with scratch() as folder:
        path = folder / "other.safetensors"
        path.write_bytes(data.draw(other_bytes(real)))
        with watched(folder):
            ghostkit.build("seedling", 10, 1, weights=path)


@MANY
@given(st.data())
def test_a_sweep_and_its_plan_are_read_or_refused(data):
    sweep = {"notebook": "n.ipynb", "grid": {"seed": [1, 2], "epochs": [1.0]}, "parameters": {"data": "digits"}}
    plan = {"runs": [{"name": "001-x", "parameters": {"seed": 1}}]}
    with scratch() as folder:
        for name, values in (("sweep.yaml", sweep), ("plan.json", plan)):
            text = json.dumps(data.draw(other_json(values))).encode("utf-8", "surrogatepass")
            (folder / name).write_bytes(data.draw(st.one_of(st.just(text), other_bytes(text))))
        with watched(folder):
            read_sweep(folder / "sweep.yaml")
        with watched(folder):
            known_names(folder)


# -- single malices ----------------------------------------------------------------------------------------------------


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/exploited",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((f"weights{ending}", "was not opened: .* convert it once") for ending in (".pth", ".pt", ".bin", ".tar", "")),
        ("weights.safetensors", "cannot read weights"),
    ],
)
def test_a_pickle_that_would_run_a_command_is_not_unpickled(name, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"x": Exploit()}))
    OPENED.clear()
    with watched(tmp_path), pytest.raises(GhostkitError, match=message):
        read_weights(path)
    assert (path in OPENED) == (path.suffix == ".safetensors"), "a pickle was opened"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"epochs": ' + b"9" * 100_000 + b"}",
        b'{"epochs": 1e400}',
        b"a: &a [x]\nb: [*a, *a]\n",
        b"a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n",
        b"!!python/object/apply:os.system ['true']",
        b"\xff\xfe",
        b"",
    ],
)
def test_a_configuration_that_is_a_bomb_is_refused(text, tmp_path):
    for name in ("config.json", "config.yaml"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(GhostkitError):
            RunConfig.read(tmp_path / name)


@pytest.mark.parametrize(
    "recipe",
    [
        {"name": "seedling", "num_classes": 10**9},
        {"name": "seedling", "width": 1e9},
        {"name": "ghostnet_100", "stages": [[[3, 10**8, 10**8, 0, 1]]]},
        {"name": "seedling", "stages": [[[3, 8, 8, 0, 1]] * 10**5]},
        {"name": "ghost_resnet20", "layers": [10**7]},
        {"name": "seedling", "weights": "/etc/passwd"},
        {"name": ["seedling"]},
        "seedling",
    ],
)
def test_a_recipe_of_a_network_that_fills_the_memory_is_refused(recipe, tmp_path):
    (tmp_path / "history.jsonl").write_text(json.dumps({"format": 1, "recipe": recipe}) + "\n")
    with pytest.raises(GhostkitError, match="recipe"):
        ghostkit.rebuild(History.read(tmp_path / "history.jsonl"))


@pytest.mark.parametrize("way", ["link", "pipe", "folder", "outside"])
def test_a_checkpoint_that_leads_out_of_its_folder_is_refused(way, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(max((real_run() / "checkpoints").iterdir()), folder)
    path = next(folder.glob("model-*.safetensors"))
    outside = shutil.move(path, tmp_path / path.name)
    if way == "link":
        path.symlink_to(outside)
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    else:
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace(path.name, f"../{path.name}"))
    with pytest.raises(GhostkitError):
        ghostkit.load(folder)
