"""The keys of a space's YAML, derived from the fields of `ArchConfig` and `StageConfig`.

A value fixes a dimension, a list is a choice. What belongs to the blocks may also be
`{values: [...], per: block}`, which lets each block choose, or `{blocks: [...]}`, which gives each
block its own value or list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    StrictBool,
    Tag,
    create_model,
)
from pydantic import Field as Key

from twins_nas.arch import PE_KINDS, ArchConfig, Grid, StageConfig
from twins_nas.schema import Model, number, problem, unknown_word, whole
from twins_nas.seeds import SEEDS
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS
from twins_nas.yaml_nodes import shown

Fields = Mapping[str, Field[Any]]

# Types are made at run time here, which mypy must not read as annotations.
_Annotated: Any = Annotated
_List: Any = list

_FIELDS = (*ARCH_FIELDS.values(), *STAGE_FIELDS.values())
_WORDS = ("none", *PE_KINDS, *(word for item in _FIELDS for word in item.metadata["words"]))
_SAMPLE = next(iter(SEEDS.values()))()


def _common() -> dict[str, Any]:
    """For each field of a stage the first value that a published network uses."""
    stages = [stage for make in SEEDS.values() for stage in make().stages]
    common = {}
    for name, item in STAGE_FIELDS.items():
        values = [getattr(stage, name) for stage in stages]
        if item.metadata["owner"] == "block":
            values = [value for several in values for value in several]
        common[name] = next((value for value in values if value), values[0])
    return common


_COMMON = _common()


def sample_stage(**settings: Any) -> StageConfig:
    """A stage with these settings, every block given a value of every field.

    Raises:
        ValueError: a setting that no stage can have.
    """
    return StageConfig(**{**_COMMON, **settings})


class PerBlock(Model):
    """`{values: [...], per: block}`: each block chooses by itself."""

    values: list[Any]
    per: Literal["block"]


class Blocks(Model):
    """`{blocks: [...]}`: for each block a value, a list, or null where the block has no use."""

    blocks: list[Any]


class StageKeys(Model):
    """The keys of a stage."""


class ArchKeys(Model):
    """The keys of a network; of a space, those besides its name, its input size and its base."""


def given(keys: Model) -> dict[str, Any]:
    """The keys that the file writes, with their values."""
    return {
        name: getattr(keys, name)
        for name in type(keys).model_fields
        if name in keys.model_fields_set
    }


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return "<blocks>" if "blocks" in value else "<values>"
    return "<list>" if isinstance(value, list) else "<value>"


def _entry(value: Any) -> str:
    return "<none>" if value is None else _shape(value)


def dimension_type(owner: type, name: str, item: Field[Any]) -> Any:
    """What the file may give for a field of the owner."""
    value = _value_type(owner, name, item)
    several = _Annotated[_List[value], Key(min_length=1), AfterValidator(_listed(item))]
    if item.metadata["owner"] != "block":
        return _one_of({"<value>": value, "<list>": several, "<values>": _Tied, "<blocks>": _Tied})
    entry = _one_of({"<none>": None, "<value>": value, "<list>": several}, _entry)
    per_block = create_model(f"{name}_values", __base__=PerBlock, values=(several, ...))
    blocks = create_model(f"{name}_blocks", __base__=Blocks, blocks=(_List[entry], ...))
    return _one_of({"<value>": value, "<list>": several, "<values>": per_block, "<blocks>": blocks})


def _one_of(types: dict[str, Any], shape: Callable[[Any], str] = _shape) -> Any:
    union: Any = None
    for tag, kind in types.items():
        tagged = _Annotated[kind, Tag(tag)]
        union = tagged if union is None else union | tagged
    return _Annotated[union, Discriminator(shape)]


def _tied(value: Any) -> Any:
    raise problem("all blocks of a stage share this, so one value or one list is needed")


_Tied = Annotated[Any, BeforeValidator(_tied)]


def _listed(item: Field[Any]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """Sorts a list where the dimension is ordered; refuses what is given twice."""

    def check(values: list[Any]) -> tuple[Any, ...]:
        for index, value in enumerate(values):
            if value in values[:index]:
                raise problem(f"{shown(value)} is given twice")
        return tuple(sorted(values) if item.metadata["grows"] else values)

    return check


def _value_type(owner: type, name: str, item: Field[Any]) -> Any:
    kind = get_type_hints(owner)[name]
    kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
    if kind is bool:
        return StrictBool
    if kind is str:
        return _Annotated[str, AfterValidator(_word(owner, name))]
    plain = _Annotated[int, whole()] if kind is int else _Annotated[float, number(above=0)]
    if item.metadata["owner"] == "arch":
        return _Annotated[plain, AfterValidator(_word(owner, name))]
    return plain


def _word(owner: type, name: str) -> Callable[[Any], Any]:
    """Asks the dataclass itself whether a value is legal, and takes its words where it is not."""

    def refusal(value: Any) -> str:
        try:
            if owner is ArchConfig:
                replace(_SAMPLE, **{name: value})
            else:
                sample_stage(**{name: value})
        except ValueError as error:
            return str(error)
        return ""

    def check(value: Any) -> Any:
        if said := refusal(value):
            hint = _hint(value, lambda word: not refusal(word)) if isinstance(value, str) else ""
            raise problem(said.removeprefix(f"{name} ") + hint)
        return value

    return check


def _hint(word: str, legal: Callable[[str], bool]) -> str:
    """`; did you mean 'x'?`: the legal word, or sum of words, that is nearest."""
    words = [item for item in _WORDS if legal(item)]
    parts = [(get_close_matches(part.lower(), words, 1) or [part])[0] for part in word.split("+")]
    near = [item for item in ("+".join(parts), word.upper(), word.lower()) if legal(item)]
    return f"; did you mean {near[0]!r}?" if near else ""


def keys_of(
    parent: type[Model], title: str, owner: type, fields: Fields, more: Mapping[str, Any]
) -> Any:
    """The model of an owner's keys: `more` first, then one key for each of its fields."""
    absent = {
        name: (dimension_type(owner, name, item), Key(None, validate_default=False))
        for name, item in fields.items()
    }
    return create_model(title, __base__=parent, **{**more, **absent})


