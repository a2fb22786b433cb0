"""Looks into a network without changing it: its feature maps, how alike they are, and what a part of it is worth.

Everything here works by hooks that are gone afterwards, in eval mode and without gradients; weights, buffers and modes
stay as they are. A part that is switched off stays where it is: a block passes its shortcut on and nothing else, and a
branch gives zeros at the place where its maps are put beside the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.resnet import BasicBlock, Bottleneck

from ghostkit.architecture import outermost
from ghostkit.costs import evaluating
from ghostkit.devices import as_taken
from ghostkit.errors import GhostkitError
from ghostkit.growth.blocks import is_block, is_residual
from ghostkit.nn.ghost import GhostBottleneck, GhostModule
from ghostkit.nn.links import links_of

__all__ = ["Part", "feature_maps", "importance", "layers", "parts", "shortcut_of", "similarity", "switched_off"]

Shortcut = Callable[[Tensor], Tensor]


# Feature maps


def layers(model: nn.Module) -> list[str]:
    """Return the paths of the ghost modules of ``model``, in the order in which it holds them."""
    return [path for path, layer in model.named_modules() if isinstance(layer, GhostModule)]


def feature_maps(model: nn.Module, layer: str, images: Tensor) -> tuple[np.ndarray, int]:
    """Return what one ghost module puts out, and how many of the maps, the first ones, are intrinsic.

    Args:
        model: the network; it is left as it was.
        layer: path of a ghost module, one of :func:`layers`.
        images: a batch (B, C, H, W), normalised as those that the network was trained on.

    Returns:
        Maps (B, C', H', W'), and the number of intrinsic maps among the C'.

    Raises:
        GhostkitError: if there is no such ghost module, or no image passes it.
    """
    module = _ghost_module(model, layer)
    (maps,) = _outputs(model, [module], images)
    return maps.float().cpu().numpy(), min(module.intrinsic_channels, maps.shape[1])


def similarity(model: nn.Module, layer: str, images: Tensor) -> pd.DataFrame:
    """Return how alike the intrinsic maps and the maps of each branch are: linear CKA, 0 to 1.

    Every place of every image is an example and every map a feature, so 1 says that one group of maps is a rotation
    and scaling of the other, place by place. Ghost maps count as the branch made them, also where the module cuts
    some of them off. Maps that are the same everywhere are like nothing: NaN.

    Args:
        model: the network; it is left as it was.
        layer: path of a ghost module, one of :func:`layers`.
        images: a batch (B, C, H, W); a few dozen images give steady numbers.

    Returns:
        A square frame; rows and columns are ``"intrinsic"`` and each branch, such as ``"3x3 number 0"``.

    Raises:
        GhostkitError: if there is no such ghost module, or no image passes it.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, arXiv 1905.00414, eq. 4.
    """
    module = _ghost_module(model, layer)
    deeper = module.deeper_layers
    made = [deeper] if len(deeper) else [operation for _, operation in module.operations()]
    intrinsic, *ghosts = _outputs(model, [module.primary_conv, *made], images)
    groups = {"intrinsic": intrinsic}
    if ghosts:
        every = torch.cat(ghosts, dim=1)
        groups |= {f"{side}x{side} number {n}": every[:, where] for side, n, where in _branches(module)}
    rows = {name: _examples(maps) for name, maps in groups.items()}
    values = [[_alike(one, other) for other in rows.values()] for one in rows.values()]
    return pd.DataFrame(values, index=list(rows), columns=list(rows))


def _examples(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) as centred examples (B H W, C)."""
    rows = maps.double().permute(0, 2, 3, 1).flatten(0, 2)
    return rows - rows.mean(0)


def _alike(one: Tensor, other: Tensor) -> float:
    """Return the linear CKA of centred examples (n, C) and (n, C')."""
    sizes = float((one.T @ one).norm() * (other.T @ other).norm())
    return float((one.T @ other).norm() ** 2) / sizes if sizes > 0 else float("nan")


def _ghost_module(model: nn.Module, layer: str) -> GhostModule:
    found = dict(model.named_modules()).get(layer)
    if not isinstance(found, GhostModule):
        listed = ", ".join(layers(model)) or "none"
        raise GhostkitError(f"no ghost module {layer!r} in this network; its ghost modules are {listed}")
    return found


def _branches(module: GhostModule) -> Iterator[tuple[int, int, slice]]:
    """Yield the branches: kernel side, number among those of that side, and where its maps lie among all ghosts."""
    start = 0
    for _, operation in module.operations():
        stop = start + operation.ghosts
        for number in range(operation.branches):  # channels are group-major: a map's branches lie side by side
            yield operation.kernel_size, number, slice(start + number, stop, operation.branches)
        start = stop


def _outputs(model: nn.Module, modules: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """Return what each of ``modules`` puts out when ``images`` pass ``model``."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[module] = output.clone()  # the host's own activation may be in place

    with _hooked([module.register_forward_hook(keep) for module in modules]), evaluating(model):
        model(as_taken(images, model))
    if len(found) < len(modules):
        raise GhostkitError("no image passes this ghost module: the network's forward does not call it")
    return [found[module] for module in modules]


@contextmanager
def _hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# Switching parts off


@dataclass(frozen=True)
class Part:
    """What can be switched off: a block, or one branch of a ghost module.

    Args:
        kind: ``"block"`` or ``"branch"``.
        path: of the block, or of the ghost module.
        kernel_size: of a branch, the side of its kernels in pixels.
        branch: its number among the branches of that kernel size, from 0.
    """

    kind: Literal["block", "branch"]
    path: str
    kernel_size: int = 0
    branch: int = 0

    @property
    def label(self) -> str:
        """What it is in words: ``block blocks.1.g1``, or ``branch 3x3 number 0 of blocks.0.0.ghost1``."""
        if self.kind == "block":
            return f"block {self.path}"
        return f"branch {self.kernel_size}x{self.kernel_size} number {self.branch} of {self.path}"


@singledispatch
def shortcut_of(block: nn.Module) -> Shortcut | None:
    """Return what ``block`` makes of its input when it adds nothing to it; None if it has no shortcut.

    What :func:`ghostkit.growth.blocks.is_residual` holds for is known already. For a block with a projection for its
    shortcut, register one::

        @shortcut_of.register
        def _(block: MyBlock):
            return block.projection
    """
    return _input if is_residual(block) else None


def _input(x: Tensor) -> Tensor:
    return x


@shortcut_of.register
def _(block: GhostBottleneck) -> Shortcut:
    return block.shortcut


@shortcut_of.register(BasicBlock)
@shortcut_of.register(Bottleneck)
def _(block: BasicBlock | Bottleneck) -> Shortcut:
    return lambda x: F.relu(x if block.downsample is None else block.downsample(x))


def parts(model: nn.Module) -> list[Part]:
    """Return what can be switched off in ``model``: first its blocks that have a shortcut, then all single branches.

    Args:
        model: the network.
    """
    blocks = [
        Part("block", path)
        for path, block in outermost(model)
        if is_block(block) and shortcut_of(block) is not None  # a ghost module outside of blocks is none
    ]
    branches = [
        Part("branch", path, side, number)
        for path in layers(model)
        for side, number, _ in _branches(cast(GhostModule, model.get_submodule(path)))
    ]
    return [*blocks, *branches]


@contextmanager
def switched_off(model: nn.Module, part: Part) -> Iterator[None]:
    """Leave ``part`` of ``model`` out as long as the context lasts; a network is to be evaluated so, and not trained.

    Of a block the shortcut alone remains, and what is linked to it hears nothing of it. A branch gives zeros; in a
    ghostified host, whose own BN follows, these become what that BN makes of zeros.

    Args:
        model: the network; it is as it was when the context ends.
        part: one of :func:`parts`.

    Raises:
        GhostkitError: if the network has no such part.
    """
    if part not in parts(model):
        listed = ", ".join(known.label for known in parts(model)) or "nothing"
        raise GhostkitError(f"{part.label} cannot be switched off in this network; what can be is {listed}")
    hooks = _block_hooks(model, part) if part.kind == "block" else _branch_hooks(model, part)
    with _hooked([module.register_forward_hook(hook) for module, hook in hooks]):
        yield


def _block_hooks(model: nn.Module, part: Part) -> Iterator[tuple[nn.Module, Any]]:
    block = model.get_submodule(part.path)
    row, _, name = part.path.rpartition(".")
    yield block, lambda block, inputs, _output: cast(Shortcut, shortcut_of(block))(inputs[0])
    for other in model.get_submodule(row).children():
        links = links_of(other)
        if name in links:
            yield links[name], lambda _link, inputs, _output: inputs[1]  # the target, as it was before the link


def _branch_hooks(model: nn.Module, part: Part) -> Iterator[tuple[nn.Module, Any]]:
    module = cast(GhostModule, model.get_submodule(part.path))
    where = next(
        where for side, number, where in _branches(module) if (side, number) == (part.kernel_size, part.branch)
    )
    if len(module.deeper_layers):  # over all ghost maps, each for itself; the last place before they are put together
        yield module.deeper_layers, partial(_without, where)
        return
    start = 0
    for _, operation in module.operations():
        if start <= where.start < start + operation.ghosts:
            yield operation, partial(_without, slice(where.start - start, operation.ghosts, where.step))
        start += operation.ghosts


def _without(where: slice, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Return maps (B, C, H, W) with zeros in the channels ``where``."""
    left = output.clone()
    left[:, where] = 0
    return left


def importance(
    model: nn.Module, images: Tensor, targets: Tensor, loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
) -> pd.DataFrame:
    """Return what each block is worth to ``model``: by how much the loss of a batch rises when it is switched off.

    Args:
        model: the network; it is left as it was.
        images: a batch (B, C, H, W).
        targets: what ``loss`` takes.
        loss: ``loss(model, images, targets)`` gives the batch's mean loss, as ``ghostkit.tasks`` has it.

    Returns:
        A frame with the columns block and importance (nats), one row a block that can be switched off, in network
        order.
    """
    blocks = [part for part in parts(model) if part.kind == "block"]
    with evaluating(model):
        whole = float(loss(model, images, targets))
        rises = []
        for part in blocks:
            with switched_off(model, part):
                rises.append(float(loss(model, images, targets)) - whole)
    return pd.DataFrame({"block": [part.path for part in blocks], "importance": rises})
