"""Intervals against published values, another implementation, and their own promise."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binomtest

from twins_nas.stats import wilson


@pytest.mark.parametrize(
    ("correct", "n", "level"),
    [(0, 10, 0.95), (10, 10, 0.95), (1, 29, 0.9), (263, 2000, 0.95), (1811, 2000, 0.99)],
)
def test_wilson_is_scipys(correct: int, n: int, level: float) -> None:
    """SciPy computes the same interval another way."""
    other = binomtest(correct, n).proportion_ci(level, method="wilson")
    assert wilson(correct, n, level) == pytest.approx((100 * other.low, 100 * other.high), abs=1e-9)


def test_wilson_pins_a_published_value() -> None:
    """Newcombe (Statistics in Medicine 17, 1998, table I): 81 of 263 is 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((25.53, 36.62), abs=0.005)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    """Over 1,000 draws of 200 images at 90 % right, the interval holds 90 % in about 95 %."""
    rng = random.Random(0)
    held = 0
    for _ in range(1000):
        low, high = wilson(sum(rng.random() < 0.9 for _ in range(200)), 200)
        held += low <= 90 <= high
    assert 0.92 <= held / 1000 <= 0.98


def test_wilson_knows_nothing_without_images() -> None:
    """No image, no knowledge."""
    assert wilson(0, 0) == (0.0, 100.0)


@pytest.mark.parametrize(("correct", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_what_cannot_be(correct: int, n: int, level: float) -> None:
    """More right than asked, or a level outside of (0, 1), is a ValueError."""
    with pytest.raises(ValueError, match=r"cannot be right|level"):
        wilson(correct, n, level)
