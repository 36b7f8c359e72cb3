"""The paired bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from jobonnx.evaluation.bootstrap import bootstrap_difference


def test_constant_difference_has_no_width() -> None:
    mean, low, high = bootstrap_difference(np.full(20, 0.75), np.full(20, 0.5))
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))


def test_it_is_paired_seeded_and_the_same_for_every_column() -> None:
    rng = np.random.default_rng(1)
    reference_values = rng.random((50, 3))
    candidate = reference_values + rng.normal(0.1, 0.05, (50, 1))
    mean, low, high = bootstrap_difference(candidate, reference_values, resamples=500)
    again = bootstrap_difference(candidate, reference_values, resamples=500)
    alone = bootstrap_difference(candidate[:, 1], reference_values[:, 1], resamples=500)
    assert np.array_equal(low, again[1])
    assert np.array_equal(high, again[2])
    # The columns differ by the same amount for each query: pairing leaves them one interval.
    assert low == pytest.approx(np.full(3, alone[1]))
    assert (low < mean).all()
    assert (mean < high).all()


def test_width_is_that_of_the_normal_approximation() -> None:
    differences = np.random.default_rng(2).normal(0.02, 0.1, 400)
    _, low, high = bootstrap_difference(differences, np.zeros(400))
    assert (high - low) == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(400), rel=0.05)


@pytest.mark.parametrize(("ours", "theirs"), [((3,), (4,)), ((0,), (0,))])
def test_values_that_are_not_paired_are_refused(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="paired values"):
        bootstrap_difference(np.zeros(ours), np.zeros(theirs))
