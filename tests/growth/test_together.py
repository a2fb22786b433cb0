"""What candidates bring together: shares of a small quadratic, checked against its closed form."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from ghostkit.growth.together import RIDGE, marginal_shares


def draw(candidates: int = 6, samples: int = 40, seed: int = 0) -> np.ndarray:
    """Responses that overlap: each candidate's are partly those of all."""
    random = np.random.default_rng(seed)
    common = random.normal(size=samples)
    return random.normal(0.3, 1.0, size=(candidates, samples)) + 0.7 * common


def value(responses: np.ndarray, chosen: list[int]) -> float:
    """The most that steps along ``chosen`` lower the quadratic, twice: m' C^-1 m."""
    slopes = responses.mean(1)[chosen]
    curvature = (responses @ responses.T / responses.shape[1])[np.ix_(chosen, chosen)]
    return float(slopes @ np.linalg.solve(curvature + RIDGE * np.diag(np.diag(curvature)), slopes))


def test_a_pair_by_hand():
    responses = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    # Slopes 1/2, 1/2, 1/2; curvature 1/2 on the diagonal (1 for the third), 1/4 between the first two, 0 to the third.
    # Alone: (1/2)^2 / (1/2) = 1/2. Beside the first: (1/2 - 1/2 * 1/2)^2 / (1/2 - 1/8) = 1/6, a third of it.
    shares = marginal_shares(responses, [0])
    assert shares[1] == pytest.approx(1 / 3, rel=5 * RIDGE)
    assert shares[2] == pytest.approx(1.0)


@pytest.mark.parametrize("chosen", [[2], [0, 3], [5, 1, 2], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("seed", range(3))
def test_a_share_is_what_a_candidate_adds_to_the_value_of_those_chosen(chosen, seed):
    responses = draw(seed=seed)
    shares = marginal_shares(responses, chosen)
    slopes, curvature = responses.mean(1), responses @ responses.T / responses.shape[1]
    for candidate in set(range(6)) - set(chosen):
        adds = (value(responses, [*chosen, candidate]) - value(responses, chosen)) / value(responses, [candidate])
        damped = curvature + RIDGE * np.diag(np.diag(curvature))
        steps = np.linalg.solve(damped[np.ix_(chosen, chosen)], slopes[chosen])
        left = slopes[candidate] - curvature[candidate, chosen] @ steps
        expected = min(adds, 1.0) if left * slopes[candidate] > 0 else 0.0
        assert shares[candidate] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [1, 3, 40])
def test_shares_lie_between_nothing_and_all(samples, seed):
    shares = marginal_shares(draw(samples=samples, seed=seed), [1, 4])
    assert np.isfinite(shares).all()
    assert ((shares >= 0) & (shares <= 1)).all()


def test_all_is_kept_where_none_was_chosen():
    assert marginal_shares(draw(), []).tolist() == [1.0] * 6


def test_the_order_of_those_chosen_does_not_matter():
    responses = draw()
    shares = [marginal_shares(responses, chosen) for chosen in permutations([0, 2, 5])]
    for other in shares[1:]:
        np.testing.assert_allclose(other, shares[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_candidate_that_mends_the_same_mistakes_is_worth_next_to_nothing(scale):
    responses = draw()
    responses[3] = scale * responses[1]
    shares = marginal_shares(responses, [1])
    assert shares[3] < RIDGE
    assert shares[1] < RIDGE
    responses[3] = scale * (responses[1] + 2 * responses[0])  # nor one that mends what two others do
    assert marginal_shares(responses, [0, 1])[3] < 0.01
    assert marginal_shares(responses, [1])[3] > 0.01


def test_candidates_that_mend_different_mistakes_keep_all():
    responses = np.kron(np.eye(4), np.ones(5))
    for chosen in ([0], [0, 1], [2, 0, 1]):
        shares = marginal_shares(responses, chosen)
        left = sorted(set(range(4)) - set(chosen))
        np.testing.assert_allclose(shares[left], 1.0, rtol=1e-12)


def test_a_candidate_that_would_take_back_what_another_did_is_worth_nothing():
    # Beside the first, whose step is 1/2 long, the second's slope of 1/4 becomes 1/4 - 1/2: it points the other way.
    responses = np.array([[2.0, 0.0], [1.0, -0.5]])
    assert marginal_shares(responses, []).tolist() == [1.0, 1.0]
    assert marginal_shares(responses, [0])[1] == 0.0


def test_silent_candidates_are_no_trouble():
    responses = draw()
    responses[2] = 0.0
    assert np.isfinite(marginal_shares(responses, [2])).all()
    np.testing.assert_allclose(marginal_shares(responses, [2])[[0, 1, 3, 4, 5]], 1.0)
    assert marginal_shares(responses, [0])[2] == 0.0
