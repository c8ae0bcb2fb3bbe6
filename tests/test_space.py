"""Spaces: the count against brute force, members, encodings, extremes, and faults."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from twins_nas.arch import ArchConfig
from twins_nas.config import load_space, shipped_files
from twins_nas.cost import cost
from twins_nas.seeds import SEEDS, seed
from twins_nas.space import ARCH_FIELDS, STAGE_FIELDS, SearchSpace

SHIPPED = list(shipped_files("space"))
STAGE = {
    "embed_dim": 8,
    "head_dim": 8,
    "depth": 2,
    "mixer": "LG",
    "window_size": 2,
    "sr_ratio": 1,
    "pe": "none",
    "mlp_ratio": 2,
}
PER_BLOCK = {"values": [1, 2], "per": "block"}
SMALL: dict[str, list[dict[str, Any]]] = {
    "one network": [{}],
    "tied": [{"embed_dim": [8, 16], "pe": ["none", "cpe", "ape+cpe"], "mlp_ratio": [1, 2]}],
    "depths, tied": [{"depth": [1, 2, 3], "mlp_ratio": [1, 2]}],
    "depths, per block": [{"depth": [1, 2, 3], "mlp_ratio": PER_BLOCK}],
    "windows over the grid": [{"mixer": "L", "window_size": [2, 4, 8, 16]}],
    "windows over the grid, per block": [
        {"mixer": "L", "window_size": {"values": [2, 4, 8], "per": "block"}, "depth": [1, 2]}
    ],
    "mixers that overlap": [
        {"mixer": ["L", "LG", "LLG", "G", "S", "LS"], "depth": [1, 2, 3], "sr_ratio": [1, 2]}
    ],
    "mixers that overlap, per block": [
        {
            "mixer": ["L", "LG", "GL", "LS"],
            "depth": [2, 3],
            "window_size": {"values": [2, 4], "per": "block"},
            "sr_ratio": PER_BLOCK,
        }
    ],
    "hidden widths that are equal": [{"mlp_ratio": [2, 2.05, 2.1, 3]}],
    "blocks given one by one": [
        {"mixer": ["LG", "G"], "sr_ratio": {"blocks": [[1, 2], 2]}, "depth": [1, 2]}
    ],
    "pegs": [
        {"pe": ["none", "cpe", "rpe", "cpe+rpe"], "peg_blocks": [1, 2, 4], "depth": [1, 2, 3]},
        {"peg_blocks": [1, 2], "pe": "rpe"},
    ],
    "sub-sampling that some members lack": [
        {
            "mixer": ["L", "LG", "G"],
            "depth": [1, 2],
            "sr_ratio": PER_BLOCK,
            "subsampling": ["pool", "conv", "separable"],
        },
        {"mixer": ["L", "G"], "sr_ratio": [1, 2], "subsampling": "pool"},
    ],
    "two stages": [
        {"depth": [1, 2], "mlp_ratio": PER_BLOCK},
        {"mixer": ["L", "G"], "window_size": [1, 2, 4], "sr_ratio": [1, 2]},
    ],
}
WHOLE: dict[str, dict[str, Any]] = {
    "as they are": {},
    "patches": {"patch_size": [2, 4], "norm_eps": [1e-6, 1e-5]},
    "fits": {"window_fit": ["clamp", "pad"]},
    "fits and patches": {"window_fit": ["pad", "clamp"], "patch_size": [2, 4]},
    "families": {"downsample": ["conv", "merge"], "pool": ["gap", "cls"], "patch_size": [1, 2]},
    "norms": {"patch_norm": [True, False], "patch_eps": [1e-6, 1e-5], "downsample": "merge"},
}


def space_of(folder: Path, stages: list[dict[str, Any]], **whole: Any) -> SearchSpace:
    """The space of a file with these changes to `STAGE`, on 16 px with patches of 2."""
    keys = {"input_size": 16, "patch_size": 2, **whole, "stages": [{**STAGE, **s} for s in stages]}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return load_space(path)


def everything(space: SearchSpace) -> list[ArchConfig]:
    """The network of each encoding."""
    names = [choice.name for choice in space.choices]
    grid = product(*(choice.values for choice in space.choices))
    return [space.decode(dict(zip(names, values, strict=True))) for values in grid]


def every_small_space(test: Any) -> Any:
    """Parametrizes a test by `stages` and `whole`."""
    test = pytest.mark.parametrize("stages", SMALL.values(), ids=SMALL)(test)
    return pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)(test)


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> SearchSpace:
    """A shipped space."""
    return load_space(shipped_files("space")[request.param])


@every_small_space
def test_the_size_is_the_number_of_different_keys(
    stages: list[dict[str, Any]], whole: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever the encodings that lead to the same network."""
    space = space_of(tmp_path, stages, **whole)
    found = everything(space)
    assert space.size() == len({space.key(arch) for arch in found})
    assert all(space.why_not(arch) is None for arch in found)


