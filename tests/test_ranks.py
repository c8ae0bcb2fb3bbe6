"""Rank agreement against SciPy, by hand, and intervals that hold what they should."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from twins_nas.ranks import (
    Estimate,
    kendall,
    kendall_difference,
    reliability,
    spearman,
    tau_ceiling,
    top_k_regret,
)

FEW = 40
VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=15)
BOTH = [
    pytest.param(kendall, lambda x, y: scipy.stats.kendalltau(x, y).statistic, id="kendall"),
    pytest.param(spearman, lambda x, y: scipy.stats.spearmanr(x, y).statistic, id="spearman"),
]
Agreement = Callable[..., Estimate]
Reference = Callable[..., float]


def rng(seed: int = 0) -> np.random.Generator:
    """A generator of its own for each call."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("agreement", "reference"), BOTH)
@given(VALUES)
def test_agreement_is_scipys(
    agreement: Agreement, reference: Reference, pairs: list[tuple[int, int]]
) -> None:
    """With many ties too; and refused where one side has no order at all."""
    x, y = zip(*pairs, strict=True)
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ValueError, match="are the same: no ranks"):
            agreement(x, y, rng(), draws=FEW)
        return
    found = agreement(x, y, rng(), draws=FEW)
    assert found.value == pytest.approx(reference(x, y), abs=1e-12)
    assert found.n == len(pairs)
    turned = agreement([-value for value in x], y, rng(), draws=FEW)
    assert turned.value == pytest.approx(-found.value)
    grown = agreement([math.exp(value) for value in x], y, rng(), draws=FEW)
    assert (grown.value, grown.interval.low) == pytest.approx(
        (found.value, found.interval.low), nan_ok=True
    )


@pytest.mark.parametrize(("agreement", "reference"), BOTH)
def test_intervals_are_of_resampled_items(agreement: Agreement, reference: Reference) -> None:
    """The same quantiles as SciPy's statistic of items drawn one by one."""
    x = rng(1).normal(size=25)
    y = x + rng(2).normal(size=25)
    found = agreement(x, y, rng(3), draws=4000)
    picks = rng(4).integers(0, 25, (1000, 25))
    slow = [reference(x[pick], y[pick]) for pick in picks]
    ends = np.quantile(slow, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(ends), abs=0.04)
    narrow = agreement(x, y, rng(3), level=0.5, draws=4000).interval
    assert found.interval.low < narrow.low < found.value < narrow.high < found.interval.high
    assert agreement(x, y, rng(3), draws=4000) == found


def test_tau_interval_holds_the_truth() -> None:
    """Of 50 normal items with correlation 0.7, in about 95 % of 300 experiments."""
    truth, held = 2 / math.pi * math.asin(0.7), 0
    for seed in range(300):
        x, other = rng(seed).normal(size=(2, 50))
        interval = kendall(x, 0.7 * x + math.sqrt(0.51) * other, rng(seed), draws=500).interval
        held += interval.low <= truth <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_difference_of_two_scores_shares_the_resamples() -> None:
    """A score less itself is 0 without doubt; of two alike the difference is known better."""
    truth = rng(1).normal(size=60)
    one = truth + 0.5 * rng(2).normal(size=60)
    two = one + 0.1 * rng(3).normal(size=60)
    same = kendall_difference(one, one, truth, rng())
    assert (same.value, same.interval.low, same.interval.high) == (0.0, 0.0, 0.0)
    found = kendall_difference(one, two, truth, rng())
    alone = kendall(one, truth, rng())
    assert found.value == pytest.approx(alone.value - kendall(two, truth, rng()).value)
    width = found.interval.high - found.interval.low
    assert width < 0.7 * (alone.interval.high - alone.interval.low)
    worse = kendall_difference(one, rng(4).normal(size=60), truth, rng())
    assert worse.interval.low > 0


def test_regret_by_hand() -> None:
    """Scores 5, 4, 4, 1 put truths 70, 73, 71, 74 first; of equal scores the worse one."""
    score, truth = [5.0, 4.0, 4.0, 1.0], [70.0, 73.0, 71.0, 74.0]
    found = [top_k_regret(score, truth, k, rng(), draws=FEW).value for k in (1, 2, 3, 4)]
    assert found == [4.0, 3.0, 1.0, 0.0]
    assert top_k_regret(truth, truth, 1, rng()).interval.high == 0.0
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"the best {k} of 4 items"):
            top_k_regret(score, truth, k, rng())


def test_regret_interval_is_of_resampled_items() -> None:
    """An item drawn twice takes two of the k places."""
    truth = rng(1).normal(size=12)
    score = truth + rng(2).normal(size=12)
    found = top_k_regret(score, truth, 3, rng(3), draws=4000).interval
    slow = []
    for pick in rng(4).integers(0, 12, (4000, 12)):
        first = sorted(pick, key=lambda item: -score[item])[:3]
        slow.append(truth[pick].max() - truth[first].max())
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(slow, [0.025, 0.975])), abs=0.1
    )


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_reliability_is_that_of_the_means(seeds: int) -> None:
    """Spread of items 1, of seeds 1.5: 1 / (1 + 2.25 / seeds); a common seed effect is harmless."""
    items = rng(1).normal(size=(1500, 1))
    values = items + 1.5 * rng(2).normal(size=(1500, seeds)) + 9 * rng(3).normal(size=seeds)
    found = reliability(values, rng(), draws=200)
    assert found.value == pytest.approx(1 / (1 + 2.25 / seeds), abs=0.05)
    assert found.interval.low < found.value < found.interval.high


def test_reliability_of_two_seeds_by_hand() -> None:
    """One split: 2 r / (1 + r); no agreement is 0."""
    values = [[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [4.0, 4.0]]
    r = np.corrcoef(np.array(values).T)[0, 1]
    assert reliability(values, rng(), draws=FEW).value == pytest.approx(2 * r / (1 + r))
    assert reliability([[1, 3], [2, 2.5], [3, 1]], rng(), draws=FEW).value == 0.0


def test_ceiling_of_tau() -> None:
    """A perfect score reaches it, with noisy means of that reliability."""
    assert (tau_ceiling(0.0), tau_ceiling(1.0)) == (0.0, 1.0)
    perfect = rng(1).normal(size=3000)
    means = perfect + rng(2).normal(size=3000)
    tau = scipy.stats.kendalltau(perfect, means).statistic
    assert tau_ceiling(0.5) == pytest.approx(tau, abs=0.02)
    with pytest.raises(ValueError, match="reliability"):
        tau_ceiling(1.1)


@pytest.mark.parametrize(
    ("score", "truth", "words"),
    [
        ([1, 2, 3], [1, 2], "3 scores cannot be ranked against 2 truths"),
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, math.nan], [1, 2, 3], "scores are not all finite"),
        ([1, 2, 3], [1, 2, math.inf], "truths are not all finite"),
        ([1, 1, 1], [1, 2, 3], "scores of all 3 items are the same"),
    ],
)
def test_refusals(score: list[float], truth: list[float], words: str) -> None:
    """What has no ranks is refused in sentences."""
    for agreement in (kendall, spearman):
        with pytest.raises(ValueError, match=words):
            agreement(score, truth, rng())
    with pytest.raises(ValueError, match=words):
        top_k_regret(score, truth, 1, rng())
    with pytest.raises(ValueError, match=words):
        kendall_difference(score, score, truth, rng())


def test_refused_reliability() -> None:
    """A seed has no halves, and a level is a share."""
    for wrong in ([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="two or more seeds"):
            reliability(wrong, rng())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        kendall([1, 2, 3], [1, 2, 3], rng(), level=1.0)
