"""What is refused before anything is trained, and what is only said."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

import ghostkit
from ghostkit import GhostkitError, Run, RunConfig, Trainer
from ghostkit.checks import check_accepts, check_can_grow, never_due, one_image
from ghostkit.data import ImageData, Split
from ghostkit.events import Evaluated
from ghostkit.tasks.classification import CLASSIFICATION

ONE_EACH = [[[3, 4, 8, 0, 2]], [[3, 4, 8, 0, 2]]]
TWO = [[[3, 4, 8, 0, 2], [3, 4, 8, 0, 1]]]


@pytest.fixture
def data() -> ImageData:
    """Three classes of blank 6 x 10 images."""
    labels = torch.arange(6) % 3
    split = Split(torch.zeros(6, 1, 6, 10, dtype=torch.uint8), labels, (0.5,), (0.2,))
    return ImageData("blanks", split, split, ("a", "b", "c"), 1, 6, 10, (0.5,), (0.2,), "here")


def seedling(**options: Any) -> nn.Module:
    return ghostkit.build("seedling", **{"num_classes": 3, "in_channels": 1, **options})


def test_one_image_is_one_of_the_data(data):
    assert one_image(data).shape == (1, 1, 6, 10)


def test_a_network_that_takes_the_images_is_accepted_and_left_as_it_was(data):
    model = seedling(dropout=0.5)
    check_accepts(model, CLASSIFICATION, RunConfig(), data, one_image(data))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 3}, r"model='seedling' does not accept images of shape \(1, 6, 10\)"),
        (
            {"num_classes": 4},
            r"puts out \(1, 4\) for one image; expected \(1, 3\), a number for each class of 'blanks'",
        ),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(options, message, data):
    with pytest.raises(GhostkitError, match=message):
        check_accepts(seedling(**options), CLASSIFICATION, RunConfig(), data, one_image(data))


@pytest.mark.parametrize("kind", ["branch", "intrinsic", "stage", "block", "layer"])
def test_a_seedling_can_grow_by_every_kind(kind):
    check_can_grow(seedling(stages=ONE_EACH), RunConfig(kinds=(kind,)))


PLAIN = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))


@pytest.mark.parametrize(
    ("model", "kinds", "found"),
    [
        (PLAIN, ("branch", "block"), "has no site and cannot grow by kinds="),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)), ("branch", "layer"), "only sites of stream"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)), ("block",), "only sites of stream"),
        (
            seedling(stages=ONE_EACH),
            ("link",),
            "only sites of depth, stream, width and cannot grow by kinds=",
        ),  # nothing to link in rows of one block
        (seedling(stages=ONE_EACH, ratio=1), ("layer",), "cannot grow by kinds="),  # no ghost maps to deepen
    ],
    ids=["a linear layer", "no ghost module", "no blocks", "no two blocks", "no ghost maps"],
)
def test_kinds_without_a_place_to_grow_are_refused(model, kinds, found):
    with pytest.raises(GhostkitError, match=found) as caught:
        check_can_grow(model, RunConfig(kinds=kinds))
    assert "choose others, or set when='never'" in str(caught.value)
    check_can_grow(model, RunConfig(kinds=kinds, when="never"))


@pytest.mark.parametrize(("kinds", "refused"), [(("intrinsic", "block"), True), (("intrinsic", "stage"), False)])
def test_where_all_that_could_grow_is_frozen_the_run_is_refused_before_it_trains(kinds, refused):
    model = seedling(stages=ONE_EACH).requires_grad_(False)
    model.classifier.requires_grad_(True)  # it reads a stream
    with pytest.raises(GhostkitError, match="would join frozen parts") if refused else nullcontext():
        check_can_grow(model, RunConfig(kinds=kinds))


@pytest.mark.parametrize(
    ("stages", "kinds"),
    [(TWO, ("link",)), (ONE_EACH, ("link", "block")), (ONE_EACH, ("layer", "link"))],
    ids=["two blocks", "blocks may come", "layers can"],
)
def test_one_kind_with_a_place_is_enough(stages, kinds):
    check_can_grow(seedling(stages=stages), RunConfig(kinds=kinds))


@pytest.mark.parametrize(
    ("changes", "steps", "grows"),
    [
        ({}, 100, True),
        ({"grow_from": 0.25, "grow_until": 0.25}, 4, True),
        ({"grow_from": 0.3, "grow_until": 0.4}, 4, False),
        ({"grow_from": 0.0, "grow_until": 0.1}, 9, False),
        ({"grow_from": 0.0, "grow_until": 0.1}, 10, True),
        ({"grow_from": 0.05, "grow_until": 0.4}, 1, False),
        ({"grow_from": 0.3, "grow_until": 0.4, "when": "never"}, 4, True),  # nothing is missed
        ({"when": "plateau", "patience": 3}, 100, True),
        ({"when": "plateau", "patience": 3}, 10, True),  # evaluated at each of the first four steps
        ({"when": "plateau", "patience": 3}, 8, False),  # at three of them within reach
        ({"when": "gain-ratio"}, 9, True),
    ],
)
def test_a_run_that_is_too_short_to_grow_is_told_why(changes, steps, grows):
    reason = never_due(RunConfig(**changes), steps)
    assert (reason is None) == grows
    if reason is not None:
        assert reason.startswith("no growth: ")
        assert f"{steps} steps" in reason
        assert "grow_until" in reason


# Whole runs

STAGES = {"stages": ONE_EACH}


def config(**changes: Any) -> RunConfig:
    tiny = {"model_options": STAGES, "train_samples": 256, "test_samples": 50, "epochs": 2, "probe_samples": 32}
    return RunConfig(**{**tiny, "device": "cpu", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"when": "plateau", "patience": 8}, "patience=8 is not reached by the 8 evaluations up to grow_until=0.4"),
        ({"when": "plateau", "patience": 8, "grow_until": 0.42}, "not reached by the 8 evaluations up to"),
        ({"when": "plateau", "patience": 4, "grow_until": 1, "evaluate_every": 0.3}, "by the 4 evaluations"),
        ({"grow_from": 0.5, "grow_until": 0.4}, "lies after grow_until"),
        ({"where": "sprout", "roll_back": 0.1}, "where='sprout' settles its events by itself; leave roll_back out"),
    ],
)
def test_a_policy_that_could_never_fire_or_contradicts_itself_is_refused(changes, message):
    with pytest.raises(GhostkitError, match=message):
        RunConfig(**changes)


@pytest.mark.parametrize("patience", [7, 3])
def test_a_patience_that_can_run_out_is_not(patience):
    assert RunConfig(when="plateau", patience=patience).patience == patience


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("link",)}, "cannot grow by kinds="),
        ({"model_options": {**STAGES, "ratio": 1}, "kinds": ("layer",)}, "cannot grow by kinds="),
    ],
)
def test_kinds_without_a_site_are_refused_before_anything_is_trained(changes, message, tmp_path):
    with pytest.raises(GhostkitError, match=message):
        Trainer(config(**changes), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0.5, "grow_from": 0.6, "grow_until": 0.9}, "none of the run's 2 steps ends between grow_from=0.6"),
        ({"when": "plateau", "patience": 3, "grow_until": 0.4, "evaluate_every": 0.05}, "patience=3 is not reached"),
    ],
)
def test_a_run_that_is_too_short_to_grow_says_so_once_and_trains(changes, message, tmp_path):
    assert len(list(islice(Trainer(config(**changes), tmp_path), 2))) == 2  # broken off behind its first checkpoint
    run = ghostkit.train(config(**changes), tmp_path)
    assert len(run.history.events) == 1
    assert run.history.events[0].reason.startswith(f"no growth: {message}")
    assert run.result["growth_events"] == 0
    assert run.metrics["progress"].iloc[-1] == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data": "digit"}, "unknown data 'digit'; did you mean 'digits'"),
    ({"data": "folder:/nowhere"}, "/nowhere"),
    ({"train_samples": 10**6}, "train_samples is 1000000, but 'digits' has 1401"),
    ({"model": "seedlin"}, "unknown model 'seedlin'; did you mean 'seedling'"),
    ({"model_options": {"depth": 3}}, r"build\('seedling'.*depth=3.*unexpected keyword"),
    ({"model_options": {"in_channels": 3}}, r"model='seedling' does not accept images of shape \(1, 8, 8\)"),
    ({"model_options": {"num_classes": 7}}, r"puts out \(1, 7\) for one image; expected \(1, 10\).* of 'digits'"),
    ({"budget_params": 20}, "the budget of 20 params is not above the seedling, .*raise budget_params"),
    ({"budget_macs": 20}, "the budget of 20 macs is not above the seedling, .*raise budget_macs"),
    ({"budget_milliseconds": 1e-6}, "the budget of 1e-06 milliseconds is not above .*raise budget_milliseconds"),
    ({"budget_factor": 1.0}, "macs is not above the seedling, .*budget_factor"),
    ({"device": "abacus"}, "device='abacus' with precision='32-true' cannot be used"),
    ({"precision": "3-true"}, "device='cpu' with precision='3-true' cannot be used"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[" ".join(changes) for changes, _ in WRONG])
def test_what_does_not_fit_is_refused_before_anything_is_trained(changes, message, tmp_path):
    with pytest.raises(GhostkitError, match=message):
        Trainer(config(**changes), tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
    assert not [line for path in tmp_path.glob("metrics.jsonl") for line in path.read_text().splitlines()]


def test_a_refused_run_can_be_mended_in_its_folder(tmp_path):
    with pytest.raises(GhostkitError, match="budget"):
        Trainer(config(budget_macs=20), tmp_path)
    assert isinstance(next(iter(Trainer(config(), tmp_path))), Evaluated)
    assert Run(tmp_path).config == config()


def test_a_budget_does_not_matter_to_a_run_that_never_grows():
    Trainer(config(budget_macs=20, when="never"))


def test_small_images_need_a_moment_up_to_which_they_are_small(data):
    with pytest.raises(GhostkitError, match=r"resolution=0\.5 with resolution_until=0\.0 makes no image smaller"):
        Trainer(RunConfig(resolution=0.5), data=data)
