"""Classification: cross-entropy; top-1 and top-5 accuracy, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from ghostkit.costs import evaluating
from ghostkit.tasks.task import Batches, Task, one_tensor

__all__ = ["CLASSIFICATION", "Scores", "cross_entropy", "evaluate"]


@dataclass(frozen=True)
class Scores:
    """How well a classifier does on a split.

    Args:
        loss: mean cross-entropy, in nats, without label smoothing.
        accuracy: share of images whose most likely class is right, 0 to 1.
        accuracy_top5: share of images whose class is among the five most likely.
        confusion: (classes, classes) counts, a row for each true class.
    """

    loss: float
    accuracy: float
    accuracy_top5: float
    confusion: Tensor

    def metrics(self) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": self.accuracy}

    def details(self) -> dict[str, Any]:
        """Return the top-5 accuracy."""
        return {"accuracy_top5": self.accuracy_top5}


def cross_entropy(label_smoothing: float = 0.0) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the loss of classification: ``loss(model, images, targets)`` -> mean cross-entropy, in nats."""

    def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(images), targets, label_smoothing=label_smoothing)

    return loss


def evaluate(model: nn.Module, batches: Batches, classes: int) -> Scores:
    """Return the scores of ``model`` over ``batches``; the model is left as it was.

    Args:
        model: a classifier.
        batches: images (B, C, H, W) and class numbers (B,).
        classes: number of classes.
    """
    logits, labels = [], []
    with evaluating(model):
        for images, targets in batches:
            logits.append(model(images).float())
            labels.append(targets)
    scores, truth = torch.cat(logits), torch.cat(labels)
    return Scores(
        loss=float(F.cross_entropy(scores, truth)),
        accuracy=float(multiclass_accuracy(scores, truth, classes, average="micro", validate_args=False)),
        accuracy_top5=float(
            multiclass_accuracy(scores, truth, classes, average="micro", top_k=min(5, classes), validate_args=False)
        ),
        confusion=multiclass_confusion_matrix(scores, truth, classes, validate_args=False).cpu(),
    )


CLASSIFICATION = Task(
    "classification",
    cross_entropy,
    evaluate,
    lambda output, images, classes: one_tensor(output, (len(images), classes), "a number for each class"),
)
