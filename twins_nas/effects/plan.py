"""Which members of a space are scored: balanced pairs on backgrounds that are drawn uniformly.

Each background gets one dimension, in turn: the background itself, and the same network with that
dimension at each of its choices. So the backgrounds are a uniform sample of the space, independent
of each other, and each dimension has contrasts within its own backgrounds. A plan of more networks
begins with the plan of fewer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twins_nas.arch import ArchConfig
from twins_nas.space import STAGE_FIELDS, Encoding, SearchSpace
from twins_nas.stats import Vector

ABLATION_BACKGROUNDS = 30
"""Backgrounds of the supernet's counterpart of a stand-alone ablation."""


@dataclass(frozen=True)
class Dimension:
    """What is set: `settings` holds, for each choice, the values of some axes of the space.

    `at` is the place of the field (`stages.2`, empty: the network), `reference` the choice of the
    base.
    """

    name: str
    labels: tuple[str, ...]
    settings: tuple[Encoding, ...]
    reference: int

    @property
    def words(self) -> str:
        """The name as tables have it: `stage 2 window_size`."""
        return self.name.replace("stages.", "stage ").replace(".", " ")


@dataclass(frozen=True)
class Group:
    """One background and what is made of it; `dimension` counts those of the plan.

    `base` is the background; None in the counterpart of an ablation. `members` are the networks of
    the dimension's choices, none where the background does not use the dimension.
    """

    dimension: int
    base: ArchConfig | None
    encoding: Encoding
    members: tuple[ArchConfig, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All groups: those of the dimensions of the space, then those of ablations' counterparts."""

    dimensions: tuple[Dimension, ...]
    groups: tuple[Group, ...]
    archs: Mapping[str, ArchConfig]

    @property
    def uniform(self) -> list[Group]:
        """The groups whose backgrounds are the uniform sample; they come first."""
        return [group for group in self.groups if group.base is not None]


def dimensions(space: SearchSpace) -> tuple[Dimension, ...]:
    """The dimensions of a space: its choices, those of a stage's blocks taken together.

    Where blocks differ in their choices, those that all of them have.
    """
    together: dict[str, list[int]] = {}
    for at, choice in enumerate(space.choices):
        parts = choice.name.split(".")
        name = ".".join([*parts[:2], parts[-1]]) if len(parts) == 5 else choice.name
        together.setdefault(name, []).append(at)
    base, found = space.encode(space.base), []
    for name, places in together.items():
        axes = [space.choices[at] for at in places]
        values = [v for v in axes[0].values if all(v in axis.values for axis in axes)]
        if len(values) < 2:
            continue
        used = [base[axis.name] for axis in axes]
        if len(places) > 1:
            _, stage, field = name.split(".")
            used = [v for v in getattr(space.base.stages[int(stage)], field) if v] or used
        reference = max(values, key=lambda value: (used.count(value), -values.index(value)))
        settings = tuple({axis.name: value for axis in axes} for value in values)
        labels = tuple(word(value) for value in values)
        found.append(Dimension(name, labels, settings, values.index(reference)))
    return tuple(found)


def word(value: object) -> str:
    """A value as tables have it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw(space: SearchSpace, archs: int, seed: int, counterparts: Sequence[Dimension] = ()) -> Plan:
    """A plan of at most `archs` different networks, and of further ones for the counterparts."""
    own = dimensions(space)
    known: dict[str, ArchConfig] = {}
    groups: list[Group] = []
    rng = random.Random(f"{space.fingerprint} {seed}")
    for number in range(archs):
        at = number % len(own)
        group = _group(space, own[at], at, space.draw(rng), with_base=True)
        fresh = dict(_members(space, group))
        if len(known | fresh) > archs:
            break
        known |= fresh
        groups.append(group)
    for at, dimension in enumerate(counterparts, start=len(own)):
        rng = random.Random(f"{space.fingerprint} {seed} {dimension.settings}")
        for _ in range(ABLATION_BACKGROUNDS):
            group = _group(space, dimension, at, space.draw(rng), with_base=False)
            known |= dict(_members(space, group))
            groups.append(group)
    return Plan((*own, *counterparts), tuple(groups), known)


def _group(
    space: SearchSpace, dimension: Dimension, at: int, background: Encoding, with_base: bool
) -> Group:
    members = tuple(space.decode(background | setting) for setting in dimension.settings)
    keys = tuple(space.key(member) for member in members)
    if len(set(keys)) == 1:
        members, keys = (), ()
    base = space.decode(background) if with_base else None
    return Group(at, base, background, members, keys)


def _members(space: SearchSpace, group: Group) -> Iterator[tuple[str, ArchConfig]]:
    if group.base is not None:
        yield space.key(group.base), group.base
    yield from zip(group.keys, group.members, strict=True)


def features(space: SearchSpace, groups: Sequence[Group]) -> list[Vector]:
    """For each dimension, the share of each choice in each background, as rows that sum to 1.

    A share is 0 or 1, but of dimensions that blocks have, where it is the share of the blocks that
    use the dimension. A background that does not use it has equal shares.
    """
    found = []
    for dimension in dimensions(space):
        rows = [_shares(dimension, group) for group in groups]
        found.append(np.array(rows))
    return found


def _shares(dimension: Dimension, group: Group) -> list[float]:
    count = len(dimension.labels)
    values = [next(iter(setting.values())) for setting in dimension.settings]
    parts = dimension.name.split(".")
    owner = STAGE_FIELDS[parts[-1]].metadata["owner"] if parts[0] == "stages" else "arch"
    assert group.base is not None
    if owner != "block":
        used = [group.encoding[dimension.name]]
    else:
        used = [value for value in getattr(group.base.stages[int(parts[1])], parts[-1]) if value]
    hits = [used.count(value) for value in values]
    total = sum(hits)
    return [hit / total for hit in hits] if total else [1 / count] * count
