"""Shipped YAML files, changed at random: faults in words or a usable object, never a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twins_nas.config import dump_space, load_space, shipped_files
from twins_nas.errors import UserError
from twins_nas.recipes import load_recipe
from twins_nas.space import SearchSpace

LOADERS: dict[str, Callable[[str | Path], Any]] = {"space": load_space, "recipe": load_recipe}
SPACES = shipped_files("space")
RECIPES = shipped_files("search")

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["cpe", "LG", "none", "12e6", "per", "block", 1, 2, 4, 8, 16, [], {}, [2, 4]]),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.sampled_from(["values", "per", "blocks", "x"]), st.integers(0, 9)),
)
TOKENS = st.one_of(
    st.text(max_size=4),
    st.sampled_from([*"[]{}:,-#&*!|>'\"%@`~?\t\n\0\ufeff", "\n  - ", ": ", "<<: ", "*a", "&a "]),
    st.sampled_from(["!!python/name:os.system", "---\n", "...\n", "0", "9" * 30, "1e400", ".nan"]),
)
FUZZ = settings(
    max_examples=350, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that is written again and again."""
    return tmp_path_factory.mktemp("fuzz") / "some.yaml"


def survives(kind: str, path: Path) -> None:
    """Either faults in words, or an object that can be used."""
    try:
        loaded = LOADERS[kind](path)
    except UserError as error:
        assert str(error)
        return
    if isinstance(loaded, SearchSpace):
        arch = loaded.sample(random.Random(0))
        assert loaded.why_not(arch) is None
        path.write_text(dump_space(loaded), encoding="utf-8")
    else:
        path.write_text(loaded.dump(), encoding="utf-8")
    assert LOADERS[kind](path) == loaded


@given(data=st.data())
@FUZZ
def test_letters_changed_anywhere_never_lead_to_a_traceback(
    scratch: Path, data: st.DataObject
) -> None:
    """A few cuts and insertions in the text of a shipped file."""
    kind, path = data.draw(st.sampled_from([*_shipped()]))
    text = path.read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 3))
        text = text[:start] + data.draw(TOKENS) + text[end:]
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    survives(kind, scratch)


@given(data=st.data())
@FUZZ
def test_values_changed_anywhere_never_lead_to_a_traceback(
    scratch: Path, data: st.DataObject
) -> None:
    """Values replaced, keys renamed, entries dropped and doubled in a shipped file."""
    kind, path = data.draw(st.sampled_from([*_shipped()]))
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        value = _mutated(value, data)
    scratch.write_text(yaml.safe_dump(value, allow_unicode=False), encoding="utf-8")
    survives(kind, scratch)


def _shipped() -> list[tuple[str, Path]]:
    spaces = [("space", path) for path in SPACES.values()]
    return [*spaces, *(("recipe", path) for path in RECIPES.values())]


def _mutated(value: Any, data: st.DataObject) -> Any:
    """One change, at a place that is found by going down at random."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 4)) == 0:
        return data.draw(JUNK)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    how = data.draw(st.sampled_from(["down", "down", "down", "drop", "add"]))
    if how == "down":
        new = _mutated(value[key], data)
        if isinstance(value, dict):
            return {**value, key: new}
        return [*value[:key], new, *value[key + 1 :]]
    if isinstance(value, dict):
        rest = {name: item for name, item in value.items() if name != key}
        return rest if how == "drop" else {**value, data.draw(st.text(max_size=5)): value[key]}
    return value[:key] + value[key + 1 :] if how == "drop" else [*value, value[key]]
