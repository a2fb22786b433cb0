"""The edits: what one change at a site is, as plain data.

An edit is a frozen dataclass that JSON can hold. It may also carry tensors that its candidate found (a kernel, the
weights of a block), and the seed that its other weights were drawn by; these are not stored, and without them new
weights are drawn at random. What an edit does to a host is taken down by :func:`take_down`, whose cases live in
:mod:`ghostkit.growth.width` and :mod:`ghostkit.growth.depth`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import singledispatch
from operator import index
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.sites import Site
from ghostkit.growth.surgery import Surgery

__all__ = [
    "AddBlock",
    "AddBranch",
    "AddIntrinsic",
    "AddLink",
    "DeepenBranches",
    "Edit",
    "NarrowStage",
    "RemoveBlock",
    "RemoveBranch",
    "RemoveIntrinsic",
    "RemoveLayer",
    "RemoveLink",
    "WidenStage",
    "edit_from_json",
    "edit_to_json",
    "take_down",
]

WIDTH_INITS = ("svd", "gradmax", "random", "split")
LAYER_INITS = ("svd", "random")
BLOCK_INITS = ("random", "clone")
Tensors = Mapping[str, Tensor] | None


class Plain:
    """Holds plain numbers, whatever counted them, as a file can: NumPy's become Python's."""

    def __post_init__(self) -> None:
        for name, expected in ((f.name, f.type) for f in fields(self) if f.type in WHOLE):  # type: ignore[arg-type]
            value = getattr(self, name)
            try:
                plain = WHOLE[expected](value)
            except TypeError:
                raise GhostkitError(f"{type(self).__name__} has {name}={value!r:.60}; expected {expected}") from None
            object.__setattr__(self, name, plain)


WHOLE: dict[Any, Callable[[Any], Any]] = {
    "int": index,
    "int | None": lambda value: None if value is None else index(value),
    "tuple[int, ...]": lambda values: tuple(map(index, values)),
}


@dataclass(frozen=True)
class AddBranch(Plain):
    """One more parallel branch in a ghost module: width.

    Args:
        site: id of a width site.
        kernel_size: side of the new branch's depthwise convolution, odd, in pixels.
        init: how its weights start: ``"svd"``, ``"gradmax"``, ``"random"``, or ``"split"`` (copy one and share out what
            it feeds).
        tensors: ``{"rows": (intrinsic, 1, k, k)}``, where a candidate found them.
        seed: what all other weights are drawn by, so that what is grown is what was scored; None to draw them anew.
    """

    kind: ClassVar[str] = "branch"
    inits: ClassVar[tuple[str, ...]] = WIDTH_INITS

    site: str
    kernel_size: int = 3
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)
    seed: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddBranch({self.site}, {self.kernel_size}x{self.kernel_size})"


@dataclass(frozen=True)
class AddIntrinsic(Plain):
    """More intrinsic maps in a ghost module, and their ghosts: width.

    Args:
        site: id of a width site.
        channels: intrinsic maps to add.
        init: how their weights start: ``"svd"``, ``"gradmax"``, ``"random"`` or ``"split"``.
        tensors: ``{"rows": (channels, in_channels, k, k)}``, where a candidate found them.
        seed: what all other weights are drawn by, so that what is grown is what was scored; None to draw them anew.
    """

    kind: ClassVar[str] = "intrinsic"
    inits: ClassVar[tuple[str, ...]] = WIDTH_INITS

    site: str
    channels: int = 1
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)
    seed: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddIntrinsic({self.site}, +{self.channels})"


@dataclass(frozen=True)
class WidenStage(Plain):
    """More channels in a whole residual stream, in all that write into it and read from it: width.

    Args:
        site: id of a stream site.
        channels: channels to add; where ghost modules write into the stream, a multiple of their ratio.
        init: how their weights start: ``"svd"``, ``"gradmax"``, ``"random"`` or ``"split"``.
        tensors: path of each producer -> rows (new, in_channels, k, k) of its convolution, where found by a candidate.
        seed: what all other weights are drawn by, so that what is grown is what was scored; None to draw them anew.
    """

    kind: ClassVar[str] = "stage"
    inits: ClassVar[tuple[str, ...]] = WIDTH_INITS

    site: str
    channels: int = 2
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)
    seed: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"WidenStage({self.site}, +{self.channels})"


@dataclass(frozen=True)
class AddBlock(Plain):
    """One more residual block in a row of blocks: depth.

    Args:
        site: id of a depth site, the row.
        after: name of the block in the row that the new one stands behind.
        hidden: channels in the new block's middle; as many as the block before it has when None.
        init: how its weights start: ``"random"``, or ``"clone"`` (those of the block before it, where they fit).
        tensors: the new block's state dict, where a candidate scored it.
    """

    kind: ClassVar[str] = "block"
    inits: ClassVar[tuple[str, ...]] = BLOCK_INITS

    site: str
    after: str
    hidden: int | None = None
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"AddBlock({self.site}, after {self.after})"


@dataclass(frozen=True)
class DeepenBranches(Plain):
    """One more cheap residual layer over a ghost module's ghost maps: depth of the sub-modules.

    Args:
        site: id of a width site.
        kernel_size: side of the layer's depthwise convolution, odd, in pixels.
        init: how its weights start: ``"svd"`` or ``"random"``.
        tensors: ``{"rows": (ghosts, 1, k, k)}``, where a candidate found them.
    """

    kind: ClassVar[str] = "layer"
    inits: ClassVar[tuple[str, ...]] = LAYER_INITS

    site: str
    kernel_size: int = 3
    init: str = "random"
    tensors: Tensors = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"DeepenBranches({self.site}, {self.kernel_size}x{self.kernel_size})"


@dataclass(frozen=True)
class AddLink:
    """One cross-layer link between two ghost modules of a stage.

    Args:
        source: id of the width site whose pooled intrinsic maps are read.
        target: id of a later block's width site in the same stage, whose ghost maps are added to.
    """

    kind: ClassVar[str] = "link"
    inits: ClassVar[tuple[str, ...]] = ()

    source: str
    target: str

    @property
    def site(self) -> str:
        """The place that grows: the target."""
        return self.target

    def __str__(self) -> str:
        return f"AddLink({self.source} to {self.target})"


@dataclass(frozen=True)
class RemoveBranch(Plain):
    """One parallel branch less.

    Args:
        site: id of a width site.
        kernel_size: side of the branch's depthwise convolution, in pixels.
        branch: its number among the branches of that kernel size, from 0.
        out_channels: channels that the module puts out then, where ghost maps beyond them had been cut off before the
            edit that this one takes back; all that are left when None.
    """

    kind: ClassVar[str] = "remove branch"

    site: str
    kernel_size: int
    branch: int
    out_channels: int | None = None

    def __str__(self) -> str:
        return f"RemoveBranch({self.site}, {self.kernel_size}x{self.kernel_size} number {self.branch})"


@dataclass(frozen=True)
class RemoveIntrinsic(Plain):
    """Fewer intrinsic maps in a ghost module, and none of their ghosts.

    Args:
        site: id of a width site.
        maps: numbers of the intrinsic maps to remove, from 0.
        out_channels: channels that the module puts out then, where ghost maps beyond them had been cut off before the
            edit that this one takes back; all that are left when None.
    """

    kind: ClassVar[str] = "remove intrinsic"

    site: str
    maps: tuple[int, ...]
    out_channels: int | None = None

    def __str__(self) -> str:
        return f"RemoveIntrinsic({self.site}, {', '.join(map(str, self.maps))})"


@dataclass(frozen=True)
class NarrowStage(Plain):
    """Fewer channels in a whole residual stream.

    Args:
        site: id of a stream site.
        maps: numbers of the channels to remove, from 0; where ghost modules write into the stream, of the intrinsic
            maps among them, whose ghosts go along.
    """

    kind: ClassVar[str] = "narrow stage"

    site: str
    maps: tuple[int, ...]

    def __str__(self) -> str:
        return f"NarrowStage({self.site}, {', '.join(map(str, self.maps))})"


@dataclass(frozen=True)
class RemoveBlock:
    """One residual block less in a row of blocks.

    Args:
        site: id of a depth site, the row.
        block: name of the block.
    """

    kind: ClassVar[str] = "remove block"

    site: str
    block: str

    def __str__(self) -> str:
        return f"RemoveBlock({self.site}, {self.block})"


@dataclass(frozen=True)
class RemoveLayer:
    """One cheap residual layer less over a ghost module's ghost maps.

    Args:
        site: id of a width site.
        layer: name of the layer among the module's ``deeper_layers``.
    """

    kind: ClassVar[str] = "remove layer"

    site: str
    layer: str

    def __str__(self) -> str:
        return f"RemoveLayer({self.site}, {self.layer})"


@dataclass(frozen=True)
class RemoveLink:
    """One cross-layer link less.

    Args:
        source: id of the width site that is read.
        target: id of the width site that is added to.
    """

    kind: ClassVar[str] = "remove link"

    source: str
    target: str

    @property
    def site(self) -> str:
        """The place that changes: the target."""
        return self.target

    def __str__(self) -> str:
        return f"RemoveLink({self.source} to {self.target})"


Growth = AddBranch | AddIntrinsic | WidenStage | AddBlock | DeepenBranches | AddLink
Removal = RemoveBranch | RemoveIntrinsic | NarrowStage | RemoveBlock | RemoveLayer | RemoveLink
Edit = Growth | Removal
GROWTH: tuple[type[Growth], ...] = (AddBranch, AddIntrinsic, WidenStage, AddBlock, DeepenBranches, AddLink)
REMOVAL: tuple[type[Removal], ...] = (
    RemoveBranch,
    RemoveIntrinsic,
    NarrowStage,
    RemoveBlock,
    RemoveLayer,
    RemoveLink,
)
# The order in which several edits fit beside each other with the weights that their candidates found: layers before
# widths, since those who widen know what is deeper; links and streams last, since their weights fit what came before.
ORDER: tuple[type[Growth], ...] = (DeepenBranches, AddIntrinsic, AddBranch, AddBlock, AddLink, WidenStage)
EDITS: dict[str, type[Edit]] = {edit.__name__: edit for edit in (*GROWTH, *REMOVAL)}
KINDS: tuple[str, ...] = tuple(edit.kind for edit in GROWTH)
INITS: tuple[str, ...] = (*WIDTH_INITS, "clone")
# What an edit in a file may ask for, far above what anybody grows at once: a stranger's must not fill the memory.
MOST_CHANNELS = 4096
LARGEST_KERNEL = 31


def bare(edit: Edit) -> Edit:
    """Return ``edit`` without what its candidate found, as it is stored: a history holds no weights."""
    found: dict[str, Any] = {f.name: None for f in fields(edit) if not f.compare}
    return replace(edit, **found)


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """Return ``edit`` as plain data, without what its candidate found."""
    values = {f.name: getattr(edit, f.name) for f in fields(edit) if f.compare}
    return {"edit": type(edit).__name__, **values}


def edit_from_json(values: Mapping[str, Any]) -> Edit:
    """Return the edit that :func:`edit_to_json` wrote.

    Raises:
        GhostkitError: if the kind or an argument is unknown or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise GhostkitError(f"an edit in a history is {values!r:.60}; expected names and values")
    arguments = dict(values)
    name = arguments.pop("edit", None)
    if not isinstance(name, str) or name not in EDITS:
        raise GhostkitError(f"unknown edit {name!r}; known are {', '.join(EDITS)}")
    types = {f.name: f.type for f in fields(EDITS[name]) if f.compare}
    for key, value in arguments.items():
        expected = types.get(key, "no such argument")
        if expected == "tuple[int, ...]":
            if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
                raise GhostkitError(f"{name} in a history has {key}={value!r}; expected a list of whole numbers")
            arguments[key] = tuple(value)
        elif type(value).__name__ not in expected.replace("None", "NoneType").split(" | "):
            raise GhostkitError(f"{name} in a history has {key}={value!r:.60}; expected {expected}")
        elif type(value) is int and value > (most := LARGEST_KERNEL if key == "kernel_size" else MOST_CHANNELS):
            raise GhostkitError(f"{name} in a history has {key}={value}; expected {most} at most")
    try:
        return EDITS[name](**arguments)
    except TypeError as error:
        raise GhostkitError(f"{name} in a history: {error}") from None


