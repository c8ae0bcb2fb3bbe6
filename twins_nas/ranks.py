"""How well a score ranks what it stands for: agreement of ranks, with n and an interval.

Shape suffixes: B resamples, N items, S seeds. Score and truth are both better when higher.
Intervals are percentile bootstraps over the items. A resample is a count of each item; the
statistics below are written for such weights, so that all resamples are a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from twins_nas.stats import Interval, Vector

DRAWS = 2000
BLOCK = 500
"""Resamples at a time, for the memory's sake."""
SPLITS = 100
"""Ways of halving the seeds that are averaged."""

Statistic = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Estimate:
    """A statistic of n items with its interval."""

    value: float
    interval: Interval
    n: int


def kendall(
    score: Sequence[float],
    truth: Sequence[float],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """Kendall's tau-b, 1 for the same order, -1 for the reverse.

    Source: M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945)
    239-251.

    Raises:
        ValueError: unequal lengths, fewer than 3 items, values that are not finite or all equal.
    """
    return _bootstrapped(tau(*checked(score, truth)), len(score), rng, level, draws)


def kendall_difference(
    score: Sequence[float],
    other: Sequence[float],
    truth: Sequence[float],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """Tau-b of a score less that of another one, of the same items: the resamples are shared.

    Raises:
        ValueError: as `kendall`.
    """
    one, two = tau(*checked(score, truth)), tau(*checked(other, truth))
    return _bootstrapped(lambda w_BN: one(w_BN) - two(w_BN), len(score), rng, level, draws)


def spearman(
    score: Sequence[float],
    truth: Sequence[float],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """Spearman's rho, the correlation of the ranks; ties have their mean rank.

    Raises:
        ValueError: as `kendall`.
    """
    return _bootstrapped(rho(*checked(score, truth)), len(score), rng, level, draws)


def top_k_regret(
    score: Sequence[float],
    truth: Sequence[float],
    k: int,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """The best truth of all items less the best among the k that the score puts first.

    Equal scores are taken in the worst order. The interval is rough: it rests on the largest few
    values, of which resampling knows little, and is too short for few items and a good score
    (benchmarks/error_rates.py).

    Raises:
        ValueError: as `kendall`, or a k that is not between 1 and the number of items.
    """
    score_N, truth_N = checked(score, truth)
    statistic = regret(score_N, truth_N, k)
    return _bootstrapped(statistic, len(score), rng, level, draws)


def reliability(
    values_NS: Sequence[Sequence[float]],
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """How far the items' means over all their seeds would correlate with those over new seeds.

    The correlation of the means of one half of the seeds with those of the other, over random
    halves, stepped up to all seeds by the Spearman-Brown formula (British Journal of Psychology 3,
    1910, 271-295 and 296-322); 0 where it comes out below. An item is a row, a seed a column.

    Raises:
        ValueError: fewer than 3 items or 2 seeds, or values that are not finite or all equal.
    """
    found_NS = np.array(values_NS, dtype=float)
    if found_NS.ndim != 2 or found_NS.shape[1] < 2:
        raise ValueError("each item needs the values of the same two or more seeds")
    checked(found_NS.mean(axis=1), found_NS.mean(axis=1))
    found_NS = (found_NS - found_NS.mean()) / found_NS.std()
    seeds = found_NS.shape[1]
    half = seeds // 2
    halves = []
    for _ in range(SPLITS):
        drawn = rng.permutation(seeds)
        one, two = drawn[:half], drawn[half : 2 * half]
        halves.append((found_NS[:, one].mean(axis=1), found_NS[:, two].mean(axis=1)))

    def stepped_up(w_BN: Vector) -> Vector:
        rs = [_correlation(one[None], two[None], w_BN) for one, two in halves]
        r_B, longer = np.maximum(np.mean(rs, axis=0), 0.0), seeds / half
        return np.asarray(longer * r_B / (1 + (longer - 1) * r_B))

    return _bootstrapped(stepped_up, len(found_NS), rng, level, draws)


def tau_ceiling(reliable: float) -> float:
    """The tau that a perfect score reaches with means of that reliability.

    No score correlates more with noisy means than the square root of their reliability; Greiner's
    relation tau = 2 / pi * asin(r) of normal values makes a tau of it.

    Raises:
        ValueError: a reliability that is not between 0 and 1.
    """
    if not 0 <= reliable <= 1:
        raise ValueError(f"a reliability of {reliable} is not between 0 and 1")
    return 2 / math.pi * math.asin(math.sqrt(reliable))


def checked(
    score: Sequence[float] | Vector, truth: Sequence[float] | Vector
) -> tuple[Vector, Vector]:
    """Both as arrays, fit to be ranked.

    Raises:
        ValueError: unequal lengths, fewer than 3 items, values that are not finite or all equal.
    """
    if len(score) != len(truth):
        raise ValueError(f"{len(score)} scores cannot be ranked against {len(truth)} truths")
    if len(score) < 3:
        raise ValueError(f"ranks of {len(score)} items say nothing: at least 3 are needed")
    both = np.array(score, dtype=float), np.array(truth, dtype=float)
    for values_N, what in zip(both, ("scores", "truths"), strict=True):
        if not np.isfinite(values_N).all():
            raise ValueError(f"the {what} are not all finite numbers")
        if np.ptp(values_N) == 0:
            raise ValueError(f"the {what} of all {len(values_N)} items are the same: no ranks")
    return both


def tau(score_N: Vector, truth_N: Vector, bins_N: Vector | None = None) -> Statistic:
    """Tau-b as a function of weights; with bins, of the pairs within a bin alone."""
    first_NN, second_NN = (np.sign(x_N[:, None] - x_N) for x_N in (score_N, truth_N))
    if bins_N is not None:
        first_NN, second_NN = (
            pairs_NN * (bins_N[:, None] == bins_N) for pairs_NN in (first_NN, second_NN)
        )

    def statistic(w_BN: Vector) -> Vector:
        agreed, one, two = (
            np.sum((w_BN @ pairs_NN) * w_BN, axis=1)
            for pairs_NN in (first_NN * second_NN, first_NN**2, second_NN**2)
        )
        return _ratio(agreed, one * two)

    return statistic


def rho(score_N: Vector, truth_N: Vector) -> Statistic:
    """Spearman's rho as a function of weights."""
    below = [np.heaviside(x_N[:, None] - x_N, 0.5) for x_N in (score_N, truth_N)]

    def statistic(w_BN: Vector) -> Vector:
        first_BN, second_BN = (w_BN @ below_NN.T for below_NN in below)
        return _correlation(first_BN, second_BN, w_BN)

    return statistic


def regret(score_N: Vector, truth_N: Vector, k: int) -> Statistic:
    """The regret of the first k as a function of weights.

    Raises:
        ValueError: a k that is not between 1 and the number of items.
    """
    if not 1 <= k <= len(score_N):
        raise ValueError(f"the best {k} of {len(score_N)} items cannot be taken")
    order_N = np.lexsort((truth_N, -score_N))
    sorted_N = truth_N[order_N]

    def statistic(w_BN: Vector) -> Vector:
        w_BN = w_BN[:, order_N]
        before_BN = np.cumsum(w_BN, axis=1) - w_BN
        best_B = np.max(np.where(w_BN > 0, sorted_N, -np.inf), axis=1)
        taken_B = np.max(np.where((w_BN > 0) & (before_BN < k), sorted_N, -np.inf), axis=1)
        return np.asarray(best_B - taken_B)

    return statistic


def _correlation(x_BN: Vector, y_BN: Vector, w_BN: Vector) -> Vector:
    """The weighted correlation of each row."""
    total_B1 = w_BN.sum(axis=1, keepdims=True)
    x_BN = x_BN - np.sum(w_BN * x_BN, axis=1, keepdims=True) / total_B1
    y_BN = y_BN - np.sum(w_BN * y_BN, axis=1, keepdims=True) / total_B1
    both, one, two = (
        np.sum(w_BN * products, axis=1) for products in (x_BN * y_BN, x_BN**2, y_BN**2)
    )
    return _ratio(both, one * two)


def _ratio(shared_B: Vector, squares_B: Vector) -> Vector:
    """Shared / sqrt(squares); nan where a resample has no spread."""
    flat_B = squares_B <= 0
    return np.where(flat_B, np.nan, shared_B / np.sqrt(np.where(flat_B, 1.0, squares_B)))


def _bootstrapped(
    statistic: Statistic, n: int, rng: np.random.Generator, level: float, draws: int
) -> Estimate:
    """The statistic of all items, and its percentile interval over resamples of them.

    Resamples without spread, which only a handful of items has, are left out.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    found = [
        statistic(rng.multinomial(n, np.full(n, 1 / n), size).astype(float))
        for size in [BLOCK] * (draws // BLOCK) + [draws % BLOCK] * (draws % BLOCK > 0)
    ]
    low, high = np.nanquantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    value = float(statistic(np.ones((1, n)))[0])
    return Estimate(value, Interval(float(low), float(high), level), n)
