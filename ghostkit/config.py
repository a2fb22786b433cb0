"""Every knob of a run, in one frozen, validated record.

The notebooks' parameters cells mirror these names one to one, so a parameter means the same thing in a notebook, in a
file and on the command line. Nothing here trains or imports torch: a configuration is plain data. A run stores it as
JSON; people write it as YAML.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ghostkit.errors import GhostkitError
from ghostkit.files import write_atomically
from ghostkit.reading import POWER_OF_TEN, PlainLoader, checked_plain, file_text, parsed_json

__all__ = ["RunConfig"]

ROUNDING = 1e-9
UNTIL = 0.12  # where growth ends by default
UNTIL_PLATEAU = 0.4  # when it waits for a plateau, which takes some evaluations to be seen
LOOKS = 2**53  # evaluations; whole numbers end there for a float
LARGEST = 100_000  # characters of a stored configuration; one with all its comments has 8,000
BLIND = ("random", "round-robin")  # where growth may go without asking for gains
YAML_SUFFIXES = (".yaml", ".yml")
HEADS: dict[str, tuple[str, ...]] = {
    "classification": (),
    "detection": ("fcos", "retinanet"),
    "segmentation": ("lraspp", "deeplabv3"),
}


class RunConfig(BaseModel):
    """What one run trains, on what, how it grows, and when it stops.

    Raises:
        GhostkitError: if a name is unknown or a value does not fit; the message quotes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What is learned, and from what.
    task: Literal["classification", "detection", "segmentation"] = Field(
        "classification", description="what is said of an image: its class, boxes with classes, or each pixel's class"
    )
    data: str = Field("digits", description="a name from `ghostkit data`, or folder:, coco:, voc: or masks: and paths")
    data_root: str | None = Field(None, description="folder that holds, or receives, the data set's files")
    train_samples: int | None = Field(None, ge=2, description="train on the first n images only (all when None)")
    test_samples: int | None = Field(None, ge=2, description="evaluate on the first n test images only (all when None)")
    validation_samples: int | None = Field(
        None, ge=1, description="hold out n training images, and evaluate on them instead of the test images"
    )
    size: int | None = Field(
        None,
        ge=8,
        description="side of the images in pixels; when None as an array has it, and of image files 64, "
        "128 with boxes or masks, 224 of imagenet",
    )
    augment: Literal["none", "crop", "crop+flip"] = Field("none", description="random padding crop, and mirror images")

    # What is grown.
    model: str = Field("seedling", description="a name that ghostkit.build knows")
    model_options: dict[str, Any] = Field(default_factory=dict, description="further arguments of ghostkit.build")
    head: Literal["fcos", "retinanet", "lraspp", "deeplabv3"] | None = Field(
        None, description="of detection fcos or retinanet, of segmentation lraspp or deeplabv3; the first when None"
    )
    head_options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the head")
    weights: str | None = Field(None, description="start from this safetensors file, or from this checkpoint's folder")

    shape: str | None = Field(
        None, description="start from the shape that the run in this folder grew to, its weights drawn afresh"
    )

    # How it is trained.
    epochs: float = Field(36.0, gt=0, description="passes over the training images; ignored when compute is set")
    compute: float | None = Field(None, gt=0, description="stop at this many training MACs, scoring included")
    batch_size: int = Field(64, ge=2, description="images per step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="sgd carries momentum 0.9")
    learning_rate: float = Field(0.1, gt=0, description="held up to anneal_from of the run, then falling to zero")
    weight_decay: float = Field(5e-4, ge=0, description="L2 for sgd and adam, decoupled for adamw")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    ema: float | None = Field(None, gt=0, lt=1, description="evaluate a moving average of the weights, decaying so")
    anneal_from: float = Field(0.6, ge=0, le=1, description="share of the run after which the rate falls to zero")

    # When it grows, where, how, how much.
    when: Literal["interval", "plateau", "gain-ratio", "never"] = Field(
        "interval", description="what triggers a growth event"
    )
    grow_every: float = Field(0.01, gt=0, le=1, description="interval: share of the run between two growth events")
    grow_from: float = Field(0.01, ge=0, le=1, description="no growth event before this share of the run")
    grow_until: float = Field(
        UNTIL, ge=0, le=1, description="no growth event after this share of the run; 0.4 by default with plateau"
    )
    patience: int = Field(3, ge=1, description="plateau: evaluations without a better training loss")
    ratio: float = Field(1.0, ge=0, description="gain-ratio: grow above this ratio of new gain to the gain there is")
    where: Literal[
        "gain-per-mac",
        "gain-per-parameter",
        "gain-per-millisecond",
        "round-robin",
        "random",
        "activation-rank",
        "sprout",
    ] = Field("gain-per-mac", description="how candidates are ranked")
    score: Literal["fisher", "raw", "scaled", "residual", "whitened", "none"] = Field(
        "fisher", description="what a candidate's gain is; none, for random and round robin, predicts none"
    )
    how: Literal["svd", "gradmax", "random", "split", "clone"] = Field("svd", description="how new weights start")
    kinds: tuple[Literal["branch", "intrinsic", "stage", "block", "layer", "link"], ...] = Field(
        ("intrinsic", "stage", "block"), min_length=1, description="the kinds of edit that may be applied"
    )
    kernel_sizes: tuple[Literal[3, 5, 7], ...] = Field(
        (3, 5), min_length=1, description="kernels a new branch may have"
    )
    share: float = Field(0.2, gt=0, le=1, description="share of the budget's room that one growth event may spend")
    together: bool = Field(
        True, description="a residual stream and the hidden maps of its blocks grow in one step, as one candidate"
    )
    window: float = Field(
        0.02, gt=0, le=1, description="share of the run for which sprouts are trained or an event watched"
    )
    roll_back: float | None = Field(
        None, ge=0, description="take an event back if the loss is higher by so many nats a window later"
    )
    give_up: int | None = Field(4, ge=1, description="growth is over after so many looks in a row that brought nothing")
    images_per_parameter: float | None = Field(
        None, gt=0, description="with compute: growth leaves about so many training images for each parameter"
    )
    warm_up: int = Field(0, ge=0, description="steps over which the learning rate of new weights rises to that of all")
    newcomer_rate: Literal["constant", "variance-transfer"] = Field(
        "constant", description="learning rate of new weights: that of all, or in proportion to their norm"
    )
    resolution: float = Field(1.0, gt=0, le=1, description="side of the training images at first, as a share")
    resolution_until: float = Field(
        0.0, ge=0, le=1, description="share of the run after which images have their full side"
    )
    budget_params: int | None = Field(None, gt=0, description="parameters that growth may not exceed")
    budget_macs: int | None = Field(None, gt=0, description="MACs per image that growth may not exceed")
    budget_milliseconds: float | None = Field(
        None, gt=0, description="latency that growth may not exceed, as reckoned from measured layers"
    )
    budget_factor: float = Field(
        6.0, ge=1, description="when no budget is set: this many times the MACs of the seedling, its head left out"
    )
    probe_samples: int = Field(128, ge=8, description="training images that candidates are scored on")

    # How it is run.
    seed: int = Field(0, ge=0, description="one seed, one result")
    device: str = Field("auto", description="auto, cpu, cuda, or what lightning-fabric calls an accelerator")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; None: one for a small seedling, PyTorch's own number otherwise"
    )
    micro_batches: int = Field(
        1, ge=1, description="parts that a batch is taken in, one after the other; BN sees each by itself"
    )
    compile: bool = Field(False, description="compile the network, block by block; worth it for long runs only")
    precision: str = Field("32-true", description="a precision of lightning-fabric: 32-true, bf16-mixed, ...")
    evaluate_every: float = Field(0.05, gt=0, le=1, description="share of the run between two evaluations")
    keep_checkpoints: int = Field(2, ge=1, description="last checkpoints kept, besides the best and those at growth")

    def __init__(self, **values: Any) -> None:
        unknown = [name for name in values if name not in type(self).model_fields]
        if unknown:
            near = difflib.get_close_matches(unknown[0], type(self).model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(type(self).model_fields)}"
            raise GhostkitError(f"unknown parameter {unknown[0]!r}{hint}")
        values.setdefault("grow_until", end_by_default(values.get("when")))
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [
                f"parameter {'.'.join(map(str, e['loc'])) or 'combination'} = {e['input']!r}: {e['msg']}"
                if e["loc"]
                else e["msg"]
                for e in error.errors()
            ]
            raise GhostkitError("; ".join(lines)) from None

    @model_validator(mode="after")
    def _growth_window_is_open(self) -> RunConfig:
        if self.when != "never" and self.grow_from > self.grow_until:
            raise ValueError(
                f"grow_from={self.grow_from} lies after grow_until={self.grow_until}, so growth could never happen; "
                "set grow_from below grow_until, or when='never'"
            )
        if self.when == "plateau":
            shares = min(self.grow_until / self.evaluate_every, LOOKS)  # the end of a run is evaluated in any case
            looks = math.ceil(shares - ROUNDING) if self.grow_until == 1 else int(shares + ROUNDING)
            if looks <= self.patience:
                raise ValueError(
                    f"patience={self.patience} is not reached by the {looks} evaluations up to "
                    f"grow_until={self.grow_until}, so growth could never happen; lower it, or evaluate_every"
                )
        if self.score == "none" and (self.where not in BLIND or self.when == "gain-ratio"):
            raise ValueError(
                f"score='none' predicts no gain, so where={self.where!r} with when={self.when!r} has none to go by; "
                f"set where to {' or '.join(map(repr, BLIND))}, or another score"
            )
        if self.where == "sprout" and self.roll_back is not None:
            raise ValueError("where='sprout' settles its events by itself; leave roll_back out")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> RunConfig:
        if self.weights is not None and self.shape is not None:
            raise ValueError(f"weights={self.weights!r} and shape={self.shape!r}: a run starts from one of them")
        return self

    @model_validator(mode="after")
    def _head_fits_the_task(self) -> RunConfig:
        fitting = HEADS[self.task]
        if self.head is not None and self.head not in fitting:
            raise ValueError(
                f"head={self.head!r} is none of task={self.task!r}; expected {' or '.join(fitting) or None}"
            )
        if self.head_options and not fitting:
            raise ValueError(f"head_options={self.head_options} without a head: task={self.task!r} has none")
        if self.resolution < 1 and self.task != "classification":
            raise ValueError(
                f"resolution={self.resolution} with task={self.task!r}: only images to be classified are made smaller"
            )
        if self.label_smoothing and self.task == "detection":
            raise ValueError(f"label_smoothing={self.label_smoothing} with task='detection': its focal loss has none")
        return self

    def changed(self, **values: Any) -> RunConfig:
        """Return this configuration with some values changed, validated like any other.

        Where ``when`` changes and ``grow_until`` was what it is by default, it becomes the default of the new one.
        """
        known = self.model_dump()
        if known["grow_until"] == end_by_default(known["when"]):
            del known["grow_until"]
        return self.parse({**known, **values})

    @classmethod
    def parse(cls, values: dict[str, Any]) -> RunConfig:
        """Return the configuration that ``values`` describe.

        Args:
            values: names and values of the fields to set; the others keep their defaults.

        Raises:
            GhostkitError: if a name is unknown or a value does not fit.
        """
        return cls(**values)

    @classmethod
    def read(cls, path: str | Path, links: bool = True) -> RunConfig:
        """Return the configuration stored at ``path``: as YAML in a file so called, as JSON in any other.

        Args:
            path: of the file.
            links: whether it may be a link.

        Raises:
            GhostkitError: if it cannot be read, if a name is unknown, or if a value does not fit.
        """
        try:
            text = file_text(path, LARGEST, links)
            written_by_hand = Path(path).suffix.lower() in YAML_SUFFIXES
            values = checked_plain(yaml.load(text, PlainLoader)) if written_by_hand else parsed_json(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise GhostkitError(f"cannot read the configuration {str(path)!r}: {error}") from None
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            held = "names that are no text" if isinstance(values, dict) else type(values).__name__
            raise GhostkitError(
                f"the configuration {str(path)!r} holds {held}, expected an object: names and values, as in epochs: 3"
            )
        try:
            return cls.parse(values)
        except GhostkitError as error:
            raise GhostkitError(f"cannot use the configuration {str(path)!r}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Write this configuration to ``path``: as YAML into a file so called, as JSON into any other.

        Raises:
            GhostkitError: if it cannot be written.
        """
        by_hand = Path(path).suffix.lower() in YAML_SUFFIXES
        write_atomically(path, self.to_yaml() if by_hand else self.model_dump_json(indent=1))

    def to_yaml(self) -> str:
        """Return this configuration as YAML, one line a parameter below what it means, to be changed by hand."""
        fields = type(self).model_fields
        values = {name: _as_yaml(value) for name, value in self.model_dump(mode="json").items()}
        return "\n".join(f"# {fields[name].description}\n{name}: {value}\n" for name, value in values.items())


def end_by_default(when: Any) -> float:
    """Return the ``grow_until`` that goes with ``when``."""
    return UNTIL_PLATEAU if when == "plateau" else UNTIL


def _as_yaml(value: Any) -> str:
    """Return a value in YAML's flow style, which stands behind its name on one line."""
    listed = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, width=math.inf, allow_unicode=True)
    return listed.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Quotes a text that looks like a number such as 1e-3, or that holds what YAML takes for the end of a line."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_implicit_resolver(*POWER_OF_TEN)
_Dumper.add_representer(str, _text)
