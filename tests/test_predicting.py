"""Predictions of single images: the truth as labelled, what was found, and the loss that the task itself would say."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import ghostkit
from ghostkit import predicting
from ghostkit.data import ImageData, load
from ghostkit.data.boxes import present
from ghostkit.errors import GhostkitError
from ghostkit.predicting import Prediction, predict, worst
from ghostkit.tasks import TASKS
from ghostkit.tasks.detection import detect

OPTIONS = {
    "classification": {},
    "detection": {"stem_stride": 2, "head_options": {"channels": 16, "convolutions": 1}},
    "segmentation": {"head_options": {"channels": 16}},
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, ImageData]:
    scenes = {"train_samples": 8, "test_samples": 12}
    return {
        "classification": load("digits"),
        "detection": load("scenes", task="detection", **scenes),
        "segmentation": load("scenes", task="segmentation", **scenes),
    }


def network(data: ImageData) -> nn.Module:
    return ghostkit.build("seedling", len(data.classes), data.channels, task=data.task, **OPTIONS[data.task])


@pytest.mark.parametrize("task", OPTIONS)
def test_the_loss_is_that_of_the_image_alone(loaded, task):
    data = loaded[task]
    model, loss = network(data), TASKS[task].loss(0.0)
    found = predict(model, data, task, [5, 0, 3])
    assert [one.number for one in found] == [5, 0, 3]
    model.eval()
    for one in found:
        alone = torch.tensor([one.number])
        with torch.no_grad():
            expected = float(loss(model, data.test.images(alone), data.test.labels[alone]))
        assert one.loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", OPTIONS)
def test_a_network_in_double_precision_is_asked_as_one_in_single_is(loaded, task):
    data = loaded[task]
    model = network(data)
    single, double = (predict(one, data, task, range(3)) for one in (model, copy.deepcopy(model).double()))
    assert [one.loss for one in double] == pytest.approx([one.loss for one in single], rel=1e-3)


@pytest.mark.parametrize("task", OPTIONS)
def test_the_image_and_the_truth_are_those_of_the_data_set(loaded, task):
    data = loaded[task]
    (one,) = predict(network(data), data, task, torch.tensor([7]))
    assert one.image.dtype == np.uint8
    assert (one.image == data.test.pixels(torch.tensor([7]))[0, 0].numpy()).all()
    label = data.test.labels[7]
    truth = present(label)[:, :5] if task == "detection" else label
    assert np.array_equal(np.asarray(one.truth), truth.numpy())


def test_probabilities_are_found_and_sum_to_one(loaded):
    (one,) = predict(network(loaded["classification"]), loaded["classification"], "classification", [0])
    assert isinstance(one.truth, int)
    assert one.found.shape == (10,)
    assert one.found.sum() == pytest.approx(1, abs=1e-5)


def test_boxes_are_those_that_are_detected_the_surest_first(loaded):
    data = loaded["detection"]
    model = network(data)
    model.score_thresh = 0.0  # it has learned nothing yet
    (one,) = predict(model, data, "detection", [2])
    (found,) = detect(model, data.test.images(torch.tensor([2])))
    assert one.found.shape == (len(found["scores"]), 6)
    assert len(one.found) > 0
    assert (np.diff(one.found[:, 5]) <= 0).all()
    assert np.allclose(np.sort(one.found[:, 5]), np.sort(found["scores"].numpy()), atol=1e-5)


def test_crowds_are_no_truth(loaded):
    data = loaded["detection"]
    labels = data.test.labels.clone()
    labels[0, 0, 5] = 1
    crowded = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=labels))
    before, after = (predict(network(data), given, "detection", [0])[0].truth for given in (data, crowded))
    assert np.array_equal(before[1:], after)


def test_a_mask_holds_the_likeliest_class_of_each_pixel(loaded):
    data = loaded["segmentation"]
    model = network(data)
    (one,) = predict(model, data, "segmentation", [1])
    with torch.no_grad():
        likeliest = model.eval()(data.test.images(torch.tensor([1]))).argmax(1)[0]
    assert one.found.dtype == np.uint8
    assert (one.found == likeliest.numpy()).all()


def test_images_of_three_channels_come_in_colour():
    data = load("scenes-colour", task="segmentation", train_samples=4, test_samples=2)
    (one,) = predict(network(data), data, "segmentation", [1])
    assert (one.image == data.test.pixels(torch.tensor([1]))[0].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("task", OPTIONS)
def test_the_network_is_left_as_it_was(loaded, task):
    data = loaded[task]
    model = network(data)
    model.train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    predict(model, data, task, [0, 1])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_batches_are_asked_one_forward_each(loaded, monkeypatch):
    data = loaded["detection"]
    model, sizes = network(data), []
    model.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    whole = predict(model, data, "detection", range(10))
    monkeypatch.setattr(predicting, "BATCH", 4)
    parts = predict(model, data, "detection", range(10))
    assert sizes == [10, 4, 4, 2]
    assert [one.loss for one in whole] == pytest.approx([one.loss for one in parts], rel=1e-4)


def test_the_worst_are_those_of_the_highest_loss(loaded):
    data = loaded["classification"]
    model = network(data)
    everything = predict(model, data, "classification", range(100))
    found = worst(model, data, "classification", 3, among=100)
    ranked = sorted(everything, key=lambda one: -one.loss)
    assert [one.number for one in found] == [one.number for one in ranked[:3]]
    assert len(worst(model, data, "classification", 50, among=7)) == 7


def test_a_loss_that_is_no_number_is_the_worst(loaded, monkeypatch):
    blank = np.zeros((8, 8), np.uint8)
    made = [Prediction(n, blank, 0, np.ones(1), loss) for n, loss in enumerate([0.5, float("nan"), 3.0])]
    monkeypatch.setattr(predicting, "predict", lambda *_: made)
    found = worst(nn.Identity(), loaded["classification"], "classification", 2)
    assert [one.number for one in found] == [1, 2]


def test_the_training_images_can_be_looked_at_too(loaded):
    data = loaded["segmentation"]
    (one,) = predict(network(data), data, "segmentation", [7], split="train")
    assert (one.truth == data.train.labels[7].numpy()).all()
    assert predict(network(data), data, "segmentation", []) == []


def test_images_held_out_are_looked_at_in_the_place_of_the_test_images_where_there_are_some():
    data = load("digits", validation_samples=50)
    model = network(data)
    assert [one.truth for one in predict(model, data, "classification", range(50))] == data.validation.labels.tolist()
    assert len(worst(model, data, "classification", 60)) == 50
    with pytest.raises(GhostkitError, match="no validation image 50 in 'digits'; expected 0 to 49"):
        predict(model, data, "classification", [50])
    (tested,) = predict(model, data, "classification", [60], split="test")
    assert tested.truth == data.test.labels[60]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("colouring", [0]), "unknown task 'colouring'"),
        (("detection", [0]), "was loaded for classification, not for detection"),
        (("classification", [0, 5000]), "no test image 5000 in 'digits'; expected 0 to"),
        (("classification", [-1]), "no test image -1"),
        (("classification", [0], "val"), "unknown split 'val' of 'digits', expected 'test' or 'train'"),
        (("classification", [0], "validation"), "unknown split 'validation' of 'digits', expected 'test' or 'train'"),
    ],
)
def test_what_is_not_there_is_refused(loaded, arguments, message):
    data = loaded["classification"]
    with pytest.raises(GhostkitError, match=message):
        predict(network(data), data, *arguments)


@pytest.mark.parametrize(("count", "among", "message"), [(0, 9, "count is 0"), (3, 0, "among is 0")])
def test_none_is_no_number_of_worst_images(loaded, count, among, message):
    data = loaded["classification"]
    with pytest.raises(GhostkitError, match=message):
        worst(network(data), data, "classification", count, among)
