"""Networks for use: a copy in which every BN has gone into the convolution before it.

In eval mode a BN scales and shifts each channel by constants, which the weights and the bias of the convolution before
it can do as well. The copy keeps its classes, forwards and paths; the BN's place is empty, or an identity where the
host's own forward calls it. Weights lie channels last, as convolutions on a CPU read them fastest. What remains exact
only with a BN keeps it: a convolution used twice, a BN behind an addition, and a BN behind the concatenated maps of a
bare ghost module, whose intrinsic half would have to be scaled after the cheap convolutions have read it.

Nothing is taken on trust: the copy is compared with the original before it is handed out.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from ghostkit.costs import evaluating
from ghostkit.devices import as_taken
from ghostkit.errors import GhostkitError
from ghostkit.growth.blocks import copied
from ghostkit.growth.history import History
from ghostkit.growth.tracing import trace
from ghostkit.nn.ghost import CheapLayer, GhostModule

__all__ = ["deploy"]

IMAGES, SIDE = 2, 64  # of the random images, where nothing says how large they are
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest output; half precision gets HALF
HALF = 0.02
ROUNDING = 10  # the copy may be as many times as far from the exact outputs as the original's rounding takes that
DROPOUTS = {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout}
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def deploy(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Return a copy of ``model`` for use: in eval mode, without dropout, hooks or history, every BN folded that can be.

    The copy computes what the original computes in eval mode, which is checked. It cannot grow any more: its attribute
    ``deployed`` says so.

    Args:
        model: the network; it is left as it was.
        example: images (B, C, H, W) to compare the two on; random ones by default, of the shape that the history
            notes, or else 64 pixels wide with the channels of the first convolution.

    Raises:
        GhostkitError: if the network cannot be traced, does not accept the images, or the copy computes anything else
            than it; the message names the difference.

    Source: Jacob et al., Quantization and Training of Neural Networks, arXiv 1712.05877, section 3.2.

    >>> deployed = ghostkit.deploy(ghostkit.build("ghostnet_100"))
    >>> any(isinstance(layer, torch.nn.BatchNorm2d) for layer in deployed.modules())
    False
    """
    probe = random_images(model) if example is None else as_taken(example, model)
    expected = outputs(model, probe)  # before it is copied: this brings up to date what hooks compute, as weight norm's
    new = stripped(model)
    for name in ("growth_history", "recipe"):  # both describe the training form
        vars(new).pop(name, None)
    for module in list(new.modules()):
        if isinstance(module, GhostModule):
            fold_ghost_module(module)
    fold_traced(new)
    lay_out(new, torch.channels_last)
    try:
        found = outputs(new, probe)
    except GhostkitError:  # some forwards view maps as if they lay channels first
        lay_out(new, torch.contiguous_format)
        found = outputs(new, probe)
    check_equal(model, probe, expected, found)
    object.__setattr__(new, "deployed", True)
    return new


