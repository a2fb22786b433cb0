"""Pictures of a run: figures with text twins, and the page that carries them out of a notebook."""

from ghostkit.views.figures import (
    architecture,
    architecture_replay,
    architecture_replay_text,
    architecture_text,
    candidate_scores,
    candidate_scores_text,
    closing_table,
    compute_accuracy,
    compute_accuracy_text,
    feature_mosaic,
    feature_mosaic_text,
    training_curves,
    training_curves_text,
)
from ghostkit.views.report import Shown, find_browser, show, write_report
from ghostkit.views.theme import percent, quantity, table_text

__all__ = [
    "Shown",
    "architecture",
    "architecture_replay",
    "architecture_replay_text",
    "architecture_text",
    "candidate_scores",
    "candidate_scores_text",
    "closing_table",
    "compute_accuracy",
    "compute_accuracy_text",
    "feature_mosaic",
    "feature_mosaic_text",
    "find_browser",
    "percent",
    "quantity",
    "show",
    "table_text",
    "training_curves",
    "training_curves_text",
    "write_report",
]
