"""Figures of rankings: by hand, against SciPy, and intervals that hold what they should."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from twins_nas.agreement import (
    BASELINE,
    EACH,
    SUPERNET,
    Findings,
    Resamples,
    Scores,
    bins_of,
    ceiling_of,
    drawn,
    findings,
)
from twins_nas.errors import UserError
from twins_nas.ranks import kendall, tau
from twins_nas.report import ranking as report
from twins_nas.seeds import seed
from twins_nas.truth import Truth

Vector = np.ndarray


def rng(at: int = 0) -> np.random.Generator:
    """A generator of its own for each call."""
    return np.random.default_rng(at)


def truth_of(top1_NS: Vector, macs_N: Vector | None = None) -> Truth:
    """A truth of made-up accuracies."""
    n = len(top1_NS)
    macs_N = np.arange(1.0, n + 1) if macs_N is None else macs_N
    archs = (seed("twins_svt_micro"),) * n
    labels = tuple(f"network {at}" for at in range(n))
    held_out_N = np.arange(n) % 2 == 1
    seeds = tuple(range(top1_NS.shape[1]))
    return Truth("made", "", seeds, labels, archs, macs_N, macs_N[::-1].copy(), top1_NS, held_out_N)


def made(n: int = 24, seeds: int = 3, noise: float = 0.3) -> tuple[Truth, Vector]:
    """Normal networks with noisy seeds, and what they are without noise."""
    perfect_N = rng(1).normal(size=n)
    return truth_of(perfect_N[:, None] + noise * rng(2).normal(size=(n, seeds))), perfect_N


def found_of(truth: Truth, *scores: Scores, bins: int = 3) -> Findings:
    """The figures of scores, the first of which is the headline."""
    return findings(truth, scores, scores[0].name, bins, rng(), draws=400)


def test_the_headline_is_compared_with_the_other_scores() -> None:
    """On the same resamples: where both are one score, nothing is between them."""
    truth, perfect_N = made()
    runs_MN = perfect_N + 0.3 * rng(3).normal(size=(3, 24))
    noisy_MN = perfect_N + 2.0 * rng(5).normal(size=(3, 24))
    others = [Scores("same", SUPERNET, runs_MN), Scores("noisy", SUPERNET, noisy_MN)]
    found = found_of(truth, Scores("loss", SUPERNET, runs_MN), *others)
    between = {row.name: row.figures["tau"] for row in found.differences[-2:]}
    assert list(between) == ["loss - same", "loss - noisy"]
    same, noisy = between.values()
    assert same.value == same.interval.low == same.interval.high == 0
    assert noisy.interval.low > 0


def test_every_ranking_has_figures_with_intervals() -> None:
    """Supernets of three seeds, a proxy, MACs, params and chance; and differences of the first."""
    truth, perfect_N = made()
    runs_MN = perfect_N + 0.5 * rng(3).normal(size=(3, 24))
    each = [Scores(f"loss, {at}", EACH, run_N[None]) for at, run_N in enumerate(runs_MN)]
    proxy = Scores("proxy", BASELINE, rng(4).normal(size=(1, 24)))
    found = found_of(truth, Scores("loss", SUPERNET, runs_MN), *each, proxy)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == [
        *(
            "loss",
            "loss, 0",
            "loss, 1",
            "loss, 2",
            "proxy",
            "MACs",
            "params",
            "MACs x params",
            "random",
        )
    ]
    for row in found.rows:
        assert set(row.figures) == {"tau", "within", "rho", "regret1", "regret5"}
        for figure in row.figures.values():
            assert figure.interval.low <= figure.interval.high and figure.n == 24
    for run_N, one in zip(runs_MN, each, strict=True):
        tau_of = scipy.stats.kendalltau(run_N, truth.means_N).statistic
        assert rows[one.name].figures["tau"].value == pytest.approx(tau_of)
        rho_of = scipy.stats.spearmanr(run_N, truth.means_N).statistic
        assert rows[one.name].figures["rho"].value == pytest.approx(rho_of)
    means = np.mean([rows[one.name].figures["tau"].value for one in each])
    assert rows["loss"].figures["tau"].value == pytest.approx(means)
    chance = rows["random"].figures["tau"]
    assert abs(chance.value) < 0.05 and chance.interval.low < -0.15 < 0.15 < chance.interval.high
    told = ["loss - MACs", "loss - params", "loss - MACs x params"]
    assert [row.name for row in found.differences] == told
    product_N = truth.macs_N.astype(float) * truth.params_N
    tau_of = scipy.stats.kendalltau(product_N, truth.means_N).statistic
    assert rows["MACs x params"].figures["tau"].value == pytest.approx(tau_of)
    difference = found.differences[0].figures["tau"]
    assert difference.value == pytest.approx(
        rows["loss"].figures["tau"].value - rows["MACs"].figures["tau"].value
    )
    assert difference.interval.low > 0
    assert found_of(truth, Scores("loss", SUPERNET, runs_MN)).answer.name == "loss"


def test_how_far_supernets_agree_with_each_other() -> None:
    """Each pair of them, overall and within bins; one without an order is left out."""
    truth, perfect_N = made()
    one_N, other_N = perfect_N + 0.5 * rng(3).normal(size=(2, 24))
    found = found_of(truth, Scores("loss", SUPERNET, np.array([one_N, other_N, 0 * one_N])))
    [(overall, within)] = found.among
    assert overall == pytest.approx(scipy.stats.kendalltau(one_N, other_N).statistic)
    pairs = [(a, b) for a in range(24) for b in range(a) if found.bins_N[a] == found.bins_N[b]]
    signs = [np.sign((one_N[a] - one_N[b]) * (other_N[a] - other_N[b])) for a, b in pairs]
    assert within == pytest.approx(np.mean(signs))
    told = f"of two of these supernets agree with tau {overall:.2f} (one pair), within"
    assert told in "".join(report.reading(found))
    three = found_of(truth, Scores("loss", SUPERNET, np.array([one_N, other_N, one_N])))
    told = f"{(2 * overall + 1) / 3:.2f} ({overall:.2f} to 1.00 over 3 pairs)"
    assert f"of two of these supernets agree with tau {told}" in "".join(report.reading(three))
    assert not found_of(truth, Scores("loss", SUPERNET, one_N[None])).among


def test_how_far_whole_trainings_agree_with_each_other() -> None:
    """Each pair of the bank's seeds; a bank of one seed has none."""
    truth, perfect_N = made()
    scores = Scores("loss", SUPERNET, perfect_N[None])
    found = found_of(truth, scores)
    seeds = truth.top1_NS.T
    told = [scipy.stats.kendalltau(one, other).statistic for one, other in combinations(seeds, 2)]
    assert [overall for overall, _ in found.again] == pytest.approx(told)
    said = "".join(report.reading(found))
    assert f"Two seeds of the bank order its networks with tau {np.mean(told):.2f}" in said
    single = found_of(truth_of(truth.top1_NS[:, :1], truth.macs_N), scores)
    assert not single.again and "Two seeds" not in "".join(report.reading(single))


