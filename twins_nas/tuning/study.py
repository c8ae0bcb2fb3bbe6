"""One search as an Optuna study on a journal: what to score next, and what was scored.

The file that imports Optuna. A trial's life: it is proposed (in the journal as RUNNING, with all its
parameters and costs), scored (its figures join it, on the disk for good), and told (COMPLETE or
FAIL). Trials are told in the order of their numbers and proposed when exactly those a `window` back
are told, by a sampler that is seeded anew from (seed, number) each time; therefore

- the same seed gives the same search with any number of evaluators, whatever the timing;
- a search that was killed goes on as if it had not been: a RUNNING trial of a dead process is simply
  asked for again, under its number, unless its score is there already, which is then told.

**Budget.** Costs are known from formulas, so nothing over the budget is ever scored, the three named
first trials excepted. Four ways were tried on a toy over the micro Twins space (58 choices; 74 %,
13 %, 1 % of it within the budget); mean hypervolume of 3 seeds after 500 trials scored by NSGA-II
(population 20) or random, 200 by TPE (multivariate):

| share within | sampler | constraint, penalty told | FAIL, asked again | PRUNED | led back |
|---|---|---|---|---|---|
| 74 % | NSGA-II | .718 | .713 | .713 | .716 |
| 13 % | NSGA-II | .556 | .586 | .586 | .581 |
| 1 %  | NSGA-II | .354 | .382 (6.7 asked for each) | .382 | .385 |
| 74 % | TPE | .653 | .668 | .653 | .620 |
| 13 % | TPE | .500 | .500 | .481 | .506 |
| 1 %  | TPE | .220 | stopped: too slow | - | .323 |
| 13 % | random | - | .453 (7.6 asked) | - | .348 |
| 1 %  | random | - | .14 as many as asked for | - | .243 |

(standard deviation between seeds about .02 to .03). Penalised trials fill the population and are the
worst; refusing is best as long as it is quick, and else "led back": towards the cheapest member,
choice by choice. So a sampler proposes up to `TRIES` times, without a trial for it, and the last
proposal is led back. That happens inside the sampler, so the study holds no wasted trials.

**First trials.** NSGA-II does not take enqueued trials as parents (they have no generation, Optuna
5.0.0). Here base, smallest and largest go through the sampler and are in the first population:
hypervolume .846 +- .013 instead of .816 +- .007 after 500 trials (4 seeds).
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.evaluate import Evaluation
from twins_nas.layer_cost import Cost
from twins_nas.space import Encoding, SearchSpace
from twins_nas.tuning.journal import Journal
from twins_nas.tuning.results import Failed, Scored
from twins_nas.tuning.spec import OBJECTIVES, CostOf, StudySpec, check_budget, within

STUDY, HEADER = "search", "search"
TRIES = {"nsga2": 64, "random": 256, "tpe": 4}
FIGURES = ("top1", "loss", "n", "seconds")

Params = dict[str, Any]
Outcome = Evaluation | str
