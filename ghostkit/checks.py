"""What is refused before anything is trained: a network that does not take the images, growth that cannot happen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ghostkit.config import ROUNDING, RunConfig
from ghostkit.costs import evaluating
from ghostkit.data import ImageData
from ghostkit.errors import GhostkitError
from ghostkit.growth.candidates import trained
from ghostkit.growth.depth import link_places
from ghostkit.growth.sites import Site, sites
from ghostkit.nn.detectors import Dense
from ghostkit.nn.ghost import GhostModule
from ghostkit.tasks import Task

__all__ = ["check_accepts", "check_can_grow", "check_resolution", "never_due", "one_image"]

AXES = {"block": "depth", "stage": "stream"}  # where kinds of edit grow; the others grow at width sites


def check_accepts(model: nn.Module, task: Task, config: RunConfig, data: ImageData, example: Tensor) -> None:
    """Raise a GhostkitError unless ``model`` takes the images of ``data`` and puts out what its task asks for.

    Args:
        model: the network.
        task: what it is to learn.
        config: quoted in the message.
        data: the data set.
        example: one of its images (1, C, H, W).
    """
    try:
        with evaluating(model):
            output = model(example)
            if isinstance(model, Dense):
                model.places(example)  # a detector's images have legal sizes
    except RuntimeError as error:
        raise GhostkitError(
            f"model={config.model!r} does not accept images of shape {tuple(example.shape[1:])}: {error}"
        ) from None
    expected = task.mistaken(output, example, len(data.classes))
    if expected is not None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise GhostkitError(
            f"model={config.model!r} with model_options={config.model_options} puts out {shape} for one image; "
            f"expected {expected} of {data.name!r}"
        )


def check_resolution(config: RunConfig) -> None:
    """Raise a GhostkitError where small images are asked for, and no moment up to which they are.

    New runs alone are asked: a configuration that says so is read from the folders of older ones.
    """
    if config.resolution < 1 and not config.resolution_until:
        raise GhostkitError(
            f"resolution={config.resolution} with resolution_until=0.0 makes no image smaller; set the share of the "
            "run up to which they are, such as resolution_until=0.25"
        )


def check_can_grow(model: nn.Module, config: RunConfig) -> None:
    """Raise a GhostkitError unless ``model`` has a site for the kinds of edit that may be applied, not all frozen."""
    if config.when == "never":
        return
    known = sites(model)
    axes = {site.axis for site in known}
    places = {kind: AXES.get(kind, "width") in axes for kind in config.kinds}
    if "link" in places:
        places["link"] = bool(link_places(model, known))
    if "layer" in places:
        modules = [model.get_submodule(site.id) for site in known if site.axis == "width"]
        places["layer"] = any(module.ghosts for module in modules if isinstance(module, GhostModule))
    if not any(places.values()):
        found = f"only sites of {', '.join(sorted(axes))}" if axes else "no site"
        raise GhostkitError(
            f"model={config.model!r} has {found} and cannot grow by kinds={config.kinds}; choose others, or set "
            "when='never'"
        )
    if not any(may_learn(site, model, config.kinds) for site in known):
        raise GhostkitError(
            f"all that could grow in model={config.model!r} by kinds={config.kinds} would join frozen parts and learn "
            "nothing; let some of their parameters require gradients, choose other kinds, or set when='never'"
        )


def may_learn(site: Site, model: nn.Module, kinds: Sequence[str]) -> bool:
    """Return whether one of ``kinds`` grows at ``site``, and would join parts that are trained."""
    if not any(AXES.get(kind, "width") == site.axis for kind in kinds):
        return False
    return trained(model.get_submodule(path) for path in (site.id, *site.consumers))


def never_due(config: RunConfig, steps: int) -> str | None:
    """Return why a run of so many steps never gets to grow; None if it does."""
    if config.when == "never":
        return None
    ends = [step / steps for step in range(1, steps + 1) if step / steps <= config.grow_until]
    if not any(config.grow_from <= end for end in ends):
        return (
            f"no growth: none of the run's {steps} steps ends between grow_from={config.grow_from} and "
            f"grow_until={config.grow_until}; train longer, or widen the window"
        )
    if config.when == "plateau":
        every = config.evaluate_every  # a step that ends beyond a multiple of it is evaluated, and so is the last one
        looks = {math.ceil(end / every - ROUNDING) if end == 1 else int(end / every + ROUNDING) for end in ends} - {0}
        if len(looks) <= config.patience:
            return (
                f"no growth: patience={config.patience} is not reached by the {len(looks)} evaluations that fit into "
                f"the run's {steps} steps up to grow_until={config.grow_until}; train longer, or lower it"
            )
    return None


def one_image(data: ImageData) -> Tensor:
    """Return one image (1, C, H, W) of the data."""
    return data.test.images(torch.arange(1))
