"""Evaluating what is finished: a run, a checkpoint, or a file of published weights, on images that it has not seen.

A run is evaluated as it evaluated itself, by its data layer. Published weights are evaluated as published: the shorter
side scaled to 256 pixels, the central 224 x 224, ImageNet's mean and deviation. ImageNet fits into no memory, so such
images are streamed from a folder per class. Nothing is trained here, and nothing is written.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ghostkit.config import RunConfig
from ghostkit.costs import macs
from ghostkit.data.catalog import FOLDER, find_home
from ghostkit.data.fingerprint import fingerprint
from ghostkit.data.folders import ImageFiles, files_by_class, parts_of, reason, upright
from ghostkit.data.loading import ImageData
from ghostkit.data.loading import load as load_data
from ghostkit.data.splits import Split, batches
from ghostkit.devices import as_taken, fix_threads, make_fabric
from ghostkit.errors import GhostkitError
from ghostkit.exporting import is_run, read_network
from ghostkit.growth.history import history_of
from ghostkit.run_folder import data_changes
from ghostkit.runs import Run
from ghostkit.tasks import TASKS, classification

__all__ = ["PARAMETERS", "Evaluation", "evaluate"]

# What a command line may set: defaults of the kinds that are expected; "" and None leave the choice to the source.
PARAMETERS: dict[str, Any] = {
    **{"data": "", "model": "", "root": "", "batch_size": 64, "image_size": None, "resize": None},
    **{"mean": None, "std": None, "interpolation": "", "samples": None, "device": "auto"},
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which the published networks were trained with
IMAGE_SIZE, CROP = 224, 0.875  # px; share of the scaled image's shorter side that is looked at
# The authors scale bilinearly, which gave the published 73.98 %; timm's configuration of the same weights says bicubic.
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos")
STREAMED = ("imagenet", "imagenette")  # data sets by name with a folder per class in `val`
WORKERS = 4
NAMED = 5  # classes that an error names
SHOWN = {  # what a metric is called in a report
    **{"accuracy": "top-1", "accuracy_top5": "top-5"},
    **{"map50": "mAP50", "map": "mAP", "map75": "mAP75", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"},
}


@dataclass(frozen=True)
class Evaluation:
    """How well a finished network does.

    Args:
        source: the run, the checkpoint or the file of weights.
        data: what it was evaluated on.
        metrics: of a classifier ``accuracy`` (top-1) and ``accuracy_top5``, of a detector ``map50``, ``map`` and
            ``map75``, of a segmenter ``miou`` and ``pixel_accuracy``; all 0 to 1.
        loss: mean loss, in nats.
        images: how many there were.
        seconds: how long it took, reading included.
    """

    source: str
    data: str
    metrics: dict[str, float]
    loss: float
    images: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of images whose most likely class is right (top-1), of a classifier."""
        return self.metrics["accuracy"]

    @property
    def accuracy_top5(self) -> float:
        """Share of images whose class is among the five most likely, of a classifier."""
        return self.metrics["accuracy_top5"]

    def __str__(self) -> str:
        width = max(len(SHOWN[name]) for name in self.metrics)
        width = max(width, len("images"))
        shares = [f"{SHOWN[name]:<{width}}  {100 * value:.2f} %" for name, value in self.metrics.items()]
        return "\n".join([*shares, f"{'loss':<{width}}  {self.loss:.4f}", f"{'images':<{width}}  {self.images:,}"])


class Images(NamedTuple):
    """What a network is evaluated on: its name, how many images and classes, and the batches."""

    name: str
    total: int
    classes: int
    batches: Iterator[tuple[Tensor, Tensor]]


