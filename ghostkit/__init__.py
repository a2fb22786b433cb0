"""Grow vision networks interactively: ghost modules that widen and deepen while they train."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live. Each is imported when first used: PyTorch takes seconds, and `ghostkit --help`
# should not.
_HOMES = {
    "AddBlock": "ghostkit.growth.edits",
    "AddBranch": "ghostkit.growth.edits",
    "AddIntrinsic": "ghostkit.growth.edits",
    "AddLink": "ghostkit.growth.edits",
    "DeepenBranches": "ghostkit.growth.edits",
    "GhostkitError": "ghostkit.errors",
    "GrowthEvent": "ghostkit.growth.history",
    "NarrowStage": "ghostkit.growth.edits",
    "RemoveBlock": "ghostkit.growth.edits",
    "RemoveBranch": "ghostkit.growth.edits",
    "RemoveIntrinsic": "ghostkit.growth.edits",
    "RemoveLayer": "ghostkit.growth.edits",
    "RemoveLink": "ghostkit.growth.edits",
    "Run": "ghostkit.runs",
    "RunConfig": "ghostkit.config",
    "Trainer": "ghostkit.trainer",
    "build": "ghostkit.nn.zoo",
    "candidates": "ghostkit.growth.candidates",
    "cost": "ghostkit.costs",
    "deploy": "ghostkit.deploying",
    "evaluate": "ghostkit.evaluation",
    "export": "ghostkit.exporting",
    "ghostify": "ghostkit.ghosting",
    "grow": "ghostkit.growth.grow",
    "load": "ghostkit.checkpoint",
    "rebuild": "ghostkit.growth.grow",
    "replay": "ghostkit.growth.grow",
    "save": "ghostkit.checkpoint",
    "sites": "ghostkit.growth.sites",
    "WidenStage": "ghostkit.growth.edits",
    "summary": "ghostkit.runs",
    "train": "ghostkit.trainer",
    "train_all": "ghostkit.parallel",
    "undo": "ghostkit.growth.undo",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Return the public name ``name``, importing its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ghostkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, so that completion shows them before they are imported."""
    return sorted([*globals(), *_HOMES])
