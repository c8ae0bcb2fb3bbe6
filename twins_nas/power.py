"""What a number of seeds can show: the smallest difference that is seen, and seeds still needed.

`sd` is the standard deviation of the paired differences, in the metric's unit as the differences
themselves. For k comparisons, `alpha` is that of the correction's first step, 0.05 / k.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import chdtr, stdtrit

from twins_nas.stats import Vector

MOST_PAIRS = 1000
"""Numbers of pairs are looked for up to here."""
MEANS: Vector = np.linspace(-8, 8, 2001)
"""Where a mean lies around the truth, in its standard errors; the points of integration."""
WEIGHTS: Vector = np.exp(-(MEANS**2) / 2) / math.sqrt(2 * math.pi) * (MEANS[1] - MEANS[0])


def detection_power(n: int, effect: float, sd: float, alpha: float) -> float:
    """How often n pairs show a true difference, by the two-sided paired t test at alpha.

    Exact, a value of the noncentral t distribution (J. Cohen, "Statistical power analysis for the
    behavioral sciences", 2nd ed., 1988, chapter 2): given the mean, the estimated variance, which
    is chi-square distributed, has to be small enough. Integrated here, since SciPy's own function
    is nan for few pairs and a small alpha.
    """
    means = MEANS + effect / sd * math.sqrt(n)
    return _share_below(np.abs(means) / stdtrit(n - 1, 1 - alpha / 2), n)


def equivalence_power(
    n: int, margin: float, sd: float, alpha: float, difference: float = 0.0
) -> float:
    """How often n pairs show equivalence within +-margin (TOST at alpha), `difference` being true.

    Exact, in the same way.
    """
    root = math.sqrt(n) / sd
    room = np.maximum(margin * root - np.abs(MEANS + difference * root), 0)
    return _share_below(room / stdtrit(n - 1, 1 - alpha), n)


def _share_below(bound: Vector, n: int) -> float:
    """The probability that a standard deviation of n is below a bound, over all means."""
    return float(np.sum(WEIGHTS * chdtr(n - 1, (n - 1) * bound**2)))


def minimum_detectable(n: int, sd: float, alpha: float, power: float = 0.8) -> float | None:
    """The smallest true difference that n pairs show with that power; None below two pairs."""
    if n < 2:
        return None
    low, high = 0.0, sd
    while detection_power(n, high, sd, alpha) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if detection_power(n, middle, sd, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def pairs_to_detect(effect: float, sd: float, alpha: float, power: float = 0.8) -> int | None:
    """The least number of pairs that show that true difference; None if more than 1000."""
    return _least(lambda n: detection_power(n, effect, sd, alpha), power)


def pairs_to_equate(
    margin: float, sd: float, alpha: float, power: float = 0.8, difference: float = 0.0
) -> int | None:
    """The least number of pairs that show equivalence, `difference` being the true one.

    None if more than 1000, as always for a difference of the margin or more.
    """
    return _least(lambda n: equivalence_power(n, margin, sd, alpha, difference), power)


def _least(power_of: Callable[[int], float], power: float) -> int | None:
    """The least number of pairs with that power, which rises with their number."""
    low, high = 1, MOST_PAIRS
    if power_of(high) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power_of(middle) < power else (low, middle)
    return high
