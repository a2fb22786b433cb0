"""A step's gradient is that of the whole batch, whatever it is taken in, and nobody else's random numbers count."""

from __future__ import annotations

import copy

import pytest
import torch
from bit_for_bit import config
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn

import ghostkit
from ghostkit import GhostkitError, Trainer
from ghostkit.devices import make_fabric
from ghostkit.events import Grown
from ghostkit.stepping import Stepper
from ghostkit.tasks.classification import cross_entropy


class Plain(nn.Module):
    """A network without BN, whose parts cannot be told from the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normed(nn.Module):
    """A network whose running statistics tell what they saw."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(1, momentum=0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(x).flatten(1))


def stepper(model: nn.Module, parts: int = 1, seed: int = 0) -> Stepper:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Stepper(make_fabric(config(precision="64-true")), model, optimizer, cross_entropy(), seed, parts)


def batch(images: int = 11) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    pictures = torch.randn(images, 1, 4, 4, generator=draw, dtype=torch.float64)
    return pictures, torch.randint(0, 3, (images,), generator=draw)


@pytest.mark.parametrize("parts", [2, 3, 5, 64])
def test_parts_of_unequal_size_add_up_to_the_gradient_and_the_loss_of_the_whole_batch(parts):
    torch.manual_seed(0)
    whole = Plain().double()
    divided = copy.deepcopy(whole)
    expected = stepper(whole).gradients(*batch(), step=0)  # in single precision, as Fabric puts outputs out
    assert stepper(divided, parts).gradients(*batch(), step=0) == pytest.approx(expected, rel=1e-6)
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [2, 4])
def test_running_statistics_move_as_far_as_by_the_mean_of_the_parts(parts):
    model = Normed().double()
    images, targets = batch(12)
    stepper(model, parts).gradients(images, targets, step=0)
    means = torch.stack([part.mean() for part in images.tensor_split(parts)])
    torch.testing.assert_close(model.bn.running_mean, 0.1 * means.mean()[None])
    assert model.bn.momentum == 0.1


def test_dropout_draws_by_seed_step_and_part_and_disturbs_nobody():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).double() for _ in range(2))
    second.load_state_dict(first.state_dict())
    before = torch.get_rng_state()
    loss = stepper(first).gradients(*batch(), step=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert stepper(second).gradients(*batch(), step=3) == loss
    assert stepper(second).gradients(*batch(), step=4) != loss
    assert stepper(second, seed=1).gradients(*batch(), step=3) != loss


def hungry(limit: int):
    """A loss that runs out of memory beyond so many images."""
    enough = cross_entropy()

    def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return enough(model, images, targets)

    return loss


def test_a_batch_that_memory_does_not_hold_is_taken_in_smaller_parts_and_the_history_says_so(tmp_path):
    trainer = Trainer(config(), tmp_path)
    trainer.stepper.loss = hungry(20)
    trainer.train()
    assert trainer.stepper.parts == 4
    reasons = [event.reason for event in ghostkit.Run(tmp_path).history.events]
    assert reasons[0] == "out of memory: batches are taken in 4 parts from here on"
    resumed = Trainer(config(), tmp_path)
    assert resumed.stepper.parts == 4


def test_a_run_whose_smallest_parts_do_not_fit_into_memory_says_what_to_change(tmp_path):
    trainer = Trainer(config(), tmp_path)
    trainer.stepper.loss = hungry(1)
    with pytest.raises(GhostkitError, match=r"2 images at a time do not fit into the memory of cpu; set batch_size"):
        trainer.train()
    assert Trainer(config(), tmp_path).progress.step == 0


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_run_trains_grows_and_is_resumed_in_every_precision(precision, tmp_path):
    trainer = Trainer(config(precision=precision), tmp_path)
    for event in trainer:
        if isinstance(event, Grown) and event.event.edits:
            break
    resumed = Trainer(config(precision=precision), tmp_path)
    wanted = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert {parameter.dtype for parameter in resumed.model.parameters()} == {wanted}
    assert 0 <= resumed.train()["accuracy"] <= 1


def test_the_scale_of_16_mixed_is_resumed(tmp_path, monkeypatch):
    def half(config):
        fabric = make_fabric(config)
        fabric.strategy.precision = MixedPrecision("16-mixed", "cpu")  # fabric itself takes it on a GPU only
        return fabric

    monkeypatch.setattr("ghostkit.trainer.make_fabric", half)
    trainer = Trainer(config(), tmp_path)
    next(iter(trainer))
    found = {"scale": 512.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 7}
    trainer.fabric.strategy.precision.load_state_dict(found)
    trainer.save()
    trainer.close()
    assert Trainer(config(), tmp_path).fabric.strategy.precision.state_dict() == found
