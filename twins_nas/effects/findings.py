"""All that the scores of a plan show, from one supernet or several of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twins_nas.effects.agreement import Agreement, agreement
from twins_nas.effects.estimates import Contrast, Effect, Hits, Rate, effects, rate
from twins_nas.effects.plan import Dimension, Plan, features
from twins_nas.effects.standalone import Counterpart
from twins_nas.effects.variance import Variance, reliability, variance
from twins_nas.space import SearchSpace
from twins_nas.stats import Interval

MOST_PAIRS = 10
"""Pairs that a table shows."""


@dataclass(frozen=True)
class Insight:
    """What a report is made of; `variance` is None where `why` says what hinders it.

    `archs` counts the networks of the space's own plan, `reliability` is how far the scores of the
    uniform sample would agree with those on other images, `top1` their mean.
    """

    dimensions: tuple[Dimension, ...]
    effects: tuple[Effect, ...]
    rate: Rate
    variance: Variance | None
    why: str
    agreements: tuple[Agreement, ...]
    without: tuple[str, ...]
    supernets: int
    images: int
    archs: int
    backgrounds: int
    top1: float
    reliability: float

    @property
    def answer(self) -> str:
        """The finding in a few sentences, each figure with its interval and n."""
        said = []
        if self.variance is not None:
            most = sorted(self.variance.shares, key=lambda share: -share.percent)[:3]
            names = [
                f"{self.dimensions[one.dimension].words}"
                f" {one.percent:.0f} % [{one.interval.low:.0f}, {one.interval.high:.0f}]"
                for one in most
            ]
            whole = self.variance.main_interval
            said.append(
                "The largest shares of the variance of top-1 over the space, on these images, are"
                f" of {', '.join(names)}; all main effects together have {self.variance.main:.0f} %"
                f" [{whole.low:.0f}, {whole.high:.0f}] (n = {self.variance.n} networks drawn"
                " uniformly)."
            )
        shown = [one for one in self.effects if one.adjusted.shown]
        best = sorted(shown, key=lambda one: -abs(one.adjusted.mean))[:4]
        words = [
            f"{named(one)} {figure_words(one.adjusted.mean, one.adjusted.interval)} points"
            f" (n = {one.n})"
            for one in best
        ]
        tried = sum(one.n > 0 for one in self.effects)
        count = f"{len(shown)} of {tried} effects are shown beside what their MACs buy (p by Holm)"
        said.append(f"{count}{'; the largest: ' if words else ''}{'; '.join(words)}.")
        said.append(f"Twice the MACs buy {rate_words(self.rate)}.")
        return " ".join(said)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the intervals hold, and what they do not."""
        if self.supernets == 1:
            drawn = (
                "Intervals of effects hold the drawing of backgrounds and of validation images."
                " They do NOT hold the supernet's training: there is one, of one seed, and another"
                " seed gives other effects. Give several --run of other seeds to have that in."
            )
        else:
            drawn = (
                f"Intervals of effects hold the drawing of backgrounds and the spread over"
                f" {self.supernets} supernets, whose seeds differ in training and images. Few"
                " supernets make them wide."
            )
        return (
            drawn + self._widest(),
            "An effect is of inherited weights: what weight sharing favours, it favours here too."
            " Only networks trained alone say whether it holds for them.",
            "Shares of the variance by main effects are of these images and supernets, their"
            " intervals hold the drawing of backgrounds alone; those of interactions hold images"
            " too, and no supernets. Of the variance over networks"
            f" {100 * self.reliability:.0f} % would be found again on other images (split halves).",
        )

    def _widest(self) -> str:
        """Which drawing makes the intervals wide."""
        last = 1 if self.supernets == 1 else 2
        known = [one.raw.parts for one in self.effects if one.raw.interval is not None]
        shares = [part[last] ** 2 / (part[0] ** 2 + part[last] ** 2) for part in known]
        if not shares:
            return ""
        share = 100 * float(np.median(shares))
        what = "images" if self.supernets == 1 else "supernets"
        more = f"--{what}" if self.supernets == 1 else "--run"
        return (
            f" Of the variance of an effect {share:.0f} % is of {what}, the rest of backgrounds"
            f" (median over effects): more {more if share > 50 else '--archs'} narrows most."
        )


