"""The folder of one run: what was asked for, and where each thing that it makes lies."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from twins_nas.config import collect, load_space
from twins_nas.errors import UserError, did_you_mean
from twins_nas.files import told, write_text
from twins_nas.recipes import SearchRecipe, load_recipe
from twins_nas.space import SearchSpace
from twins_nas.space_yaml import dump_space


@dataclass(frozen=True)
class Settings:
    """What a command adds to its recipe: how and where it runs, not what is searched."""

    data_root: str | None = None
    download: bool = False
    local: bool = False
    device: str | None = None
    mlflow_run: str | None = None
    parallel: int | None = None
    recipe: str | None = None

    def again(
        self,
        data_root: str | None,
        download: bool,
        local: bool,
        device: str | None,
        parallel: int | None = None,
    ) -> Settings:
        """These settings for a run that is gone on with; what a command gives replaces them."""
        return dataclasses.replace(
            self,
            data_root=str(Path(data_root).absolute()) if data_root else self.data_root,
            download=download or self.download,
            local=local or self.local,
            device=device or self.device,
            parallel=parallel or self.parallel,
        )


@dataclass(frozen=True)
class Folder:
    """The folder of a run of any kind, with its settings; `MARK` is a file of this kind alone."""

    path: Path

    KIND: ClassVar[str] = "run"
    MARK: ClassVar[str] = "run.json"

    @classmethod
    def make(cls, root: Path, name: str) -> Self:
        """A new folder; its settings are to be written last, as they make a run of it.

        Raises:
            UserError: it is there already, or cannot be written.
        """
        folder = cls(root / name)
        if folder.settings_file.exists():
            raise UserError(
                f"{folder.path} holds a run already: go on with it by --resume {name}, or give"
                " another --name."
            )
        with told(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def locate(cls, root: Path, name: str) -> Self:
        """An existing folder, by its name under `root` or by its path.

        Raises:
            UserError: there is no such run; lists those that are there. It is of another kind.
        """
        paths = [path for path in (root / name, Path(name)) if cls(path).settings_file.is_file()]
        if not paths:
            known = sorted(file.parent.name for file in root.glob(f"*/{cls.MARK}"))
            hint = f" (there are: {', '.join(known)})" if known else ""
            raise UserError(f"{root / name} holds no run{did_you_mean(name, known)}{hint}.")
        if not (paths[0] / cls.MARK).is_file():
            raise UserError(f"{paths[0]} holds a run, but no {cls.KIND}: it has no {cls.MARK}.")
        return cls(paths[0])

    def read_settings(self) -> Settings:
        """The settings that were written last.

        Raises:
            UserError: the file is damaged.
        """
        try:
            with told(self.settings_file):
                values: dict[str, Any] = json.loads(self.settings_file.read_text(encoding="utf-8"))
            return Settings(**values)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.settings_file} is damaged ({error}); start the run anew."
            ) from error

    def write_settings(self, settings: Settings) -> None:
        """Replaces the settings."""
        write_text(self.settings_file, json.dumps(dataclasses.asdict(settings), indent=2) + "\n")

    @property
    def settings_file(self) -> Path:
        """How and where it runs."""
        return self.path / "run.json"


@dataclass(frozen=True)
class RunFolder(Folder):
    """A search's folder; every file in it is whole or absent."""

    KIND: ClassVar[str] = "search"
    MARK: ClassVar[str] = "space.yaml"

    @classmethod
    def create(
        cls, root: Path, name: str, space: SearchSpace, recipe: SearchRecipe, settings: Settings
    ) -> RunFolder:
        """Makes the folder with the space, the recipe and the settings in it.

        Raises:
            UserError: it is there already, or cannot be written.
        """
        folder = cls.make(root, name)
        write_text(folder.space_file, dump_space(space))
        write_text(folder.recipe_file, recipe.dump())
        folder.write_settings(settings)
        return folder

    @classmethod
    def open(cls, root: Path, name: str) -> tuple[RunFolder, SearchSpace, SearchRecipe, Settings]:
        """An existing run, by its name under `root` or by its path, with what it was asked for.

        Raises:
            UserError: there is no such run; lists those that are there. Its files are damaged.
        """
        folder = cls.locate(root, name)
        space, recipe = collect(
            lambda: load_space(folder.space_file), lambda: load_recipe(folder.recipe_file)
        )
        return folder, space, recipe, folder.read_settings()

    @property
    def space_file(self) -> Path:
        """The space, whole: its base is written out."""
        return self.path / "space.yaml"

    @property
    def recipe_file(self) -> Path:
        """The recipe, with what the command line changed."""
        return self.path / "recipe.yaml"

    @property
    def checkpoint(self) -> Path:
        """The state of the supernet's training."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The trained supernet."""
        return self.path / "supernet.safetensors"

    @property
    def studies(self) -> Path:
        """The folder of the studies' journals, one a search seed."""
        return self.path / "studies"
