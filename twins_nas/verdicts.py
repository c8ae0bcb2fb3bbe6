"""Verdicts over a family of variants against one baseline: what was shown, what was not, and why.

How `better`, `worse` and `equivalent` share one family-wise error
------------------------------------------------------------------
The promise: the chance that a report holds any false verdict, of either kind, is at most alpha.
Each comparison has two null hypotheses: D "no difference at all" (rejecting it gives better or
worse) and E "a difference of the margin or more" (rejecting it gives equivalent). Both can not be
true at once, so one share of alpha serves both tests of a comparison (J. P. Shaffer, "Modified
sequentially rejective multiple test procedures", JASA 81 (1986) 826-831): with k comparisons at
most k of the 2k hypotheses are true, not 2k.

Holm's method frees the share of a rejected hypothesis for the rest. Here a comparison frees its
share only when nothing more about it can be false, that is when D *and* E are rejected: a variant
that is clearly worse has a true E, which might still be rejected wrongly. Two separate Holm
corrections, one of all D and one of all E, would each hold alpha and both together only 2 alpha
(benchmarks/error_rates.py: 9 % instead of 5 % where two of four variants are equal to the baseline
and two differ by the margin). Without a margin there is no E, and the correction is Holm's exactly
(S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6 (1979) 65-70). With one, the price is that thresholds stay at alpha / k where Holm's
would grow; the minimum detectable difference is that of alpha / k in both cases.

Both rejected: the difference is real and smaller than the margin. The report says both, `better,
yet within 0.5 points`; neither hides the other.

A comparison without spread (one pair, equal differences, runs that failed) is tested by nothing,
counts in k, and gets no verdict: with a metric in steps of one image, two pairs agree by chance
too often to call that certainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twins_nas.power import MOST_PAIRS, minimum_detectable, pairs_to_detect, pairs_to_equate
from twins_nas.stats import Paired, Vector, equivalence_p, paired

HOPELESS = 20.0
"""A design that only sees differences of this many standard deviations is refused beforehand."""

Word = Literal["better", "worse", "equivalent", "none"]


@dataclass(frozen=True)
class Rule:
    """How a family is judged; the margin, in the metric's unit, is None if none was declared.

    Raises:
        ValueError: a margin that is not above 0, or an alpha or power outside of (0, 1).
    """

    margin: float | None = None
    higher_is_better: bool = True
    unit: str = "points"
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"the margin of equivalence must be above 0, not {self.margin}")
        for name, value in (("alpha", self.alpha), ("power", self.power)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {value}")

    @property
    def within(self) -> str:
        """The margin in words."""
        return f"within {self.margin:g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Verdict:
    """What a comparison has shown.

    `negligible`: better or worse, yet shown to be within the margin. `more`: for `none`, the
    number of further seeds that would give a verdict with the rule's power, were mean and spread
    those seen so far; None where the spread is unknown or more than 1000 are needed. `text` is
    the whole verdict in words.
    """

    word: Word
    negligible: bool
    more: int | None
    text: str


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline.

    `p` and `p_equivalent` are corrected for the whole family (compare them with alpha itself;
    None where nothing was tested); `difference.p` is not. `detectable`: the smallest true
    difference that this many pairs with this spread show with the rule's power at alpha / k.
    """

    name: str
    difference: Paired
    p: float | None
    p_equivalent: float | None
    detectable: float | None
    verdict: Verdict


def corrected(p_TK: Vector) -> Vector:
    """P of a family, corrected as the module's text says; K comparisons, T tests of each.

    T is 1 (differences: Holm's method) or 2 (and equivalences); more dimensions may lead. A closed
    test: a hypothesis is rejected if each set of hypotheses that holds it and can be true as a
    whole has, of m comparisons, a p of at most alpha / m. The worst set of m takes the larger p of
    each other comparison, and of those the m - 1 largest.
    """
    larger_K = p_TK.max(axis=-2)
    found_TK = np.empty_like(p_TK)
    sizes = np.arange(2, p_TK.shape[-1] + 1)
    for place in range(p_TK.shape[-1]):
        alone = p_TK[..., place, None]
        others = -np.sort(-np.delete(larger_K, place, axis=-1), axis=-1)[..., None, :]
        worst = np.max(sizes * np.minimum(alone, others), axis=-1, initial=0.0)
        found_TK[..., place] = np.maximum(alone[..., 0], worst)
    return np.minimum(found_TK, 1.0)


def compare(
    values: Mapping[str, Mapping[int, float]], baseline: str, rule: Rule
) -> tuple[Comparison, ...]:
    """Every other variant against the baseline, in the order given; values by variant and seed.

    Raises:
        ValueError: a baseline that is not among the variants, no other variant, or a value that
            is not a finite number.
    """
    differences = paired_with(values, baseline)
    return judged(differences, family_p(differences, rule), rule)


