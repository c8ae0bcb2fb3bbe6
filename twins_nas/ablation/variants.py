"""The variants of a recipe: networks and trainings, checked before anything runs.

What a variant changes is written into the keys of a space without choices and into those of a
training; their own checks then tell what is wrong, in the recipe's lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

from twins_nas.ablation.matching import matched
from twins_nas.ablation_recipe import AblationRecipe
from twins_nas.arch import ArchConfig, Grid, key
from twins_nas.config import collect, validated
from twins_nas.cost import cost
from twins_nas.errors import ConfigError, Fault, UserError, did_you_mean
from twins_nas.recipes import TrainingRecipe
from twins_nas.schema import unknown_word
from twins_nas.seeds import SEEDS
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS
from twins_nas.space_schema import Space
from twins_nas.space_yaml import to_arch
from twins_nas.yaml_nodes import Document, Place, shown

TRAINING, STAGES, BASE = "training", "stages", "base"
KEYS = (*STAGE_FIELDS, *ARCH_FIELDS, STAGES, TRAINING)


@dataclass(frozen=True)
class Variant:
    """One side of a comparison; `group` is the base that it changes, empty where there is one."""

    name: str
    group: str
    arch: ArchConfig
    training: TrainingRecipe
    macs: int
    params: int

    @property
    def label(self) -> str:
        """A name that no other variant of the recipe has."""
        return f"{self.group}: {self.name}" if self.group else self.name


@dataclass(frozen=True)
class Images:
    """What a network's cost needs to know of the images."""

    input_size: Grid
    in_chans: int
    num_classes: int


@dataclass(frozen=True)
class Change:
    """One variant as it is written.

    `settings` are the place of each key, its value, and where the recipe says so.
    """

    name: str
    place: Place
    settings: tuple[tuple[Place, Any, Place], ...]


class Varied(Protocol):
    """A recipe that says what varies in one of the two ways."""

    @property
    def vary(self) -> dict[str, list[Any]]:
        """All combinations of values."""

    @property
    def variants(self) -> dict[str, Any]:
        """Changes by name."""


@dataclass(frozen=True)
class Part(Document):
    """A document that was made of parts of another one, whose lines and keys its faults have."""

    origin: Mapping[Place, Place] | None = None
    recipe: Document | None = None

    def fault(self, place: Place, problem: str, allowed: str = "") -> Fault:
        """A fault at the place of the recipe that this one was made of."""
        assert self.origin is not None and self.recipe is not None
        near = next(place[:end] for end in range(len(place), -1, -1) if place[:end] in self.origin)
        return self.recipe.fault((*self.origin[near], *place[len(near) :]), problem, allowed)


def expand(document: Document, recipe: AblationRecipe, images: Images) -> tuple[Variant, ...]:
    """The variants of each base, in the order of the recipe, their MACs matched where asked for.

    Raises:
        ConfigError: all faults: of the changes, variants that are one network, a baseline that is
            not among them, MACs that cannot be matched.
    """
    faults: list[Fault] = []
    found: dict[str, tuple[Variant, Place]] = {}
    for group, base, place in _bases(document, recipe):
        for change in changes(document, recipe):
            try:
                variant = _variant(document, recipe, images, (group, base, place), change)
                found[variant.label] = (variant, change.place)
            except ConfigError as error:
                faults += error.faults
    faults = list(dict.fromkeys(faults))
    names = [change.name for change in changes(document, recipe)]
    faults += check_baseline(document, recipe.compare.baseline, names)
    if faults:
        raise ConfigError(faults)
    variants = _matched(document, recipe, images, found)
    _check_different(document, images, variants, found)
    return tuple(variants)


def check_baseline(document: Document, baseline: str, names: list[str]) -> list[Fault]:
    """What keeps variants of these names from being compared with the baseline."""
    faults = []
    if baseline not in names:
        said = f"{baseline!r} is not among the variants{did_you_mean(baseline, names)}"
        faults.append(document.fault(("compare", "baseline"), said, ", ".join(names)))
    if len(names) < 2:
        faults.append(document.fault(("variants",), "there is one variant, nothing to compare"))
    return faults


def baselines(baseline: str, variants: Sequence[Variant]) -> dict[str, Variant]:
    """The variant of that name of each group."""
    return {one.group: one for one in variants if one.name == baseline}


