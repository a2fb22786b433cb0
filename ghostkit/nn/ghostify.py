"""Ghost modules in the place of ordinary convolutions, in anybody's network.

Only the convolution is replaced: the ghost module that takes its place is *bare*, its primary convolution is like the
one before (kernel, stride, padding, dilation, bias) with fewer outputs, and the host's own BN and activation follow its
concatenated maps, as in the paper's Ghost-ResNet. What the new weights start from is decided elsewhere.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

from torch import nn
from torchvision.models.resnet import ResNet
from torchvision.ops import SqueezeExcitation

from ghostkit.errors import GhostkitError
from ghostkit.nn.ghost import GhostModule, SqueezeExcite
from ghostkit.nn.links import Stage, link_place

__all__ = ["Choice", "choices", "ghost_of", "ghosted"]

# What a layer lies in when its channels are gates and not features.
GATES = (SqueezeExcite, SqueezeExcitation)


@dataclass(frozen=True)
class Choice:
    """What becomes of one convolution.

    Args:
        path: of the convolution.
        layer: the convolution in words.
        why: the reason why it is left alone; empty where a ghost module takes its place.
    """

    path: str
    layer: str
    why: str = ""


def ghosted(model: nn.Module, ratio: int = 2, cheap_kernel: int = 3, keep: Collection[str] = ()) -> nn.Module:
    """Return a copy of ``model`` with ghost modules in the place of its convolutions, and with stages for its rows.

    With ``ratio=1`` the modules have no ghost maps yet and take over the weights: the same function, able to grow.
    Otherwise their weights are random, drawn as torchvision's ResNets and MobileNets draw theirs.

    Args:
        model: the network.
        ratio: the paper's *s*.
        cheap_kernel: the paper's *d*, in pixels.
        keep: paths of layers to leave alone, with all that they hold; ``*`` stands for anything.

    Raises:
        GhostkitError: if an argument is out of range, ``keep`` names nothing, or no convolution is left to replace.
    """
    chosen = choices(model, ratio, cheap_kernel, keep)
    new = copy.deepcopy(model)
    for choice in chosen:
        if choice.why:
            continue
        conv = cast(nn.Conv2d, new.get_submodule(choice.path))
        module = ghost_of(conv, ratio, cheap_kernel).to(conv.weight)
        if ratio == 1:
            module.primary.load_state_dict(conv.state_dict())
        module.train(conv.training)
        replace(new, choice.path, module)
    if not any(isinstance(layer, GhostModule) for layer in new.modules()):
        reasons = "; ".join(f"{choice.path}: {choice.why}" for choice in chosen) or "it has no convolution"
        raise GhostkitError(f"nothing in {type(model).__name__} could become a ghost module: {reasons}")
    for path, row in [(path, row) for path, row in new.named_modules() if type(row) is nn.Sequential and path]:
        if any(link_place(block) is not None for block in row):
            replace(new, path, Stage(OrderedDict(row.named_children())).train(row.training))
    return new


def replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put ``layer`` at ``path``, and wherever else the layer there is used."""
    old = model.get_submodule(path)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = layer