@every_small_space
def test_every_member_has_one_encoding_that_leads_back(
    stages: list[dict[str, Any]], whole: dict[str, Any], tmp_path: Path
) -> None:
    """`encode` gives every choice a legal value; equal members get equal ones."""
    space = space_of(tmp_path, stages, **whole)
    legal = {choice.name: choice.values for choice in space.choices}
    for arch in everything(space):
        encoding = space.encode(arch)
        assert space.decode(encoding) == arch
        assert encoding.keys() == legal.keys()
        assert all(value in legal[name] for name, value in encoding.items())


def test_the_space_of_one_network_has_one_member() -> None:
    """Of each published network."""
    for name in SEEDS:
        space = SearchSpace.point(seed(name), (224, 224))
        assert (space.size(), space.choices, space.encode(space.base)) == (1, (), {})
        assert (
            space.extreme(-1) == space.extreme(+1) == space.sample(random.Random(0)) == seed(name)
        )


def test_samples_mutants_and_children_are_members(shipped: SearchSpace) -> None:
    """A walk of mutations and crossings never leaves the space."""
    rng = random.Random(0)
    one = shipped.base
    for _ in range(100):
        other = shipped.sample(rng)
        child = shipped.cross(one, other, rng)
        mutant = shipped.mutate(child, rng, rate=0.1)
        for arch in (other, child, mutant):
            assert shipped.why_not(arch) is None
            assert shipped.decode(shipped.encode(arch)) == arch
        one = mutant
    assert one != shipped.base


@pytest.mark.parametrize("window_fit", ["pad", ["pad", "clamp"]])
def test_members_without_windows_are_members_however_windows_fit(
    window_fit: Any, tmp_path: Path
) -> None:
    """Their normal form is `clamp`, also where the space has only `pad`."""
    stages = [{"mixer": ["LG", "G"], "depth": [1, 2], "window_size": [2, 4], "sr_ratio": [1, 2]}]
    space = space_of(tmp_path, stages, window_fit=window_fit)
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(50)]
    assert {arch.stages[0].mixer for arch in archs} == {"L", "LG", "G"}
    for arch in archs:
        assert space.why_not(space.mutate(arch, rng, rate=0.5)) is None


def test_a_child_has_each_value_from_a_parent(shipped: SearchSpace) -> None:
    """Or the first value, of what it does not use."""
    rng = random.Random(1)
    first = {choice.name: choice.values[0] for choice in shipped.choices}
    for _ in range(20):
        one, other = shipped.sample(rng), shipped.sample(rng)
        sources = [shipped.encode(one), shipped.encode(other), first]
        for name, value in shipped.encode(shipped.cross(one, other, rng)).items():
            assert value in [source[name] for source in sources]


def test_mutation_steps_to_a_neighbour_where_there_is_an_order(shipped: SearchSpace) -> None:
    """At rate 1 every choice moves, an ordered one by one step; at rate 0 none does."""
    rng = random.Random(0)
    start = shipped.extreme(+1)
    assert shipped.mutate(start, rng, rate=0) == start
    before = shipped.encode(start)
    after = shipped.encode(shipped.mutate(start, rng, rate=1))
    depths = {name for name in before if name.endswith("depth")}
    for choice in shipped.choices:
        if choice.name in depths or not choice.ordered:
            assert before[choice.name] != after[choice.name]
        if choice.name in depths:
            places = [choice.values.index(values[choice.name]) for values in (before, after)]
            assert abs(places[0] - places[1]) == 1


