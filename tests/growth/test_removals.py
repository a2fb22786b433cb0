"""What was grown can be taken away: exactly while it is at zero, and measured once it has learned something."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ghostkit import costs
from ghostkit.errors import GhostkitError
from ghostkit.growth import (
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    grow,
    sites,
    undo,
)
from ghostkit.growth.edits import REMOVAL, edit_from_json, edit_to_json
from ghostkit.growth.layers import reader
from ghostkit.nn import GhostModule

KINDS = [
    "branch 3x3 random",
    "branch 5x5 found",
    "intrinsic random",
    "stage random",
    "block first",
    "block clone",
    "layer 3x3 random",
    "layer 5x5 random",
    "link",
]
SMALL, LARGE = ["seedling", "plain seedling", "rows", "grown"], ["ghostnet_100", "ghostnetv2_100"]
ABSENT = {
    ("seedling", "link"),
    ("plain seedling", "link"),
    ("plain seedling", "layer 3x3 random"),
    ("plain seedling", "layer 5x5 random"),
}
ONE_OF_EACH = [
    RemoveBranch("blocks.0.0.ghost1", 5, 0),
    RemoveIntrinsic("blocks.1.g1.ghost1", (1,)),
    NarrowStage("blocks.0.0.ghost2", (0, 2)),
    RemoveBlock("blocks.1", "1"),
    RemoveLayer("blocks.0.0.ghost1", "d1"),
    RemoveLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"),
]


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        return [copied.train(training)(images) for training in (False, True)]


def change(before: list[Tensor], after: list[Tensor]) -> float:
    return max(float((new - old).abs().max() / old.abs().max()) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        *((name, [kind]) for name in SMALL for kind in KINDS if (name, kind) not in ABSENT),
        *((name, ["branch 3x3 random", "stage random", "layer 5x5 random", "block first", "link"]) for name in LARGE),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else value,
)
def test_what_is_removed_while_it_is_at_zero_leaves_everything_as_it_was(
    host: Callable,
    edits_of: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    snapshot: Callable,
    differences: Callable,
    name: str,
    kinds: list[str],
) -> None:
    model, images, targets = host(name)
    optimizer, average = make_optimizer("AdamW", model), copy.deepcopy(model)
    train_step(model, optimizer, images, targets)
    before, state = outputs(model, images), snapshot(model, optimizer, [average])
    edits = [edit for kind in kinds for edit in edits_of(model, kind)]
    grow(model, edits, optimizer, probe=images, ema=average)
    assert differences(state, snapshot(model, optimizer, [average]))
    event = undo(model, -1, optimizer, probe=images, ema=average)
    assert event.max_logit_change <= 1e-10
    assert change(before, outputs(model, images)) <= 1e-10
    assert not differences(state, snapshot(model, optimizer, [average]))  # names, layers, weights, state, all of it


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("name", ["cut-off ghosts", "odd"])
def test_where_ghosts_were_cut_off_they_are_cut_off_again(
    host: Callable, edits_of: Callable, snapshot: Callable, differences: Callable, name: str, kind: str
) -> None:
    model, images, _ = host(name)
    before, state, edits = outputs(model, images), snapshot(model), edits_of(model, kind)
    if edits:
        grow(model, edits)
        undo(model)
        assert change(before, outputs(model, images)) <= 1e-10
        assert not differences(state, snapshot(model))


CUT = "blocks.1.0.ghost1"  # six intrinsic maps and twelve ghost maps, cut off at sixteen


@pytest.mark.parametrize("order", [(2, 1), (1, 2)], ids=["latest first", "earliest first"])
@pytest.mark.parametrize(
    ("first", "later"),
    [
        (AddIntrinsic(CUT, 2), AddBranch(CUT, 5)),
        (AddBranch(CUT, 5), AddIntrinsic(CUT, 1)),
        (AddBranch(CUT, 3), AddBranch(CUT, 5)),
        (AddIntrinsic(CUT, 2), AddIntrinsic(CUT, 1)),
    ],
    ids=str,
)
def test_ghosts_are_cut_off_again_unless_a_later_event_at_the_same_module_stands(
    host: Callable, first: Edit, later: Edit, order: tuple[int, int]
) -> None:
    model, images, _ = host("cut-off ghosts")
    before, module = outputs(model, images), model.get_submodule(CUT)
    assert (module.out_channels, module.intrinsic_channels + module.ghosts) == (16, 18)
    grow(model, first)
    grow(model, later)
    for number in order:
        undo(model, number)
        assert change(before, outputs(model, images)) <= 1e-10
    assert module.out_channels == (16 if order == (2, 1) else 18)


def test_a_removal_that_an_older_version_wrote_is_read() -> None:
    for edit in (RemoveBranch(CUT, 3, 1), RemoveIntrinsic(CUT, (2,))):
        values = edit_to_json(edit)
        assert values.pop("out_channels") is None
        assert edit_from_json(values) == edit


@pytest.mark.parametrize("out_channels", [0, 4, 16, -1])
def test_ghosts_are_cut_off_behind_the_intrinsic_maps_and_not_behind_the_last_one(
    host: Callable, out_channels: int
) -> None:
    model, _, _ = host("cut-off ghosts")
    with pytest.raises(GhostkitError, match=rf"out_channels={out_channels}; expected a number between its 5 .* all 15"):
        grow(model, RemoveIntrinsic(CUT, (0,), out_channels))


def test_ghosts_that_a_link_rests_on_are_not_cut_off(host: Callable) -> None:
    model, _, _ = host("rows")
    grow(model, AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"))
    with pytest.raises(GhostkitError, match=r"links rest on the last ghost maps of 'blocks\.0\.1\.ghost1'; remove"):
        grow(model, RemoveIntrinsic("blocks.0.1.ghost1", (0,), 1))


@pytest.mark.parametrize("kind", [*KINDS, "branch 3x3 split", "intrinsic split", "stage split"])
def test_what_has_learned_something_changes_the_outputs_when_it_goes_and_the_event_says_by_how_much(
    host: Callable, edits_of: Callable, make_optimizer: Callable, train_step: Callable, kind: str
) -> None:
    model, images, targets = host("grown")
    names, optimizer = list(model.state_dict()), make_optimizer("AdamW", model)
    grow(model, edits_of(model, kind), optimizer, probe=images)
    for _ in range(4):
        train_step(model, optimizer, images, targets)
    before = model.eval()(images).detach()
    event = undo(model, -1, optimizer, probe=images)
    after = model(images).detach()
    assert event.max_logit_change == pytest.approx(float((after - before).abs().max()))
    assert event.max_logit_change > 1e-6
    assert list(model.state_dict()) == names
    assert_in_step(model, optimizer)
    assert train_step(model.train(), optimizer, images, targets) > 0


def assert_in_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fail unless the optimizer holds the parameters of ``model`` once each, and state of their shapes."""
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in optimizer.state} <= set(held)
    for parameter, state in optimizer.state.items():
        assert all(value.shape == parameter.shape for value in state.values() if value.dim())


