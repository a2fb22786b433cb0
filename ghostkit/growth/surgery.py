"""Surgery: an edit is first taken down as a list of small operations, then applied whole or not at all.

Taking down and applying are kept apart for three reasons. The same list is applied to the network and to its EMA copy;
its cost can be read without applying it; and an edit that turns out impossible has touched nothing yet. What is applied
keeps everything in step: parameters keep their identity (so optimizer groups, hooks and references stay valid) and get
new contents; optimizer state follows entry by entry; BN statistics of fresh channels are measured on a probe batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ghostkit.costs import evaluating
from ghostkit.errors import GhostkitError
from ghostkit.growth.channels import ChannelMap, is_channels_last, remapped

__all__ = ["Surgery", "check_in_step", "measure_fresh_statistics", "renew", "transaction"]

# Optimizer state that estimates a positive quantity: fresh entries get the tensor's mean. Left at zero under an old
# step count, Adam's first steps on them would be several times too large, and Rprop's would never grow.
POSITIVE_STATE = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "step_size"}
AVERAGED_STATE = {"ax"}  # ASGD's average of the weights, which is what they are where they are new


@dataclass(frozen=True, eq=False)
class Remap:
    """The channels of one tensor move along one dimension."""

    path: str
    name: str
    dim: int
    channels: ChannelMap
    fresh: Tensor | float
    shared: bool

    @property
    def tensor(self) -> str:
        """The tensor's full name."""
        return f"{self.path}.{self.name}" if self.path else self.name


@dataclass(frozen=True)
class Assign:
    """A plain attribute of a layer gets a new value."""

    path: str
    name: str
    value: Any


@dataclass(frozen=True, eq=False)
class Insert:
    """A new module enters a container, behind the child ``after`` (at the end when None).

    ``input_of`` is the path of the module whose output the new module reads; ``wakes_from`` names, in a residual block,
    the last convolution and the BN behind it that holds the block at zero.
    """

    path: str
    key: str
    module: nn.Module
    after: str | None
    input_of: str
    wakes_from: tuple[str, str] | None = None

    @property
    def target(self) -> str:
        """Path of the new module."""
        return f"{self.path}.{self.key}" if self.path else self.key


@dataclass(frozen=True)
class Remove:
    """A module leaves a container, or another one takes its place."""

    path: str
    key: str
    instead: nn.Module | None

    @property
    def target(self) -> str:
        """Path of the module that leaves."""
        return f"{self.path}.{self.key}" if self.path else self.key


