"""YAML files: what they fill and fix, round trips, golden messages, and a fuzz test."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from twins_nas import config
from twins_nas.arch import MIXERS, PE_KINDS, ArchConfig, StageConfig, dimension
from twins_nas.config import (
    collect,
    dump_arch,
    dump_space,
    find,
    load_arch,
    load_space,
    shipped_files,
)
from twins_nas.errors import ConfigError
from twins_nas.recipes import SearchRecipe, load_recipe
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import STAGE_FIELDS, SearchSpace
from twins_nas.space_schema import StageKeys, keys_of

REPO = Path(__file__).parent.parent
BROKEN = sorted((Path(__file__).parent / "broken").rglob("*.yaml"))
LOADERS: dict[str, Callable[[str | Path], Any]] = {"space": load_space, "recipe": load_recipe}
LISTS = {"stage keys": STAGE_FIELDS, "pe kinds": PE_KINDS, "letters": MIXERS}
"""What the expected messages leave out, so that a new word is not a new text."""
SPACES = shipped_files("space")
RECIPES = shipped_files("search")
MICRO = "input_size: 32\nbase: twins_svt_micro\n"


def faults(load: Callable[[], object]) -> list[str]:
    """The lines of what a loader raises."""
    with pytest.raises(ConfigError) as error:
        load()
    return str(error.value).splitlines()


def written(folder: Path, text: str) -> Path:
    """A file of this text."""
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def stage_space(folder: Path, **keys: Any) -> SearchSpace:
    """The space around the micro Twins-SVT whose first stage has these keys."""
    stages = [keys, {}, {}, {}]
    return load_space(written(folder, MICRO + yaml.safe_dump({"stages": stages})))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_broken_file_is_told_in_these_words(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, line, key, problem, and what is allowed; every fault of a step at once."""
    monkeypatch.chdir(path.parent)
    told = faults(lambda: LOADERS[path.parent.name](path.name))
    words = path.with_suffix(".txt").read_text(encoding="utf-8")
    for name, listed in LISTS.items():
        words = words.replace(f"<{name}>", ", ".join(listed))
    assert told == words.splitlines()


def test_there_are_many_broken_files() -> None:
    """And none without its message."""
    assert len(BROKEN) >= 45
    texts = {path.with_suffix("") for path in BROKEN[0].parent.parent.rglob("*.txt")}
    assert texts == {path.with_suffix("") for path in BROKEN}


@pytest.mark.parametrize("name", SPACES)
def test_a_shipped_space_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    """The space itself, and 200 of its members."""
    space = load_space(SPACES[name])
    assert space.name == Path(name).stem
    again = load_space(written(tmp_path, dump_space(space)))
    assert (again, again.fingerprint) == (space, space.fingerprint)
    rng = random.Random(0)
    for _ in range(200):
        arch = space.sample(rng)
        path = written(tmp_path, dump_arch(arch, space.input_size))
        assert load_arch(path) == (arch, space.input_size)


@pytest.mark.parametrize("name", SEEDS)
def test_a_published_network_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    """As an architecture, as the space of one network, and as a `base` by name."""
    arch, size = seed(name), (224, 192)
    assert load_arch(written(tmp_path, dump_arch(arch, size))) == (arch, size)
    point = SearchSpace.point(arch, (224, 224), "point")
    assert load_space(written(tmp_path, dump_space(point))) == point
    by_name = load_arch(written(tmp_path, f"base: {name}\ninput_size: 224\n"))
    assert by_name == (arch, (224, 224))


def test_a_space_around_any_base_is_written_and_read_back(tmp_path: Path) -> None:
    """A base that no name stands for is written out."""
    space = stage_space(tmp_path, depth=3, mlp_ratio={"blocks": [2, [2, 4], 8]})
    assert space.base not in [make() for make in SEEDS.values()]
    assert load_space(written(tmp_path, dump_space(space))) == space


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    """With its defaults."""
    recipe = load_recipe(RECIPES[name])
    assert load_recipe(written(tmp_path, recipe.dump())) == recipe


@pytest.mark.parametrize("path", [*SPACES.values(), *RECIPES.values()], ids=lambda path: path.stem)
def test_a_shipped_file_opens_with_its_question(path: Path) -> None:
    """Then its command, what it cost, and what came out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [line[2:].split(":")[0] for line in lines if line.startswith("# ")]
    assert [head for head in heads if not head.startswith(" ")] == [
        "Question",
        "Command",
        "Measured cost",
        "Result",
    ]


def test_an_absent_key_is_the_bases(tmp_path: Path) -> None:
    """A space of a base alone is that network."""
    space = load_space(written(tmp_path, MICRO))
    assert (space.name, space.base, space.size()) == ("some", seed("twins_svt_micro"), 1)


def test_a_value_replaces_the_bases(tmp_path: Path) -> None:
    """In every block; a deeper stage repeats the values of the base's last blocks."""
    space = stage_space(tmp_path, depth=3, window_size=4)
    stage = space.base.stages[0]
    assert (stage.depth, stage.window_size, stage.sr_ratio) == (3, (4, 0, 4), (0, 8, 0))
    assert stage.mlp_ratio == (4, 4, 4)
    assert space.size() == 1


