"""Spaces and architectures from the keys of a YAML file, and back.

What a key may hold is said in `space_schema`; here, what the keys mean together. Only `depth` is
known by name: it says how many blocks there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from dataclasses import replace as changed
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from twins_nas.arch import ArchConfig, Grid, StageConfig
from twins_nas.errors import ConfigError, Fault
from twins_nas.schema import Model
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, SearchSpace, Values
from twins_nas.space_schema import Blocks, PerBlock, given, sample_stage
from twins_nas.yaml_nodes import Document, Place, shown

Groups = tuple[Values, ...]

BLOCK_FIELDS = [name for name, item in STAGE_FIELDS.items() if item.metadata["owner"] == "block"]
UNUSED: Values = (0,)


@dataclass(frozen=True)
class Parts:
    """What the keys come to: the values of each dimension, and the base, a member."""

    base: ArchConfig
    arch: Mapping[str, Values]
    stages: tuple[Mapping[str, Groups], ...]


def to_space(document: Document, keys: Any) -> SearchSpace:
    """The space of a checked `space_schema.Space`.

    Raises:
        ConfigError: all that the keys contradict each other in.
    """
    base: ArchConfig | None = None
    if isinstance(keys.base, str):
        base = seed(keys.base)
    elif keys.base is not None:
        base = _network(document, keys.base)
    parts = _Resolver(document, (), base).parts(keys)
    try:
        name = keys.name or Path(document.file).stem
        return SearchSpace(name, keys.input_size, parts.base, parts.arch, parts.stages)
    except ValueError as error:
        pairs = [line.split(": ", 1) for line in str(error).splitlines()]
        raise ConfigError(_fault(document, _place(key), said) for key, said in pairs) from None


def to_arch(document: Document, keys: Any) -> tuple[ArchConfig, Grid]:
    """The network of a checked `space_schema.Space` without a choice, and its input size.

    Raises:
        ConfigError: all that the keys contradict each other in, and each choice.
    """
    space = to_space(document, keys)
    places = dict.fromkeys(_field_place(choice.name) for choice in space.choices)
    if places:
        said = "is a choice; an architecture has one value"
        raise ConfigError(_fault(document, place, said) for place in places)
    return space.base, space.input_size


def _network(document: Document, keys: Any) -> ArchConfig:
    """The network of a `base` that is written out."""
    parts = _Resolver(document, ("base",), None).parts(keys)
    faults = []
    levels: list[tuple[Place, Mapping[str, Groups]]] = []
    levels.append(((), {name: (values,) for name, values in parts.arch.items()}))
    levels += [(("stages", index), groups) for index, groups in enumerate(parts.stages)]
    for place, level in levels:
        for name, groups in level.items():
            if any(len(values) > 1 for values in groups):
                said = "is a choice; a base has one value"
                faults.append(_fault(document, ("base", *place, name), said))
    if faults:
        raise ConfigError(faults)
    return parts.base


def _place(key: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _field_place(axis: str) -> Place:
    """Where an axis is written: `stages.2.blocks.1.window_size` in `stages.2.window_size`."""
    place = _place(axis)
    return (*place[:2], place[-1]) if len(place) > 3 else place


def _fault(document: Document, place: Place, problem: str) -> Fault:
    """A fault; in the line of `base` where the file itself says nothing of the place."""
    fault = document.fault(place, problem)
    return fault if fault.line else changed(fault, line=document.lines.get(("base",), 0))


@dataclass(frozen=True)
class _Level:
    """The network or a stage: its place, the keys that the file writes, what fills the others."""

    place: Place
    keys: Mapping[str, Any]
    base: ArchConfig | StageConfig | None


class _Resolver:
    """Fills the keys of a network from a base, and collects what they contradict each other in."""

    def __init__(self, document: Document, prefix: Place, base: ArchConfig | None) -> None:
        self.document = document
        self.prefix = prefix
        self.base = base
        self.faults: list[Fault] = []

    def parts(self, keys: Any) -> Parts:
        """The values of all dimensions.

        Raises:
            ConfigError: all contradictions.
        """
        level = _Level((), given(keys), self.base)
        whole = {name: self._values(level, name, item) for name, item in ARCH_FIELDS.items()}
        own = {name: self._own(level, name, values) for name, values in whole.items()}
        for name, values in whole.items():
            self._check_own(level, name, own[name], values)
        stages = self._stages(keys.stages)
        if not self.faults:
            try:
                base = ArchConfig(tuple(stage for _, stage in stages), **own)
                return Parts(base, whole, tuple(groups for groups, _ in stages))
            except ValueError as error:
                self._refused((), error)
        raise ConfigError(self.faults)

    def _add(self, place: Place, problem: str) -> None:
        self.faults.append(_fault(self.document, (*self.prefix, *place), problem))

    def _refused(self, place: Place, error: ValueError) -> None:
        """A fault in a dataclass's own words, which open with the name of the field."""
        name, _, said = str(error).partition(" ")
        known = name in ARCH_FIELDS or name in STAGE_FIELDS
        self._add((*place, name) if known else place, said if known else str(error))

    def _stages(self, keys: Sequence[Model] | None) -> list[tuple[dict[str, Groups], StageConfig]]:
        bases: Sequence[StageConfig] = self.base.stages if self.base else ()
        if keys is None and not bases:
            self._add(("stages",), "is missing, and there is no base to take it from")
            return []
        asked = [{} for _ in bases] if keys is None else [given(stage) for stage in keys]
        if bases and len(asked) != len(bases):
            self._add(("stages",), f"has {len(asked)} stages, the base has {len(bases)}")
            return []
        levels = enumerate(zip_longest(asked, bases))
        stages = [self._stage(_Level(("stages", at), *level)) for at, level in levels]
        return [stage for stage in stages if stage]

    def _stage(self, level: _Level) -> tuple[dict[str, Groups], StageConfig] | None:
        tied = {
            name: self._values(level, name, item)
            for name, item in STAGE_FIELDS.items()
            if name not in BLOCK_FIELDS
        }
        if not all(tied.values()):
            return None
        depth = max(tied["depth"])
        users = _users(tied, depth)
        groups = {
            name: self._groups(level, name, users[name], depth)
            if name in BLOCK_FIELDS
            else (tied[name],)
            for name in STAGE_FIELDS
        }
        if not all(groups.values()):
            return None
        self._check_meanings(level, tied, depth)
        own = {name: self._own(level, name, values) for name, values in tied.items()}
        for name in BLOCK_FIELDS:
            blocks = range(own["depth"])
            own[name] = tuple(self._own(level, name, _of(groups[name], at), at) for at in blocks)
        before = len(self.faults)
        for name in tied:
            self._check_own(level, name, own[name], tied[name], own["depth"])
        if len(self.faults) > before:
            return None
        try:
            base = StageConfig(**own)
        except ValueError as error:
            self._refused(level.place, error)
            return None
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
            self._add(place, f"has {len(entries)} entries for the {depth} blocks of the stage")
            return ()
        for at, entry in enumerate(entries):
            if entry is None and at in users:
                self._add((*place, "blocks", at), "is empty, but the block uses it")
            if isinstance(entry, tuple) and len(entry) > 1 and at not in users:
                self._add((*place, "blocks", at), "is a choice, but the block does not use it")
        kinds = (UNUSED if entry is None else entry for entry in entries)
        return tuple(entry if isinstance(entry, tuple) else (entry,) for entry in kinds)

    def _own(self, level: _Level, name: str, values: Values, block: int | None = None) -> Any:
        """The base's value: the only one, or that of the file's base, or that with most MACs."""
        if not isinstance(level.keys.get(name, ()), tuple) and len(values) == 1:
            return values[0]
        if level.base is not None:
            value = getattr(level.base, name)
            filled = value if block is None else _filled(value, block + 1)
            if filled or block is None:
                return filled if block is None else filled[block]
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


