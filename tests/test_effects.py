"""Effects of a supernet's dimensions: known cases, what intervals hold, what is paired."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.special import fdtri, ncfdtr

from twins_nas.config import find, load_space
from twins_nas.effects.agreement import sign_said
from twins_nas.effects.estimates import Contrast, Effect, Hits, effects, rate
from twins_nas.effects.plan import ABLATION_BACKGROUNDS, dimensions, draw, features
from twins_nas.effects.scores import Scores, packed, unpacked
from twins_nas.effects.standalone import sought
from twins_nas.effects.variance import noncentral, reliability, variance
from twins_nas.errors import UserError
from twins_nas.space import SearchSpace
from twins_nas.stats import Interval, Vector
from twins_nas.tuning.toy import toy_space
from twins_nas.verdicts import Rule, compare

POINTS, SLOPE, STEP = 3.0, 10.0, 0.3
"""A choice's own effect; points for each unit of log MACs; how many units the choice costs."""


def simulated(
    rng: np.random.Generator,
    runs: int = 1,
    between: float = 0.0,
    pairs: int = 25,
    images: int = 150,
) -> tuple[list[Hits], Vector, list[Contrast]]:
    """Backgrounds of which the first few have a variant; images and backgrounds differ in it."""
    backgrounds = 3 * pairs
    log_macs_N = rng.uniform(0, 1.5, backgrounds)
    skill_N = 45 + SLOPE * log_macs_N + rng.normal(0, 2, backgrounds)
    own_n = POINTS + rng.normal(0, 2, pairs)
    hits = []
    for _ in range(runs):
        images_J, spread = rng.normal(0, 10, images), rng.normal(0, between) if between else 0.0
        variant_nJ = (skill_N[:pairs] + own_n + SLOPE * STEP + spread)[:, None] + images_J
        chance_KJ = np.concatenate([np.tile(skill_N[:, None], images), variant_nJ]) / 100
        hits.append(rng.random(chance_KJ.shape) < chance_KJ)
    macs_K = np.exp(np.concatenate([log_macs_N, log_macs_N[:pairs] + STEP]))
    places = np.arange(pairs)
    return hits, macs_K, [Contrast("d", "b", "a", backgrounds + places, places, places)]


def estimated(rng: np.random.Generator, **more: float) -> Effect:
    """The effect of a simulation."""
    hits, macs, contrasts = simulated(rng, **more)  # type: ignore[arg-type]
    return effects(hits, macs, np.arange(75), contrasts)[0]


def holds(interval: Interval | None, truth: float) -> bool:
    """Whether the truth is inside."""
    return interval is not None and interval.low <= truth <= interval.high


def test_known_effects_and_their_slope_are_found() -> None:
    """With many pairs and images: the effect as it is, that at equal MACs, and what MACs buy."""
    hits, macs, contrasts = simulated(np.random.default_rng(0), pairs=800, images=1000)
    (one,) = effects(hits, macs, np.arange(2400), contrasts)
    assert one.n == 800 and one.macs == pytest.approx(np.exp(STEP))
    assert one.raw.mean == pytest.approx(POINTS + SLOPE * STEP, abs=1)
    assert one.adjusted.mean == pytest.approx(POINTS, abs=1)
    assert one.raw.shown and one.adjusted.shown
    doubled = rate(hits, macs, np.arange(2400))
    assert holds(doubled.interval, SLOPE * np.log(2)) and doubled.n == 2400


@pytest.mark.parametrize(("runs", "between"), [(1, 0.0), (4, 2.0)], ids=["one", "four supernets"])
def test_intervals_hold_the_truth(runs: int, between: float) -> None:
    """Over backgrounds, images and supernets drawn anew; also the curve's uncertainty is in."""
    rng = np.random.default_rng(runs)
    found = [estimated(rng, runs=runs, between=between) for _ in range(200)]
    raw = np.mean([holds(one.raw.interval, POINTS + SLOPE * STEP) for one in found])
    adjusted = np.mean([holds(one.adjusted.interval, POINTS) for one in found])
    assert 0.91 <= raw <= 0.995 and 0.91 <= adjusted <= 0.995
    spread = np.std([one.raw.mean for one in found])
    halves = [
        (one.raw.interval.high - one.raw.interval.low) / 2 for one in found if one.raw.interval
    ]
    assert 1.7 * spread <= np.mean(halves) <= 3 * spread


def test_an_interval_without_the_supernets_would_be_too_short() -> None:
    """One supernet of many that differ: the truth over all of them is missed, as reports say."""
    rng = np.random.default_rng(7)
    found = [estimated(rng, between=4.0) for _ in range(100)]
    assert np.mean([holds(one.raw.interval, POINTS + SLOPE * STEP) for one in found]) < 0.8


