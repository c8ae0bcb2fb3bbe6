"""How scores agree with a bank: tau, tau within bins of MACs, rho, regret; what they must beat.

All figures come from the same resamples, so that their differences are paired. A resample draws
networks, seeds of the bank and supernets, each with replacement and on its own (A. B. Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 1 (2007) 386-411).

Shape suffixes: B resamples, N networks, S seeds of the bank, M rankings (one a supernet).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from twins_nas.errors import UserError
from twins_nas.ranks import (
    DRAWS,
    Estimate,
    Statistic,
    checked,
    regret,
    reliability,
    rho,
    tau,
    tau_ceiling,
)
from twins_nas.stats import Interval, Vector
from twins_nas.truth import Truth

LEVEL = 0.95
LEAST = 6
"""Networks below which nothing is told."""
LEAST_IN_BIN = 3
RANDOM_RANKINGS = 200
SUPERNET, EACH, PRIOR, BASELINE = "supernet", "one supernet", "prior", "baseline"
MACS, PARAMS, SIZE, RANDOM = "MACs", "params", "MACs x params", "random"

Agreement = Callable[[Vector, Vector], Statistic]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of n networks: its value, and what each resample makes of it."""

    value: float
    draws_B: Vector = field(repr=False)
    n: int

    @cached_property
    def interval(self) -> Interval:
        """The percentile interval; resamples without any order are left out."""
        known_B = self.draws_B[np.isfinite(self.draws_B)]
        if not len(known_B):
            return Interval(np.nan, np.nan, LEVEL)
        low, high = np.quantile(known_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(low), float(high), LEVEL)

    @property
    def estimate(self) -> Estimate:
        """Value, interval and n."""
        return Estimate(self.value, self.interval, self.n)

    def __sub__(self, other: Figure) -> Figure:
        """The difference of two figures of the same resamples."""
        return Figure(self.value - other.value, self.draws_B - other.draws_B, self.n)


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each resample has each network and each seed of the bank."""

    truth_NS: Vector
    networks_BN: Vector
    seeds_BS: Vector

    @classmethod
    def draw(cls, truth_NS: Vector, rng: np.random.Generator, draws: int = DRAWS) -> Resamples:
        """Resamples of these networks and seeds."""
        networks, seeds = truth_NS.shape
        return cls(truth_NS, drawn(networks, rng, draws), drawn(seeds, rng, draws))

    def figure(self, agreement: Agreement, scores_MN: Vector, runs_BM: Vector) -> Figure:
        """The mean figure over rankings of which each resample has `runs_BM`."""
        n, seeds = self.truth_NS.shape
        means_N, all_1N = self.truth_NS.mean(axis=1), np.ones((1, n))
        values = [agreement(score_N, means_N)(all_1N)[0] for score_N in scores_MN]
        sums_B = np.zeros(len(self.networks_BN))
        kinds_US, kind_B = np.unique(self.seeds_BS, axis=0, return_inverse=True)
        for kind, seeds_S in enumerate(kinds_US):
            truth_N = self.truth_NS @ seeds_S / seeds
            of_kind_B = kind_B.reshape(-1) == kind
            for score_N, runs_B in zip(scores_MN, runs_BM.T, strict=True):
                rows = np.flatnonzero(of_kind_B & (runs_B > 0))
                if len(rows):
                    found = agreement(score_N, truth_N)(self.networks_BN[rows])
                    sums_B[rows] += runs_B[rows] * found
        return Figure(float(np.mean(values)), sums_B / runs_BM.sum(axis=1), n)


@dataclass(frozen=True, eq=False)
class Scores:
    """What ranks the networks; several rankings of one kind are rows of `values_MN`."""

    name: str
    kind: str
    values_MN: Vector


@dataclass(frozen=True, eq=False)
class Row:
    """One ranking's figures by name; none where its scores have no ranks, and `why`."""

    name: str
    kind: str
    figures: Mapping[str, Figure]
    why: str = ""


