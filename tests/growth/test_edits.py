"""Every edit at every site keeps the function, wakes up, and lets the old entries learn as they would have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, Edit, grow
from ghostkit.growth.edits import ALPHA, edit_from_json, edit_to_json

HOSTS = ["seedling", "plain seedling", "cut-off ghosts", "odd", "ghostnet_050", "ghostnetv2_100"]
BRANCHES = [f"branch {side}x{side} {init}" for init in ("random", "found") for side in (3, 5, 7)] + ["branch 3x3 split"]
INTRINSIC = ["intrinsic random", "intrinsic found", "intrinsic split"]
BLOCKS = ["block first", "block last", "block narrow"]
# Edits whose fresh numbers all start at zero where the old network reads them; a split does not.
MIXED = ["branch 3x3 found", "branch 5x5 random", "intrinsic random", "block first"]
SMALL = HOSTS[:4]


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a copy of ``model`` computes in eval mode and in train mode."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        return [copied.train(training)(images) for training in (False, True)]


def changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    return [float((new - old).abs().max() / old.abs().max()) for old, new in zip(before, after, strict=True)]


def check_unchanged(model: nn.Module, edits: Sequence[Edit], images: Tensor, tolerance: float) -> None:
    """Fail, and name the site, if copies of ``model`` compute anything else after ``edits``."""
    assert edits
    before, grown = outputs(model, images), copy.deepcopy(model)
    grow(grown, edits)
    together = changes(before, outputs(grown, images))
    if max(together) <= tolerance:
        return
    apart = {}
    for edit in edits:
        grown = copy.deepcopy(model)
        grow(grown, edit)
        apart[str(edit)] = max(changes(before, outputs(grown, images)))
    pytest.fail(f"in eval and train mode, outputs changed by {together} with {edits}; one by one by {apart}")


@pytest.mark.parametrize("kind", [*BRANCHES, *INTRINSIC, *BLOCKS])
@pytest.mark.parametrize("name", HOSTS)
def test_an_edit_at_every_site_keeps_the_function_in_eval_and_train_mode_in_float64(
    host: Callable, edits_of: Callable, name: str, kind: str
) -> None:
    model, images, _ = host(name, torch.float64)
    if (name, kind) == ("plain seedling", "branch 3x3 split"):
        assert not edits_of(model, kind)  # a plain seedling has no branch to split
    else:
        check_unchanged(model, edits_of(model, kind), images, 1e-10)


@pytest.mark.parametrize("kinds", [BRANCHES, INTRINSIC, BLOCKS], ids=["branches", "intrinsic maps", "blocks"])
@pytest.mark.parametrize("name", HOSTS)
def test_all_edits_at_every_site_keep_the_function_in_eval_and_train_mode_in_float32(
    host: Callable, edits_of: Callable, name: str, kinds: list[str]
) -> None:
    model, images, _ = host(name, torch.float32)
    check_unchanged(model, [edit for kind in kinds for edit in edits_of(model, kind)], images, 1e-4)


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


@pytest.mark.parametrize("optimizer_name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("name", HOSTS)
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
        *((name, [kind], 3) for name in SMALL for kind in (*BRANCHES[:-1], *INTRINSIC[:-1])),
        *((name, [kind], 4) for name in SMALL for kind in BLOCKS),  # the first layers lie beneath a zero-born one
        *((name, MIXED, 4) for name in HOSTS),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) if isinstance(value, list) else "",
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


def test_a_split_starts_from_exact_copies_that_part_ways(
    host: Callable, make_optimizer: Callable, train_step: Callable
) -> None:
    model, images, targets = host("small")
    optimizer = make_optimizer("SGD", model)
    module = model.blocks[1][0].ghost1
    old, before = module.intrinsic_channels, model.blocks[1][0].conv_dw.weight.detach().clone()
    reader = model.blocks[1][0].ghost2.primary_conv[0]
    columns = reader.weight.detach().clone()
    grow(model, AddIntrinsic("blocks.1.0.ghost1", 1, "split"), optimizer)

    filters = module.primary_conv[0].weight.detach()
    [source] = [i for i in range(old) if torch.equal(filters[i], filters[old])]
    assert torch.equal(model.blocks[1][0].conv_dw.weight[old].detach(), before[source])
    torch.testing.assert_close(reader.weight[:, source].detach(), ALPHA * columns[:, source])
    torch.testing.assert_close(reader.weight[:, old].detach(), (1 - ALPHA) * columns[:, source])
    for _ in range(3):
        train_step(model, optimizer, images, targets)
    assert not torch.allclose(filters[source], filters[old], rtol=1e-6)


def test_a_split_branch_is_the_one_that_its_consumers_weigh_most(host: Callable) -> None:
    model, _, _ = host("small")
    grow(model, AddBranch("blocks.2.0.ghost1", 3))
    module, reader = model.blocks[2][0].ghost1, model.blocks[2][0].ghost2.primary_conv[0]
    kernels, old = module.cheap_operation[0].weight.detach().clone(), module.intrinsic_channels
    with torch.no_grad():
        reader.weight[:, old::2] = 0.1  # first branch of every map
        reader.weight[:, old + 1 :: 2] = 2.0  # second branch
    grow(model, AddBranch("blocks.2.0.ghost1", 3, "split"))
    grown = module.cheap_operation[0].weight.detach()
    assert torch.equal(grown[0::3], kernels[0::2])
    assert torch.equal(grown[1::3], kernels[1::2])
    assert torch.equal(grown[2::3], kernels[1::2])


@pytest.mark.parametrize("name", ["seedling", "plain seedling", "odd"])
def test_weights_that_a_candidate_found_are_the_ones_that_grow(host: Callable, edits_of: Callable, name: str) -> None:
    model, _, _ = host(name)
    for kind in ("branch 5x5 found", "intrinsic found"):
        for edit in edits_of(model, kind):
            grown = copy.deepcopy(model)
            grow(grown, edit)
            module, rows = grown.get_submodule(edit.site), edit.tensors["rows"]
            if isinstance(edit, AddIntrinsic):
                found = module.primary_conv[0].weight[-len(rows) :]
            else:
                found = next(op[0].weight for _, op in module.operations() if op[0].kernel_size == (5, 5))
            assert torch.equal(found.detach(), rows)


def test_a_block_goes_behind_the_one_named_and_keeps_its_neighbours_names(host: Callable) -> None:
    model, _, _ = host("ghostnet_050")
    row = model.blocks[6]
    for after in ("1", "1", "4"):
        grow(model, AddBlock("blocks.6", after))
    assert [name for name, _ in row.named_children()] == ["0", "1", "g2", "g1", "2", "3", "4", "g3"]


def test_without_its_tensors_an_edit_falls_back_to_random_weights(host: Callable) -> None:
    model, images, _ = host("small")
    check_unchanged(model, [AddBranch("blocks.1.0.ghost1", 5, "svd")], images, 1e-10)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (AddBranch("blocks.9.0.ghost1"), ["'blocks.9.0.ghost1'", "sites are", "blocks.0.0.ghost1"]),
        (AddBranch("blocks.0.0.ghost2"), ["'blocks.0.0.ghost2'"]),  # it writes into the stream: no site of its own
        (AddBranch("blocks.1"), ["'blocks.1'", "depth site"]),
        (AddBranch("blocks.1.0.ghost1", 4), ["kernel_size=4", "odd"]),
        (AddBranch("blocks.1.0.ghost1", -1), ["kernel_size=-1"]),
        (AddBranch("blocks.1.0.ghost1", 5, "split"), ["no 5x5 branch"]),
        (AddBranch("blocks.1.0.ghost1", 3, "magic"), ["'magic'", "svd, random, split"]),
        (AddBranch("blocks.1.0.ghost1", 3, "svd", {"rows": torch.zeros(99, 1, 3, 3)}), ["(99, 1, 3, 3)"]),
        (AddIntrinsic("blocks.1.0.ghost1", 0), ["channels=0"]),
        (AddIntrinsic("blocks.1.0.ghost1", 99, "split"), ["intrinsic maps are there to split"]),
        (AddIntrinsic("blocks.1", 1), ["depth site"]),
        (AddBlock("blocks.1.0.ghost1", "0"), ["width site", "row of blocks"]),
        (AddBlock("blocks.1", "7"), ["no block '7'", "it has 0"]),
        (AddBlock("blocks.1", "0", hidden=0), ["hidden=0"]),
        (AddBlock("blocks.1", "0", None, {"weight": torch.zeros(1)}), ["weights of another block"]),
        ("AddBranch", ["'AddBranch'", "AddBranch, AddIntrinsic, AddBlock"]),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_quoted(host: Callable, edit: Edit, words: list[str]) -> None:
    model, _, _ = host("small")
    with pytest.raises(GhostkitError) as refusal:
        grow(model, [edit])
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "edit",
    [
        AddBranch("a.b", 7, "split"),
        AddIntrinsic("a", 3, "svd", {"rows": torch.zeros(1)}),
        AddBlock("a", "g1"),
        AddBlock("a", "0", 12),
    ],
)
def test_an_edit_survives_json_without_its_tensors(edit: Edit) -> None:
    values = edit_to_json(edit)
    assert "tensors" not in values
    assert edit_from_json(values) == edit
    assert edit_from_json(values).tensors is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"edit": "AddMagic", "site": "a"}, ["'AddMagic'", "AddBranch"]),
        ({"site": "a"}, ["None"]),
        ({"edit": "AddBranch", "site": 3}, ["site=3", "expected str"]),
        ({"edit": "AddBranch", "site": "a", "kernel_size": "5"}, ["kernel_size='5'", "expected int"]),
        ({"edit": "AddBranch", "site": "a", "colour": "red"}, ["colour='red'"]),
        ({"edit": "AddBlock", "site": "a", "after": "0", "hidden": 1.5}, ["hidden=1.5", "int | None"]),
        ({"edit": "AddBranch"}, ["site"]),
    ],
)
def test_an_edit_that_json_cannot_mean_is_refused_and_quoted(values: dict, words: list[str]) -> None:
    with pytest.raises(GhostkitError) as refusal:
        edit_from_json(values)
    for word in words:
        assert word in str(refusal.value)