def test_effects_without_pairs_or_spread_have_no_interval() -> None:
    """No pair, one pair, and pairs that never differ."""
    hits = [np.ones((6, 8), dtype=bool)]
    macs, uniform = np.linspace(1, 2, 6), np.arange(6)
    none, some = np.array([], dtype=int), np.array([0, 1])
    contrasts = [
        Contrast("d", "b", "a", none, none, none),
        Contrast("d", "c", "a", some[:1], some[1:], some[:1]),
        Contrast("d", "e", "a", some, some + 2, some),
    ]
    empty, single, flat = effects(hits, macs, uniform, contrasts)
    assert empty.n == 0 and empty.raw.mean != empty.raw.mean and empty.raw.interval is None
    assert single.raw.mean == 0 and single.raw.interval is None and single.raw.corrected is None
    assert flat.n == 2 and flat.raw.interval is None and not flat.adjusted.shown


def drawn(rng: np.random.Generator, n: int, interaction: float) -> tuple[list[Vector], Vector]:
    """Dimensions of 3, 2 and 4 choices: main effects of the first two, and their interaction."""
    chosen = [rng.integers(0, k, n) for k in (3, 2, 4)]
    y = np.array([-2.0, 0.0, 2.0])[chosen[0]] + np.array([-1.0, 1.0])[chosen[1]]
    y = y + interaction * np.array([1.0, 0.0, -1.0])[chosen[0]] * np.array([1.0, -1.0])[chosen[1]]
    shares = [np.eye(k)[one] for k, one in zip((3, 2, 4), chosen, strict=True)]
    return shares, y + rng.normal(0, 1, n)


def test_shares_of_the_variance_are_found() -> None:
    """Of main effects 8 / 3 and 1, of the interaction 2 / 3, of noise 1."""
    rng = np.random.default_rng(1)
    total = 8 / 3 + 1 + 2 / 3 + 1
    found = variance(*drawn(rng, 4000, 1.0), rng, draws=50)
    for share, truth in zip(found.shares, (8 / 3, 1, 0), strict=True):
        assert share.percent == pytest.approx(100 * truth / total, abs=3)
        assert share.interval.low <= share.percent <= share.interval.high
    assert found.main == pytest.approx(100 * (8 / 3 + 1) / total, abs=3)
    first, *others = found.pairs
    assert first.dimensions == (0, 1) and first.p < 0.001
    assert first.percent == pytest.approx(100 * 2 / 3 / total, abs=2)
    assert first.interval.low < 100 * 2 / 3 / total < first.interval.high
    assert first.cell.choices[0] in (0, 2)
    assert abs(first.cell.points) == pytest.approx(1, abs=0.15)
    assert len(others) == 2 and all(pair.p > 0.05 for pair in others)


@pytest.mark.long
def test_shares_and_interactions_over_many_draws() -> None:
    """Bootstrap intervals hold the shares; without interactions few pairs are ever shown."""
    rng = np.random.default_rng(2)
    truth = 100 * (8 / 3) / (8 / 3 + 1 + 1)
    found = [variance(*drawn(rng, 150, 0.0), rng, draws=100) for _ in range(120)]
    assert 0.88 <= np.mean([holds(one.shares[0].interval, truth) for one in found]) <= 0.99
    assert np.mean([one.shares[0].percent for one in found]) == pytest.approx(truth, abs=1.5)
    assert np.mean([min(pair.p for pair in one.pairs) <= 0.05 for one in found]) <= 0.1
    assert all(pair.interval.low == 0 or pair.p < 0.2 for one in found for pair in one.pairs)


def test_an_interaction_of_the_images_alone_is_not_shown() -> None:
    """Each image has one of its own, their mean is 0: shown by the networks, not beside images."""
    rng = np.random.default_rng(4)
    alone, both = [], []
    for _ in range(25):
        shares, y = drawn(rng, 300, 0.0)
        cell_N = (shares[0][:, 0] - shares[0][:, 2]) * (shares[1][:, 0] - shares[1][:, 1])
        images_NJ = y[:, None] + cell_N[:, None] * rng.normal(0, 4, 40)
        top1_N = images_NJ.mean(axis=1)
        without = variance(shares, top1_N, rng, 2)
        with_images = variance(shares, top1_N, rng, 2, [images_NJ])
        alone.append(min(pair.p for pair in without.pairs) <= 0.05)
        both.append(min(pair.p for pair in with_images.pairs) <= 0.05)
    assert np.mean(alone) > 0.6 and np.mean(both) <= 0.12


def test_too_few_networks_are_refused() -> None:
    """Nothing is left to judge by, or nothing varies."""
    rng = np.random.default_rng(3)
    shares, y = drawn(rng, 12, 0.0)
    with pytest.raises(ValueError, match="too few for 6 main effects"):
        variance(shares, y, rng)
    shares, y = drawn(rng, 60, 0.0)
    with pytest.raises(ValueError, match="all networks score the same"):
        variance(shares, np.zeros(60), rng)