@pytest.mark.parametrize("averaged", [False, True], ids=["a copy", "AveragedModel"])
@pytest.mark.parametrize("edit", ONE_OF_EACH, ids=lambda edit: type(edit).__name__)
def test_optimizer_average_and_buffers_stay_in_step_with_a_removal(
    host: Callable, make_optimizer: Callable, train_step: Callable, edit: Edit, averaged: bool
) -> None:
    model, images, targets = host("grown")
    average = torch.optim.swa_utils.AveragedModel(model) if averaged else copy.deepcopy(model)
    optimizer = make_optimizer("AdamW", model)
    for _ in range(2):
        train_step(model, optimizer, images, targets)
    event = grow(model, edit, optimizer, probe=images, ema=average)
    assert event.params_before > event.params_after == costs.params(model)
    assert event.macs_before > event.macs_after == costs.macs(model, images)
    assert event.max_logit_change > 0
    inner = average.module if averaged else average
    shapes, own = ([(n, t.shape) for n, t in root.state_dict().items()] for root in (model, inner))
    assert shapes == own
    assert repr(model) == repr(inner)
    assert_in_step(model, optimizer)
    train_step(model, optimizer, images, targets)
    assert torch.isfinite(average.eval()(images)).all()


def silenced(model: nn.Module, edit: Edit) -> nn.Module:
    """A copy of ``model`` in which nobody hears what ``edit`` removes, without removing it."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        if isinstance(edit, RemoveBlock):
            block = copied.get_submodule(f"{edit.site}.{edit.block}")
            for layer in block.ghost2.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.zero_()
                    layer.bias.zero_()
            return copied
        if isinstance(edit, RemoveLayer):
            layer = copied.get_submodule(f"{edit.site}.deeper_layers.{edit.layer}")
            layer.bn.weight.zero_()
            layer.bn.bias.zero_()
            return copied
        if isinstance(edit, RemoveLink):
            block, source = edit.target.rpartition(".")[0], edit.source.split(".")[-2]
            copied.get_submodule(f"{block}.links.{source}").projection.weight.zero_()
            return copied
        [site] = [site for site in sites(model) if site.id == edit.site]
        for path in site.consumers:
            reader(copied.get_submodule(path)).weight[:, channels_of(model, edit)] = 0.0
        for path in site.links_from:
            if isinstance(edit, RemoveIntrinsic):
                copied.get_submodule(path).projection.weight[:, list(edit.maps)] = 0.0
    return copied


def channels_of(model: nn.Module, edit: Edit) -> list[int]:
    """The output channels of a site that ``edit`` removes: those of maps, and of their ghosts."""
    layer = model.get_submodule(edit.site)
    if not isinstance(layer, GhostModule):
        return list(edit.maps)
    gone, start = [], layer.intrinsic_channels
    if not isinstance(edit, RemoveBranch):
        gone += edit.maps
    for _, operation in layer.operations():
        ghosts = torch.arange(operation.ghosts).view(-1, operation.branches) + start
        if not isinstance(edit, RemoveBranch):
            gone += ghosts[list(edit.maps)].flatten().tolist()
        elif edit.kernel_size == operation.kernel_size:
            gone += ghosts[:, edit.branch].tolist()
        start += operation.ghosts
    return gone


@pytest.mark.parametrize(
    "edit",
    [
        *ONE_OF_EACH,
        RemoveBranch("blocks.1.1.ghost1", 3, 0),  # the published one, and the only one
        RemoveIntrinsic("blocks.0.0.ghost1", (0, 3)),  # a link reads these
        NarrowStage("blocks.2.0.conv", (0, 5)),
        NarrowStage("conv_stem", (1, 2)),
    ],
    ids=str,
)
def test_a_network_without_a_part_computes_what_it_would_if_nobody_heard_that_part(host: Callable, edit: Edit) -> None:
    model, images, _ = host("grown")
    expected = silenced(model, edit).eval()(images)
    grow(model, edit)
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-10, atol=1e-12)


def test_of_several_branches_the_one_named_goes(host: Callable) -> None:
    model, images, _ = host("small")
    grow(model, [AddBranch("blocks.1.0.ghost1", 3)] * 2)
    module, reading = model.blocks[1][0].ghost1, model.blocks[1][0].ghost2.primary
    torch.nn.init.normal_(reading.weight)
    kernels = module.cheap_operation.conv.weight.detach().clone()
    edit = RemoveBranch("blocks.1.0.ghost1", 3, 1)
    expected = silenced(model, edit).eval()(images)
    grow(model, edit)
    assert module.branches() == {3: 2}
    left = kernels.view(module.intrinsic_channels, 3, 1, 3, 3)[:, [0, 2]].flatten(0, 1)
    assert torch.equal(module.cheap_operation.conv.weight, left)
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-10, atol=1e-12)


def test_the_last_branch_stays_while_layers_stand_over_it_and_after_it_another_one_can_be_added(host: Callable) -> None:
    model, images, _ = host("small")
    grow(model, DeepenBranches("blocks.1.0.ghost1"))
    with pytest.raises(GhostkitError, match=r"remove 'blocks\.1\.0\.ghost1\.deeper_layers\.d1' first"):
        grow(model, RemoveBranch("blocks.1.0.ghost1", 3, 0))
    grow(model, [RemoveLayer("blocks.1.0.ghost1", "d1"), RemoveBranch("blocks.1.0.ghost1", 3, 0)], probe=images)
    module = model.blocks[1][0].ghost1
    assert (module.branches(), len(module.deeper_layers), module.out_channels) == ({}, 0, module.intrinsic_channels)
    for edit in (AddBranch("blocks.1.0.ghost1", 3), DeepenBranches("blocks.1.0.ghost1")):
        assert grow(model, edit, probe=images).max_logit_change <= 1e-10
    assert module.branches() == {3: 1}


@pytest.mark.parametrize("attention", [False, True])
def test_a_module_that_was_narrowed_down_to_one_channel_grows_again(attention: bool) -> None:
    model = nn.Sequential(GhostModule(3, 2, attention=attention), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)).double()
    images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    grow(model, RemoveBranch("0", 3, 0), probe=images)
    assert model[0].out_channels == 1
    for edit in (AddBranch("0", 5), AddIntrinsic("0", 2), AddBranch("0", 3), DeepenBranches("0")):
        assert grow(model, edit, probe=images).max_logit_change <= 1e-10, str(edit)
    assert model(images).shape == (8, 3, 4, 4)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (RemoveBranch("blocks.0.0.ghost1", 7, 0), ["no such branch", "1 of 3x3", "1 of 5x5"]),
        (RemoveBranch("blocks.0.0.ghost1", 5, 1), ["5x5 number 1", "no such branch"]),
        (RemoveBranch("blocks.0.0.ghost1", 5, -1), ["no such branch"]),
        (RemoveBranch("blocks.0.0.ghost1", 4, 0), ["kernel_size=4", "odd"]),
        (RemoveBranch("blocks.0.1.ghost1", 3, 0), ["rest on these last ghost maps", "blocks.0.1.links.0"]),
        (RemoveBranch("blocks.0.0.ghost2", 3, 0), ["stream site"]),
        (RemoveIntrinsic("blocks.0.0.ghost1", ()), ["intrinsic maps between 0 and 3"]),
        (RemoveIntrinsic("blocks.0.0.ghost1", (4,)), ["intrinsic maps between 0 and 3"]),
        (RemoveIntrinsic("blocks.0.0.ghost1", (1, 1)), ["different numbers"]),
        (RemoveIntrinsic("blocks.0.0.ghost1", (0, 1, 2, 3)), ["one of them to be left"]),
        (NarrowStage("blocks.0.0.ghost1", (0,)), ["width site", "residual stream"]),
        (NarrowStage("blocks.0.0.ghost2", (6,)), ["maps between 0 and 5"]),
        (RemoveBlock("blocks.1", "0"), ["keeps its first block"]),
        (RemoveBlock("blocks.1", "g2"), ["no block 'g2'", "0, 1, g1, 2"]),
        (RemoveBlock("blocks.0.0.ghost1", "0"), ["width site", "row of blocks"]),
        (RemoveBlock("blocks.9", "1"), ["no site 'blocks.9'"]),
        (RemoveLayer("blocks.0.0.ghost1", "d2"), ["no such layer", "d1"]),
        (RemoveLayer("blocks.0.1.ghost1", "d1"), ["no such layer", "none"]),
        (RemoveLink("blocks.1.0.ghost1", "blocks.1.1.ghost1"), ["no such link", "linked to no other"]),
        (RemoveLink("blocks.1.1.ghost1", "blocks.1.2.ghost1"), ["no such link", "0, g1"]),
        (RemoveLink("blocks.0.0.ghost1", "blocks.1.2.ghost1"), ["no such link"]),
        (RemoveLink("conv_stem", "blocks.1.2.ghost1"), ["no such link"]),
    ],
    ids=str,
)
def test_a_removal_that_does_not_fit_is_refused_and_quoted_and_nothing_has_happened(
    host: Callable, snapshot: Callable, differences: Callable, edit: Edit, words: list[str]
) -> None:
    model, images, _ = host("grown")
    before = snapshot(model)
    with pytest.raises(GhostkitError) as refusal:
        grow(model, [AddBranch("blocks.1.1.ghost1", 5), edit], probe=images)
    for word in words:
        assert word in str(refusal.value)
    assert not differences(before, snapshot(model))


def test_a_block_that_another_one_is_linked_to_stays_until_the_link_is_gone(host: Callable) -> None:
    model, images, _ = host("rows")
    grow(model, AddLink("blocks.1.1.ghost1", "blocks.1.2.ghost1"))
    with pytest.raises(GhostkitError, match="block '2' is linked to this one; remove that link first"):
        grow(model, RemoveBlock("blocks.1", "1"))
    grow(model, [RemoveLink("blocks.1.1.ghost1", "blocks.1.2.ghost1"), RemoveBlock("blocks.1", "1")], probe=images)
    assert [name for name, _ in model.blocks[1].named_children()] == ["0", "2"]


def test_a_block_that_changes_the_channels_or_the_resolution_stays(host: Callable) -> None:
    model, _, _ = host("ghostnet_100")
    with pytest.raises(GhostkitError, match="this block changes the channels or the resolution"):
        grow(model, RemoveBlock("blocks.6", "3"))


def test_every_removal_survives_json() -> None:
    assert {type(edit) for edit in ONE_OF_EACH} == set(REMOVAL)
    for edit in ONE_OF_EACH:
        assert edit_from_json(edit_to_json(edit)) == edit
    with pytest.raises(GhostkitError, match=r"maps='01'.*list of whole numbers"):
        edit_from_json({"edit": "RemoveIntrinsic", "site": "a", "maps": "01"})
    with pytest.raises(GhostkitError, match=r"maps=\[0.5\].*list of whole numbers"):
        edit_from_json({"edit": "NarrowStage", "site": "a", "maps": [0.5]})
