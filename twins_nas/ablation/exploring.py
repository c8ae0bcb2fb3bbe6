"""What is explored, and the training of one network of it: an evaluation of Optuna's search.

A search's study asks for networks and is told of them, by its own loop and its own pools; here an
evaluation is a run of an ablation. So a finished run is in its file before the study is told, and
one that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from twins_nas.ablation.results import Run
from twins_nas.ablation.variants import Images, Part, Variant
from twins_nas.arch import ArchConfig
from twins_nas.config import find, load_space, validated
from twins_nas.cost import cost
from twins_nas.errors import ConfigError
from twins_nas.explore_recipe import EXPLORE, SPACE, ExploreRecipe, SpaceRecipe
from twins_nas.recipes import TrainingRecipe
from twins_nas.space import SearchSpace
from twins_nas.space_schema import Space
from twins_nas.space_yaml import dump_space, to_space
from twins_nas.tuning.results import Score, Stopped
from twins_nas.yaml_nodes import Document, parse, shown

if TYPE_CHECKING:
    from twins_nas.ablation.work import Place
    from twins_nas.tuning.runner import Evaluator

AnyRecipe = TypeVar("AnyRecipe", bound=SpaceRecipe)


@dataclass(frozen=True)
class ExplorePlan:
    """A checked recipe; its document holds the space whole, so that no other file is needed."""

    document: Document
    recipe: ExploreRecipe
    space: SearchSpace


def is_exploration(document: Document) -> bool:
    """Whether a recipe lets Optuna choose."""
    value = document.value
    return isinstance(value, dict) and (EXPLORE in value or SPACE in value)


def plan_exploration(document: Document) -> ExplorePlan:
    """The plan of a recipe, all of it checked.

    Raises:
        ConfigError: all faults of the recipe, or all of the space.
    """
    found, recipe, space = settled(document, ExploreRecipe)
    check_members(document, (EXPLORE, "trials"), recipe.explore.trials, "trials", space, 4)
    return ExplorePlan(found, recipe, space)


def settled(document: Document, model: type[AnyRecipe]) -> tuple[Document, AnyRecipe, SearchSpace]:
    """The recipe of a document and its space, and the document with the space whole.

    Raises:
        ConfigError: all faults of the recipe, or all of the space.
    """
    recipe = validated(document, model)
    space = space_of(document, recipe.space)
    size = space.input_size
    if size[0] != size[1]:
        said = f"a training takes square images, not {size[0]}x{size[1]}; give one input_size"
        raise ConfigError([document.fault((SPACE, "input_size"), said)])
    whole = parse(dump_space(space), document.file).value
    found = replace(document, value={**document.value, SPACE: whole})
    return found, recipe.model_copy(update={"input_size": size[0]}), space


def check_members(
    document: Document,
    place: tuple[str, ...],
    wanted: int,
    what: str,
    space: SearchSpace,
    least: int,
) -> None:
    """Raises ConfigError where a recipe wants more networks than its space has."""
    if (members := space.size()) < wanted:
        networks = "one network" if members == 1 else f"{members} different networks"
        said = f"{wanted} {what} are more than the space has: {networks}"
        allowed = f"{least} to {members}" if members >= least else "a larger space"
        raise ConfigError([document.fault(place, said, allowed)])


def space_of(document: Document, given: Any) -> SearchSpace:
    """The space that the key `space` of a document gives, by name, file or keys.

    Raises:
        ConfigError: all faults of the space.
    """
    place = (SPACE,)
    if isinstance(given, str):
        try:
            path = find("space", given)
        except ConfigError as error:
            (fault,) = error.faults
            said = f"{shown(given)}: {fault.problem}"
            raise ConfigError([document.fault(place, said, fault.allowed)]) from None
        return load_space(path)
    if not isinstance(given, Mapping):
        said = f"{shown(given)} is neither a space's name or file nor its keys"
        raise ConfigError([document.fault(place, said)])
    part = Part(document.file, given, document.lines, origin={(): place}, recipe=document)
    return to_space(part, validated(part, Space))


@dataclass(frozen=True)
class Alone:
    """Makes the evaluator of a process: it trains a network alone, on one seed."""

    place: Place
    space: SearchSpace
    training: TrainingRecipe
    images: Images
    seed: int

    def __call__(self) -> Evaluator:
        """What trains and scores."""
        return self.score

    def score(self, arch: ArchConfig) -> Score | str:
        """The validation score of a trained network or, in a line, why there is none."""
        from twins_nas.ablation.work import Training

        run = self.run(arch, self.seed)
        Training(self.place, {run.name: run})(run.name, lambda told: None)
        result = self.place.folder.result(run)
        assert result is not None
        if result.status == "stopped":
            return Stopped(result.reason)
        if result.status == "failed":
            return result.reason
        assert result.val_top1 is not None and result.val_loss is not None
        top1, loss = result.val_top1, result.val_loss
        return Score(top1, loss, loss, result.n_val, result.seconds)

    def run(self, arch: ArchConfig, seed: int) -> Run:
        """The run of a network on a seed; its files have the network's key in their names."""
        found = cost(arch, *vars(self.images).values())
        word = hashlib.sha256(self.space.key(arch).encode()).hexdigest()[:12]
        # Early stopping compares networks of about the same MACs, or it would leave large ones.
        group = f"2^{math.floor(math.log2(found.macs))} MACs" if self.place.recipe.asha else ""
        variant = Variant(word, group, arch, self.training, found.macs, found.params)
        return Run(0, variant, seed, self.place.identity(variant, seed))

    @property
    def context(self) -> str:
        """What the scores are of: training, images and seed."""
        recipe = self.place.recipe
        parts = [
            self.training.substance,
            recipe.data.model_dump(),
            recipe.asha.model_dump() if recipe.asha else None,
            self.seed,
        ]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{recipe.data.name}, each network trained alone, {digest}"
