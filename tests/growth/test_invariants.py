"""Every edit at every site keeps the function, wakes up, and lets the old entries learn as they would have."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from ghostkit.growth import AddBlock, Edit, grow
from ghostkit.growth.grow import tensors_in
from ghostkit.nn import GhostModule

SMALL = ["seedling", "plain seedling", "cut-off ghosts", "odd", "rows", "grown", "own"]
LARGE = ["ghostnet_100", "ghostnetv2_100", "ghost_resnet18", "ghost_resnet50", "ghost_resnet20"]
LARGE += ["ghost_mobilenet_v2", "ghost_mobilenet_v3_large", "fcos", "retinanet", "lraspp", "deeplabv3"]
HOSTS = [*SMALL, *LARGE]
BRANCHES = [f"branch {side}x{side} {init}" for init in ("random", "found") for side in (3, 5, 7)] + ["branch 3x3 split"]
INTRINSIC = ["intrinsic random", "intrinsic found", "intrinsic split"]
STAGES = ["stage random", "stage found", "stage split"]
BLOCKS = ["block first", "block last", "block narrow", "block clone"]
LAYERS = ["layer 3x3 random", "layer 3x3 found", "layer 5x5 random"]
LINKS = ["link"]
KINDS = {
    "branches": BRANCHES,
    "intrinsic maps": INTRINSIC,
    "stages": STAGES,
    "blocks": BLOCKS,
    "layers": LAYERS,
    "links": LINKS,
}
ABSENT = {  # what these hosts have no place for
    *(("plain seedling", kind) for kind in ("branch 3x3 split", *LAYERS)),
    *((name, "link") for name in ("seedling", "plain seedling", "cut-off ghosts", "odd")),
    *(("odd", kind) for kind in STAGES),
}
# Edits whose fresh numbers all start at zero where the old network reads them; a split does not.
MIXED = ["branch 3x3 found", "branch 5x5 random", "intrinsic random", "stage random", "block first", "layer 3x3 random"]
MIXED += ["link"]
ZERO_BORN = [*BRANCHES[:-1], *INTRINSIC[:-1], "stage random", *LAYERS, *LINKS]


def named(value: str | list[str] | int) -> str:
    """The id of a parameter: a host, or kinds of edits."""
    return ", ".join(value) if isinstance(value, list) else str(value)


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a copy of ``model`` computes in eval mode and in train mode."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        return [tensor for training in (False, True) for tensor in tensors_in(copied.train(training)(images))]


def changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    return [float((new - old).abs().max() / old.abs().max()) for old, new in zip(before, after, strict=True)]


def changes_by(edits: Sequence[Edit], model: nn.Module, images: Tensor) -> float:
    """The largest relative change of what a copy of ``model`` computes in either mode, right after ``edits``."""
    grown = copy.deepcopy(model)
    grow(grown, edits)
    return max(changes(outputs(model, images), outputs(grown, images)))


def check_unchanged(model: nn.Module, edits: Sequence[Edit], images: Tensor, tolerance: float) -> None:
    """Fail, and name the site, if a copy of ``model`` computes anything else after ``edits``."""
    assert edits
    together = changes_by(edits, model, images)
    if together > tolerance:
        apart = {str(edit): changes_by([edit], model, images) for edit in edits}
        pytest.fail(f"outputs changed by {together} with {edits}; one by one by {apart}")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        *((name, [kind]) for name in SMALL for kinds in KINDS.values() for kind in kinds if kind != "stage found"),
        *((name, [kind for kind in kinds if kind != "stage found"]) for name in LARGE for kinds in KINDS.values()),
    ],
    ids=named,
)
def test_an_edit_at_every_site_keeps_the_function_in_eval_and_train_mode_in_float64(
    host: Callable, edits_of: Callable, name: str, kinds: list[str]
) -> None:
    model, images, _ = host(name, torch.float64)
    edits = [edit for kind in kinds for edit in edits_of(model, kind)]
    if (name, kinds[0]) in ABSENT:
        assert not edits
    else:
        check_unchanged(model, edits, images, 1e-10)


@pytest.mark.parametrize("name", [name for name in HOSTS if (name, "stage found") not in ABSENT])
def test_streams_that_widen_one_after_the_other_with_found_weights_keep_the_function(
    host: Callable, edits_of: Callable, name: str
) -> None:
    model, images, _ = host(name, torch.float64)
    before = outputs(model, images)
    for number in range(len(edits_of(model, "stage found"))):  # one changes the size of what the next is found for
        edit = edits_of(model, "stage found")[number]
        grow(model, edit)
        for path, rows in edit.tensors.items():
            producer = model.get_submodule(path)
            weight = producer.primary.weight if isinstance(producer, GhostModule) else producer.weight
            weight = weight[:, weight.flatten(2).any(2).any(0)]  # one that reads the stream as well has zero columns
            assert all(bool((weight == row).flatten(1).all(1).any()) for row in rows), path
    assert max(changes(before, outputs(model, images))) <= 1e-10


@pytest.mark.parametrize("name", HOSTS)
def test_all_edits_at_every_site_keep_the_function_in_eval_and_train_mode_in_float32(
    host: Callable, edits_of: Callable, name: str
) -> None:
    model, images, _ = host(name, torch.float32)
    kinds = [kind for kinds in KINDS.values() for kind in kinds if "found" not in kind]  # for one size of site each
    edits = [edit for kind in kinds for edit in edits_of(model, kind)]
    check_unchanged(model, sorted(edits, key=lambda edit: isinstance(edit, AddBlock)), images, 1e-4)


def grown_twin(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of a model and of its optimizer, state and all."""
    copied = copy.deepcopy(model)
    twin = type(optimizer)(copied.parameters())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return copied, twin


