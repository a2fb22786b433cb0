"""One growth event: some edits, applied whole or not at all, and everything measured about them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ghostkit import costs
from ghostkit.errors import GhostkitError
from ghostkit.growth.channels import remapped
from ghostkit.growth.edits import GROWTH, AddBlock, AddLink, Edit, RemoveBlock, RemoveLink, bare, take_down
from ghostkit.growth.fitting import fitted, note_columns
from ghostkit.growth.history import GrowthEvent, History, history_of
from ghostkit.growth.precision import in_full
from ghostkit.growth.sites import sites
from ghostkit.growth.surgery import Surgery, check_in_step, measure_fresh_statistics, transaction
from ghostkit.nn.bounds import check_size
from ghostkit.nn.zoo import build_recipe
from ghostkit.reading import UNFITTING

__all__ = ["apply_edits", "grow", "note_event", "rebuild", "replay"]

# An edit keeps the function; kernels of another shape round differently, but never by more than this share.
TOLERANCE = 1e-2

MOST_WORK = 1_000_000  # edits times modules of the network, in all of a history that is carried out: some minutes

REWIRING = (AddBlock, RemoveBlock, AddLink, RemoveLink)  # after these, the sites are no longer what they were


def grow(
    model: nn.Module,
    edit: Edit | Sequence[Edit],
    optimizer: torch.optim.Optimizer | None = None,
    probe: Tensor | None = None,
    ema: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> GrowthEvent:
    """Apply one edit, or several, to ``model`` in place, and note the event in its history.

    Right after, the network computes the same function as right before. If anything fails, nothing has happened.

    Args:
        model: the host.
        edit: an edit, or a sequence of edits that are applied in order, all or none.
        optimizer: its state and groups are kept in step.
        probe: images (B, C, H, W), on which BN statistics of new channels and the change of outputs are measured.
        ema: a copy of the model (or an ``AveragedModel``) that is kept in step, its history included.
        generator: where new weights draw from; seeded by the number of earlier events when None.

    Raises:
        GhostkitError: if a site does not exist or an edit does not fit it, or if the optimizer or the copy cannot be
            kept in step.

    >>> grow(model, AddBranch("blocks.1.0.ghost1", kernel_size=5), optimizer, probe=images)
    """
    check_whole(model)
    edits = [edit] if not isinstance(edit, Sequence) else list(edit)
    history = history_of(model)
    if generator is None:
        generator = torch.Generator().manual_seed(len(history.events))
    event = apply_edits(model, edits, optimizer, probe, ema, generator)
    note_event(event, model, ema)
    return event


def note_event(event: GrowthEvent, model: nn.Module, ema: nn.Module | None) -> None:
    """Note ``event``, which is done, in the history of ``model``; that of its average, built alike, says the same."""
    history, average = history_of(model), network_of(ema)
    history.events.append(event)
    if average is not None:
        average.growth_history = replace(history, events=list(history.events))  # type: ignore[assignment]


def network_of(ema: nn.Module | None) -> nn.Module | None:
    """Return the network of averaged weights, without the wrapper that may stand around it."""
    return ema.module if isinstance(ema, torch.optim.swa_utils.AveragedModel) else ema


def check_whole(model: nn.Module) -> None:
    """Raise unless ``model`` is a raw network whose parameters are whole.

    Raises:
        GhostkitError: if a wrapper stands around it, or its parameters lie in shards on several processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    from torch.distributed.fsdp import FullyShardedDataParallel  # takes longer to import than most networks to grow
    from torch.distributed.tensor import DTensor

    name = type(model).__name__
    sharded = any(isinstance(part, FullyShardedDataParallel) for part in model.modules())
    if sharded or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise GhostkitError(
            f"{name} is sharded over several processes (FSDP), so no process holds the weights that growth would move; "
            "grow the network before it is sharded, or train it by DDP, as `torchrun -m ghostkit train` does"
        )
    if isinstance(model, DistributedDataParallel):
        raise GhostkitError(
            f"{name} exchanges the gradients of the parameters that it was made with; grow its `module`, by the same "
            "edit in all processes, and wrap it again"
        )


