"""How much a bank can tell: the spread of its networks beside the noise of its seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from twins_nas.banks.bank import VAL_TOP1, Bank
from twins_nas.ranks import Estimate, reliability, tau_ceiling


@dataclass(frozen=True)
class Quality:
    """What the networks of a bank differ by, of those that no run failed of.

    `spread` is the standard deviation of their means. `noise` is that of one run about its
    network's mean, pooled over the networks; `apart` the same without what all networks of a seed
    have in common (their images to train and to validate), which changes no rank. `reliable` is the
    split-half reliability of the means. None: too few networks or seeds to say.
    """

    n: int
    seeds: int
    low: float
    high: float
    spread: float | None
    noise: float | None
    apart: float | None
    reliable: Estimate | None

    @property
    def ratio(self) -> float | None:
        """The spread in units of the noise."""
        return self.spread / self.noise if self.spread is not None and self.noise else None

    @property
    def ceiling(self) -> float | None:
        """The Kendall tau with these means that a perfect ranking is expected to reach."""
        return None if self.reliable is None else tau_ceiling(self.reliable.value)


def quality(bank: Bank, metric: str = VAL_TOP1) -> Quality:
    """The spread, the noise and the ceiling of a bank, by one of its metrics."""
    values_AS = bank.values_AS(metric)
    values_AS = values_AS[np.isfinite(values_AS).all(axis=1)]
    n, seeds = values_AS.shape
    means_A = values_AS.mean(axis=1)
    spread: float | None = None
    noise: float | None = None
    apart: float | None = None
    reliable: Estimate | None = None
    if n > 1:
        spread = float(means_A.std(ddof=1))
    if n and seeds > 1:
        noise = float(np.sqrt(values_AS.var(axis=1, ddof=1).mean()))
    if n > 1 and seeds > 1:
        left_AS = values_AS - means_A[:, None] - values_AS.mean(axis=0) + values_AS.mean()
        apart = float(np.sqrt((left_AS**2).sum() / ((n - 1) * (seeds - 1))))
    if n > 2 and seeds > 1 and np.ptp(means_A) > 0:
        found = reliability(values_AS.tolist(), np.random.default_rng(0))
        # Where all networks are the same on some seed, halves have no correlation.
        reliable = found if np.isfinite(found.value) else None
    low, high = (float(means_A.min()), float(means_A.max())) if n else (math.nan, math.nan)
    return Quality(n, seeds, low, high, spread, noise, apart, reliable)
