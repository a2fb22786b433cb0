"""VOC's folders: scenes come back as they were written, and what cannot be meant is quoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ghostkit.data import load
from ghostkit.data.boxes import present
from ghostkit.data.voc import VOC_CLASSES
from ghostkit.errors import GhostkitError

Paint = Callable[..., Path]
BOX = "<bndbox><xmin>5</xmin><ymin>3</ymin><xmax>14</xmax><ymax>8</ymax></bndbox>"
DOG = f"<object><name>dog</name>{BOX}</object>"


def write_boxes(path: Path, rows: Sequence[Sequence[float]], classes: Sequence[str], size: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = (
        f"<object><name>{classes[int(c)]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2, c, _ in rows
    )
    path.write_text(f"<annotation>{size}{''.join(objects)}</annotation>")


@pytest.fixture
def small(tmp_path: Path, paint: Paint) -> Callable[..., Path]:
    """Write five images of 40 x 20 px with a dog in each, and the file of image 1 anew; return the folder."""

    def _small(content: str = DOG, whole: str = "") -> Path:
        for number in range(5):
            paint(tmp_path / "set" / "JPEGImages" / f"{number}.jpg", size=(40, 20))
            path = tmp_path / "set" / "Annotations" / f"{number}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<annotation>{DOG}</annotation>")
        (tmp_path / "set" / "Annotations" / "1.xml").write_text(whole or f"<annotation>{content}</annotation>")
        return tmp_path / "set"

    return _small


@pytest.mark.parametrize("listed", [False, True])
def test_scenes_come_back_from_xml_files_as_they_were_written(written: Any, listed: bool) -> None:
    home = written.images.parent
    for number, rows in enumerate(written.boxes.train.labels):
        size = "<size><width>64</width><height>64</height></size>"
        write_boxes(home / "Annotations" / f"{number}.xml", present(rows).tolist(), written.boxes.classes, size)
    (home / "classes.txt").write_text("\n".join(written.boxes.classes))
    if listed:
        (home / "ImageSets" / "Main").mkdir(parents=True)
        (home / "ImageSets" / "Main" / "train.txt").write_text("0\n2\n4\n6\n8\n3\n")
        (home / "ImageSets" / "Main" / "val.txt").write_text("1 \n5 -1\n")
    data = load(f"voc:{home}", task="detection")
    assert data.classes == written.boxes.classes
    assert (len(data.train), len(data.test)) == ((6, 2) if listed else (8, 2))
    for split in (data.train, data.test):
        for number, rows in zip(written.numbers(split.pixels(torch.arange(len(split)))), split.labels, strict=True):
            assert torch.equal(present(rows), present(written.boxes.train.labels[number]))
    if listed:
        assert sorted(written.numbers(data.test.pixels(torch.arange(2)))) == [1, 5]


def test_masks_in_a_voc_folder_come_back_as_they_were_written(written: Any) -> None:
    home = written.images.parent
    (home / "SegmentationClass").mkdir()
    for number, mask in enumerate(written.masks.train.labels[:6]):  # the others have boxes only, as in VOC
        Image.fromarray(mask.numpy()).save(home / "SegmentationClass" / f"{number}.png")
    (home / "SegmentationClass" / "classes.txt").write_text("\n".join(written.masks.classes))
    data = load(f"voc:{home}", task="segmentation")
    assert data.classes == written.masks.classes
    assert (len(data.train), len(data.test)) == (5, 1)
    for number, mask in zip(written.numbers(data.train.pixels(torch.arange(5))), data.train.labels, strict=True):
        assert torch.equal(mask, written.masks.train.labels[number])


def test_classes_are_those_that_are_found_and_pixels_count_from_one(small: Callable[..., Path]) -> None:
    cat = f"<object><name> cat </name><difficult>1</difficult>{BOX}</object>"
    data = load(f"voc:{small(cat)}", task="detection", size=40)
    assert data.classes == ("cat", "dog")
    rows = [present(image).tolist() for split in (data.train, data.test) for image in split.labels]
    assert sorted(rows) == [[[4, 12, 14, 18, 0, 1]], *[[[4, 12, 14, 18, 1, 0]]] * 4]  # 10 px of black above


def test_a_file_without_objects_is_an_image_without_objects(small: Callable[..., Path]) -> None:
    data = load(f"voc:{small(' ')}", task="detection")
    assert sorted(len(present(image)) for split in (data.train, data.test) for image in split.labels) == [0, 1, 1, 1, 1]


def test_boxes_beyond_their_image_are_cut_off_or_left_out_and_counted(small: Callable[..., Path]) -> None:
    far = DOG.replace("<xmax>14<", "<xmax>400<")
    gone = DOG.replace("<xmin>5<", "<xmin>60<").replace("<xmax>14<", "<xmax>70<")
    with pytest.warns(UserWarning, match=r"1 of 6 boxes in '.*Annotations' lie outside"):
        data = load(f"voc:{small(far + gone)}", task="detection", size=40)
    rows = torch.cat([present(image) for split in (data.train, data.test) for image in split.labels])
    assert sorted(rows[:, 2].tolist()) == [14, 14, 14, 14, 40]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'


@pytest.mark.parametrize(
    ("content", "whole", "complaint"),
    [
        ("", BOMB, r"annotation '.*1\.xml': it declares a document type, 'a'"),
        ("", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        ("", "<annotation>", r"cannot read the annotation '.*1\.xml': no element found"),
        ("", "no XML", r"cannot read the annotation '.*1\.xml': syntax error"),
        (f"<object>{BOX}</object>", "", r"object 1 in '.*1\.xml' has no name"),
        (f"{DOG}<object><name>dog</name></object>", "", r"object 2 in '.*1\.xml' has None for <xmin>"),
        (DOG.replace(">5<", ">five<"), "", r"object 1 in '.*1\.xml' has 'five' for <xmin>, expected a number"),
        (
            f"<size><width>20</width><height>40</height></size>{DOG}",
            "",
            r"1 of 5 images stand upright at another size .*1\.jpg' \(40 x 20, not 20 x 40\)",
        ),
        (f"<size><width>wide</width></size>{DOG}", "", r"1\.xml' has 'wide' for <width>"),
    ],
)
def test_a_broken_annotation_is_refused_and_named(
    small: Callable[..., Path], content: str, whole: str, complaint: str
) -> None:
    with pytest.raises(GhostkitError, match=complaint):
        load(f"voc:{small(content, whole)}", task="detection")


def test_a_document_type_is_refused_in_every_encoding(small: Callable[..., Path]) -> None:
    home = small()
    (home / "Annotations" / "1.xml").write_bytes(BOMB.encode("utf-16"))
    with pytest.raises(GhostkitError, match="declares a document type"):
        load(f"voc:{home}", task="detection")


def with_sets(home: Path, train: str, val: str) -> None:
    (home / "ImageSets" / "Main").mkdir(parents=True)
    (home / "ImageSets" / "Main" / "train.txt").write_text(train, encoding="utf-8")
    (home / "ImageSets" / "Main" / "val.txt").write_text(val, encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda home: (home / "Annotations" / "2.xml").unlink(), r"no '.*2\.xml' for the image '.*2\.jpg'"),
        (
            lambda home: (home / "JPEGImages" / "2.jpg").unlink(),
            r"no image called '2' in '.*JPEGImages' for '.*2\.xml'",
        ),
        (lambda home: (home / "JPEGImages" / "2.jpg").write_bytes(b""), r"1 of 5 images cannot be read: '.*2\.jpg'"),
        (lambda home: (home / "JPEGImages" / "2.png").write_bytes(b""), r"2\.jpg' and '.*2\.png' share the name '2'"),
        (lambda home: (home / "JPEGImages").rename(home / "Images"), "JPEGImages' is no folder"),
        (
            lambda home: (home / "classes.txt").write_text("cat"),
            r"'\d' in .* has an unknown class 'dog'; expected .*cat",
        ),
        (lambda home: (home / "classes.txt").write_text("cat\n\ndog"), r"classes\.txt' holds \('cat', '', 'dog'\)"),
        (lambda home: (home / "classes.txt").write_text("cat\ncat"), "no two alike"),
        (lambda home: with_sets(home, "0\n9", "1"), "no image called '9' in .*, which 'ImageSets' lists"),
        (lambda home: with_sets(home, "0\n../../x", "1"), r"no image called '\.\./\.\./x'"),
        (lambda home: with_sets(home, "0\n1", "1"), r"both list '1'"),
        (lambda home: with_sets(home, "0\n0", "1"), r"train\.txt' lists '0' twice"),
        (lambda home: with_sets(home, "0\n1", ""), r"2 training and 0 test image\(s\)"),
    ],
)
def test_a_folder_with_something_missing_is_refused_by_name(
    small: Callable[..., Path], change: Callable[[Path], Any], complaint: str
) -> None:
    home = small()
    change(home)
    with pytest.raises(GhostkitError, match=complaint):
        load(f"voc:{home}", task="detection")


@pytest.mark.parametrize(("name", "behind"), [("a dog", ""), ("dog", "  1"), ("dog", " -1")])
def test_lists_may_begin_with_a_byte_order_mark_and_names_of_images_have_spaces(
    small: Callable[..., Path], name: str, behind: str
) -> None:
    home = small()
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (home / folder / f"0.{ending}").rename(home / folder / f"{name}.{ending}")
    with_sets(home, f"\ufeff1\n {name}{behind}\n2\n", "\ufeff3\n4\n")
    (home / "classes.txt").write_text("\ufeffdog\ncat", encoding="utf-8")
    data = load(f"voc:{home}", task="detection")
    assert (data.classes, len(data.train), len(data.test)) == (("dog", "cat"), 3, 2)


def test_a_folder_without_any_object_is_refused(small: Callable[..., Path]) -> None:
    home = small()
    for path in (home / "Annotations").iterdir():
        path.write_text("<annotation/>")
    with pytest.raises(GhostkitError, match=r"no object in any file in '.*Annotations'"):
        load(f"voc:{home}", task="detection")


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_voc_2012_is_read_from_its_layout(tmp_path: Path, paint: Paint, task: Any) -> None:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in ("2007_000027", "2007_000032", "2007_000033"):
        paint(home / "JPEGImages" / f"{stem}.jpg", size=(50, 25))
        write_boxes(home / "Annotations" / f"{stem}.xml", [[10, 5, 30, 25, 14, 0]], VOC_CLASSES)
        mask = Image.new("P", (50, 25), 15)
        mask.putpalette(list(range(256)) * 3)
        mask.paste(255, (0, 0, 25, 25))
        mask.paste(0, (0, 0, 5, 5))
        (home / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(home / "SegmentationClass" / f"{stem}.png")
    for kind in ("Main", "Segmentation"):
        (home / "ImageSets" / kind).mkdir(parents=True)
        (home / "ImageSets" / kind / "train.txt").write_text("2007_000027\n2007_000032\n")
        (home / "ImageSets" / kind / "val.txt").write_text("2007_000033\n")
    data = load("voc", tmp_path, task=task, size=100)
    assert (len(data.train), len(data.test), data.channels, data.where) == (2, 1, 3, str(home))
    assert load("voc", tmp_path, task=task).height == 128
    if task == "detection":
        assert data.classes == VOC_CLASSES
        assert data.classes[14] == "person"
        assert data.train.labels[0].tolist() == [[20, 35, 60, 75, 14, 0]]
    else:
        assert data.classes == ("background", *VOC_CLASSES)
        mask = data.train.labels[0]
        assert mask[[0, 24, 75, 99], 60].tolist() == [255] * 4  # above and below the image
        assert (mask[25:75, 50:] == 15).all()
        assert (mask[25:35, :10] == 0).all()
        assert (mask[35:75, :50] == 255).all()
