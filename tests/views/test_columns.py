import pandas as pd
import pytest

from ghostkit import views
from ghostkit.errors import GhostkitError
from ghostkit.views.columns import check_columns


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (views.training_curves, "metrics"),
        (views.architecture, "architecture"),
        (views.candidate_scores, "candidates"),
        (lambda frame: views.compute_accuracy({"run": frame}), "metrics"),
    ],
)
def test_a_frame_without_its_columns_is_refused_by_name(draw, what):
    with pytest.raises(GhostkitError, match=rf"the {what} frame lacks the columns .*it has \['colour'\]"):
        draw(pd.DataFrame({"colour": [1]}))


def test_events_without_their_columns_are_refused_too(metrics):
    with pytest.raises(GhostkitError, match="the events frame lacks the columns"):
        views.training_curves(metrics, pd.DataFrame({"colour": [1]}))


def test_an_empty_frame_needs_no_columns():
    check_columns(pd.DataFrame(), ["step"], "metrics")
