"""Successive seeds: add seeds until each variant has a verdict or the budget is spent.

Looking again after more seeds is testing again. Each look gets a part of alpha, and the parts sum
to alpha (Bonferroni over looks): no distribution of t over looks is assumed, so it holds for three
pairs as well as for thirty, and for each correction over variants on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twins_nas.stats import Paired, Vector
from twins_nas.verdicts import Comparison, Rule, family_p, judged, paired_with


@dataclass(frozen=True)
class Schedule:
    """Numbers of seeds at which verdicts are looked for, and the part of alpha that each gets.

    Raises:
        ValueError: numbers that do not rise or start below 2, or shares that do not sum to 1.
    """

    looks: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.looks or self.looks[0] < 2 or list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"the looks {self.looks} must rise, from 2 seeds or more")
        if len(self.shares) != len(self.looks) or min(self.shares) <= 0:
            raise ValueError(f"each of {len(self.looks)} looks needs a share above 0")
        if not math.isclose(sum(self.shares), 1):
            raise ValueError(f"the shares of alpha sum to {sum(self.shares):g}, not to 1")


@dataclass(frozen=True)
class Look:
    """The state after a look: verdicts so far, and what to run next.

    `open`: the variants without a verdict; they and the baseline need the seeds up to
    `next_seeds` (None: nothing is to be run any more). Intervals are at 1 - the look's part of
    alpha: over all looks together they hold the truth with at least 1 - alpha.
    """

    number: int
    comparisons: tuple[Comparison, ...]
    open: tuple[str, ...]
    next_seeds: int | None

    @property
    def done(self) -> bool:
        """Whether nothing is to be run any more."""
        return self.next_seeds is None


def schedule(first: int, most: int, growth: float = 1.5) -> Schedule:
    """Looks from `first` seeds to `most`, about `growth` times as many each time.

    Each look's share of alpha is in proportion to its seeds: a look at few seeds can show little,
    whatever it is given (benchmarks/error_rates.py compares other shares).

    Raises:
        ValueError: `first` below 2 or above `most`, or a growth that is not above 1.
    """
    if not 2 <= first <= most:
        raise ValueError(f"looks from {first} to {most} seeds: 2 or more, and not falling")
    if not growth > 1:
        raise ValueError(f"the growth from look to look must be above 1, not {growth}")
    steps = max(1, round(math.log(most / first) / math.log(growth)))
    looks = sorted({round(first * (most / first) ** (step / steps)) for step in range(steps + 1)})
    return Schedule(tuple(looks), tuple(n / sum(looks) for n in looks))


def look(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    rule: Rule,
    plan: Schedule,
    seeds: Sequence[int],
    number: int,
) -> Look:
    """The verdicts after look `number` (from 0), from all values so far.

    It keeps no state: the earlier looks are taken again from the values of their seeds, the first
    so many of `seeds` in their order, so a resumed run says the same. A variant keeps the verdict
    of the look that gave it; its later seeds, if there are any, do not count.

    Raises:
        ValueError: a look that the schedule does not have, fewer seeds than the look asks for, or
            what `compare` refuses.
    """
    if not 0 <= number < len(plan.looks):
        raise ValueError(f"there is no look {number}: the schedule has {len(plan.looks)}")
    if (given := len(set(seeds))) < plan.looks[number]:
        raise ValueError(f"look {number} asks for {plan.looks[number]} seeds, not {given}")
    kept: dict[str, tuple[Paired, Vector, float]] = {}
    for part, n in zip(plan.shares[: number + 1], plan.looks, strict=False):
        drawn = set(seeds[:n])
        seen = {
            name: {seed: value for seed, value in own.items() if seed in drawn}
            for name, own in values.items()
        }
        differences = paired_with(seen, baseline, level=1 - part * rule.alpha)
        p_TK, parts = family_p(differences, rule) / part, [part] * len(differences)
        for place, name in enumerate(differences):
            if name in kept:
                differences[name], p_TK[:, place], parts[place] = kept[name]
        comparisons = judged(differences, p_TK, rule, parts)
        for place, one in enumerate(comparisons):
            if one.verdict.word != "none":
                kept[one.name] = (one.difference, p_TK[:, place], parts[place])
    without = tuple(one.name for one in comparisons if one.verdict.word == "none")
    more = without and number + 1 < len(plan.looks)
    return Look(number, comparisons, without, plan.looks[number + 1] if more else None)
