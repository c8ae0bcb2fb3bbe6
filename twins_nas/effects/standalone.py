"""What stand-alone ablations found, and what of it a supernet's space can be asked.

An ablation has a counterpart where its variants differ from the baseline in one field that the
space searches, at whatever stages. The counterpart sets that field, at all those stages, to what
the baseline and the variants have there, on backgrounds of the space.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twins_nas.ablation.results import AblationFolder
from twins_nas.ablation.variants import Images, Variant, baselines, expand
from twins_nas.ablation_recipe import AblationRecipe
from twins_nas.arch import ArchConfig, StageConfig
from twins_nas.config import validated
from twins_nas.effects.plan import Dimension
from twins_nas.errors import UserError
from twins_nas.files import told
from twins_nas.recipes import IMAGES
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, Encoding, SearchSpace
from twins_nas.verdicts import Comparison, Rule, compare
from twins_nas.yaml_nodes import read

RUNS = "runs.csv"
"""What an ablation writes when it is finished."""
UNREAD = (3, 10)

Place = tuple[str, ...]


@dataclass(frozen=True)
class Counterpart:
    """An ablation's group that the supernet can be asked about.

    `dimension` has the baseline as its reference; `found` holds the stand-alone comparisons by
    variant, `archs` the networks themselves where they are members of the space.
    """

    ablation: str
    field: str
    dimension: Dimension
    found: Mapping[str, Comparison]
    archs: Mapping[str, ArchConfig]


@dataclass(frozen=True)
class Sought:
    """The counterparts of an ablation, and in words what has none."""

    counterparts: tuple[Counterpart, ...]
    without: tuple[str, ...]


def finished(folder: Path) -> bool:
    """Whether a folder holds an ablation with results."""
    return (folder / AblationFolder.MARK).is_file() and (folder / RUNS).is_file()


def sought(folder: Path, space: SearchSpace, data: str) -> Sought:
    """What a space can be asked of a finished ablation.

    Raises:
        UserError: it is no finished ablation, damaged, or of other images than the supernet.
    """
    if not finished(folder):
        raise UserError(
            f"{folder} holds no finished ablation: it needs {AblationFolder.MARK} and {RUNS}."
        )
    document = read(folder / AblationFolder.MARK)
    recipe = validated(document, AblationRecipe)
    if recipe.data.name != data or (recipe.input_size,) * 2 != space.input_size:
        size = "x".join(map(str, space.input_size))
        raise UserError(
            f"{folder} is of {recipe.data.name} at {recipe.input_size}x{recipe.input_size}, the"
            f" supernet of {data} at {size}: their effects cannot be compared."
        )
    images = Images(space.input_size, *IMAGES.get(data, UNREAD))
    variants = expand(document, recipe, images)
    values = _values(folder / RUNS)
    found, without = [], []
    for group, baseline in baselines(recipe.compare.baseline, variants).items():
        others = [one for one in variants if one.group == group and one is not baseline]
        made, said = _counterpart(space, baseline, others, values)
        name = f"{folder.name}{f', {group}' if group else ''}"
        without += [f"{name}: {reason}" for reason in said]
        if made is not None:
            field, dimension, comparisons, archs = made
            named = Dimension(name, dimension.labels, dimension.settings, dimension.reference)
            found.append(Counterpart(name, field, named, comparisons, archs))
    return Sought(tuple(found), tuple(without))


_Made = tuple[str, Dimension, Mapping[str, Comparison], Mapping[str, ArchConfig]]


def _counterpart(
    space: SearchSpace,
    baseline: Variant,
    others: Sequence[Variant],
    values: Mapping[str, Mapping[int, float]],
) -> tuple[_Made | None, list[str]]:
    kept: dict[str, tuple[Variant, dict[Place, Any]]] = {}
    said = []
    for variant in others:
        changed = dict(_changes(baseline.arch, variant.arch))
        fields = sorted({place[-1] for place in changed})
        if baseline.label not in values or variant.label not in values:
            said.append(f"{variant.name} has no finished run")
        elif variant.training != baseline.training:
            said.append(f"{variant.name} changes the training, not the network alone")
        elif len(baseline.arch.stages) != len(space.stages) or fields == ["stages"]:
            said.append(f"{variant.name} has other stages than the space")
        elif len(fields) != 1:
            said.append(f"{variant.name} changes {len(fields)} dimensions ({', '.join(fields)})")
        else:
            kept[variant.name] = (variant, changed)
    if not kept:
        return None, said
    places = list(dict.fromkeys(place for _, changed in kept.values() for place in changed))
    fields = sorted({place[-1] for place in places})
    if len(fields) > 1:
        return None, [*said, f"its variants change different dimensions ({', '.join(fields)})"]
    try:
        reference = _setting(space, baseline.arch, places)
    except ValueError as error:
        return None, [*said, f"the baseline {baseline.name} is not in the space: {error}"]
    labels, settings, comparisons = [baseline.name], [reference], {}
    archs = {baseline.name: baseline.arch}
    for name, (variant, _) in kept.items():
        try:
            settings.append(_setting(space, variant.arch, places))
        except ValueError as error:
            said.append(f"{name} is not in the space: {error}")
            continue
        labels.append(name)
        archs[name] = variant.arch
    if len(labels) < 2:
        return None, said
    own = {name: values[(kept[name][0] if name in kept else baseline).label] for name in labels}
    comparisons = {one.name: one for one in compare(own, baseline.name, Rule())}
    members = {name: arch for name, arch in archs.items() if space.why_not(arch) is None}
    dimension = Dimension("", tuple(labels), tuple(settings), 0)
    return (fields[0], dimension, comparisons, members), said


def _changes(one: ArchConfig, two: ArchConfig) -> Iterator[tuple[Place, Any]]:
    """Where two networks differ; what one of them does not use is no difference."""
    for name in ARCH_FIELDS:
        if getattr(one, name) != getattr(two, name):
            yield (name,), getattr(two, name)
    if len(one.stages) != len(two.stages):
        yield ("stages",), len(two.stages)
        return
    for at, (first, second) in enumerate(zip(one.stages, two.stages, strict=True)):
        for name, item in STAGE_FIELDS.items():
            ours, theirs = getattr(first, name), getattr(second, name)
            if item.metadata["owner"] == "block":
                both = [(a, b) for a, b in zip(ours, theirs, strict=False) if a and b]
                differ = any(a != b for a, b in both)
            elif name == "peg_blocks":
                differ = ours != theirs and "cpe" in first.pe_kinds and "cpe" in second.pe_kinds
            else:
                differ = ours != theirs
            if differ:
                yield ("stages", str(at), name), theirs


def _setting(space: SearchSpace, arch: ArchConfig, places: Sequence[Place]) -> Encoding:
    """The values of a network at some places, as the space writes them.

    Raises:
        ValueError: the space does not search a place, or not with that value; says which.
    """
    found: Encoding = {}
    for place in places:
        name, field = ".".join(place), place[-1]
        blocks = f"{place[0]}.{place[1]}.blocks." if len(place) == 3 else name
        axes = [
            axis
            for axis in space.choices
            if axis.name == name or (axis.name.startswith(blocks) and axis.field == field)
        ]
        if not axes:
            raise ValueError(f"it does not search {name}")
        for axis in axes:
            owner = arch.stages[int(place[1])] if len(place) == 3 else arch
            value = getattr(owner, field)
            if isinstance(value, tuple):
                used = [item for item in value if item]
                own = value[int(axis.name.split(".")[3]) :][:1] if axis.name != name else ()
                value = own[0] if own and own[0] else used[0] if used else 0
                same = [item for item in axis.values if item == value]
            else:
                same = [item for item in axis.values if _equal(owner, field, item)]
            if not same:
                raise ValueError(f"{name} {value} is not among {', '.join(map(str, axis.values))}")
            found[axis.name] = same[0]
    return found


def _equal(owner: ArchConfig | StageConfig, field: str, item: Any) -> bool:
    """Whether a network or a stage with another value of a field is the same in normal form."""
    try:
        return bool(replace(owner, **{field: item}) == owner)
    except ValueError:
        return False


def _values(path: Path) -> dict[str, dict[int, float]]:
    """The validation accuracy of the finished runs by variant and seed."""
    found: dict[str, dict[int, float]] = {}
    try:
        with told(path), open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                label = f"{row['base']}: {row['variant']}" if row["base"] else row["variant"]
                if row["status"] == "finished" and row["val_top1"]:
                    found.setdefault(label, {})[int(row["seed"])] = float(row["val_top1"])
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no table of an ablation's runs ({error}).") from error
    return found
