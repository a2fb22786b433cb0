"""The networks that can be asked for by name, and their published weights.

A variant is a line of numbers over one class. What :func:`build` returns remembers its *recipe* (name and arguments) as
plain data, from which a checkpoint rebuilds it.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import detectors, segmenters
from ghostkit.nn.bounds import outlining
from ghostkit.nn.ghost import GhostModule
from ghostkit.nn.ghostnet import SEEDLING_STAGES, GhostNet
from ghostkit.nn.hybrids import ghost_mobilenet_v2, ghost_mobilenet_v3, ghost_resnet
from ghostkit.reading import MOST_BYTES, UNFITTING, checked_plain, file_bytes

__all__ = ["build", "build_recipe", "names", "read_weights"]

# MobileNetV3's table 1 and 2: input channels, kernel, hidden and output channels, SE, activation, stride.
MOBILENET_V3_LARGE = (
    *((16, 3, 16, 16, False, "RE", 1), (16, 3, 64, 24, False, "RE", 2), (24, 3, 72, 24, False, "RE", 1)),
    *((24, 5, 72, 40, True, "RE", 2), (40, 5, 120, 40, True, "RE", 1), (40, 5, 120, 40, True, "RE", 1)),
    *((40, 3, 240, 80, False, "HS", 2), (80, 3, 200, 80, False, "HS", 1), (80, 3, 184, 80, False, "HS", 1)),
    *((80, 3, 184, 80, False, "HS", 1), (80, 3, 480, 112, True, "HS", 1), (112, 3, 672, 112, True, "HS", 1)),
    *((112, 5, 672, 160, True, "HS", 2), (160, 5, 960, 160, True, "HS", 1), (160, 5, 960, 160, True, "HS", 1)),
)
MOBILENET_V3_SMALL = (
    *((16, 3, 16, 16, True, "RE", 2), (16, 3, 72, 24, False, "RE", 2), (24, 3, 88, 24, False, "RE", 1)),
    *((24, 5, 96, 40, True, "HS", 2), (40, 5, 240, 40, True, "HS", 1), (40, 5, 240, 40, True, "HS", 1)),
    *((40, 5, 120, 48, True, "HS", 1), (48, 5, 144, 48, True, "HS", 1), (48, 5, 288, 96, True, "HS", 2)),
    *((96, 5, 576, 96, True, "HS", 1), (96, 5, 576, 96, True, "HS", 1)),
)
VECTOR = 16  # numbers of 32 bits in the widest vector, of AVX-512
CIFAR = {"block": "basic", "width": 16, "small_images": True}

# name -> (class, the numbers of the variant)
VARIANTS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "ghostnet_050": (GhostNet, {"width": 0.5}),
    "ghostnet_100": (GhostNet, {"width": 1.0}),
    "ghostnet_130": (GhostNet, {"width": 1.3}),
    "ghostnetv2_100": (GhostNet, {"width": 1.0, "version": 2}),
    "ghostnetv2_130": (GhostNet, {"width": 1.3, "version": 2}),
    "ghostnetv2_160": (GhostNet, {"width": 1.6, "version": 2}),
    "ghost_resnet18": (ghost_resnet, {"block": "basic", "layers": (2, 2, 2, 2)}),
    "ghost_resnet34": (ghost_resnet, {"block": "basic", "layers": (3, 4, 6, 3)}),
    "ghost_resnet50": (ghost_resnet, {"block": "bottleneck", "layers": (3, 4, 6, 3)}),
    "ghost_resnet101": (ghost_resnet, {"block": "bottleneck", "layers": (3, 4, 23, 3)}),
    "ghost_resnet152": (ghost_resnet, {"block": "bottleneck", "layers": (3, 8, 36, 3)}),
    "ghost_resnet20": (ghost_resnet, {**CIFAR, "layers": (3, 3, 3)}),
    "ghost_resnet56": (ghost_resnet, {**CIFAR, "layers": (9, 9, 9)}),
    "ghost_mobilenet_v2": (ghost_mobilenet_v2, {}),
    "ghost_mobilenet_v3_large": (ghost_mobilenet_v3, {"rows": MOBILENET_V3_LARGE, "last_channels": 1280}),
    "ghost_mobilenet_v3_small": (ghost_mobilenet_v3, {"rows": MOBILENET_V3_SMALL, "last_channels": 1024}),
    "seedling": (
        GhostNet,
        {
            "stages": SEEDLING_STAGES,
            "stem_channels": 4,
            "stem_stride": 1,
            "neck_channels": 8,
            "head_channels": 0,
            "dropout": 0.0,
        },
    ),
}

# task -> (what puts a head on a host, the heads there are, the default first)
HEADED: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "detection": (detectors.detector, detectors.HEADS),
    "segmentation": (segmenters.segmenter, segmenters.HEADS),
}

# What a message tells the owner of a pickle to type, with two files behind it; ghostkit itself never runs it. Trainers
# nest their state dicts, and safetensors wants each tensor in the plain layout and in memory of its own.
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; a, b = sys.argv[1:]; '
    "d = torch.load(a, 'cpu', weights_only=True); d = d.get('state_dict', d.get('model', d)); "
    's.save_file({k: v.contiguous().clone() for k, v in d.items()}, b)"'
)


def names() -> list[str]:
    """Return the names that :func:`build` knows."""
    return list(VARIANTS)


def build(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    weights: str | Path | None = None,
    *,
    task: str = "classification",
    head: str | None = None,
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Return the network called ``name``, ready to train and to grow, its weights channels-last where that is safe.

    Args:
        name: one of :func:`names`, such as ``"seedling"`` or ``"ghostnet_100"``.
        num_classes: classes of the classifier.
        in_channels: channels of the images.
        weights: safetensors file of published weights, loaded strictly; a hybrid also takes those of the plain
            torchvision network, for its plain parts (and with ``ratio=1`` for all of it). A detector or segmenter takes
            those of the classifier, for its backbone.
        task: ``"classification"``, or ``"detection"`` or ``"segmentation"``, which put a head on the network's stages.
        head: of detection ``"fcos"`` or ``"retinanet"``, of segmentation ``"lraspp"`` or ``"deeplabv3"``; the first of
            them when None.
        head_options: further arguments of :func:`ghostkit.nn.detectors.detector` or
            :func:`ghostkit.nn.segmenters.segmenter`.
        **options: further arguments of the network's class; they override the variant's own numbers.

    Raises:
        GhostkitError: if the name or an option is unknown, a number is out of range, or the weights do not fit.

    >>> build("seedling", num_classes=10, in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise GhostkitError(f"unknown model {name!r}; {hint}known are {', '.join(VARIANTS)}")
    for argument, value in {"num_classes": num_classes, "in_channels": in_channels}.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise GhostkitError(f"build({name!r}, {argument}={value!r}): expected a whole number, at least 1")
    make, numbers = VARIANTS[name]
    if task not in HEADED and (task != "classification" or head is not None or head_options):
        raise GhostkitError(
            f"build(task={task!r}, head={head!r}, head_options={head_options!r}): expected task='classification' "
            f"without a head, or one of {', '.join(HEADED)}"
        )
    arguments = {**numbers, "num_classes": num_classes, "in_channels": in_channels, **options}
    try:
        model = make(**arguments)
    except (TypeError, ValueError) as error:
        raise GhostkitError(
            f"build({name!r}, {', '.join(f'{k}={v!r}' for k, v in options.items())}): {error}"
        ) from None
    if weights is not None:
        state = published_names(read_weights(weights))
        load_weights(model, state if task == "classification" else with_own_head(model, state), weights, name)
    # The variant's own numbers are written down as well: a stored network must not change when a variant does.
    recipe = {"name": name, **arguments}
    if task in HEADED:
        choices = {"head": head or HEADED[task][1][0], **(head_options or {})}
        try:
            model = HEADED[task][0](model, num_classes, in_channels, **choices)
        except TypeError as error:
            raise GhostkitError(f"build({name!r}, task={task!r}, head_options={head_options!r}): {error}") from None
        recipe |= {"task": task, "head": choices.pop("head"), "head_options": choices}
    object.__setattr__(model, "recipe", recipe)  # plain data, no part of the network
    return model.to(memory_format=layout_for(model))


def layout_for(model: nn.Module) -> torch.memory_format:
    """Return how the weights of a network should lie in memory: channels-last is faster for depthwise layers and BN.

    Where a strided 1x1 convolution reads fewer channels than a vector of the processor holds, the plain layout: its
    weight's gradient, as PyTorch 2.14 computes it by oneDNN in channels-last, is written beyond its memory.
    """
    strided = (
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1
    )
    safe = all(layer.in_channels >= VECTOR for layer in strided)
    return torch.channels_last if safe else torch.contiguous_format


def build_recipe(recipe: Mapping[str, Any]) -> nn.Module:
    """Return the network of a recipe that a file holds, which may be anybody's.

    Args:
        recipe: the name and arguments of :func:`build`, as plain data; without weights, which lie elsewhere.

    Raises:
        GhostkitError: if it is no recipe, or one of a network that fills the memory.
    """
    shown = f"the recipe {dict(recipe)!r:.200}"
    if "weights" in recipe or not isinstance(recipe.get("name"), str):
        raise GhostkitError(f"{shown} is none that ghostkit writes: expected the name of a network, and no weights")
    try:
        checked_plain(dict(recipe))
        with outlining():
            build(**recipe)
        return build(**recipe)
    except GhostkitError as error:
        raise GhostkitError(f"{shown}: {error}") from None
    except UNFITTING as error:
        raise GhostkitError(f"{shown} does not fit: {type(error).__name__}: {error}"[:1000]) from None


def with_own_head(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with the classifier that ``model`` has, where its own is one for other classes."""
    known, path = model.state_dict(), head_of(model)
    own = {key: known[key] for key in state if key.rpartition(".")[0] == path and key in known}
    if all(state[key].shape == value.shape for key, value in own.items()):
        return dict(state)
    return {**state, **own}


