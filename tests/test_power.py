"""Power against SciPy's noncentral t, published sample sizes and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from twins_nas.power import (
    detection_power,
    equivalence_power,
    minimum_detectable,
    pairs_to_detect,
    pairs_to_equate,
)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
@pytest.mark.parametrize("power", [0.3, 0.8])
def test_power_is_the_noncentral_t(n: int, alpha: float, power: float) -> None:
    """At the minimum detectable difference, SciPy computes the same power where it can."""
    effect = minimum_detectable(n, 2.5, alpha, power)
    assert effect is not None
    centre, critical = effect / 2.5 * np.sqrt(n), scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    both = scipy.stats.nct.sf(critical, n - 1, centre) + scipy.stats.nct.cdf(
        -critical, n - 1, centre
    )
    if not np.isnan(both):  # SciPy's is nan for few pairs and a small alpha
        assert both == pytest.approx(power, abs=1e-5)
    assert detection_power(n, effect, 2.5, alpha) == pytest.approx(power)
    assert detection_power(n, -effect, 2.5, alpha) == pytest.approx(power)


@pytest.mark.parametrize(("d_z", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_known_numbers_of_pairs(d_z: float, pairs: int) -> None:
    """What G*Power gives for the paired t test, two-sided 5 %, power 80 %."""
    assert pairs_to_detect(d_z, 1.0, 0.05) == pairs
    assert pairs_to_detect(-3 * d_z, 3.0, 0.05) == pairs


@pytest.mark.parametrize(
    ("n", "margin", "alpha", "truth"),
    [(2, 5.0, 0.05, 0.0), (3, 2.0, 0.05, 0.3), (5, 1.0, 0.025, 0.0), (30, 0.6, 0.01, -0.2)],
)
def test_equivalence_power_is_simulated(n: int, margin: float, alpha: float, truth: float) -> None:
    """The share of 100,000 experiments whose interval lies inside of the margin."""
    values = np.random.default_rng(n).normal(truth, 1, (100_000, n))
    half = scipy.stats.t.ppf(1 - alpha, n - 1) * values.std(axis=1, ddof=1) / np.sqrt(n)
    share = np.mean(np.abs(values.mean(axis=1)) + half < margin)
    assert equivalence_power(n, margin, 1.0, alpha, truth) == pytest.approx(share, abs=0.006)
    assert equivalence_power(n, 4 * margin, 4.0, alpha, 4 * truth) == pytest.approx(
        share, abs=0.006
    )


def test_numbers_of_pairs_are_the_least() -> None:
    """One pair fewer has too little power."""
    pairs = pairs_to_equate(0.5, 1.0, 0.0125, difference=0.1)
    assert pairs is not None
    assert equivalence_power(pairs, 0.5, 1.0, 0.0125, 0.1) >= 0.8
    assert equivalence_power(pairs - 1, 0.5, 1.0, 0.0125, 0.1) < 0.8
    assert pairs_to_detect(1000.0, 1.0, 0.05) == 2


def test_no_number_is_enough() -> None:
    """None where more than 1000 pairs are needed; no difference is shown by one pair."""
    assert pairs_to_detect(0.01, 1.0, 0.05) is None
    assert pairs_to_detect(0.0, 1.0, 0.05) is None
    assert pairs_to_equate(0.5, 1.0, 0.05, difference=0.5) is None
    assert minimum_detectable(1, 1.0, 0.05) is None