def _bases(document: Document, recipe: AblationRecipe) -> list[tuple[str, Any, Place]]:
    """Each base's group, its keys or name, and its place."""
    base = recipe.base
    if not isinstance(base, list):
        return [("", base, (BASE,))]
    if not base:
        raise ConfigError([document.fault((BASE,), "the list is empty")])
    twice = [name for at, name in enumerate(base) if name in base[:at]]
    if twice:
        raise ConfigError([document.fault((BASE,), f"{shown(twice[0])} is given twice")])
    groups = [item if isinstance(item, str) else f"base {at}" for at, item in enumerate(base)]
    several = len(base) > 1
    return [
        (group if several else "", item, (BASE, at))
        for at, (group, item) in enumerate(zip(groups, base, strict=True))
    ]


def changes(document: Document, recipe: Varied) -> list[Change]:
    """What each variant changes.

    Raises:
        ConfigError: a variant that is no mapping, or a dimension without values.
    """
    if recipe.variants:
        changes = []
        for name, keys in recipe.variants.items():
            place: Place = ("variants", name)
            if not isinstance(keys, dict):
                said = f"{shown(keys)} is not a mapping of keys to values; {{}} changes nothing"
                raise ConfigError([document.fault(place, said)])
            changes.append(Change(name, place, tuple(_flat((), keys, place))))
        return changes
    empty = [axis for axis, values in recipe.vary.items() if not values]
    if empty:
        raise ConfigError([document.fault(("vary", axis), "the list is empty") for axis in empty])
    changes = []
    for values in product(*(list(enumerate(values)) for values in recipe.vary.values())):
        axes = list(zip(recipe.vary, values, strict=True))
        settings = [
            item for axis, (at, value) in axes for item in _flat((), {axis: value}, ("vary",), at)
        ]
        words = [_words(axis, value, list(recipe.vary)) for axis, (_, value) in axes]
        changes.append(Change(" ".join(words), ("vary",), tuple(settings)))
    return changes


def _flat(
    above: Place, keys: Mapping[str, Any], place: Place, at: int | None = None
) -> Iterator[tuple[Place, Any, Place]]:
    """Each key with its place below the network, its value, and where the recipe says so."""
    for name, value in keys.items():
        here: Place = (*place, name) if at is None else (*place, name, at)
        path = (*above, *(int(part) if part.isdigit() else part for part in name.split(".")))
        nested = path in ((TRAINING,), (STAGES,)) or (len(path) == 2 and path[0] == STAGES)
        if nested and isinstance(value, dict):
            yield from _flat(path, value, here)
        elif path == (STAGES,) and isinstance(value, list):
            for index, stage in enumerate(value):
                if isinstance(stage, dict):
                    yield from _flat((STAGES, index), stage, (*here, index))
                elif stage is not None:
                    yield (STAGES, index), stage, (*here, index)
        else:
            yield path, value, here


def _words(axis: str, value: Any, axes: list[str]) -> str:
    """A value as a variant's name has it."""
    short = axis.rsplit(".", 1)[-1]
    alone = sum(other.rsplit(".", 1)[-1] == short for other in axes) == 1
    plain = value.get("blocks", value.get("values")) if isinstance(value, dict) else value
    if isinstance(plain, list):
        word = "-".join(f"{item:g}" if isinstance(item, float) else str(item) for item in plain)
    elif isinstance(plain, bool):
        word = str(plain).lower()
    else:
        word = f"{plain:g}" if isinstance(plain, float) else str(plain)
    return word if alone and isinstance(value, str) else f"{short if alone else axis}={word}"


