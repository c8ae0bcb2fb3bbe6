"""Recipes of explorations, as the files of `experiments/` hold them: Optuna chooses the networks.

What is explored is kept as it was written: `ablation.exploring` makes a space of it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from twins_nas.ablation_recipe import RunsRecipe, SeedsRecipe, seeds_of
from twins_nas.schema import Model, problem, problem_at, whole

Objective = Literal["top1", "macs", "params"]
COSTS = ("macs", "params")
GENERATION = 16
EXPLORE, SPACE = "explore", "space"


class ExploreSpec(Model):
    """Who chooses the networks, how many, and what for."""

    trials: Annotated[int, whole(4, 100_000)] = Field(
        description="networks that are trained, those that are equal to an earlier one included"
    )
    sampler: Literal["nsga2", "tpe", "random"] = Field(
        default="nsga2",
        description="evolution (nsga2), a model of densities (tpe), or uniform draws (random)",
    )
    objectives: tuple[Objective, ...] = Field(
        default=("top1", "macs"), description="what the front trades: top1 up, macs and params down"
    )
    population: Annotated[int | None, whole(4, 1000)] = Field(
        default=None,
        validate_default=False,
        description=f"networks of a generation, of nsga2 alone; absent: {GENERATION}, or all",
    )

    @property
    def generation(self) -> int:
        """The networks of a generation."""
        return self.population or min(GENERATION, self.trials)

    @field_validator("objectives")
    @classmethod
    def _trade(cls, words: tuple[Objective, ...]) -> tuple[Objective, ...]:
        twice = [word for at, word in enumerate(words) if word in words[:at]]
        if twice:
            raise problem(f"{twice[0]!r} is given twice")
        if "top1" not in words or not set(words) & set(COSTS):
            raise problem(
                f"{', '.join(words)} is no trade", "top1, and at least one of macs, params"
            )
        return words

    @model_validator(mode="after")
    def _a_generation_fits(self) -> Self:
        if self.population is not None and self.sampler != "nsga2":
            said = f"the sampler {self.sampler} has no population, only nsga2 has"
            raise problem_at(("population",), self.population, said)
        if self.generation > self.trials:
            said = f"a generation of {self.generation} is over the {self.trials} trials"
            raise problem_at(("population",), self.population, said, f"4 to {self.trials}")
        return self


class SpaceRecipe(RunsRecipe):
    """Networks of a space, each trained alone: what explorations and banks share."""

    FOREIGN: ClassVar[dict[str, str]]
    """Keys of the recipe that it has no use for, and why."""
    AUTO: ClassVar[str]
    """Why the number of seeds is not left open."""

    space: Any = Field(
        description="what the networks are of: a file, the name of a shipped space, or its keys"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_foreign(cls, value: Any) -> Any:
        found = [word for word in cls.FOREIGN if isinstance(value, dict) and word in value]
        if found:
            raise problem_at((found[0],), value[found[0]], cls.FOREIGN[found[0]])
        return value

    @model_validator(mode="after")
    def _a_number_of_seeds(self) -> Self:
        if self.seeds.auto:
            raise problem_at(("seeds",), None, self.AUTO, "a number, or a list")
        return self


class ExploreRecipe(SpaceRecipe):
    """One question, answered by a front of networks, each trained alone."""

    FOREIGN: ClassVar[dict[str, str]] = {
        "variants": "Optuna chooses the variants; give the space that it chooses from, as `space`",
        "vary": "Optuna chooses the variants; give the space that it chooses from, as `space`",
        "base": "belongs into the space: `space: {base: ..., stages: [...]}`",
        "input_size": "belongs into the space: `space: {input_size: ..., stages: [...]}`",
        "compare": "an exploration compares nothing with a baseline; an ablation of its best ones"
        " does",
        "match": "MACs are what an exploration trades accuracy for, so they are not held equal",
    }
    AUTO: ClassVar[str] = (
        "auto adds seeds until there is a verdict, which an exploration gives none of"
    )

    explore: ExploreSpec = Field(description="who chooses, how many, and what for")
    seeds: Annotated[SeedsRecipe, BeforeValidator(seeds_of)] = Field(
        default=SeedsRecipe(numbers=(0,), first=1),
        description="how many, or which: each trial has the first, the front's networks all",
    )