@dataclass(eq=False)
class Surgery:
    """The operations of one edit, as they are taken down.

    Args:
        host: the network that the edit is for; it is only read.
        generator: where new weights draw from, so that growth never disturbs the run's own random numbers.
        inverse: the edit that takes this one back, once it is done.
    """

    host: nn.Module
    generator: torch.Generator
    inverse: Any = None
    remaps: list[Remap] = field(default_factory=list)
    assigns: list[Assign] = field(default_factory=list)
    removes: list[Remove] = field(default_factory=list)
    inserts: list[Insert] = field(default_factory=list)
    measures: list[tuple[str, ChannelMap]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._paths = {module: path for path, module in self.host.named_modules()}

    def path(self, layer: nn.Module) -> str:
        """Return the path of ``layer`` in the host."""
        try:
            return self._paths[layer]
        except KeyError:
            raise GhostkitError(f"{type(layer).__name__} is not a part of {type(self.host).__name__}") from None

    def remap(
        self,
        layer: nn.Module,
        name: str,
        dim: int,
        channels: ChannelMap,
        fresh: Tensor | float = 0.0,
        shared: bool = False,
    ) -> None:
        """Take down that tensor ``name`` of ``layer`` follows ``channels`` along ``dim``.

        Args:
            layer: a layer of the host.
            name: its parameter or buffer.
            dim: the dimension that holds the channels.
            channels: where each channel comes from.
            fresh: contents of fresh entries: a number, or one slice along ``dim`` for every fresh channel.
            shared: the tensor sums over these channels, so weights of split ones are shared out among the copies.
        """
        size = getattr(layer, name).shape[dim]
        if size != channels.before:
            raise GhostkitError(
                f"{self.path(layer)}.{name} has {size} channels along dimension {dim}, the edit expects "
                f"{channels.before}"
            )
        self.remaps.append(Remap(self.path(layer), name, dim, channels, fresh, shared))

    def assign(self, layer: nn.Module, name: str, value: Any) -> None:
        """Take down that attribute ``name`` of ``layer`` becomes ``value``."""
        self.assigns.append(Assign(self.path(layer), name, value))

    def insert(
        self,
        container: nn.Module,
        key: str,
        module: nn.Module,
        input_of: nn.Module,
        after: str | None = None,
        wakes_from: tuple[str, str] | None = None,
    ) -> None:
        """Take down that ``module`` enters ``container`` under ``key``, reading the output of ``input_of``."""
        insert = Insert(self.path(container), key, module, after, self.path(input_of), wakes_from)
        self.inserts.append(insert)
        self._paths[module] = insert.target  # so that more may be taken down for what is new

    def remove(self, container: nn.Module, key: str, instead: nn.Module | None = None) -> None:
        """Take down that the part ``key`` leaves ``container``, or that ``instead``, without weights, replaces it."""
        self.removes.append(Remove(self.path(container), key, instead))

    def measure(self, layer: nn.Module, channels: ChannelMap) -> None:
        """Take down that a BN's statistics of the fresh channels are to be measured on the probe batch."""
        self.measures.append((self.path(layer), channels))

    def apply(self, host: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was taken down to ``host``, which is built like the host that it was taken down for.

        Args:
            host: the network itself, or a copy such as its exponential moving average.
            optimizer: its state follows the tensors; parameters of new modules join the group of their nearest sibling.
        """
        for remap in self.remaps:
            apply_remap(host, remap, optimizer)
        for assign in self.assigns:
            setattr(host.get_submodule(assign.path), assign.name, assign.value)
        for remove in self.removes:
            apply_remove(host, remove, optimizer)
        for insert in self.inserts:
            apply_insert(host, insert, optimizer)


def apply_remove(host: nn.Module, remove: Remove, optimizer: torch.optim.Optimizer | None) -> None:
    """Take a module out of its container, and its parameters out of the optimizer."""
    container = host.get_submodule(remove.path)
    gone = {id(parameter) for parameter in container.get_submodule(remove.key).parameters()}
    if remove.instead is None:
        del container._modules[remove.key]
    else:
        container._modules[remove.key] = copy.deepcopy(remove.instead).train(host.training)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        left = [number for number, parameter in enumerate(group["params"]) if id(parameter) not in gone]
        for name in ("params", "param_names"):
            if name in group:
                group[name][:] = [group[name][number] for number in left]
    for parameter in [parameter for parameter in optimizer.state if id(parameter) in gone]:
        del optimizer.state[parameter]


def apply_remap(host: nn.Module, remap: Remap, optimizer: torch.optim.Optimizer | None) -> None:
    """Move the channels of one tensor, its gradient and its optimizer state."""
    layer = host.get_submodule(remap.path)
    old = getattr(layer, remap.name)
    with torch.no_grad():
        new = remapped(old.detach(), remap.channels, remap.dim, remap.fresh, remap.shared)
        if not isinstance(old, nn.Parameter):
            if remap.name not in layer._buffers:
                raise GhostkitError(
                    f"{remap.tensor} of {type(layer).__name__} is neither a parameter nor a buffer (it may be made "
                    "from others, as weight_norm does), so there is nothing that growth could widen"
                )
            layer._buffers[remap.name] = new  # stays out of checkpoints where it was not in them
            return
        before, gradient = old.shape, old.grad
        refill(old, new)
        if gradient is not None:
            old.grad = remapped(gradient, remap.channels, remap.dim)
        if optimizer is not None and old in optimizer.state:
            remap_state(optimizer, old, before, remap)


def refill(parameter: nn.Parameter, data: Tensor) -> None:
    """Give ``parameter`` new contents, of another shape perhaps, and no gradient.

    A graph that is still alive (a loss kept in a variable) holds on to the parameter's gradient accumulator, which
    expects the old shape. PyTorch makes a new one when the dtype changes, so the dtype changes for a moment; hooks on
    the parameter stay.
    """
    parameter.grad = None
    other = torch.float32 if parameter.dtype == torch.float16 else torch.float16
    parameter.data = torch.empty(0, dtype=other, device=parameter.device)
    parameter.data = data


def remap_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, before: torch.Size, remap: Remap) -> None:
    """Move the entries of every state tensor that is shaped like its parameter."""
    state = optimizer.state[parameter]
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        if value.shape != before:
            raise GhostkitError(
                f"{type(optimizer).__name__} keeps {name!r} in the shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(before)}; only optimizers whose state is shaped like the parameter (SGD, Adam, AdamW, ...) "
                "can be kept in step"
            )
        if name in AVERAGED_STATE:
            state[name] = remapped(value, remap.channels, remap.dim, remap.fresh, remap.shared)
            continue
        fresh = positive_estimate(optimizer, value, name) if name in POSITIVE_STATE else 0.0
        state[name] = remapped(value, remap.channels, remap.dim, fresh)


def positive_estimate(optimizer: torch.optim.Optimizer, value: Tensor, name: str) -> float:
    """Return the mean of ``value``, or, where that is zero, the mean of the same state over all parameters.

    These are taken in the order of the optimizer's groups: that of its state is another one once it was loaded.
    """
    mean = float(value.mean())
    if mean > 0:
        return mean
    members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [optimizer.state[parameter] for parameter in members if parameter in optimizer.state]
    others = [state[name].mean() for state in states if name in state]
    return float(torch.stack(others).mean())


def apply_insert(host: nn.Module, insert: Insert, optimizer: torch.optim.Optimizer | None) -> None:
    """Put a copy of the new module into its container, alike in dtype, device, mode and memory format."""
    container = host.get_submodule(insert.path)
    if insert.key in container._modules:
        raise GhostkitError(f"{insert.path!r} already has a part called {insert.key!r}")
    reference = next(host.parameters())
    # A fresh copy each time: the network and its EMA copy must not share the module.
    module = copy.deepcopy(insert.module).to(device=reference.device, dtype=reference.dtype)
    if any(is_channels_last(parameter) for parameter in host.parameters()):
        module = module.to(memory_format=torch.channels_last)
    module.train(host.training)
    siblings = named_like(host)
    children = list(container._modules.items())
    names = [name for name, _ in children]
    place = len(names) if insert.after is None else names.index(insert.after) + 1
    children.insert(place, (insert.key, module))
    container._modules.clear()
    container._modules.update(children)
    for name, wanted, parameter in named_like(module):
        sibling = nearest_sibling(siblings, f"{insert.target}.{name}", wanted)
        parameter.requires_grad_(sibling.requires_grad)
        if optimizer is None:
            continue
        for group in optimizer.param_groups:
            if any(member is sibling for member in group["params"]):
                group["params"].append(parameter)
                if "param_names" in group:  # the optimizer was given named parameters
                    group["param_names"].append(f"{insert.target}.{name}")
        # SGD's fused kernel wants one of all or none; other optimizers make all of a parameter's state at once.
        if isinstance(optimizer, torch.optim.SGD) and "momentum_buffer" in optimizer.state.get(sibling, {}):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def kind(layer: nn.Module, leaf: str) -> tuple[type, str]:
    """Return what sort of parameter ``leaf`` of ``layer`` is; projecting is of a sort with convolving."""
    return (nn.Conv2d if isinstance(layer, nn.Linear) else type(layer)), leaf


def named_like(host: nn.Module) -> list[tuple[str, tuple[type, str], nn.Parameter]]:
    """Return name, kind and parameter for every parameter of ``host``."""
    return [
        (f"{path}.{leaf}" if path else leaf, kind(layer, leaf), parameter)
        for path, layer in host.named_modules()
        for leaf, parameter in layer.named_parameters(recurse=False)
    ]


def nearest_sibling(
    known: list[tuple[str, tuple[type, str], nn.Parameter]], name: str, wanted: tuple[type, str]
) -> nn.Parameter:
    """Return the parameter of the same kind, if there is one, whose name shares the longest path with ``name``."""

    def shared(other: str) -> int:
        parts = zip(name.split("."), other.split("."), strict=False)
        return next((i for i, (a, b) in enumerate(parts) if a != b), 99)

    alike = [(shared(other), parameter) for other, sort, parameter in known if sort == wanted]
    alike = alike or [(shared(other), parameter) for other, _, parameter in known]
    return max(alike, key=lambda pair: pair[0])[1]


def check_in_step(host: nn.Module, optimizer: torch.optim.Optimizer | None, ema: nn.Module | None) -> None:
    """Raise a GhostkitError unless what goes along with ``host`` can be kept in step with it."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise GhostkitError(
            "LBFGS keeps one flat state of all parameters, which growth cannot follow; expected an optimizer whose "
            "state is shaped like each parameter (SGD, Adam, AdamW, ...)"
        )
    if ema is None:
        return
    own, others = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (host, ema))
    for name in own | others:
        if own.get(name) != others.get(name):
            raise GhostkitError(
                f"the ema has {name!r} of shape {others.get(name)}, the model of {own.get(name)}; expected a copy of "
                "the model that every event so far was given, too"
            )