def head_of(model: nn.Module) -> str | None:
    """Return the path of the classifier: the last linear layer."""
    return next((path for path, layer in reversed([*model.named_modules()]) if isinstance(layer, nn.Linear)), None)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path, name: str) -> None:
    """Load ``state`` strictly into ``model``, or that of the plain network into the plain parts of its hybrid.

    Args:
        model: the network.
        state: its state dict, or that of the network that it was before its convolutions became ghost modules.
        source: where that was read, for the message.
        name: what the network is called, for the message.

    Raises:
        GhostkitError: if the tensors are not those of the network.
    """
    try:
        model.load_state_dict(with_ghosts(model, state), strict=True)
    except UNFITTING as error:
        raise GhostkitError(f"the weights in {str(source)!r} do not fit {name!r}: {error}") from None


def with_ghosts(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the ``state`` of a plain network with what ``model`` has in the places of its convolutions.

    A dense weight goes into a module that has no ghost maps; any other module keeps its own weights. A state that knows
    of ghost modules is left as it is.
    """
    own = model.state_dict()
    ghosts = {path: layer for path, layer in model.named_modules() if isinstance(layer, GhostModule) and layer.bare}
    if not any(f"{path}.weight" in state for path in ghosts):
        return state
    plain = dict(state)
    for path in ghosts:
        dense = {f"{path}.primary_conv.0.{leaf}": plain.pop(f"{path}.{leaf}", None) for leaf in ("weight", "bias")}
        for key in [key for key in own if key.startswith(f"{path}.")]:
            weight = dense.get(key)
            plain[key] = own[key] if weight is None or weight.shape != own[key].shape else weight
    return plain


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of the safetensors file at ``path``; a file of another ending is never opened.

    Raises:
        GhostkitError: if the file is missing or broken, or is no ``.safetensors`` file; it then says how to make one.
    """
    path = Path(path)
    try:
        if path.suffix.lower() != ".safetensors" and path.is_file():
            files = shlex.join([str(path), str(path.with_suffix(".safetensors"))])
            raise GhostkitError(
                f"{str(path)!r} was not opened: expected a .safetensors file; weights in any other are a pickle, which "
                f"can run code, and which ghostkit never opens. If you trust it, convert it once: {CONVERT} {files}"
            )
        # Its user names it, and caches of weights are full of links.
        return parse_tensors(file_bytes(path, MOST_BYTES, links=True))
    except (OSError, SafetensorError, *UNFITTING) as error:
        raise GhostkitError(f"cannot read weights from {str(path)!r}: {error}") from None


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` without profilers' ``total_ops`` and ``total_params`` keys or a ``module.`` prefix."""
    return {
        key.removeprefix("module."): value
        for key, value in state.items()
        if key.rpartition(".")[2] not in ("total_ops", "total_params")
    }
