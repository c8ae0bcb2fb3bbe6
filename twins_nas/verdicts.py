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
(benchmarks/statistics.py: NN % instead of 5 % where two of four variants are equal to the baseline
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from twins_nas.stats import Paired

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


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's corrected p, in the order given."""
    raise NotImplementedError


def corrected(
    p: Sequence[float], p_equivalent: Sequence[float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """P of differences and of equivalences, corrected as one family (see the module's text).

    Without equivalences the first part is Holm's and the second is empty.
    """
    raise NotImplementedError


def compare(
    values: Mapping[str, Mapping[int, float]], baseline: str, rule: Rule
) -> tuple[Comparison, ...]:
    """Every other variant against the baseline, in the order given; values by variant and seed.

    Raises:
        ValueError: a baseline that is not among the variants, no other variant, or a value that
            is not a finite number.
    """
    raise NotImplementedError


def why_too_few(pairs: int, comparisons: int, rule: Rule) -> str | None:
    """Why so many seeds cannot give any verdict, said before anything runs; None if they can."""
    raise NotImplementedError