def _base_shape(value: Any) -> str:
    return "<arch>" if isinstance(value, dict) else "<name>"


def _seed_name(name: str) -> str:
    if name not in SEEDS:
        raise unknown_word(name, list(SEEDS))
    return name


def _size_shape(value: Any) -> str:
    return "<sides>" if isinstance(value, list) else "<side>"


def _grid(value: int | list[int]) -> Grid:
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2:
        raise problem(f"has {len(sides)} entries", "one side, or [height, width]")
    return (sides[0], sides[1])


_SIDE = Annotated[int, whole()]
_SIDES = _one_of({"<side>": _SIDE, "<sides>": list[_SIDE]}, _size_shape)
_INPUT_SIZE = _Annotated[_SIDES, AfterValidator(_grid)]
Stage = keys_of(StageKeys, "Stage", StageConfig, STAGE_FIELDS, {})
_STAGES = _Annotated[_List[Stage], Key(min_length=1)]
Arch = keys_of(ArchKeys, "Arch", ArchConfig, ARCH_FIELDS, {"stages": (_STAGES, ...)})
_NAME = Annotated[str, AfterValidator(_seed_name)]
_BASE = _one_of({"<name>": _NAME, "<arch>": Arch}, _base_shape)
_ABSENT = Key(None, validate_default=False)
Space = keys_of(
    ArchKeys,
    "Space",
    ArchConfig,
    ARCH_FIELDS,
    {
        "name": (str, ""),
        "input_size": (_INPUT_SIZE, ...),
        "base": (_BASE, _ABSENT),
        "stages": (_STAGES, _ABSENT),
    },
)