@dataclass(frozen=True)
class Ceiling:
    """What a perfect ranking is expected to reach with so noisy a truth.

    `reliable` is the split-half reliability of the networks' means, `within` that of what is left
    of them in bins of MACs; None where nothing is left.
    """

    reliable: Estimate
    within: Estimate | None

    @property
    def tau(self) -> Estimate:
        """The ceiling of tau."""
        return _ceiling(self.reliable)

    @property
    def tau_within(self) -> Estimate | None:
        """The ceiling of tau within bins."""
        return None if self.within is None else _ceiling(self.within)


@dataclass(frozen=True, eq=False)
class Findings:
    """All figures of a ranking; `headline` is the name of the row that answers.

    `among` are tau and tau within bins of each two of the headline's supernets with each other,
    `again` those of each two of the bank's seeds: what training all networks alone once more ranks.
    """

    truth: Truth
    rows: tuple[Row, ...]
    differences: tuple[Row, ...]
    ceiling: Ceiling | None
    bins_N: Vector
    headline: str
    notes: tuple[str, ...]
    among: tuple[tuple[float, float], ...] = ()
    again: tuple[tuple[float, float], ...] = ()

    @property
    def answer(self) -> Row:
        """The headline's row."""
        return next(row for row in self.rows if row.name == self.headline)


