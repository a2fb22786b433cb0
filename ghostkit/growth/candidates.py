"""Candidates: what could be grown where, and what each would bring and cost, found without touching the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ghostkit.costs import LatencyTable
from ghostkit.errors import FrozenError, GhostkitError, ProbeError
from ghostkit.growth.blocks import copied, unhook
from ghostkit.growth.edits import INITS, KINDS, AddBlock, AddBranch, AddIntrinsic, Growth, WidenStage, take_down
from ghostkit.growth.layers import is_plain, reader
from ghostkit.growth.ledger import Ledger
from ghostkit.growth.precision import device_of, in_full
from ghostkit.growth.proposals import Loss, Seen, inits_of_widths, observe, propose, searched, unseen
from ghostkit.growth.scoring import SCORES, Part, score_attached
from ghostkit.growth.sites import Site, pick, sites, units
from ghostkit.growth.sizing import sizes_of, sizes_within

__all__ = ["candidates"]

SCORING_PASS = 2.0  # forward, and backward to inputs alone
COLUMNS = ("edit", "site", "kind", "init", "gain", "macs", "params", "milliseconds", "unit")
EXTRAS = ("saturation", "gain_ratio")
UNITS = ("macs", "params", "milliseconds")
UNSCORED = "none"  # in the place of a score


@in_full
def candidates(
    model: nn.Module,
    images: Any,
    targets: Any,
    loss: Loss,
    *,
    kinds: Sequence[str] = KINDS,
    at: str | Sequence[str] = "*",
    kernel_sizes: Sequence[int] = (3, 5),
    how: str | Sequence[str] = "svd",
    score: str = "fisher",
    extras: Collection[str] = (),
    room: Mapping[str, float] | None = None,
    must_fit: bool = False,
    together: bool = True,
    latency: LatencyTable | None = None,
    generator: torch.Generator | None = None,
) -> pd.DataFrame:
    """Return what could be grown, with predicted gain and cost, best first; ``model`` is left untouched.

    What would join frozen parts alone is not offered: new numbers are frozen where their neighbours are.

    Args:
        model: the host.
        images: a batch (B, C, H, W).
        targets: what ``loss`` takes.
        loss: ``loss(model, images, targets)`` gives the batch's mean loss.
        kinds: kinds of edit to consider: ``"branch"``, ``"intrinsic"``, ``"stage"``, ``"block"``, ``"layer"``,
            ``"link"``.
        at: which sites may grow: a pattern of their paths, as in a shell ("blocks.2.*"), or several.
        kernel_sizes: sides of the kernels that a new branch may have, in pixels.
        how: how new weights start: ``"svd"`` (TINY), ``"gradmax"``, ``"random"``, ``"split"`` (Net2Wider), ``"clone"``
            (FRAGrow, for blocks), or several of them. A kind of edit that knows none of them starts in its usual way.
        score: what the gain is: ``"fisher"``, the predicted decrease of the loss in nats; or, in units of their own,
            ``"raw"`` (the squared gradient norm), ``"scaled"`` (corrected for the consumer's scale), ``"residual"``
            (of residual features) or ``"whitened"`` (TINY's). With ``"none"`` no gain is predicted and the candidates
            come in random order; the only passes made are those that ``how`` needs to find new weights.
        extras: further columns: ``"saturation"``, the share of its site's channels that is used (NORTH), and
            ``"gain_ratio"``, the gain per new number over the mean gain per number there is.
        room: what may be added, by unit (``"macs"``, ``"params"``, ``"milliseconds"``): channels are offered in no
            larger number than fits; None for no limit.
        must_fit: where nothing fits into ``room`` at all, make no pass and return no candidate.
        together: whether the channels of a unit have to fit in together.
        latency: milliseconds of layers by kind; measured here when None.
        generator: where random weights draw from.

    Returns:
        A frame with the columns edit, site, kind, init, gain, macs, params and milliseconds (all added by the edit;
        MACs per image), and unit: of an edit of channels the stream that it should grow together with, otherwise empty.
        ``frame.attrs`` holds ``macs``, the MACs spent on scoring, and ``responses``, by how much each candidate would
        lower the loss of each sample (candidates, B).

    Raises:
        ProbeError: if the batch cannot tell what should grow: one image, labels that are all equal, values that are not
            finite.
        FrozenError: if all that could grow would join frozen parts.
        GhostkitError: if an argument is unknown, the model has no site or cannot be copied.
    """
    inits = (how,) if isinstance(how, str) else tuple(how)
    generator = generator or torch.Generator().manual_seed(0)
    check_arguments(kinds, kernel_sizes, inits, score, extras, room)
    check_probe(images, targets)
    original = scratch_copy(model)
    known = sites(original)
    if not known:
        raise GhostkitError(f"{type(model).__name__} has no site: nothing in it can grow")
    grown = matching(known, at)
    ledger = Ledger(original, images[:1], latency or LatencyTable(batch=1))
    if must_fit and room and not anything_fits(room, original, known, grown, kinds, kernel_sizes, ledger):
        return nothing()
    blind = score == UNSCORED and not extras and not any(map(searched, inits_of_widths(inits)))
    with unheard(device_of(original)):
        seen = unseen(known) if blind else observe(original, known, images, targets, loss)
    grown = [site for site in grown if site.axis == "depth" or site.id in seen]
    sizes = sizes_of(original, known, grown, kinds)
    if room:
        sizes = sizes_within(room, sizes, original, known, ledger, together=together)
    proposed = list(propose(original, known, grown, sizes, seen, kinds, kernel_sizes, inits, generator))
    proposals = [proposal for proposal in proposed if learns(proposal.edit, model, known)]
    if proposed and not proposals:
        raise FrozenError(
            f"all that could grow in {type(model).__name__} would join frozen parts and learn nothing; expected "
            "some of their parameters to require gradients"
        )
    attached = [] if score == UNSCORED else [proposal.attached for proposal in proposals]
    with unheard(device_of(original)):
        found, forwards = score_attached(original, known, attached, images, targets, loss, score, generator)
    rows, unit_of = [], units(known)
    for number, edit in enumerate(proposal.edit for proposal in proposals):
        added = ledger.added(take_down(edit, original, known, generator))
        scored = found.get(number)
        rows.append(
            {
                "edit": edit,
                "site": edit.site,
                "kind": edit.kind,
                "init": getattr(edit, "init", "zero"),
                "gain": scored.gain if scored else 0.0,
                "macs": added.macs,
                "params": added.params,
                "milliseconds": added.milliseconds,
                "unit": unit_of[edit.site] if isinstance(edit, AddIntrinsic | WidenStage) else "",
            }
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if "saturation" in extras:
        used = {site_id: saturation(here) for site_id, here in seen.items()}
        frame["saturation"] = [saturation_at(site, known, used) for site in frame["site"]]
    if "gain_ratio" in extras:
        usual = mean_gain(original, seen, score) if score in SCORES else 1.0
        each = {number: scored.gain / max(scored.numbers, 1) for number, scored in found.items()}
        frame["gain_ratio"] = [each.get(number, 0.0) / usual for number in frame.index]
    order = frame["gain"].sort_values(ascending=False, kind="stable").index
    if score == UNSCORED:
        order = frame.index[torch.randperm(len(frame), generator=generator).numpy()]
    frame = frame.loc[order].reset_index(drop=True)
    silent = torch.zeros(len(images))
    responses = [(found[n].response if n in found else silent).double().cpu().numpy() for n in order]
    frame.attrs["responses"] = [response.tolist() for response in responses]  # lists, since pandas compares attrs
    looked = 0 if blind else len(images) * sum(cost.macs for cost in ledger.layers.values())
    passes = SCORING_PASS * (forwards + looked)
    found_and_scored = sum(proposal.macs for proposal in proposals) + sum(scored.macs for scored in found.values())
    frame.attrs["macs"] = passes + found_and_scored
    return frame


def anything_fits(
    room: Mapping[str, float],
    model: nn.Module,
    known: list[Site],
    grown: list[Site],
    kinds: Sequence[str],
    kernel_sizes: Sequence[int],
    ledger: Ledger,
) -> bool:
    """Return whether any edit, of channels the fewest, fits into ``room``; weights are of no account for that."""
    draw = torch.Generator().manual_seed(0)
    sizes = {name: size.shrunk(0.0) for name, size in sizes_of(model, known, grown, kinds).items()}
    for proposal in propose(model, known, grown, sizes, unseen(known), kinds, kernel_sizes, ["random"], draw):
        price = ledger.added(take_down(proposal.edit, model, known, draw))
        if all(float(getattr(price, unit)) <= left for unit, left in room.items()):
            return True
    return False


def nothing() -> pd.DataFrame:
    """Return the candidates where there are none."""
    frame = pd.DataFrame(columns=list(COLUMNS))
    frame.attrs = {"macs": 0.0, "responses": []}
    return frame


def check_arguments(
    kinds: Sequence[str],
    kernel_sizes: Sequence[int],
    inits: Sequence[str],
    score: str,
    extras: Collection[str],
    room: Collection[str] | None,
) -> None:
    """Raise a GhostkitError if an argument of :func:`candidates` is unknown."""
    for asked, values, expected in (
        ("score", (score,), (*SCORES, UNSCORED)),
        ("how", inits, INITS),
        ("kinds", kinds, KINDS),
        ("extras", extras, EXTRAS),
        ("room", room or (), UNITS),
    ):
        for value in values:
            if value not in expected:
                raise GhostkitError(f"candidates: {asked}={value!r} is unknown; expected one of {', '.join(expected)}")
    for side in kernel_sizes:
        if side < 1 or side % 2 == 0:
            raise GhostkitError(f"candidates: kernel_sizes={tuple(kernel_sizes)} holds {side}; expected odd numbers")


def matching(known: list[Site], at: str | Sequence[str]) -> list[Site]:
    """Return the sites whose paths match a pattern, or one of several.

    Raises:
        GhostkitError: if none does.
    """
    patterns = (at,) if isinstance(at, str) else tuple(at)
    found = [site for site in known if any(fnmatchcase(site.id, pattern) for pattern in patterns)]
    if not found:
        listed = ", ".join(site.id for site in known)
        raise GhostkitError(f"at={at!r} matches no site of this network; its sites are {listed}")
    return found


def check_probe(images: Any, targets: Any) -> None:
    """Raise a ProbeError if a probe batch cannot tell what should grow."""
    if len(images) < 2:
        raise ProbeError(f"the probe batch holds {len(images)} image(s); gains are told from noise by at least two")
    if isinstance(images, Tensor) and not bool(torch.isfinite(images).all()):
        raise ProbeError("the images of the probe batch hold values that are not finite")
    whole = isinstance(targets, Tensor) and not targets.is_floating_point()
    if whole and targets.numel() and bool((targets == targets.flatten()[0]).all()):
        raise ProbeError(
            f"all labels of the probe batch are {targets.flatten()[0].item()}: there is nothing to tell apart"
        )


def scratch_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in train mode without dropout, hooks, history or gradients, to be used up."""
    scratch = copied(model)
    unhook(scratch)
    for module in scratch.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    for parameter in scratch.parameters():
        parameter.grad = None
        parameter.requires_grad_(False)  # gradients are wanted at layers' outputs only, which saves a third of a pass
    return scratch.train()


def trained(parts: Iterable[nn.Module]) -> bool:
    """Return whether any parameter of ``parts`` is trained."""
    return any(parameter.requires_grad for part in parts for parameter in part.parameters())


def learns(edit: Growth, model: nn.Module, known: list[Site]) -> bool:
    """Return whether what ``edit`` starts at zero would be learned: it is frozen where all that it joins is."""
    if isinstance(edit, AddBranch | AddIntrinsic | WidenStage):
        joined = [reader(model.get_submodule(path)) for path in pick(known, edit.site).consumers]
    else:
        joined = [model.get_submodule(f"{edit.site}.{edit.after}" if isinstance(edit, AddBlock) else edit.site)]
    return trained(joined)


@contextmanager
def unheard(device: torch.device) -> Iterator[None]:
    """Let what passes draw by themselves, such as dropout without a module, be the same always, and heard by nobody."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def saturation(seen: Seen) -> float:
    """Return the effective rank of a site's features over their number of channels, 0 to 1 (NORTH, 2202.08539).

    Source: Maile et al., "When, where, and how to add new neurons to ANNs", AutoML 2022; the rank is the exponential of
    the spectrum's entropy (Roy and Vetterli, 2007), which needs no threshold.
    """
    features = seen.features[0].transpose(0, 1).flatten(1).double()
    features = features - features.mean(1, keepdim=True)
    spectrum = torch.linalg.eigvalsh(features @ features.mT).clamp(min=0)
    if not bool(spectrum.sum() > 0):
        return 0.0
    shares = spectrum / spectrum.sum()
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    return float(entropy.exp()) / len(features)


def saturation_at(site_id: str, known: list[Site], used: dict[str, float]) -> float:
    """Return the saturation of a site; of a row of blocks, that of the stream that its last block writes into."""
    if site_id in used:
        return used[site_id]
    row = pick(known, site_id)
    last = f"{row.id}.{row.blocks[-1]}."
    writing = (site.id for site in known if any(path.startswith(last) for path in site.producers))
    return max((used[name] for name in writing if name in used), default=0.0)


def mean_gain(model: nn.Module, seen: dict[str, Seen], score: str) -> float:
    """Return the mean gain, per number, of the weights that read the sites' channels now, by the same ``score``."""
    gains, numbers = 0.0, 0
    for here in seen.values():
        for path, x, delta in zip(here.readers, here.features, here.deltas, strict=True):
            layer = reader(model.get_submodule(path))
            if is_plain(layer):
                there = Part(layer, x, delta)
                gradients = there.gradients()
                gains += max(SCORES[score](there, there, gradients), 0.0)
                numbers += gradients.shape[1]
    return max(gains / max(numbers, 1), 1e-12)