def test_sampling_is_uniform_over_each_choice(shipped: SearchSpace) -> None:
    """Each value of each stage-wide choice comes up about as often as the others."""
    rng = random.Random(0)
    draws = [shipped.sample(rng) for _ in range(1500)]
    for choice in shipped.choices:
        if choice.field not in ("embed_dim", "pe", "depth"):
            continue
        stage = int(choice.name.split(".")[1])
        counts = Counter(getattr(arch.stages[stage], choice.field) for arch in draws)
        expected = 1500 / len(choice.values)
        assert all(abs(counts[value] - expected) < 0.25 * expected for value in choice.values)


def test_the_extremes_are_those_of_macs(shipped: SearchSpace) -> None:
    """Against random members with the same unordered values, and against every single step."""
    rng = random.Random(0)
    unordered = [choice for choice in shipped.choices if not choice.ordered]
    for draw in range(5):
        largest = shipped.extreme(+1, random.Random(draw))
        smallest = shipped.extreme(-1, random.Random(draw))
        # Not read back from the encodings: a shallow stage has several words for its mixer.
        drawn = random.Random(draw)
        same = {choice.name: drawn.choice(choice.values) for choice in unordered}
        bounds = [cost(arch, shipped.input_size).macs for arch in (smallest, largest)]
        for _ in range(100):
            member = shipped.decode({**shipped.encode(shipped.sample(rng)), **same})
            assert bounds[0] <= cost(member, shipped.input_size).macs <= bounds[1]


def test_macs_follow_every_ordered_choice(shipped: SearchSpace) -> None:
    """`grows` is true of each choice by itself, whatever the others are."""
    rng = random.Random(0)
    for choice in shipped.choices:
        for encoding in (shipped.encode(shipped.sample(rng)) for _ in range(10)):
            ladder = [
                cost(shipped.decode({**encoding, choice.name: value}), shipped.input_size).macs
                for value in choice.values
            ]
            if choice.ordered:
                assert ladder == sorted(ladder, reverse=choice.grows < 0), choice.name


def test_unordered_choices_of_an_extreme_are_drawn_evenly(shipped: SearchSpace) -> None:
    """With a generator; without one they are the base's."""
    rng = random.Random(0)
    name = next(choice.name for choice in shipped.choices if not choice.ordered)
    values = next(choice.values for choice in shipped.choices if choice.name == name)
    draws = 200 * len(values)
    counts = Counter(shipped.encode(shipped.extreme(+1, rng))[name] for _ in range(draws))
    assert all(abs(counts[value] - 200) < 60 for value in values)
    assert shipped.encode(shipped.extreme(+1))[name] == shipped.encode(shipped.base)[name]


def test_the_shipped_svt_space_is_what_it_promises() -> None:
    """Large, wide in MACs, and small enough to be trained on a CPU."""
    space = load_space(shipped_files("space")["svt"])
    macs = [cost(space.extreme(sign), space.input_size, 1, 10).macs for sign in (-1, 1)]
    assert space.size() >= 1e8
    assert macs[1] >= 8 * macs[0]
    assert macs[1] <= 12e6
    for field in ("window_size", "sr_ratio"):
        assert sum(any(len(v) > 1 for v in stage[field]) for stage in space.stages) >= 2