def test_tau_within_bins_counts_pairs_of_a_bin_alone() -> None:
    """Against a slow count; MACs that order everything say nothing within bins of their own."""
    score_N, truth_N = rng(1).normal(size=(2, 12))
    bins_N = bins_of(rng(2).random(12), 3)
    assert np.bincount(bins_N.astype(int)).tolist() == [4, 4, 4]
    agreed = pairs = 0
    for one in range(12):
        for other in range(one):
            if bins_N[one] == bins_N[other]:
                product = (score_N[one] - score_N[other]) * (truth_N[one] - truth_N[other])
                agreed, pairs = agreed + np.sign(product), pairs + 1
    assert pairs == 18
    assert tau(score_N, truth_N, bins_N)(np.ones((1, 12)))[0] == pytest.approx(agreed / pairs)
    whole = tau(score_N, truth_N, np.zeros(12))(np.ones((1, 12)))[0]
    assert whole == pytest.approx(scipy.stats.kendalltau(score_N, truth_N).statistic)
    stairs_N = bins_N + 0.01 * rng(3).random(12)
    found = found_of(truth_of(stairs_N[:, None] + np.zeros((12, 2)), bins_N), _loss(score_N))
    macs = next(row for row in found.rows if row.name == "MACs")
    assert macs.figures["tau"].value > 0.8 and not np.isfinite(macs.figures["within"].value)


def test_resamples_of_one_seed_and_one_supernet_are_those_of_items() -> None:
    """The interval is then the one that `ranks` gives."""
    truth, perfect_N = made(seeds=1)
    figure = Resamples.draw(truth.top1_NS, rng(), 4000).figure(
        tau, perfect_N[None], np.ones((4000, 1))
    )
    plain = kendall(perfect_N.tolist(), truth.means_N.tolist(), rng(), draws=4000)
    assert figure.value == plain.value
    assert figure.interval.low == pytest.approx(plain.interval.low, abs=0.02)
    assert figure.interval.high == pytest.approx(plain.interval.high, abs=0.02)


def test_seeds_and_supernets_widen_the_interval() -> None:
    """Noise of the bank's seeds, and of supernets, is part of what is not known."""
    n, draws = 30, 2000
    perfect_N = rng(1).normal(size=n)
    top1_NS = perfect_N[:, None] + rng(2).normal(size=(n, 2))
    whole = Resamples.draw(top1_NS, rng(3), draws)
    fixed = replace(whole, seeds_BS=np.ones((draws, 2)))
    one_B1 = np.ones((draws, 1))
    wide, narrow = (one.figure(tau, perfect_N[None], one_B1).interval for one in (whole, fixed))
    assert wide.high - wide.low > narrow.high - narrow.low
    runs_MN = np.stack([perfect_N, perfect_N + 2 * rng(4).normal(size=n)])
    several = fixed.figure(tau, runs_MN, drawn(2, rng(5), draws)).interval
    same = fixed.figure(tau, runs_MN, np.ones((draws, 2))).interval
    assert several.high - several.low > 1.2 * (same.high - same.low)


