"""Recipes of explorations, as the files of `experiments/` hold them: Optuna chooses the networks.

What is explored is kept as it was written: `ablation.exploring` makes a space of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from twins_nas.ablation_recipe import RunsRecipe, SeedsRecipe, seeds_of
from twins_nas.schema import Model, problem, problem_at, whole

Objective = Literal["top1", "macs", "params"]
COSTS = ("macs", "params")
GENERATION = 16
EXPLORE, SPACE = "explore", "space"
FOREIGN = {
    "variants": "Optuna chooses the variants; give the space that it chooses from, as `space`",
    "vary": "Optuna chooses the variants; give the space that it chooses from, as `space`",
    "base": "belongs into the space: `space: {base: ..., stages: [...]}`",
    "input_size": "belongs into the space: `space: {input_size: ..., stages: [...]}`",
    "compare": "an exploration compares nothing with a baseline; an ablation of its best ones does",
    "match": "MACs are what an exploration trades accuracy for, so they are not held equal",
}
"""Keys of an ablation that an exploration has no use for, and why."""


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


class ExploreRecipe(RunsRecipe):
    """One question, answered by a front of networks, each trained alone."""

    space: Any = Field(
        description="what the networks are chosen from: a file, the name of a shipped space, or its"
        " keys"
    )
    explore: ExploreSpec = Field(description="who chooses, how many, and what for")
    seeds: Annotated[SeedsRecipe, BeforeValidator(seeds_of)] = Field(
        default=SeedsRecipe(numbers=(0,), first=1),
        description="how many, or which: each trial has the first, the front's networks all",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_of_an_ablation(cls, value: Any) -> Any:
        found = [word for word in FOREIGN if isinstance(value, dict) and word in value]
        if found:
            raise problem_at((found[0],), value[found[0]], FOREIGN[found[0]])
        return value

    @model_validator(mode="after")
    def _a_number_of_seeds(self) -> Self:
        if self.seeds.auto:
            said = "auto adds seeds until there is a verdict, which an exploration gives none of"
            raise problem_at(("seeds",), None, said, "a number, or a list")
        return self