def stripped(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in eval mode without dropout, hooks and gradients."""
    new = copied(model).eval().requires_grad_(False)
    for module in list(new.modules()):
        for hooks in HOOKS:
            getattr(module, hooks).clear()
        for name, child in module._modules.items():
            if type(child) in DROPOUTS:
                module._modules[name] = nn.Identity().eval()
    for parameter in new.parameters():
        parameter.grad = None
    return new


def random_images(model: nn.Module) -> Tensor:
    """Return random images (2, C, H, W) for ``model``, the same ones every time."""
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not convs:
        raise GhostkitError(f"{type(model).__name__} has no convolution that says what its images are; give an example")
    shape = getattr(model, "growth_history", History()).image or (convs[0].in_channels, SIDE, SIDE)
    return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0)).to(convs[0].weight)


# Folding


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution that computes ``bn(conv(x))``."""
    mean, variance = (cast(Tensor, buffer).cpu().double() for buffer in (bn.running_mean, bn.running_var))
    scale = (variance + bn.eps).rsqrt()
    shift = -mean * scale
    if bn.affine:
        gamma, beta = bn.weight.detach().cpu().double(), bn.bias.detach().cpu().double()
        scale, shift = scale * gamma, shift * gamma + beta
    if conv.bias is not None:
        shift = shift + scale * conv.bias.detach().cpu().double()
    weight = conv.weight.detach().cpu().double() * scale[:, None, None, None]
    return convolving(conv, weight, shift)


def folded_layer(layer: CheapLayer) -> nn.Conv2d:
    """Return a depthwise convolution that computes ``g + bn(conv(g))``: the sum is one more weight at the centre."""
    conv = folded(layer.conv, layer.bn)
    side = conv.kernel_size[0] // 2
    weight = conv.weight.detach().clone()
    weight[:, :, side, side] += 1
    return convolving(conv, weight, cast(Tensor, conv.bias).detach())


def convolving(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution ``like`` another one, with weights and a bias of its own."""
    conv = copy.deepcopy(like)
    conv.weight = nn.Parameter(weight.to(like.weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.weight), requires_grad=False)
    return conv


def foldable(conv: nn.Module | None, bn: nn.Module | None) -> bool:
    """Return whether ``bn``, called on the output of ``conv`` alone, can be folded into it."""
    return (
        type(conv) is nn.Conv2d
        and type(bn) is nn.BatchNorm2d
        and bn.running_mean is not None  # else it normalises by the batch, in eval mode as well
        and bn.num_features == conv.out_channels
    )


def fold_ghost_module(module: GhostModule) -> None:
    """Fold the BNs inside one ghost module."""
    rows = [module.primary_conv, *(operation for _, operation in module.operations())]
    if module.attention:
        rows.append(module.short_conv)
    for row in rows:
        fold_row(row)
    for name, layer in module.deeper_layers.named_children():
        if type(layer) is CheapLayer and foldable(layer.conv, layer.bn):
            module.deeper_layers._modules[name] = folded_layer(layer)


def fold_row(row: nn.Sequential) -> None:
    """Fold the BNs of a row of layers that nothing but the row calls, and take out what computes nothing."""
    before = None  # name of the convolution that the next layer reads
    for name, layer in list(row._modules.items()):
        if before is not None and foldable(row._modules[before], layer):
            row._modules[before] = folded(cast(nn.Conv2d, row._modules[before]), cast(nn.BatchNorm2d, layer))
            del row._modules[name]
        elif type(layer) is nn.Identity:
            del row._modules[name]
        else:
            before = name


def fold_traced(host: nn.Module) -> None:
    """Fold each BN of ``host`` that a trace finds behind a convolution, or a ghost module that is no more than one."""
    graph = trace(host)
    modules = dict(host.named_modules())
    # What lies inside a layer that the trace does not look into, or is read without being called, has other users.
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    kept = {id(part) for path in calls for part in modules[path].modules() if part is not modules[path]}
    read = (str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")
    kept |= {id(modules[path]) for path in read if path in modules}
    for node in graph.nodes:
        made = made_by(node)
        if made is None:
            continue
        layer, bn = modules[str(made.target)], modules[str(node.target)]
        once = calls[str(made.target)] == calls[str(node.target)] == len(made.users) == 1
        if not once or id(layer) in kept or id(bn) in kept:
            continue
        if isinstance(layer, GhostModule) and is_one_convolution(layer) and foldable(layer.primary, bn):
            layer.primary_conv[0] = folded(layer.primary, cast(nn.BatchNorm2d, bn))
        elif foldable(layer, bn):
            replace(host, layer, folded(cast(nn.Conv2d, layer), cast(nn.BatchNorm2d, bn)))
        else:
            continue
        replace(host, bn, nn.Identity().eval())


def made_by(node: fx.Node) -> fx.Node | None:
    """Return the call of a layer that ``node``, a call of another layer, reads; None if it reads anything else."""
    if node.op != "call_module" or node.kwargs or len(node.args) != 1:
        return None
    made = node.args[0]
    return made if isinstance(made, fx.Node) and made.op == "call_module" else None


def is_one_convolution(module: GhostModule) -> bool:
    """Return whether a ghost module, folded inside, is its primary convolution and nothing else."""
    return not module.ghosts and not module.attention and len(module.primary_conv) == 1


def replace(host: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``host`` holds ``old``."""
    for parent in list(host.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def lay_out(host: nn.Module, memory_format: torch.memory_format) -> None:
    """Let the weights of all convolutions of ``host`` lie in memory as ``memory_format`` says."""
    for layer in host.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)


# Comparing


def outputs(host: nn.Module, images: Tensor) -> list[Tensor]:
    """Return all tensors that ``host`` puts out for ``images``, in eval mode; leave the host as it was."""
    try:
        with evaluating(host):
            found = list(tensors(host(images)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise GhostkitError(
            f"{type(host).__name__} does not accept images of shape {tuple(images.shape)}: {error}. Give an example "
            "that it accepts"
        ) from error
    if not found:
        raise GhostkitError(f"{type(host).__name__} puts out no tensor, so a copy cannot be compared with it")
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in ``value``, a tensor or a container of some."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def check_equal(model: nn.Module, images: Tensor, expected: list[Tensor], found: list[Tensor]) -> None:
    """Raise a GhostkitError that names the difference if the copy of ``model`` found anything else than expected.

    Where they differ by more than the tolerance, both are compared with what the original puts out in double precision:
    some networks amplify their own rounding beyond it.
    """
    shapes = [[tuple(tensor.shape) for tensor in listed] for listed in (expected, found)]
    if shapes[0] != shapes[1]:
        raise GhostkitError(f"the copy of {type(model).__name__} puts out {shapes[1]} instead of {shapes[0]}")
    exact: list[Tensor] | None = None
    for number, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        tolerance, largest, difference = TOLERANCE.get(wanted.dtype, HALF), largest_of(wanted), apart(got, wanted)
        if difference <= tolerance * largest:
            continue
        exact = exact or outputs(copied(model).double(), images.double())
        if not apart(got, exact[number]) <= ROUNDING * apart(wanted, exact[number]):  # so written, NaN is a difference
            raise GhostkitError(
                f"the deployed copy of {type(model).__name__} differs from the original by {difference:.3g} where "
                f"outputs reach {largest:.3g} (output {number}, tolerance {tolerance:g}), which is no rounding. "
                "Are outputs random or not finite in eval mode, or changed by hooks, which the copy lacks?"
            )


def largest_of(values: Tensor) -> float:
    """Return the largest absolute value, 0 of none."""
    return float(values.abs().max()) if values.numel() else 0.0


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference between two tensors, whatever their precision."""
    return largest_of(found.double() - expected.double())