def test_interval_holds_the_truth() -> None:
    """Of tau with the means of three seeds, over networks and seeds, in 90 % or more of 120."""
    n, seeds, held = 24, 3, 0
    r = 0.9 / math.sqrt(1 + 0.4**2 / seeds)
    target = 2 / math.pi * math.asin(r)
    for at in range(120):
        mine = rng(at)
        perfect_N, other_N = mine.normal(size=(2, n))
        score_N = 0.9 * perfect_N + math.sqrt(1 - 0.81) * other_N
        top1_NS = perfect_N[:, None] + 0.4 * mine.normal(size=(n, seeds))
        one = Resamples.draw(top1_NS, mine, 300)
        interval = one.figure(tau, score_N[None], np.ones((300, 1))).interval
        held += interval.low <= target <= interval.high
    assert held / 120 >= 0.9


def test_ceilings_fall_with_the_noise() -> None:
    """Of tau and within bins, where less spread is left; a single seed has none."""
    calm, loud = (
        found_of(truth, _loss(perfect_N)).ceiling
        for truth, perfect_N in (made(noise=0.1), made(noise=1.5))
    )
    assert calm is not None and loud is not None
    assert 0.9 < calm.tau.value <= 1 and loud.tau.value < calm.tau.value
    assert calm.tau.interval.low <= calm.tau.value <= calm.tau.interval.high
    assert calm.tau_within is not None
    stairs_N = np.repeat([0.0, 10.0, 20.0], 8)
    top1_NS = stairs_N[:, None] + rng(1).normal(size=(24, 2))
    found = found_of(truth_of(top1_NS), _loss(stairs_N + rng(2).random(24))).ceiling
    assert found is not None and found.tau_within is not None
    assert found.tau.value > 0.85 > found.tau_within.value
    truth, perfect_N = made(seeds=1)
    assert found_of(truth, _loss(perfect_N)).ceiling is None


def test_ceiling_within_bins_is_that_of_the_model() -> None:
    """What a seed does to a whole bin is no noise within it: on average what simulation gives.

    Networks differ by 1 within bins, seeds by 1 a run and by 2 a bin: the means of two seeds have
    within bins a reliability of 1 / (1 + 1 / 2), which is known of many networks.
    """
    n, seeds = 400, 2
    bins_N = bins_of(np.arange(float(n)), 4)
    found = []
    for at in range(8):
        mine = rng(at)
        inner_NS = mine.normal(size=(n, 1)) + mine.normal(size=(n, seeds))
        shared_NS = 2 * mine.normal(size=(4, seeds))[bins_N.astype(int)]
        top1_NS = 5 * bins_N[:, None] + inner_NS + shared_NS
        ceiling = ceiling_of(top1_NS, bins_N, mine, draws=20)
        assert ceiling is not None and ceiling.within is not None
        found.append(ceiling.within.value)
    assert np.mean(found) == pytest.approx(1 / 1.5, abs=0.02)


def test_no_ceiling_without_a_spread_of_the_seeds() -> None:
    """Seeds whose networks are all the same have no correlation."""
    truth, perfect_N = made(seeds=2)
    top1_NS = truth.top1_NS.copy()
    top1_NS[:, 1] = 80.0
    found = found_of(truth_of(top1_NS), _loss(perfect_N))
    assert found.ceiling is None and "no noise ceiling is known" in report.answer(found)


def test_scores_without_an_order_are_left_out_with_the_reason() -> None:
    """Scores that are all the same, or not finite; a truth without an order is refused."""
    truth, perfect_N = made()
    broken = Scores("broken", BASELINE, np.full((1, 24), np.nan))
    found = found_of(truth, _loss(np.ones(24)), broken)
    assert not found.answer.figures and not found.differences
    assert any(
        "loss is left out: the scores of all 24 items are the same" in s for s in found.notes
    )
    assert any("broken is left out: the scores are not all finite" in s for s in found.notes)
    with pytest.raises(UserError, match="equally accurate"):
        found_of(truth_of(np.ones((24, 2))), _loss(perfect_N))
    with pytest.raises(UserError, match="--bins 9: 24 networks make at most 8 bins"):
        found_of(truth, _loss(perfect_N), bins=9)
    with pytest.raises(UserError, match="5 whole networks"):
        found_of(truth_of(truth.top1_NS[:5]), _loss(perfect_N[:5]))


def test_parts_and_whole_networks() -> None:
    """A part has its own networks; those that lack a run are told apart by name."""
    truth, _ = made(n=6, seeds=2)
    held_out = truth.part("held-out")
    assert held_out.labels == ("network 1", "network 3", "network 5")
    assert held_out.macs_N.tolist() == [2.0, 4.0, 6.0] and len(truth.part("all")) == 6
    top1_NS = truth.top1_NS.copy()
    top1_NS[2, 1] = np.nan
    whole, lacking = replace(truth, top1_NS=top1_NS).whole()
    assert lacking == ("network 2",) and len(whole) == 5 and whole.top1_NS.shape == (5, 2)
    with pytest.raises(UserError, match="no tuning part"):
        held_out.part("tuning")


def _loss(score_N: Vector) -> Scores:
    return Scores("loss", SUPERNET, score_N[None])
