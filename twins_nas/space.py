"""`SearchSpace`: all architectures of a search.

Sampling, mutation, crossing, a fixed-length encoding and a count.

A space holds, for each dimension (a field of `ArchConfig` or `StageConfig`), the values that it
may take. What a sampler sees is a flat tuple of `Choice`s with static names and ranges: values of
a block are drawn up to the largest depth, and those of blocks that a shallow network lacks are
ignored.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Any

from twins_nas.arch import (
    CONV,
    GSA,
    ArchConfig,
    Grid,
    StageConfig,
    block_key,
    expand,
    grids_of,
    key,
    same,
    whole_key,
    why_unbuildable,
)

ARCH_FIELDS = {item.name: item for item in fields(ArchConfig) if item.name != "stages"}
STAGE_FIELDS = {item.name: item for item in fields(StageConfig)}

Values = tuple[Any, ...]
Encoding = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """One axis of a space: its dotted name, its values (sorted where ordered).

    And how MACs follow them.
    """

    name: str
    values: Values
    grows: int

    @property
    def ordered(self) -> bool:
        """Whether the values have an order that mutation, samplers and plots use."""
        return self.grows != 0

    @property
    def field(self) -> str:
        """The dimension's name without its place.

        `window_size` of `stages.2.blocks.1.window_size`.
        """
        return self.name.rsplit(".", 1)[-1]

    def extreme(self, sign: int) -> Any:
        """The value of the most (+1) or the fewest (-1) MACs; of an ordered axis."""
        return (max if sign * self.grows > 0 else min)(self.values)


@dataclass(frozen=True)
class SearchSpace:
    """The space's values; `stages[i][field]` holds one tuple of values.

    Or one for each block where untied.

    Raises:
        ValueError: the base is not a member, or members cannot be built at the input size; a line
        a fault.
    """

    name: str
    input_size: Grid
    base: ArchConfig
    arch: Mapping[str, Values]
    stages: tuple[Mapping[str, tuple[Values, ...]], ...]

    def __post_init__(self) -> None:
        faults = self.faults() or [fault for fault in [self.why_not(self.base)] if fault]
        if faults:
            raise ValueError("\n".join(faults))

    @classmethod
    def point(cls, arch: ArchConfig, input_size: Grid, name: str = "") -> SearchSpace:
        """The space of one network."""
        whole = {item: (getattr(arch, item),) for item in ARCH_FIELDS}
        stages = tuple(
            {
                item: tuple((value,) for value in getattr(stage, item))
                if meta.metadata["owner"] == "block"
                else ((getattr(stage, item),),)
                for item, meta in STAGE_FIELDS.items()
            }
            for stage in arch.stages
        )
        return cls(name, input_size, arch, whole, stages)

    def faults(self) -> list[str]:
        """Why some member could not be built, each as `key: problem`; empty where every one can."""
        return space_faults(self.input_size, self.arch, self.stages)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The axes with more than one value, in a fixed order."""
        return tuple(choice for choice in self._axes if len(choice.values) > 1)

    @cached_property
    def _axes(self) -> tuple[Choice, ...]:
        axes = [
            Choice(name, self.arch[name], item.metadata["grows"])
            for name, item in ARCH_FIELDS.items()
        ]
        for index, stage in enumerate(self.stages):
            for name, item in STAGE_FIELDS.items():
                grows, groups = item.metadata["grows"], stage[name]
                if len(groups) == 1:
                    axes.append(Choice(f"stages.{index}.{name}", groups[0], grows))
                else:
                    axes += [
                        Choice(f"stages.{index}.blocks.{block}.{name}", values, grows)
                        for block, values in enumerate(groups)
                    ]
        return tuple(axes)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all values and the input size; a checkpoint carries it."""
        text = json.dumps([self.input_size, self.arch, self.stages], sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, encoding: Mapping[str, Any]) -> ArchConfig:
        """The network of an encoding; axes that it lacks must have one value."""
        values = {axis.name: encoding.get(axis.name, axis.values[0]) for axis in self._axes}
        stages = []
        for index, stage in enumerate(self.stages):
            settings: dict[str, Any] = {}
            for name in STAGE_FIELDS:
                if len(stage[name]) == 1:
                    settings[name] = values[f"stages.{index}.{name}"]
                else:
                    blocks = range(len(stage[name]))
                    settings[name] = tuple(
                        values[f"stages.{index}.blocks.{block}.{name}"] for block in blocks
                    )
            stages.append(StageConfig(**settings))
        return ArchConfig(tuple(stages), **{name: values[name] for name in ARCH_FIELDS})

    def encode(self, arch: ArchConfig) -> Encoding:
        """The encoding of a member; what the network does not use gets the first value.

        Raises:
            ValueError: the network is not a member.
        """
        if reason := self.why_not(arch):
            raise ValueError(f"not a member of space {self.name}: {reason}")
        return {choice.name: _first(arch, choice) for choice in self.choices}

    def why_not(self, arch: ArchConfig) -> str | None:
        """Why the network is not a member, as `key: problem`; None where it is one."""
        if len(arch.stages) != len(self.stages):
            return f"stages: there are {len(arch.stages)}, the space has {len(self.stages)}"
        encoding = {}
        for axis in self._axes:
            value, encoding[axis.name] = _own(arch, axis), _first(arch, axis)
            if encoding[axis.name] is None:
                return f"{axis.name}: {value} is not among {', '.join(map(str, axis.values))}"
        if self.decode(encoding) != arch:
            return "blocks of a stage differ where the space ties them"
        return why_unbuildable(arch, self.input_size)

    def draw(self, rng: random.Random) -> Encoding:
        """An encoding with every choice drawn uniformly."""
        return {choice.name: rng.choice(choice.values) for choice in self.choices}

    def sample(self, rng: random.Random) -> ArchConfig:
        """A member with every choice drawn uniformly."""
        return self.decode(self.draw(rng))

    def extreme(self, sign: int, rng: random.Random | None = None) -> ArchConfig:
        """The MACs extreme over the ordered dimensions: +1 the largest, -1 the smallest member.

        Unordered choices are drawn from `rng`, or are those of the base without one.
        """
        base = self.encode(self.base) if rng is None else {}
        encoding = {}
        for choice in self.choices:
            if choice.ordered:
                encoding[choice.name] = choice.extreme(sign)
            else:
                encoding[choice.name] = rng.choice(choice.values) if rng else base[choice.name]
        return self.decode(encoding)

    def mutate(self, arch: ArchConfig, rng: random.Random, rate: float) -> ArchConfig:
        """A copy where each choice changes with probability `rate`.

        To a neighbour where ordered, else to any other.
        """
        encoding = self.encode(arch)
        for choice in self.choices:
            if rng.random() < rate:
                encoding[choice.name] = _other(choice, encoding[choice.name], rng)
        return self.decode(encoding)

    def cross(self, one: ArchConfig, other: ArchConfig, rng: random.Random) -> ArchConfig:
        """A child with every choice from one of the two parents, evenly drawn."""
        first, second = self.encode(one), self.encode(other)
        return self.decode({name: rng.choice((first[name], second[name])) for name in first})

    def value(self, arch: ArchConfig, choice: Choice) -> Any:
        """A member's value of a choice, as `encode` gives it."""
        return _first(arch, choice)

    def fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """The part of the space whose members have these values, by the names of choices."""

        def of(name: str, group: Values) -> Values:
            return (values[name],) if name in values else group

        def of_stage(index: int, field: str, groups: tuple[Values, ...]) -> tuple[Values, ...]:
            if len(groups) == 1:
                return (of(f"stages.{index}.{field}", groups[0]),)
            blocks = enumerate(groups)
            return tuple(of(f"stages.{index}.blocks.{at}.{field}", group) for at, group in blocks)

        arch = {name: of(name, group) for name, group in self.arch.items()}
        stages = tuple(
            {field: of_stage(index, field, groups) for field, groups in stage.items()}
            for index, stage in enumerate(self.stages)
        )
        base = self.decode({**self.encode(self.base), **values})
        return SearchSpace(self.name, self.input_size, base, arch, stages)

    def key(self, arch: ArchConfig) -> str:
        """`arch.key` at the space's input size."""
        return key(arch, self.input_size)

    def grid(self, stage: int) -> Grid:
        """The largest token grid (H, W) of a stage over the members."""
        patch = min(self.arch["patch_size"])
        grids = [grids_of(self.input_size, patch, how, stage + 1) for how in self._downsamples]
        return max(grid[stage] for grid in grids)

    def size(self) -> int:
        """The exact number of different networks (different keys) in the space."""
        counted = ("patch_size", "window_fit", "downsample")
        others = prod(len(set(self.arch[name])) for name in ARCH_FIELDS if name not in counted)
        places = product(set(self.arch["patch_size"]), self._downsamples)
        return others * sum(self._size_at(*place) for place in places)

    @property
    def _downsamples(self) -> set[str]:
        return set(self.arch["downsample"]) if len(self.stages) > 1 else {CONV}

    def _size_at(self, patch: int, downsample: str) -> int:
        fits = sorted(set(self.arch["window_fit"]))
        counts = {fit: 1 for fit in fits}
        shared = 1
        grids = grids_of(self.input_size, patch, downsample, len(self.stages))
        for stage, grid in zip(self.stages, grids, strict=True):
            boxes = {fit: list(_boxes(stage, grid, fit)) for fit in fits}
            sizes = {fit: _count(boxes[fit]) for fit in fits}
            counts = {fit: counts[fit] * sizes[fit] for fit in fits}
            shared *= sum(sizes.values()) - _count([box for fit in fits for box in boxes[fit]])
        return sum(counts.values()) - (shared if len(fits) > 1 else 0)