@contextmanager
def transaction(
    host: nn.Module, optimizer: torch.optim.Optimizer | None = None, ema: nn.Module | None = None
) -> Iterator[None]:
    """Restore everything as it was if the block raises.

    Surgery gives tensors new contents and never writes into old ones, so remembering references is enough: this costs
    no copy of any weight.
    """
    remembered = [remember(module) for root in (host, ema) if root is not None for module in root.modules()]
    if optimizer is not None:
        groups = [
            (group[name], list(group[name]))
            for group in optimizer.param_groups
            for name in ("params", "param_names")
            if name in group
        ]
        param_groups = optimizer.param_groups
        states = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    try:
        yield
    except BaseException:
        for module, attributes, tables, contents in remembered:
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)
            for table, entries in tables:
                table.clear()
                table.update(entries)
            for parameter, data, gradient, learned in contents:
                if parameter.data.shape != data.shape:
                    refill(parameter, data)
                parameter.data = data
                parameter.grad = gradient
                parameter.requires_grad_(learned)
        if optimizer is not None:
            for listed, members in groups:
                listed[:] = members
            optimizer.param_groups = param_groups
            optimizer.state.clear()
            optimizer.state.update(states)
        raise


Contents = list[tuple[nn.Parameter, Tensor, Tensor | None, bool]]