def test_another_mixer_takes_values_from_the_nearest_block(tmp_path: Path) -> None:
    """Blocks of the base without a ratio get that of their neighbour."""
    stage = stage_space(tmp_path, mixer="G").base.stages[0]
    assert (stage.window_size, stage.sr_ratio) == ((0, 0), (8, 8))


def test_a_list_is_a_choice_that_keeps_the_base(tmp_path: Path) -> None:
    """Ordered values are sorted, words stay in the order given."""
    space = stage_space(tmp_path, embed_dim=[24, 16, 8], pe=["none", "cpe", "ape"])
    assert {choice.name: choice.values for choice in space.choices} == {
        "stages.0.embed_dim": (8, 16, 24),
        "stages.0.pe": ("none", "cpe", "ape"),
    }
    assert space.base == seed("twins_svt_micro")


def test_values_per_block_untie_the_blocks_that_use_them(tmp_path: Path) -> None:
    """Under any of the mixers, up to the largest depth."""
    keys = {"values": [2, 4], "per": "block"}
    space = stage_space(tmp_path, depth=[2, 4], mixer=["LG", "LLG"], window_size=keys)
    assert [choice.name for choice in space.choices][2:] == [
        f"stages.0.blocks.{block}.window_size" for block in (0, 1, 2, 3)
    ]
    space = stage_space(tmp_path, depth=[2, 4], window_size=keys)
    assert [choice.name for choice in space.choices][1:] == [
        f"stages.0.blocks.{block}.window_size" for block in (0, 2)
    ]


def test_blocks_are_given_one_by_one(tmp_path: Path) -> None:
    """A value, a choice, or null."""
    blocks = {"blocks": [None, [4, 8], None, 2]}
    space = stage_space(tmp_path, depth=[2, 4], sr_ratio=blocks)
    assert [choice.name for choice in space.choices] == [
        "stages.0.depth",
        "stages.0.blocks.1.sr_ratio",
    ]
    deep = space.decode({"stages.0.depth": 4, "stages.0.blocks.1.sr_ratio": 4})
    assert deep.stages[0].sr_ratio == (0, 4, 0, 2)


def test_without_a_base_it_is_the_largest_with_the_first_words(tmp_path: Path) -> None:
    """What belongs to the network has its defaults."""
    text = """
input_size: [24, 32]
stages:
  - {embed_dim: [8, 16], head_dim: 8, depth: [1, 2], mixer: [G, L], pe: [cpe, none],
     window_size: [2, 4], sr_ratio: [2, 1], mlp_ratio: {values: [2, 3], per: block}}
"""
    space = load_space(written(tmp_path, text))
    stage = StageConfig(16, 8, 2, "G", (0, 0), (1, 1), "cpe", (3.0, 3.0))
    assert space.base == ArchConfig((stage,))
    assert (space.input_size, space.grid(0)) == ((24, 32), (6, 8))


def test_a_base_may_be_written_out(tmp_path: Path) -> None:
    """As an architecture without its input size; the space fills from it."""
    base = dump_arch(seed("twins_svt_micro"), (32, 32)).replace("input_size: 32\n", "")
    text = "input_size: 32\nbase:\n" + "".join(f"  {line}\n" for line in base.splitlines())
    assert load_space(written(tmp_path, text)).base == seed("twins_svt_micro")


def test_an_architecture_has_no_choice(tmp_path: Path) -> None:
    """Each is a fault of its key."""
    text = MICRO + "norm_eps: [1e-6, 1e-5]\nstages: [{depth: [2, 3]}, {}, {}, {}]\n"
    path = written(tmp_path, text)
    assert faults(lambda: load_arch(path)) == [
        f"{path}:3: norm_eps: is a choice; an architecture has one value",
        f"{path}:4: stages.0.depth: is a choice; an architecture has one value",
    ]


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """Exponents need no point, and `no` is a word."""
    recipe = load_recipe(written(tmp_path, "budget: {max_macs: 12e6}\nsupernet: {lr: 1e-3}\n"))
    assert (recipe.budget.max_macs, recipe.supernet.lr) == (12_000_000, 0.001)
    assert load_space(written(tmp_path, MICRO + "name: no\nnorm_eps: 1E-6\n")).name == "no"
    assert load_recipe(written(tmp_path, "trials: 1_000\n")).trials == 1000