def space_faults(
    input_size: Grid,
    arch: Mapping[str, Values],
    stages: Sequence[Mapping[str, tuple[Values, ...]]],
) -> list[str]:
    """Why some member of a space with these values could not be built, each as `key: problem`."""
    found = []
    size = f"{input_size[0]}x{input_size[1]}"
    for patch, how in product(arch["patch_size"], arch["downsample"]):
        grids = grids_of(input_size, patch, how, len(stages))
        for index, stage in enumerate(stages):
            grid = min(grids[index])
            if grid < 1:
                found.append(
                    f"patch_size: {patch} leaves no token in stage {index} of a {size} input"
                )
                break
            over = {value for values in stage["sr_ratio"] for value in values if value > grid}
            if over and any(GSA in mixer for mixer in stage["mixer"][0]):
                said = f"{max(over)} is over the {grid}x{grid} grid of the stage"
                found.append(f"stages.{index}.sr_ratio: {said}")
        for index, stage in enumerate(stages):
            for dim, head in product(stage["embed_dim"][0], stage["head_dim"][0]):
                if dim % head:
                    found.append(
                        f"stages.{index}.embed_dim: {dim} is not a multiple of head_dim {head}"
                    )
            thinnest = min(value for values in stage["mlp_ratio"] for value in values)
            narrowest = min(stage["embed_dim"][0])
            if int(thinnest * narrowest) < 1:
                said = f"{thinnest:g} leaves no hidden unit at embed_dim {narrowest}"
                found.append(f"stages.{index}.mlp_ratio: {said}")
    return list(dict.fromkeys(found))