def evaluate(
    source: str | Path,
    data: str | None = None,
    *,
    model: str | None = None,
    root: str | Path | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    samples: int | None = None,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Return how well a finished network classifies, detects or segments.

    Args:
        source: the folder of a run or of a checkpoint, or a safetensors file of published weights. Weights get streamed
            images, scaled and cropped. So does a checkpoint if one of ``image_size``, ``resize`` and ``interpolation``
            is given; otherwise it and a run get test images as the data layer makes them.
        data: a name from :func:`ghostkit.data.sources`, or ``folder:PATH``; a run's own when None. Others must
            have the classes of the run, in the same order. Where images are streamed, PATH holds a folder per class,
            or parts as the data layer knows them, of which the test images are taken (or those of ``val`` alone); the
            sorted names of the folders are the classes.
        model: name of the network that the weights belong to; what the file's name contains when None.
        root: the folder that holds the data sets; what the run says, or the usual one, when None.
        batch_size: images per batch.
        image_size: side of the central square that is looked at, in pixels; 224 when None.
        resize: shorter side of the scaled image, in pixels; when None, ``image_size`` is 0.875 of it.
        mean: per channel, on pixels scaled to 0..1. When None: of the images that a run was trained on; ImageNet's
            where images are streamed; of the data's training images otherwise.
        std: likewise.
        interpolation: how images are scaled; bilinear, as in the authors' evaluation, when None.
        samples: evaluate so many images only, spread evenly; all when None.
        device: as in :class:`ghostkit.RunConfig`.
        progress: show a bar with images per second on standard error.

    Raises:
        GhostkitError: if an argument does not fit, or an image cannot be read; the message names it.

    >>> evaluate("ghostnet_100.safetensors", "folder:imagenet/val").accuracy
    """
    sizes = {"batch_size": batch_size, "image_size": image_size, "resize": resize, "samples": samples}
    for name, value in sizes.items():
        if value is not None and (type(value) is not int or value < 1):
            raise GhostkitError(f"{name} is {value!r}, expected a whole number, at least 1")
    require_statistics(mean, std)
    source, place = Path(source), make_fabric(RunConfig(device=device)).device
    network, run = read_network(source, model), Run(source) if is_run(source) else None
    recipe = history_of(network).recipe or {}
    task = str(recipe.get("task", "classification"))
    if not data and run is None:
        raise GhostkitError(f"{str(source)!r} does not say what to evaluate it on; give data, such as folder:PATH")
    if source.is_file() or image_size or resize or interpolation:
        if run is not None:
            raise GhostkitError(
                f"{str(source)!r} is a run, which knows its images; leave image_size, resize and interpolation out"
            )
        if task != "classification":
            raise GhostkitError(
                f"{str(source)!r} is a network for {task}, which takes whole images with what is known of them; leave "
                "image_size, resize and interpolation out"
            )
        size = image_size or IMAGE_SIZE
        read = Reader(size, resize or round(size / CROP), interpolation or "bilinear", mean or MEAN, std or STD)
        images = streamed(str(data), root, read, batch_size, samples)
    else:
        split, found = held(network, run, data or "", root, mean, std, samples)
        passed = batches(split, batch_size, shuffle=False)
        images = Images(found.name, len(split), len(found.classes), passed)
    known = recipe.get("num_classes", images.classes)
    if known != images.classes:
        raise GhostkitError(
            f"{images.name!r} has {images.classes} classes, but the network in {str(source)!r} tells {known} apart; "
            "expected one for each of its outputs"
        )
    if task != "classification":
        return measured_whole(network.to(place), images, source, task, progress)
    return measured(network.to(place), images, source, run.config if run else RunConfig(), progress)


def require_statistics(mean: Any, std: Any) -> None:
    """Raise an error if one that is given is no list of finite numbers, or a deviation is not positive."""
    for name, values in {"mean": mean, "std": std}.items():
        if values is None:
            continue
        listed = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
        if not listed or not values or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            kind = "positive number" if name == "std" else "number"
            raise GhostkitError(f"{name} is {values!r}, expected a list with a {kind} per channel")


def measured_whole(network: nn.Module, images: Images, source: Path, task: str, progress: bool) -> Evaluation:
    """Return the scores of a detector or segmenter, which no sum over batches gives."""
    started = time.perf_counter()
    seen = torch.empty(0)
    with tqdm(total=images.total, unit=" images", desc=source.name, disable=not progress) as bar:

        def counted() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal seen
            for seen, targets in images.batches:
                taken = as_taken(seen, network)
                yield taken, targets.to(taken.device)
                bar.update(len(seen))

        try:
            scores = TASKS[task].evaluate(network, counted(), images.classes)
        except RuntimeError as error:
            raise not_taken(source, images, seen, error) from None
    seconds = time.perf_counter() - started
    return Evaluation(str(source), images.name, scores.metrics(), scores.loss, images.total, seconds)


def measured(network: nn.Module, images: Images, source: Path, config: RunConfig, progress: bool) -> Evaluation:
    """Return the scores over all batches, of which no logits are kept: those of ImageNet would take gigabytes."""
    started, top1, top5, loss = time.perf_counter(), 0, 0, 0.0
    with tqdm(total=images.total, unit=" images", desc=source.name, disable=not progress) as bar, ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        for number, (pixels, targets) in enumerate(images.batches):
            taken, size = as_taken(pixels, network), len(targets)
            try:
                if number == 0:
                    fix_threads(config, taken.device, lambda: size * macs(network, taken))  # noqa: B023
                scores = classification.evaluate(network, [(taken, targets.to(taken.device))], images.classes)
            except RuntimeError as error:  # such as another number of channels
                raise not_taken(source, images, pixels, error) from None
            top1 += round(scores.accuracy * size)
            top5 += round(scores.accuracy_top5 * size)
            loss += scores.loss * size
            bar.update(size)
    n, seconds = images.total, time.perf_counter() - started
    shares = {"accuracy": top1 / n, "accuracy_top5": top5 / n}
    return Evaluation(str(source), images.name, shares, loss / n, n, seconds)


def not_taken(source: Path, images: Images, pixels: Tensor, error: Exception) -> GhostkitError:
    """Return an error that says which images (B, C, H, W) the network does not take, and why."""
    shape = f"{' x '.join(map(str, pixels.shape[1:]))}: {reason(error)}"
    return GhostkitError(f"{str(source)!r} cannot take the images of {images.name!r}, {shape}")


def held(
    network: nn.Module, run: Run | None, data: str, root: str | Path | None, mean: Any, std: Any, samples: Any
) -> tuple[Split, ImageData]:
    """Return test images as the data layer makes them: those of a run, or ``data`` at the size grown on."""
    own, shape = None, history_of(network).image
    task = (history_of(network).recipe or {}).get("task", "classification")
    if run is not None and not (data and mean and std):
        of, place = run.config, root or run.config.data_root
        own = load_data(
            of.data,
            place,
            task=task,
            train_samples=of.train_samples,
            test_samples=of.test_samples,
            validation_samples=of.validation_samples,
            size=of.size,
        )
        if not data and (changed := data_changes(run.folder, of.data, fingerprint(own))):
            warnings.warn(changed, stacklevel=3)
    found = load_data(data, root, task=task, size=shape[1] if shape else None) if data or own is None else own
    if shape and shape != (found.channels, found.height, found.width):
        made = f"{found.channels} x {found.height} x {found.width}"
        raise GhostkitError(
            f"{found.name!r} has images of {made}, but the network grew on {' x '.join(map(str, shape))}"
        )
    for name, values in {"mean": mean, "std": std}.items():
        if values is not None and len(values) != found.channels:
            raise GhostkitError(
                f"{name} is {values!r}, expected {found.channels} number(s): one for each channel of {found.name!r}"
            )
    trained, split = own or found, found.test
    require_same_classes(trained, found)
    order = spread(len(split), samples)
    chosen: Any = split.source.at(order.tolist()) if isinstance(split.source, ImageFiles) else split.source[order]
    return Split(chosen, split.labels[order], tuple(mean or trained.mean), tuple(std or trained.std), task), found


def require_same_classes(trained: ImageData, found: ImageData) -> None:
    """Raise an error that quotes both where a class of ``found`` has another name than the network learned it by.

    Capitals are no difference of their own, but sort a folder to another place. Other numbers of classes are for the
    network to refuse.
    """
    pairs = list(zip(trained.classes, found.classes, strict=False))
    others = [pair for pair in pairs if pair[0].casefold() != pair[1].casefold()]
    if others and len(trained.classes) == len(found.classes):
        learned, seen = (", ".join(map(repr, names[:NAMED])) for names in zip(*others, strict=True))
        raise GhostkitError(
            f"{found.name!r} has {seen} where the network learned {learned} from {trained.name!r}; expected the same "
            "classes in the same order"
        )


def streamed(data: str, root: str | Path | None, read: Reader, batch_size: int, samples: int | None) -> Images:
    """Return the images of a folder per class, read from disk, scaled and cropped while they are evaluated."""
    from torch.utils.data import DataLoader

    if data in STREAMED:
        folder = find_home(data, root, download=False) / "val"
    elif data.startswith(FOLDER) and data != FOLDER:
        folder = Path(data.removeprefix(FOLDER)).expanduser()
    else:
        raise GhostkitError(
            f"data is {data!r}, expected folder:PATH with a folder per class, or {' or '.join(STREAMED)}"
        )
    try:
        if data not in STREAMED:
            folder = parts_of(folder)[1] or (folder / "val" if (folder / "val").is_dir() else folder)
        found = files_by_class(folder)
    except OSError as error:
        raise GhostkitError(
            f"{str(folder)!r} is no folder with a folder of images per class: {reason(error)}"
        ) from None
    pairs = [(file, label) for label, files in enumerate(found.values()) for file in files]
    if not pairs:
        raise GhostkitError(f"{str(folder)!r} holds no image in its {len(found)} folders, expected some in each")
    chosen: Any = [pairs[i] for i in spread(len(pairs), samples).tolist()]
    workers = min(WORKERS, os.cpu_count() or 1) if len(chosen) > batch_size else 0
    # A generator of its own: evaluating takes nothing from the global random state.
    options: Any = {"num_workers": workers, "collate_fn": partial(joined, read), "generator": torch.Generator()}
    loader = DataLoader(chosen, batch_size, **options)

    def whole() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, targets, broken in loader:
            if broken:
                raise GhostkitError(f"cannot read {', '.join(broken)}; repair or remove what is damaged")
            yield pixels, targets

    return Images(data, len(chosen), len(found), whole())


class Reader:
    """Reads an image file as published networks are evaluated: scaled, cropped, normalised.

    Args:
        size: side of the central square, in pixels.
        resize: shorter side before, in pixels.
        interpolation: one of ``INTERPOLATIONS``.
        mean: per channel, on pixels scaled to 0..1; one number makes images grey.
        std: likewise.

    Raises:
        GhostkitError: if the numbers do not fit together.
    """

    def __init__(self, size: int, resize: int, interpolation: str, mean: Sequence[float], std: Sequence[float]) -> None:
        from torchvision.transforms import v2

        if resize < size:
            raise GhostkitError(f"resize is {resize}, expected at least image_size, {size}")
        if interpolation not in INTERPOLATIONS:
            raise GhostkitError(f"unknown interpolation {interpolation!r}; known are {', '.join(INTERPOLATIONS)}")
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise GhostkitError(f"mean is {mean!r} and std {std!r}, expected one number each (grey), or three (RGB)")
        scale = v2.Resize(resize, v2.InterpolationMode(interpolation))
        normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        self.transform = v2.Compose([scale, v2.CenterCrop(size), v2.PILToTensor(), *normalise])
        self.mode = "L" if len(mean) == 1 else "RGB"

    def __call__(self, path: str) -> Tensor | str:
        """Return the image (C, size, size), or what is wrong with its file: a worker's exception loses its words."""
        try:
            with Image.open(path) as image:
                return self.transform(upright(image, self.mode))
        except Exception as error:  # decoders raise whatever they stumble on
            return f"{path!r} ({reason(error)})"


def joined(read: Reader, pairs: Sequence[tuple[str, int]]) -> tuple[Tensor, Tensor, list[str]]:
    """Return files and class numbers as a batch: (B, C, H, W), (B,), and what is wrong with files that are left out."""
    seen = [(read(file), label) for file, label in pairs]
    whole = [(image, label) for image, label in seen if isinstance(image, Tensor)]
    broken = [image for image, _ in seen if isinstance(image, str)]
    images = torch.stack([image for image, _ in whole]) if whole else torch.empty(0)
    return images, torch.tensor([label for _, label in whole]), broken


def spread(count: int, samples: int | None) -> Tensor:
    """Return the numbers of ``samples`` images of ``count``, spread evenly; all when None."""
    if samples is not None and samples > count:
        raise GhostkitError(f"samples is {samples}, but there are {count} images; expected 1 to that many")
    return torch.arange(samples or count) * count // (samples or count)
