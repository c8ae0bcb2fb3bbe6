"""Successive seeds: schedules, and looks that keep no state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from twins_nas.sequential import Look, Schedule, look, schedule
from twins_nas.verdicts import Rule, compare

RULE = Rule(margin=0.5)
PLAN = schedule(4, 20)
SEEDS = tuple(range(100, 120))
SHIFTS = {"base": 0.0, "worse": -3.0, "same": 0.0, "between": 0.45}


def values(upto: int, stopped: dict[str, int] | None = None) -> dict[str, dict[int, float]]:
    """What has run by then; a stopped variant has the seeds of an earlier look only."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.3, (len(SHIFTS), len(SEEDS))) + rng.normal(70, 2, len(SEEDS))
    return {
        name: {
            seed: noise[row, place] + shift
            for place, seed in enumerate(SEEDS[: (stopped or {}).get(name, upto)])
        }
        for row, (name, shift) in enumerate(SHIFTS.items())
    }


def after(number: int) -> Look:
    """The look when all has run."""
    return look(values(20), "base", RULE, PLAN, SEEDS, number)


@pytest.mark.parametrize("first", [2, 3, 5])
@pytest.mark.parametrize("most", [5, 6, 20, 100])
@pytest.mark.parametrize("growth", [1.01, 1.5, 3.0])
def test_schedules(first: int, most: int, growth: float) -> None:
    """They rise from the first to the last number of seeds, and share all of alpha."""
    plan = schedule(first, most, growth)
    assert (plan.looks[0], plan.looks[-1]) == (first, most)
    assert list(plan.looks) == sorted(set(plan.looks))
    assert sum(plan.shares) == pytest.approx(1)


def test_a_schedule_pinned() -> None:
    """What `seeds: auto` from 5 to 20 seeds is."""
    assert schedule(5, 20).looks == (5, 8, 13, 20)
    assert schedule(5, 20).shares == pytest.approx((5 / 46, 8 / 46, 13 / 46, 20 / 46))


def test_refusals() -> None:
    """Schedules that cannot be, and looks that are not there."""
    for first, most in ((1, 5), (6, 5)):
        with pytest.raises(ValueError, match="2 or more"):
            schedule(first, most)
    with pytest.raises(ValueError, match="growth"):
        schedule(2, 5, 1.0)
    for looks, shares in (((), ()), ((1, 2), (0.5, 0.5)), ((3, 3), (0.5, 0.5))):
        with pytest.raises(ValueError, match="must rise"):
            Schedule(looks, shares)
    for shares in ((1.0,), (1.0, 0.0)):
        with pytest.raises(ValueError, match="share above 0"):
            Schedule((2, 3), shares)
    with pytest.raises(ValueError, match=r"sum to 0\.8"):
        Schedule((2, 3), (0.4, 0.4))
    with pytest.raises(ValueError, match="no look 9"):
        look(values(20), "base", RULE, PLAN, SEEDS, 9)
    with pytest.raises(ValueError, match="asks for 4 seeds, not 3"):
        look(values(3), "base", RULE, PLAN, SEEDS[:3], 0)


def test_looks_go_on_until_each_has_a_verdict() -> None:
    """Clear ones stop early; what lies at the margin goes on to the end of the budget."""
    found = [after(number) for number in range(len(PLAN.looks))]
    assert found[0].open == ("worse", "same", "between")
    assert set(found[-1].open) <= {"between"}
    for before, later in itertools.pairwise(found):
        assert set(later.open) <= set(before.open)
        assert before.next_seeds == (PLAN.looks[later.number] if before.open else None)
    assert found[-1].done
    words = {one.name: one.verdict.word for one in found[-1].comparisons}
    assert (words["worse"], words["same"]) == ("worse", "equivalent")


def test_a_verdict_stays_as_it_was_given() -> None:
    """Later seeds of a decided variant do not count, whether they ran or not."""
    stopped: dict[str, int] = {}
    for number, n in enumerate(PLAN.looks):
        now = look(values(n, stopped), "base", RULE, PLAN, SEEDS, number)
        assert now == after(number)
        for one in now.comparisons:
            if one.name not in now.open:
                stopped.setdefault(one.name, n)
                assert one.difference.n == stopped[one.name]
    assert stopped["worse"] < stopped["same"] <= 20


def test_each_look_has_its_part_of_alpha() -> None:
    """P is corrected for the looks too, and the interval is that much wider."""
    first = after(0)
    plain = compare(values(4), "base", RULE)
    for one, other in zip(first.comparisons, plain, strict=True):
        assert one.p is not None
        assert other.p is not None
        assert one.p == pytest.approx(min(1.0, other.p / PLAN.shares[0]))
        assert one.difference.interval is not None
        assert one.difference.interval.level == pytest.approx(1 - 0.05 * PLAN.shares[0])
        assert one.detectable is not None
        assert other.detectable is not None
        assert one.detectable > other.detectable


def test_one_look_is_compare() -> None:
    """A schedule of a single look is the design without looks."""
    found = look(values(20), "base", RULE, Schedule((20,), (1.0,)), SEEDS, 0)
    assert found.comparisons == compare(values(20), "base", RULE)
    assert found.done


def test_a_run_that_failed_is_a_pair_fewer() -> None:
    """The look is taken with what there is."""
    some = values(4)
    del some["same"][SEEDS[2]]
    found = look(some, "base", RULE, PLAN, SEEDS, 0)
    assert [one.difference.n for one in found.comparisons] == [4, 3, 4]
