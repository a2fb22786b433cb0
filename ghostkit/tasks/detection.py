"""Detection: the loss of the head (FCOS or RetinaNet), and COCO's mean average precision.

Targets are one tensor, as :mod:`ghostkit.data.boxes` lays them out: (B, M, 6), rows of x1, y1, x2, y2 (pixels), class
and whether it is a crowd; rows of class -1 pad. Nothing is trained on crowds, and what is found in them does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from ghostkit.costs import evaluating
from ghostkit.data.boxes import present
from ghostkit.tasks.task import Batches, Task

__all__ = ["DETECTION", "Scores", "detect", "detection_loss", "evaluate", "objects"]


@dataclass(frozen=True)
class Scores:
    """How well a detector does on a split.

    Args:
        loss: mean over the batches of the sum of the head's losses, in nats.
        map: average precision, mean over classes and IoU thresholds 0.5 to 0.95 (COCO's), 0 to 1.
        map50: at IoU 0.5.
        map75: at IoU 0.75.
        per_class: average precision of each class, 0 to 1; NaN of one that is not there.
    """

    loss: float
    map: float
    map50: float
    map75: float
    per_class: tuple[float, ...]

    def metrics(self) -> dict[str, float]:
        """Return mAP at IoU 0.5, over all thresholds, and at 0.75."""
        return {"map50": self.map50, "map": self.map, "map75": self.map75}

    def details(self) -> dict[str, Any]:
        """Return the average precision of each class, None of one that is not there."""
        return {"map_per_class": [None if value != value else value for value in self.per_class]}


def detection_loss(label_smoothing: float = 0.0) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the loss of detection: ``loss(model, images, targets)`` -> sum of the head's losses, in nats."""

    def loss(model: Any, images: Tensor, targets: Tensor) -> Tensor:
        return total_loss(model, model(images), images, targets)

    return loss


def total_loss(model: Any, raw: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the head's losses of what ``model`` made of ``images``."""
    wanted = [{"boxes": found["boxes"], "labels": found["labels"]} for found in objects(targets, crowds=False)]
    return torch.stack([*model.losses(raw, images, wanted).values()]).sum()


def objects(targets: Tensor, crowds: bool = True) -> list[dict[str, Tensor]]:
    """Return, for each image, its ``boxes`` (n, 4), ``labels`` (n,) and ``iscrowd`` (n,).

    Args:
        targets: (B, M, 6), as in the head of this room.
        crowds: whether crowds are among them.
    """
    listed = []
    for rows in targets:
        rows = present(rows)
        rows = rows if crowds else rows[rows[:, 5] == 0]
        listed.append({"boxes": rows[:, :4], "labels": rows[:, 4].long(), "iscrowd": rows[:, 5].long()})
    return listed


def detect(model: Any, images: Tensor) -> list[dict[str, Tensor]]:
    """Return, for each image, the ``boxes`` (n, 4), ``labels`` (n,) and ``scores`` (n,) that a detector finds.

    Args:
        model: a detector; it is left as it was.
        images: (B, C, H, W), normalised as those that it was trained on.
    """
    with evaluating(model):
        return model.detections(model(images), images)


def evaluate(model: Any, batches: Batches, classes: int) -> Scores:
    """Return the scores of ``model`` over ``batches``; the model is left as it was.

    Args:
        model: a detector.
        batches: images (B, C, H, W) and targets (B, M, 6).
        classes: number of classes.
    """
    metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False
    losses, images_seen = 0.0, 0
    with evaluating(model):
        for images, targets in batches:
            raw = model(images)
            losses += float(total_loss(model, raw, images, targets)) * len(images)
            images_seen += len(images)
            metric.update(cpu(model.detections(raw, images)), cpu(objects(targets)))
    found = {name: value.double() for name, value in metric.compute().items()}
    per_class = torch.full((classes,), torch.nan, dtype=torch.float64)
    per_class[found["classes"].long()] = found["map_per_class"]
    per_class[per_class < 0] = torch.nan  # -1 says that there is no such object
    overall = {name: max(float(found[name]), 0.0) for name in ("map", "map_50", "map_75")}
    return Scores(
        loss=losses / max(images_seen, 1),
        map=overall["map"],
        map50=overall["map_50"],
        map75=overall["map_75"],
        per_class=tuple(per_class.tolist()),
    )


def cpu(listed: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return the tensors in ``listed`` on the CPU, numbers in single precision."""
    return [
        {name: (value.float() if value.is_floating_point() else value).cpu() for name, value in found.items()}
        for found in listed
    ]


def mistaken(output: Any, images: Tensor, classes: int) -> str | None:
    """Return what was expected of ``output`` instead; None if it is right."""
    if isinstance(output, dict) and "cls_logits" in output and output["cls_logits"].shape[-1] == classes:
        return None
    return f"the outputs of a detector of {classes} classes"


DETECTION = Task("detection", detection_loss, evaluate, mistaken)
