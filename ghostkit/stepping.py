"""One training step: forward, backward and optimizer, of a batch that may be taken in parts or shared by processes.

A part is a micro-batch. The step's gradient is that of the whole batch, whatever it is taken in; BN normalises each
part by itself. So several processes, each with its parts, end where one process ends that takes the same parts one
after the other: to rounding, running statistics and dropout included. Nothing here knows epochs, growth or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from torch import Tensor, nn

from ghostkit.compiling import Regions
from ghostkit.devices import start_momentum
from ghostkit.errors import GhostkitError
from ghostkit.processes import summed

__all__ = ["LEAST", "Stepper"]

DROPOUT = 2  # the stream of random numbers that a step draws from; the data layer has 0 and 1
LEAST = 2  # images of a part: BN tells no deviation from one


class Stepper:
    """Takes training steps.

    Args:
        fabric: device, precision and processes.
        model: the raw network; surgery may change it between two steps, followed by :meth:`wrap`.
        optimizer: the raw optimizer.
        loss: ``loss(model, images, targets)`` -> mean loss.
        seed: the run's; decides what dropout draws at each step, whatever is drawn elsewhere.
        parts: micro-batches that a batch is taken in, over all processes together.
        compiled: compile the network, block by block.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
        seed: int = 0,
        parts: int = 1,
        compiled: bool = False,
    ) -> None:
        self.fabric, self.model, self.optimizer, self.loss, self.seed = fabric, model, optimizer, loss, seed
        self.parts = max(parts, fabric.world_size)
        self.regions = Regions(model) if compiled else None
        self.wrap()

    def wrap(self) -> None:
        """Take in what surgery has changed: what processes exchange, and which blocks there are to compile."""
        start_momentum(self.optimizer)
        self._wrapped, self._stepping = self.fabric.setup(self.model, self.optimizer)
        # Where a wrapper would do nothing, its forward is left out: it takes as long as a block of a small network.
        plain = self.fabric.world_size == 1 and type(self.fabric.strategy.precision) is Precision
        self._forward = self.model if plain else self._wrapped
        self._wrapped.train()  # measuring puts it into eval mode for its own time only
        self._norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if self.regions is not None:
            self.regions.renew()

    def gradients(self, images: Tensor, targets: Tensor, step: int) -> float:
        """Replace the gradients by those of a batch, and return its mean loss.

        A batch that does not fit into the memory of a GPU is taken in twice as many parts, from then on.

        Args:
            images: (B, C, H, W), the same in all processes.
            targets: of as many.
            step: number of the step, which decides what dropout draws.

        Raises:
            GhostkitError: if not even two images at a time fit into memory.
        """
        while True:
            self.optimizer.zero_grad()
            try:
                return self._gradients(images, targets, step)
            except torch.OutOfMemoryError as error:
                self._take_smaller_parts(len(images), error)

    def update(self) -> None:
        """Take the optimizer's step."""
        self._stepping.step()

    def _gradients(self, images: Tensor, targets: Tensor, step: int) -> float:
        count = max(1, min(self.parts, len(images) // LEAST))
        own = range(self.fabric.global_rank, count, self.fabric.world_size)
        parts = [*zip(images.tensor_split(count), targets.tensor_split(count), strict=True)]
        mean = 0.0
        for number, part in enumerate(own):
            some, theirs = parts[part]
            share = len(some) / len(images)
            more = self.fabric.no_backward_sync(self._wrapped, enabled=part != own[-1])
            compiled = nullcontext() if self.regions is None else self.regions.used()
            with more, compiled, self._share_of_statistics(number, len(own)):
                with seeded(self.seed, step, part, images.device):
                    loss = self.loss(self._forward, some, theirs)
                # Processes average their gradients, which are to be added.
                weight = share * self.fabric.world_size
                self.fabric.backward(loss if weight == 1 else weight * loss)
            mean += share * float(loss.detach())
        return float(summed(self.fabric, torch.tensor(mean, device=self.fabric.device)))

    @contextmanager
    def _share_of_statistics(self, number: int, count: int) -> Iterator[None]:
        """Let BN's running statistics move to the mean of ``count`` parts as far as a whole batch would move them.

        Part ``number`` moves them by a momentum at which the parts that follow leave it an equal weight.
        """
        if count == 1:
            yield
            return
        usual = [norm.momentum for norm in self._norms]
        try:
            for norm, momentum in zip(self._norms, usual, strict=True):
                if momentum is not None:
                    norm.momentum = momentum / (count - momentum * (count - 1 - number))
            yield
        finally:
            for norm, momentum in zip(self._norms, usual, strict=True):
                norm.momentum = momentum

    def _take_smaller_parts(self, images: int, error: BaseException) -> None:
        """Take batches in twice as many parts from now on, where that is possible."""
        finer = 2 * self.parts
        if self.fabric.world_size > 1 or finer > images // LEAST:
            size = -(-images // self.parts)
            raise GhostkitError(
                f"{size} images at a time do not fit into the memory of {self.fabric.device}; set batch_size or size "
                f"lower, micro_batches higher, or precision='bf16-mixed' ({error})"
            ) from error
        self.parts = finer
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def seeded(seed: int, step: int, part: int, device: torch.device) -> Iterator[None]:
    """Let what is drawn inside the block depend on its arguments alone, and draw nothing from anybody's generator."""
    number = int(np.random.SeedSequence((DROPOUT, seed, step, part)).generate_state(1, np.uint64)[0])
    if device.type == "cuda":
        with torch.random.fork_rng(devices=[device]):
            torch.manual_seed(number)
            yield
        return
    # The same, without looking for GPUs, which takes as long as a tenth of a small network's step.
    generator = torch.default_generator
    kept = generator.get_state()
    generator.manual_seed(number)
    try:
        yield
    finally:
        generator.set_state(kept)
