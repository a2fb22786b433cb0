"""Segmentation: IoU against a count by hand, and pixels that do not count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.nn import build
from ghostkit.tasks.segmentation import evaluate, pixel_cross_entropy

IGNORED = 255


class Oracle(nn.Module):
    """Says of every pixel what it was told, with certainty."""

    def __init__(self, says: Tensor, classes: int) -> None:
        super().__init__()
        self.logits = 20.0 * nn.functional.one_hot(says, classes).permute(0, 3, 1, 2).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


def test_iou_is_what_a_count_by_hand_gives():
    truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, IGNORED]]])
    says = torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 2]]])
    # Class 0: 3 right, 1 missed, 1 wrong: 3/5. Class 1: 2 right, 1 missed, 1 wrong: 2/4. Class 2 is said of an ignored
    # pixel only; class 3 is nowhere: both are not there. 5 of 7 pixels are right.
    scores = evaluate(Oracle(says, 4), [(torch.zeros(1, 1, 2, 4), truth)], 4)
    assert scores.iou[:2] == pytest.approx((3 / 5, 2 / 4))
    assert all(math.isnan(value) for value in scores.iou[2:])
    assert scores.miou == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.confusion.tolist()[:2] == [[3, 1, 0, 0], [1, 2, 0, 0]]
    assert scores.details() == {"iou": [pytest.approx(0.6), 0.5, None, None]}


def test_scores_add_up_over_batches_of_any_size():
    torch.manual_seed(0)
    truth, says = torch.randint(3, (5, 4, 4)), torch.randint(3, (5, 4, 4))
    whole = evaluate(Oracle(says, 3), [(torch.zeros(5, 1, 4, 4), truth)], 3)
    batches = [(torch.zeros(2, 1, 4, 4), truth[:2]), (torch.zeros(3, 1, 4, 4), truth[2:])]
    model = Oracle(says, 3)
    parts = iter([model.logits[:2], model.logits[2:]])
    model.forward = lambda images: next(parts)
    apart = evaluate(model, batches, 3)
    assert (apart.miou, apart.pixel_accuracy) == (whole.miou, whole.pixel_accuracy)
    assert apart.loss == pytest.approx(whole.loss)


def test_ignored_pixels_have_no_loss_and_no_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    mask = torch.tensor([[[0, IGNORED], [2, IGNORED]]], dtype=torch.uint8)
    loss = pixel_cross_entropy()(lambda images: logits, torch.zeros(1, 1, 2, 2), mask)
    loss.backward()
    chosen = torch.log_softmax(logits.detach(), 1)
    assert loss.item() == pytest.approx(-float(chosen[0, 0, 0, 0] + chosen[0, 2, 1, 0]) / 2)
    assert not logits.grad[:, :, :, 1].any()
    assert logits.grad[:, :, :, 0].all()
    nothing = torch.full_like(mask, IGNORED)
    assert pixel_cross_entropy()(lambda images: logits, torch.zeros(1, 1, 2, 2), nothing).item() == 0


@pytest.mark.parametrize("head", ["lraspp", "deeplabv3"])
def test_a_segmenter_learns_an_image_by_heart(head):
    torch.manual_seed(0)
    stages = [[[3, 16, 16, 0, 2]], [[3, 24, 24, 0, 2]]]
    model = build("seedling", 3, 1, task="segmentation", head=head, head_options={"channels": 16}, stages=stages)
    mask = torch.zeros(2, 32, 32, dtype=torch.uint8)
    mask[0, 4:20, 4:20], mask[1, 8:28, 12:28] = 1, 2
    images = mask[:, None].float()
    optimizer, loss = torch.optim.Adam(model.parameters(), 0.02), pixel_cross_entropy()
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        loss(model, images, mask).backward()
        optimizer.step()
    assert model(images).shape == (2, 3, 32, 32)
    assert evaluate(model, [(images, mask)], 3).miou > 0.8
    assert model.training, "left as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "fcos"}, "head='fcos' is no segmentation head; expected one of lraspp, deeplabv3"),
        ({"head_options": {"rates": [1, 2]}}, r"rates=\[1, 2\].*three rates"),
        ({"head_options": {"rates": [1.5, 2, 3]}}, r"rates=\[1\.5, 2, 3\].*whole numbers from 1 on"),
        ({"head_options": {"rates": [1, 2, "a"]}}, r"rates=\[1, 2, 'a'\].*whole numbers from 1 on"),
        ({"head_options": {"rates": 3}}, "rates=3.*three rates"),
        ({"head_options": {"channels": "x"}}, "channels='x'.*whole numbers from 1 on"),
        ({"head_options": {"dropout": "x"}}, r"dropout='x'.*a dropout in \[0, 1\)"),
        ({"head_options": {"dropout": 1.0}}, r"dropout=1\.0.*a dropout in \[0, 1\)"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(GhostkitError, match=message):
        build("seedling", 3, 1, **{"task": "segmentation", **arguments})
