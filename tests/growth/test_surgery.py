"""Surgery keeps everything in step: optimizer, averages, hooks, layout, statistics; or nothing happens at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.ghosting import ghostify
from ghostkit.growth import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    WidenStage,
    grow,
    widen_in,
    widen_out,
)
from ghostkit.growth.channels import ChannelMap
from ghostkit.growth.history import history_of
from ghostkit.growth.surgery import Surgery, positive_estimate, transaction
from ghostkit.nn import GhostModule

EDITS = [  # width and depth, places that there are and places that there are not yet, fresh entries and copies
    AddBranch("blocks.1.0.ghost1", 3),
    AddBranch("blocks.0.0.ghost1", 5),
    AddIntrinsic("blocks.2.0.ghost1", 2),
    AddIntrinsic("blocks.1.0.ghost1", 1, "split"),
    AddBlock("blocks.1", "0"),
    AddBranch("blocks.1.g1.ghost1", 7),
]


class Deaf(nn.Linear):
    """A layer of the user's whose rule raises."""


class Loud(nn.Linear):
    """A layer of the user's whose rule does not keep the function: fresh columns start at one."""


@widen_in.register
def _(layer: Deaf, channels: ChannelMap, surgery: Surgery) -> None:
    raise ValueError("deaf")


@widen_in.register
def _(layer: Loud, channels: ChannelMap, surgery: Surgery) -> None:
    surgery.remap(layer, "weight", 1, channels, fresh=1.0)
    surgery.assign(layer, "in_features", channels.size)


class Own(nn.Module):
    """A user's own network: two ghost modules in a row, and a head that can be chosen."""

    def __init__(self, head: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.first = GhostModule(3, 8, kernel_size=3)
        self.second = GhostModule(8, 6, kernel_size=3)
        self.head = head(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.second(self.first(x)), 1).flatten(1))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fresh_entries_get_no_momentum_and_a_positive_second_moment(
    host: Callable, make_optimizer: Callable, train_step: Callable, labelled: Callable, old_entries: Callable, name: str
) -> None:
    model, images, targets = host("small")
    optimizer = make_optimizer(name, model)
    train_step(model, optimizer, images, targets)
    labels = dict(labelled("small", EDITS[:3]).named_parameters())
    grow(model, EDITS[:3], optimizer)
    checked = 0
    for tensor, parameter in model.named_parameters():
        fresh = ~old_entries(labels[tensor].detach())[0]
        for key, value in optimizer.state[parameter].items():
            if value.dim() and fresh.any():
                assert value.shape == parameter.shape
                assert bool((value[fresh] > 0).all() if key == "exp_avg_sq" else (value[fresh] == 0).all()), tensor
                checked += 1
    assert checked


def test_a_second_moment_of_zeros_is_estimated_from_the_other_parameters(host: Callable, train_step: Callable) -> None:
    model, images, targets = host("small")
    optimizer = torch.optim.Adam(model.parameters())
    train_step(model, optimizer, images, targets)
    reader = model.blocks[1][0].ghost2.primary_conv[0].weight
    optimizer.state[reader]["exp_avg_sq"].zero_()
    columns = reader.shape[1]
    grow(model, AddBranch("blocks.1.0.ghost1", 5), optimizer)
    assert bool((optimizer.state[reader]["exp_avg_sq"][:, columns:] > 0).all())


def test_that_estimate_has_the_same_bits_in_whatever_order_the_state_was_loaded() -> None:
    values = torch.rand(60, generator=torch.Generator().manual_seed(0))
    parameters, nothing = [nn.Parameter(torch.zeros(1)) for _ in values], torch.zeros(1)
    optimizer = torch.optim.Adam(parameters)
    estimates = []
    for order in (range(60), reversed(range(60))):
        optimizer.state.clear()
        for number in order:
            optimizer.state[parameters[number]]["exp_avg_sq"] = values[number]
        estimates.append(positive_estimate(optimizer, nothing, "exp_avg_sq"))
    assert estimates[0] == estimates[1] > 0


@pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
def test_new_parameters_join_the_group_of_their_nearest_sibling(host: Callable, named: bool) -> None:
    model, _, _ = host("small")

    def group_of(name: str, parameter: Tensor) -> int:
        return 2 if name.startswith("blocks.2") else int(parameter.dim() == 1)

    groups: list[list] = [[], [], []]
    for name, parameter in model.named_parameters():
        groups[group_of(name, parameter)].append((name, parameter) if named else parameter)
    rates = (0.1, 0.2, 0.3)
    optimizer = torch.optim.SGD([{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)])
    grow(model, [*EDITS, AddBlock("blocks.2", "0"), AddBranch("blocks.2.0.ghost1", 7)], optimizer)

    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(listed) == len({id(parameter) for parameter in listed}) == len(list(model.parameters()))
    for number, group in enumerate(optimizer.param_groups):
        known = {id(parameter): name for name, parameter in model.named_parameters()}
        names = [known[id(parameter)] for parameter in group["params"]]
        wrong = [n for n, p in zip(names, group["params"], strict=True) if group_of(n, p) != number]
        assert not wrong
        assert group.get("param_names", names) == names
    assert [group["lr"] for group in optimizer.param_groups] == list(rates)


def test_old_parameters_and_layers_stay_the_objects_that_they_were(host: Callable) -> None:
    model, images, _ = host("small")
    before = {**dict(model.named_parameters()), **dict(model.named_modules())}
    grow(model, EDITS, probe=images)
    after = {**dict(model.named_parameters()), **dict(model.named_modules())}
    assert all(after[name] is part for name, part in before.items())


def test_hooks_on_parameters_and_layers_still_fire_after_growth(host: Callable, train_step: Callable) -> None:
    model, images, targets = host("small")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(model, optimizer, images, targets)
    weight = model.blocks[1][0].ghost2.primary_conv[0].weight
    heard: dict[str, torch.Size] = {}
    weight.register_hook(lambda gradient: heard.__setitem__("gradient", gradient.shape))
    weight.register_post_accumulate_grad_hook(lambda p: heard.__setitem__("accumulated", p.grad.shape))
    model.blocks[1][0].ghost1.register_forward_hook(lambda *call: heard.__setitem__("output", call[2].shape[1]))
    grow(model, EDITS, optimizer)
    train_step(model, optimizer, images, targets)
    module = model.blocks[1][0].ghost1
    assert heard == {"gradient": weight.shape, "accumulated": weight.shape, "output": module.out_channels}
    assert weight.shape[1] == module.out_channels


@pytest.mark.parametrize("refused", [False, True], ids=["grown", "taken back"])
def test_a_loss_that_is_still_in_a_variable_does_not_stop_the_next_step(host: Callable, refused: bool) -> None:
    model, images, targets = host("small")
    loss = F.cross_entropy(model(images), targets)
    loss.backward()  # the graph stays alive with the loss, and with it what it knows of shapes
    if refused:
        with pytest.raises(GhostkitError):
            grow(model, [*EDITS, AddBranch("nowhere")])
    else:
        grow(model, EDITS)
    again = F.cross_entropy(model(images), targets)
    again.backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)


def test_gradients_gathered_before_growth_are_kept(host: Callable, labelled: Callable, old_entries: Callable) -> None:
    model, images, targets = host("small")
    F.cross_entropy(model(images), targets).backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    labels = dict(labelled("small", EDITS[:3]).named_parameters())
    grow(model, EDITS[:3])
    for name, parameter in model.named_parameters():
        mask, places = old_entries(labels[name].detach())
        if name in before:
            assert torch.equal(parameter.grad[mask], before[name].flatten()[places])
            assert not parameter.grad[~mask].any()


def test_frozen_parts_stay_frozen_and_new_parts_follow_their_siblings(host: Callable) -> None:
    model, _, _ = host("small")
    model.blocks[1].requires_grad_(False)
    grow(model, [*EDITS, AddBlock("blocks.2", "0")])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("blocks.1")), name


