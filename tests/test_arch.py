"""The normal form of an architecture, its words, and when two are the same network."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twins_nas.arch import (
    CONV,
    GSA,
    MIXERS,
    PE_KINDS,
    SUBSAMPLINGS,
    ArchConfig,
    StageConfig,
    expand,
    fit_window,
    key,
    normal_pe,
    padded,
    shift_of,
    shortest_pattern,
    why_unbuildable,
)
from twins_nas.seeds import SEEDS, seed

LETTERS = st.text("LSG", min_size=1, max_size=8)


def stage(**changes: Any) -> StageConfig:
    """A small stage of two blocks."""
    given = {
        "embed_dim": 16,
        "head_dim": 8,
        "depth": 2,
        "mixer": "LG",
        "window_size": (4, 4),
        "sr_ratio": (2, 2),
        "pe": "cpe",
        "mlp_ratio": (4.0, 4.0),
    }
    return StageConfig(**{**given, **changes})


def arch(*stages: StageConfig, **changes: Any) -> ArchConfig:
    """A network of these stages, with patches of 2 px."""
    return ArchConfig(stages or (stage(),), **{"patch_size": 2, **changes})


@st.composite
def stages(draw: st.DrawFn) -> StageConfig:
    """Any stage, given with more values than it needs."""
    depth = draw(st.integers(1, 6))
    per_block = st.lists(st.integers(1, 9), min_size=depth, max_size=depth + 2)
    kinds = draw(st.lists(st.sampled_from(PE_KINDS), unique=True))
    return stage(
        embed_dim=8 * draw(st.integers(1, 4)),
        depth=depth,
        mixer=draw(LETTERS),
        window_size=tuple(draw(per_block)),
        sr_ratio=tuple(draw(per_block)),
        pe="+".join(kinds) or "none",
        mlp_ratio=tuple(draw(per_block)),
        subsampling=draw(st.sampled_from(SUBSAMPLINGS)),
    )


@given(LETTERS, st.integers(1, 20))
def test_the_shortest_pattern_says_the_same(pattern: str, depth: int) -> None:
    """It expands to the same letters, and no shorter one does."""
    letters = expand(pattern, depth)
    short = shortest_pattern(letters)
    assert expand(short, depth) == letters
    assert all(expand(letters[:size], depth) != letters for size in range(1, len(short)))


@given(stages())
@settings(max_examples=200)
def test_the_normal_form_is_its_own(one: StageConfig) -> None:
    """Building a stage from its own fields changes nothing; each tuple has one value a block."""
    assert StageConfig(**{item.name: getattr(one, item.name) for item in fields(one)}) == one
    for name in ("window_size", "sr_ratio", "mlp_ratio"):
        assert len(getattr(one, name)) == one.depth
    for letter, window, ratio in zip(one.letters, one.window_size, one.sr_ratio, strict=True):
        assert (window == 0) == (letter == GSA) != (ratio == 0)
    assert one.subsampling == CONV or max(one.sr_ratio) > 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mixer": "LGLG"}, {"mixer": "LG"}),
        ({"mixer": "LLLG"}, {"mixer": "L"}),
        ({"mixer": "LGS"}, {"mixer": "LG"}),
        ({"window_size": (4, 7)}, {"window_size": (4, 9)}),
        ({"sr_ratio": (8, 2)}, {"sr_ratio": (1, 2)}),
        ({"window_size": (4, 4, 9), "mlp_ratio": (4, 4, 1)}, {}),
        ({"window_size": 4, "sr_ratio": 2, "mlp_ratio": 4}, {}),
        ({"mixer": "G", "window_size": (0, 0)}, {"mixer": "G", "window_size": (7, 7)}),
        ({"pe": "rpe+ape"}, {"pe": "ape+rpe"}),
        ({"peg_blocks": 5}, {"peg_blocks": 2}),
        ({"pe": "rpe", "peg_blocks": 2}, {"pe": "rpe"}),
        ({"mixer": "L", "subsampling": "pool"}, {"mixer": "L"}),
        ({"sr_ratio": (2, 1), "subsampling": "pool"}, {"sr_ratio": (1, 1)}),
    ],
)
def test_stages_that_differ_in_what_is_not_used_are_equal(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Letters past the depth, fields that a block lacks and values past the last block."""
    assert stage(**one) == stage(**other)
    assert hash(stage(**one)) == hash(stage(**other))


def test_how_windows_fit_says_nothing_without_windows() -> None:
    """A network of GSA alone has one normal form."""
    only_gsa = stage(mixer="G")
    assert arch(only_gsa, window_fit="pad") == arch(only_gsa, window_fit="clamp")
    assert arch(stage(), window_fit="pad") != arch(stage(), window_fit="clamp")


