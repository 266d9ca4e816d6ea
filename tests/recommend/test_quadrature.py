import numpy as np
import pytest

from stabsearch.recommend.quadrature import adapted_points, boxed_points, evenly, quantiles


@pytest.mark.parametrize("dimensions", [1, 3, 6])
def test_points_fill_the_cube_evenly(dimensions):
    points = evenly(4096, dimensions)

    assert points.shape == (4096, dimensions)
    assert points.min() >= 0
    assert points.max() < 1
    assert np.abs(points.mean(axis=0) - 0.5).max() < 0.01
    for column in points.T:
        counts = np.histogram(column, bins=16, range=(0, 1))[0]
        assert counts.min() > 0.8 * counts.max()


MEAN, COVARIANCE = np.array([1.0, -2.0, 0.5]), np.array([[1, 0.6, 0], [0.6, 0.5, 0], [0, 0, 0.1]])


def normal(points):
    apart = points - MEAN
    return -0.5 * np.einsum("ki,ij,kj->k", apart, np.linalg.inv(COVARIANCE), apart)


@pytest.mark.parametrize(
    "points_of",
    [
        lambda: boxed_points(normal, MEAN - 8, MEAN + 9),
        lambda: adapted_points(normal, np.zeros(3), np.full(3, 4.0)),
    ],
    ids=["box", "adapted"],
)
def test_a_normal_distribution_has_its_moments(points_of):
    points, weights = points_of()

    mean = weights @ points
    apart = points - mean
    assert weights.sum() == pytest.approx(1)
    assert mean == pytest.approx(MEAN, abs=0.03)
    assert (apart * weights[:, None]).T @ apart == pytest.approx(COVARIANCE, abs=0.06)
    assert quantiles(points[:, 0], weights, (0.05, 0.5, 0.95)) == pytest.approx(
        [1 - 1.645, 1, 1 + 1.645], abs=0.1
    )


def test_six_parameters_and_a_flat_ridge():
    """A likelihood that knows only the sum of the first two, as trials know rate and tilt."""

    def weigh(points):
        prior = -0.5 * (points**2).sum(axis=1)
        return prior - 0.5 * ((points[:, 0] + points[:, 1] - 1) / 0.1) ** 2

    points, weights = adapted_points(weigh, np.zeros(6), np.ones(6))

    total, difference = points[:, 0] + points[:, 1], points[:, 0] - points[:, 1]
    shrunk = 2 / (2 + 0.01)  # of a sum with prior variance 2, measured with variance 0.01
    assert weights @ total == pytest.approx(shrunk, abs=0.02)
    assert weights @ difference == pytest.approx(0, abs=0.1)
    assert weights @ difference**2 == pytest.approx(2, rel=0.1)
    assert weights @ points[:, 5] ** 2 == pytest.approx(1, rel=0.1)


def test_eight_parameters_that_hundreds_of_trials_have_told_much_of():
    """A narrow posterior far from the middle of the prior: a long way for the rounds."""
    mean, spread = np.linspace(-2.0, 2.0, 8), np.geomspace(2e-3, 2e-2, 8)

    points, weights = adapted_points(
        lambda points: -0.5 * (((points - mean) / spread) ** 2).sum(axis=1),
        np.zeros(8),
        np.full(8, 2.0),
    )

    found = weights @ points
    assert np.abs((found - mean) / spread).max() < 0.1
    assert np.sqrt(weights @ (points - found) ** 2) == pytest.approx(spread, rel=0.1)
