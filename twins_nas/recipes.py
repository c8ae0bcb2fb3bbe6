"""Recipes of searches, as the files of `search/` hold them: their keys, bounds and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from twins_nas.config import load_document
from twins_nas.errors import UserError, did_you_mean
from twins_nas.schema import Model, number, problem, problem_at, whole
from twins_nas.space import SearchSpace
from twins_nas.yaml_nodes import write

MOST = 10**15
MOST_SEED = 2**32 - 1
QUALITIES = ("top1", "loss", "adjusted")
COSTS = ("macs", "params")

FOLDER = "imagefolder:"
DATA_SETS = (
    "fashion-mnist-mini",
    "fashion-mnist",
    "mnist",
    "cifar10",
    "cifar100",
    f"{FOLDER}PATH",
)
"""What `twins_nas.data` knows, named here so that a typo is told before torch is imported."""

IMAGES = {
    "fashion-mnist-mini": (1, 10),
    "fashion-mnist": (1, 10),
    "mnist": (1, 10),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
}
"""Channels and classes of the data sets that have a name."""
UNREAD = (3, 10)
"""The same of an image folder, before anybody has looked into it."""

WEIGHTS = (".safetensors", ".pth", ".pt")
Objective = Literal["top1", "loss", "adjusted", "macs", "params"]
Switch = Annotated[bool, Field(strict=True)]


def _data_set(name: str) -> str:
    known = name in DATA_SETS[:-1] or (
        name.startswith(FOLDER) and name not in (FOLDER, DATA_SETS[-1])
    )
    if not known:
        raise problem(
            f"{name!r} is no data set that is known{did_you_mean(name, DATA_SETS)}",
            ", ".join(DATA_SETS),
        )
    return name


def absolute_data(name: str | None) -> str | None:
    """A data set's name with its folder in full, as a run may be gone on with from another one."""
    if name is None or not name.startswith(FOLDER) or name == FOLDER:
        return name
    return FOLDER + str(Path(name.removeprefix(FOLDER)).expanduser().absolute())


def _weights_file(name: str | None) -> str | None:
    if name is None:
        return None
    if not name.endswith(WEIGHTS):
        raise problem(
            f"{name!r} is no file of weights", f"a file that ends in {' or '.join(WEIGHTS)}"
        )
    return str(Path(name).expanduser().absolute())


class SamplerRecipe(Model):
    """What proposes the networks of a search."""

    name: Literal["nsga2", "random", "tpe"] = Field(
        default="nsga2",
        description="evolution (nsga2), uniform draws (random), or a model of densities (tpe)",
    )
    population: Annotated[int, whole(4, 1000)] = Field(
        default=20, description="networks of a generation; of nsga2 alone"
    )

    @model_validator(mode="after")
    def _population_is_nsga2s(self) -> Self:
        if self.name != "nsga2" and "population" in self.model_fields_set:
            said = f"the sampler {self.name} has no population, only nsga2 has"
            raise problem_at(("population",), self.population, said)
        return self


class BudgetRecipe(Model):
    """Bounds of every network of the front; absent: none."""

    max_macs: Annotated[int | None, whole(1, MOST)] = Field(
        default=None, validate_default=False, description="multiply-adds of one image"
    )
    max_params: Annotated[int | None, whole(1, MOST)] = Field(
        default=None, validate_default=False, description="parameters, classifier included"
    )


class DataRecipe(Model):
    """The images."""

    name: Annotated[str, AfterValidator(_data_set)] = Field(
        default="fashion-mnist-mini", description="a data set that `twins_nas.data` knows"
    )
    val_images: Annotated[int, whole(1, 10_000_000)] = Field(
        default=2000, description="training images held out to score the networks of the search"
    )