def test_how_stages_meet_says_nothing_of_one_stage() -> None:
    """Nothing is sub-sampled between stages."""
    assert arch(downsample="merge") == arch()
    assert arch(stage(), stage(), downsample="merge") != arch(stage(), stage())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed_dim": 12}, "embed_dim 12 is not a multiple of head_dim 8"),
        ({"embed_dim": 16.0}, "embed_dim 16.0 is not a whole number of at least 1"),
        ({"depth": 0}, "depth 0 is not a whole number of at least 1"),
        ({"depth": True}, "depth True is not a whole number of at least 1"),
        ({"depth": 3}, "window_size has 2 values for 3 blocks"),
        ({"mixer": ""}, f"mixer '' is not a pattern of the letters {', '.join(MIXERS)}"),
        ({"mixer": "LX"}, f"mixer 'LX' is not a pattern of the letters {', '.join(MIXERS)}"),
        ({"window_size": (0, 4)}, "window_size is missing in a block that uses it"),
        ({"sr_ratio": (2, 0)}, "sr_ratio is missing in a block that uses it"),
        ({"sr_ratio": (2, -1)}, "sr_ratio -1 is not a whole number of at least 0"),
        ({"window_size": (2.5, 2)}, "window_size 2.5 is not a whole number of at least 0"),
        ({"mlp_ratio": (0.01, 4)}, "mlp_ratio 0.01 leaves no hidden unit at embed_dim 16"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio nan leaves no hidden unit at embed_dim 16"),
        (
            {"pe": "rope"},
            f"pe 'rope' is not none, or a sum of different kinds of {', '.join(PE_KINDS)}",
        ),
        ({"pe": "cpe+cpe"}, "pe 'cpe+cpe' is not none, or a sum of different kinds of ape"),
        ({"pe": "none+cpe"}, "pe 'none+cpe' is not none, or a sum of different kinds of ape"),
        ({"peg_blocks": 0}, "peg_blocks 0 is not a whole number of at least 1"),
        ({"subsampling": "gap"}, f"subsampling 'gap' is not one of {', '.join(SUBSAMPLINGS)}"),
    ],
)
def test_a_refused_stage_names_the_field_first(changes: dict[str, Any], words: str) -> None:
    """`config` takes the key of its fault from the first word."""
    with pytest.raises(ValueError) as error:
        stage(**changes)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ()}, "stages: at least one is needed"),
        ({"patch_size": 0}, "patch_size 0 is not a whole number of at least 1"),
        ({"window_fit": "crop"}, "window_fit 'crop' is not one of clamp, pad"),
        ({"norm_eps": 1.0}, "norm_eps 1.0 is not between 0 and 1"),
        ({"patch_eps": 0}, "patch_eps 0 is not between 0 and 1"),
        ({"downsample": "pool"}, "downsample 'pool' is not one of conv, merge"),
        ({"pool": "max"}, "pool 'max' is not one of gap, cls"),
        ({"patch_norm": 1}, "patch_norm 1 is not true or false"),
    ],
)
def test_a_refused_network_names_the_field_first(changes: dict[str, Any], words: str) -> None:
    """As for a stage."""
    with pytest.raises(ValueError) as error:
        replace(arch(), **changes)
    assert str(error.value) == words


def test_grids_halve_and_drop_what_does_not_fit() -> None:
    """Patches first, then each stage; 7 halves to 3."""
    three = arch(stage(), stage(), stage())
    assert three.grids((32, 28)) == ((16, 14), (8, 7), (4, 3))
    with pytest.raises(ValueError, match="input 4x32 leaves no token in stage 2"):
        three.grids((4, 32))
    merged = replace(three, downsample="merge")
    assert merged.grids((32, 28)) == ((16, 14), (8, 7), (4, 4))
    assert merged.grids((4, 32)) == ((2, 16), (1, 8), (1, 4))


def test_a_class_token_joins_the_last_stage() -> None:
    """As in PVT."""
    two = arch(stage(), stage(), pool="cls")
    assert [two.class_tokens(index) for index in range(2)] == [0, 1]
    assert arch(stage()).class_tokens(0) == 0


def test_shifts_are_half_of_windows_that_leave_room() -> None:
    """And 0 along an axis that one window covers, as in Swin."""
    assert shift_of((7, 7), (14, 8)) == (3, 3)
    assert shift_of((7, 5), (7, 8)) == (0, 2)
    assert shift_of((9, 9), (8, 8)) == shift_of((1, 1), (8, 8)) == (0, 0)


def test_why_a_network_cannot_be_built_names_its_field() -> None:
    """A ratio over the grid would leave no key; a window over it is fitted."""
    assert why_unbuildable(arch(stage(window_size=99)), (8, 8)) is None
    assert why_unbuildable(arch(stage(sr_ratio=5)), (8, 8)) == (
        "stages.0.sr_ratio: 5 is over the 4x4 grid of the stage"
    )
    said = why_unbuildable(arch(stage(), stage()), (2, 2))
    assert said == "patch_size: input 2x2 leaves no token in stage 1"


def test_a_window_over_the_grid_is_clamped_or_kept() -> None:
    """Swin clamps, Twins pads the grid to whole windows."""
    assert fit_window(7, (4, 8), "clamp") == (4, 7)
    assert fit_window(7, (4, 8), "pad") == (7, 7)
    assert padded((4, 8), (7, 7)) == (7, 14)
    assert padded((4, 8), (4, 4)) == (4, 8)


