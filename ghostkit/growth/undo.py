"""Taking growth back: the inverse edits of an earlier event, applied to the network as it is now.

Undoing is a growth event of its own, so a history only ever gets longer and rebuilds the network in any case. What is
removed keeps nothing of what it learned: the change of outputs is zero while the part is still at zero, and measured
otherwise. (Restoring the weights from before an event is rolling back, which is the trainer's to do.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ghostkit.errors import GhostkitError
from ghostkit.growth.edits import (
    REMOVAL,
    AddBranch,
    AddIntrinsic,
    AddLink,
    Edit,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLink,
    WidenStage,
)
from ghostkit.growth.grow import apply_edits, note_event
from ghostkit.growth.history import GrowthEvent, History, history_of

__all__ = ["inverse_of", "standing", "still_there", "undo"]


def undo(
    model: nn.Module,
    event: int = -1,
    optimizer: torch.optim.Optimizer | None = None,
    probe: Tensor | None = None,
    ema: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> GrowthEvent:
    """Take an earlier growth event back in ``model``, in place, and note that in its history.

    Args:
        model: the host.
        event: number of the event in ``model``'s history, from 1; negative numbers count those that still stand, -1
            being the last.
        optimizer, probe, ema, generator: as for :func:`ghostkit.grow`.

    Raises:
        GhostkitError: if there is no such event, it grew nothing, was taken back already, or later ones rest on it.

    >>> grow(model, AddBranch("blocks.1.0.ghost1")); undo(model)
    """
    history = history_of(model)
    number = numbered(history, event)
    if generator is None:
        generator = torch.Generator().manual_seed(len(history.events))
    edits = inverse_of(history, number)
    done = apply_edits(model, edits, optimizer, probe, ema, generator, undoes=number, reason=f"undo of event {number}")
    note_event(done, model, ema)
    return done


def standing(history: History) -> list[int]:
    """Return the numbers, from 1, of the events whose edits are still there.

    These are neither taken back nor take another one back. (What was taken back is grown again, not undone.)
    """
    back = {event.undoes for event in history.events}
    return [
        number
        for number, event in enumerate(history.events, start=1)
        if event.edits and event.undoes is None and number not in back
    ]


def still_there(history: History) -> Iterator[tuple[GrowthEvent, Edit, Edit | None]]:
    """Yield every edit of which something is still there, with its event, and with what takes it back right after it.

    Gone is what an undo took back, what a later event removed (as one that thins sprouts out does), and what lay in a
    block that was removed. Of an event that an older version wrote without what takes it back, that is None.
    """
    back = {event.undoes for event in history.events}
    removals = [
        (number, edit)
        for number, event in enumerate(history.events, start=1)
        for edit in event.edits
        if isinstance(edit, REMOVAL) and number not in back
    ]
    for number, event in enumerate(history.events, start=1):
        later = [edit for other, edit in removals if other > number]
        inverses: list[Edit | None] = [*reversed(event.inverse)] or [None] * len(event.edits)
        for edit, inverse in zip(event.edits, inverses, strict=False):
            if number not in back and not gone(edit, inverse, later, history, number):
                yield event, edit, inverse


def gone(edit: Edit, inverse: Edit | None, later: Sequence[Edit], history: History, number: int) -> bool:
    """Return whether ``later`` removals left nothing of an edit of event ``number``, which ``inverse`` takes back."""
    blocks = [f"{removal.site}.{removal.block}" for removal in later if isinstance(removal, RemoveBlock)]
    if any(inside(places(inverse or edit), block) for block in blocks):
        return True
    if not isinstance(inverse, RemoveBranch | RemoveIntrinsic | NarrowStage):
        return inverse in later
    numbers = (inverse.branch,) if isinstance(inverse, RemoveBranch) else inverse.maps
    touched = any(removed(removal, inverse) for removal in later)
    return touched and not any(is_there(place, inverse, history, number) for place in numbers)


def is_there(place: int, inverse: Edit, history: History, number: int) -> bool:
    """Return whether the branch or map that had the number ``place`` after event ``number`` has one by now."""
    try:
        followed(place, inverse, history, number)
    except (GhostkitError, IndexError):  # the second where a history does not say where something came back
        return False
    return True


def numbered(history: History, event: int) -> int:
    """Return the number of the event that is meant.

    Raises:
        GhostkitError: if there is none that still stands.
    """
    left = standing(history)
    if event < 0:
        if len(left) < -event:
            raise GhostkitError(f"undo({event}): only {len(left)} growth event(s) still stand; nothing is left to undo")
        return left[event]
    if not 1 <= event <= len(history.events):
        raise GhostkitError(f"undo({event}): the history has {len(history.events)} event(s), numbered from 1")
    if event not in left:
        grew = history.events[event - 1].edits
        why = "was taken back already, or takes another one back" if grew else "grew nothing"
        raise GhostkitError(f"undo({event}): this event {why}; those that stand are {left}")
    return event


def inverse_of(history: History, number: int) -> tuple[Edit, ...]:
    """Return the edits that take event ``number`` back.

    Raises:
        GhostkitError: if later events rest on it, or an older version wrote it without them.
    """
    event = history.events[number - 1]
    if len(event.inverse) != len(event.edits):
        raise GhostkitError(f"undo({number}): this event was written without what takes it back")
    for later in standing(history):
        if later <= number:
            continue
        for edit in history.events[later - 1].edits:
            if any(rests_on(edit, inverse) for inverse in event.inverse):
                raise GhostkitError(
                    f"undo({number}): event {later}, {edit}, rests on what this one grew; undo that first"
                )
    return tuple(renumbered(inverse, history, number) for inverse in event.inverse)


def renumbered(inverse: Edit, history: History, number: int) -> Edit:
    """Return the ``inverse`` of event ``number`` with the numbers that its branch or maps have by now.

    Ghost maps that the event brought into use are cut off again where they are the last ones again: nothing that a
    later event changed at the same module still stands.

    Raises:
        GhostkitError: if a later event removed them, and that was not undone.
    """
    if isinstance(inverse, RemoveBranch | RemoveIntrinsic) and any(
        isinstance(edit, AddBranch | AddIntrinsic | RemoveBranch | RemoveIntrinsic) and edit.site == inverse.site
        for later in standing(history)
        if later > number
        for edit in history.events[later - 1].edits
    ):
        inverse = replace(inverse, out_channels=None)
    if isinstance(inverse, RemoveBranch):
        return replace(inverse, branch=followed(inverse.branch, inverse, history, number))
    if isinstance(inverse, RemoveIntrinsic | NarrowStage):
        return replace(inverse, maps=tuple(followed(place, inverse, history, number) for place in inverse.maps))
    return inverse


def followed(place: int, inverse: Edit, history: History, number: int) -> int:
    """Return the number that a branch or map has by now which had the number ``place`` after event ``number``."""
    for later, event in enumerate(history.events[number:], start=number + 1):
        for which, edit in enumerate(event.edits):
            gone = removed(edit, inverse)
            if place in gone:
                after = enumerate(history.events[later:], start=later + 1)
                back = next((n for n, other in after if other.undoes == later), None)
                if back is None:
                    raise GhostkitError(
                        f"undo({number}): {edit} removed what this event grew; there is nothing left to undo"
                    )
                # It came back elsewhere; what would remove it once more says where.
                again = removed(history.events[back - 1].inverse[which], inverse)
                return followed(again[gone.index(place)], inverse, history, back)
            place -= sum(other < place for other in gone)
    return place


def removed(edit: Edit, inverse: Edit) -> tuple[int, ...]:
    """Return the numbers of the branches or maps that ``edit`` removes of those that ``inverse`` is about."""
    if type(edit) is not type(inverse) or edit.site != inverse.site:
        return ()
    if isinstance(edit, RemoveBranch) and isinstance(inverse, RemoveBranch):
        return (edit.branch,) if edit.kernel_size == inverse.kernel_size else ()
    return edit.maps if isinstance(edit, RemoveIntrinsic | NarrowStage) else ()


def rests_on(later: Edit, inverse: Edit) -> bool:
    """Return whether a ``later`` edit would no longer make sense, or mean something else, after ``inverse``."""
    if isinstance(inverse, RemoveBlock) and inside(places(later), f"{inverse.site}.{inverse.block}"):
        return True
    if isinstance(later, RemoveBlock) and inside(places(inverse), f"{later.site}.{later.block}"):
        return True
    # Numbers of branches and maps are counted anew when one is removed, and a split shares out what was there.
    split = getattr(later, "init", None) == "split"
    if isinstance(inverse, RemoveBranch) and later.site == inverse.site:
        same = getattr(later, "kernel_size", None) == inverse.kernel_size
        return same and (isinstance(later, RemoveBranch) or (isinstance(later, AddBranch) and split))
    if isinstance(inverse, RemoveIntrinsic) and later.site == inverse.site:
        return isinstance(later, RemoveIntrinsic) or (isinstance(later, AddIntrinsic) and split)
    if isinstance(inverse, NarrowStage) and later.site == inverse.site:
        return isinstance(later, NarrowStage) or (isinstance(later, WidenStage) and split)
    return False


def places(edit: Edit) -> Sequence[str]:
    """Return the paths that an edit is about."""
    if isinstance(edit, AddLink | RemoveLink):
        return edit.source, edit.target
    if isinstance(edit, RemoveBlock):
        return (f"{edit.site}.{edit.block}.",)
    return (edit.site,)


def inside(paths: Sequence[str], block: str) -> bool:
    """Return whether any of ``paths`` lies inside ``block``."""
    return any(path.startswith(f"{block}.") for path in paths)
