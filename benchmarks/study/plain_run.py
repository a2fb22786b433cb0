"""A run of the plain host: one loop for static nets, for ours and for gromo's growth, so that only growth differs.

Images, their order, the optimizer, the learning rate, the moments of growth and what an event may spend are the same
for all. What an event takes counts as compute: ours by the engine's own account, gromo's by every multiplication that
PyTorch carries out inside it (its decompositions, which PyTorch does not count, are left out, as ours are).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.study.plain import PlainResNet, gromo_twin
from ghostkit.costs import TRAINING_PASS, latency, layer_costs, macs, params
from ghostkit.data import ImageData, batches
from ghostkit.engine import Engine
from ghostkit.growth.grow import outputs
from ghostkit.growth.policy import ROUNDING, Budget, Policy, PolicyState, due
from ghostkit.tasks import classification

__all__ = ["run_plain"]

BATCH, MOMENTUM, DECAY, PROBE, ANNEAL_FROM = 64, 0.9, 5e-4, 128, 0.6
SCALES = (0.0, 0.1, 0.5, 1.0)  # gromo's line search, as in its container tutorial
LARGEST = 1000  # images at once, as there


def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(images), targets)


class Grower(Protocol):
    """Something that grows a network at a moment, and says how many MACs that took."""

    def __call__(self, progress: float) -> float: ...


def sgd(model: nn.Module, rate: float) -> torch.optim.SGD:
    """Return the optimizer of all runs."""
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY)


# -- ours --------------------------------------------------------------------------------------------------------------


DEFAULT = Policy()
INSIDE = "*.conv1"  # the channels inside the blocks: gromo grows no others


def ours(
    model: PlainResNet,
    optimizer: torch.optim.Optimizer,
    probe: tuple[Tensor, Tensor],
    budget: Budget,
    compute: float,
    settings: dict[str, Any],
    seed: int,
    policy: Policy,
) -> Grower:
    """Return what grows ``model`` by our engine.

    Args:
        model, optimizer: the network, and what trains it.
        probe: images and targets.
        budget: what growth may not exceed.
        compute: training MACs of the whole run.
        settings: ``where``, ``how`` and ``score``, where they are not the defaults.
        seed: of what growth draws.
        policy: how much an event may spend, and what a compute can train.
    """
    policy = replace(policy, where=settings.get("where", policy.where))
    engine = Engine(
        model,
        optimizer,
        loss,
        probe,
        policy,
        budget,
        {
            "kinds": ("stage",),
            "at": INSIDE,
            "how": settings.get("how", "svd"),
            "score": settings.get("score", "fisher"),
        },
        torch.Generator().manual_seed(seed + 1),
        compute=compute,
    )

    def grow(progress: float) -> float:
        engine.spent = 0.0
        engine.grow(progress=progress)
        return engine.spent

    return grow


# -- gromo's -----------------------------------------------------------------------------------------------------------

# What reproduces the papers, by the words of gromo's own documentation.
METHODS: dict[str, dict[str, Any]] = {
    "TINY": {"compute_delta": False},
    "GradMax": {
        "compute_delta": False,
        "use_covariance": False,
        "alpha_zero": True,
        "use_projection": False,
        "ignore_singular_values": True,
    },
}


class Multiplications(TorchDispatchMode):
    """Counts the multiply-accumulates that PyTorch carries out inside it.

    PyTorch's own counter follows modules by hooks, which the derivatives that gromo takes of activations cannot bear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out one operation, and count it."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.macs += 0 if count is None else count(*args, **(kwargs or {}), out_val=out) / 2
        return out


