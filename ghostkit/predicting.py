"""What a network makes of single images, beside the truth: the data behind pictures of predictions.

A prediction holds one image as bytes, what is in it, what was found and the loss of this image alone, all as numpy
arrays on the CPU. So pictures need no network, and a prediction outlives the one that made it. Nothing of the network
changes here: it is asked in eval mode, without gradients, and every module gets its own mode back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostkit.costs import evaluating
from ghostkit.data.loading import ImageData
from ghostkit.data.splits import Split
from ghostkit.devices import as_taken
from ghostkit.errors import GhostkitError
from ghostkit.tasks import TASKS
from ghostkit.tasks.detection import objects, total_loss
from ghostkit.tasks.segmentation import IGNORED

__all__ = ["IGNORED", "Prediction", "predict", "worst"]

BATCH = 64  # images of one forward at most


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image, what is in it, and what a network found.

    Args:
        number: index of the image in its split.
        image: the image as bytes, (H, W) or (H, W, 3).
        truth: for classification, the class number. For detection, rows x1, y1, x2, y2 (pixels) and class, (n, 5),
            without crowds. For segmentation, the class number of each pixel, (H, W), 255 where nothing is asked for.
        found: for classification, the probability of each class. For detection, rows x1, y1, x2, y2, class and score
            (0 to 1), (n, 6), the highest score first. For segmentation, the likeliest class of each pixel, (H, W).
        loss: of this image alone, in nats, without label smoothing.
    """

    number: int
    image: np.ndarray
    truth: Any
    found: np.ndarray
    loss: float


def predict(
    model: nn.Module, data: ImageData, task: str, indices: Sequence[int] | Tensor, split: str | None = None
) -> list[Prediction]:
    """Return what ``model`` makes of the images at ``indices``, in that order; the model is left as it was.

    Args:
        model: a classifier, detector or segmenter.
        data: what the images are from.
        task: what the model does, and what the labels of ``data`` are for.
        indices: numbers of the images in the split, from 0.
        split: ``"test"``, ``"train"`` or ``"validation"``; what runs on ``data`` are judged on when None.

    Raises:
        GhostkitError: if the task or the split is unknown, the labels are for another task, or there is no such image.

    >>> found = predict(model, data, "detection", range(6))  # doctest: +SKIP
    >>> views.show(views.predictions(found, data.classes, "detection"))  # doctest: +SKIP
    """
    part = _part(data, task, split)
    numbers = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices), dtype=torch.int64).flatten()
    outside = [number for number in numbers.tolist() if not 0 <= number < len(part)]
    if outside:
        what = split or data.judged_on
        raise GhostkitError(f"there is no {what} image {outside[0]} in {data.name!r}; expected 0 to {len(part) - 1}")
    return [found for some in numbers.split(BATCH) if len(some) for found in _batch(model, part, task, some)]


def worst(
    model: nn.Module, data: ImageData, task: str, count: int, among: int = 256, split: str | None = None
) -> list[Prediction]:
    """Return what ``model`` makes of the images that it does worst on, the highest loss first.

    Args:
        model: a classifier, detector or segmenter; it is left as it was.
        data: what the images are from.
        task: what the model does, and what the labels of ``data`` are for.
        count: how many to return at most.
        among: how many of the first images of the split are looked at.
        split: ``"test"``, ``"train"`` or ``"validation"``; what runs on ``data`` are judged on when None.

    Raises:
        GhostkitError: if a number is below 1, the task or the split is unknown, or the labels are for another task.
    """
    for name, value in {"count": count, "among": among}.items():
        if value < 1:
            raise GhostkitError(f"{name} is {value}, expected at least 1")
    found = predict(model, data, task, range(min(among, len(_part(data, task, split)))), split)
    # A loss that is no number is the worst there is.
    return sorted(found, key=lambda one: math.inf if math.isnan(one.loss) else one.loss, reverse=True)[:count]


def _part(data: ImageData, task: str, split: str | None) -> Split:
    if task not in TASKS:
        raise GhostkitError(f"unknown task {task!r}, expected one of {', '.join(TASKS)}")
    if task != data.task:
        raise GhostkitError(f"{data.name!r} was loaded for {data.task}, not for {task}; load it with task={task!r}")
    parts = {"test": data.test, "train": data.train, "validation": data.validation}
    part = parts.get(split or data.judged_on)
    if part is None:
        known = " or ".join(repr(name) for name, there in parts.items() if there is not None)
        raise GhostkitError(f"unknown split {split!r} of {data.name!r}, expected {known}")
    return part


class _Answers(NamedTuple):
    """Truth, what was found and the loss, a list each over the images of a batch."""

    truth: list[Any]
    found: list[np.ndarray]
    losses: list[float]


def _batch(model: nn.Module, part: Split, task: str, numbers: Tensor) -> list[Prediction]:
    """Return what ``model`` makes of a batch of images, in one forward pass."""
    pixels = part.pixels(numbers)
    images = as_taken(part.normalise(pixels), model)
    with evaluating(model):
        answers = _ANSWER[task](model, images, part.labels[numbers].to(images.device))
    shown = pixels.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    shown = shown[..., 0] if shown.shape[-1] == 1 else shown
    rows = zip(numbers.tolist(), shown, *answers, strict=True)
    return [Prediction(number, image.copy(), truth, found, loss) for number, image, truth, found, loss in rows]


def _classified(model: nn.Module, images: Tensor, targets: Tensor) -> _Answers:
    logits = model(images).float()  # (B, classes)
    losses = F.cross_entropy(logits, targets, reduction="none")
    return _Answers(targets.tolist(), list(logits.softmax(1).cpu().numpy()), losses.tolist())


def _segmented(model: nn.Module, images: Tensor, targets: Tensor) -> _Answers:
    logits, masks = model(images).float(), targets.long()  # (B, classes, H, W), (B, H, W)
    total = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none").sum((1, 2))
    losses = total / (masks != IGNORED).sum((1, 2)).clamp(min=1)
    found = logits.argmax(1).to(torch.uint8)
    return _Answers(list(targets.cpu().numpy()), list(found.cpu().numpy()), losses.tolist())


def _detected(model: Any, images: Tensor, targets: Tensor) -> _Answers:
    raw = model(images)  # tensors (B, places, ·)
    losses = [
        float(total_loss(model, {name: values[one] for name, values in raw.items()}, images[one], targets[one]))
        for one in (slice(number, number + 1) for number in range(len(images)))
    ]
    truth = [_rows(boxes["boxes"], boxes["labels"]) for boxes in objects(targets, crowds=False)]
    detections = model.detections(raw, images)
    found = [_rows(boxes["boxes"], boxes["labels"], boxes["scores"]) for boxes in detections]
    return _Answers(truth, [rows[np.argsort(-rows[:, 5], kind="stable")] for rows in found], losses)


def _rows(boxes: Tensor, *columns: Tensor) -> np.ndarray:
    return torch.cat([boxes.float(), *(column.float()[:, None] for column in columns)], dim=1).cpu().numpy()


_ANSWER: dict[str, Callable[[nn.Module, Tensor, Tensor], _Answers]] = {
    "classification": _classified,
    "detection": _detected,
    "segmentation": _segmented,
}