class TrainingRecipe(Model):
    """The training of one network: AdamW, cosine schedule."""

    epochs: Annotated[int, whole()] = Field(
        default=6, description="passes over the training images"
    )
    batch_size: Annotated[int, whole(1, 65_536)] = Field(
        default=32, description="images of a batch"
    )
    accumulate: Annotated[int, whole(1, 1024)] = Field(
        default=1, description="batches whose gradients are summed for one step"
    )
    lr: Annotated[float, number(above=0, most=10)] = Field(
        default=2e-3, description="learning rate at the end of the warm-up"
    )
    weight_decay: Annotated[float, number(0, 1)] = Field(
        default=0.05, description="of weights; norms, biases and position tables have none"
    )
    warmup: Annotated[float, number(0, below=1)] = Field(
        default=0.1, description="part of all steps over which the learning rate grows from 0"
    )
    clip_norm: Annotated[float, number(above=0)] = Field(
        default=5.0, description="largest norm of the gradient of a step"
    )
    label_smoothing: Annotated[float, number(0, below=1)] = Field(
        default=0.0, description="probability taken from the true class and spread over all"
    )
    flip: Switch = Field(default=True, description="mirrors half of the training images")
    crop_padding: Annotated[int, whole(0, 64)] = Field(
        default=0, description="pixels of padding from which a random crop is taken; 0: no crop"
    )
    drop_path: Annotated[float, number(0, below=1)] = Field(
        default=0.0, description="probability that the last block of the network is skipped"
    )
    zero_peg: Switch = Field(
        default=False, description="whether the PEGs of `cpe` begin as nothing, not as noise"
    )
    checkpoint_seconds: Annotated[int, whole(1, 86_400)] = Field(
        default=60, description="time between two checkpoints"
    )

    @property
    def substance(self) -> dict[str, Any]:
        """What a result depends on.

        `zero_peg` is younger than results of networks alone that stay valid: it is named where on.
        """
        young = set() if self.zero_peg else {"zero_peg"}
        return self.model_dump(exclude={"checkpoint_seconds"} | young)


