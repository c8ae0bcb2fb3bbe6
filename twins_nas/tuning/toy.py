"""A stand-in for a trained supernet: scores that follow from the architecture, in no time.

Tests and benchmarks of the search use it; it says nothing about networks.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from functools import partial

from twins_nas.arch import ArchConfig
from twins_nas.cost import cost
from twins_nas.seeds import seed
from twins_nas.space import ARCH_FIELDS, SearchSpace
from twins_nas.tuning.results import Score
from twins_nas.tuning.runner import Evaluator
from twins_nas.tuning.spec import CostOf


def toy_space(untied: bool = False) -> SearchSpace:
    """Choices around `twins_svt_micro`: 27, or 58 where the blocks of a stage are untied."""
    base = seed("twins_svt_micro")
    dims = ((8, 16, 24), (16, 32, 48), (32, 48, 64, 80), (64, 96, 128, 160))
    depths = ((1, 2, 3), (1, 2, 3), (2, 3, 4, 6), (1, 2, 3))
    windows = ((2, 4, 8), (2, 4), (2, 4), (2,))
    ratios = ((2, 4, 8), (1, 2, 4), (1, 2), (1, 2))
    stages = []
    for plain, dim, depth, window, ratio in zip(
        SearchSpace.point(base, (32, 32)).stages, dims, depths, windows, ratios, strict=True
    ):
        groups = max(depth) if untied else 1
        stages.append(
            {
                **plain,
                "embed_dim": (dim,),
                "head_dim": ((8,),),
                "depth": (depth,),
                "mixer": (("LG", "G", "LLG", "L"),),
                "window_size": (window,) * groups,
                "sr_ratio": (ratio,) * groups,
                "pe": (("cpe", "rpe", "ape", "cpe+rpe"),),
                "mlp_ratio": ((2.0, 3.0, 4.0),) * groups,
            }
        )
    arch = {name: (getattr(base, name),) for name in ARCH_FIELDS}
    return SearchSpace("toy", (32, 32), base, arch, tuple(stages))


def toy_cost(space: SearchSpace) -> CostOf:
    """The cost of a member, with 3 input channels and 10 classes."""
    return partial(cost, input_size=space.input_size, in_chans=3, num_classes=10)


@dataclass(frozen=True)
class Toy:
    """Makes evaluators: larger values of ordered choices score better, others by fixed chances.

    Pairs of choices interact. An evaluation sleeps for `seconds`.
    """

    space: SearchSpace
    seconds: float = 0.0
    salt: int = 0

    def __call__(self) -> Evaluator:
        """An evaluator."""
        rng = random.Random(self.salt)
        gains: dict[tuple[str, int], float] = {}
        for choice in self.space.choices:
            last, weight = len(choice.values) - 1, rng.uniform(0.2, 1.5)
            for index in range(last + 1):
                rank = (index if choice.grows > 0 else last - index) / last
                gains[choice.name, index] = weight * rank if choice.ordered else rng.gauss(0, 1)
        names = [choice.name for choice in self.space.choices]
        pairs = [(rng.choice(names), rng.choice(names), rng.gauss(0, 0.5)) for _ in names]

        def score(arch: ArchConfig) -> Score:
            time.sleep(self.seconds)
            encoding = self.space.encode(arch)
            gain = {
                choice.name: gains[choice.name, choice.values.index(encoding[choice.name])]
                for choice in self.space.choices
            }
            total = sum(gain.values()) + sum(w * gain[a] * gain[b] for a, b, w in pairs)
            top1 = 100 / (1 + math.exp(-total / len(names) ** 0.5))
            loss = -math.log(top1 / 100)
            return Score(top1, loss, loss, 1000, self.seconds)

        return score
