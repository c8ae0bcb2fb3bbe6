"""What a search is asked for, and the budget that is checked before any work."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.layer_cost import Cost
from twins_nas.seeds import SEEDS
from twins_nas.space import Choice, Encoding, SearchSpace

OBJECTIVES = {
    "top1": "maximize",
    "loss": "minimize",
    "adjusted": "minimize",
    "macs": "minimize",
    "params": "minimize",
}
SAMPLERS = ("nsga2", "random", "tpe")

CostOf = Callable[[ArchConfig], Cost]


@dataclass(frozen=True)
class Budget:
    """Upper bounds of a front member; None: no bound."""

    max_macs: int | None = None
    max_params: int | None = None

    def excess(self, cost: Cost) -> float:
        """By what share of its bound a cost is over, at the worst; 0 or less: within the budget."""
        pairs = ((cost.macs, self.max_macs), (cost.params, self.max_params))
        return max((value / limit - 1 for value, limit in pairs if limit is not None), default=-1.0)


@dataclass(frozen=True)
class StudySpec:
    """One search: how many trials, by which sampler, for which objectives, within which budget.

    `trials` may be raised later; the rest belongs to a journal for good.

    Raises:
        ValueError: an unknown word or a number out of its range; names the field.
    """

    trials: int
    objectives: tuple[str, ...] = ("top1", "macs")
    sampler: str = "nsga2"
    population: int = 20
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        unknown = [word for word in self.objectives if word not in OBJECTIVES]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives {self.objectives} are not different ones of {', '.join(OBJECTIVES)}"
            )
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        for name, least in (("trials", 1), ("population", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} is less than {least}")

    @property
    def window(self) -> int:
        """How many trials may be asked for beyond those told, whatever the number of evaluators.

        Trial n is proposed when exactly the trials up to n - window are told, in their order. So
        the search follows from its seed, from neither timing nor the number of evaluators. A fifth
        of the population costs nothing that was seen: hypervolume of NSGA-II on a toy of 58 choices
        (mean of 4 seeds, standard deviation .01 to .02), after 1,000 trials with population 20 and
        window 1, 4, 8, 20: .849, .844, .844, .842; after 200 trials .784, .767, .745, .745; with
        population 50 and window 1, 8, 12: .862, .839, .848. A window of twice the evaluators leaves
        them idle for 0.1 % of the time where evaluations take 0.5 to 1.5 of their mean, and for 2 %
        where they are log-normal (simulated).
        """
        sizes = {"nsga2": max(2, self.population // 5), "tpe": 4, "random": 16}
        return sizes[self.sampler]

    def identity(self) -> dict[str, Any]:
        """What a journal must agree on."""
        values = asdict(self)
        del values["trials"]
        budget = values.pop("budget")
        return {**values, "objectives": list(self.objectives), **budget}


def named_members(space: SearchSpace) -> list[tuple[str, ArchConfig]]:
    """What a search scores first: base, smallest, largest, and each published network in the space.

    A published network that is one of these already adds its name: `base, twins_svt_micro`.
    """
    members = [
        ("base", space.base),
        ("smallest", space.extreme(-1)),
        ("largest", space.extreme(+1)),
    ]
    keys = [space.key(arch) for _, arch in members]
    for name, make in SEEDS.items():
        arch = make()
        if space.why_not(arch):
            continue
        if space.key(arch) in keys:
            at = keys.index(space.key(arch))
            members[at] = (f"{members[at][0]}, {name}", members[at][1])
        else:
            members.append((name, arch))
            keys.append(space.key(arch))
    return members


def check_budget(space: SearchSpace, cost_of: CostOf, budget: Budget) -> ArchConfig:
    """A cheapest member of the space, the anchor of `within`.

    It is found by going through the choices one by one, each time to the value that brings the cost
    down most, until none does: the smallest of the ordered choices are not the fewest parameters
    (a larger sr_ratio has more), and the unordered ones have no smallest.

    Raises:
        UserError: even that member is over the budget; says its value.
    """
    anchor, least = space.extreme(-1), float("inf")
    while (excess := budget.excess(cost_of(anchor))) < least and excess > 0:
        least = excess
        for choice in space.choices:
            encoding = space.encode(anchor)
            members = [space.decode({**encoding, choice.name: value}) for value in choice.values]
            anchor = min([anchor, *members], key=lambda member: budget.excess(cost_of(member)))
    if excess <= 0:
        return anchor
    bounds = {"max_macs": budget.max_macs, "max_params": budget.max_params}
    given = {word: limit for word, limit in bounds.items() if limit is not None}
    cost = cost_of(anchor)
    if len(given) > 1:
        for word, limit in given.items():
            check_budget(space, cost_of, Budget(**{word: limit}))
        raise UserError(
            f"No member of space {space.name} was found within max_macs {budget.max_macs:,} and"
            f" max_params {budget.max_params:,} together; the nearest has {cost.macs:,} MACs and"
            f" {cost.params:,} params."
        )
    ((word, limit),) = given.items()
    unit, value = ("MACs", cost.macs) if word == "max_macs" else ("params", cost.params)
    raise UserError(
        f"{word} {limit:,} is below the smallest member of space {space.name}, which has"
        f" {value:,} {unit}; give at least that."
    )


def within(
    encoding: Encoding,
    anchor: Encoding,
    fits: Callable[[Encoding], bool],
    axes: Mapping[str, Choice],
    rng: random.Random,
) -> Encoding:
    """The encoding, led step by step towards `anchor` by random choices until it fits."""
    encoding = dict(encoding)
    while not fits(encoding):
        apart = [name for name in encoding if encoding[name] != anchor[name]]
        name = rng.choice(apart)
        values, goal = axes[name].values, anchor[name]
        if axes[name].ordered:
            at, end = values.index(encoding[name]), values.index(goal)
            goal = values[at + (1 if end > at else -1)]
        encoding[name] = goal
    return encoding
