"""Spaces and architectures from the checked keys of a YAML file, and back to YAML text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twins_nas.arch import ArchConfig, Grid
from twins_nas.errors import ConfigError
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, SearchSpace, Values
from twins_nas.space_fill import (
    BLOCK_FIELDS,
    UNUSED,
    Groups,
    Resolver,
    fault_at,
    field_place,
    place_and_words,
    users_of,
)
from twins_nas.yaml_nodes import Document, Place, write


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
    parts = Resolver(document, (), base).parts(keys, keys.input_size)
    try:
        name = keys.name or Path(document.file).stem
        return SearchSpace(name, keys.input_size, parts.base, parts.arch, parts.stages)
    except ValueError as error:
        pairs = map(place_and_words, str(error).splitlines())
        raise ConfigError(fault_at(document, place, said) for place, said in pairs) from None


def to_arch(document: Document, keys: Any) -> tuple[ArchConfig, Grid]:
    """The network of a checked `space_schema.Space` without a choice, and its input size.

    Raises:
        ConfigError: all that the keys contradict each other in, and each choice.
    """
    space = to_space(document, keys)
    places = dict.fromkeys(field_place(choice.name) for choice in space.choices)
    if places:
        said = "is a choice; an architecture has one value"
        raise ConfigError(fault_at(document, place, said) for place in places)
    return space.base, space.input_size


def _network(document: Document, keys: Any) -> ArchConfig:
    """The network of a `base` that is written out."""
    parts = Resolver(document, ("base",), None).parts(keys, None)
    faults = []
    levels: list[tuple[Place, Mapping[str, Groups]]] = []
    levels.append(((), {name: (values,) for name, values in parts.arch.items()}))
    levels += [(("stages", index), groups) for index, groups in enumerate(parts.stages)]
    for place, level in levels:
        for name, groups in level.items():
            if any(len(values) > 1 for values in groups):
                said = "is a choice; a base has one value"
                faults.append(fault_at(document, ("base", *place, name), said))
    if faults:
        raise ConfigError(faults)
    return parts.base


def dump_space(space: SearchSpace) -> str:
    """The YAML text that `config.load_space` reads as an equal space."""
    whole = {name: _listed(values) for name, values in space.arch.items()}
    stages = []
    for stage in space.stages:
        tied = {name: groups[0] for name, groups in stage.items() if name not in BLOCK_FIELDS}
        users = users_of(tied, max(tied["depth"]))
        forms = {name: _form(groups, users.get(name, set())) for name, groups in stage.items()}
        stages.append({name: form for name, form in forms.items() if form is not None})
    seeds = [name for name, make in SEEDS.items() if make() == space.base]
    return write(
        {
            "name": space.name,
            "input_size": _side(space.input_size),
            "base": seeds[0] if seeds else _network_keys(space.base),
            **whole,
            "stages": stages,
        }
    )


def dump_arch(arch: ArchConfig, input_size: Grid) -> str:
    """The YAML text that `config.load_arch` reads as this architecture."""
    return write({"input_size": _side(input_size), **_network_keys(arch)})


def _network_keys(arch: ArchConfig) -> dict[str, Any]:
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
    several = next((values for values in groups if values != UNUSED), ())
    if groups == tuple(several if at in users else UNUSED for at in range(len(groups))) and several:
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
