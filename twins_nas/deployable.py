"""One network with its weights: by name or file, drawn, read, or out of a search's supernet."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from twins_nas.arch import ArchConfig, Grid, why_unbuildable
from twins_nas.config import find, load_space, shipped_files
from twins_nas.errors import UserError, did_you_mean
from twins_nas.recipes import SupernetRecipe, load_recipe
from twins_nas.runs import RunFolder
from twins_nas.seeds import SEEDS, native_size, seed
from twins_nas.space import SearchSpace
from twins_nas.space_yaml import dump_arch

if TYPE_CHECKING:
    from torch import Tensor

    from twins_nas.model.backbone import Backbone


@dataclass(frozen=True)
class Target:
    """A network by its name; `size` is that of its YAML file, or the seed's native one."""

    name: str
    arch: ArchConfig
    size: Grid

    def at(self, size: Grid) -> Target:
        """The same network at another input size.

        Raises:
            UserError: it cannot be built there; names the field.
        """
        if reason := why_unbuildable(self.arch, size):
            raise UserError(f"{self.name} cannot be built at {size[0]}x{size[1]}: {reason}.")
        return Target(self.name, self.arch, size)


@dataclass(frozen=True)
class Weights:
    """Weights by name, and where they are from; they are for `target` at its size.

    With `supernet`, they are those of all its members; `recipe` says what those share.
    """

    target: Target
    said: str
    tensors: dict[str, Tensor]
    supernet: SearchSpace | None = None
    recipe: SupernetRecipe = field(default_factory=SupernetRecipe)

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self._side(f"stages.0.embed.{self.target.arch.patch_size}.conv.weight", 1)

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier."""
        return self._side("head.bias", 0)

    def _side(self, name: str, axis: int) -> int:
        own = (key for key in self.tensors if key == name or key.endswith(f".{name}"))
        tensor = self.tensors.get(next(own, name))  # a split supernet's are those of its parts
        if tensor is None or tensor.dim() <= axis:
            raise UserError(f"The weights are none of {self.target.name}: they have no {name}.")
        return tensor.shape[axis]

    def model(self) -> Backbone:
        """The static network, in evaluation mode.

        Raises:
            UserError: the weights are those of another network; says what differs.
        """
        from twins_nas.model.separate import supernet_of
        from twins_nas.model.transfer import extract

        target, size = self.target, self.target.size
        space = self.supernet or SearchSpace.point(target.arch, size, target.name)
        model = supernet_of(space, self.in_chans, self.num_classes, self.recipe)
        try:
            model.load_state_dict(self.tensors)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            raise UserError(
                f"The weights are none of {space.name} at {size[0]}x{size[1]}: {lines[0][:300]}"
            ) from error
        return (extract(model, target.arch) if self.supernet else model).eval()


def find_target(name: str, run: RunFolder | None = None) -> Target:
    """The network of a name or of a file; with a run, of one in its `archs` too (`03`).

    Raises:
        UserError: no such network, a faulty file, or a space.
    """
    if name in SEEDS:
        return Target(name, seed(name), (native_size(name),) * 2)
    archs = {file.stem: file for file in sorted(run.path.glob("archs/*.yaml"))} if run else {}
    try:
        path = archs[name] if name in archs else find("space", name)
    except UserError:
        names = [*archs, *SEEDS]
        hint = did_you_mean(name, [*names, *shipped_files("space")])
        raise UserError(
            f"{name}: no such file or network{hint} (there are: {', '.join(names)})"
        ) from None
    space = load_space(path)
    if space.choices:
        raise UserError(
            f"{name} is a space of {space.size():,} networks, and an export is of one: give the"
            " name of a network, such as twins_svt_micro, or its YAML file; a search writes those"
            " of its front to runs/NAME/archs."
        )
    return Target(path.stem, space.base, space.input_size)


def drawn(target: Target, seed: int, in_chans: int = 3, num_classes: int = 1000) -> Backbone:
    """The network with initial weights, in evaluation mode."""
    from twins_nas.model.backbone import build, initialise

    model = build(target.arch, target.size, in_chans, num_classes)
    initialise(model, seed)
    return model.eval()


def of_file(path: Path, target: Target) -> Weights:
    """The weights of a safetensors file, at the input size that it says it is for.

    Raises:
        UserError: missing, damaged, or made for another network.
    """
    from twins_nas.training.checkpoint import load_weights

    tensors, notes = load_weights(path)
    words = notes.get("input_size", "").split()
    if len(words) == 2 and all(word.isdecimal() for word in words):
        target = Target(target.name, target.arch, (int(words[0]), int(words[1])))
    if notes.get("arch") not in (None, dump_arch(target.arch, target.size)):
        raise UserError(f"{path} holds the weights of another network than {target.name}.")
    return Weights(target, f"from {path.name}", tensors)


def of_run(run: RunFolder, target: Target) -> Weights:
    """The weights of a run's trained supernet, for one of its members.

    Those of its front that were tuned before they were scored are taken as they were then.

    Raises:
        UserError: it is not trained yet, or the network is no member.
    """
    from twins_nas.training.checkpoint import load_weights

    space = load_space(run.space_file)
    if reason := space.why_not(target.arch):
        raise UserError(f"{target.name} is no network of {run.path}: {reason}.")
    if not run.weights.is_file():
        raise UserError(f"{run.path} holds no trained supernet yet: let its search go on.")
    tuned = run.path / "archs" / f"{target.name}.safetensors"
    if tuned.is_file():
        return replace(of_file(tuned, target), said=load_weights(tuned)[1]["weights"])
    tensors, _ = load_weights(run.weights)
    own = Target(target.name, target.arch, space.input_size)
    said = f"inherited from the supernet of {run.path.name}"
    return Weights(own, said, tensors, space, load_recipe(run.recipe_file).supernet)


def notes_of(target: Target, said: str) -> dict[str, str]:
    """What a file of weights says of itself; `of_file` reads it."""
    try:
        package = version("twins_nas")
    except PackageNotFoundError:
        package = "unknown"
    return {
        "name": target.name,
        "arch": dump_arch(target.arch, target.size),
        "input_size": f"{target.size[0]} {target.size[1]}",
        "weights": said,
        "twins_nas": package,
    }


def images_of(run: RunFolder) -> dict[str, str]:
    """How a run's images were normalised, and its classes.

    Where its data cannot be read, that is told, and left out.
    """
    from twins_nas.data import load

    recipe, settings = load_recipe(run.recipe_file), run.read_settings()
    try:
        data = load(
            recipe.data.name,
            root=Path(settings.data_root) if settings.data_root else None,
            input_size=load_space(run.space_file).input_size[0],
            val_images=recipe.data.val_images,
            seed=recipe.seed,
        )
    except UserError as error:
        print(f"Left out: mean, std and classes of the run's images. {error}", file=sys.stderr)
        return {}
    return {
        "pixels": "(value / 255 - mean) / std, by channel",
        "mean": json.dumps(data.mean),
        "std": json.dumps(data.std),
        "class_names": json.dumps(data.class_names),
    }
