"""Summaries and paired differences against SciPy, textbooks and their own symmetries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from twins_nas.stats import (
    Interval,
    Paired,
    bootstrap,
    described,
    equivalence_p,
    paired,
    summarise,
    unbiased,
)

SLEEP = (
    (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
    (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),
)
"""Student's own example (Biometrika 6, 1908): hours of sleep gained with two drugs."""


def by_seed(values: tuple[float, ...] | list[float]) -> dict[int, float]:
    """Values by seed."""
    return dict(enumerate(values))


def of(*differences: float, left_out: int = 0) -> Paired:
    """A paired difference from its differences."""
    found = paired(by_seed(differences), dict.fromkeys(range(len(differences)), 0.0))
    return replace(found, left_out=left_out)


def test_students_example() -> None:
    """R's `t.test(extra ~ group, sleep, paired)` and Cohen's d_z of the same data."""
    found = paired(by_seed(SLEEP[0]), by_seed(SLEEP[1]))
    assert found.n == 10
    assert found.mean == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.interval == Interval(
        pytest.approx(-2.4598858, abs=5e-8), pytest.approx(-0.7001142, abs=5e-8)
    )
    assert found.effect == pytest.approx(-1.2845584 * 0.91387, abs=1e-4)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_t_is_scipys(n: int, level: float) -> None:
    """The same means, intervals and p as `ttest_rel` and `ttest_1samp`."""
    rng = np.random.default_rng(n)
    own, other = rng.normal(70, 2, (2, n))
    found, single = paired(by_seed(own), by_seed(other), level), summarise(by_seed(own), level)
    reference = scipy.stats.ttest_rel(own, other)
    ends = reference.confidence_interval(level)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.interval == Interval(pytest.approx(ends.low), pytest.approx(ends.high), level)
    ends = scipy.stats.ttest_1samp(own, 0).confidence_interval(level)
    assert single.interval == Interval(pytest.approx(ends.low), pytest.approx(ends.high), level)
    assert (single.n, single.mean, single.sd) == (
        n,
        pytest.approx(own.mean()),
        pytest.approx(np.std(own, ddof=1)),
    )


@pytest.mark.parametrize("margin", [0.1, 0.8, 3.0])
def test_tost_is_two_t_tests(margin: float) -> None:
    """The larger p of two one-sided tests by SciPy, which says the same as a 90 % interval."""
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.3, 0.5, 4)
        low = scipy.stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        high = scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue
        p = equivalence_p(of(*values), margin)
        assert p == pytest.approx(max(low, high))
        within = summarise(by_seed(values), 0.9).interval
        assert within is not None
        assert (p <= 0.05) == (-margin <= within.low and within.high <= margin)


def test_only_shared_seeds_are_paired() -> None:
    """Seeds that one has alone are left out and counted; order and position do not matter."""
    found = paired({3: 2.0, 1: 1.0, 7: 50.0}, {1: 0.5, 2: 90.0, 3: 0.0, 9: 90.0})
    assert found.differences == (0.5, 2.0)
    assert (found.n, found.left_out) == (2, 3)
    nothing = paired({1: 1.0}, {2: 1.0})
    assert (nothing.n, nothing.left_out, nothing.note) == (0, 2, "no seed in common")
    assert described(nothing, "points") == "no difference (n = 0 pairs)"


def test_one_seed_has_no_interval() -> None:
    """It is said, and nothing is made up."""
    single, difference = summarise({0: 71.5}), of(0.31)
    assert (single.mean, single.sd, single.interval) == (71.5, None, None)
    assert single.note == "one seed shows no spread"
    assert (difference.sd, difference.interval, difference.p, difference.effect) == (None,) * 4
    assert equivalence_p(difference, 1.0) is None
    assert described(difference, "points") == (
        "+0.31 points (n = 1 pair, no interval: one pair shows no spread)"
    )


def test_two_pairs_have_an_interval_and_no_effect_size() -> None:
    """With one degree of freedom t is 12.7, and Hedges' correction has no bound."""
    found = of(1.0, 2.0)
    assert found.effect is None
    assert found.interval == Interval(
        pytest.approx(1.5 - 6.353, abs=1e-3), pytest.approx(7.853, abs=1e-3)
    )
    with pytest.raises(ValueError, match="bias without bound"):
        unbiased(1.0, 2)