class SupernetRecipe(TrainingRecipe):
    """The training of the weight-sharing network, by the sandwich rule; see docs/supernet.md."""

    random_subnets: Annotated[int, whole(0, 64)] = Field(
        default=1, description="networks drawn for a step, besides the largest and the smallest"
    )
    extremes: Literal["both", "largest", "none"] = Field(
        default="both", description="which of the largest and the smallest every step trains"
    )
    sampling: Literal["uniform", "macs_balanced", "best_up", "fair"] = Field(
        default="uniform", description="how they are drawn: docs/supernet.md"
    )
    distill: Literal["kl", "alpha", "none"] = Field(
        default="kl", description="what the others learn from the largest network of their step"
    )
    distill_weight: Annotated[float, number(above=0, most=1)] = Field(
        default=0.5,
        description="part of the others' loss that the largest gives; the labels give the rest",
    )
    gradients: Literal["sum", "pcgrad", "subnets_first"] = Field(
        default="sum", description="how the gradients of a step's networks become one"
    )
    elastic_warmup: Annotated[float, number(0, below=1)] = Field(
        default=0.0,
        description="part of all steps over which the ordered dimensions open one after another",
    )
    separate: tuple[Literal["pe", "mixer", "sr_ratio"], ...] = Field(
        default=(), description="fields with an attention of their own for each value"
    )
    switchable_norms: Switch = Field(
        default=False, description="whether each width has LayerNorms of its own"
    )
    split: str | None = Field(
        default=None,
        description="a choice, such as stages.0.pe, with a supernet of its own for each value",
    )
    scaled_slices: Switch = Field(
        default=False, description="whether narrow slices of linear layers are as loud as wide ones"
    )
    deep_supervision: Annotated[float, number(0, 10)] = Field(
        default=0.0,
        description="weight of the losses of classifiers after the earlier stages, which the"
        " training alone has; 0: no such classifiers",
    )
    init_from: Annotated[str | None, AfterValidator(_weights_file)] = Field(
        default=None, description="a file of timm's weights of the space's base, to start from"
    )
    drop_path_for: Literal["all", "largest"] = Field(
        default="all", description="which networks of a step `drop_path` skips blocks of"
    )
    ema: Annotated[float, number(0, below=1)] = Field(
        default=0.0, description="decay of the averaged weights that are scored; 0: the last ones"
    )
    calibrate_steps: Annotated[int, whole(0, 10_000)] = Field(
        default=0, description="batches that a network is tuned on, alone, before it is scored"
    )
    zen_weight: Annotated[float, number(0, 10)] = Field(
        default=0.0,
        description="how far the Zen-score of a network's own first weights moves its loss, in the"
        " objective `adjusted`; in deviations of the loss for one of the Zen-score",
    )
    size_weight: Annotated[float, number(0, 10)] = Field(
        default=0.0,
        description="how far a network's size, log MACs + log params, moves its loss, likewise",
    )

    @property
    def hints(self) -> dict[str, float]:
        """The weights of what moves losses in the objective `adjusted`; those that are not 0."""
        weights = {"Zen": self.zen_weight, "size": self.size_weight}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def adjusted_words(self) -> str:
        """What `adjusted` goes by, such as "loss, Zen and size"."""
        *others, last = ("loss", *self.hints)
        return f"{', '.join(others)} and {last}" if others else last

    @property
    def substance(self) -> dict[str, Any]:
        """What a training depends on; the weights of hints are of scores alone.

        `deep_supervision` is younger than supernets that stay valid: it is named where on.
        """
        young = set() if self.deep_supervision else {"deep_supervision"}
        return self.model_dump(exclude={"checkpoint_seconds", "zen_weight", "size_weight"} | young)

    @model_validator(mode="after")
    def _weight_of_a_teacher(self) -> Self:
        if self.distill == "none" and "distill_weight" in self.model_fields_set:
            said = "weighs the distillation, which `distill: none` switches off"
            raise problem_at(("distill_weight",), self.distill_weight, said)
        return self

    @field_validator("separate")
    @classmethod
    def _once_each(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(words)) < len(words):
            raise problem("a field is given twice")
        return words

    @model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        if self.sampling in ("macs_balanced", "best_up") and not self.random_subnets:
            said = f"{self.sampling} is of the networks drawn, and `random_subnets: 0` draws none"
            raise problem_at(("sampling",), self.sampling, said, "uniform, fair")
        if self.extremes != "both" and not self.random_subnets:
            said = "without the smallest and with no network drawn, most weights learn nothing"
            raise problem_at(("random_subnets",), 0, said, "1 to 64")
        return self

    @model_validator(mode="after")
    def _a_largest_to_learn_from(self) -> Self:
        if self.extremes != "none":
            return self
        said = "`extremes: none` trains no largest network in every step"
        if self.distill != "none":
            raise problem_at(("distill",), self.distill, f"{said} to learn from", "none")
        if self.drop_path_for == "largest":
            raise problem_at(("drop_path_for",), "largest", said, "all")
        return self

    @model_validator(mode="after")
    def _something_to_drop(self) -> Self:
        if self.drop_path_for == "largest" and not self.drop_path:
            said = "there is nothing to skip: `drop_path` is 0"
            raise problem_at(("drop_path_for",), self.drop_path_for, said, "all")
        return self


def check_switches(recipe: SupernetRecipe, space: SearchSpace) -> None:
    """Refuses switches that have no meaning in a space, before a training begins.

    A run that is trained needs its file of first weights no more, so that is looked for here.

    Raises:
        UserError: names the switch, and what could be said instead.
    """
    if recipe.init_from is not None and not Path(recipe.init_from).is_file():
        raise UserError(f"supernet.init_from: {recipe.init_from} is not there.")
    if recipe.init_from is not None and (recipe.split or recipe.separate):
        raise UserError(
            "supernet.init_from: puts weights where the base has its own, so with split or separate"
            " all other values would begin without; leave those out."
        )
    names = [choice.name for choice in space.choices]
    if recipe.split is not None and recipe.split not in names:
        raise UserError(
            f"supernet.split: {recipe.split!r} is no choice of space"
            f" {space.name}{did_you_mean(recipe.split, names)} (its choices: {', '.join(names)})."
        )
    for field in recipe.separate:
        if all(choice.field != field or choice.name == recipe.split for choice in space.choices):
            where = f"space {space.name}" + (f" split by {recipe.split}" if recipe.split else "")
            raise UserError(f"supernet.separate: {field} has one value in {where}.")
    if recipe.sampling in ("macs_balanced", "best_up") and not any(
        choice.ordered for choice in space.choices
    ):
        raise UserError(
            f"supernet.sampling: {recipe.sampling} draws by MACs, and no ordered dimension varies"
            f" in {space.name}; leave it at uniform, or take fair."
        )
    if recipe.deep_supervision and len(space.stages) == 1:
        raise UserError(f"supernet.deep_supervision: space {space.name} has no earlier stages.")
    if recipe.switchable_norms and all(choice.field != "embed_dim" for choice in space.choices):
        raise UserError(f"supernet.switchable_norms: space {space.name} has one embed_dim a stage.")
    if recipe.elastic_warmup and not any(choice.ordered for choice in space.choices):
        raise UserError(f"supernet.elastic_warmup: no ordered dimension varies in {space.name}.")


