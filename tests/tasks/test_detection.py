"""Detection: average precision against a count by hand, and a loss that pays heed to what it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import build
from ghostkit.nn.taps import trunk
from ghostkit.tasks.detection import detect, detection_loss, evaluate, objects

CLASSES = 3
IMAGES = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def rows(*boxes: tuple[float, ...], width: int = 4) -> Tensor:
    """Targets of one image, padded."""
    padding = [(0.0, 0.0, 0.0, 0.0, -1.0, 0.0)] * (width - len(boxes))
    return torch.tensor([*((*box, 0.0) if len(box) == 5 else box for box in boxes), *padding])


class Oracle(nn.Module):
    """Finds the boxes that it was told, whatever the images show."""

    def __init__(self, found: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.found = found

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"cls_logits": images.new_zeros(len(images), 1, CLASSES)}

    def losses(self, raw: dict[str, Tensor], images: Tensor, targets: list) -> dict[str, Tensor]:
        return {"one": torch.tensor(0.25), "other": torch.tensor(0.5)}

    def detections(self, raw: dict[str, Tensor], images: Tensor) -> list[dict[str, Tensor]]:
        return self.found


def told(*boxes: tuple[float, ...]) -> dict[str, Tensor]:
    """What an oracle finds in one image: x1, y1, x2, y2, class, score."""
    values = torch.tensor(boxes).reshape(-1, 6)
    return {"boxes": values[:, :4], "labels": values[:, 4].long(), "scores": values[:, 5]}


def test_average_precision_is_what_a_count_by_hand_gives():
    # Class 0 has two objects. Found, best first: a hit (IoU 1), a miss, a hit with IoU 8.2 x 10 / 100 = 0.82.
    # Precision at recall up to 1/2 is 1, beyond it 2/3. COCO averages over 101 recalls, 0 to 1: 51 of them at 1 and 50
    # at 2/3, so AP is 0.83498 for every threshold up to 0.8 (seven of ten, 0.5 to 0.8), and above it 51/101 = 0.50495.
    # Class 1 has one object, found whole. Class 2 has none, and does not count.
    truth = torch.stack([rows((0, 0, 10, 10, 0), (20, 20, 30, 30, 1)), rows((40, 40, 50, 50, 0))])
    found = [
        told((0, 0, 10, 10, 0, 0.9), (50, 50, 60, 60, 0, 0.8), (20, 20, 30, 30, 1, 0.6)),
        told((40, 40, 48.2, 50, 0, 0.7)),
    ]
    scores = evaluate(Oracle(found), [(IMAGES[:2], truth)], CLASSES)
    high, low = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores.map50 == pytest.approx((high + 1) / 2, abs=1e-6)
    assert scores.map75 == pytest.approx((high + 1) / 2, abs=1e-6)
    assert scores.per_class[0] == pytest.approx(0.7 * high + 0.3 * low, abs=1e-6)
    assert scores.per_class[1] == pytest.approx(1)
    assert scores.per_class[2] != scores.per_class[2], "NaN: there is none"
    assert scores.map == pytest.approx((scores.per_class[0] + 1) / 2, abs=1e-6)
    assert scores.loss == pytest.approx(0.75)
    assert list(scores.metrics()) == ["map50", "map", "map75"]
    assert scores.details()["map_per_class"][2] is None


def test_what_is_found_in_a_crowd_does_not_count():
    truth = torch.stack([rows((0, 0, 10, 10, 0), (30, 30, 60, 60, 0, 1.0))])
    lonely = told((0, 0, 10, 10, 0, 0.5))
    crowded = told((32, 32, 44, 44, 0, 0.9), (0, 0, 10, 10, 0, 0.5))
    elsewhere = told((12, 32, 24, 44, 0, 0.9), (0, 0, 10, 10, 0, 0.5))
    alone, inside, outside = (
        evaluate(Oracle([found]), [(IMAGES[:1], truth)], CLASSES).map50 for found in (lonely, crowded, elsewhere)
    )
    assert (alone, inside, outside) == (pytest.approx(1), pytest.approx(1), pytest.approx(0.5))


def test_a_split_without_any_object_scores_nothing():
    scores = evaluate(Oracle([told(), told()]), [(IMAGES[:2], torch.stack([rows(), rows()]))], CLASSES)
    assert (scores.map, scores.map50) == (0, 0)


def test_objects_are_the_rows_that_are_no_padding():
    (found,) = objects(torch.stack([rows((1, 2, 3, 4, 2), (5, 6, 7, 8, 0, 1.0))]))
    assert found["boxes"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert (found["labels"].tolist(), found["iscrowd"].tolist()) == ([2, 0], [0, 1])
    (learned,) = objects(torch.stack([rows((1, 2, 3, 4, 2), (5, 6, 7, 8, 0, 1.0))]), crowds=False)
    assert learned["labels"].tolist() == [2]


def small(head: str = "fcos", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build("seedling", CLASSES, 1, task="detection", head=head, head_options={"channels": 16}, **options)


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_a_detector_learns_two_images_by_heart(head):
    model = small(head, stem_stride=2, stages=[[[3, 16, 16, 0, 2]], [[3, 24, 24, 0, 2]]])
    truth = torch.stack([rows((8, 8, 28, 28, 0)), rows((30, 20, 60, 44, 2), (4, 40, 24, 62, 1))])
    images = torch.zeros(2, 1, 64, 64)
    for image, boxes in zip(images, truth, strict=True):
        for x1, y1, x2, y2, label, _ in boxes[boxes[:, 4] >= 0].int().tolist():
            image[0, y1:y2, x1:x2] = 1.0 + label
    loss, optimizer = detection_loss(), torch.optim.Adam(model.parameters(), 0.01)
    model.train()
    for _ in range(200):
        optimizer.zero_grad()
        loss(model, images, truth).backward()
        optimizer.step()
    scores = evaluate(model, [(images, truth)], CLASSES)
    assert scores.map50 > 0.95
    assert model.training, "left as it was"
    best = [int(found["scores"].argmax()) for found in detect(model, images)]
    assert detect(model, images)[0]["labels"][best[0]] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_a_detector_in_half_precision_finds_boxes_to_the_last_pixel(head, dtype):
    torch.manual_seed(0)
    options = {"channels": 16, "convolutions": 1, "score_threshold": 0.0}
    model = build("seedling", CLASSES, 1, task="detection", head=head, head_options=options, stem_stride=2).to(dtype)
    images = torch.randn(1, 1, 64, 320).to(dtype)
    (found,) = detect(model, images)
    assert {found["boxes"].dtype, found["scores"].dtype} == {torch.float32}
    assert len(found["boxes"]) > 10
    for narrow, wide in zip(model.places(images)[0], model.places(images.float())[0], strict=True):
        assert torch.equal(narrow, wide)


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_images_without_objects_and_crowds_have_a_loss_all_the_same(head):
    model, loss = small(head, stem_stride=2), detection_loss()
    empty = torch.stack([rows()] * 4)
    value = loss(model, IMAGES, empty)
    value.backward()
    assert torch.isfinite(value)
    crowd = empty.clone()
    crowd[0, 0] = torch.tensor([4, 4, 60, 60, 1, 1.0])
    assert loss(model, IMAGES, crowd).item() == value.item(), "nothing is learned from a crowd"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "lraspp"}, "head='lraspp' is no detection head; expected one of fcos, retinanet"),
        ({"head_options": {"channels": 6}}, "channels=6.*a multiple of 4"),
        ({"head_options": {"channels": 12.0}}, r"channels=12\.0.*whole numbers from 1 on"),
        ({"head_options": {"convolutions": 2.5}}, r"convolutions=2\.5.*whole numbers from 1 on"),
        ({"head_options": {"finest_stride": "4"}}, "finest_stride='4'.*whole numbers from 1 on"),
        *(({"head_options": {"detections": count}}, f"detections={count!r}.*whole numbers") for count in (0, -1, "a")),
        *(
            ({"head_options": {"score_threshold": least}}, rf"score_threshold={least!r}.*a threshold in \[0, 1\)")
            for least in (2.0, -0.1, float("nan"), "x")
        ),
        ({"head_options": {"color": 6}}, r"build\('seedling', task='detection', head_options=.*color"),
        ({"head_options": {"finest_stride": 64}}, "no stage ends at stride 64 or more; the host's stages end at 2, 4"),
        ({"task": "tracking"}, r"task='tracking'.*one of detection, segmentation"),
        ({"task": "classification", "head": "fcos"}, "head='fcos'.*without a head"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(GhostkitError, match=message):
        build("seedling", CLASSES, 1, **{"task": "detection", **arguments})


def test_images_whose_sides_do_not_fit_are_refused_with_those_that_do():
    model = small(stem_stride=2)
    with pytest.raises(GhostkitError, match=r"60 x 64 pixels do not fit.*stride 16.*take 64 x 64"):
        detection_loss()(model, IMAGES[:, :, :60], torch.stack([rows()] * 4))


def test_a_network_of_ones_own_is_tapped_where_it_says():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())
            self.two = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())

    with pytest.raises(GhostkitError, match="no rule says where Own is tapped"):
        trunk(Own())
