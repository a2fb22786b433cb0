"""Pictures of a run: data frame in, plotly figure out, each with a twin in plain text, and the page that carries them.

The figures are pure. They read the frames that a run gives (``run.metrics``, ``run.events``, ``run.candidates``,
``run.architecture(event)``) or the predictions of :mod:`ghostkit.predicting`, never a model, and carry their twin in
``figure.layout.meta["text"]``. Widgets over them live in :mod:`ghostkit.widgets`.
"""

from ghostkit.views.candidates import candidate_scores, candidate_scores_text
from ghostkit.views.comparison import closing_table, compute_accuracy, compute_accuracy_text
from ghostkit.views.curves import training_curves, training_curves_text
from ghostkit.views.features import feature_mosaic, feature_mosaic_text
from ghostkit.views.histories import growth_histories, growth_histories_text
from ghostkit.views.networks import (
    architecture,
    architecture_replay,
    architecture_replay_text,
    architecture_text,
)
from ghostkit.views.parameters import parallel_parameters, parallel_parameters_text
from ghostkit.views.pictures import predictions, predictions_text
from ghostkit.views.ranking import difference_forest, difference_forest_text, difference_table, ranking_table
from ghostkit.views.report import Shown, show, write_report
from ghostkit.views.similarity import branch_similarity, branch_similarity_text
from ghostkit.views.wording import percent, quantity, table_text

__all__ = [
    "Shown",
    "architecture",
    "architecture_replay",
    "architecture_replay_text",
    "architecture_text",
    "branch_similarity",
    "branch_similarity_text",
    "candidate_scores",
    "candidate_scores_text",
    "closing_table",
    "compute_accuracy",
    "compute_accuracy_text",
    "difference_forest",
    "difference_forest_text",
    "difference_table",
    "feature_mosaic",
    "feature_mosaic_text",
    "growth_histories",
    "growth_histories_text",
    "parallel_parameters",
    "parallel_parameters_text",
    "percent",
    "predictions",
    "predictions_text",
    "quantity",
    "ranking_table",
    "show",
    "table_text",
    "training_curves",
    "training_curves_text",
    "write_report",
]