def named(effect: Effect) -> str:
    """An effect in words."""
    place = effect.dimension.replace("stages.", "stage ").replace(".", " ")
    return f"{place} {effect.choice} against {effect.reference}"


def figure_words(mean: float, interval: Interval | None) -> str:
    """`+0.31 [+0.05, +0.57]`."""
    if mean != mean:
        return "-"
    ends = "" if interval is None else f" [{interval.low:+z.2f}, {interval.high:+z.2f}]"
    return f"{mean:+z.2f}{ends}"


def rate_words(rate: Rate) -> str:
    """What twice the MACs buy."""
    around = f"around {rate.macs / 1e6:.2f} M"
    return f"{figure_words(rate.points, rate.interval)} points {around} (n = {rate.n})"


def insight(
    space: SearchSpace,
    plan: Plan,
    scores_R: Sequence[Mapping[str, Hits]],
    macs: Mapping[str, int],
    counterparts: Sequence[Counterpart],
    without: Sequence[str],
    seed: int,
) -> Insight:
    """The findings; every network of the plan has its score and MACs.

    Raises:
        ValueError: too few backgrounds for any effect.
    """
    keys = list(plan.archs)
    places = {key: at for at, key in enumerate(keys)}
    hits_RKJ = [np.stack([scores[key] for key in keys]) for scores in scores_R]
    macs_K = np.array([macs[key] for key in keys], dtype=float)
    base = plan.uniform
    uniform_N = np.array([places[space.key(group.base)] for group in base if group.base])
    if len(uniform_N) < 3:
        raise ValueError("fewer than three backgrounds")
    own = len(plan.dimensions) - len(counterparts)
    found = effects(hits_RKJ, macs_K, uniform_N, _contrasts(plan, places))
    by_dimension: dict[str, list[Effect]] = {}
    for one in found:
        by_dimension.setdefault(one.dimension, []).append(one)
    top1_K = np.mean([100 * one.mean(axis=1) for one in hits_RKJ], axis=0)
    rng = np.random.default_rng(seed)
    top1_N, parts, why = top1_K[uniform_N], None, ""
    try:
        images_RNJ = [100 * one[uniform_N].astype(float) for one in hits_RKJ]
        parts = variance(features(space, base), top1_N, rng, images_RNJ=images_RNJ)
    except ValueError as error:
        why = str(error)
    halves = [np.mean([one[uniform_N, at::2].mean(axis=1) for one in hits_RKJ], 0) for at in (0, 1)]
    agreements = tuple(
        agreement(
            one,
            by_dimension.get(one.dimension.name, []),
            {
                name: float(top1_K[places[space.key(arch)]])
                for name, arch in one.archs.items()
                if space.key(arch) in places
            },
            rng,
        )
        for one in counterparts
    )
    names = {dimension.name for dimension in plan.dimensions[:own]}
    counted = {keys[at] for at in uniform_N} | {key for group in base for key in group.keys}
    return Insight(
        plan.dimensions[:own],
        tuple(one for one in found if one.dimension in names),
        rate(hits_RKJ, macs_K, uniform_N),
        parts,
        why,
        agreements,
        tuple(without),
        len(hits_RKJ),
        min(one.shape[1] for one in hits_RKJ),
        len(counted),
        len(base),
        float(top1_N.mean()),
        reliability(*halves),
    )


def _contrasts(plan: Plan, places: Mapping[str, int]) -> list[Contrast]:
    """Each choice of each dimension against the reference, where the two networks differ."""
    made = []
    for number, dimension in enumerate(plan.dimensions):
        groups = [
            (at, group)
            for at, group in enumerate(plan.groups)
            if group.dimension == number and group.members
        ]
        for choice, label in enumerate(dimension.labels):
            if choice == dimension.reference:
                continue
            pairs = [
                (places[group.keys[choice]], places[group.keys[dimension.reference]], at)
                for at, group in groups
                if group.keys[choice] != group.keys[dimension.reference]
            ]
            variant, reference, backgrounds = np.array(pairs, dtype=np.intp).reshape(-1, 3).T
            inside = backgrounds < len(plan.uniform)
            backgrounds = np.where(inside, backgrounds, -1)
            words = (dimension.name, label, dimension.labels[dimension.reference])
            made.append(Contrast(*words, variant, reference, backgrounds))
    return made
