"""What a number of seeds can show: the smallest difference that is seen, and seeds still needed."""

from __future__ import annotations

MOST_SEEDS = 1000
"""Numbers of seeds are looked for up to here."""


def detection_power(n: int, effect: float, sd: float, alpha: float) -> float:
    """How often n pairs show a true difference, by the two-sided paired t test at alpha; exact."""
    raise NotImplementedError


def equivalence_power(
    n: int, margin: float, sd: float, alpha: float, difference: float = 0.0
) -> float:
    """How often n pairs show equivalence within +-margin (TOST at alpha); exact."""
    raise NotImplementedError


def minimum_detectable(n: int, sd: float, alpha: float, power: float = 0.8) -> float | None:
    """The smallest true difference that n pairs show with that power; None below two pairs.

    By the noncentral t distribution, in the unit of `sd`, the standard deviation of the paired
    differences. For k comparisons under Holm, alpha is that of the first step: 0.05 / k.
    """
    raise NotImplementedError


def pairs_to_detect(effect: float, sd: float, alpha: float, power: float = 0.8) -> int | None:
    """The least number of pairs that show that difference; None if more than 1000."""
    raise NotImplementedError


def pairs_to_equate(
    margin: float, sd: float, alpha: float, power: float = 0.8, difference: float = 0.0
) -> int | None:
    """The least number of pairs that show equivalence within +-margin; None if more than 1000."""
    raise NotImplementedError