class SearchRecipe(Model):
    """One search: supernet training, then trials on it; a file of `search/`."""

    objectives: tuple[Objective, ...] = Field(
        default=("top1", "macs"),
        description="what the front trades: top1 up; loss, adjusted, macs and params down",
    )
    trials: Annotated[int, whole(3, 1_000_000)] = Field(
        default=300, description="networks that one search evaluates"
    )
    sampler: SamplerRecipe = Field(
        default=SamplerRecipe(), description="what proposes the networks"
    )
    seeds: Annotated[int, whole(1, 1000)] = Field(
        default=1,
        description="repetitions of the search on the same supernet, each with its own seed",
    )
    seed: Annotated[int, whole(0, MOST_SEED)] = Field(default=0, description="the first seed")
    evaluators: Annotated[int | Literal["auto"], whole(1, 1024, word="auto")] = Field(
        default="auto", description="processes that score networks; auto: what the machine holds"
    )
    budget: BudgetRecipe = Field(
        default=BudgetRecipe(), description="bounds of every proposed network"
    )
    data: DataRecipe = Field(default=DataRecipe(), description="the images")
    supernet: SupernetRecipe = Field(
        default=SupernetRecipe(), description="the supernet's training"
    )

    @field_validator("objectives")
    @classmethod
    def _trade(cls, words: tuple[Objective, ...]) -> tuple[Objective, ...]:
        twice = [word for at, word in enumerate(words) if word in words[:at]]
        if twice:
            raise problem(f"{twice[0]!r} is given twice")
        for kind, several in (("quality", QUALITIES), ("cost", COSTS)):
            if not set(words) & set(several):
                raise problem(f"no {kind} is among them", f"at least one of {', '.join(several)}")
        return words

    @field_validator("sampler")
    @classmethod
    def _a_generation_fits(cls, sampler: SamplerRecipe, info: ValidationInfo) -> SamplerRecipe:
        trials = info.data.get("trials", sampler.population)
        if sampler.name == "nsga2" and sampler.population > trials:
            said = f"a generation of {sampler.population} is over the {trials} trials"
            allowed = f"4 to {trials}" if trials >= 4 else "a sampler other than nsga2"
            raise problem_at(("population",), sampler.population, said, allowed)
        return sampler

    @model_validator(mode="after")
    def _something_to_adjust_by(self) -> Self:
        if "adjusted" in self.objectives and not self.supernet.hints:
            said = "adjusted is the loss moved by hints, and no weight of `supernet` is above 0"
            allowed = "loss, or a zen_weight or size_weight above 0"
            raise problem_at(("objectives",), "adjusted", said, allowed)
        return self

    def dump(self) -> str:
        """The YAML text that `load_recipe` reads as this recipe, its defaults written out."""
        values = self.model_dump(mode="json", exclude_none=True)
        if self.sampler.name != "nsga2":
            del values["sampler"]["population"]
        if self.supernet.distill == "none":
            del values["supernet"]["distill_weight"]
        return write({name: value for name, value in values.items() if value != {}})


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> SearchRecipe:
    """The recipe of a YAML file of `search/`; `overrides` are a command's, by dotted key.

    Raises:
        ConfigError: all faults of the file and of the overrides.
    """
    return load_document(path, SearchRecipe, overrides)
