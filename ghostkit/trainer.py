"""The training loop, as an iterator of events.

Pausing is not asking for the next event; stopping is dropping the iterator. The loop itself knows nothing of screens:
a notebook, a widget and a command all consume the same events. What a run writes goes into its folder through
:mod:`ghostkit.runs`; what grows, through :mod:`ghostkit.growth`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ghostkit import cost
from ghostkit.checkpoint import load, load_state, save
from ghostkit.config import RunConfig
from ghostkit.data import ImageData, Split, batch_count, batches
from ghostkit.data import load as load_data
from ghostkit.errors import GhostkitError
from ghostkit.growth.candidates import candidates
from ghostkit.growth.grow import apply_edits
from ghostkit.growth.history import GrowthEvent, history_of
from ghostkit.growth.policy import Budget, Policy, PolicyState, choose, due, observe_loss
from ghostkit.nn.zoo import build
from ghostkit.runs import RunFolder
from ghostkit.tasks.classification import Scores, cross_entropy, evaluate

__all__ = ["CheckpointSaved", "Evaluated", "Finished", "Grown", "StepDone", "Trainer"]

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class StepDone:
    """One optimizer step was taken.

    Args:
        step: steps taken so far.
        progress: share of the run done, 0 to 1.
        loss: loss of the step's batch, in nats, still on the device.
    """

    step: int
    progress: float
    loss: Tensor


@dataclass(frozen=True)
class Evaluated:
    """The test split was gone through; ``row`` is what the metrics file got, ``scores`` the whole of it."""

    row: dict[str, Any]
    scores: Scores


@dataclass(frozen=True)
class Grown:
    """A growth event happened, or was due and brought nothing (then it has no edits and says why)."""

    event: GrowthEvent


@dataclass(frozen=True)
class CheckpointSaved:
    """The run can be resumed from ``folder``."""

    folder: Path


@dataclass(frozen=True)
class Finished:
    """The run is over; ``result`` is what its folder's result.json holds."""

    result: dict[str, Any]


Event = StepDone | Evaluated | Grown | CheckpointSaved | Finished


