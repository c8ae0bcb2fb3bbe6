"""How the keys of a space's YAML, a base and the fields' defaults act together.

A value fixes a dimension of the base too, a list is a choice that holds the base's value, an absent
key is the base's. Only `depth` is known by name: it says how many blocks there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, replace
from itertools import product, zip_longest
from typing import Any

from twins_nas.arch import ArchConfig, Grid, StageConfig
from twins_nas.errors import ConfigError, Fault
from twins_nas.schema import Model
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, Values, space_faults
from twins_nas.space_schema import Blocks, PerBlock, given, sample_stage
from twins_nas.yaml_nodes import Document, Place, shown

Groups = tuple[Values, ...]
_Stage = tuple[dict[str, Groups] | None, StageConfig | None]

BLOCK_FIELDS = [name for name, item in STAGE_FIELDS.items() if item.metadata["owner"] == "block"]
UNUSED: Values = (0,)


@dataclass(frozen=True)
class Parts:
    """What the keys come to: the values of each dimension, and the base, a member."""

    base: ArchConfig
    arch: Mapping[str, Values]
    stages: tuple[Mapping[str, Groups], ...]


def field_place(axis: str) -> Place:
    """Where an axis is written: `stages.2.blocks.1.window_size` in `stages.2.window_size`."""
    place = tuple(int(part) if part.isdigit() else part for part in axis.split("."))
    return (*place[:2], place[-1]) if len(place) > 3 else place


def place_and_words(fault: str) -> tuple[Place, str]:
    """The two parts of a space's `key: problem`."""
    key, _, said = fault.partition(": ")
    return field_place(key), said


def fault_at(document: Document, place: Place, problem: str) -> Fault:
    """A fault; in the line of `base` where the file itself says nothing of the place."""
    fault = document.fault(place, problem)
    return fault if fault.line else replace(fault, line=document.lines.get(("base",), 0))


@dataclass(frozen=True)
class _Level:
    """The network or a stage: its place, the keys that the file writes, what fills the others."""

    place: Place
    keys: Mapping[str, Any]
    base: ArchConfig | StageConfig | None


