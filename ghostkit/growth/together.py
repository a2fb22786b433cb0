"""What candidates bring together: less than the sum, where they would mend the same mistakes.

Each candidate comes with a *response*: by how much a step of its zero-born numbers would lower the loss of each sample
of the probe batch, to first order. Along these steps the loss is a small quadratic: its slopes are the means of the
responses, and its curvature, by the empirical Fisher information, their mean products. Chosen one after the other, a
candidate is worth what it lowers that quadratic beyond those chosen before, wherever in the network they stand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["marginal_shares"]

RIDGE = 1e-3  # share of its own curvature that is added to each candidate's


def marginal_shares(responses: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return which share of its gain each candidate keeps once those ``chosen`` are there (candidates,).

    Args:
        responses: (candidates, B).
        chosen: numbers of the candidates chosen before.
    """
    slopes = responses.mean(1)
    curvature = responses @ responses.T / responses.shape[1]
    own = curvature.diagonal() * (1 + RIDGE)
    if not chosen:
        return np.ones(len(slopes))
    picked = list(chosen)
    inner = (
        curvature[np.ix_(picked, picked)] + RIDGE * np.diag(curvature.diagonal()[picked]) + 1e-300 * np.eye(len(picked))
    )
    weights = np.linalg.solve(inner, curvature[picked])  # (chosen, candidates)
    slope_left = slopes - slopes[picked] @ weights
    curvature_left = own - np.einsum("sc,sc->c", curvature[picked], weights)
    # What is left of a slope may point the other way: then the candidate would only take back what the others did.
    left = np.where(slope_left * slopes > 0, slope_left**2, 0.0) / np.maximum(curvature_left, RIDGE * own + 1e-300)
    alone = slopes**2 / np.maximum(own, 1e-300)
    return np.clip(left / np.maximum(alone, 1e-300), 0.0, 1.0)