def test_noncentrality_and_reliability() -> None:
    """The ends are those under which the F has the tails' chances; halves that agree are sure."""
    low, high = noncentral(6.0, 3, 200, 0.95)
    assert ncfdtr(3, 200, low, 6.0) == pytest.approx(0.975, abs=1e-4)
    assert ncfdtr(3, 200, high, 6.0) == pytest.approx(0.025, abs=1e-4)
    assert noncentral(float(fdtri(3, 200, 0.5)), 3, 200, 0.95)[0] == 0
    x = np.arange(5.0)
    assert reliability(x, x) == pytest.approx(1) and np.isnan(reliability(x, np.zeros(5)))


@pytest.fixture(scope="module")
def families() -> SearchSpace:
    """The space of all families."""
    return load_space(find("space", "families"))


def test_a_plan_is_of_balanced_pairs(families: SearchSpace) -> None:
    """Members of a group differ in its dimension alone; more networks go on where fewer ended."""
    plan, more = draw(families, 300, 0), draw(families, 500, 0)
    assert len(plan.archs) <= 300 and len(more.archs) <= 500
    assert more.groups[: len(plan.groups)] == plan.groups
    assert list(more.archs)[: len(plan.archs)] == list(plan.archs)
    assert draw(families, 300, 1).groups[0] != plan.groups[0]
    for group in plan.groups:
        dimension = plan.dimensions[group.dimension]
        names = set(dimension.settings[0])
        for member, setting in zip(group.members, dimension.settings, strict=False):
            assert families.decode(group.encoding | setting) == member
            assert families.why_not(member) is None
        assert all(set(setting) == names for setting in dimension.settings)
        assert len(group.keys) in (0, len(dimension.labels))
        assert not group.keys or len(set(group.keys)) > 1
    shares = features(families, plan.uniform)
    assert len(shares) == len(dimensions(families))
    assert all(np.allclose(one.sum(axis=1), 1) for one in shares)
    pooled = np.mean(features(families, draw(families, 1200, 0).uniform)[0], axis=0)
    assert np.allclose(pooled, 0.5, atol=0.08)


def test_blocks_of_a_stage_are_one_dimension(families: SearchSpace) -> None:
    """Named by stage and field, with the base's choice as the reference."""
    by_name = {one.name: one for one in dimensions(families)}
    window = by_name["stages.0.window_size"]
    assert window.labels == ("2", "4", "8") and window.reference == 0
    assert set(window.settings[1].values()) == {4} and len(window.settings[1]) == 3
    assert by_name["stages.1.mixer"].labels[by_name["stages.1.mixer"].reference] == "LG"
    assert by_name["pool"].words == "pool" and window.words == "stage 0 window_size"


def test_scores_outlive_a_kill(tmp_path: Path) -> None:
    """Whole lines are kept, a broken end is cut off, other weights' scores are not read."""
    path, rng = tmp_path / "scores.journal", np.random.default_rng(0)
    bits = {name: rng.random(13) < 0.5 for name in "abc"}
    with Scores.opened(path, "one") as scores:
        for name in "ab":
            scores.add(name, packed(bits[name]))
    path.write_bytes(path.read_bytes() + b'{"context": "one", "key"')
    with Scores.opened(path, "one") as scores:
        assert all(np.array_equal(scores.known[name], bits[name]) for name in "ab")
        scores.add("c", packed(bits["c"]))
    with Scores.opened(path, "two") as scores:
        assert not scores.known
    with Scores.opened(path, "one") as scores:
        assert sorted(scores.known) == ["a", "b", "c"]
        assert np.array_equal(unpacked(packed(bits["c"])), scores.known["c"])
    path.write_text('{"other": 1}\n')
    with pytest.raises(UserError, match="holds no scores of this kind"), Scores.opened(path, "one"):
        pass


RECIPE = """
question: Does it matter?
base: {base}
{varied}
compare: {{baseline: {baseline}}}
seeds: 3
data: {{name: {data}}}
"""