class Resolver:
    """Fills the keys of a network from a base, and collects what they contradict each other in."""

    def __init__(self, document: Document, prefix: Place, base: ArchConfig | None) -> None:
        self.document = document
        self.prefix = prefix
        self.base = base
        self.faults: list[Fault] = []

    def parts(self, keys: Any, input_size: Grid | None) -> Parts:
        """The values of all dimensions; with an input size, every member can be built at it.

        Raises:
            ConfigError: all contradictions.
        """
        level = _Level((), given(keys), self.base)
        whole = {name: self._values(level, name, item) for name, item in ARCH_FIELDS.items()}
        own = {name: self._own(level, name, values) for name, values in whole.items() if values}
        for name, value in own.items():
            self._check_own(level, name, value, whole[name])
        found = self._stages(keys.stages)
        stages = tuple(groups for groups, _ in found if groups)
        if input_size and stages and len(stages) == len(found) and len(own) == len(whole):
            for fault in space_faults(input_size, whole, stages):
                self._add(*place_and_words(fault))
        if not self.faults:
            try:
                base = ArchConfig(tuple(stage for _, stage in found if stage), **own)
                return Parts(base, whole, stages)
            except ValueError as error:
                self._refused((), error)
        faults = sorted(dict.fromkeys(self.faults), key=lambda fault: fault.line)
        raise ConfigError(faults)

    def _add(self, place: Place, problem: str) -> None:
        self.faults.append(fault_at(self.document, (*self.prefix, *place), problem))

    def _refused(self, place: Place, error: ValueError) -> None:
        """A fault in a dataclass's own words, which open with the name of the field."""
        name, _, said = str(error).partition(" ")
        known = name in ARCH_FIELDS or name in STAGE_FIELDS
        self._add((*place, name) if known else place, said if known else str(error))

    def _stages(self, keys: Sequence[Model] | None) -> list[_Stage]:
        bases: Sequence[StageConfig] = self.base.stages if self.base else ()
        if keys is None and not bases:
            self._add(("stages",), "is missing, and there is no base to take it from")
            return []
        asked = [{} for _ in bases] if keys is None else [given(stage) for stage in keys]
        if bases and len(asked) != len(bases):
            self._add(("stages",), f"there are {len(asked)}, the base has {len(bases)}")
            return []
        levels = enumerate(zip_longest(asked, bases))
        return [self._stage(_Level(("stages", at), *level)) for at, level in levels]

    def _stage(self, level: _Level) -> _Stage:
        """What a stage may be, and the stage of the base; None where faults hide it."""
        tied = {
            name: self._values(level, name, item)
            for name, item in STAGE_FIELDS.items()
            if name not in BLOCK_FIELDS
        }
        if not all(tied.values()):
            return None, None
        depth = max(tied["depth"])
        users = users_of(tied, depth)
        groups = {
            name: self._groups(level, name, users[name], depth)
            if name in BLOCK_FIELDS
            else (tied[name],)
            for name in STAGE_FIELDS
        }
        if not all(groups.values()):
            return None, None
        self._check_meanings(level, tied, depth)
        own = {name: self._own(level, name, values) for name, values in tied.items()}
        for name in BLOCK_FIELDS:
            blocks = range(own["depth"])
            own[name] = tuple(self._own(level, name, _of(groups[name], at), at) for at in blocks)
        before = len(self.faults)
        for name in tied:
            self._check_own(level, name, own[name], tied[name], own["depth"])
        if len(self.faults) > before:
            return groups, None
        try:
            base = StageConfig(**own)
        except ValueError as error:
            self._refused(level.place, error)
            return groups, None
        for name in BLOCK_FIELDS:
            self._check_blocks(level, name, getattr(base, name), groups[name])
        return groups, base

    def _values(self, level: _Level, name: str, item: Field[Any]) -> Values:
        """What a dimension of the network or the stage may be; nothing where that is missing."""
        if name in level.keys:
            value = level.keys[name]
            return value if isinstance(value, tuple) else (value,)
        if level.base is not None:
            return (getattr(level.base, name),)
        if item.default is not MISSING:
            return (item.default,)
        self._add((*level.place, name), "is missing, and there is no base to take it from")
        return ()

    def _groups(self, level: _Level, name: str, users: set[int], depth: int) -> Groups:
        """What a dimension of the blocks may be; one group for all blocks, or one for each."""
        place = (*level.place, name)
        if name not in level.keys:
            return self._filled_groups(level, name, users, depth)
        value = level.keys[name]
        if isinstance(value, Blocks):
            return self._listed_groups(place, value.blocks, users, depth)
        values = value.values if isinstance(value, PerBlock) else value
        if not isinstance(values, tuple):
            return ((values,),)
        if not users and len(values) > 1:
            self._add(place, "no block of the stage uses it, so there is nothing to choose")
        if isinstance(value, PerBlock):
            return tuple(values if at in users else UNUSED for at in range(depth))
        return (values,)

    def _filled_groups(self, level: _Level, name: str, users: set[int], depth: int) -> Groups:
        if not users:
            return (UNUSED,)
        filled = _filled(getattr(level.base, name), depth) if level.base is not None else ()
        if not filled:
            why = "there is no base to take it from" if level.base is None else "the base has none"
            self._add((*level.place, name), f"is missing: block {min(users)} needs it, and {why}")
            return ()
        if len({filled[at] for at in users}) == 1:
            return ((filled[min(users)],),)
        return tuple((filled[at],) if at in users else UNUSED for at in range(depth))

    def _listed_groups(
        self, place: Place, entries: Sequence[Any], users: set[int], depth: int
    ) -> Groups:
        if len(entries) != depth:
            self._add(place, f"{len(entries)} given for the {depth} blocks of the stage")
            return ()
        complete = True
        for at, entry in enumerate(entries):
            if entry is None and at in users:
                self._add((*place, "blocks", at), "is empty, but the block uses it")
                complete = False
            if isinstance(entry, tuple) and len(entry) > 1 and at not in users:
                self._add((*place, "blocks", at), "is a choice, but the block does not use it")
        kinds = (UNUSED if entry is None else entry for entry in entries)
        groups = tuple(entry if isinstance(entry, tuple) else (entry,) for entry in kinds)
        return groups if complete else ()

    def _own(self, level: _Level, name: str, values: Values, block: int | None = None) -> Any:
        """The base's value: the only one, or that of the file's base, or that with most MACs."""
        if name in level.keys and not isinstance(level.keys[name], tuple) and len(values) == 1:
            return values[0]
        if level.base is not None:
            value = getattr(level.base, name)
            if block is None:
                return value
            if filled := _filled(value, block + 1):
                return filled[block]
        grows = {**ARCH_FIELDS, **STAGE_FIELDS}[name].metadata["grows"]
        return (max(values) if grows > 0 else min(values)) if grows else values[0]

    def _check_own(
        self, level: _Level, name: str, own: Any, values: Values, depth: int | None = None
    ) -> None:
        """Adds a fault where a list lacks the base's value."""
        same = [_meaning(name, value, depth) for value in values]
        if isinstance(level.keys.get(name), tuple) and _meaning(name, own, depth) not in same:
            self._add((*level.place, name), f"the base's value {shown(own)} is missing")

    def _check_blocks(self, level: _Level, name: str, own: Values, groups: Groups) -> None:
        """Adds a fault where the blocks of the base have values that their lists lack."""
        used = dict.fromkeys(value for value in own if value)
        lacking = [value for at, value in enumerate(own) if value and value not in _of(groups, at)]
        if not isinstance(level.keys.get(name), tuple | PerBlock | Blocks):
            return
        if len(groups) == 1 and len(used) > 1:
            few = ", ".join(map(shown, used))
            said = f"the base's blocks differ ({few}); give {{values: [...], per: block}}"
            self._add((*level.place, name), said)
        elif lacking:
            self._add((*level.place, name), f"the base's value {shown(lacking[0])} is missing")

    def _check_meanings(self, level: _Level, tied: Mapping[str, Values], depth: int) -> None:
        """Adds a fault where two words of a list describe the same stage at every depth."""
        for name, values in tied.items():
            first: dict[Any, Any] = {}
            for value in values:
                other = first.setdefault(_meaning(name, value, depth), value)
                if other != value:
                    said = f"{shown(other)} and {shown(value)} mean the same in {depth} blocks"
                    self._add((*level.place, name), said)


