"""Finished networks on their way out: read from where they are, and written for runtimes that know nothing of us.

What is to be written is checked first: it is read by what will run it, and must compute what the network computes, for
one image and for several. Only then is there a file.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostkit.checkpoint import load
from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.growth.blocks import copied
from ghostkit.growth.history import history_of
from ghostkit.nn.zoo import build, build_recipe, load_weights, names, published_names, read_weights
from ghostkit.runs import Run

__all__ = ["export", "image_shape_of", "is_run", "read_network"]

Forward = Callable[[Tensor], Tensor]
Write = Callable[[torch.export.ExportedProgram], bytes]
Read = Callable[[bytes], Forward]

LIMIT = 1e-4  # largest difference of an output, relative to the largest output: rounding stays far below
CHECKED = (1, 5)  # batch sizes; another than the traced one, which is 2


def export(model: nn.Module, path: str | Path, image_shape: tuple[int, ...]) -> float:
    """Write a network in eval mode for batches of any size, and return the largest difference of what was written.

    Args:
        model: the network; it is left as it was.
        path: ends in ``.onnx``, or in ``.pt2`` for :func:`torch.export.load`; replaced once its contents are checked.
        image_shape: (C, H, W) of its images.

    Returns:
        The largest difference between outputs of the file and of the network, relative to the largest output.

    Raises:
        GhostkitError: if the ending is another, a package is missing, the network cannot be traced or does not take
            such images, what would be written computes something else, or the file cannot be written.

    >>> export(model, "model.onnx", (3, 224, 224)) < 1e-4
    True
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise GhostkitError(f"cannot export to {str(path)!r}; expected a file that ends in {' or '.join(FORMATS)}")
    if len(image_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in image_shape):
        raise GhostkitError(f"image_shape is {image_shape!r}, expected channels, height, width, as in (3, 224, 224)")
    write, read, packages = FORMATS[path.suffix]
    for package in packages:
        needed(package)
    twin = copied(model).cpu().eval()
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    images = torch.randn(max(CHECKED), *image_shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with torch.no_grad():
        expected = [outputs(twin, images[:count]) for count in CHECKED]
        data = write(traced(twin, images[:2]))
        again = read(data)
        pairs = zip(CHECKED, expected, strict=True)
        differences = [relative_difference(again(images[:count]), right) for count, right in pairs]
    difference = float(torch.tensor(differences, dtype=torch.float64).max())  # NaN if one is; max() may pass it over
    if not difference <= LIMIT:  # NaN is none of both
        raise GhostkitError(
            f"{str(path)!r} was not written: its outputs differ by {difference:.2g} of the largest from those of the "
            f"network, expected at most {LIMIT:g}"
        )
    write_atomically(path, data)
    return difference


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs of ``model``, or say that it does not take such images."""
    shape = " x ".join(map(str, images.shape[1:]))
    try:
        found = model(images)
    except RuntimeError as error:
        raise GhostkitError(f"the network does not take images of {shape}: {one_line(error)}") from None
    if not isinstance(found, Tensor):
        raise GhostkitError(f"the network returns {type(found).__name__}, expected one tensor, such as logits")
    return found


def traced(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Return ``model`` as a graph for any number of images."""
    try:
        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # whatever in the network's own Python cannot be traced
        raise GhostkitError(
            f"{type(model).__name__} cannot be traced for batches of any size: {one_line(error)}"
        ) from None


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value of ``expected``."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))


def one_line(error: Exception) -> str:
    """Return the beginning of what another library says."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]} ..."


# The formats


def to_onnx(program: torch.export.ExportedProgram) -> bytes:
    """Return a graph as ONNX, its weights inside, with inputs ``images`` and outputs ``logits``."""
    names: Any = {"input_names": ["images"], "output_names": ["logits"]}
    made = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert made is not None
    return made.model_proto.SerializeToString()


def from_onnx(data: bytes) -> Forward:
    """Return the network in an ONNX file, run by onnxruntime."""
    runtime = needed("onnxruntime")
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each of its codes
        raise GhostkitError(
            f"onnxruntime does not take this network: {one_line(error)}. A .pt2 file holds every precision"
        ) from None
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def to_archive(program: torch.export.ExportedProgram) -> bytes:
    """Return a graph as PyTorch's own archive."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def from_archive(data: bytes) -> Forward:
    """Return the network in a PyTorch archive."""
    return torch.export.load(io.BytesIO(data)).module()


# ending -> (what makes the file, what reads it, the packages that this takes)
FORMATS: dict[str, tuple[Write, Read, tuple[str, ...]]] = {
    ".onnx": (to_onnx, from_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": (to_archive, from_archive, ()),
}


def needed(package: str) -> Any:
    """Return a package that the extra ``export`` brings.

    Raises:
        GhostkitError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise GhostkitError(f"ONNX needs {package}: {error}; pip install 'ghostkit[export]'") from None


# Where networks come from


def image_shape_of(model: nn.Module) -> tuple[int, ...]:
    """Return the shape (C, H, W) of the images that a network was grown on.

    Raises:
        GhostkitError: if its history does not say.
    """
    shape = history_of(model).image
    if shape is None:
        raise GhostkitError("this network's history does not say for which images it is; give --image, as in 3x224x224")
    return shape


def is_run(source: Path) -> bool:
    """Return whether ``source`` is the folder of a run."""
    return (source / "config.json").is_file()


@torch.random.fork_rng(devices=[])  # weights are drawn before they are read, which is nobody's business
def read_network(source: str | Path, model: str | None = None) -> nn.Module:
    """Return the network of a run (its moving average, where it keeps one), of a checkpoint, or with published weights.

    Args:
        source: as for :func:`evaluate`.
        model: name of the network that weights belong to; what the file's name contains when None.

    Raises:
        GhostkitError: if there is none, or the weights are not those of the network.
    """
    source = Path(source)
    if source.is_dir():
        if model:
            raise GhostkitError(f"model={model!r}, but {str(source)!r} is a folder and knows its network; leave it out")
        if is_run(source):
            return Run(source).model()
        if (source / "manifest.json").is_file():
            return load(source)
        raise GhostkitError(f"{str(source)!r} holds neither a run (config.json) nor a checkpoint (manifest.json)")
    if not source.is_file():
        raise GhostkitError(f"{str(source)!r} is not there; expected a run's or a checkpoint's folder, or weights")
    if not model:
        text = source.name.lower().replace("-", "_")
        model = max((name for name in names() if name in text), key=len, default="")
    if not model:
        raise GhostkitError(f"{source.name!r} contains no name of a network; give model, one of {', '.join(names())}")
    if model not in names():
        build(model)  # says what is known, before a large file is read
    state = published_names(read_weights(source))
    head, stem = state.get("classifier.weight"), state.get("conv_stem.weight")
    if head is None or head.dim() != 2 or stem is None or stem.dim() != 4:
        raise GhostkitError(
            f"the weights in {str(source)!r} do not fit {model!r}: no classifier.weight, conv_stem.weight"
        )
    network = build_recipe({"name": model, "num_classes": len(head), "in_channels": stem.shape[1]})
    load_weights(network, state, source, model)
    return network
