"""How a network grows: where (sites), what (edits), how much it would bring (candidates), and doing it (surgery)."""

from ghostkit.growth.edits import AddBlock, AddBranch, AddIntrinsic, Edit
from ghostkit.growth.grow import grow, rebuild
from ghostkit.growth.history import GrowthEvent, History, history_of
from ghostkit.growth.layers import identity_like, widen_in, widen_out
from ghostkit.growth.sites import Site, sites

__all__ = [
    "AddBlock",
    "AddBranch",
    "AddIntrinsic",
    "Edit",
    "GrowthEvent",
    "History",
    "Site",
    "grow",
    "history_of",
    "identity_like",
    "rebuild",
    "sites",
    "widen_in",
    "widen_out",
]
