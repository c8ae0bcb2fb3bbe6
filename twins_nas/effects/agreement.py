"""Whether a supernet and stand-alone trainings agree on an effect: its sign, and the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twins_nas.effects.estimates import Effect
from twins_nas.effects.standalone import Counterpart
from twins_nas.ranks import Estimate, kendall
from twins_nas.stats import Interval
from twins_nas.verdicts import Comparison


@dataclass(frozen=True)
class Compared:
    """A variant in both: `same` is what the supernet gives the ablation's own two networks."""

    variant: str
    effect: Effect
    alone: Comparison
    same: float | None
    said: str


@dataclass(frozen=True)
class Agreement:
    """An ablation beside the supernet; `order` is None for fewer than three variants."""

    counterpart: Counterpart
    rows: tuple[Compared, ...]
    order: Estimate | None


def agreement(
    counterpart: Counterpart,
    effects: Sequence[Effect],
    top1: Mapping[str, float],
    rng: np.random.Generator,
) -> Agreement:
    """The comparison; `top1` holds the supernet's scores of the ablation's own networks."""
    baseline = counterpart.dimension.labels[0]
    rows = []
    for effect in effects:
        alone = counterpart.found[effect.choice]
        known = effect.choice in top1 and baseline in top1
        same = top1[effect.choice] - top1[baseline] if known else None
        said = "the supernet has no pair"
        if effect.n:
            said = sign_said(effect.raw.mean, effect.raw.interval, alone)
        rows.append(Compared(effect.choice, effect, alone, same, said))
    return Agreement(counterpart, tuple(rows), _order(rows, rng))


def sign_said(mean: float, interval: Interval | None, alone: Comparison) -> str:
    """What both intervals allow to say of the signs."""
    ours, theirs = _sign(interval), _sign(alone.difference.interval)
    if ours and theirs:
        return "same sign" if ours == theirs else "OPPOSITE signs"
    seen = "" if alone.detectable is None else f" (it could see {alone.detectable:.2f} points)"
    like = "like" if mean * alone.difference.mean > 0 else "unlike"
    if ours:
        return f"{like} signs, yet the stand-alone's interval holds 0{seen}"
    if theirs:
        return f"{like} signs, yet the supernet's interval holds 0"
    return f"neither shows a sign{seen}"


def _sign(interval: Interval | None) -> int:
    if interval is None or interval.low <= 0 <= interval.high:
        return 0
    return 1 if interval.low > 0 else -1


def _order(rows: Sequence[Compared], rng: np.random.Generator) -> Estimate | None:
    """Kendall's tau over the variants, the baseline at 0 in both."""
    known = [row for row in rows if row.effect.n and row.alone.difference.n]
    ours = [0.0, *(row.effect.raw.mean for row in known)]
    alone = [0.0, *(row.alone.difference.mean for row in known)]
    if len(ours) < 3 or np.ptp(ours) == 0 or np.ptp(alone) == 0:
        return None
    return kendall(ours, alone, rng)