@dataclass
class Progress:
    """The counters of a run, all of them plain numbers.

    Args:
        step: optimizer steps taken.
        epoch: passes over the training images begun.
        batch: batches of the current epoch taken.
        compute: training MACs spent, scoring included.
        seconds: time spent in the loop, over all sittings.
        next_evaluation: share of the run at which the next evaluation is due.
        losses: sum of the batch losses since the last evaluation, each times its images.
        images: images since then.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    compute: float = 0.0
    seconds: float = 0.0
    next_evaluation: float = 0.0
    losses: float = 0.0
    images: int = 0


class Trainer:
    """Trains and grows one network, and yields an event for everything that happens.

    Args:
        config: every knob of the run.
        folder: the run folder; nothing is written when None. A folder that holds a run of the same configuration is
            resumed from its last checkpoint.
        data: the images, where they are already loaded; ``config.data`` otherwise.

    Raises:
        GhostkitError: if the data, the model or the budget do not fit, before anything is trained.

    >>> for event in Trainer(RunConfig(data="digits"), "runs/first"):
    ...     if isinstance(event, Grown): print(event.event.edits)
    """

    def __init__(self, config: RunConfig, folder: str | Path | None = None, data: ImageData | None = None) -> None:
        self.config = config
        self.data = data or load_data(
            config.data, config.data_root, train_samples=config.train_samples, test_samples=config.test_samples
        )
        accelerator = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)  # type: ignore[arg-type]
        except Exception as error:  # fabric raises ValueError, RuntimeError and an exception of its own
            raise GhostkitError(
                f"device={config.device!r} with precision={config.precision!r} cannot be used: {error}"
            ) from None
        self.loss = cross_entropy(config.label_smoothing)
        self.policy = Policy(**{name: getattr(config, name) for name in Policy.__dataclass_fields__})
        self.policy_state = PolicyState()
        self.progress = Progress()
        self.latency = cost.LatencyTable(batch=1)
        self.run = None if folder is None else RunFolder(folder)
        # Growth draws from a generator of its own: an event that adds nothing leaves the run as it would have been.
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        checkpoint = None if self.run is None else self.run.begin(config)
        if checkpoint is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model = build(
                    config.model,
                    num_classes=len(self.data.classes),
                    in_channels=self.data.channels,
                    **config.model_options,
                )
            optimizer = self._make_optimizer(model)
        else:
            model, optimizer = load(checkpoint, self._optimizer_class)
        # Surgery works on the raw model and optimizer; the wrappers see the same parameters, which keep their identity.
        self.model: nn.Module = model.to(self.fabric.device)
        self.optimizer: torch.optim.Optimizer = optimizer
        self._check_accepts_the_images()
        if checkpoint is not None:
            self._restore(checkpoint)
        self._wrapped, self._stepper = self.fabric.setup(self.model, self.optimizer)
        self._wrapped.train()  # measuring puts it into eval mode for its own time only
        self.probe = self._probe()
        self.macs = cost.macs(self.model, self.probe[0])
        self.params = cost.params(self.model)
        if checkpoint is None:
            self.seedling = self._costs()
            self.budget = self._make_budget()
            if self.config.when != "never":
                self.budget.check(self.seedling)
            self._write_history()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        """Yield everything that happens until the run is over.

        Raises:
            GhostkitError: if the loss is not finite; the last checkpoint is kept.
        """
        progress = self.progress
        clock = time.perf_counter()

        def tick() -> None:
            nonlocal clock
            now = time.perf_counter()
            progress.seconds += now - clock
            clock = now

        if progress.step == 0:
            yield self._evaluate()
            yield from self._save()
        while self.done < 1:
            for images, targets in self._epoch():
                self._set_rate()
                loss = self._step(images, targets)
                tick()
                yield StepDone(progress.step, self.done, loss)
                clock = time.perf_counter()  # what the consumer does is not the run's time
                worth_saving = False
                if self.done >= progress.next_evaluation or self.done >= 1:
                    evaluated = self._evaluate()
                    tick()
                    yield evaluated
                    clock = time.perf_counter()
                    worth_saving = True
                if due(self.policy, self.policy_state, self.done):
                    event = self._grow()
                    tick()
                    yield Grown(event)
                    clock = time.perf_counter()
                    worth_saving = True
                if worth_saving:
                    yield from self._save()
                    clock = time.perf_counter()
                if self.done >= 1:
                    break
            else:
                progress.epoch, progress.batch = progress.epoch + 1, 0
        yield Finished(self._finish())

    def train(self) -> dict[str, Any]:
        """Run to the end without looking, and return the result."""
        for event in self:
            if isinstance(event, Finished):
                return event.result
        raise AssertionError("a run ends with Finished")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training images."""
        return batch_count(len(self.data.train), self.config.batch_size)

    @property
    def epoch(self) -> float:
        """Passes over the training images so far."""
        return self.progress.step / self.steps_per_epoch

    @property
    def done(self) -> float:
        """Share of the run done, 0 to 1: of its compute where that is limited, of its epochs otherwise."""
        if self.config.compute is not None:
            return min(self.progress.compute / self.config.compute, 1.0)
        return min(self.progress.step / max(1, round(self.config.epochs * self.steps_per_epoch)), 1.0)

    # -- one step ----------------------------------------------------------------------------------------------------

    def _epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        yield from self._on_device(
            batches(
                self.data.train,
                config.batch_size,
                seed=config.seed,
                epoch=self.progress.epoch,
                start=self.progress.batch,
                augment=config.augment,
            )
        )

    def _on_device(self, pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in pairs:
            yield images.to(self.fabric.device), targets.to(self.fabric.device)

    def _step(self, images: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss(self._wrapped, images, targets)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise GhostkitError(
                f"the loss became {value} at step {self.progress.step + 1} with learning_rate="
                f"{self.config.learning_rate}; the last checkpoint is kept. Try a third of the learning rate, or "
                "precision='32-true'"
            )
        self._stepper.step()
        progress = self.progress
        progress.step += 1
        progress.batch += 1
        # Forward, and backward to inputs and to weights: three times the forward's MACs.
        progress.compute += 3.0 * self.macs * len(images)
        progress.losses += value * len(images)
        progress.images += len(images)
        return loss.detach()

    def _set_rate(self) -> None:
        """Hold the learning rate while the network may grow, then let it fall to zero along a half cosine."""
        start = self.config.anneal_from
        share = 0.0 if self.done <= start else (self.done - start) / (1 - start)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        settings: dict[str, Any] = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
        if self.config.optimizer == "sgd":
            settings["momentum"] = 0.9
        return self._optimizer_class(model.parameters(), **settings)

    @property
    def _optimizer_class(self) -> Any:
        return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.config.optimizer]

    # -- growth ------------------------------------------------------------------------------------------------------

    def candidates(self) -> pd.DataFrame:
        """Return what could be grown now, best first; the MACs that scoring took count as spent."""
        config = self.config
        frame = candidates(
            self.model,
            *self.probe,
            self.loss,
            kinds=config.kinds,
            kernel_sizes=config.kernel_sizes,
            how=config.how,
            latency=self.latency,
            generator=self.generator,
        )
        self.progress.compute += frame.attrs["macs"]
        return frame

    def _grow(self) -> GrowthEvent:
        images, targets = self.probe
        before = self._costs()
        frame = self.candidates()
        room = self.budget.room(before)
        whole = self.budget.room(self.seedling)
        allowance = {unit: self.policy.share * size for unit, size in whole.items()}
        choice = choose(frame, self.policy, self.policy_state, room, allowance, self.generator)
        context = {
            "reason": choice.reason,
            "step": self.progress.step,
            "epoch": round(self.epoch, 4),
            "progress": round(self.done, 6),
            "compute": self.progress.compute,
            "candidates": tuple(candidate_rows(frame, choice.rows)),
        }
        edits = [frame["edit"].iloc[row] for row in choice.rows]
        started = time.perf_counter()
        if edits:
            loss_before = self._probe_loss()
            event = apply_edits(self.model, edits, self.optimizer, images, None, self.generator, **context)
            self.params, self.macs = event.params_after, event.macs_after or self.macs
            # The measurements around an event are passes too: outputs and loss, before and after, and BN statistics.
            self.progress.compute += 5.0 * self.macs * len(images)
            event = replace(event, loss_before=loss_before, loss_after=self._probe_loss())
        else:
            costs = {"params_before": self.params, "params_after": self.params}
            event = GrowthEvent((), **costs, macs_before=self.macs, macs_after=self.macs, **context)
        clock = {
            "seconds": time.perf_counter() - started,
            "milliseconds_before": before["milliseconds"],
            "milliseconds_after": self._costs()["milliseconds"],
        }
        event = replace(event, clock=clock)
        history_of(self.model).events.append(event)
        self._write_history()
        return event

    def _probe(self) -> tuple[Tensor, Tensor]:
        """Return the images and labels that candidates are scored on: the same ones through the whole run."""
        count = min(self.config.probe_samples, len(self.data.train))
        chosen = torch.randperm(
            len(self.data.train), generator=torch.Generator().manual_seed(self.config.seed + 2)
        )[:count]
        device = self.fabric.device
        return self.data.train.images(chosen).to(device), self.data.train.labels[chosen].to(device)

    def _probe_loss(self) -> float:
        with cost.evaluating(self.model):
            return float(self.loss(self.model, *self.probe))

    def _costs(self) -> dict[str, float]:
        """Return what the network costs now, in the units of a budget."""
        layers = cost.layer_costs(self.model, self.probe[0][:1]).values()
        for layer in layers:
            self.latency.measure(layer.family, self.fabric.device)
        return {
            "params": cost.params(self.model),
            "macs": self.macs,
            "milliseconds": sum(self.latency.milliseconds(layer) for layer in layers),
        }

    def _make_budget(self) -> Budget:
        config = self.config
        if config.budget_params is None and config.budget_macs is None and config.budget_milliseconds is None:
            return Budget(macs=config.budget_factor * self.seedling["macs"])
        return Budget(config.budget_params, config.budget_macs, config.budget_milliseconds)

    # -- measuring, saving, finishing --------------------------------------------------------------------------------

    def _scores(self, split: Split) -> Scores:
        pairs = batches(split, EVALUATION_BATCH, shuffle=False)
        return evaluate(self.model, self._on_device(pairs), len(self.data.classes))

    def _evaluate(self) -> Evaluated:
        progress = self.progress
        scores = self._scores(self.data.test)
        common = {
            "step": progress.step,
            "epoch": round(self.epoch, 4),
            "progress": round(self.done, 6),
            "compute": progress.compute,
            "seconds": progress.seconds,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "params": self.params,
            "macs": self.macs,
        }
        rows = []
        if progress.images:
            # The loss that was trained on, averaged since the last row; the accuracy now, on the probe's images.
            mean = progress.losses / progress.images
            train = evaluate(self.model, [self.probe], len(self.data.classes))
            rows.append({**common, "split": "train", "loss": mean, "accuracy": train.accuracy})
            observe_loss(self.policy_state, mean)
            progress.losses, progress.images = 0.0, 0
        row = {**common, "split": "test", "loss": scores.loss, "accuracy": scores.accuracy}
        rows.append(row)
        while progress.next_evaluation <= self.done:
            progress.next_evaluation += self.config.evaluate_every
        if self.run is not None:
            self.run.add_metrics(rows)
        return Evaluated(row, scores)

    def _write_history(self) -> None:
        if self.run is not None:
            self.run.write_history(history_of(self.model))

    def _save(self) -> Iterator[CheckpointSaved]:
        if self.run is None:
            return
        state = {
            "progress": asdict(self.progress),
            "policy": asdict(self.policy_state),
            "latency": self.latency.to_json(),
            "budget": asdict(self.budget),
            "seedling": self.seedling,
            "metrics": self.run.metrics_written,
        }
        tensors = {"growth_random": self.generator.get_state(), "random": torch.get_rng_state()}
        folder = save(self.model, self.run.checkpoint_folder(self.progress.step), self.optimizer, state, tensors)
        grown_at = {event.step for event in history_of(self.model).events if event.edits}
        self.run.prune_checkpoints(keep=self.config.keep_checkpoints, always=grown_at | {0})
        yield CheckpointSaved(folder)

    def _restore(self, checkpoint: Path) -> None:
        state, tensors = load_state(checkpoint)
        try:
            self.progress = Progress(**state["progress"])
            self.policy_state = PolicyState(**state["policy"])
            self.latency = cost.LatencyTable.from_json(state["latency"])
            self.budget = Budget(**state["budget"])
            self.seedling = state["seedling"]
            self.generator.set_state(tensors["growth_random"])
            torch.set_rng_state(tensors["random"])
            written = int(state["metrics"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise GhostkitError(f"{str(checkpoint)!r} was not saved by a trainer: {error!r}") from None
        assert self.run is not None
        self.run.cut_metrics(written)
        self._write_history()

    def _check_accepts_the_images(self) -> None:
        example = self.data.test.images(torch.arange(1)).to(self.fabric.device)
        try:
            with cost.evaluating(self.model):
                self.model(example)
        except RuntimeError as error:
            raise GhostkitError(
                f"model={self.config.model!r} does not accept images of shape {tuple(example.shape[1:])}: {error}"
            ) from None

    def _finish(self) -> dict[str, Any]:
        scores = self._scores(self.data.test)
        measured = cost.cost(self.model, self.probe[0][:1])
        events = history_of(self.model).events
        result = {
            "accuracy": scores.accuracy,
            "accuracy_top5": scores.accuracy_top5,
            "loss": scores.loss,
            "params": self.params,
            "macs": self.macs,
            "milliseconds": measured.milliseconds,
            "compute": self.progress.compute,
            "steps": self.progress.step,
            "growth_events": sum(1 for event in events if event.edits),
            "edits": [str(edit) for event in events for edit in event.edits],
            "seconds": self.progress.seconds,
        }
        if self.run is not None:
            self.run.write_result(result)
        return result


def candidate_rows(frame: pd.DataFrame, chosen: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the candidates as plain rows, with those chosen marked."""
    for number, row in enumerate(frame.to_dict("records")):
        yield {**row, "edit": str(row["edit"]), "chosen": number in chosen}
