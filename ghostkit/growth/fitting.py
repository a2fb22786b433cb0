"""Weights that were found for a network, fitted to what it has become since.

A candidate's weights are found for the network as it is. When several edits are applied at once, or attached side by
side to be scored, the earlier ones may have widened what a later one reads. Its weights for those channels are zero:
that is what it was found and scored with. Where that would be a whole kernel, which behind BN could never learn, growth
draws one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ghostkit.growth.blocks import identity_like
from ghostkit.growth.edits import AddBlock, AddBranch, AddIntrinsic, Edit, WidenStage
from ghostkit.growth.layers import default_rows
from ghostkit.growth.surgery import Surgery
from ghostkit.nn.ghost import GhostModule

__all__ = ["fitted", "note_columns", "reading_path"]


def fitted(edit: Edit, host: nn.Module, owners: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Edit:
    """Return ``edit`` with weights that pay no heed to what came since they were found.

    Args:
        edit: the edit, with the weights that its candidate found or without.
        host: the network as it is now.
        owners: path of a layer -> (in_channels,) who brought each input column since, as :func:`note_columns` keeps it.
        generator: where the kernels of a branch of maps that came since are drawn from; they are zero when None.
    """
    if isinstance(edit, AddBlock) and edit.tensors is not None:
        # Where an edit beside it widened what it reads, it draws weights of its own; what never fitted is refused.
        return edit if not owners or fits(edit, host) else replace(edit, tensors=None)
    if not isinstance(edit, AddBranch | AddIntrinsic | WidenStage) or edit.tensors is None:
        return edit  # layers come first, and links have no weights
    if isinstance(edit, AddBranch):
        module = host.get_submodule(edit.site)
        rows = edit.tensors["rows"]
        more = module.intrinsic_channels - len(rows) if isinstance(module, GhostModule) else 0
        if more <= 0:
            return edit
        further = rows.new_zeros(more, *rows.shape[1:]) if generator is None else default_rows(rows, more, generator)
        return replace(edit, tensors={"rows": torch.cat([rows, further.to(rows)])})  # new maps stand behind the others
    wider = {}
    for name, rows in edit.tensors.items():
        path = edit.site if name == "rows" else name
        columns = owners.get(reading_path(host, path))
        if columns is not None and int((columns < 0).sum()) == rows.shape[1]:
            full = rows.new_zeros(len(rows), len(columns), *rows.shape[2:])
            full[:, columns < 0] = rows
            rows = full
        wider[name] = rows
    return replace(edit, tensors=wider)


def fits(edit: AddBlock, host: nn.Module) -> bool:
    """Return whether the weights of a new block fit the row that it goes into.

    They do not where the block before it is a lone writer of its channels, a width site, and was widened in between.
    """
    known = edit.tensors or {}
    with torch.random.fork_rng(devices=[]):
        block, _ = identity_like(host.get_submodule(f"{edit.site}.{edit.after}"), edit.hidden)
    return all(name in known and known[name].shape == value.shape for name, value in block.state_dict().items())


def reading_path(host: nn.Module, path: str) -> str:
    """Return the path of the convolution that reads a producer's input."""
    return f"{path}.primary_conv.0" if isinstance(host.get_submodule(path), GhostModule) else path


def note_columns(owners: dict[str, Tensor], surgery: Surgery, number: int) -> None:
    """Take into ``owners`` the input columns that ``surgery`` added, moving earlier ones to where they are now.

    Args:
        owners: path of a layer -> (in_channels,) number of the edit that each input column belongs to, or -1.
        surgery: of edit ``number``.
        number: what to write down for its columns.
    """
    for remap in surgery.remaps:
        if remap.shared:
            known = owners.get(remap.path, torch.full((remap.channels.before,), -1))
            kept = known[remap.channels.source.clamp(min=0)]
            owners[remap.path] = torch.where(remap.channels.fresh, number, kept)