def _meaning(name: str, value: Any, depth: int | None) -> Any:
    """A word of a stage in normal form; any other value as it is."""
    if depth is None or not isinstance(value, str):
        return value
    return getattr(sample_stage(**{"depth": depth, name: value}), name)


def _of(groups: Groups, block: int) -> Values:
    return groups[block] if len(groups) > 1 else groups[0]


def _filled(values: Values, depth: int) -> Values:
    """A base's values for so many blocks; one without a value repeats the one before it."""
    used = [value for value in values if value]
    if not used:
        return ()
    filled, last = [], used[0]
    for value in (*values, *[0] * depth)[:depth]:
        last = value or last
        filled.append(last)
    return tuple(filled)


def users_of(tied: Mapping[str, Values], depth: int) -> dict[str, set[int]]:
    """The blocks that can use each dimension of the blocks, over the words of the stage."""
    words = [name for name, values in tied.items() if isinstance(values[0], str)]
    users: dict[str, set[int]] = {name: set() for name in BLOCK_FIELDS}
    for combination in product(*(tied[name] for name in words)):
        settings = dict(zip(words, combination, strict=True))
        stage = sample_stage(**{**settings, "depth": depth})
        for name in BLOCK_FIELDS:
            users[name] |= {at for at, value in enumerate(getattr(stage, name)) if value}
    return users