@in_full
def apply_edits(
    model: nn.Module,
    edits: Sequence[Edit],
    optimizer: torch.optim.Optimizer | None,
    probe: Tensor | None,
    ema: nn.Module | None,
    generator: torch.Generator,
    follow: Callable[[Surgery], None] | None = None,
    then: Callable[[], None] | None = None,
    **context: Any,
) -> GrowthEvent:
    """Apply ``edits`` whole or not at all, and return the event without noting it; arguments as for :func:`grow`.

    Args:
        follow: is told of each surgery right after it was applied.
        then: is done last; the edits are taken back if it fails.
        **context: further fields of the event: step, epoch, reason, ...
    """
    started = time.perf_counter()
    average = network_of(ema)
    check_in_step(model, optimizer, average)
    params_before = costs.params(model)
    macs_before = None if probe is None else costs.macs(model, probe)
    before = None if probe is None else outputs(model, probe)
    inverse: list[Edit] = []
    with transaction(model, optimizer, average):
        fresh: dict[str, Tensor] = {}
        known = sites(model)
        owners: dict[str, Tensor] = {}
        for number, edit in enumerate(edits):
            surgery = take_down(fitted(edit, model, owners, generator), model, known, generator)
            surgery.apply(model, optimizer)
            if average is not None:
                surgery.apply(average)
            if follow is not None:
                follow(surgery)
            note_fresh(model, surgery, fresh)
            note_columns(owners, surgery, number)
            inverse.insert(0, surgery.inverse)
            if isinstance(edit, REWIRING):
                known = sites(model)
        change = None
        if probe is not None:
            measure_fresh_statistics(model, fresh, probe)
            if average is not None:
                measure_fresh_statistics(average, fresh, probe)
            change = largest_change(before, outputs(model, probe), edits)
        params_after, macs_after = costs.params(model), None if probe is None else costs.macs(model, probe)
        if then is not None:
            then()
    return GrowthEvent(
        edits=tuple(map(bare, edits)),
        inverse=tuple(map(bare, inverse)),
        params_before=params_before,
        params_after=params_after,
        macs_before=macs_before,
        macs_after=macs_after,
        max_logit_change=change,
        clock={"seconds": time.perf_counter() - started},
        **context,
    )


def note_fresh(model: nn.Module, surgery: Surgery, fresh: dict[str, Tensor]) -> None:
    """Add to ``fresh`` the masks of the BN channels that ``surgery`` made, and move those of earlier edits along."""
    for remove in surgery.removes:
        for path in [path for path in fresh if f"{path}.".startswith(f"{remove.target}.")]:
            del fresh[path]
    for path, channels in surgery.measures:
        mask = channels.fresh
        if path in fresh:
            mask = mask | remapped(fresh[path], channels, 0, 0)
        fresh[path] = mask
    for insert in surgery.inserts:
        for name, layer in model.get_submodule(insert.target).named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                path = f"{insert.target}.{name}" if name else insert.target
                fresh[path] = torch.ones(layer.num_features, dtype=torch.bool)


def outputs(model: nn.Module, probe: Tensor) -> list[Tensor]:
    """Return what ``model`` computes on ``probe`` in eval mode, flattened into a list of tensors."""
    with costs.evaluating(model):
        return list(tensors_in(model(probe)))


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Yield the tensors inside ``value``, however it nests them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def largest_change(before: list[Tensor] | None, after: list[Tensor], edits: Sequence[Edit]) -> float | None:
    """Return the largest absolute change of an output, which only a removal may make; None if it is not finite.

    Raises:
        GhostkitError: if it is so large that an edit cannot have kept the function.
    """
    change = scale = 0.0
    for old, new in zip(before or [], after, strict=True):
        if old.numel():
            largest = float((new - old).abs().max())
            change = largest if math.isnan(largest) else max(change, largest)  # max would lose a NaN
            scale = max(scale, float(old.abs().max()))
    keeps = all(isinstance(edit, GROWTH) for edit in edits)
    if keeps and not change <= TOLERANCE * max(scale, 1.0):  # nor where it is not a number
        named = ", ".join(map(str, edits))
        raise GhostkitError(
            f"{named} changed the outputs by {change:.3g} (they reach {scale:.3g}) and was taken back: a rule of "
            "widen_in, widen_out or identity_like does not keep the function, or the probe holds values that are not "
            "finite"
        )
    return change if math.isfinite(change) else None


def rebuild(history: History) -> nn.Module:
    """Return the network that ``history`` describes, with new random weights.

    Args:
        history: its first line is the recipe.

    Raises:
        GhostkitError: if there is no recipe, as for a user's own network, or an edit does not fit.
    """
    if history.recipe is None:
        raise GhostkitError("this history has no recipe: a network of your own is rebuilt by load(folder, host=...)")
    model = build_recipe(history.recipe)
    regrow(model, history)
    return model


def replay(history: History) -> Iterator[nn.Module]:
    """Yield the network that ``history`` describes, with random weights: the seedling, then what each event made of it.

    It is one and the same network all along: look at it before asking for the next.

    Args:
        history: its first line is the recipe.

    Raises:
        GhostkitError: as for :func:`rebuild`.
    """
    model = rebuild(replace(history, events=[]))
    yield model
    for number, event in enumerate(history.events, start=1):
        regrow(model, replace(history, events=[event]))
        model.growth_history = replace(history, events=history.events[:number])  # type: ignore[assignment]
        yield model


def regrow(host: nn.Module, history: History) -> None:
    """Apply all edits of ``history`` to its seedling ``host``, without measuring anything.

    Raises:
        GhostkitError: if an edit does not fit, or there is too much of it: the history may be anybody's.
    """
    generator = torch.Generator().manual_seed(0)
    work = 0
    for number, event in enumerate(history.events, start=1):
        try:
            apply_edits(host, event.edits, None, None, None, generator)
        except UNFITTING as error:
            raise GhostkitError(f"event {number} of the history does not fit: {error!r:.500}") from None
        modules = sum(1 for _ in host.modules())
        work += len(event.edits) * modules
        check_size(costs.params(host), modules)
        if work > MOST_WORK:
            raise GhostkitError(f"the history is too long to be carried out: {len(history.edits):,} edits")
    host.growth_history = history  # type: ignore[assignment]
