"""The sandwich rule: which members of a space one step trains (BigNAS, arXiv 2003.11142.

Section 3.1).

Every step trains the largest, the smallest and `k` random members, largest and smallest over the
*ordered* dimensions. Unordered choices (positional encoding, mixer, ...) are drawn afresh for each
role: where the teacher had one fixed encoding, that one would get most of the training, and every
comparison would favour it.
"""

from __future__ import annotations

import random

from twins_nas.arch import ArchConfig
from twins_nas.space import SearchSpace


def sandwich(space: SearchSpace, random_subnets: int, seed: int, step: int) -> list[ArchConfig]:
    """The members that a step trains, the teacher first, each once.

    Depends on the arguments alone.
    """
    rng = random.Random(f"{seed}/{step}")
    roles = [space.extreme(+1, rng), space.extreme(-1, rng)]
    roles += [space.sample(rng) for _ in range(random_subnets)]
    return list(dict.fromkeys(roles))
