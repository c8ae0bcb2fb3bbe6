"""Successive seeds: add seeds until each variant has a verdict or the budget is spent.

Looking again after more seeds is testing again. Each look gets a part of alpha, and the parts sum
to alpha (Bonferroni over looks): no distribution of t over looks is assumed, so it holds for three
pairs as well as for thirty, and for each correction over variants on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twins_nas.verdicts import Comparison, Rule


@dataclass(frozen=True)
class Schedule:
    """Numbers of seeds at which verdicts are looked for, and the part of alpha that each gets.

    Raises:
        ValueError: numbers that do not rise or start below 2, or shares that do not sum to 1.
    """

    looks: tuple[int, ...]
    shares: tuple[float, ...]


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
    """Looks at `first` seeds, then at `growth` times as many each time, the last at `most`.

    Raises:
        ValueError: `first` below 2 or above `most`, or a growth that is not above 1.
    """
    raise NotImplementedError


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
    raise NotImplementedError