def ablation(
    folder: Path,
    varied: str,
    values: dict[str, list[float]],
    base: str = "twins_svt_micro",
    data: str = "fashion-mnist-mini",
) -> Path:
    """A finished ablation's folder with these validation accuracies by variant."""
    folder.mkdir()
    words = {"base": base, "varied": varied, "baseline": next(iter(values)), "data": data}
    (folder / "experiment.yaml").write_text(RECIPE.format(**words))
    lines = ["variant,base,seed,status,val_top1"]
    for name, each in values.items():
        lines += [f"{name},,{at},finished,{value}" for at, value in enumerate(each)]
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_an_ablation_finds_its_counterpart(families: SearchSpace, tmp_path: Path) -> None:
    """One field at all its stages; what the space lacks is named with the reason."""
    values = {"cpe": [80.0, 81.0, 82.0], "rpe": [79.0, 80.0, 80.5], "ape+cpe": [83.0, 84.0, 85.0]}
    folder = ablation(tmp_path / "pe", "vary: {pe: [cpe, rpe, ape+cpe]}", values)
    found = sought(folder, families, "fashion-mnist-mini")
    (one,) = found.counterparts
    assert one.field == "pe" and one.dimension.labels == ("cpe", "rpe")
    assert one.dimension.settings[1] == {f"stages.{at}.pe": "rpe" for at in range(4)}
    assert set(one.archs) == {"cpe", "rpe"} and one.found["rpe"].difference.n == 3
    assert one.found["rpe"].difference.mean == pytest.approx(-7 / 6)
    assert "ape+cpe" in found.without[0] and "is not among" in found.without[0]
    plan = draw(families, 60, 0, [one.dimension])
    groups = [group for group in plan.groups if group.base is None]
    assert len(groups) == ABLATION_BACKGROUNDS
    assert all(pe == "rpe" for group in groups for pe in [s.pe for s in group.members[1].stages])
    assert plan.uniform == list(draw(families, 60, 0).groups)


def test_mixers_and_blocks_find_theirs(families: SearchSpace, tmp_path: Path) -> None:
    """A mixer's letters change which windows and ratios are used; that is no further difference."""
    three = [80.0, 81.0, 82.0]
    mixers = "variants: {LG: {}, G: {mixer: G}, last: {mixer: [LG, LG, L, LG]}}"
    folder = ablation(tmp_path / "mix", mixers, {"LG": three, "G": three[::-1], "last": three})
    (one,) = sought(folder, families, "fashion-mnist-mini").counterparts
    assert one.field == "mixer" and one.dimension.labels == ("LG", "G", "last")
    assert one.dimension.settings[2]["stages.2.mixer"] == "L"
    assert one.dimension.settings[2]["stages.0.mixer"] == "LG"
    ratios = "variants: {b: {}, wide: {stages: {1: {mlp_ratio: 8}}}}"
    folder = ablation(tmp_path / "mlp", ratios, {"b": three, "wide": three[::-1]})
    (one,) = sought(folder, families, "fashion-mnist-mini").counterparts
    assert one.dimension.settings[1] == {f"stages.1.blocks.{at}.mlp_ratio": 8 for at in range(3)}


def test_ablations_without_a_counterpart_say_why(families: SearchSpace, tmp_path: Path) -> None:
    """Several fields, trainings, other images, no results."""
    three = [80.0, 81.0, 82.0]
    varied = "variants: {a: {}, two: {pe: rpe, mlp_ratio: 2}, slow: {training: {lr: 0.001}}}"
    folder = ablation(tmp_path / "many", varied, {"a": three, "two": three, "slow": three})
    found = sought(folder, families, "fashion-mnist-mini")
    assert not found.counterparts
    assert "two changes 2 dimensions (mlp_ratio, pe)" in " ".join(found.without)
    assert "slow changes the training" in " ".join(found.without)
    other = ablation(tmp_path / "other", varied, {"a": three}, data="mnist")
    with pytest.raises(UserError, match="cannot be compared"):
        sought(other, families, "fashion-mnist-mini")
    with pytest.raises(UserError, match="holds no finished ablation"):
        sought(tmp_path, families, "mnist")
    (folder / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no table of an ablation's runs"):
        sought(folder, families, "fashion-mnist-mini")


@pytest.mark.parametrize(
    ("mean", "ends", "said"),
    [
        (2.0, (1.0, 3.0), "same sign"),
        (-2.0, (-3.0, -1.0), "OPPOSITE signs"),
        (0.5, (-1.0, 2.0), "like signs, yet the supernet's interval holds 0"),
    ],
)
def test_signs_are_compared_with_both_intervals(
    mean: float, ends: tuple[float, float], said: str
) -> None:
    """Only where both exclude 0 is there agreement or its opposite."""
    better = {"a": dict(enumerate([80.0, 81, 82])), "b": dict(enumerate([84.0, 85.1, 86]))}
    (alone,) = compare(better, "a", Rule())
    assert sign_said(mean, Interval(*ends), alone) == said
    level = {"a": dict(enumerate([80.0, 81, 82])), "b": dict(enumerate([81.0, 80, 82.5]))}
    (alone,) = compare(level, "a", Rule())
    assert "holds 0 (it could see" in sign_said(2.0, Interval(1, 3), alone)
    assert sign_said(0.1, Interval(-1, 1), alone).startswith("neither shows a sign")


def test_drawing_an_encoding_is_sampling() -> None:
    """The plan's backgrounds are the sampler's networks."""
    space = toy_space()
    assert space.decode(space.draw(random.Random(3))) == space.sample(random.Random(3))