def test_the_fingerprint_is_that_of_the_values(tmp_path: Path) -> None:
    """Names do not count; each value does."""
    space = space_of(tmp_path, [{"depth": [1, 2]}])
    assert space_of(tmp_path, [{"depth": [1, 2]}], name="other").fingerprint == space.fingerprint
    others = [
        space_of(tmp_path, [{"depth": [1, 3]}]),
        space_of(tmp_path, [{"depth": [1, 2]}], input_size=32),
        space_of(tmp_path, [{"depth": [1, 2]}], norm_eps=1e-5),
        space_of(tmp_path, [{"depth": [1, 2], "mlp_ratio": {"blocks": [2, 2]}}]),
    ]
    assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_names_and_ranges_do_not_depend_on_the_member(tmp_path: Path) -> None:
    """Values of blocks are drawn up to the largest depth; those that no mixer uses have no axis."""
    space = space_of(tmp_path, [{"depth": [1, 3], "window_size": PER_BLOCK, "mlp_ratio": [1, 2]}])
    assert [choice.name for choice in space.choices] == [
        "stages.0.depth",
        "stages.0.blocks.0.window_size",
        "stages.0.blocks.2.window_size",
        "stages.0.mlp_ratio",
    ]
    assert [choice.field for choice in space.choices[1:3]] == ["window_size", "window_size"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": 4}, "patch_size: 4 is not among 2"),
        ({"norm_eps": 1e-5}, "norm_eps: 1e-05 is not among 1e-06"),
        ({"embed_dim": 16}, "stages.0.embed_dim: 16 is not among 8"),
        ({"window_size": (8, 0)}, "stages.0.window_size: 8 is not among 2, 4"),
        ({"depth": 1}, "stages.0.depth: 1 is not among 2"),
        ({"mixer": "G", "sr_ratio": (1, 1)}, "stages.0.mixer: G is not among LG"),
        ({"pe": "cpe"}, "stages.0.pe: cpe is not among none"),
        ({"mlp_ratio": (2, 1)}, "blocks of a stage differ where the space ties them"),
    ],
)
def test_why_a_network_is_not_a_member(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The first key that it differs in, and what the space has there."""
    space = space_of(tmp_path, [{"window_size": [2, 4], "mlp_ratio": [1, 2]}])
    base = space.base
    if set(change) <= set(ARCH_FIELDS):
        other = replace(base, **change)
    else:
        assert set(change) <= set(STAGE_FIELDS)
        other = replace(base, stages=(replace(base.stages[0], **change),))
    assert space.why_not(other) == words
    with pytest.raises(ValueError, match="not a member of space small"):
        space.encode(other)
    two = replace(base, stages=base.stages * 2)
    assert space.why_not(two) == "stages: there are 2, the space has 1"


def test_a_space_tells_all_of_its_faults() -> None:
    """One a line, before any member is drawn."""
    base = seed("twins_svt_micro")
    space = SearchSpace.point(base, (32, 32))
    stages = list(space.stages)
    stages[0] = {**stages[0], "embed_dim": ((16, 12),), "mlp_ratio": ((0.01, 4.0),)}
    stages[3] = {**stages[3], "sr_ratio": ((1, 4),)}
    with pytest.raises(ValueError) as error:
        SearchSpace("", (32, 32), base, space.arch, tuple(stages))
    assert str(error.value).splitlines() == [
        "stages.3.sr_ratio: 4 is over the 2x2 grid of the stage",
        "stages.0.embed_dim: 12 is not a multiple of head_dim 8",
        "stages.0.mlp_ratio: 0.01 leaves no hidden unit at embed_dim 12",
    ]


def test_the_grid_of_a_stage_is_its_largest(tmp_path: Path) -> None:
    """Over the patch sizes."""
    space = space_of(tmp_path, [{}, {}], patch_size=[2, 4], input_size=[16, 32])
    assert [space.grid(0), space.grid(1)] == [(8, 16), (4, 8)]


def test_values_that_do_not_divide_a_grid_can_break_the_order_of_macs(tmp_path: Path) -> None:
    """Why shipped spaces have none: a window of 3 pads a 4x4 grid to 6x6, and costs more than 4."""
    space = space_of(tmp_path, [{"mixer": "L", "window_size": [2, 3, 4]}], patch_size=4)
    macs = [cost(arch, space.input_size).macs for arch in everything(space)]
    assert macs[0] < macs[2] < macs[1]
