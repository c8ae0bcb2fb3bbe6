"""Recipes of ablations, as the files of `experiments/` hold them: their keys, bounds and defaults.

What varies is kept as it was written: `ablation.variants` makes networks and trainings of it, and
tells what is wrong there in the same way, with file, line and key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from twins_nas.recipes import MOST_SEED, DataRecipe, TrainingRecipe
from twins_nas.schema import Model, number, problem, problem_at, whole
from twins_nas.yaml_nodes import shown

AUTO_FIRST, AUTO_MOST = 4, 12

Metric = Literal["val_top1", "val_loss", "test_top1", "test_loss"]
Rescaled = Literal["embed_dim", "mlp_ratio", "depth"]
Text = Annotated[str, StringConstraints(strip_whitespace=True)]


def seeds_of(value: Any) -> Any:
    """Any of the forms in which seeds are written, as the keys of `SeedsRecipe`."""
    legal = "a number, a list, auto, or {first: N, most: N}"
    if isinstance(value, SeedsRecipe):
        return value
    if value == "auto":
        return {"numbers": list(range(AUTO_MOST)), "first": AUTO_FIRST}
    if isinstance(value, list):
        twice = [seed for at, seed in enumerate(value) if seed in value[:at]]
        if twice:
            raise problem(f"{shown(twice[0])} is given twice")
        return {"numbers": value, "first": max(1, len(value))}
    if isinstance(value, dict) and set(value) == {"first", "most"}:
        first, most = value["first"], value["most"]
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (first, most)):
            raise problem("first and most are not both whole numbers", legal)
        if not 2 <= first < most <= 1000:
            raise problem(f"from {first} to {most} seeds", "2 <= first < most <= 1000")
        return {"numbers": list(range(most)), "first": first}
    if isinstance(value, bool) or not isinstance(value, int):
        raise problem(f"{shown(value)} says no seeds", legal)
    if not 1 <= value <= 1000:
        raise problem(f"{value} is too {'small' if value < 1 else 'large'}", "1 to 1000")
    return {"numbers": list(range(value)), "first": value}


class SeedsRecipe(Model):
    """The seeds that may run, and how many of them run at first."""

    numbers: tuple[Annotated[int, whole(0, MOST_SEED)], ...] = Field(min_length=1)
    first: int

    @property
    def auto(self) -> bool:
        """Whether seeds are added until there is a verdict."""
        return self.first < len(self.numbers)


class CompareRecipe(Model):
    """What is compared with what, and by how much it has to differ to matter."""

    baseline: str = Field(description="the variant that all others are compared with")
    metric: Metric = Field(
        default="val_top1", description="of the trained network; top1 in percent, loss in nats"
    )
    margin: Annotated[float | None, number(above=0, most=100)] = Field(
        default=None,
        validate_default=False,
        description="differences below it do not matter, in the metric's unit; absent: none is"
        " called equivalent",
    )

    @property
    def on_test(self) -> bool:
        """Whether the metric is of the test images."""
        return self.metric.startswith("test")


class MatchRecipe(Model):
    """What all variants have as much of as the baseline, and what is re-scaled for it."""

    macs: Rescaled = Field(description="the dimension that is re-scaled for equal MACs")
    within: Annotated[float, number(above=0, most=50)] = Field(
        default=2.0, description="how far the MACs may be from the baseline's, in percent"
    )


class ResourcesRecipe(Model):
    """What one run takes; as many run at once as the machine holds."""

    cpu: Annotated[int, whole(1, 1024)] = Field(default=1, description="cores, also threads")
    gpu: Annotated[float, number(0, 64)] = Field(
        default=0.25, description="share of a GPU, where there is one; 0: none"
    )

    @model_validator(mode="after")
    def _whole_above_one(self) -> Self:
        if self.gpu > 1 and not self.gpu.is_integer():
            raise problem_at(("gpu",), self.gpu, "more than one GPU is a whole number of them")
        return self


class AshaRecipe(Model):
    """Early stopping (ASHA, arXiv 1810.05934): at each rung the best 1 / factor of the runs go on.

    What is stopped is marked, and stays out of the paired statistics.
    """

    grace_epochs: Annotated[int, whole()] = Field(
        default=1, description="epochs of the first rung; no run is stopped before"
    )
    factor: Annotated[int, whole(2, 16)] = Field(
        default=3, description="each rung is so many times the epochs of the one before"
    )


class RunsRecipe(Model):
    """A question that is answered by networks, each trained alone, and how they are trained."""

    question: Annotated[Text, StringConstraints(min_length=1)] = Field(
        description="what is asked, in a sentence"
    )
    paper: Text = Field(default="", description="what the papers found, beside what we find")
    input_size: Annotated[int, whole(1, 1024)] = Field(default=32, description="pixels a side")
    seeds: Annotated[SeedsRecipe, BeforeValidator(seeds_of)] = Field(
        default=SeedsRecipe(numbers=tuple(range(5)), first=5),
        description="how many, which, or auto: as many as a verdict needs",
    )
    training: TrainingRecipe = Field(
        default=TrainingRecipe(), description="the training of every variant"
    )
    data: DataRecipe = Field(default=DataRecipe(), description="the images")
    resources: ResourcesRecipe = Field(default=ResourcesRecipe(), description="what one run takes")
    asha: AshaRecipe | None = Field(
        default=None, validate_default=False, description="early stopping; absent: none"
    )


class AblationRecipe(RunsRecipe):
    """One question, answered by a comparison of variants; a file of `experiments/`."""

    base: Any = Field(
        default=None,
        description="what every variant changes: a network by name or written out as in a space,"
        " or a list of names",
    )
    vary: dict[str, list[Any]] = Field(
        default={}, description="dimensions and training options with their values; all combined"
    )
    variants: dict[str, Any] = Field(
        default={}, description="variants by name: what each changes in the base"
    )
    compare: CompareRecipe
    match: MatchRecipe | None = Field(
        default=None, validate_default=False, description="what is held equal"
    )

    @model_validator(mode="after")
    def _one_way_to_vary(self) -> Self:
        if bool(self.vary) == bool(self.variants):
            said = "give vary (all combinations) or variants (by name), one of the two"
            raise problem_at(("variants" if self.variants else "vary",), None, said)
        return self

    @model_validator(mode="after")
    def _no_looks_at_test(self) -> Self:
        if self.seeds.auto and self.compare.on_test:
            said = "the test images are read once, at the end; seeds are added by validation"
            raise problem_at(("compare", "metric"), self.compare.metric, said, "val_top1, val_loss")
        return self
