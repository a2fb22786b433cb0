"""A configuration is checked as a whole and at once, and JSON keeps every bit of it."""

from __future__ import annotations

import json

import pytest

from ghostkit.config import RunConfig
from ghostkit.errors import GhostkitError


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
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GhostkitError, match=message):
        RunConfig.read(path)