def ghost_of(conv: nn.Conv2d, ratio: int, cheap_kernel: int) -> GhostModule:
    """Return a bare ghost module with random weights that reads and puts out what ``conv`` does.

    Args:
        conv: a dense convolution.
        ratio: the paper's *s*.
        cheap_kernel: the paper's *d*, in pixels.
    """
    module = GhostModule(
        conv.in_channels,
        conv.out_channels,
        ratio=ratio,
        cheap_kernel=cheap_kernel,
        activation=nn.Identity,
        bare=True,
        bias=conv.bias is not None,
    )
    module.primary_conv[0] = nn.Conv2d(
        conv.in_channels,
        module.intrinsic_channels,
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        cast(tuple[int, int], conv.dilation),
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    for layer in (module.primary, *(operation.conv for _, operation in module.operations())):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def choices(model: nn.Module, ratio: int, cheap_kernel: int, keep: Collection[str] = ()) -> list[Choice]:
    """Return what becomes of each convolution of ``model``, in the order in which it holds them.

    Args:
        model, ratio, cheap_kernel, keep: as for :func:`ghosted`.

    Raises:
        GhostkitError: if an argument is out of range, or ``keep`` names nothing.
    """
    whole = type(ratio) is int and type(cheap_kernel) is int
    if not whole or ratio < 1 or cheap_kernel < 1 or cheap_kernel % 2 == 0:
        raise GhostkitError(
            f"ghostify(ratio={ratio!r}, cheap_kernel={cheap_kernel!r}): ratio must be a whole number from 1 on, the "
            "kernel odd"
        )
    if isinstance(keep, str):
        raise GhostkitError(f"ghostify(keep={keep!r}): expected several paths, as in keep=[{keep!r}]")
    paths = [path for path, _ in model.named_modules() if path]
    for pattern in keep:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise GhostkitError(
                f"ghostify(keep={list(keep)!r}): no layer of {type(model).__name__} is called {pattern!r}"
            )
    if isinstance(model, ResNet) and any(is_grouped(layer) for layer in model.modules()):
        raise GhostkitError(
            "this ResNet is a ResNeXt: its width lies in grouped convolutions, whose groups no single new channel fits "
            "and which are as cheap as what a ghost module would put in their place; give a ResNet or a Wide ResNet"
        )
    layers = list(convolutions(model))
    ends = ends_of(model, [path for path, _ in layers])
    return [Choice(path, words(conv), reason(model, path, conv, ratio, keep, ends)) for path, conv in layers]


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield the convolutions that do not belong to a ghost module already."""
    ghosts = tuple(f"{path}." for path, layer in model.named_modules() if isinstance(layer, GhostModule))
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and path and not path.startswith(ghosts):
            yield path, layer


def ends_of(model: nn.Module, paths: list[str]) -> dict[str, str]:
    """Return why the first and the last convolution stay, by path."""
    ends = {paths[0]: "the stem: it reads the images"} if paths else {}
    linear = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear and len(paths) > 1:
        ends[paths[-1]] = "the last layer: it makes the output"
    return ends


def reason(
    model: nn.Module, path: str, conv: nn.Conv2d, ratio: int, keep: Collection[str], ends: dict[str, str]
) -> str:
    """Return why a convolution is left alone; nothing where it is not."""
    above = [".".join(path.split(".")[:length]) for length in range(1, path.count(".") + 2)]
    kept = next((pattern for pattern in keep if any(fnmatchcase(place, pattern) for place in above)), None)
    reasons: list[tuple[bool, Callable[[], str]]] = [
        (kept is not None, lambda: f"keep names {kept!r}"),
        (path in ends, lambda: ends[path]),
        (type(conv) is not nn.Conv2d, lambda: f"a {type(conv).__name__} may do more than convolve"),
        (conv.groups == conv.in_channels > 1, lambda: "depthwise: it is cheap already"),
        (conv.groups > 1, lambda: f"grouped ({conv.groups} groups): a ghost module's primary convolution is dense"),
        (any(isinstance(model.get_submodule(place), GATES) for place in above), lambda: "a gate, and no features"),
        (conv.out_channels < 2 * ratio and ratio > 1, lambda: f"only {conv.out_channels} channels to share out"),
    ]
    return next((why() for applies, why in reasons if applies), "")


def is_grouped(layer: nn.Module) -> bool:
    """Return whether ``layer`` is a convolution of several groups with several channels each."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def words(conv: nn.Conv2d) -> str:
    """Return a convolution in words: ``3x3, 64 to 128, stride 2``."""
    stride = f", stride {conv.stride[0]}" if max(conv.stride) > 1 else ""
    return f"{'x'.join(map(str, conv.kernel_size))}, {conv.in_channels} to {conv.out_channels}{stride}"