@pytest.mark.parametrize("pe", ["none", *PE_KINDS])
def test_a_kind_of_pe_is_its_own_normal_form(pe: str) -> None:
    """Also the kinds that a stage lists."""
    assert normal_pe(pe) == pe
    assert stage(pe=pe).pe_kinds == (() if pe == "none" else (pe,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (arch(stage(window_size=8)), arch(stage(window_size=9))),
        (arch(stage(mixer="S", window_size=8)), arch(stage(mixer="L", window_size=8))),
        (arch(stage(mixer="L", window_size=8)), arch(stage(mixer="G", sr_ratio=1))),
        (arch(stage(mixer="SLG", window_size=8)), arch(stage(mixer="LS", window_size=8))),
        (arch(stage(window_size=4)), arch(stage(window_size=4), window_fit="pad")),
        (arch(stage(mlp_ratio=4.01)), arch(stage(mlp_ratio=4.0))),
        (arch(stage(mixer="SG", window_size=1)), arch(stage(mixer="LG", window_size=1))),
        (
            arch(stage(mixer="SG", window_size=9), window_fit="pad"),
            arch(stage(mixer="LG", window_size=9), window_fit="pad"),
        ),
    ],
)
def test_what_is_the_same_at_a_grid_shares_its_key(one: ArchConfig, other: ArchConfig) -> None:
    """The grid is 8x8; hidden widths count, not the ratios that they come from."""
    assert one != other
    assert key(one, (16, 16)) == key(other, (16, 16))


@pytest.mark.parametrize(
    "other",
    [
        arch(stage(embed_dim=24)),
        arch(stage(head_dim=16)),
        arch(stage(depth=1)),
        arch(stage(mixer="GL")),
        arch(stage(mixer="SG")),
        arch(stage(window_size=2)),
        arch(stage(sr_ratio=4)),
        arch(stage(pe="rpe")),
        arch(stage(pe="ape+cpe")),
        arch(stage(mlp_ratio=2)),
        arch(stage(mlp_ratio=(4, 2))),
        arch(stage(), patch_size=1),
        arch(stage(), norm_eps=1e-5),
        arch(stage(), patch_eps=1e-6),
        arch(stage(), patch_norm=False),
        arch(stage(), pool="cls"),
        arch(stage(peg_blocks=2)),
        arch(stage(subsampling="pool")),
        arch(stage(subsampling="separable")),
        arch(stage(), stage()),
        arch(stage(window_size=3)),
    ],
)
def test_different_networks_have_different_keys(other: ArchConfig) -> None:
    """One change each to a network of one stage, at an 8x8 grid."""
    assert key(other, (16, 16)) != key(arch(stage()), (16, 16))


def test_padding_tells_networks_apart_only_over_the_grid() -> None:
    """At 8x8 a window of 9 is clamped to a full one, or padded to one that sees zeros."""
    over = stage(window_size=9)
    assert key(arch(over), (16, 16)) != key(arch(over, window_fit="pad"), (16, 16))


def test_every_field_of_a_stage_is_in_the_key() -> None:
    """A field that is added to `StageConfig` but not to the key would merge different networks."""
    changed = {
        "embed_dim": 24,
        "head_dim": 16,
        "depth": 1,
        "mixer": "L",
        "window_size": 2,
        "sr_ratio": 4,
        "pe": "none",
        "mlp_ratio": 1,
        "peg_blocks": 2,
        "subsampling": "pool",
    }
    assert list(changed) == [item.name for item in fields(StageConfig)]
    keys = {key(arch(stage(**{name: value})), (16, 16)) for name, value in changed.items()}
    assert len(keys) == len(changed)


@pytest.mark.parametrize("name", list(SEEDS))
def test_a_published_network_is_in_normal_form(name: str) -> None:
    """Heads divide the channels, and the network can be built at its paper's size."""
    network = seed(name)
    assert replace(network) == network
    size = (32, 32) if name.endswith("micro") else (224, 224)
    assert why_unbuildable(network, size) is None
    for one in network.stages:
        assert one.num_heads * one.head_dim == one.embed_dim
        assert all(
            one.hidden_dim(at) == one.embed_dim * one.mlp_ratio[at] for at in range(one.depth)
        )


def test_a_network_is_told_in_a_line() -> None:
    """Used values only, one where the blocks agree."""
    pooled = stage(mixer="G", mlp_ratio=(2, 4), subsampling="pool")
    assert str(arch(stage(), pooled)) == (
        "p2 | 16x2 LG w4 sr2 cpe mlp4 | 16x2 G sr2 pool cpe mlp2,4"
    )
    swinlike = arch(stage(mixer="S", pe="ape+cpe", peg_blocks=2), stage(mixer="G"), pool="cls")
    assert str(replace(swinlike, downsample="merge")) == (
        "p2 merge cls | 16x2 S w4 ape+cpe*2 mlp4 | 16x2 G sr2 cpe mlp4"
    )
