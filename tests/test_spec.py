"""What a search is asked for: words, bounds, and the way back within a budget."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from twins_nas.config import find, load_space
from twins_nas.errors import UserError
from twins_nas.layer_cost import Cost
from twins_nas.seeds import seed
from twins_nas.space import SearchSpace
from twins_nas.tuning.spec import Budget, StudySpec, check_budget, named_members, within
from twins_nas.tuning.toy import toy_cost, toy_space

SPACE = toy_space()
COST = toy_cost(SPACE)


def test_an_impossible_budget_is_refused_with_the_smallest_value() -> None:
    """The value in the sentence is the least there is, by going through the members nearby."""
    least = COST(check_budget(SPACE, COST, Budget(max_macs=840_064))).macs
    assert least <= 840_064
    with pytest.raises(UserError) as refused:
        check_budget(SPACE, COST, Budget(max_macs=10_000))
    number = int(str(refused.value).split(" MACs;")[0].split()[-1].replace(",", ""))
    rng = random.Random(0)
    assert number < min(COST(SPACE.sample(rng)).macs for _ in range(3000))
    check_budget(SPACE, COST, Budget(max_macs=number))
    with pytest.raises(UserError, match=f"max_macs {number - 1:,} is below .* {number:,} MACs"):
        check_budget(SPACE, COST, Budget(max_macs=number - 1))


def test_the_fewest_parameters_are_not_those_of_the_smallest_macs() -> None:
    """Sub-sampling saves MACs and costs parameters; the budget's anchor is found all the same."""
    with pytest.raises(UserError) as refused:
        check_budget(SPACE, COST, Budget(max_params=1))
    number = int(str(refused.value).split(" params;")[0].split()[-1].replace(",", ""))
    assert number < COST(SPACE.extreme(-1)).params
    anchor = check_budget(SPACE, COST, Budget(max_params=number))
    assert COST(anchor).params == number


def test_bounds_that_only_exclude_each_other_are_refused_together() -> None:
    """A larger ratio has fewer MACs and more parameters: each bound can be met, both cannot."""
    point = SearchSpace.point(seed("twins_pcpvt_micro"), (32, 32), "two")
    first = {**point.stages[0], "sr_ratio": ((4, 8),)}
    space = replace(point, stages=(first, *point.stages[1:]))
    few_macs, few_params = COST(space.extreme(-1)), COST(space.extreme(+1))
    assert few_macs.macs < few_params.macs and few_macs.params > few_params.params
    check_budget(space, COST, Budget(few_macs.macs, few_macs.params))
    with pytest.raises(UserError, match=r"No member of space two was found within .* together"):
        check_budget(space, COST, Budget(few_macs.macs, few_params.params))
    with pytest.raises(UserError, match="max_params 1 is below"):
        check_budget(space, COST, Budget(few_macs.macs, 1))


def test_leading_back_ends_within_the_budget_and_moves_ordered_values_by_steps() -> None:
    """Any proposal gets there, and no further than needed."""
    anchor = SPACE.encode(SPACE.extreme(-1))
    axes = {choice.name: choice for choice in SPACE.choices}
    rng = random.Random(0)

    def fits(encoding: dict[str, object]) -> bool:
        return COST(SPACE.decode(encoding)).macs <= 2_000_000

    for _ in range(50):
        start = {choice.name: rng.choice(choice.values) for choice in SPACE.choices}
        seen = []

        def watched(encoding: dict[str, object], seen: list[dict[str, object]] = seen) -> bool:
            seen.append(dict(encoding))
            return fits(encoding)

        end = within(start, anchor, watched, axes, rng)
        assert fits(end) and not any(fits(encoding) for encoding in seen[:-1])
        for before, after in itertools.pairwise(seen):
            ((name, value),) = set(after.items()) - set(before.items())
            if axes[name].ordered:
                values = axes[name].values
                assert abs(values.index(value) - values.index(before[name])) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"objectives": ("top1", "speed")}, "objectives"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("macs", "macs")}, "objectives"),
        ({"sampler": "genetic"}, "sampler"),
        ({"trials": 0}, "trials"),
        ({"population": 1}, "population"),
    ],
)
def test_a_spec_names_what_is_wrong(change: dict[str, object], word: str) -> None:
    """Faults are found when it is made."""
    with pytest.raises(ValueError, match=word):
        replace(StudySpec(10), **change)


def test_excess_is_that_of_the_worst_bound() -> None:
    """Both bounds count; without one nothing is over."""
    assert Budget().excess(Cost(10**9, 10**12)) < 0
    assert Budget(100, 50).excess(Cost(params=50, macs=150)) == 0.5
    assert Budget(100, 50).excess(Cost(params=100, macs=100)) == 1.0


@pytest.mark.parametrize(
    ("name", "base", "others"),
    [
        ("svt", "base, twins_svt_micro", []),
        ("pcpvt", "base, twins_pcpvt_micro", []),
        (
            "families",
            "base, twins_svt_micro",
            ["pvt_micro", "cpvt_micro", "twins_pcpvt_micro", "swin_micro"],
        ),
    ],
)
def test_published_networks_of_a_space_are_named(name: str, base: str, others: list[str]) -> None:
    """Each under its name, the base under both of its names, and the extremes."""
    space = load_space(find("space", name))
    members = named_members(space)
    assert [word for word, _ in members] == [base, "smallest", "largest", *others]
    assert [arch for _, arch in members] == [
        space.base,
        space.extreme(-1),
        space.extreme(+1),
        *map(seed, others),
    ]
