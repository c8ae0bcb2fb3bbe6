"""Intervals of what is measured on a finite number of images."""

from __future__ import annotations

import math

from scipy.special import ndtri


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
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    if n == 0:
        return (0.0, 100.0)
    z = float(ndtri((1 + level) / 2))
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return (100 * low, 100 * high)