def gromos(
    model: Any, probe: tuple[Tensor, Tensor], budget: Budget, compute: float, method: str, policy: Policy
) -> Grower:
    """Return what grows ``model`` as gromo's container tutorial does: statistics, best layer, line search, change.

    The tutorial takes statistics and line search over the whole training set, batch by batch. In a run they are given
    the images that ours are: an event on all of them would cost two of the six epochs that F buys. It has no rule for
    the size either; it is given ours, so that what is compared is where and how to grow.

    Args:
        model: gromo's.
        probe: images and targets.
        budget: what growth may not exceed.
        compute: training MACs of the whole run.
        method: one of ``METHODS``.
        policy: how much an event may spend, and what a compute can train.
    """
    images, targets = probe
    parts = list(zip(images.split(LARGEST), targets.split(LARGEST), strict=True))
    seedling = macs(model, images)

    def event(left: float) -> None:
        model.set_growing_layers("all")
        fitting = {block: int(left // cost_of_one(model, block, images)) for block in model._growing_layers}
        model._growing_layers = [block for block, count in fitting.items() if count]
        if not model._growing_layers:
            return
        model.init_computation()
        for some, theirs in parts:
            model.zero_grad()
            F.cross_entropy(model(some), theirs, reduction="sum").backward()
            model.update_computation()
        for block in model._growing_layers:
            block.compute_optimal_updates(
                maximum_added_neurons=fitting[block], statistical_threshold=0.0, **METHODS[method]
            )
        model.reset_computation()
        model.zero_grad()
        model.select_best_update()
        chosen = model.currently_updated_layer
        best = searched(model, chosen, parts) if method == "TINY" else 1.0
        chosen.scaling_factor = best or SCALES[1]  # nothing gained still grows, as ours does
        model.apply_change()

    def grow(progress: float) -> float:
        costs = {"macs": macs(model, images), "params": params(model)}
        limit = budget.trainable(costs, compute * (1 - progress), policy.images_per_parameter).macs
        left = min(policy.share * (limit - seedling), limit - costs["macs"])
        model.train()
        with Multiplications() as counter:
            event(left)
        return counter.macs

    return grow


def searched(model: Any, chosen: Any, parts: list[tuple[Tensor, Tensor]]) -> float:
    """Return the scale of the new neurons at which the loss is lowest."""
    losses = {}
    with torch.no_grad():
        for scale in SCALES:
            chosen.scaling_factor = scale
            losses[scale] = sum(
                float(F.cross_entropy(model.extended_forward(some), theirs, reduction="sum")) for some, theirs in parts
            )
    return min(losses, key=lambda scale: losses[scale])


def cost_of_one(model: Any, block: Any, images: Tensor) -> float:
    """Return the MACs an image that one more neuron of ``block`` costs, in both of its convolutions."""
    costs = layer_costs(model, images[:1])
    paths = {module: path for path, module in model.named_modules()}
    both = sum(costs[paths[half.layer]].macs for half in (block.first_layer, block.second_layer))
    return both / block.first_layer.out_channels


# -- the run -----------------------------------------------------------------------------------------------------------


def run_plain(
    arm: dict[str, Any],
    data: ImageData,
    *,
    budget: float,
    compute: float,
    learning_rate: float,
    seed: int,
    judged: str,
    policy: Policy = DEFAULT,
) -> dict[str, Any]:
    """Train one arm of the plain host, and return what it comes to.

    Args:
        arm: ``hidden`` for a static net; ``gromo`` and ``open_relu`` for gromo's; otherwise settings of ours.
        data: the images.
        budget: MACs an image that growth may not exceed.
        compute: training MACs.
        learning_rate: of all weights.
        seed: of weights, order and growth.
        judged: "validation", or "test" to ask the test images as well.
        policy: when growth looks, how much an event may spend, and what a compute can train.
    """
    torch.manual_seed(seed)
    model: nn.Module = PlainResNet(**({"hidden": arm["hidden"]} if "hidden" in arm else {}))
    numbers = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:PROBE]
    probe = data.train.images(numbers), data.train.labels[numbers]
    limit, state, optimizer = Budget(macs=budget), PolicyState(), sgd(model, learning_rate)
    grow: Grower | None = None
    if "gromo" in arm:
        model = gromo_twin(model, arm.get("open_relu", False))
        optimizer = sgd(model, learning_rate)
        grow = gromos(model, probe, limit, compute, arm["gromo"], policy)
    elif "hidden" not in arm:
        grow = ours(model, optimizer, probe, limit, compute, arm, seed, policy)
    spent, steps, epoch, started = 0.0, 0, 0, time.perf_counter()
    took: list[float] = []  # seconds of each event that grew something
    changed: list[float] = []  # by how much it changed an output at most
    size = macs(model, probe[0])
    model.train()
    while spent < compute:
        for images, targets in batches(data.train, BATCH, seed=seed, epoch=epoch):
            done = spent / compute
            fallen = max(0.0, done - ANNEAL_FROM) / (1 - ANNEAL_FROM)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * min(fallen, 1.0)))
            optimizer.zero_grad()
            loss(model, images, targets).backward()
            optimizer.step()
            spent, steps = spent + TRAINING_PASS * size * len(images), steps + 1
            if grow is not None and due(policy, state, spent / compute + ROUNDING):
                # What looks at the outputs is not charged: only the table wants it.
                before, (computed,), began = size, outputs(model, probe[0]), time.perf_counter()
                spent += grow(spent / compute)
                seconds, size = time.perf_counter() - began, macs(model, probe[0])
                if size > before:
                    took.append(seconds)
                    (now,) = outputs(model, probe[0])
                    changed.append(float((now - computed).abs().max()))
                    if "gromo" in arm:  # its tutorial makes a new optimizer, whose momentum begins anew
                        optimizer = sgd(model, learning_rate)
                model.train()
            if spent >= compute:
                break
        epoch += 1
    judgement = scores(model, data, data.judged)
    row = {
        "validation": judgement.accuracy,
        "loss": judgement.loss,
        "compute": spent,
        "seconds": time.perf_counter() - started,
        "steps": steps,
        "params": params(model),
        "macs": size,
        "milliseconds": latency(model, probe[0][:1]),
        "events": len(took),
        "event_seconds": sum(took) / max(len(took), 1),
        "output_change": max(changed, default=0.0),
        "edits": str(hidden_of(model)),
    }
    return {**row, "test": scores(model, data, data.test).accuracy} if judged == "test" else row


def hidden_of(model: Any) -> tuple[int, ...]:
    """Return the channels inside the blocks, of either kind of network."""
    if isinstance(model, PlainResNet):
        return model.hidden
    return tuple(block.first_layer.out_channels for block in model._growable_layers)


def scores(model: nn.Module, data: ImageData, split: Any) -> classification.Scores:
    """Return what the network is worth on the images of ``split``."""
    return classification.evaluate(model, batches(split, 256, shuffle=False), len(data.classes))