def remember(
    module: nn.Module,
) -> tuple[nn.Module, dict[str, Any], list[tuple[dict, Mapping]], Contents]:
    """Return ``module`` with its attributes, its tables of parts, and what its parameters hold."""
    tables: list[tuple[dict, Mapping]] = [
        (table, dict(table)) for table in (module._parameters, module._buffers, module._modules)
    ]
    contents = [
        (parameter, parameter.data, parameter.grad, parameter.requires_grad)
        for parameter in module._parameters.values()
        if parameter is not None
    ]
    return module, dict(module.__dict__), tables, contents


def renew(host: nn.Module) -> None:
    """Give every tensor of ``host`` contents of its own, so that those which a transaction remembers are left alone."""
    for parameter in host.parameters():
        parameter.data = parameter.data.clone()
    copies = {id(buffer): buffer.clone() for buffer in host.buffers()}
    for module in host.modules():
        module._buffers.update({name: copies.get(id(buffer)) for name, buffer in module._buffers.items()})


def measure_fresh_statistics(host: nn.Module, fresh: Mapping[str, Tensor], probe: Tensor) -> None:
    """Set the BN statistics of fresh channels to what they are on the probe batch.

    One pass in eval mode; each BN is measured just before it acts, so that a later one already sees the earlier one's
    measured output.

    Args:
        host: the network.
        fresh: path of each BN to the (C,) mask of its fresh channels.
        probe: images (B, C, H, W).
    """

    def set_statistics(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            values = x.numel() // x.shape[1]
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=min(1, values - 1))
            for running, measured in ((layer.running_mean, mean), (layer.running_var, variance)):
                cast(Tensor, running)[mask] = measured[mask].to(cast(Tensor, running).dtype)

        return hook

    handles = []
    for path, mask in fresh.items():
        layer = host.get_submodule(path)
        if layer.running_mean is not None and bool(mask.any()):
            handles.append(layer.register_forward_pre_hook(set_statistics(mask.to(probe.device))))
    try:
        if handles:
            with evaluating(host):
                host(probe)
    finally:
        for handle in handles:
            handle.remove()
