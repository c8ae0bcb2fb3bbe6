"""How much each choice of a space matters for the accuracy, as far as the trials tell.

Optuna's fANOVA (Hutter, Hoos, Leyton-Brown, ICML 2014) fits a forest to the trials and gives the
part of the forest's variance over the whole space that a choice explains alone; what is missing to
1 are interactions. A forest finds importances in noise too, so two things stand beside each figure:

- its 95 % interval, from drawing the trials anew with replacement (bootstrap);
- `chance`: what the largest importance comes to, in 95 % of all cases at most, where accuracies
  are shuffled among the trials, so that no choice matters. The largest one of all choices: over
  all of them together, one in twenty tables has a false one above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from twins_nas.space import SearchSpace
from twins_nas.tuning.optuna_sampler import distribution_of, to_optuna
from twins_nas.tuning.results import Scored

TREES = 32
RESAMPLES, SHUFFLES = 60, 40
LEAST = 10
"""Fewer networks tell nothing."""


class Importance(NamedTuple):
    """A choice, its part of the variance (0 to 1) with its interval, and what chance may give."""

    name: str
    share: float
    low: float
    high: float
    chance: float

    @property
    def told(self) -> bool:
        """Whether it is told from chance."""
        return self.share > self.chance


def importances(
    space: SearchSpace,
    rows: Sequence[Scored],
    seed: int = 0,
    resamples: int = RESAMPLES,
    shuffles: int = SHUFFLES,
) -> list[Importance]:
    """The choices by their importance for `top1`, the largest first; none of too few networks.

    Each network counts once.
    """
    distinct = list({row.key: row for row in reversed(rows)}.values())[::-1]
    if len(distinct) < LEAST or len({row.top1 for row in distinct}) == 1:
        return []
    names = [choice.name for choice in space.choices]
    distributions = {choice.name: distribution_of(choice) for choice in space.choices}
    found = []
    for row in distinct:
        encoding = space.encode(row.arch)
        found.append({one.name: to_optuna(one, encoding[one.name]) for one in space.choices})
    top1 = [row.top1 for row in distinct]
    rng = np.random.default_rng(seed)

    def shares(places: Sequence[int], values: Sequence[float]) -> list[float]:
        if len(set(values)) == 1:
            return [0.0] * len(names)  # no variance, and no forest
        study = _study()
        trials: list[FrozenTrial] = [
            create_trial(params=found[place], distributions=distributions, value=value)
            for place, value in zip(places, values, strict=True)
        ]
        study.add_trials(trials)
        forest = FanovaImportanceEvaluator(n_trees=TREES, seed=int(rng.integers(2**31)))
        given = forest.evaluate(study)
        return [given[name] for name in names]

    every = range(len(distinct))
    own = shares(every, top1)
    drawn = [rng.integers(len(distinct), size=len(distinct)).tolist() for _ in range(resamples)]
    again = np.array([shares(places, [top1[at] for at in places]) for places in drawn])
    low, high = np.quantile(again, (0.025, 0.975), axis=0)
    none = [max(shares(every, list(rng.permutation(top1)))) for _ in range(shuffles)]
    chance = float(np.quantile(none, 0.95))
    told = [
        Importance(name, share, float(low[at]), float(high[at]), chance)
        for at, (name, share) in enumerate(zip(names, own, strict=True))
    ]
    return sorted(told, key=lambda one: -one.share)


def _study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")
