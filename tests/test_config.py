"""A configuration is checked as a whole and at once, and every form of it keeps every bit."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import nbformat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError
from ghostkit.parameters import declared_parameters, parse_parameters
from ghostkit.unattended import declared, words_of


@pytest.mark.parametrize("make", [RunConfig.parse, lambda values: RunConfig(**values)], ids=["parse", "constructor"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown parameter 'epoch'; did you mean 'epochs'\?"),
        ({"learning_rat": 0.1}, r"unknown parameter 'learning_rat'; did you mean 'learning_rate'\?"),
        ({"xyz": 3}, "unknown parameter 'xyz'; known are task, .*keep_checkpoints"),
        ({"epochs": "many"}, "parameter epochs = 'many': .*number"),
        ({"seed": 1.5}, "parameter seed = 1.5: .*integer"),
        ({"data": 3}, "parameter data = 3: .*string"),
        ({"kinds": "branch"}, "parameter kinds = 'branch': .*tuple"),
        (
            {"kinds": ["branch", "leaf"]},
            "'leaf': Input should be 'branch', 'intrinsic', 'stage', 'block', 'layer' or 'link'",
        ),
        ({"kinds": []}, r"parameter kinds = \[\]: .*at least 1"),
        ({"kernel_sizes": [4]}, "parameter kernel_sizes.0 = 4: Input should be 3, 5 or 7"),
        (
            {"when": "always"},
            "parameter when = 'always': Input should be 'interval', 'plateau', 'gain-ratio' or 'never'",
        ),
        ({"epochs": 0}, "parameter epochs = 0: .*greater than 0"),
        ({"compute": -1.0}, "parameter compute = -1.0: .*greater than 0"),
        ({"epochs": float("inf")}, "parameter epochs = inf: .*finite"),
        ({"learning_rate": float("nan")}, "parameter learning_rate = nan"),
        ({"batch_size": 1}, "parameter batch_size = 1: .*greater than or equal to 2"),
        ({"share": 1.01}, "parameter share = 1.01: .*less than or equal to 1"),
        ({"budget_factor": 0.5}, "parameter budget_factor = 0.5: .*greater than or equal to 1"),
        ({"probe_samples": 7}, "parameter probe_samples = 7: .*greater than or equal to 8"),
        ({"epochs": -1, "share": 0}, "parameter epochs = -1: .*; parameter share = 0: "),
        ({"score": "none"}, "score='none' predicts no gain, so where='gain-per-mac'.*set where to 'random' or"),
        ({"score": "none", "where": "random", "when": "gain-ratio"}, "with when='gain-ratio' has none to go by"),
        ({"grow_from": 0.6, "grow_until": 0.5}, "grow_from=0.6 lies after grow_until=0.5.*set grow_from below"),
    ],
)
def test_what_does_not_fit_is_quoted_with_what_was_expected(make, values, message):
    with pytest.raises(GhostkitError, match=message):
        make(values)


def test_a_closed_growth_window_is_fine_where_nothing_grows():
    config = RunConfig(when="never", grow_from=0.6, grow_until=0.5)
    assert config.grow_from > config.grow_until


def test_a_configuration_cannot_be_changed_but_a_changed_one_be_had():
    config = RunConfig(epochs=3)
    with pytest.raises(Exception, match="frozen"):
        config.epochs = 4.0  # type: ignore[misc]
    changed = config.changed(epochs=4, kinds=("block",))
    assert (config.epochs, changed.epochs, changed.kinds) == (3.0, 4.0, ("block",))
    assert changed.changed(epochs=3, kinds=config.kinds) == config
    with pytest.raises(GhostkitError, match="did you mean 'epochs'"):
        config.changed(epoch=4)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "data": "folder:/somewhere",
            "model_options": {"dropout": 0.25, "width": 2},
            "compute": 1.5e12,
            "learning_rate": 1 / 3,
            "kinds": ("block",),
            "kernel_sizes": (7, 3),
            "budget_milliseconds": 0.1,
            "seed": 2**40,
        },
    ],
    ids=["defaults", "many set"],
)
def test_json_keeps_every_value(tmp_path, values):
    config, path = RunConfig(**values), tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    assert RunConfig.read(path) == config
    assert set(json.loads(path.read_text())) == set(RunConfig.model_fields)


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    (tmp_path / "config.json").write_text('{"kinds": ["branch"]}')
    assert RunConfig.read(tmp_path / "config.json") == RunConfig(kinds=("branch",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the configuration .*config.json.*No such file"),
        (b'{"epochs": 3', "cannot read the configuration .*config.json"),
        (b"\xff\xfe\x00", "cannot read the configuration .*config.json"),
        (b"[3]", "config.json.* holds list, expected an object"),
        (b'{"epoch": 3}', "did you mean 'epochs'"),
        (b'{"epochs": null}', "parameter epochs = None"),
        (b'{"3": 4}', "cannot use the configuration .*config.json.*unknown parameter '3'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GhostkitError, match=message):
        RunConfig.read(path)


# Its forms: YAML, a notebook's parameters cell, words of a command line.

SPOKEN = [
    True,
    False,
    None,
    "true",
    "null",
    "1e9",
    "0x10",
    "12",
    "-3.5",
    "[1]",
    "{}",
    "no",
    "'",
    '"',
    "a: b",
    "#",
    " x ",
    "",
]
TEXT = st.one_of(st.text(max_size=30), st.sampled_from([str(word) for word in SPOKEN]))
PLAIN = st.recursive(
    st.one_of(
        st.sampled_from(SPOKEN), st.integers(-(2**63), 2**63), st.floats(allow_nan=False, allow_infinity=False), TEXT
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
SHARE = st.floats(min_value=1e-9, max_value=1.0, exclude_min=True)


def choices(name: str) -> st.SearchStrategy[Any]:
    """One of the values that a field names."""
    return st.sampled_from(get_args(RunConfig.model_fields[name].annotation))


CONFIGS = st.builds(
    lambda values: RunConfig(**values),
    st.fixed_dictionaries(
        {},
        optional={
            "data": TEXT,
            "data_root": st.none() | TEXT,
            "train_samples": st.none() | st.integers(2, 10**12),
            "model_options": st.dictionaries(TEXT, PLAIN, max_size=3),
            "shape": st.none() | TEXT,
            "epochs": st.floats(1e-300, 1e300),
            "compute": st.none() | st.floats(1e-3, 1e300),
            "optimizer": choices("optimizer"),
            "learning_rate": SHARE,
            "ema": st.none() | st.floats(0.5, 0.9999),
            "where": choices("where"),
            "kinds": st.lists(st.sampled_from(["branch", "block", "link"]), min_size=1).map(tuple),
            "kernel_sizes": st.lists(st.sampled_from([3, 5, 7]), min_size=1, max_size=3).map(tuple),
            "share": SHARE,
            "give_up": st.none() | st.integers(1, 9),
            "budget_milliseconds": st.none() | SHARE,
            "seed": st.integers(0, 2**63),
            "device": TEXT,
        },
    ),
)


@settings(max_examples=60)
@given(CONFIGS)
def test_yaml_keeps_every_value(config):
    with TemporaryDirectory() as folder:
        for name in ("run.yaml", "run.YML", "run.json"):
            config.write(Path(folder, name))
            assert RunConfig.read(Path(folder, name)) == config


@settings(max_examples=60)
@given(CONFIGS)
def test_a_parameters_cell_keeps_every_value(config):
    """The values go into a notebook as literals, are read back by the rules of notebooks, and are the same."""
    source = "\n".join(f"{name} = {value!r}" for name, value in config.model_dump(mode="json").items())
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.ipynb")
        cell = new_code_cell(source, metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[cell]), path)
        assert RunConfig.parse(declared_parameters(path)) == config


@settings(max_examples=60)
@given(CONFIGS)
def test_a_command_line_keeps_every_value(config):
    words = words_of(config)
    assert words[::3] == ["-p"] * (len(words) // 3)
    pairs = zip(words[1::3], words[2::3], strict=True)
    assert RunConfig.parse(parse_parameters(declared(), pairs)) == config


def test_yaml_tells_what_every_parameter_means_and_can_be_read_by_anyone():
    text = RunConfig(epochs=3).to_yaml()
    assert "# passes over the training images; ignored when compute is set\nepochs: 3.0\n" in text
    assert "kinds: [intrinsic, stage, block]\n" in text
    assert yaml.safe_load(text) == RunConfig(epochs=3).model_dump(mode="json")


def test_yaml_by_hand_is_read_as_people_mean_it(tmp_path):
    lines = [
        "# mine",
        "learning_rate: 1e-2",
        "compute: 2e12",
        "model_options: {dropout: 1E-1}",
        "augment: none",
        "ema: ~",
    ]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    config = RunConfig.read(tmp_path / "run.yaml")
    assert (config.learning_rate, config.compute, config.augment) == (0.01, 2e12, "none")
    assert config.model_options == {"dropout": 0.1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: [", "cannot read the configuration .*run.yaml"),
        ("- 3", "run.yaml.* holds list, expected an object: names and values, as in epochs: 3"),
        ("", "run.yaml.* holds NoneType, expected an object"),
        ("3: 4", "run.yaml.*(holds names that are no text|a name is int; expected text)"),
        ("epoch: 3", "did you mean 'epochs'"),
        ("data: !!python/object/apply:os.getcwd []", "cannot read the configuration .*run.yaml.*could not determine"),
    ],
)
def test_broken_yaml_is_named_and_builds_no_objects(tmp_path, content, message):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(GhostkitError, match=message):
        RunConfig.read(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("given", "changes", "until"),
    [
        ({"when": "plateau"}, {}, 0.4),
        ({}, {"when": "plateau"}, 0.4),
        ({"when": "plateau"}, {"when": "interval"}, 0.12),
        ({"when": "plateau"}, {"epochs": 2}, 0.4),
        ({"grow_until": 0.6}, {"when": "plateau"}, 0.6),
        ({"when": "plateau"}, {"when": "interval", "grow_until": 0.4}, 0.4),
        ({}, {"when": "plateau", "grow_until": 0.5}, 0.5),
    ],
)
def test_where_growth_ends_by_default_goes_with_when_it_grows(given, changes, until):
    assert RunConfig(**given).changed(**changes).grow_until == until
