"""The training loop, as an iterator of events.

Pausing is not asking for the next event; stopping is dropping the iterator. The loop itself knows nothing of screens:
a notebook, a widget and a command all consume the same events. What a run writes goes into its folder through
:mod:`ghostkit.runs`; what grows, through :mod:`ghostkit.growth`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.averaging import moving_average
from ghostkit.checkpoint import load
from ghostkit.checks import check_accepts, check_can_grow, check_resolution, never_due, one_image
from ghostkit.config import RunConfig
from ghostkit.costs import TRAINING_PASS, head_macs, head_sizes, latency, macs
from ghostkit.data import ImageData, Split, batch_count, batches
from ghostkit.data.fingerprint import fingerprint
from ghostkit.data.splits import resized
from ghostkit.devices import OPTIMIZERS, as_precise, as_taken, fix_threads, make_fabric, make_optimizer, move_state
from ghostkit.engine import Engine
from ghostkit.errors import GhostkitError
from ghostkit.events import CheckpointSaved, Evaluated, Event, Finished, Grown, StepDone
from ghostkit.growth.edits import Edit
from ghostkit.growth.history import GrowthEvent, history_of
from ghostkit.growth.policy import (
    ROUNDING,
    Budget,
    Policy,
    due,
    due_to_settle,
    observe_loss,
    side_share,
)
from ghostkit.growth.rates import NewcomerRates
from ghostkit.holding import Alone
from ghostkit.processes import agreed, average_statistics, check_shares
from ghostkit.progress import Progress
from ghostkit.resuming import resume, save_run, seedling_macs
from ghostkit.run_folder import RunFolder
from ghostkit.runs import Run
from ghostkit.start import images_of, network_of
from ghostkit.steering import differing, follow, steered
from ghostkit.stepping import LEAST, Stepper
from ghostkit.tasks import TASKS, Scores

__all__ = ["Trainer", "train"]

EVALUATION_BATCH = 256


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
        self.task = TASKS[config.task]
        self.data = data or images_of(config)
        self.fabric = make_fabric(config)
        self.loss = self.task.loss(config.label_smoothing)
        self.progress = Progress()
        self.changed: dict[str, Any] = {}  # what was steered by hand since the start
        self._small_macs: tuple[tuple[int, ...], int] | None = None
        self._alone = Alone("this Trainer trains already, in another loop, cell or thread; let that one end or stop it")
        self._worth_saving = False  # something was measured or grown, perhaps by hand, that no checkpoint knows of
        check_shares(len(self.data.train), config.batch_size, config.micro_batches, self.fabric.world_size, LEAST)
        self.run = None if folder is None or self.fabric.global_rank else RunFolder(folder)
        checkpoint = agreed(self.fabric, None if self.run is None else self.run.begin(config, fingerprint(self.data)))
        if checkpoint is None:
            model = network_of(config, self.data)
            optimizer = make_optimizer(config, model)
        else:
            model, optimizer = load(checkpoint, OPTIMIZERS[config.optimizer])
        # Surgery works on the raw model and optimizer; the wrappers see the same parameters, which keep their identity.
        self.model: nn.Module = as_precise(self.fabric, model)
        self.optimizer: torch.optim.Optimizer = optimizer
        move_state(optimizer, self.fabric.device)
        check_accepts(self.model, self.task, config, self.data, as_taken(one_image(self.data), self.model))
        fix_threads(config, self.fabric.device, lambda: config.batch_size * self._macs_at_start(checkpoint))
        self.stepper = Stepper(
            self.fabric, self.model, self.optimizer, self.loss, config.seed, config.micro_batches, config.compile
        )
        self.parts = self.stepper.parts  # that the history knows of; the stepper takes more once memory has run out
        self.average = None if config.ema is None else moving_average(self.model, config.ema)
        rates = None
        if config.warm_up or config.newcomer_rate != "constant":
            rates = NewcomerRates(self.model, config.warm_up, config.newcomer_rate == "variance-transfer")
        self.engine = Engine(
            self.model,
            self.optimizer,
            self.loss,
            self._probe(),
            Policy(**{name: getattr(config, name) for name in Policy.__dataclass_fields__}),
            Budget(config.budget_params, config.budget_macs, config.budget_milliseconds),
            {name: getattr(config, name) for name in ("kinds", "kernel_sizes", "how", "score")},
            torch.Generator().manual_seed(config.seed + 1),
            average=self.average,
            rates=rates,
            agree=partial(agreed, self.fabric),
            compute=config.compute,
        )
        if checkpoint is None:
            self._set_budget()
            check_resolution(config)
            check_can_grow(self.model, config)
            history_of(self.model).image = tuple(self.engine.probe[0].shape[1:])
            if (reason := never_due(config, self._steps)) is not None:
                self.engine.note(reason, **self._moment())
        else:
            resume(self, checkpoint)
        self._write_history()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Generator[Event, None, None]:
        """Yield everything that happens until the run is over.

        Raises:
            GhostkitError: if the loss is not finite; the last checkpoint is kept. If the run goes on elsewhere already.
        """
        with self._alone, nullcontext() if self.run is None else self.run.at_work():
            yield from self._going_on()

    def _going_on(self) -> Iterator[Event]:
        """Yield the events of the run; what the consumer does between two of them is not the run's time."""
        with closing(self._events()) as events:
            while True:
                began = time.perf_counter()
                event = next(events, None)
                if not isinstance(event, CheckpointSaved):  # which does not know how long it took
                    self.progress.seconds += time.perf_counter() - began
                if event is None:
                    return
                yield event

    def _events(self) -> Generator[Event, None, None]:
        progress = self.progress
        if progress.next_evaluation == 0:  # nothing has been measured yet
            yield self._evaluate()
            yield from self._save()
        elif progress.step:  # it may go on from amidst what was due after a step
            yield from self._after_step()
        while self.done < 1:
            for images, targets in self._epoch():
                self._set_rate()
                event = self._resolution(images)
                if event is not None:
                    yield Grown(event)
                loss = self._step(images, targets)
                yield StepDone(progress.step, self.done, loss)
                yield from self._after_step()
                if self.done >= 1:
                    break
            else:
                progress.epoch, progress.batch = progress.epoch + 1, 0
        if self._worth_saving:  # the last checkpoint was saved, and something was grown by hand since
            yield from self._save()
        result = self._finish()
        self.close()
        yield Finished(result)

    def _after_step(self) -> Iterator[Event]:
        """Yield what is due after a step, each thing once, though what it takes of the compute may make more due."""
        parts = (self._measured, self._split, self._settled, self._grown, self._settled, self._saved)
        for number, part in enumerate(parts, start=1):
            if self.progress.after < number:
                self.progress.after = number
                yield from part()

    def _measured(self) -> Iterator[Event]:
        if self.done >= self.progress.next_evaluation - ROUNDING or (self.done >= 1 and self.progress.images):
            yield self._evaluate()

    def _saved(self) -> Iterator[Event]:
        if self._worth_saving:
            yield from self._save()

    def close(self) -> None:
        """Let the run folder go, for another trainer to go on there; this one may still go on instead."""
        if self.run is not None:
            self.run.release()

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
        return min(self.progress.step / self._steps, 1.0)

    @property
    def _steps(self) -> int:
        """Optimizer steps of the run; where its compute is limited, those that it would take without growing."""
        if self.config.compute is not None:
            return max(1, math.ceil(self.config.compute / TRAINING_PASS / self.engine.macs / self.config.batch_size))
        return max(1, round(self.config.epochs * self.steps_per_epoch))

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
            yield as_taken(images, self.model), targets.to(self.fabric.device)

    def _step(self, images: Tensor, targets: Tensor) -> float:
        images = resized(images, side_share(self.engine.policy, self.done))
        progress, rates = self.progress, self.engine.rates
        loss = self.stepper.gradients(images, targets, progress.step)
        if not math.isfinite(loss):
            raise GhostkitError(
                f"the loss became {loss} at step {progress.step + 1} with learning_rate={self.config.learning_rate}; "
                "the last checkpoint is kept. Try a third of the learning rate, or precision='32-true'"
            )
        with nullcontext() if rates is None else rates.around_step(progress.step):
            self.stepper.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        progress.step, progress.batch, progress.after = progress.step + 1, progress.batch + 1, 0
        progress.compute += TRAINING_PASS * self._macs_at(images) * len(images)
        progress.losses += loss * len(images)
        progress.images += len(images)
        return loss

    def _set_rate(self) -> None:
        """Hold the learning rate while the network may grow, then let it fall to zero along a half cosine."""
        start = self.config.anneal_from
        share = 0.0 if self.done <= start else (self.done - start) / (1 - start)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    # -- growth ------------------------------------------------------------------------------------------------------

    def candidates(self) -> pd.DataFrame:
        """Return what could be grown now, best first; the MACs that scoring takes count as spent."""
        self._share_statistics()
        frame = self.engine.candidates()
        self._collect_spent()
        return frame

    def grow(self, edit: Edit | Sequence[Edit]) -> GrowthEvent:
        """Apply an edit, or several, by hand, between two events of the run, which go on from there.

        Raises:
            GhostkitError: if an edit does not fit; nothing has happened then.
        """
        edits = list(edit) if isinstance(edit, Sequence) else [edit]
        return self._noted(self.engine.apply(edits, reason="by hand", **self._moment()))

    def undo(self, event: int = -1) -> GrowthEvent:
        """Take an earlier growth event back, by hand, between two events of the run.

        Args:
            event: its number, from 1; -1 is the last one that still stands.

        Raises:
            GhostkitError: if there is no such event, or later ones rest on it.
        """
        return self._noted(self.engine.undo(event, **self._moment()))

    def steer(self, **values: Any) -> GrowthEvent | None:
        """Change the policy or the budget by hand, between two events of the run; the history notes what changed.

        Args:
            **values: fields of the configuration that ``ghostkit.steering.STEERED`` names, as ``grow_every``.

        Returns:
            The event, without edits; None where nothing is different.

        Raises:
            GhostkitError: if a name is no such field, or a value does not fit; nothing has changed then.
        """
        known = steered(self.engine)
        changes = differing(self.engine, self.config.changed(**self.changed), values)
        if not changes:
            return None
        self.changed |= changes
        follow(self.engine, changes, self.done)
        told = ", ".join(f"{name} from {known[name]} to {value}" for name, value in changes.items())
        return self._noted(self.engine.note(f"changed by hand: {told}", **self._moment()))

    def save(self) -> Path | None:
        """Save a checkpoint between two events of the run, and return its folder; None where nothing is written."""
        return next((saved.folder for saved in self._save()), None)

    def _split(self) -> Iterator[Event]:
        if self.stepper.parts > self.parts:
            self.parts = self.stepper.parts
            reason = f"out of memory: batches are taken in {self.parts} parts from here on"
            yield Grown(self._noted(self.engine.note(reason, **self._moment())))

    def _grown(self) -> Iterator[Event]:
        if due(self.engine.policy, self.engine.state, self.done):
            self._share_statistics()
            yield Grown(self._noted(self.engine.grow(**self._moment())))

    def _settled(self) -> Iterator[Event]:
        if due_to_settle(self.engine.state, self.done):
            self._share_statistics()
            event = self.engine.settle(**self._moment())
            self._collect_spent()
            if event is not None:
                yield Grown(self._noted(event))

    def _moment(self) -> dict[str, Any]:
        """Return when something happens, as its fields."""
        return {
            "step": self.progress.step,
            "epoch": round(self.epoch, 4),
            "progress": round(self.done, 6),
            "compute": self.progress.compute,
        }

    def _noted(self, event: GrowthEvent) -> GrowthEvent:
        if event.edits:
            self.stepper.wrap()
        self._collect_spent()
        self._write_history()
        self._worth_saving = True
        return event

    def _resolution(self, images: Tensor) -> GrowthEvent | None:
        """Return the event that the training images get another side, if they do."""
        side = resized(images[:1], side_share(self.engine.policy, self.done)).shape[-1]
        known, self.engine.state.resolution = self.engine.state.resolution, side
        if side == (images.shape[-1] if known is None else known):
            return None
        reason = f"training images are {side} of {images.shape[-1]} pixels wide"
        return self._noted(self.engine.note(reason, resolution=side, **self._moment()))

    def _macs_at(self, images: Tensor) -> int:
        """Return the MACs of one training image at its present side."""
        if images.shape[1:] == self.engine.probe[0].shape[1:]:
            return self.engine.macs
        key = (len(history_of(self.model).events), *images.shape[1:])
        if self._small_macs is None or self._small_macs[0] != key:
            self._small_macs = key, macs(self.model, images)
        return self._small_macs[1]

    def _collect_spent(self) -> None:
        self.progress.compute += agreed(self.fabric, self.engine.spent)
        self.engine.spent = 0.0

    def _probe(self) -> tuple[Tensor, Tensor]:
        """Return the images and labels that candidates are scored on."""
        train = self.data.train
        draw = torch.Generator().manual_seed(self.config.seed + 2)
        chosen = torch.randperm(len(train), generator=draw)[: self.config.probe_samples]
        return as_taken(train.images(chosen), self.model), train.labels[chosen].to(self.fabric.device)

    def _set_budget(self) -> None:
        """Fix the budget, relative to the seedling where no limit is given, and check that it leaves room."""
        seedling = self.engine.seedling = self.engine.costs()
        if not self.engine.budget.limits():
            head = head_macs(self.model, self.engine.probe[0])
            self.engine.budget = Budget(macs=head + self.config.budget_factor * (seedling["macs"] - head))
        if self.config.when != "never":
            self.engine.budget.check(seedling)

    def _macs_at_start(self, checkpoint: Path | None) -> int:
        """Return the MACs of an image in the network that the run started from."""
        if checkpoint is not None:
            return seedling_macs(checkpoint)
        return macs(self.model, as_taken(one_image(self.data), self.model))

    # -- measuring, saving, finishing --------------------------------------------------------------------------------

    def _share_statistics(self) -> None:
        """Let BN know what all processes have seen, before the network is looked at."""
        average_statistics(self.fabric, self.model, self.average)

    def _scores(self, split: Split) -> Scores:
        pairs = batches(split, EVALUATION_BATCH, shuffle=False)
        return self.task.evaluate(self._evaluated(), self._on_device(pairs), len(self.data.classes))

    def _evaluated(self) -> nn.Module:
        """Return the network that is evaluated: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def _evaluate(self) -> Evaluated:
        progress = self.progress
        self._share_statistics()
        scores = self._scores(self.data.judged)
        common = {
            **self._moment(),
            "seconds": progress.seconds,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "params": self.engine.params,
            "macs": self.engine.macs,
        }
        rows = []
        if progress.images:
            # The loss that was trained on, averaged since the last row; the metrics now, on the probe's images.
            mean = progress.losses / progress.images
            train = self.task.evaluate(self._evaluated(), [self.engine.probe], len(self.data.classes))
            rows.append({**common, "split": "train", "loss": mean, **train.metrics()})
            observe_loss(self.engine.state, mean)
            progress.losses, progress.images = 0.0, 0
        row = {**common, "split": self.data.judged_on, "loss": scores.loss, **scores.metrics()}
        rows.append(row)
        self._worth_saving = True
        while progress.next_evaluation - ROUNDING <= self.done:
            progress.next_evaluation += self.config.evaluate_every
        if self.run is not None:
            self.run.add_metrics(rows)
        return Evaluated(row, scores, rows[0] if len(rows) > 1 else None)

    def _write_history(self) -> None:
        if self.run is not None:
            self.run.write_history(history_of(self.model))

    def _save(self) -> Iterator[CheckpointSaved]:
        self._share_statistics()
        self._worth_saving = False
        if self.run is not None:
            yield CheckpointSaved(save_run(self, self.run))

    def _finish(self) -> dict[str, Any]:
        scores = self._scores(self.data.judged)
        events = history_of(self.model).events
        result = {
            **scores.metrics(),
            **scores.details(),
            "split": self.data.judged_on,
            "loss": scores.loss,
            "params": self.engine.params,
            **head_sizes(self.model, self.engine.probe[0]),
            "macs": self.engine.macs,
            "milliseconds": latency(self.model, self.engine.probe[0][:1]),
            "compute": self.progress.compute,
            "steps": self.progress.step,
            "growth_events": sum(1 for event in events if event.edits),
            "edits": [str(edit) for event in events for edit in event.edits],
            "seconds": self.progress.seconds,
        }
        if self.run is not None:
            self.run.write_result(result)
        return result


def train(config: RunConfig, folder: str | Path) -> Run:
    """Run ``config`` to its end without looking, and return the run.

    Args:
        config: every knob of the run.
        folder: the run folder; a run of the same configuration in it is resumed; one that is over is measured again.
    """
    Trainer(config, folder).train()
    return Run(folder)
