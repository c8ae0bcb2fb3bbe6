"""Verdicts of a family: Holm by hand, the closed test by brute force, words and refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twins_nas.verdicts import Comparison, Rule, compare, corrected, why_too_few

SEEDS = range(8)
NOISE = (0.3, -0.2, 0.1, -0.4, 0.2, 0.0, -0.1, 0.1)
"""The mean is 0, the standard deviation 0.227."""


def one(shift: float, n: int = 8, **rule: Any) -> Comparison:
    """A variant that differs by this much and some noise."""
    values = {
        "base": {seed: 70.0 + seed for seed in SEEDS[:n]},
        "own": {seed: 70.0 + seed + shift + NOISE[seed] for seed in SEEDS[:n]},
    }
    (found,) = compare(values, "base", Rule(**rule))
    return found


def test_holm_by_hand() -> None:
    """The smallest p times 4, then 3, 2, 1, never falling."""
    p = np.array([[0.01, 0.04, 0.03, 0.005]])
    assert corrected(p)[0] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected(np.array([[0.6, 0.7]]))[0] == pytest.approx([1.0, 1.0])
    assert corrected(np.array([[0.3]]))[0] == pytest.approx([0.3])


P = st.floats(0, 1)


@given(st.integers(1, 4).flatmap(lambda k: st.lists(st.tuples(P, P), min_size=k, max_size=k)))
def test_correction_is_the_closed_test(pairs: list[tuple[float, float]]) -> None:
    """Against all sets of hypotheses that can be true together, each tested by Bonferroni."""
    p = np.array(pairs).T
    k = p.shape[1]
    worst = np.zeros((2, k))
    for choice in itertools.product((None, 0, 1), repeat=k):
        members = [(row, place) for place, row in enumerate(choice) if row is not None]
        if members:
            whole = min(1.0, len(members) * min(p[member] for member in members))
            for member in members:
                worst[member] = max(worst[member], whole)
    assert corrected(p) == pytest.approx(worst)


@given(st.lists(P, min_size=1, max_size=6))
def test_correction_without_margin_is_holms(p: list[float]) -> None:
    """Holm's steps, one by one; and an equivalence that is never shown makes it Bonferroni's."""
    expected, running = [0.0] * len(p), 0.0
    for step, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, (len(p) - step) * p[place])
        expected[place] = min(1.0, running)
    assert corrected(np.array([p]))[0] == pytest.approx(expected)
    hopeless = corrected(np.array([p, [1.0] * len(p)]))
    assert hopeless[0] == pytest.approx([min(1.0, len(p) * x) for x in p])


def test_correction_takes_leading_dimensions() -> None:
    """Many families at once give what each gives alone."""
    p = np.random.default_rng(0).uniform(size=(5, 2, 3))
    assert corrected(p) == pytest.approx(np.stack([corrected(family) for family in p]))


@pytest.mark.parametrize(
    ("shift", "rule", "text"),
    [
        (1.0, {}, "better"),
        (-1.0, {}, "worse"),
        (1.0, {"higher_is_better": False}, "worse"),
        (-1.0, {"higher_is_better": False}, "better"),
        (1.0, {"margin": 0.5}, "better"),
        (0.0, {"margin": 0.5}, "equivalent within 0.5 points"),
        (0.0, {"margin": 0.5, "unit": ""}, "equivalent within 0.5"),
        (0.4, {"margin": 0.7}, "better, yet within 0.7 points"),
        (-0.4, {"margin": 0.7}, "worse, yet within 0.7 points"),
        (0.1, {}, "no verdict (n too small: 35 more seeds needed)"),
        (0.0, {}, "no verdict (n too small: more than 1000 seeds needed)"),
    ],
)
def test_verdicts(shift: float, rule: dict[str, Any], text: str) -> None:
    """Each kind, in both directions of the metric."""
    found = one(shift, **rule)
    assert found.verdict.text == text
    assert found.verdict.word == text.split()[0].rstrip(",").replace("no", "none")
    assert found.verdict.negligible == ("yet" in text)
    assert (found.verdict.more is not None) == ("more seeds" in text and "than" not in text)


def test_the_margin_shortens_the_forecast() -> None:
    """With a margin, either verdict will do; with few seeds it is in the singular too."""
    far, near = one(0.1).verdict.more, one(0.1, n=3, margin=0.5).verdict.more
    assert far is not None
    assert near is not None
    assert near < far
    assert one(0.5, n=4).verdict.text == "no verdict (n too small: 2 more seeds needed)"


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "no verdict (no seed in common)"), (1, "no verdict (one pair shows no spread)")],
)
def test_nothing_is_said_without_spread(n: int, text: str) -> None:
    """Too few pairs: no p, no detectable difference, no forecast."""
    found = one(1.0, n=n, margin=0.5)
    assert found.verdict.text == text
    assert (found.p, found.p_equivalent, found.detectable, found.verdict.more) == (None,) * 4


def test_equal_differences_get_no_verdict() -> None:
    """All seeds gain the same: by chance of a coarse metric, or the variants are one."""
    values = {"a": dict.fromkeys(SEEDS, 70.0), "b": dict.fromkeys(SEEDS, 70.1)}
    (found,) = compare(values, "a", Rule(margin=1.0))
    assert found.verdict.text == "no verdict (the 8 differences are all the same)"


def test_a_variant_that_failed_counts_in_the_family() -> None:
    """It is not tested, and the others pay for it as planned."""
    values = {
        "base": {seed: 0.0 for seed in SEEDS},
        "own": {seed: 0.3 + NOISE[seed] for seed in SEEDS},
        "failed": {},
    }
    own, failed = compare(values, "base", Rule())
    assert own.difference.p is not None
    assert own.p == pytest.approx(2 * own.difference.p)
    assert failed.verdict.text == "no verdict (no seed in common)"


def test_detectable_is_of_holms_first_step() -> None:
    """With four variants the smallest difference seen is larger than with one."""
    alone = one(0.1).detectable
    values = {
        name: {seed: 0.1 + NOISE[seed] for seed in SEEDS} if name else dict.fromkeys(SEEDS, 0.0)
        for name in ("", "a", "b", "c", "d")
    }
    four = compare(values, "", Rule())[0].detectable
    assert alone is not None
    assert four is not None
    assert four / alone == pytest.approx(1.31, abs=0.02)


def test_refusals() -> None:
    """Sentences for what cannot be compared."""
    with pytest.raises(ValueError, match="baseline 'x' is not among the variants"):
        compare({"a": {}, "b": {}}, "x", Rule())
    with pytest.raises(ValueError, match="no variant to compare with the baseline 'a'"):
        compare({"a": {}}, "a", Rule())
    with pytest.raises(ValueError, match="b against a: the value of seed 0 is nan"):
        compare({"a": {0: 1.0}, "b": {0: float("nan")}}, "a", Rule())
    for wrong in ({"margin": 0.0}, {"margin": -1.0}, {"alpha": 0.0}, {"power": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rule(**wrong)


@pytest.mark.parametrize(
    ("pairs", "comparisons", "words"),
    [
        (0, 1, "at least 2"),
        (1, 4, "at least 2"),
        (2, 4, "take 3 or more"),
        (3, 40, "take 4 or more"),
        (2, 1, None),
        (3, 8, None),
        (5, 10, None),
    ],
)
def test_too_few_seeds_are_known_before(pairs: int, comparisons: int, words: str | None) -> None:
    """One seed never gives a verdict, two only to a single variant."""
    found = why_too_few(pairs, comparisons, Rule())
    assert found is None if words is None else words in str(found)
