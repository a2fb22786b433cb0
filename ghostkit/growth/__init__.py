"""How a network grows: where (sites), what (edits), how much it would bring (candidates), and doing it (surgery)."""

from ghostkit.growth import depth, width  # noqa: F401  (what each edit does is registered there)
from ghostkit.growth.blocks import identity_like
from ghostkit.growth.edits import (
    AddBlock,
    AddBranch,
    AddIntrinsic,
    AddLink,
    DeepenBranches,
    Edit,
    NarrowStage,
    RemoveBlock,
    RemoveBranch,
    RemoveIntrinsic,
    RemoveLayer,
    RemoveLink,
    WidenStage,
)
from ghostkit.growth.grow import grow, rebuild
from ghostkit.growth.history import GrowthEvent, History, history_of
from ghostkit.growth.layers import widen_in, widen_out
from ghostkit.growth.sites import Site, sites
from ghostkit.growth.undo import undo

__all__ = [
    "AddBlock",
    "AddBranch",
    "AddIntrinsic",
    "AddLink",
    "DeepenBranches",
    "Edit",
    "GrowthEvent",
    "History",
    "NarrowStage",
    "RemoveBlock",
    "RemoveBranch",
    "RemoveIntrinsic",
    "RemoveLayer",
    "RemoveLink",
    "Site",
    "WidenStage",
    "grow",
    "history_of",
    "identity_like",
    "rebuild",
    "sites",
    "undo",
    "widen_in",
    "widen_out",
]