def _variant(
    document: Document,
    recipe: AblationRecipe,
    images: Images,
    base: tuple[str, Any, Place],
    change: Change,
) -> Variant:
    group, network, base_place = base
    keys: dict[str, Any] = {"input_size": recipe.input_size}
    origin: dict[Place, Place] = {(): change.place, ("input_size",): ("input_size",)}
    training: dict[Place, tuple[Any, Place]] = {}
    faults: list[Fault] = []
    for path, value, place in change.settings:
        if path == (BASE,):
            network, base_place = value, place
    if network is None:
        said = "is missing: give one for all variants, or each variant its own"
        raise ConfigError([document.fault((BASE,), said)])
    count = _stage_count(document, network, base_place)
    stages: list[dict[str, Any]] = [{} for _ in range(count)]
    keys[BASE], origin[BASE,] = network, base_place
    for path, value, place in sorted(change.settings, key=lambda item: len(item[0])):
        if path == (BASE,):
            continue
        if path[0] == TRAINING and len(path) == 2:
            training[path] = (value, place)
        elif path[0] == STAGES and len(path) == 3:
            if isinstance(path[1], int) and path[1] < count:
                stages[path[1]][str(path[2])] = value
                origin[path] = place
            else:
                faults.append(document.fault(place, f"there are {count} stages, from 0"))
        elif len(path) == 1 and path[0] in ARCH_FIELDS:
            keys[str(path[0])], origin[path] = value, place
        elif len(path) == 1 and path[0] in STAGE_FIELDS:
            name, each = str(path[0]), value if isinstance(value, list) else [value] * count
            if len(each) != count:
                said = f"{len(each)} values for the {count} stages of the base"
                faults.append(document.fault(place, said))
            for index, one in enumerate(each[:count]):
                stages[index][name] = one
                origin[STAGES, index, name] = (*place, index) if value is each else place
        else:
            word = ".".join(map(str, path))
            faults.append(_unknown(document, place, word, KEYS))
    if any(stages):
        keys[STAGES] = stages
    part = Part(document.file, keys, document.lines, origin=origin, recipe=document)
    _, (arch, _), trained = collect(
        lambda: _tell(faults),
        lambda: to_arch(part, validated(part, Space)),
        lambda: _training(document, recipe, training),
    )
    return _costed(Variant(change.name, group, arch, trained, 0, 0), images)


def _unknown(document: Document, place: Place, word: str, words: tuple[str, ...]) -> Fault:
    said = unknown_word(word, list(words)).context or {}
    return document.fault(place, said["problem"], said["allowed"])


def _tell(faults: list[Fault]) -> None:
    if faults:
        raise ConfigError(faults)


def _stage_count(document: Document, network: Any, place: Place) -> int:
    if isinstance(network, str):
        if network not in SEEDS:
            raise ConfigError([_unknown(document, place, network, tuple(SEEDS))])
        return len(SEEDS[network]().stages)
    stages = network.get(STAGES) if isinstance(network, dict) else None
    if not isinstance(stages, list):
        said = f"{shown(network)} is neither a network's name nor one written out with its stages"
        raise ConfigError([document.fault(place, said)])
    return len(stages)


def _training(
    document: Document, recipe: AblationRecipe, changes: Mapping[Place, tuple[Any, Place]]
) -> TrainingRecipe:
    if not changes:
        return recipe.training
    values = recipe.training.model_dump() | {
        str(path[1]): value for path, (value, _) in changes.items()
    }
    origin: dict[Place, Place] = {(): (TRAINING,)}
    origin |= {path[1:]: place for path, (_, place) in changes.items()}
    part = Part(document.file, values, document.lines, origin=origin, recipe=document)
    return validated(part, TrainingRecipe)


def _costed(variant: Variant, images: Images) -> Variant:
    found = cost(variant.arch, images.input_size, images.in_chans, images.num_classes)
    return replace(variant, macs=found.macs, params=found.params)


def _matched(
    document: Document,
    recipe: AblationRecipe,
    images: Images,
    found: Mapping[str, tuple[Variant, Place]],
) -> list[Variant]:
    """The variants with equal MACs, where the recipe asks for that."""
    variants = [variant for variant, _ in found.values()]
    match = recipe.match
    if match is None:
        return variants
    targets = {one.group: one.macs for one in baselines(recipe.compare.baseline, variants).values()}
    faults, equal = [], []
    for variant in variants:

        def macs_of(arch: ArchConfig) -> int:
            return cost(arch, images.input_size, images.in_chans, images.num_classes).macs

        target = targets[variant.group]
        try:
            arch = matched(variant.arch, macs_of, target, match.macs, match.within / 100)
            equal.append(_costed(replace(variant, arch=arch), images))
        except UserError as error:
            faults.append(document.fault(found[variant.label][1], f"{variant.label}: {error}"))
    if faults:
        raise ConfigError(faults)
    return equal


def _check_different(
    document: Document,
    images: Images,
    variants: list[Variant],
    found: Mapping[str, tuple[Variant, Place]],
) -> None:
    first: dict[Any, Variant] = {}
    faults = []
    for variant in variants:
        same = (variant.group, key(variant.arch, images.input_size), variant.training)
        other = first.setdefault((*same[:2], same[2].model_dump_json()), variant)
        if other is not variant:
            said = f"{other.label} and {variant.label} are the same network with the same training"
            faults.append(document.fault(found[variant.label][1], said))
    if faults:
        raise ConfigError(faults)