@pytest.mark.parametrize("name", ["1e3", "null", "true", "on", "a: b", "# x", "é", "-", "'", "0x1"])
def test_a_name_survives_whatever_it_looks_like(name: str, tmp_path: Path) -> None:
    """It is quoted where YAML would take it for something else."""
    space = SearchSpace.point(seed("twins_svt_micro"), (32, 32), name)
    assert load_space(written(tmp_path, dump_space(space))).name == name


def test_aliases_and_merged_mappings_are_followed(tmp_path: Path) -> None:
    """Also a file that begins with a byte order mark."""
    text = """\ufeffinput_size: 32
base: twins_svt_micro
stages:
  - &common {mlp_ratio: [2, 4], pe: &all [cpe, none]}
  - <<: *common
    pe: cpe
  - {<<: [*common, {depth: 2}], depth: [2, 4]}
  - {pe: *all}
"""
    space = load_space(written(tmp_path, text))
    assert [choice.name for choice in space.choices] == [
        "stages.0.pe",
        "stages.0.mlp_ratio",
        "stages.1.mlp_ratio",
        "stages.2.depth",
        "stages.2.pe",
        "stages.2.mlp_ratio",
        "stages.3.pe",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.yaml", "nowhere.yaml: there is no such file"),
        (".", ".: this is a folder, a YAML file is needed"),
        ("a\0b", "'a\\x00b': the file cannot be read: embedded null byte"),
        ("a" * 300, "a" * 300 + ": the file cannot be read: File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(name: str, words: str) -> None:
    """By its name."""
    assert faults(lambda: load_space(name)) == [words]


def test_a_file_that_is_too_long_is_not_parsed(tmp_path: Path) -> None:
    """A million bytes are no recipe."""
    path = written(tmp_path, "#" * 2_000_000)
    assert faults(lambda: load_space(path)) == [f"{path}: the file is over 1,000,000 bytes"]


@pytest.mark.parametrize("name", ["svt", "svt.yaml", "space/svt", "space/svt.yaml"])
def test_a_shipped_file_is_found_by_name_and_by_its_path_in_the_clone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From anywhere; a file that is there comes first."""
    monkeypatch.chdir(tmp_path)
    assert find("space", name) == REPO / "space" / "svt.yaml"
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(MICRO, encoding="utf-8")
    assert find("space", name) == Path(name)


def test_a_wheel_finds_the_files_that_it_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the package."""
    shutil.copytree(REPO / "space", tmp_path / "yaml" / "space")
    monkeypatch.setattr(config, "_PACKAGE", tmp_path)
    found = find("space", "imagenet/svt_small")
    assert found == tmp_path / "yaml" / "space" / "imagenet" / "svt_small.yaml"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("svtt", "svtt: no such file, and none of this name is shipped; did you mean 'svt'?"),
        ("some/svt.yaml", "some/svt.yaml: no such file, and none of this name is shipped; did"),
        (
            "svt_small",
            "svt_small: no such file, and none of this name is shipped; did you mean 'im",
        ),
        ("", "'': no such file, and none of this name is shipped"),
        ("a\0b", "'a\\x00b': no such file, and none of this name is shipped"),
        ("../space", "../space: no such file, and none of this name is shipped"),
    ],
)
def test_an_unknown_name_is_answered_with_the_shipped_ones(name: str, words: str) -> None:
    """And with the nearest."""
    (told,) = faults(lambda: find("space", name))
    assert told.startswith(words)
    assert told.endswith(f"(allowed: {', '.join(SPACES)})")


