"""Scores are what a pencil gives, over any batches, and measuring leaves the network as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ghostkit.tasks.classification import cross_entropy, evaluate

# Three classes, five images; the logits are the logarithms of these probabilities.
PROBABILITIES = torch.tensor(
    [
        [0.7, 0.2, 0.1],  # 0, right
        [0.1, 0.6, 0.3],  # 1, right
        [0.5, 0.3, 0.2],  # 1, taken for 0
        [0.2, 0.3, 0.5],  # 2, right
        [0.8, 0.1, 0.1],  # 2, taken for 0
    ]
)
LABELS = torch.tensor([0, 1, 1, 2, 2])
LOSS = -sum(math.log(p) for p in (0.7, 0.6, 0.3, 0.5, 0.1)) / 5


class Table(nn.Module):
    """Answers with its input, in eval mode only."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * float("nan") if self.training else logits


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1)])
def test_scores_are_those_of_a_hand_computed_case_over_any_batches(sizes):
    model = Table()
    pairs = zip(PROBABILITIES.log().split(sizes), LABELS.split(sizes), strict=True)
    scores = evaluate(model, pairs, classes=3)
    assert scores.loss == pytest.approx(LOSS, rel=1e-6)
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.accuracy_top5 == 1  # of three classes, the right one is always among the best five
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]  # a row for each true class
    assert model.training


def test_top_five_counts_the_five_most_likely_of_many_classes():
    logits = torch.arange(8.0).expand(4, 8)  # the five most likely are 3 to 7
    scores = evaluate(Table(), [(logits, torch.tensor([7, 3, 2, 0]))], classes=8)
    assert (scores.accuracy, scores.accuracy_top5) == (0.25, 0.5)
    assert scores.confusion.shape == (8, 8)
    assert scores.confusion[:, 7].tolist() == [1, 0, 1, 1, 0, 0, 0, 1]


def test_measuring_leaves_batch_norm_modes_and_gradients_alone():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 2))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pair = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1, 1])
    first, second = evaluate(model, [pair], 2), evaluate(model, [pair], 2)
    assert first.loss == second.loss
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        (0.0, LOSS),
        # Every class gets a third of the smoothed share.
        (0.3, 0.7 * LOSS - 0.1 * float(PROBABILITIES.log().sum()) / 5),
    ],
)
def test_the_loss_is_the_mean_cross_entropy_with_its_smoothing(smoothing, expected):
    logits = PROBABILITIES.log().requires_grad_()
    loss = cross_entropy(smoothing)(Table().eval(), logits, LABELS)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert float(logits.grad.abs().sum()) > 0


def test_evaluation_never_smooths():
    assert evaluate(Table(), [(PROBABILITIES.log(), LABELS)], 3).loss == pytest.approx(LOSS, rel=1e-6)