def test_new_parts_share_the_mode_of_the_network(host: Callable) -> None:
    for training in (True, False):
        model, images, _ = host("small")
        model.train(training)
        grow(model, EDITS, probe=images)
        assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_tensor_keeps_the_dtype_of_the_network(
    host: Callable, make_optimizer: Callable, dtype: torch.dtype
) -> None:
    model, images, targets = host("small", dtype)
    optimizer = make_optimizer("AdamW", model)
    F.cross_entropy(model(images), targets).backward()
    optimizer.step()
    grow(model, EDITS, optimizer, probe=images)
    tensors = [*model.parameters(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    tensors += [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    tensors += [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert {tensor.dtype for tensor in tensors} == {dtype}


def test_channels_last_weights_stay_channels_last() -> None:
    model = Own().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    model(images).sum().backward()
    optimizer.step()
    grow(model, [AddIntrinsic("first", 3), AddBranch("second", 5), AddBranch("first", 3)], optimizer, probe=images)
    for layer in (model.first.primary_conv[0], model.second.primary_conv[0]):
        for tensor in (layer.weight, layer.weight.grad, optimizer.state[layer.weight]["momentum_buffer"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()


@pytest.mark.parametrize("averaged", [False, True], ids=["a copy", "AveragedModel"])
def test_an_average_grows_alike_and_computes_its_own_function_unchanged(
    host: Callable, make_optimizer: Callable, train_step: Callable, averaged: bool
) -> None:
    model, images, targets = host("small")
    average = torch.optim.swa_utils.AveragedModel(model) if averaged else copy.deepcopy(model)
    optimizer = make_optimizer("SGD", model)
    for _ in range(3):  # so that the two differ
        train_step(model, optimizer, images, targets)
    average.eval()
    before = average(images).detach()
    grow(model, EDITS, optimizer, probe=images, ema=average)
    torch.testing.assert_close(average(images).detach(), before, rtol=1e-10, atol=1e-10)

    inner = average.module if averaged else average
    shapes, own = ({name: tensor.shape for name, tensor in root.state_dict().items()} for root in (model, inner))
    assert list(shapes.items()) == list(own.items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in inner.parameters()}
    for layer in inner.modules():
        if isinstance(layer, nn.BatchNorm2d):  # measured on its own features, not left at 0 and 1
            assert not ((layer.running_mean == 0) & (layer.running_var == 1)).any()
    if averaged:
        average.update_parameters(model)


def test_statistics_of_new_channels_are_those_of_the_probe(host: Callable) -> None:
    model, images, _ = host("ghostnetv2_100")
    model.eval()
    old = {name: buffer.clone() for name, buffer in model.named_buffers()}
    grow(model, [AddIntrinsic("blocks.3.0.ghost1", 2), AddBranch("blocks.3.0.ghost1", 5)], probe=images)
    inputs: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, x, name=name: inputs.__setitem__(name, x[0].detach()))
    model(images)
    grown = 0
    for name, x in inputs.items():
        layer = model.get_submodule(name)
        known = old.get(f"{name}.running_mean", torch.empty(0))
        fresh = ~torch.isin(layer.running_mean, known)
        if fresh.any():
            grown += 1
            torch.testing.assert_close(layer.running_mean[fresh], x.mean((0, 2, 3))[fresh])
            torch.testing.assert_close(layer.running_var[fresh], x.var((0, 2, 3))[fresh])
    assert grown == 7  # intrinsic, ghosts, the new kernel's ghosts, three of the attention, the strided depthwise


def test_growth_leaves_the_global_random_state_alone(host: Callable) -> None:
    model, images, _ = host("small")
    before = torch.get_rng_state()
    grow(model, EDITS, probe=images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("last", "probe", "error"),
    [
        (AddBranch("blocks.9.0.ghost1"), True, GhostkitError),
        (AddBranch("blocks.1.0.ghost1", 4), True, GhostkitError),
        (AddBlock("blocks.1", "g7"), False, GhostkitError),
        (AddBranch("blocks.2.0.ghost1", 3), "nan", GhostkitError),
        (AddBranch("blocks.2.0.ghost1", 3), "wide", (GhostkitError, RuntimeError)),
    ],
    ids=["no such site", "even kernel", "no such block", "nan in the probe", "a probe of other images"],
)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_when_the_last_of_some_edits_fails_nothing_has_happened(
    host: Callable,
    make_optimizer: Callable,
    train_step: Callable,
    snapshot: Callable,
    differences: Callable,
    name: str,
    last: AddBranch,
    probe: bool | str,
    error: type[Exception] | tuple[type[Exception], ...],
) -> None:
    model, images, targets = host("small")
    optimizer, average = make_optimizer(name, model), copy.deepcopy(model)
    train_step(model, optimizer, images, targets)
    before = snapshot(model, optimizer, [average])
    shown = images if probe else None
    if probe == "nan":
        shown = images.clone()
        shown[0, 0, 0, 0] = float("nan")
    elif probe == "wide":
        shown = images.expand(-1, 2, -1, -1)
    with pytest.raises(error):
        grow(model, [*EDITS, last], optimizer, probe=shown, ema=average)
    assert not differences(before, snapshot(model, optimizer, [average]))
    assert history_of(model).events == []
    train_step(model, optimizer, images, targets)


class Scaled(nn.Module):
    """A layer of the user's that keeps a factor for each channel, which no checkpoint needs."""

    def __init__(self, channels: int, registered: bool = True) -> None:
        super().__init__()
        if registered:
            self.register_buffer("factors", torch.ones(channels, 1, 1), persistent=False)
        else:
            self.factors = torch.ones(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


@widen_out.register
def _(layer: Scaled, channels: ChannelMap, surgery: Surgery, rows: Tensor | None = None) -> None:
    surgery.remap(layer, "factors", 0, channels, 1.0)


@pytest.mark.parametrize("place", ["0", "nowhere"])
def test_buffers_that_are_no_part_of_checkpoints_stay_so(place: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(8), nn.Conv2d(8, 4, 1))
    names = list(model.state_dict())
    with nullcontext() if place == "0" else pytest.raises(GhostkitError, match="no site 'nowhere'"):
        grow(model, [WidenStage("0", 2), WidenStage(place, 1)])
    assert model[1].factors.shape[0] == (11 if place == "0" else 8)
    assert list(model.state_dict()) == names


def test_a_tensor_that_is_no_buffer_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(8, registered=False), nn.Conv2d(8, 4, 1))
    with pytest.raises(GhostkitError, match=r"1\.factors of Scaled is neither a parameter nor a buffer"):
        grow(model, WidenStage("0", 2))
    assert model(torch.zeros(1, 3, 4, 4)).shape[1] == 4


@pytest.mark.parametrize(
    ("head", "words"), [(Deaf, "deaf"), (Loud, "does not keep the function")], ids=["raises", "changes the function"]
)
def test_when_a_users_rule_fails_nothing_has_happened(
    snapshot: Callable, differences: Callable, head: type[nn.Linear], words: str
) -> None:
    model, images = Own(head), torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.Adam(model.parameters())
    before = snapshot(model, optimizer)
    with pytest.raises((ValueError, GhostkitError), match=words):
        grow(model, [AddIntrinsic("first", 2), AddBranch("second", 3)], optimizer, probe=images)
    assert not differences(before, snapshot(model, optimizer))


def test_an_optimizer_whose_state_has_another_shape_is_refused_and_nothing_has_happened(
    host: Callable, train_step: Callable, snapshot: Callable, differences: Callable
) -> None:
    model, images, targets = host("small", torch.float32)
    optimizer = torch.optim.Adafactor(model.parameters())
    train_step(model, optimizer, images, targets)
    before = snapshot(model, optimizer)
    with pytest.raises(GhostkitError, match=r"Adafactor keeps '\w+' in the shape .*SGD, Adam"):
        grow(model, EDITS, optimizer)
    assert not differences(before, snapshot(model, optimizer))


def test_what_a_transaction_takes_back_includes_what_a_person_interrupted(
    host: Callable, snapshot: Callable, differences: Callable
) -> None:
    model, _, _ = host("small")
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), transaction(model):  # noqa: PT012
        grow(model, EDITS)
        raise KeyboardInterrupt
    assert not differences(before, snapshot(model))


def test_surgery_refuses_layers_of_another_network_and_maps_of_another_size(host: Callable) -> None:
    model, _, _ = host("small")
    surgery = Surgery(model, torch.Generator())
    with pytest.raises(GhostkitError, match="Linear is not a part of GhostNet"):
        surgery.assign(nn.Linear(1, 1), "in_features", 2)
    with pytest.raises(GhostkitError, match=r"conv_stem\.weight has \d+ channels along dimension 0.*expects 99"):
        surgery.remap(model.conv_stem, "weight", 0, ChannelMap.of([0], before=99))


def test_a_links_projection_learns_with_its_target_where_the_head_is_frozen_or_convolutional(host: Callable) -> None:
    model, images, targets = host("rows")
    model.classifier.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [{"params": model.blocks[1].parameters(), "lr": 0.5}, {"params": model.blocks[0].parameters(), "lr": 0.1}]
    )
    grow(model, AddLink("blocks.0.0.ghost1", "blocks.0.1.ghost1"), optimizer)
    weight = model.blocks[0][1].links["0"].projection.weight
    assert weight.requires_grad
    assert any(member is weight for member in optimizer.param_groups[1]["params"])
    F.cross_entropy(model(images), targets).backward()
    optimizer.step()
    assert bool(weight.any())


def without_bn() -> nn.Module:
    """A user's own network of ghost modules that have no BN."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return ghostify(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)))


def test_new_parameters_of_a_kind_that_is_new_join_the_nearest_group_and_learn() -> None:
    model = without_bn()
    heads, others = [*model[-1].parameters()], [*model[:-1].parameters()]
    optimizer = torch.optim.SGD([{"params": heads, "lr": 0.1}, {"params": others, "lr": 0.2}])
    grow(model, DeepenBranches("2"), optimizer, torch.randn(4, 3, 6, 6))
    added = {name: parameter for name, parameter in model.named_parameters() if "deeper_layers" in name}
    assert {name.rpartition(".")[2] for name in added} == {"weight", "bias"}
    assert len(optimizer.param_groups[0]["params"]) == len(heads)
    known = {id(parameter) for parameter in optimizer.param_groups[1]["params"]}
    assert all(id(parameter) in known and parameter.requires_grad for parameter in added.values())


def test_a_fused_optimizer_goes_on_after_growth_as_any_other_does(host: Callable, train_step: Callable) -> None:
    weights = []
    for fused in (False, True):
        model, images, targets = host("small")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        train_step(model, optimizer, images, targets)
        grow(model, EDITS, optimizer, probe=images)
        for _ in range(2):
            train_step(model, optimizer, images, targets)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.9, centered=True),
        lambda parameters: torch.optim.NAdam(parameters, lr=1e-3),
        lambda parameters: torch.optim.RAdam(parameters, lr=1e-3),
        lambda parameters: torch.optim.Adamax(parameters, lr=1e-3),
        lambda parameters: torch.optim.Adagrad(parameters, lr=1e-3, initial_accumulator_value=0.1),
        torch.optim.Adadelta,
        lambda parameters: torch.optim.ASGD(parameters, lr=1e-3, t0=0),
        lambda parameters: torch.optim.Rprop(parameters, lr=1e-3),
    ],
    ids=["RMSprop", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD", "Rprop"],
)
def test_every_optimizer_whose_state_is_shaped_like_its_parameters_goes_on_after_growth(
    host: Callable, train_step: Callable, labelled: Callable, old_entries: Callable, make: Callable
) -> None:
    model, images, targets = host("small")
    optimizer = make(model.parameters())
    for _ in range(2):
        train_step(model, optimizer, images, targets)
    labels = dict(labelled("small", EDITS[:3]).named_parameters())
    grow(model, EDITS[:3], optimizer)
    for tensor, parameter in model.named_parameters():
        fresh, state = ~old_entries(labels[tensor].detach())[0], optimizer.state.get(parameter, {})
        assert bool((state.get("step_size", torch.ones_like(parameter))[fresh] > 0).all())
        assert torch.equal(state.get("ax", parameter)[fresh], parameter[fresh])
    grow(model, AddBlock("blocks.1", "0"), optimizer, probe=images)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):
        train_step(model, optimizer, images, targets)
    change = {name: (parameter.detach() - before[name]).abs() for name, parameter in model.named_parameters()}
    assert all(bool(torch.isfinite(moved).all()) for moved in change.values())
    assert max(float(moved.max()) for name, moved in change.items() if "blocks.1.g1" in name) > 0


def test_an_optimizer_with_one_state_for_all_is_refused_by_name(host: Callable) -> None:
    model, images, _ = host("small")
    with pytest.raises(GhostkitError, match="LBFGS keeps one flat state"):
        grow(model, EDITS, torch.optim.LBFGS(model.parameters()), probe=images)
    assert not history_of(model).events


def test_an_average_that_missed_an_event_is_refused_before_anything_is_done(host: Callable) -> None:
    model, images, _ = host("small")
    average = torch.optim.swa_utils.AveragedModel(model)
    grow(model, EDITS[0], probe=images)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(GhostkitError, match=r"the ema has '.*' of shape \(.*\), the model of \(.*\); expected a copy"):
        grow(model, EDITS[2], probe=images, ema=average)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