def _users(tied: Mapping[str, Values], depth: int) -> dict[str, set[int]]:
    """The blocks that can use each dimension of the blocks, over the words of the stage."""
    words = [name for name, values in tied.items() if isinstance(values[0], str)]
    users: dict[str, set[int]] = {name: set() for name in BLOCK_FIELDS}
    for combination in product(*(tied[name] for name in words)):
        settings = dict(zip(words, combination, strict=True))
        stage = sample_stage(**{**settings, "depth": depth})
        for name in BLOCK_FIELDS:
            users[name] |= {at for at, value in enumerate(getattr(stage, name)) if value}
    return users


def space_keys(space: SearchSpace) -> dict[str, Any]:
    """What a file of the space holds."""
    whole = {name: _listed(values) for name, values in space.arch.items()}
    stages = []
    for stage in space.stages:
        tied = {name: groups[0] for name, groups in stage.items() if name not in BLOCK_FIELDS}
        users = _users(tied, max(tied["depth"]))
        forms = {name: _form(groups, users.get(name, set())) for name, groups in stage.items()}
        stages.append({name: form for name, form in forms.items() if form is not None})
    seeds = [name for name, make in SEEDS.items() if make() == space.base]
    return {
        "name": space.name,
        "input_size": _side(space.input_size),
        "base": seeds[0] if seeds else network_keys(space.base),
        **whole,
        "stages": stages,
    }


def arch_keys(arch: ArchConfig, input_size: Grid) -> dict[str, Any]:
    """What a file of the architecture holds."""
    return {"input_size": _side(input_size), **network_keys(arch)}


def network_keys(arch: ArchConfig) -> dict[str, Any]:
    """What a file holds of a network, besides its input size."""
    stages = []
    for stage in arch.stages:
        keys = {}
        for name in STAGE_FIELDS:
            value = getattr(stage, name)
            used = {item for item in value if item} if name in BLOCK_FIELDS else {value}
            if len(used) == 1:
                keys[name] = _short(used.pop())
            elif used:
                keys[name] = {"blocks": [_short(item) if item else None for item in value]}
        stages.append(keys)
    return {**{name: _short(getattr(arch, name)) for name in ARCH_FIELDS}, "stages": stages}


def _form(groups: Groups, users: set[int]) -> Any:
    """The shortest form that is read as these groups; None where the key can be left out."""
    if groups == (UNUSED,):
        return None
    if len(groups) == 1:
        return _listed(groups[0])
    several = next((values for values in groups if values != UNUSED), UNUSED)
    if groups == tuple(several if at in users else UNUSED for at in range(len(groups))):
        return {"values": [_short(value) for value in several], "per": "block"}
    return {"blocks": [None if values == UNUSED else _listed(values) for values in groups]}


def _listed(values: Values) -> Any:
    short = [_short(value) for value in values]
    return short if len(short) > 1 else short[0]


def _short(value: Any) -> Any:
    """A whole number without its decimal point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _side(input_size: Grid) -> Any:
    return input_size[0] if input_size[0] == input_size[1] else list(input_size)
