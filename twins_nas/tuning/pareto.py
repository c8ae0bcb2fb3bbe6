"""The front of a search and its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import moocore
import numpy as np
from numpy.typing import NDArray

from twins_nas.tuning.results import Scored
from twins_nas.tuning.spec import OBJECTIVES

IDEAL = {"top1": 100.0, "loss": 0.0, "adjusted": 0.0, "macs": 0.0, "params": 0.0}


class Spread(NamedTuple):
    """Mean, sample standard deviation (nan of one value) and range of a figure over `n` seeds."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def front(rows: Iterable[Scored], objectives: Sequence[str]) -> list[Scored]:
    """The feasible rows that no other one dominates, each architecture once, by the last objective.

    Equal objectives do not dominate each other: different architectures with them all stay.
    """
    distinct = list({row.key: row for row in reversed(list(rows)) if row.feasible}.values())[::-1]
    if not distinct:
        return []
    best = moocore.is_nondominated(_minimised(distinct, objectives), keep_weakly=True)
    kept = [row for row, keep in zip(distinct, best, strict=True) if keep]
    return sorted(kept, key=lambda row: (getattr(row, objectives[-1]), row.seed, row.number))


def worst(rows: Iterable[Scored], objectives: Sequence[str]) -> tuple[float, ...]:
    """The worst value of each objective over the rows: a reference, such as that of the named ones.

    Raises:
        ValueError: there is no row.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("a reference needs a row")
    pick = {word: min if way == "maximize" else max for word, way in OBJECTIVES.items()}
    return tuple(float(pick[word](getattr(row, word) for row in rows)) for word in objectives)


def hypervolume(
    rows: Iterable[Scored], objectives: Sequence[str], reference: Sequence[float]
) -> float:
    """The part, in percent, of the box between the reference and the ideal that the front covers.

    The ideal is 100 % top1 and 0 of anything else, so that fronts with one reference compare.
    """
    signs = _signs(objectives)
    low = signs * np.array([IDEAL[word] for word in objectives])
    high = signs * np.array(reference, dtype=float)
    kept = front(rows, objectives)
    if not kept or (high <= low).any():
        return 0.0
    scaled = (_minimised(kept, objectives) - low) / (high - low)
    return float(100 * moocore.hypervolume(scaled, ref=np.ones(len(objectives))))


def over_seeds(
    rows: Iterable[Scored], objectives: Sequence[str], reference: Sequence[float]
) -> tuple[dict[int, float], Spread]:
    """The hypervolume of each search seed, and their spread.

    Raises:
        ValueError: there is no row.
    """
    rows = list(rows)
    sizes = {
        seed: hypervolume([row for row in rows if row.seed == seed], objectives, reference)
        for seed in sorted({row.seed for row in rows})
    }
    if not sizes:
        raise ValueError("a spread needs a row")
    values = list(sizes.values())
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return sizes, Spread(float(np.mean(values)), sd, min(values), max(values), len(values))


def _signs(objectives: Sequence[str]) -> NDArray[np.float64]:
    return np.array([-1.0 if OBJECTIVES[word] == "maximize" else 1.0 for word in objectives])


def _minimised(rows: Sequence[Scored], objectives: Sequence[str]) -> NDArray[np.float64]:
    values = [[float(getattr(row, word)) for word in objectives] for row in rows]
    minimised: NDArray[np.float64] = _signs(objectives) * np.array(values)
    return minimised
