"""Recipes that compare trainings of a supernet, as the files of `experiments/` hold them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from twins_nas.ablation_recipe import SeedsRecipe, seeds_of
from twins_nas.explore_recipe import SpaceRecipe
from twins_nas.recipes import SupernetRecipe
from twins_nas.schema import Model, number, problem_at, whole

RANK, SUPERNET = "rank", "supernet"
_SPACE = "what is trained is a supernet; give the space that it is of, as `space`"


class RankSpec(Model):
    """The networks trained alone whose order a supernet has to tell."""

    bank: str = Field(description="a shipped bank, a folder of one, or a CSV file: docs/ranking.md")
    part: Literal["tuning", "held-out"] = Field(
        default="tuning", description="which of its networks; what is chosen here is tuned by them"
    )
    bins: Annotated[int, whole(1, 64)] = Field(
        default=4, description="bins of MACs, within which pairs count for within_*"
    )


class TauCompare(Model):
    """What is compared with what, and by how much tau has to differ to matter."""

    baseline: str = Field(description="the variant that all others are compared with")
    metric: Literal["tau_loss", "tau_top1", "within_loss", "within_top1"] = Field(
        default="tau_loss",
        description="Kendall's tau of members' loss (top1) with networks trained alone; within:"
        " of pairs of one bin of MACs",
    )
    margin: Annotated[float | None, number(above=0, most=2)] = Field(
        default=None,
        validate_default=False,
        description="differences below it do not matter; absent: none is called equivalent",
    )

    @property
    def on_test(self) -> bool:
        """Whether the metric is of the test images; it never is."""
        return False


class SupernetsRecipe(SpaceRecipe):
    """Trainings of a supernet, each on the same seeds, compared by the tau that each reaches."""

    FOREIGN: ClassVar[dict[str, str]] = {
        "base": _SPACE,
        "input_size": "belongs into the space: `space: {input_size: ..., stages: [...]}`",
        "explore": "a recipe compares trainings of a supernet, or explores; give one of the two",
        "match": "the members of a supernet differ in MACs on purpose",
        "asha": "a supernet is trained to its end before it ranks",
        "training": "the training is that of a supernet; give it as `supernet`",
    }
    AUTO: ClassVar[str] = "supernets are compared on a number of seeds that is given beforehand"

    rank: RankSpec = Field(description="what is ranked")
    supernet: SupernetRecipe = Field(
        default=SupernetRecipe(), description="the training that every variant changes"
    )
    vary: dict[str, list[Any]] = Field(
        default={}, description="keys of `supernet` with their values; all combined"
    )
    variants: dict[str, Any] = Field(
        default={}, description="variants by name: what each changes in `supernet`"
    )
    compare: TauCompare
    seeds: Annotated[SeedsRecipe, BeforeValidator(seeds_of)] = Field(
        default=SeedsRecipe(numbers=(0, 1, 2), first=3),
        description="how many, or which: supernets of each variant",
    )

    @model_validator(mode="after")
    def _one_way_to_vary(self) -> Self:
        if bool(self.vary) == bool(self.variants):
            said = "give vary (all combinations) or variants (by name), one of the two"
            raise problem_at(("variants" if self.variants else "vary",), None, said)
        return self
