"""Segmentation: cross-entropy of every pixel; mean and per-class IoU, pixel accuracy. Pixels of class 255 do not count.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015, section 4.2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ghostkit.costs import evaluating
from ghostkit.tasks.task import Batches, Task, one_tensor

__all__ = ["IGNORED", "SEGMENTATION", "Scores", "evaluate", "pixel_cross_entropy"]

IGNORED = 255


@dataclass(frozen=True)
class Scores:
    """How well a segmenter does on a split.

    Args:
        loss: mean cross-entropy of a pixel, in nats, without label smoothing.
        miou: mean IoU of the classes that are there, in truth or in prediction, 0 to 1.
        pixel_accuracy: share of pixels whose most likely class is right, 0 to 1.
        iou: IoU of each class; NaN of one that is not there.
        confusion: (classes, classes) counts of pixels, a row for each true class.
    """

    loss: float
    miou: float
    pixel_accuracy: float
    iou: tuple[float, ...]
    confusion: Tensor

    def metrics(self) -> dict[str, float]:
        """Return mIoU and pixel accuracy."""
        return {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy}

    def details(self) -> dict[str, Any]:
        """Return the IoU of each class, None of one that is not there."""
        return {"iou": [None if value != value else value for value in self.iou]}


def pixel_cross_entropy(label_smoothing: float = 0.0) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the loss of segmentation: ``loss(model, images, masks)`` -> mean cross-entropy of a pixel, in nats.

    Masks (B, H, W) hold class numbers, and 255 where nothing is asked for.
    """

    def loss(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
        logits, masks = model(images), masks.long()
        total = F.cross_entropy(logits, masks, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
        return total / (masks != IGNORED).sum().clamp(min=1)  # a batch may hold ignored pixels only

    return loss


def evaluate(model: nn.Module, batches: Batches, classes: int) -> Scores:
    """Return the scores of ``model`` over ``batches``; the model is left as it was.

    Args:
        model: a segmenter.
        batches: images (B, C, H, W) and masks (B, H, W).
        classes: number of classes.
    """
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    total, pixels = 0.0, 0
    with evaluating(model):
        for images, masks in batches:
            logits, masks = model(images).float(), masks.long()
            total += float(F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum"))
            pixels += int((masks != IGNORED).sum())
            confusion += multiclass_confusion_matrix(
                logits.argmax(1), masks, classes, ignore_index=IGNORED, validate_args=False
            ).cpu()
    right = confusion.diagonal().double()
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)  # 0 / 0 is the NaN of a class that is not there
    return Scores(
        loss=total / max(pixels, 1),
        miou=float(iou.nanmean().nan_to_num()),
        pixel_accuracy=float(right.sum() / max(pixels, 1)),
        iou=tuple(iou.tolist()),
        confusion=confusion,
    )


def mistaken(output: Any, images: Tensor, classes: int) -> str | None:
    """Return what was expected of ``output`` instead; None if it is right."""
    shape = (len(images), classes, *images.shape[-2:])
    return one_tensor(output, shape, "a number for each class of each pixel")


SEGMENTATION = Task("segmentation", pixel_cross_entropy, evaluate, mistaken)