def paired_with(
    values: Mapping[str, Mapping[int, float]], baseline: str, level: float = 0.95
) -> dict[str, Paired]:
    """The paired difference of every other variant from the baseline.

    Raises:
        ValueError: as `compare`.
    """
    if baseline not in values:
        raise ValueError(f"the baseline {baseline!r} is not among the variants {list(values)}")
    if len(values) < 2:
        raise ValueError(f"there is no variant to compare with the baseline {baseline!r}")
    found = {}
    for name, own in values.items():
        if name == baseline:
            continue
        try:
            found[name] = paired(own, values[baseline], level)
        except ValueError as error:
            raise ValueError(f"{name} against {baseline}: {error}") from error
    return found


def family_p(differences: Mapping[str, Paired], rule: Rule) -> Vector:
    """Uncorrected p of differences and, given a margin, of equivalences: one row a test.

    1 where nothing can be tested.
    """
    rows = [[one.p for one in differences.values()]]
    if rule.margin is not None:
        rows.append([equivalence_p(one, rule.margin) for one in differences.values()])
    return np.array([[1.0 if p is None else p for p in row] for row in rows])


def judged(
    differences: Mapping[str, Paired], p_TK: Vector, rule: Rule, parts: Sequence[float] = ()
) -> tuple[Comparison, ...]:
    """The comparisons of a family from their uncorrected p.

    What more seeds would show, and the detectable difference, are reckoned with each one's part of
    alpha, the whole of it by default.
    """
    found, p_TK = [], corrected(p_TK)
    for place, (name, difference) in enumerate(differences.items()):
        alpha = (parts[place] if parts else 1.0) * rule.alpha / len(differences)
        own_T = p_TK[:, place]
        detectable, p, equivalent = None, None, None
        if difference.sd is not None:
            detectable = minimum_detectable(difference.n, difference.sd, alpha, rule.power)
            p, equivalent = float(own_T[0]), float(own_T[1]) if len(own_T) > 1 else None
        verdict = _verdict(difference, p, equivalent, alpha, rule)
        found.append(Comparison(name, difference, p, equivalent, detectable, verdict))
    return tuple(found)


def seeds_needed(difference: Paired, alpha: float, rule: Rule) -> int | None:
    """How many more seeds would give a verdict, were mean and spread those seen so far.

    The fewer of those that show the difference and of those that show equivalence with the rule's
    power, each tested at `alpha` (0.05 / k for k comparisons); None where there is no spread to go
    by, or more than 1000 are needed in all. A forecast from few seeds is rough, and it is a plan,
    no licence: adding them and testing again with the whole of alpha is wrong in 10 % of the cases
    without any difference, not in 5 % (benchmarks/error_rates.py). `sequential` is for looking
    again; else start a new run with that many seeds.
    """
    if difference.sd is None:
        return None
    needed = [pairs_to_detect(difference.mean, difference.sd, alpha, rule.power)]
    if rule.margin is not None:
        sizes = (rule.margin, difference.sd, alpha, rule.power, difference.mean)
        needed.append(pairs_to_equate(*sizes))
    most = min((pairs for pairs in needed if pairs is not None), default=None)
    return None if most is None else max(1, most - difference.n)


def why_too_few(pairs: int, comparisons: int, rule: Rule) -> str | None:
    """Why so many seeds cannot give any verdict, said before anything runs; None if they can.

    One seed shows no spread. Two seeds show one, yet for most families only a difference of dozens
    of standard deviations would be told from chance.
    """
    if pairs < 2:
        return f"{pairs} seed shows no spread: at least 2 are needed for any verdict, better 5"
    alpha = rule.alpha / comparisons
    seen = minimum_detectable(pairs, 1.0, alpha, rule.power)
    if seen is None or seen < HOPELESS:
        return None
    least = pairs_to_detect(HOPELESS, 1.0, alpha, rule.power)
    many = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
    return (
        f"{pairs} seeds are too few for a verdict on {many}: only a difference of {seen:.0f}"
        f" standard deviations would be told from chance; take {least} or more"
    )


def _verdict(
    difference: Paired, p: float | None, p_equivalent: float | None, alpha: float, rule: Rule
) -> Verdict:
    """The verdict of a comparison from its corrected p."""
    if p is None:
        return Verdict("none", False, None, f"no verdict ({difference.note})")
    equivalent = p_equivalent is not None and p_equivalent <= rule.alpha
    if p <= rule.alpha:
        word: Word = "better" if (difference.mean > 0) == rule.higher_is_better else "worse"
        text = f"{word}, yet {rule.within}" if equivalent else word
        return Verdict(word, equivalent, None, text)
    if equivalent:
        return Verdict("equivalent", False, None, f"equivalent {rule.within}")
    more = seeds_needed(difference, alpha, rule)
    if more is None:
        needed = f"more than {MOST_PAIRS} seeds needed"
    else:
        needed = f"{more} more {'seed' if more == 1 else 'seeds'} needed"
    return Verdict("none", False, more, f"no verdict (n too small: {needed})")