@pytest.mark.parametrize("pair", [(71.3, 71.0), (70.0, 70.0)], ids=["same gain", "no gain"])
def test_equal_differences_are_no_certainty(pair: tuple[float, float]) -> None:
    """Differences that are the same but for rounding have no spread, p or interval."""
    own = {seed: pair[0] + 0.1 * seed for seed in range(3)}
    other = {seed: pair[1] + 0.1 * seed for seed in range(3)}
    found = paired(own, other)
    assert (found.sd, found.p, found.interval) == (None, None, None)
    assert found.note == "the 3 differences are all the same"
    assert summarise(dict.fromkeys(range(4), 70.0)).note == "the 4 values are all the same"


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    """A diverged run is named, not averaged; one that is not shared does not matter."""
    with pytest.raises(ValueError, match=f"seed 1 is {wrong}, not a finite number"):
        summarise({0: 1.0, 1: wrong})
    with pytest.raises(ValueError, match="seed 1"):
        paired({0: 1.0, 1: wrong}, {0: 1.0, 1: 2.0})
    with pytest.raises(ValueError, match="seed 1"):
        paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: wrong})
    assert paired({0: 1.0, 1: wrong}, {0: 1.0}).n == 1
    with pytest.raises(ValueError, match="without any seed"):
        summarise({})


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_is_above_zero(margin: float) -> None:
    """Nothing is equivalent within nothing."""
    with pytest.raises(ValueError, match="margin"):
        equivalence_p(of(1.0, 2.0), margin)


@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_hedges_correction(n: int) -> None:
    """It is near the usual approximation 1 - 3 / (4 m - 1), and takes the bias away."""
    m = n - 1
    assert unbiased(1.0, n) == pytest.approx(1 - 3 / (4 * m - 1), abs=0.02 if m > 2 else 0.2)
    values = np.random.default_rng(n).normal(0.8, 1, (200_000, n))
    ratios = values.mean(axis=1) / values.std(axis=1, ddof=1)
    if m > 2:
        assert unbiased(float(ratios.mean()), n) == pytest.approx(0.8, abs=0.02)


NUMBERS = st.lists(st.integers(-1000, 1000).map(float), min_size=3, max_size=12)


@given(NUMBERS, NUMBERS, st.integers(-50, 50), st.sampled_from([0.125, 0.5, 2.0, 64.0]))
def test_shift_scale_and_sign(
    own: list[float], other: list[float], shift: int, scale: float
) -> None:
    """A shift of both changes nothing; a scale scales; exchanging both turns the sign."""
    found = paired(by_seed(own), by_seed(other))
    moved = paired(by_seed([x + shift for x in own]), by_seed([x + shift for x in other]))
    assert moved == found
    scaled = paired(by_seed([x * scale for x in own]), by_seed([x * scale for x in other]))
    turned = paired(by_seed(other), by_seed(own))
    assert scaled.mean == pytest.approx(scale * found.mean)
    assert turned.mean == -found.mean
    if found.sd is None or found.interval is None or found.effect is None:
        assert scaled.sd is turned.sd is None
        return
    assert scaled.sd == pytest.approx(scale * found.sd)
    assert (scaled.p, scaled.effect) == pytest.approx((found.p, found.effect))
    assert (turned.p, turned.effect) == pytest.approx((found.p, -found.effect))
    assert turned.interval == Interval(
        pytest.approx(-found.interval.high), pytest.approx(-found.interval.low)
    )
    assert equivalence_p(scaled, 3 * scale) == pytest.approx(equivalence_p(found, 3))
    assert equivalence_p(turned, 3) == pytest.approx(equivalence_p(found, 3))


def test_bootstrap_is_scipys() -> None:
    """BCa within the noise of resampling, on skewed differences."""
    values = np.random.default_rng(0).exponential(size=25) - 0.5
    found = bootstrap(of(*values), np.random.default_rng(1), draws=50_000)
    other = scipy.stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=50_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.01)
    again = bootstrap(of(*values), np.random.default_rng(1), draws=50_000)
    assert again == found


def test_bootstrap_is_refused_below_twenty_pairs() -> None:
    """With the reason; and without spread too."""
    with pytest.raises(ValueError, match="needs 20 pairs, not 19: of 5 pairs its 95 %"):
        bootstrap(of(*range(19)), np.random.default_rng(0))
    with pytest.raises(ValueError, match="all the same"):
        bootstrap(of(*[1.0] * 20), np.random.default_rng(0))
    with pytest.raises(ValueError, match="level"):
        bootstrap(of(*range(20)), np.random.default_rng(0), level=1.5)


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), "points", "+0.30 [+0.10, +0.50] points (n = 5 pairs)"),
        ((-0.001, 0.0, -0.003), "", "-0.0013 [-0.0051, +0.0025] (n = 3 pairs)"),
        ((10.0, -10.0), "ms", "+0.00 [-127.06, +127.06] ms (n = 2 pairs)"),
        (
            (1.0, 1.0),
            "points",
            "+1.00 points (n = 2 pairs, no interval: the 2 differences are all the same)",
        ),
    ],
)
def test_a_difference_is_never_bare(values: tuple[float, ...], unit: str, text: str) -> None:
    """With n, interval and sign, and digits enough for a small loss."""
    assert described(of(*values), unit) == text


def test_an_unusual_level_is_named() -> None:
    """As in successive looks."""
    found = paired(by_seed([0.0, 1.0, 2.0]), dict.fromkeys(range(3), 0.0), level=0.99)
    assert described(found, "").endswith("(n = 3 pairs, 99 % interval)")
