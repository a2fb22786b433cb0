"""COCO's files of boxes: scenes come back as they were written, and what cannot be meant is quoted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ghostkit.data import batches, load
from ghostkit.data.boxes import present
from ghostkit.errors import GhostkitError

Paint = Callable[..., Path]
Change = Callable[[dict[str, Any]], Any]
IDS = [3, 5, 8, 13, 21, 34, 55, 89, 90, 91]  # COCO's have gaps too


def written_as_coco(written: Any, path: Path) -> Path:
    content: dict[str, Any] = {
        "images": [{"id": 100 + n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(10)],
        "categories": [{"id": n, "name": name} for n, name in zip(IDS, written.boxes.classes, strict=True)][::-1],
        "annotations": [
            {"image_id": 100 + n, "category_id": IDS[int(c)], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            for n, rows in enumerate(written.boxes.train.labels)
            for x1, y1, x2, y2, c, _ in present(rows).tolist()
        ],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def small(tmp_path: Path, paint: Paint) -> Callable[..., str]:
    """Write five images of 40 x 20 px and a file of their boxes, changed; return the name of the data set."""

    def _small(change: Change = lambda content: None) -> str:
        for number in range(5):
            paint(tmp_path / "images" / f"{number}.png", size=(40, 20))
        content: dict[str, Any] = {
            "images": [{"id": n, "file_name": f"{n}.png"} for n in range(5)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [{"image_id": n, "category_id": 7, "bbox": [4, 2, 10, 6]} for n in range(5)],
        }
        other = change(content)
        (tmp_path / "boxes.json").write_text(other if isinstance(other, str) else json.dumps(content))
        return f"coco:{tmp_path / 'images'},{tmp_path / 'boxes.json'}"

    return _small


def test_scenes_come_back_from_a_coco_file_as_they_were_written(written: Any, tmp_path: Path) -> None:
    file = written_as_coco(written, tmp_path / "boxes.json")
    data = load(f"coco:{written.images},{file}", task="detection")
    assert (data.task, data.channels, data.height, data.width) == ("detection", 1, 64, 64)
    assert data.classes == written.boxes.classes
    assert (len(data.train), len(data.test)) == (8, 2)
    met = []
    for split in (data.train, data.test):
        for number, rows in zip(written.numbers(split.pixels(torch.arange(len(split)))), split.labels, strict=True):
            assert torch.equal(present(rows), present(written.boxes.train.labels[number]))
            met.append(number)
    assert sorted(met) == list(range(10))
    assert next(batches(data.train, 4, augment="crop+flip"))[1].dtype == torch.float32


def test_a_second_file_is_tested_on(written: Any, tmp_path: Path) -> None:
    file = written_as_coco(written, tmp_path / "boxes.json")
    content = json.loads(file.read_text())
    for name, chosen in (("train.json", range(100, 106)), ("test.json", range(106, 110))):
        kept = {
            "images": [image for image in content["images"] if image["id"] in chosen],
            "annotations": [box for box in content["annotations"] if box["image_id"] in chosen],
        }
        (tmp_path / name).write_text(json.dumps(content | kept))
    data = load(f"coco:{written.images},{tmp_path / 'train.json'},{tmp_path / 'test.json'}", task="detection")
    assert sorted(written.numbers(data.test.pixels(torch.arange(4)))) == [6, 7, 8, 9]
    with pytest.raises(GhostkitError, match=r"'.*0\.png' is in '.*train\.json' and in '.*boxes\.json'; pick one"):
        load(f"coco:{written.images},{tmp_path / 'train.json'},{file}", task="detection")
    content["categories"][0]["name"] = "other"
    file.write_text(json.dumps(content))
    with pytest.raises(GhostkitError, match=r"boxes\.json' has other categories than .*such as \(91"):
        load(f"coco:{written.images},{tmp_path / 'train.json'},{file}", task="detection")


def test_the_split_does_not_depend_on_the_order_of_the_entries(small: Callable[..., str]) -> None:
    first = load(small(), task="detection")
    second = load(small(lambda content: [entries.reverse() for entries in content.values()]), task="detection")
    assert torch.equal(first.train.labels, second.train.labels)
    assert first.test.source.files == second.test.source.files  # type: ignore[attr-defined]


def test_boxes_follow_an_image_that_is_scaled_to_fit(small: Callable[..., str]) -> None:
    data = load(small(), task="detection", size=80)
    assert data.train.labels[0].tolist() == [[8, 24, 28, 36, 1, 0]]  # twice as large, and 20 px of black above
    image = data.train.pixels(torch.tensor([0]))[0].float()
    assert (image[:, :20] == 0).all()
    assert (image[:, 60:] == 0).all()
    assert image[:, 20:60].mean() > 100


def test_an_image_without_annotations_has_no_objects_and_a_crowd_is_marked(small: Callable[..., str]) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][:3]
        content["annotations"] += [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 40, 20], "iscrowd": 1}]

    data = load(small(change), task="detection", size=40)
    rows = [present(image).tolist() for split in (data.train, data.test) for image in split.labels]
    assert sorted(map(len, rows)) == [0, 0, 1, 1, 2]
    assert [0, 10, 40, 30, 0, 1] in max(rows, key=len)


def test_boxes_beyond_their_image_are_cut_off_or_left_out_and_counted(small: Callable[..., str]) -> None:
    boxes = [[-4, -4, 10, 10], [30, 10, 50, 50], [50, 0, 5, 5], [4, 4, 0, 5], [9, 4, -5, 5], [float("nan"), 0, 5, 5]]

    def change(content: dict[str, Any]) -> None:
        content["annotations"] += [{"image_id": 2, "category_id": 1, "bbox": box} for box in boxes]

    with pytest.warns(UserWarning, match=r"4 of 11 boxes in '.*boxes\.json' lie outside their image or have no area"):
        data = load(small(change), task="detection", size=40)
    rows = max((present(i) for split in (data.train, data.test) for i in split.labels), key=len)
    assert rows[1:, :4].tolist() == [[0, 10, 6, 16], [30, 20, 40, 30]]


def turned(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image.update(width=20, height=40)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: "{not json", r"boxes\.json' is no sound JSON: .* line 1 column 2"),
        (lambda c: "", r"boxes\.json' is no sound JSON"),
        (lambda c: "[" * 100_000, r"boxes\.json' is no sound JSON"),
        (lambda c: "[]", r"boxes\.json' has no list 'images'; expected"),
        (lambda c: c.pop("annotations"), r"boxes\.json' has no list 'annotations'"),
        (lambda c: c.update(categories={}), "has no list 'categories'"),
        (lambda c: c["categories"].clear(), "list 'categories' in .* is empty"),
        (lambda c: c["images"].clear(), r"no image has its 'image_id', 0"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), r"boxes\.json'.? has 0 image\(s\), expected two"),
        (lambda c: c["annotations"].clear(), "have no object in them, expected one or more"),
        (lambda c: c["annotations"][1].update(category_id=2), r"'category_id' is 2, expected one of 1, 7"),
        (lambda c: c["annotations"][1].update(category_id=[7]), r"'category_id' is \[7\]"),
        (lambda c: c["annotations"][1].update(image_id=99), r'\{"image_id": 99, .*no image has its .image_id., 99'),
        (lambda c: c["annotations"][1].pop("image_id"), "no image has its 'image_id', None"),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, 3]),
            r'"bbox": \[1, 2, 3\].*expected a .bbox. of four numbers',
        ),
        (lambda c: c["annotations"][1].update(bbox=["1", 2, 3, 4]), "expected a 'bbox' of four numbers"),
        (lambda c: c["annotations"][1].update(bbox=[10**400, 2, 3, 4]), "a number beyond all images"),
        (lambda c: c["annotations"][1].pop("bbox"), "expected a 'bbox' of four numbers"),
        (lambda c: c["annotations"][1].update(iscrowd=2), "'iscrowd' is 2, expected 0 or 1"),
        (lambda c: c["annotations"].append(7), "entry in 'annotations' that cannot be used: 7: expected an object"),
        (
            lambda c: c["images"][1].update(file_name="gone.png"),
            r"1 of 5 images of '.*boxes\.json' are missing: '.*gone",
        ),
        (lambda c: c["images"][1].update(file_name="../boxes.json"), r'"\.\./boxes\.json".*leads out of'),
        (lambda c: c["images"][1].update(file_name="/etc/passwd"), r'"/etc/passwd".*leads out of'),
        (lambda c: c["images"][1].update(file_name=None), "'file_name' is None"),
        (lambda c: c["images"][1].update(file_name="x" * 5000), "are missing"),
        (lambda c: c["images"][1].update(file_name="0.png"), r"two images of the file '.*0\.png'"),
        (lambda c: c["images"][1].update(id=0), "another image of the id 0"),
        (lambda c: c["images"][1].update(id=1.5), "'id' is neither"),
        (lambda c: c["images"][1].update(width="wide", height=4), "'width' and 'height' in whole pixels"),
        (lambda c: c["images"][1].update(width=41, height=20), r"1\.png' \(40 x 20, not 41 x 20\)"),
        (turned, r"5 of 5 images stand upright at another size than '.*boxes\.json' gives them"),
        (lambda c: c["categories"][1].update(name="cat"), "another category of the same id or name"),
        (lambda c: c["categories"][1].update(id="dog"), "'id' that is a whole number"),
    ],
)
def test_a_broken_file_is_refused_and_the_culprit_quoted(
    small: Callable[..., str], change: Change, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(GhostkitError, match=complaint) as raised:
        load(small(change), task="detection")
    assert "boxes.json" in str(raised.value)


def test_missing_places_and_damaged_images_are_named(small: Callable[..., str], tmp_path: Path) -> None:
    name = small()
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    with pytest.raises(GhostkitError, match=r"1 of 5 images cannot be read: '.*3\.png'"):
        load(name, task="detection")
    with pytest.raises(GhostkitError, match=r"cannot read the annotations '.*none\.json'"):
        load(f"coco:{tmp_path / 'images'},{tmp_path / 'none.json'}", task="detection")
    with pytest.raises(GhostkitError, match="nowhere' is no folder; expected the one that the images of"):
        load(f"coco:{tmp_path / 'nowhere'},{tmp_path / 'boxes.json'}", task="detection")


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_boxes_refer_to_a_photograph_as_it_stands_upright(tmp_path: Path, small: Callable[..., str], form: str) -> None:
    name = small(lambda content: [image.update(width=20, height=40) for image in content["images"]] and None)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            image.load()
        image.save(path, form, exif=exif)
    data = load(name, task="detection", size=40)
    assert data.train.labels[0].tolist() == [[14, 2, 24, 8, 1, 0]]  # x moved by the black on the left, y as it was
    image = data.train.pixels(torch.tensor([0]))[0]
    assert (image[:, :, :10] == 0).all()
    assert (image[:, :, 10:30] > 0).all()


def test_coco_2017_is_read_from_its_layout(tmp_path: Path, paint: Paint) -> None:
    home = tmp_path / "coco"
    (home / "annotations").mkdir(parents=True)
    for part, count in (("train", 3), ("val", 2)):
        content = {
            "images": [{"id": n, "file_name": f"{n:012}.jpg", "width": 40, "height": 20} for n in range(count)],
            "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
            "annotations": [
                {"image_id": n, "category_id": 90, "bbox": [0, 0, 20, 20], "iscrowd": 0} for n in range(count)
            ],
        }
        (home / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
        for n in range(count):
            paint(home / f"{part}2017" / f"{n:012}.jpg", size=(40, 20))
    data = load("coco", tmp_path, task="detection")
    assert (data.classes, data.height, data.where) == (("person", "toothbrush"), 128, str(home))
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.test.labels[0].tolist() == [[0, 32, 64, 96, 1, 0]]
