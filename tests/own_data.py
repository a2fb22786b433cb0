"""What the tests share that train on data of a user's own: boxes and masks on disk, made from composed scenes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from ghostkit.data import load
from ghostkit.data.boxes import present

CLASSES = ["shirt", "bag", "boot"]


def picture(pixels: torch.Tensor, path: Path) -> None:
    Image.fromarray(pixels[0].numpy()).save(path)


def coco_of(folder: Path, count: int = 40) -> str:
    """Scenes as a COCO file, and the name of the data."""
    data = load("scenes", task="detection", train_samples=count, test_samples=2)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        picture(data.train.pixels(torch.tensor([number]))[0], folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for x1, y1, x2, y2, label, _ in present(data.train.labels[number]).tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) % 3 + 5, "bbox": box}
            annotations.append({**entry, "iscrowd": 0, "area": box[2] * box[3]})
    categories = [{"id": 5 + number, "name": name} for number, name in enumerate(CLASSES)]
    everything = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(everything))
    return f"coco:{folder / 'images'},{folder / 'boxes.json'}"


def masks_of(folder: Path, count: int = 40) -> str:
    """Scenes as pairs of images and masks, and the name of the data."""
    data = load("scenes", task="segmentation", train_samples=count, test_samples=2)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        picture(data.train.pixels(torch.tensor([number]))[0], folder / "images" / f"{number}.png")
        Image.fromarray(data.train.labels[number].numpy()).save(folder / "masks" / f"{number}.png")
    return f"masks:{folder / 'images'},{folder / 'masks'}"
