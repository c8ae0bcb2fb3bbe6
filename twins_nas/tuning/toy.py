"""A stand-in for trained weights: scores that follow from the architecture alone, in no time.

Tests and benchmarks of the search use it; it says nothing about networks.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from twins_nas.arch import ArchConfig
from twins_nas.space import SearchSpace
from twins_nas.tuning.results import Score
from twins_nas.tuning.runner import Evaluator


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

        def evaluate(arch: ArchConfig) -> Score:
            time.sleep(self.seconds)
            encoding = self.space.encode(arch)
            gain = {
                choice.name: gains[choice.name, choice.values.index(encoding[choice.name])]
                for choice in self.space.choices
            }
            total = sum(gain.values()) + sum(w * gain[a] * gain[b] for a, b, w in pairs)
            top1 = 100 / (1 + math.exp(-total / max(1.0, len(names) ** 0.5)))
            return Score(top1, -math.log(top1 / 100), 1000, self.seconds)

        return evaluate