def old_pairs(
    labels: nn.Module, grown: nn.Module, reference: nn.Module, old_entries: Callable
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The old entries of every parameter and buffer of ``grown``, beside the same ones of ``reference``."""
    known = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    now = {**dict(grown.named_parameters()), **dict(grown.named_buffers())}
    for name, label in [*labels.named_parameters(), *labels.named_buffers()]:
        if name in known and label.is_floating_point():
            mask, places = old_entries(label.detach())
            assert len(places) == known[name].numel(), name  # no old entry was lost
            yield name, now[name].detach()[mask], known[name].detach().flatten()[places]


@pytest.mark.parametrize(
    ("name", "optimizer_name"),
    [
        *((name, optimizer) for name in SMALL for optimizer in ("SGD", "Adam", "AdamW")),
        *zip(LARGE, itertools.cycle(("AdamW", "SGD", "Adam")), strict=False),
    ],
)
def test_old_entries_take_the_step_that_they_would_have_taken_without_growth(
    host: Callable,
    edits_of: Callable,
    labelled: Callable,
    old_entries: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    name: str,
    optimizer_name: str,
) -> None:
    model, images, targets = host(name)
    optimizer = make_optimizer(optimizer_name, model)
    for _ in range(3):
        train_step(model, optimizer, images, targets)
    reference, reference_optimizer = grown_twin(model, optimizer)
    edits = [edit for kind in MIXED for edit in edits_of(model, kind)]
    labels = labelled(name, edits)
    grow(model, edits, optimizer)

    assert train_step(model, optimizer, images, targets) == pytest.approx(
        train_step(reference, reference_optimizer, images, targets), rel=1e-12
    )
    for tensor, old, expected in old_pairs(labels, model, reference, old_entries):
        torch.testing.assert_close(old, expected, rtol=1e-8, atol=1e-10, msg=lambda text, t=tensor: f"{t}: {text}")
    label_of, twin_of = dict(labels.named_parameters()), dict(reference.named_parameters())
    for tensor, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items() if tensor in twin_of else ():
            expected = reference_optimizer.state[twin_of[tensor]][key]
            if value.dim():
                mask, places = old_entries(label_of[tensor].detach())
                value, expected = value[mask], expected.flatten()[places]
            torch.testing.assert_close(
                value, expected, rtol=1e-7, atol=1e-10, msg=lambda text, t=tensor, k=key: f"{t} {k}: {text}"
            )


@pytest.mark.parametrize(
    ("name", "kinds", "steps"),
    [
        *((name, [kind], 3) for name in SMALL for kind in ZERO_BORN if (name, kind) not in ABSENT),
        *((name, [kind], 4) for name in SMALL for kind in BLOCKS),  # the first layers lie beneath a zero-born one
        *((name, MIXED, 5) for name in HOSTS),  # and what widens those lies beneath yet another
    ],
    ids=named,
)
def test_no_new_tensor_is_dead(
    host: Callable,
    edits_of: Callable,
    labelled: Callable,
    old_entries: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    name: str,
    kinds: list[str],
    steps: int,
) -> None:
    model, images, targets = host(name)
    optimizer = make_optimizer("SGD", model)
    edits = [edit for kind in kinds for edit in edits_of(model, kind)]
    labels = labelled(name, edits)
    grow(model, edits, optimizer, probe=images)
    fresh = {tensor: ~old_entries(label.detach())[0] for tensor, label in labels.named_parameters()}
    asleep = {tensor for tensor, mask in fresh.items() if mask.any()}
    assert asleep
    for _ in range(steps):
        train_step(model, optimizer, images, targets)
        asleep -= {tensor for tensor, weight in model.named_parameters() if weight.grad[fresh[tensor]].abs().sum() > 0}
    assert not asleep
