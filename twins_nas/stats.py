"""Intervals of what is measured on a finite number of images, or of seeds; paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

BOOTSTRAP_FROM = 20
"""The percentile bootstrap of 5 pairs holds the truth in 84 of 100 cases, not in 95: below this
number of pairs none is given."""
NO_SPREAD = 1e-9
"""A standard deviation below this share of the largest value is rounding, not spread."""


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, as (low, high) in percent; (0, 100) without any image.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927) 209-212; without continuity correction, as L. D. Brown, T. T. Cai and
    A. DasGupta recommend in "Interval estimation for a binomial proportion", Statistical Science
    16 (2001) 101-133. It covers the drawing of the images, not the seeds of a training.

    Raises:
        ValueError: counts that contradict each other, or a level that is not between 0 and 1.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} images cannot be right")
    _check_level(level)
    if n == 0:
        return (0.0, 100.0)
    z = float(ndtri((1 + level) / 2))
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return (100 * low, 100 * high)


@dataclass(frozen=True)
class Interval:
    """Two ends, and the share of repetitions in which such an interval holds the truth."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Summary:
    """One variant over its seeds: `sd` and `interval` are None where the seeds show no spread.

    `note` says why they are None, in words for a table's foot; it is empty otherwise.
    """

    n: int
    mean: float
    sd: float | None
    interval: Interval | None
    note: str


@dataclass(frozen=True)
class Paired:
    """Variant minus baseline over the seeds that both have, in the metric's unit.

    `left_out` counts the seeds that only one of the two has. `sd`, `interval`, `p` and `effect`
    are None where there is no spread to judge by (no pair, one pair, or differences that are all
    the same), and `note` says which. `p` is of the two-sided paired t test against no difference,
    not corrected for the other comparisons. `effect` is the mean in standard deviations of the
    differences, Cohen's d_z, without its small-sample bias (see `unbiased`).
    """

    differences: tuple[float, ...]
    left_out: int
    mean: float
    sd: float | None
    interval: Interval | None
    p: float | None
    effect: float | None
    note: str

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.differences)


def summarise(values: Mapping[int, float], level: float = 0.95) -> Summary:
    """Mean, standard deviation and t interval of a variant's values by seed.

    Raises:
        ValueError: no value, or one that is not a finite number.
    """
    raise NotImplementedError


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], level: float = 0.95
) -> Paired:
    """The paired difference over shared seeds, in the order of the baseline's seeds.

    Raises:
        ValueError: a value that is not a finite number.
    """
    raise NotImplementedError


def unbiased(d_z: float, n: int) -> float:
    """Hedges' correction of a standardised difference of n pairs, exact.

    Source: L. V. Hedges, "Distribution theory for Glass's estimator of effect size", Journal of
    Educational Statistics 6 (1981) 107-128: J(m) = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2))
    with m = n - 1 degrees of freedom. At two pairs J is 0 (the bias is unbounded).
    """
    raise NotImplementedError


def equivalence_p(difference: Paired, margin: float) -> float | None:
    """P of two one-sided t tests (TOST) that the true difference is within +-margin.

    The larger one of both: D. J. Schuirmann, "A comparison of the two one-sided tests procedure
    and the power approach", J. Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680. The margin
    is in the metric's unit. None where the differences have no spread.

    Raises:
        ValueError: a margin that is not above 0.
    """
    raise NotImplementedError


def bootstrap(
    difference: Paired, rng: np.random.Generator, level: float = 0.95, draws: int = 10_000
) -> Interval:
    """The bootstrap interval (BCa) of the mean difference, from 20 pairs on.

    Source: B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987) 171-185.

    Raises:
        ValueError: fewer than 20 pairs, with the reason; or no spread.
    """
    raise NotImplementedError


def described(difference: Paired, unit: str) -> str:
    """A difference as it may be quoted, such as `+0.31 [+0.05, +0.57] points (n = 5 pairs)`.

    Never without n, and without interval only where there is none, which is then said. A level
    other than 95 % is named.
    """
    raise NotImplementedError


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
