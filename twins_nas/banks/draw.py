"""Which networks a bank has: the space's named members, then draws from all strata of MACs alike.

Strata are bins of equal width in log MACs, from the smallest network to the largest. Uniform draws
from a space have MACs near its middle, by the law of large numbers, so a draw here is tilted: it
favours, in all of its ordered choices alike, what costs much or what costs little, by a strength
that is drawn too. The order is fixed, and the first networks of a larger bank are those of a
smaller one.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from twins_nas.arch import ArchConfig
from twins_nas.errors import UserError
from twins_nas.space import SearchSpace
from twins_nas.tuning.spec import CostOf, named_members

TUNING, HELD_OUT = PARTS = "tuning", "held-out"
SEED = 0
TILT = 5.0
"""The most that the logarithm of the odds of a choice's largest and smallest values is tilted."""
TRIES = 1000
"""Draws without a network of a stratum after which it has no more."""


@dataclass(frozen=True)
class Member:
    """A network of a bank; `name` is empty for one that was drawn."""

    number: int
    name: str
    arch: ArchConfig
    macs: int
    params: int
    stratum: int
    part: str


@dataclass(frozen=True)
class Strata:
    """Bins of equal width in log MACs; what is beyond the first or the last belongs to it."""

    edges: tuple[int, ...]

    @classmethod
    def of(cls, space: SearchSpace, cost_of: CostOf, count: int) -> Strata:
        """So many bins between the smallest and the largest network of a space."""
        low, high = (cost_of(space.extreme(sign)).macs for sign in (-1, +1))
        return cls(tuple(round(low * (high / low) ** (at / count)) for at in range(count + 1)))

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.edges) - 1

    def at(self, macs: int) -> int:
        """The bin of a network."""
        return sum(macs >= edge for edge in self.edges[1:-1])


def members(space: SearchSpace, cost_of: CostOf, strata: Strata, count: int) -> tuple[Member, ...]:
    """The first so many networks of a space's bank; no two of them are one network.

    Every other one of a stratum, in this order, is held out.

    Raises:
        UserError: not so many were found.
    """
    keys: set[str] = set()
    named = ((name, arch) for name, arch in named_members(space) if _new(space, arch, keys))
    drawn = (("", arch) for arch in _drawn(space, cost_of, strata, keys))
    held = [0] * strata.count
    found = []
    for number, (name, arch) in enumerate(islice(chain(named, drawn), count)):
        cost = cost_of(arch)
        at = strata.at(cost.macs)
        # Strata begin with either part in turns, or one part would have all first networks.
        part = PARTS[(held[at] + at) % 2]
        held[at] += 1
        found.append(Member(number, name, arch, cost.macs, cost.params, at, part))
    if len(found) < count:
        raise UserError(
            f"Only {len(found)} different networks of space {space.name} were found, and the bank"
            f" is to have {count}; give fewer --archs, or a larger space."
        )
    return tuple(found)


def _drawn(
    space: SearchSpace, cost_of: CostOf, strata: Strata, keys: set[str]
) -> Iterator[ArchConfig]:
    """Networks without end, or until none is left, one of each stratum in turns."""
    rng = random.Random(SEED)
    waiting: list[deque[ArchConfig]] = [deque() for _ in range(strata.count)]
    # In van der Corput's order the first few strata are spread over all.
    left = sorted(range(strata.count), key=lambda at: f"{at:08b}"[::-1])
    while left:
        for at in tuple(left):
            tries = 0
            while not waiting[at] and tries < TRIES:
                arch = _tilted(space, rng)
                tries += 1
                if _new(space, arch, keys):
                    waiting[strata.at(cost_of(arch).macs)].append(arch)
            if waiting[at]:
                yield waiting[at].popleft()
            else:
                left.remove(at)


def _tilted(space: SearchSpace, rng: random.Random) -> ArchConfig:
    """A member that is costly or cheap in all of its ordered choices alike."""
    tilt = rng.uniform(-TILT, TILT)
    encoding = {}
    for choice in space.choices:
        steps = len(choice.values) - 1
        # Unordered choices have `grows` 0: each of their values has the same odds.
        weights = [math.exp(tilt * choice.grows * at / steps) for at in range(steps + 1)]
        encoding[choice.name] = rng.choices(choice.values, weights)[0]
    return space.decode(encoding)


def _new(space: SearchSpace, arch: ArchConfig, keys: set[str]) -> bool:
    """Whether it is none of the networks before; it is one of them then."""
    key = space.key(arch)
    if key in keys:
        return False
    keys.add(key)
    return True