def test_the_faults_of_several_files_come_together(tmp_path: Path) -> None:
    """Those of a recipe are not hidden by those of a space."""
    space = written(tmp_path, "input_size: 32\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("trials: 1\n", encoding="utf-8")
    assert faults(lambda: collect(lambda: load_space(space), lambda: load_recipe(recipe))) == [
        f"{space}: stages: is missing, and there is no base to take it from",
        f"{recipe}:1: trials: 1 is too small (allowed: 3 to 1000000)",
    ]
    found = collect(lambda: load_space(SPACES["svt"]), lambda: load_recipe(RECIPES["quick"]))
    assert (found[0].name, found[1].trials) == ("svt", 40)


def test_what_a_command_changes_is_checked_as_what_a_file_says() -> None:
    """Its faults are the command line's; dotted keys need not be in the file."""
    path = RECIPES["random"]
    changed = load_recipe(path, {"trials": 7, "budget.max_macs": 5e6, "supernet.epochs": 3})
    assert (changed.trials, changed.budget.max_macs, changed.supernet.epochs) == (7, 5_000_000, 3)
    assert faults(lambda: load_recipe(path, {"trials": 2, "budget.max_macs": 0.5})) == [
        "the command line: trials: 2 is too small (allowed: 3 to 1000000)",
        "the command line: budget.max_macs: 0.5 is not a whole number"
        " (allowed: 1 to 1000000000000000)",
    ]


def test_a_recipe_is_frozen_and_told_in_plain_words_in_python_too() -> None:
    """As it is checked by the same models."""
    recipe = SearchRecipe()
    with pytest.raises(ValidationError):
        recipe.trials = 3
    with pytest.raises(ValidationError, match="many' is not a whole number"):
        SearchRecipe.model_validate({"trials": "many"})


def test_every_key_of_a_recipe_is_described() -> None:
    """A description is what `--help` and the documents can show."""
    models: list[Any] = [SearchRecipe]
    for model in models:
        for name, item in model.model_fields.items():
            assert item.description, f"{model.__name__}.{name}"
            if hasattr(item.annotation, "model_fields"):
                models.append(item.annotation)
    assert len(models) == 5


@dataclass(frozen=True)
class TallStage(StageConfig):
    """A stage with three more dimensions."""

    qkv_bias: str = dimension("stage", 0, "a word", "yes")
    heads: int = dimension("stage", +1, "a number", 1)
    scales: tuple[float, ...] = dimension("block", +1, "numbers of the blocks", (1.0,))


def test_the_keys_follow_from_the_fields() -> None:
    """New fields are keys with the forms of their kind, without a word in the schema."""
    items = {item.name: item for item in fields(TallStage)}
    model = keys_of(StageKeys, "TallStage", TallStage, items, {})
    assert list(model.model_fields) == list(items)
    good = model.model_validate({"heads": [2, 1], "scales": {"values": [2, 1.5], "per": "block"}})
    assert (good.heads, good.scales.values) == ((1, 2), (1.5, 2.0))
    with pytest.raises(ValidationError) as error:
        model.model_validate({"heads": {"values": [1]}, "scales": [-1]})
    assert {item["loc"][0] for item in error.value.errors()} == {"heads", "scales"}


def test_a_new_dimension_is_one_field(tmp_path: Path) -> None:
    """In a copy of the code, one line of `arch.py` gives files and spaces a new key."""
    shutil.copytree(REPO / "twins_nas", tmp_path / "twins_nas", ignore=_only_light)
    arch = tmp_path / "twins_nas" / "arch.py"
    text = arch.read_text(encoding="utf-8")
    last = "    mlp_ratio: tuple[float, ...] = dimension("
    new = '    bias: str = dimension("stage", 0, "of q, k, v", "yes")\n'
    new += '    scale: int = dimension("stage", +1, "a number", 3)\n\n    def __post_init__'
    assert last in text
    arch.write_text(text.replace("\n    def __post_init__", "\n" + new, 1), encoding="utf-8")
    space = tmp_path / "new.yaml"
    stages = "stages: [{bias: ['no', 'yes'], scale: [4, 3]}, {scale: 5}, {}, {}]\n"
    space.write_text(MICRO + stages, encoding="utf-8")
    code = f"""
from twins_nas.config import dump_space, load_space
space = load_space({str(space)!r})
print([(choice.name, choice.values) for choice in space.choices])
print([(stage.bias, stage.scale) for stage in space.base.stages])
open({str(space)!r}, "w").write(dump_space(space))
print(load_space({str(space)!r}) == space)
"""
    assert _python(code, tmp_path).splitlines() == [
        "[('stages.0.bias', ('no', 'yes')), ('stages.0.scale', (3, 4))]",
        "[('yes', 3), ('yes', 5), ('yes', 3), ('yes', 3)]",
        "True",
    ]


def _only_light(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_dir()]


def _python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_file_of_the_yaml_names_a_dimension() -> None:
    """But `depth`, which says how many blocks there are."""
    names = {item.name for item in fields(StageConfig)} | {item.name for item in fields(ArchConfig)}
    for name in ("config", "schema", "space_fill", "space_schema", "space_yaml", "yaml_nodes"):
        code = (REPO / "twins_nas" / f"{name}.py").read_text(encoding="utf-8")
        quoted = {word for word in names if f'"{word}"' in code}
        assert quoted <= {"depth", "stages"}, name


def test_loading_is_quick_and_needs_no_heavy_library() -> None:
    """CPU time of the imports and the load, a space and a recipe."""
    code = """
import time
start = time.process_time()
from twins_nas.config import find, load_space
from twins_nas.recipes import load_recipe
load_space(find("space", "svt")), load_recipe(find("search", "nsga2"))
import sys
print(time.process_time() - start)
print([name for name in ("torch", "numpy", "ray", "optuna", "mlflow") if name in sys.modules])
"""
    seconds, heavy = _python(code, REPO).splitlines()
    assert heavy == "[]"
    assert float(seconds) < 0.5
