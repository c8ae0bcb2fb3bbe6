"""What supernets are compared: a checked recipe, the networks of its bank, and its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twins_nas.ablation.exploring import settled
from twins_nas.ablation.variants import Change, Part, Variant, changes, check_baseline
from twins_nas.config import validated
from twins_nas.cost import cost
from twins_nas.errors import ConfigError, Fault, UserError
from twins_nas.recipes import IMAGES, UNREAD, SupernetRecipe, check_switches
from twins_nas.space import SearchSpace
from twins_nas.supernets.recipe import RANK, SUPERNET, SupernetsRecipe
from twins_nas.yaml_nodes import Document, Place

if TYPE_CHECKING:
    from twins_nas.truth import Truth

SHOWN = 5
"""Networks that a refusal names."""


@dataclass(frozen=True)
class SupernetsPlan:
    """A checked recipe; its document holds the space whole.

    So no other file but the bank's is needed. `truth` are the networks of the bank's part that
    lack no run; `notes` say what it is not.
    """

    document: Document
    recipe: SupernetsRecipe
    space: SearchSpace
    truth: Truth
    variants: tuple[Variant, ...]
    notes: tuple[str, ...]


def plan_supernets(document: Document) -> SupernetsPlan:
    """The plan of a recipe, all of it checked.

    Raises:
        ConfigError: all faults of the recipe, of the space, of the variants, or of the bank.
    """
    found, recipe, space = settled(document, SupernetsRecipe)
    variants = _variants(document, recipe, space)
    place: Place = (RANK, "bank")
    try:
        bank = _absolute(recipe.rank.bank)
        truth, lacking = load_truth(bank).part(recipe.rank.part).whole()
        from twins_nas.agreement import check_size

        check_size(truth, recipe.rank.bins)
    except UserError as error:
        raise ConfigError([document.fault(place, str(error))]) from None
    if strange := strangers(space, truth):
        raise ConfigError([document.fault(place, said) for said in strange])
    whole = {**found.value, RANK: {**found.value[RANK], "bank": bank}}
    rank = recipe.rank.model_copy(update={"bank": bank})
    named = recipe.model_copy(update={"rank": rank})
    notes = (*left_out(lacking), *other_images(truth, {recipe.data.name}, [space]))
    return SupernetsPlan(replace(found, value=whole), named, space, truth, variants, notes)


def load_truth(name: str) -> Truth:
    """The networks of a bank, which is given by its name, its folder or a CSV file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from twins_nas.banks.bank import load
    from twins_nas.truth import Truth, read_truth

    if name.endswith(".csv"):
        return read_truth(Path(name))
    bank = load(name)
    return Truth.of(bank, bank.header.data.name, bank.space.input_size)


def left_out(lacking: Sequence[str]) -> list[str]:
    """That networks of a bank are left out, in a sentence; nothing where there are none."""
    return [f"Left out, for they lack a run of a seed: {', '.join(lacking)}."] if lacking else []


def other_images(truth: Truth, names: set[str], spaces: Sequence[SearchSpace]) -> list[str]:
    """That supernets have other images than the bank, or at another size, in sentences.

    Nothing where they have not; of a CSV file it is not known.
    """
    said = []
    if truth.data and names != {truth.data}:
        others = ", ".join(sorted(names))
        said.append(f"The bank was trained on {truth.data}, the supernets on {others}.")
    sizes = {space.input_size for space in spaces}
    if truth.size and sizes != {truth.size}:
        height, width = truth.size
        others = ", ".join(f"{one} x {other}" for one, other in sorted(sizes))
        said.append(f"The bank's images have {height} x {width} px, the supernets' {others}.")
    return said


def strangers(space: SearchSpace, truth: Truth) -> list[str]:
    """Why networks of a bank are no members of a space, the first ones by name."""
    found = [
        f"{label} of the bank {truth.name} is no member of {space.name}: {why}"
        for label, arch in zip(truth.labels, truth.archs, strict=True)
        if (why := space.why_not(arch))
    ]
    more = len(found) - SHOWN
    return found[:SHOWN] + [f"and {more} more of {truth.name}"] * (more > 0)


def _absolute(bank: str) -> str:
    """A bank's file or folder in full, as a run may be gone on with from another one."""
    path = Path(bank).expanduser()
    return str(path.absolute()) if path.exists() else bank


def _variants(
    document: Document, recipe: SupernetsRecipe, space: SearchSpace
) -> tuple[Variant, ...]:
    found: list[Variant] = []
    faults: list[Fault] = []
    first: dict[str, str] = {}
    size = space.input_size
    largest = cost(space.extreme(+1), size, *IMAGES.get(recipe.data.name, UNREAD))
    for change in changes(document, recipe):
        try:
            training = _training(document, recipe, space, change)
        except ConfigError as error:
            faults += error.faults
            continue
        name = change.name
        other = first.setdefault(training.model_dump_json(exclude={"checkpoint_seconds"}), name)
        if other != name:
            said = f"{other} and {name} are the same training"
            faults.append(document.fault(change.place, said))
        found.append(Variant(name, "", space.base, training, largest.macs, largest.params))
    names = [change.name for change in changes(document, recipe)]
    faults += check_baseline(document, recipe.compare.baseline, names)
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return tuple(found)


def _training(
    document: Document, recipe: SupernetsRecipe, space: SearchSpace, change: Change
) -> SupernetRecipe:
    """The training of a variant, checked in the recipe's own lines.

    Raises:
        ConfigError: all of its faults.
    """
    values: dict[str, Any] = recipe.supernet.model_dump(exclude_unset=True)
    origin: dict[Place, Place] = {(): (SUPERNET,)}
    for path, value, place in change.settings:
        values[".".join(map(str, path))] = value
        origin[path] = place
    part = Part(document.file, values, document.lines, origin=origin, recipe=document)
    training = validated(part, SupernetRecipe)
    if training.init_from is not None:
        said = "supernets of a comparison begin with drawn weights; leave init_from out"
        raise ConfigError([document.fault(change.place, said)])
    try:
        check_switches(training, space)
    except UserError as error:
        raise ConfigError([document.fault(change.place, str(error))]) from None
    return training
