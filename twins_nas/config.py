"""YAML files as checked objects: spaces and architectures, and the shipped files by name.

A file is checked in two steps, each of which reports all of its faults with file, line and key:
every key by itself, then what the keys say together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from pydantic import ValidationError

from twins_nas.arch import ArchConfig, Grid
from twins_nas.errors import ConfigError, Fault, did_you_mean
from twins_nas.schema import Model
from twins_nas.space import SearchSpace
from twins_nas.space_schema import Space
from twins_nas.space_yaml import dump_arch, dump_space, to_arch, to_space
from twins_nas.yaml_nodes import Document, parse, printable, read

__all__ = [
    "collect",
    "dump_arch",
    "dump_space",
    "find",
    "load_arch",
    "load_document",
    "load_space",
    "parse_arch",
    "shipped_files",
    "validated",
]

Kind = Literal["space", "search", "experiments"]
AnyModel = TypeVar("AnyModel", bound=Model)
One = TypeVar("One")
Two = TypeVar("Two")
Three = TypeVar("Three")

_PACKAGE = Path(__file__).parent


def find(kind: Kind, name: str) -> Path:
    """The file of that path, or else the shipped one of that name (`svt`, `imagenet/svt_small`).

    Raises:
        ConfigError: neither is there; lists the shipped names.
    """
    try:
        if Path(name).is_file():
            return Path(name)
    except (OSError, ValueError):
        pass  # no path at all: too long, or with a letter that no path has
    shipped = shipped_files(kind)
    short = name.removeprefix(f"{kind}/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    hint = did_you_mean(short, shipped) or did_you_mean(short.rsplit("/", 1)[-1], shipped)
    said = f"no such file, and none of this name is shipped{hint}"
    raise ConfigError([Fault(printable(name), 0, "", said, ", ".join(shipped))])


def shipped_files(kind: Kind) -> dict[str, Path]:
    """The files that come with the package, by name: those of the wheel, or else of the clone.

    What runs left in a clone's `experiments/results/` is not among them.
    """
    wheel = _PACKAGE / "yaml" / kind
    folder = wheel if wheel.is_dir() else _PACKAGE.parent / kind
    names = {
        file.relative_to(folder).with_suffix(""): file for file in sorted(folder.rglob("*.yaml"))
    }
    return {name.as_posix(): file for name, file in names.items() if name.parts[0] != "results"}


def load_space(path: str | Path) -> SearchSpace:
    """The search space of a YAML file.

    Raises:
        ConfigError: all faults of the file.
    """
    document = read(path)
    return to_space(document, validated(document, Space))


def load_arch(path: str | Path) -> tuple[ArchConfig, Grid]:
    """The architecture and the input size of a YAML file; it is written as a space without choices.

    Raises:
        ConfigError: all faults of the file.
    """
    document = read(path)
    return to_arch(document, validated(document, Space))


def parse_arch(text: str, name: str) -> tuple[ArchConfig, Grid]:
    """The same of a YAML text; `name` is what messages call it.

    Raises:
        ConfigError: all faults of the text.
    """
    document = parse(text, name)
    return to_arch(document, validated(document, Space))


def load_document(
    path: str | Path, model: type[AnyModel], overrides: Mapping[str, Any] | None = None
) -> AnyModel:
    """The model of a YAML file; `overrides` are what a command changes in it, by dotted key.

    Raises:
        ConfigError: all faults of the file and of the overrides.
    """
    return validated(read(path).changed(overrides or {}), model)


def validated(document: Document, model: type[AnyModel]) -> AnyModel:
    """The model of a document.

    Raises:
        ConfigError: all faults.
    """
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        faults = []
        for item in error.errors(include_url=False):
            place = tuple(part for part in item["loc"] if not str(part).startswith("<"))
            said = item.get("ctx", {})
            text = said.get("problem", "the file is not a mapping of keys to values")
            faults.append(document.fault(place, text, said.get("allowed", "")))
        raise ConfigError(sorted(faults, key=lambda fault: fault.line)) from None


@overload
def collect(one: Callable[[], One], two: Callable[[], Two], /) -> tuple[One, Two]: ...
@overload
def collect(
    one: Callable[[], One], two: Callable[[], Two], three: Callable[[], Three], /
) -> tuple[One, Two, Three]: ...
def collect(*loaders: Callable[[], Any]) -> tuple[Any, ...]:
    """What each loader returns.

    Raises:
        ConfigError: the faults of all loaders together.
    """
    results: list[Any] = []
    faults: list[Fault] = []
    for load in loaders:
        try:
            results.append(load())
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return tuple(results)