@singledispatch
def take_down(edit: Edit, host: nn.Module, known: list[Site], generator: torch.Generator) -> Surgery:
    """Return the surgery that carries out ``edit`` on ``host``, which is not touched.

    Args:
        edit: the change.
        host: the network.
        known: its sites.
        generator: where new weights draw from.

    Raises:
        GhostkitError: if the site does not exist, or the edit does not fit it.
    """
    raise GhostkitError(f"{edit!r} is no edit; known are {', '.join(EDITS)}")


def check_init(edit: Growth) -> None:
    """Raise a GhostkitError unless the edit's init is one that its kind knows."""
    init = getattr(edit, "init", None)
    if edit.inits and init not in edit.inits:
        raise GhostkitError(f"{edit}: unknown init {init!r}; expected one of {', '.join(edit.inits)}")


def found_tensor(edit: Edit, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Return the tensor ``name`` that the edit carries, if any.

    Raises:
        GhostkitError: if it is of another shape.
    """
    tensors = getattr(edit, "tensors", None)
    if tensors is None or name not in tensors:
        return None
    rows = tensors[name]
    if tuple(rows.shape) != tuple(shape):
        raise GhostkitError(f"{edit} carries weights of shape {tuple(rows.shape)}, this site needs {tuple(shape)}")
    return rows
