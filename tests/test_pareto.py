"""Fronts and hypervolumes against brute force."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from twins_nas.seeds import seed
from twins_nas.tuning.pareto import front, hypervolume, over_seeds, worst
from twins_nas.tuning.results import Scored
from twins_nas.tuning.spec import OBJECTIVES

ARCH = seed("twins_svt_micro")
WORDS = [
    objectives for size in (1, 2, 3) for objectives in itertools.permutations(OBJECTIVES, size)
]


def row(
    number: int, top1: float, macs: int, key: str = "", *, feasible: bool = True, seed: int = 0
) -> Scored:
    """A scored architecture; its parameters and its loss follow from the other two figures."""
    key = key or f"{seed}/{number}"
    params, loss = 1000 - macs % 7, (macs % 5) / 10
    figures = (macs, params, top1, loss, loss + (macs % 3) / 10, 100, 0.1)
    return Scored(number, seed, "", ARCH, key, *figures, cached=False, feasible=feasible)


def some_rows(chance: int, count: int = 60) -> list[Scored]:
    """Rows on a coarse grid, so that ties, repeated keys and infeasible rows are among them."""
    rng = random.Random(chance)
    rows = []
    for number in range(count):
        top1, macs = rng.randrange(40, 60), rng.randrange(1, 25)
        key = f"{top1}/{macs}/{rng.randrange(2)}"
        rows.append(row(number, top1, macs, key, feasible=rng.random() < 0.9, seed=number % 3))
    return rows


def dominates(one: Scored, other: Scored, objectives: tuple[str, ...]) -> bool:
    """The definition."""
    signs = [-1 if OBJECTIVES[word] == "maximize" else 1 for word in objectives]
    pairs = [
        (sign * getattr(one, word), sign * getattr(other, word))
        for sign, word in zip(signs, objectives, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@pytest.mark.parametrize("objectives", WORDS)
@pytest.mark.parametrize("chance", range(3))
def test_front_is_what_nothing_dominates(objectives: tuple[str, ...], chance: int) -> None:
    """The library's front is the one of the definition, each key once, none of it infeasible."""
    rows = some_rows(chance)
    feasible = [row for row in rows if row.feasible]
    keys = {
        row.key
        for row in feasible
        if not any(dominates(other, row, objectives) for other in feasible)
    }
    found = front(rows, objectives)
    assert sorted(row.key for row in found) == sorted(keys)
    values = [getattr(row, objectives[-1]) for row in found]
    assert values == sorted(values)


def test_front_keeps_the_first_row_of_a_key_and_both_of_equal_figures() -> None:
    """A repeated network is one member of the front, two equally good networks are two."""
    rows = [row(0, 50, 5, "a"), row(1, 50, 5, "b"), row(2, 50, 5, "a"), row(3, 49, 5, "c")]
    assert [(row.number, row.key) for row in front(rows, ("top1", "macs"))] == [(0, "a"), (1, "b")]
    assert front([], ("top1", "macs")) == []
    assert front([row(0, 50, 5, feasible=False)], ("top1", "macs")) == []


def test_hypervolume_counts_the_cells_that_are_dominated() -> None:
    """On a grid of whole numbers the volume is the number of unit cells below the front."""
    for chance in range(5):
        rows = [row for row in some_rows(chance, 30) if row.feasible]
        reference = worst(rows, ("top1", "macs"))
        cells = sum(
            any(row.top1 >= top1 + 1 and row.macs <= macs for row in rows)
            for top1 in range(int(reference[0]), 100)
            for macs in range(int(reference[1]))
        )
        whole = (100 - reference[0]) * reference[1]
        assert hypervolume(rows, ("top1", "macs"), reference) == pytest.approx(100 * cells / whole)


def test_hypervolume_of_nothing_and_of_the_ideal() -> None:
    """From 0 to 100 percent of the box; what is worse than the reference adds nothing."""
    ideal, poor = row(0, 100, 0), row(1, 30, 50)
    assert hypervolume([], ("top1", "macs"), (50, 10)) == 0
    assert hypervolume([poor], ("top1", "macs"), (50, 10)) == 0
    assert hypervolume([ideal, poor], ("top1", "macs"), (50, 10)) == pytest.approx(100)


def test_worst_is_the_corner_of_the_named_rows() -> None:
    """Each objective's worst, whichever row has it."""
    assert worst([row(0, 50, 5), row(1, 60, 9)], ("top1", "macs")) == (50.0, 9.0)
    with pytest.raises(ValueError, match="row"):
        worst([], ("top1",))


def test_spread_over_seeds() -> None:
    """Each seed's own front counts, and the deviation is the sample's."""
    rows = [row(0, 75, 5, seed=0), row(0, 100, 5, seed=1), row(1, 60, 9, seed=1)]
    sizes, spread = over_seeds(rows, ("top1", "macs"), (50, 10))
    assert sizes == {0: pytest.approx(25), 1: pytest.approx(50)}
    assert (spread.mean, spread.low, spread.high, spread.n) == (37.5, 25, 50, 2)
    assert spread.sd == pytest.approx(25 / math.sqrt(2))
    assert math.isnan(over_seeds(rows[:1], ("top1", "macs"), (50, 10))[1].sd)