def findings(
    truth: Truth,
    scores: Sequence[Scores],
    headline: str,
    bins: int,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Findings:
    """The figures of all scores, and the differences of the supernet's from those of size.

    And those of its headline from its other scores and from a prior without a supernet. MACs,
    params, their product and random rankings are added. No run of the truth may be missing.

    Raises:
        UserError: too few networks for figures, or for so many bins; a truth without an order.
    """
    check_size(truth, bins)
    n = len(truth)
    bins_N = bins_of(truth.macs_N, bins)
    resamples = Resamples.draw(truth.top1_NS, rng, draws)
    random_MN = rng.random((RANDOM_RANKINGS, n))
    rivals = [
        Scores(MACS, BASELINE, truth.macs_N[None]),
        Scores(PARAMS, BASELINE, truth.params_N[None]),
        # As floats: integers of large networks would overflow.
        Scores(SIZE, BASELINE, (truth.macs_N.astype(np.float64) * truth.params_N)[None]),
    ]
    chance = Scores(RANDOM, BASELINE, random_MN)
    # Each resample has one of the random rankings, so that the interval is of a single one.
    single_BM = np.eye(RANDOM_RANKINGS)[rng.integers(RANDOM_RANKINGS, size=draws)]
    runs: dict[int, Vector] = {RANDOM_RANKINGS: single_BM}
    rows = []
    for one in [*scores, *rivals, chance]:
        count = len(one.values_MN)
        if count not in runs:
            runs[count] = drawn(count, rng, draws)
        rows.append(_row(one, resamples, bins_N, runs[count]))
    known = {row.name: row for row in rows if row.figures}
    differences = [
        _difference(row, known[rival.name])
        for row in rows
        for rival in rivals
        if row.kind == SUPERNET and row.figures and rival.name in known
    ]
    best = known.get(headline)
    differences += [
        _difference(best, row)
        for row in known.values()
        if best and row.kind in (SUPERNET, PRIOR) and row.name != headline
    ]
    notes = tuple(f"{row.name} is left out: {row.why}" for row in rows if row.why)
    ceiling = ceiling_of(truth.top1_NS, bins_N, rng, draws)
    among = next((_agreeing(one.values_MN, bins_N) for one in scores if one.name == headline), ())
    again = _agreeing(truth.top1_NS.T, bins_N)
    figures = (tuple(rows), tuple(differences), ceiling, bins_N)
    return Findings(truth, *figures, headline, notes, among, again)


def check_size(truth: Truth, bins: int) -> None:
    """Refuses what no figures can be given of.

    Raises:
        UserError: too few networks for figures, or for so many bins; a truth without an order.
    """
    n = len(truth)
    if n < LEAST:
        raise UserError(
            f"The bank {truth.name} has {n} whole networks here; ranks need {LEAST} at least (see"
            " --part)."
        )
    if bins * LEAST_IN_BIN > n:
        raise UserError(
            f"--bins {bins}: {n} networks make at most {n // LEAST_IN_BIN} bins of"
            f" {LEAST_IN_BIN} or more."
        )
    if np.ptp(truth.means_N) == 0:
        raise UserError(f"All networks of the bank {truth.name} are equally accurate: no ranks.")


def drawn(items: int, rng: np.random.Generator, draws: int) -> Vector:
    """How often each of so many draws with replacement has each item."""
    return rng.multinomial(items, np.full(items, 1 / items), draws).astype(float)


def bins_of(macs_N: Vector, bins: int) -> Vector:
    """The bin of each network, by MACs; equally many in each, to within one."""
    place_N = np.argsort(np.argsort(macs_N, kind="stable"), kind="stable")
    found: Vector = (place_N * bins // len(macs_N)).astype(np.float64)
    return found


def _row(one: Scores, resamples: Resamples, bins_N: Vector, runs_BM: Vector) -> Row:
    means_N = resamples.truth_NS.mean(axis=1)
    for score_N in one.values_MN:
        try:
            checked(score_N, means_N)
        except ValueError as error:
            return Row(one.name, one.kind, {}, str(error))
    agreements: dict[str, Agreement] = {
        "tau": tau,
        "within": lambda score_N, truth_N: tau(score_N, truth_N, bins_N),
        "rho": rho,
        "regret1": lambda score_N, truth_N: regret(score_N, truth_N, 1),
        "regret5": lambda score_N, truth_N: regret(score_N, truth_N, 5),
    }
    found = {
        name: resamples.figure(agreement, one.values_MN, runs_BM)
        for name, agreement in agreements.items()
    }
    return Row(one.name, one.kind, found)


def _agreeing(values_MN: Vector, bins_N: Vector) -> tuple[tuple[float, float], ...]:
    """Tau and tau within bins of each two rows that order anything."""
    ordered = [score_N for score_N in values_MN if np.ptp(score_N)]
    all_1N = np.ones((1, len(bins_N)))
    return tuple(
        (float(tau(a_N, b_N)(all_1N)[0]), float(tau(a_N, b_N, bins_N)(all_1N)[0]))
        for a_N, b_N in combinations(ordered, 2)
    )


def _difference(one: Row, other: Row) -> Row:
    names = ("tau", "within")
    found = {name: one.figures[name] - other.figures[name] for name in names}
    return Row(f"{one.name} - {other.name}", one.kind, found)


def ceiling_of(
    truth_NS: Vector, bins_N: Vector, rng: np.random.Generator, draws: int
) -> Ceiling | None:
    """What the noise of the seeds leaves to a perfect ranking, of all pairs and within bins.

    None with a single seed, or with seeds without a spread, of which no noise is known.

    Within bins each seed is taken from its own mean of the bin: what a seed does to all networks of
    a bin alike changes no order in it.
    """
    if truth_NS.shape[1] < 2:
        return None
    reliable = _reliability(truth_NS, rng, draws)
    left_NS = truth_NS.copy()
    for at in np.unique(bins_N):
        left_NS[bins_N == at] -= truth_NS[bins_N == at].mean(axis=0)
    return None if reliable is None else Ceiling(reliable, _reliability(left_NS, rng, draws))


def _reliability(values_NS: Vector, rng: np.random.Generator, draws: int) -> Estimate | None:
    """None where the networks' means do not differ, or those of a seed do not."""
    spreads = [np.ptp(values_NS.mean(axis=1)), *np.ptp(values_NS, axis=0)]
    if min(spreads) <= 1e-9 * max(1.0, np.abs(values_NS).max()):
        return None
    found = reliability(values_NS.tolist(), rng, LEVEL, draws)
    return found if math.isfinite(found.value) else None


def _ceiling(of: Estimate) -> Estimate:
    """A ceiling of tau for a reliability; it rises with it, so ends go to ends."""
    low, high = (min(max(end, 0.0), 1.0) for end in (of.interval.low, of.interval.high))
    bounds = Interval(tau_ceiling(low), tau_ceiling(high), of.interval.level)
    return Estimate(tau_ceiling(min(of.value, 1.0)), bounds, of.n)
