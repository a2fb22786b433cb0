"""What each kind of edit does, and how it is refused where it does not fit; as JSON, it is plain data."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ghostkit.errors import GhostkitError
from ghostkit.growth import AddBlock, AddBranch, AddIntrinsic, DeepenBranches, Edit, grow
from ghostkit.growth.edits import NarrowStage, RemoveIntrinsic, edit_from_json, edit_to_json
from ghostkit.growth.width import ALPHA


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
    model, _, _ = host("ghostnet_100")
    row = model.blocks[6]
    for after in ("1", "1", "4"):
        grow(model, AddBlock("blocks.6", after))
    assert [name for name, _ in row.named_children()] == ["0", "1", "g2", "g1", "2", "3", "4", "g3"]


def test_without_its_tensors_an_edit_falls_back_to_random_weights(host: Callable) -> None:
    model, images, _ = host("small")
    for edit in (AddBranch("blocks.1.0.ghost1", 5, "svd"), DeepenBranches("blocks.1.0.ghost1", 3, "svd")):
        assert grow(model, edit, probe=images).max_logit_change <= 1e-10


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (AddBranch("blocks.9.0.ghost1"), ["'blocks.9.0.ghost1'", "sites are", "blocks.0.0.ghost1"]),
        (AddBranch("blocks.0.0.ghost2"), ["'blocks.0.0.ghost2'"]),  # it writes into the stream: no site of its own
        (AddBranch("blocks.1"), ["'blocks.1'", "depth site"]),
        (AddBranch("blocks.1.0.ghost1", 4), ["kernel_size=4", "odd"]),
        (AddBranch("blocks.1.0.ghost1", -1), ["kernel_size=-1"]),
        (AddBranch("blocks.1.0.ghost1", 5, "split"), ["no 5x5 branch"]),
        (AddBranch("blocks.1.0.ghost1", 3, "magic"), ["'magic'", "svd, gradmax, random, split"]),
        (AddBranch("blocks.1.0.ghost1", 3, "svd", {"rows": torch.zeros(99, 1, 3, 3)}), ["(99, 1, 3, 3)"]),
        (AddIntrinsic("blocks.1.0.ghost1", 0), ["channels=0"]),
        (AddIntrinsic("blocks.1.0.ghost1", 99, "split"), ["intrinsic maps are there to split"]),
        (AddIntrinsic("blocks.1", 1), ["depth site"]),
        (AddBlock("blocks.1.0.ghost1", "0"), ["width site", "row of blocks"]),
        (AddBlock("blocks.1", "7"), ["no block '7'", "it has 0"]),
        (AddBlock("blocks.1", "0", hidden=0), ["hidden=0"]),
        (AddBlock("blocks.1", "0", tensors={"weight": torch.zeros(1)}), ["weights of another block"]),
        (
            "AddBranch",
            ["'AddBranch'", "AddBranch, AddIntrinsic, WidenStage, AddBlock, DeepenBranches, AddLink, RemoveBranch"],
        ),
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


@pytest.mark.parametrize(
    ("edit", "plain"),
    [
        (AddIntrinsic("a", np.int64(2)), AddIntrinsic("a", 2)),
        (AddBranch("a", np.int32(5)), AddBranch("a", 5)),
        (AddBlock("a", "0", torch.tensor(8)), AddBlock("a", "0", 8)),
        (RemoveIntrinsic("a", np.arange(2)), RemoveIntrinsic("a", (0, 1))),
    ],
)
def test_whole_numbers_of_any_make_become_plain_ones(edit: Edit, plain: Edit) -> None:
    assert json.dumps(edit_to_json(edit)) == json.dumps(edit_to_json(plain))
    assert edit == plain


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AddBranch("a", 3.0), r"AddBranch has kernel_size=3\.0; expected int"),
        (lambda: AddIntrinsic("a", "2"), r"AddIntrinsic has channels='2'; expected int"),
        (lambda: AddBlock("a", "0", 1.5), r"AddBlock has hidden=1\.5; expected int \| None"),
        (lambda: NarrowStage("a", 3), r"NarrowStage has maps=3; expected tuple\[int, \.\.\.\]"),
    ],
)
def test_numbers_that_a_file_could_not_hold_are_refused_at_once(make: Callable, words: str) -> None:
    with pytest.raises(GhostkitError, match=words):
        make()