def _owner(arch: ArchConfig, axis: Choice) -> ArchConfig | StageConfig:
    """The network or the stage that an axis is a field of."""
    parts = axis.name.split(".")
    return arch if len(parts) == 1 else arch.stages[int(parts[1])]


def _own(arch: ArchConfig, axis: Choice) -> Any:
    """A network's own value of an axis; None where none of the blocks uses it."""
    value = getattr(_owner(arch, axis), axis.field)
    if not isinstance(value, tuple):
        return value
    parts = axis.name.split(".")
    blocks = slice(int(parts[3]), int(parts[3]) + 1) if len(parts) == 5 else slice(None)
    return next((item for item in value[blocks] if item), None)


def _first(arch: ArchConfig, axis: Choice) -> Any:
    """The first value of an axis that describes the network; None where none does."""
    owner, value = _owner(arch, axis), _own(arch, axis)
    if isinstance(getattr(owner, axis.field), tuple):
        return axis.values[0] if value is None else value if value in axis.values else None
    return value if value == axis.values[0] else _first_of(owner, axis.field, axis.values)


@lru_cache(maxsize=4096)
def _first_of(owner: ArchConfig | StageConfig, name: str, values: Values) -> Any:
    return next((value for value in values if same(owner, name, value)), None)


def _other(choice: Choice, value: Any, rng: random.Random) -> Any:
    at = choice.values.index(value)
    if choice.ordered:
        near = [step for step in (at - 1, at + 1) if 0 <= step < len(choice.values)]
        return choice.values[rng.choice(near)]
    return rng.choice([item for item in choice.values if item != value])


_Box = tuple[Any, tuple[frozenset[Any], ...]]


def _boxes(stage: Mapping[str, tuple[Values, ...]], grid: Grid, window_fit: str) -> Iterator[_Box]:
    """The stage's networks as boxes.

    What holds for the whole stage, and the possible keys of each block.
    """
    of_blocks = [name for name, item in STAGE_FIELDS.items() if item.metadata["owner"] == "block"]
    of_stage = [name for name in STAGE_FIELDS if name not in of_blocks]
    tied = [*of_stage, *(name for name in of_blocks if len(stage[name]) == 1)]
    untied = [name for name in of_blocks if name not in tied]
    for shared in product(*(stage[name][0] for name in tied)):
        fixed = dict(zip(tied, shared, strict=True))
        firsts: dict[str, Any] = {name: tuple(each[0] for each in stage[name]) for name in untied}
        blocks = []
        for block, letter in enumerate(expand(fixed["mixer"], fixed["depth"])):
            alone = {**fixed, "depth": 1, "mixer": letter}
            keys = set()
            for values in product(*(stage[name][block] for name in untied)):
                one = StageConfig(**alone, **dict(zip(untied, values, strict=True)))
                keys.add(block_key(one, 0, grid, window_fit))
            blocks.append(frozenset(keys))
        yield whole_key(StageConfig(**fixed, **firsts)), tuple(blocks)


def _count(boxes: list[_Box]) -> int:
    """The number of different members of a union of boxes, exactly, however they overlap."""
    groups: dict[Any, set[tuple[frozenset[Any], ...]]] = {}
    for whole, blocks in boxes:
        groups.setdefault((whole, len(blocks)), set()).add(blocks)
    return sum(_union(frozenset(group), 0, depth) for (_, depth), group in groups.items())


def _union(alive: frozenset[tuple[frozenset[Any], ...]], block: int, depth: int) -> int:
    if block == depth:
        return 1
    if len(alive) == 1:
        return prod(len(options) for options in next(iter(alive))[block:])
    split: dict[frozenset[Any], int] = {}
    for option in frozenset().union(*(box[block] for box in alive)):
        left = frozenset(box for box in alive if option in box[block])
        split[left] = split.get(left, 0) + 1
    return sum(number * _union(left, block + 1, depth) for left, number in split.items())
