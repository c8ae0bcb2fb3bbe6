"""Proposals by Optuna's samplers, and the only file that imports it.

**Budget.** Costs are known from formulas, so nothing over the budget is scored, the named first
trials excepted. Four ways were tried on a toy over a micro Twins space (58 choices; 74 %,
13 %, 1 % of its members are within the budget); mean hypervolume of 3 seeds after 500 trials scored
by NSGA-II (population 20) and random, 200 by TPE (multivariate):

| within | sampler | penalty told, constraint | told FAIL, asked again | PRUNED | led back |
|---|---|---|---|---|---|
| 74 % | nsga2  | .718 | .713 | .713 | .716 |
| 13 % | nsga2  | .556 | .586 (1.4 asked for each scored) | .586 | .581 |
| 1 %  | nsga2  | .354 | .382 (6.7 asked for each) | .382 | .385 |
| 74 % | tpe    | .653 | .668 | .653 | .620 |
| 13 % | tpe    | .500 | .500 | .481 | .506 |
| 1 %  | tpe    | .220 | too slow | - | .323 |
| 74 % | random | - | .593 | - | .572 |
| 13 % | random | - | .453 (7.6 asked for each) | - | .348 |
| 1 %  | random | - | 68 scored of 10,000 asked | - | .243 |

The standard deviation between seeds is .01 to .04. Penalised trials fill the populations: worst
where it matters. Asking again is best while it is quick; else a proposal is "led back" to the
cheapest member, choice by choice, until it fits. So a sampler is asked up to `TRIES` times, then
its last proposal is led back: .722, .615, .361 (nsga2), .592, .476, .306 (tpe) and .613, .486, .291
(random) for the three budgets, at 3.2, 27 and 3 to 34 ms of CPU a trial. No trial is spent on what
was refused, neither here nor in the journal.

**First trials.** NSGA-II takes no enqueued trial as a parent (Optuna 5.0.0: they have no
generation). Here the named first trials are proposals like others and join the first population:
hypervolume .846 +- .013 instead of .816 +- .007 after 500 trials (4 seeds, no budget).

**Speed.** Optuna's study is held in memory and the journal written beside it. CPU time of a trial
over 58 choices with an evaluation that takes none, at 100, 1,000 and 5,000 trials: 2.8, 1.6, 1.3 ms
(nsga2), 1.2, 1.1, 1.0 ms (random); benchmarks/search_overhead.py prints it. On a `JournalStorage`,
even without a lock and an fsync for each line, it was about 4, 5 and 15 ms (nsga2), and in memory
with Optuna's own `get_trial_generation` 2, 3 and 8 ms; hence `Nsga2`.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from twins_nas.space import Choice, Encoding, SearchSpace
from twins_nas.tuning.records import Attributes, State, StudyRecord, TrialRecord
from twins_nas.tuning.spec import OBJECTIVES, StudySpec, within

TRIES = {"nsga2": 16, "random": 256, "tpe": 4}
STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}


class Proposal(NamedTuple):
    """An encoding, and what Optuna keeps with its trial and (newly) with the study."""

    encoding: Encoding
    system_attrs: Attributes
    study_attrs: Attributes


class Proposals:
    """An Optuna study of one search; each proposal follows from seed, number and what was told.

    `excess` says by how much an encoding is over the budget (0 or less: within), None without one;
    `anchor` is within it.
    """

    def __init__(
        self,
        space: SearchSpace,
        spec: StudySpec,
        seed: int,
        record: StudyRecord,
        excess: Callable[[Encoding], float] | None,
        anchor: Encoding,
    ) -> None:
        self._spec, self._seed, self._excess, self._anchor = spec, seed, excess, anchor
        self._choices = {choice.name: choice for choice in space.choices}
        self._distributions = {
            name: distribution_of(choice) for name, choice in sorted(self._choices.items())
        }
        self.distributions = {
            name: distribution_to_json(item) for name, item in self._distributions.items()
        }
        self._parents: dict[int, list[FrozenTrial]] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = InMemoryStorage()
        directions = [OBJECTIVES[word] for word in spec.objectives]
        self._study = optuna.create_study(
            storage=self._storage,
            sampler=RandomSampler(),
            directions=directions,  # type: ignore[arg-type]
            study_name="search",
        )
        self._id = self._storage.get_study_id_from_name("search")
        self._restore(record)

    def propose(self, number: int, named: Encoding | None) -> Proposal:
        """Proposes trial `number`, the next: the named encoding, or else one within the budget."""
        trial = self._study.ask()
        assert trial.number == number
        rng = random.Random(f"{self._seed}/{number}")
        sampler = self._sampler(rng.getrandbits(32))
        drawn = self._draw(number, sampler, rng)
        encoding = named if named is not None else self._affordable(number, sampler, rng, drawn)
        if self._excess is not None:
            trial.set_constraint("budget", self._excess(encoding))
        identity = self._trial_id(number)
        for name, item in self._distributions.items():
            value = to_optuna(self._choices[name], encoding[name])
            internal = item.to_internal_repr(value)
            self._storage.set_trial_param(identity, name, internal, item)
        kept = self._storage.get_study_system_attrs(self._id)
        fresh = {name: value for name, value in kept.items() if name not in self._kept}
        self._kept |= fresh.keys()
        return Proposal(encoding, self._storage.get_trial(identity).system_attrs, fresh)

    def tell(self, number: int, state: State, values: list[float] | None) -> None:
        """Ends a trial, a complete one with its values."""
        self._storage.set_trial_state_values(self._trial_id(number), STATES[state], values)

    def _draw(self, number: int, sampler: BaseSampler, rng: random.Random) -> Encoding:
        """What the sampler proposes; what it leaves open (first ones, mutations) is uniform."""
        trial = self._storage.get_trial(self._trial_id(number))
        drawn = sampler.sample_relative(self._study, trial, self._distributions)
        return {
            name: _from_optuna(choice, drawn[name]) if name in drawn else rng.choice(choice.values)
            for name, choice in self._choices.items()
        }

    def _affordable(
        self, number: int, sampler: BaseSampler, rng: random.Random, encoding: Encoding
    ) -> Encoding:
        excess = self._excess
        if excess is None:
            return encoding
        for _ in range(TRIES[self._spec.sampler] - 1):
            if excess(encoding) <= 0:
                break
            encoding = self._draw(number, sampler, rng)
        fits = lambda encoding: excess(encoding) <= 0  # noqa: E731
        return within(encoding, self._anchor, fits, self._choices, rng)

    def _sampler(self, seed: int) -> BaseSampler:
        spec = self._spec
        if spec.sampler == "nsga2":
            return Nsga2(spec.population, seed, self._parents)
        if spec.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(multivariate=True, seed=seed)

    def _restore(self, record: StudyRecord) -> None:
        for name, value in record.system_attrs.items():
            self._storage.set_study_system_attr(self._id, name, value)
        self._kept = set(record.system_attrs)
        for trial in record.trials:
            self._storage.create_new_trial(self._id, self._frozen(trial))

    def _frozen(self, trial: TrialRecord) -> FrozenTrial:
        params = {
            name: item.to_external_repr(trial.params[name])
            for name, item in self._distributions.items()
        }
        return create_trial(
            state=STATES[trial.state],
            values=trial.values,
            params=params,
            distributions=self._distributions,
            system_attrs=trial.system_attrs,
        )

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)


class Nsga2(NSGAIISampler):
    """NSGA-II that looks at its last generations only, where Optuna's goes through all trials.

    `parents` are those of each generation, kept between samplers.
    """

    def __init__(self, population: int, seed: int, parents: dict[int, list[FrozenTrial]]) -> None:
        super().__init__(population_size=population, seed=seed)
        self._size, self._parents = population, parents

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """The last generation among the complete trials, or the next one where that is full.

        Trials are told and proposed in order, so generations never fall along them.
        """
        key = self._get_generation_key()
        if key in trial.system_attrs:
            return int(trial.system_attrs[key])
        last, count = 0, 0
        for other in reversed(study.get_trials(deepcopy=False)):
            if other.state is TrialState.COMPLETE:
                generation = other.system_attrs[key]
                if count and generation < last:
                    break
                last, count = generation, count + 1
        generation = last + (count >= self._size)
        study._storage.set_trial_system_attr(trial._trial_id, key, generation)
        return generation

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, selected once; in one order, also after a resume."""
        if generation not in self._parents:
            parents = super().get_parent_population(study, generation)
            self._parents[generation] = sorted(parents, key=lambda trial: trial.number)
        return self._parents[generation]


def distribution_of(choice: Choice) -> BaseDistribution:
    """Ordered values by their index, the others as they are."""
    if choice.ordered:
        return IntDistribution(0, len(choice.values) - 1)
    return CategoricalDistribution(choice.values)


def to_optuna(choice: Choice, value: object) -> object:
    """A value as a parameter of `distribution_of` its choice."""
    return choice.values.index(value) if choice.ordered else value


def _from_optuna(choice: Choice, value: object) -> object:
    return choice.values[int(value)] if choice.ordered else value  # type: ignore[call-overload]
